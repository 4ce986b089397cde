//! An intercepting proxy between a replica and its primary: forwards messages, changes them, or plays the primary
//! itself.
//!
//! Data from the replica to the primary is forwarded unchanged.

use super::wire::Frame;
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// The content that the replica receives in place of a message.
pub(crate) enum Sent {
    /// A message.
    Frame(Frame),
    /// Bytes that need not be a message.
    Bytes(Vec<u8>),
    /// The end of the connection.
    Close,
}

/// Returns what the replica receives for each message from the primary.
pub(crate) type Tamper = Box<dyn FnMut(Frame) -> Vec<Sent> + Send>;

/// Plays the primary on one connection.
pub(crate) type Fake = Arc<dyn Fn(&TcpStream) + Send + Sync>;

/// How the proxy treats connections.
pub(crate) enum Rule {
    /// Connections reach the primary.
    Honest,
    /// Connections reach the primary, and its messages are tampered with.
    Tamper(Tamper),
    /// Connections do not reach the primary; the proxy plays it.
    Fake(Fake),
    /// Connections are accepted, and nothing is sent.
    Silent,
}

struct Shared {
    primary: u16,
    rule: Mutex<Rule>,
    /// Both ends of all connections made under the current rule.
    open: Mutex<Vec<TcpStream>>,
    accepted: AtomicU64,
    stops: AtomicBool,
}

/// The running proxy; stops when dropped.
pub(crate) struct Proxy {
    /// Where the replica connects.
    pub port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Stands before the primary that listens for replicas on `repl_port`.
    pub(crate) fn start(repl_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            primary: repl_port,
            rule: Mutex::new(Rule::Honest),
            open: Mutex::default(),
            accepted: AtomicU64::new(0),
            stops: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if accepting.stops.load(Ordering::Relaxed) {
                    return;
                }
                accepting.accepted.fetch_add(1, Ordering::Relaxed);
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { port, shared }
    }

    /// Changes the rule and closes the connections made under the one before.
    pub(crate) fn set(&self, rule: Rule) {
        *self.shared.rule.lock().unwrap() = rule;
        self.cut();
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Connections accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.cut();
    }
}

impl Shared {
    fn serve(&self, replica: TcpStream) {
        let keep = |stream: &TcpStream| self.open.lock().unwrap().push(stream.try_clone().expect("a second handle"));
        keep(&replica);
        let fake = match &*self.rule.lock().unwrap() {
            Rule::Silent => return,
            Rule::Fake(fake) => Some(Arc::clone(fake)),
            Rule::Honest | Rule::Tamper(_) => None,
        };
        if let Some(fake) = fake {
            fake(&replica);
            let _ = replica.shutdown(Shutdown::Both);
            return;
        }
        let Ok(primary) = TcpStream::connect(("127.0.0.1", self.primary)) else { return };
        keep(&primary);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = std::io::copy(&mut &replica, &mut &primary);
                let _ = primary.shutdown(Shutdown::Both);
            });
            self.pass_on(&primary, &replica);
            let _ = replica.shutdown(Shutdown::Both);
            let _ = primary.shutdown(Shutdown::Both);
        });
    }

    /// Passes the primary's messages on until a connection ends.
    fn pass_on(&self, primary: &TcpStream, mut replica: &TcpStream) {
        while let Ok(frame) = Frame::receive(primary) {
            let sent = match &mut *self.rule.lock().unwrap() {
                Rule::Tamper(tamper) => tamper(frame),
                _ => vec![Sent::Frame(frame)],
            };
            for sent in sent {
                let passed = match sent {
                    Sent::Frame(frame) => frame.send(replica),
                    Sent::Bytes(bytes) => replica.write_all(&bytes),
                    Sent::Close => return,
                };
                if passed.is_err() {
                    return;
                }
            }
        }
    }
}
