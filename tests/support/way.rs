//! A way to a server that can be closed: what a network that goes away looks like to a process.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Passes connections on to a loopback port while it is open.
pub struct Way {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    is_open: AtomicBool,
    /// Both ends of every connection passed on.
    connections: Mutex<Vec<TcpStream>>,
}

impl Way {
    /// A closed way to `target`.
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared { is_open: AtomicBool::new(false), connections: Mutex::default() });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // A connection that cannot be passed on is closed by dropping it.
                let _ = own.pass_on(connection, target);
            }
        });
        Self { port, shared }
    }

    /// Lets connections through from now on.
    pub fn open(&self) {
        self.shared.is_open.store(true, Ordering::SeqCst);
    }

    /// Ends every connection and lets none through.
    pub fn close(&self) {
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
        // Asked with the list in hand: either closing sees the connection, or it sees the closing.
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
