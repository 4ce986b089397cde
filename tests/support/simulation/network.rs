//! The network between the primary and one replica: a TCP proxy that can be cut, silenced, delayed, or made to flip
//! bits.
//!
//! Bytes that arrive while the network is silent are delivered afterwards, as a network's queues deliver them.

use super::plan::LinkFault;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest time until a change of the fault takes effect.
const LOOK: Duration = Duration::from_millis(20);
/// While the network corrupts data, one in this many reads has a flipped bit.
const READS_PER_FLIP: u32 = 20;

struct Shared {
    /// The primary's replication port.
    target: AtomicU16,
    fault: Mutex<Option<LinkFault>>,
    ended: AtomicBool,
    seed: u64,
}

impl Shared {
    fn fault(&self) -> Option<LinkFault> {
        *self.fault.lock().unwrap()
    }

    fn is_cut(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.fault() == Some(LinkFault::Cut)
    }
}

/// The running proxy; stops when dropped.
pub(super) struct Network {
    /// Where the replica connects.
    pub port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Network {
    /// Starts a network to the primary whose replication port is `target`.
    pub(super) fn to(target: u16, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let (fault, ended) = (Mutex::default(), AtomicBool::default());
        let shared = Arc::new(Shared { target: target.into(), fault, ended, seed });
        let own = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&listener, &own));
        Self { port, shared, acceptor: Some(acceptor) }
    }

    /// Leads new connections to another primary; existing connections stay.
    pub(super) fn lead_to(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
    }

    /// Sets or removes the fault.
    pub(super) fn set(&self, fault: Option<LinkFault>) {
        *self.shared.fault.lock().unwrap() = fault;
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut connections = 0;
    for replica in listener.incoming().flatten() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        if shared.is_cut() {
            continue;
        }
        let Ok(primary) = TcpStream::connect(("127.0.0.1", shared.target.load(Ordering::SeqCst))) else { continue };
        connections += 1;
        for (from, to) in [(&replica, &primary), (&primary, &replica)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let (shared, rng) = (Arc::clone(shared), StdRng::seed_from_u64(shared.seed ^ connections));
            std::thread::spawn(move || pump(from, to, &shared, rng));
        }
    }
}

/// Forwards bytes until one side ends or the network is cut.
fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared, mut rng: StdRng) {
    let mut buffer = vec![0; 64 << 10];
    let _ = (from.set_read_timeout(Some(LOOK)), to.set_nodelay(true));
    while !shared.is_cut() {
        let length = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => break,
        };
        while shared.fault() == Some(LinkFault::Silent) && !shared.ended.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
        match shared.fault() {
            Some(LinkFault::Delay(delay)) => std::thread::sleep(delay),
            Some(LinkFault::Corrupt) if rng.random_ratio(1, READS_PER_FLIP) => {
                buffer[rng.random_range(0..length)] ^= 1 << rng.random_range(0..8);
            }
            _ => {}
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
