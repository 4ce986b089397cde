//! A forwarder to a server that can be closed, as a network that goes down.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Forwards connections to a loopback port while it is open.
pub(crate) struct Way {
    /// Port that it listens on.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    is_open: AtomicBool,
    /// Both ends of every forwarded connection.
    connections: Mutex<Vec<TcpStream>>,
}

impl Way {
    /// Creates a closed forwarder to `target`.
    pub(crate) fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared { is_open: AtomicBool::new(false), connections: Mutex::default() });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // A connection that cannot be forwarded is closed by dropping it.
                let _ = own.pass_on(connection, target);
            }
        });
        Self { port, shared }
    }

    /// Opens the forwarder.
    pub(crate) fn open(&self) {
        self.shared.is_open.store(true, Ordering::SeqCst);
    }

    /// Closes every connection and accepts none.
    pub(crate) fn close(&self) {
        self.shared.is_open.store(false, Ordering::SeqCst);
        for end in self.shared.connections.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn pass_on(&self, client: TcpStream, target: u16) -> io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", target))?;
        let mut connections = self.connections.lock().unwrap();
        // Checked while the list is locked: either `close` sees this connection, or this check sees that it is closed.
        if !self.is_open.load(Ordering::SeqCst) {
            return Ok(());
        }
        for (from, to) in [(&client, &server), (&server, &client)] {
            connections.push(from.try_clone()?);
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            std::thread::spawn(move || {
                let _ = io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        Ok(())
    }
}
