//! An S3 server with faults on request: a proxy in front of the real server, for processes under test.
//!
//! ```text
//! faults     the faults, and the choice of the request that meets each
//! exchange   one request with its fault
//! ```
//!
//! The client signs requests for the proxy's own host and port. The proxy forwards requests unchanged, so the real
//! server accepts them. What the proxy itself stores (half an object) is stored as the anonymous identity of
//! [`Weed`](super::weed::Weed). All settings can be changed while requests are in progress.

mod exchange;
mod faults;

use super::archive::Archive;
use super::http;
use super::process::Environment;
use super::weed;
use faults::Schedule;
pub(crate) use faults::{Fault, Kind, Mix};
use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Time without a request after which a client connection is closed.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// Counts of the requests of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count {
    /// Number of requests.
    pub requests: u64,
    /// Number of requests that met a fault.
    pub faults: u64,
}

/// State shared by the connections.
struct Shared {
    backend_port: u16,
    schedule: Mutex<Schedule>,
    counts: Mutex<BTreeMap<Kind, Count>>,
    /// Keys of the objects other than pins stored through this proxy, in the order in which they were stored.
    stored: Mutex<Vec<String>>,
    /// Incremented by each [`FaultyS3::heal`]; hanging requests wait for it.
    healed: Mutex<u64>,
    healing: Condvar,
    stops: AtomicBool,
}

/// The running proxy; stops when dropped.
pub(crate) struct FaultyS3 {
    port: u16,
    shared: Arc<Shared>,
}

impl FaultyS3 {
    /// Starts a proxy in front of the S3 server of this test binary, without faults.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::in_front_of(weed::Weed::shared().s3_port())
    }

    /// Starts a proxy in front of an S3 server on a loopback port.
    #[track_caller]
    pub(crate) fn in_front_of(backend_port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            backend_port,
            schedule: Mutex::default(),
            counts: Mutex::default(),
            stored: Mutex::default(),
            healed: Mutex::default(),
            healing: Condvar::new(),
            stops: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { port, shared }
    }

    /// Returns the same archive, reached through the proxy.
    pub(crate) fn to(&self, direct: &Archive) -> Archive {
        Archive { url: direct.url.clone(), environment: self.environment() }
    }

    /// Returns the environment that a process needs to reach the store through the proxy.
    pub(crate) fn environment(&self) -> Environment {
        weed::environment(self.port)
    }

    /// Appends faults for the next requests of a kind, one for each request.
    #[track_caller]
    pub(crate) fn script(&self, kind: Kind, faults: impl IntoIterator<Item = Fault>) {
        self.shared.schedule.lock().unwrap().script(kind, faults);
    }

    /// Sets the fault of every following request of these kinds that no script covers.
    #[track_caller]
    pub(crate) fn always(&self, kinds: &[Kind], fault: Fault) {
        let mut schedule = self.shared.schedule.lock().unwrap();
        kinds.iter().for_each(|kind| schedule.stand(*kind, fault));
    }

    /// Sets random faults for the following requests.
    pub(crate) fn mix(&self, mix: Mix) {
        self.shared.schedule.lock().unwrap().set_mix(mix);
    }

    /// Takes the store down or up; while it is down, every connection is closed at its first use.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.shared.schedule.lock().unwrap().is_down = is_down;
    }

    /// Removes all faults and ends hanging requests.
    pub(crate) fn heal(&self) {
        *self.shared.schedule.lock().unwrap() = Schedule::default();
        *self.shared.healed.lock().unwrap() += 1;
        self.shared.healing.notify_all();
    }

    /// Returns the counts of a kind of request.
    pub(crate) fn count(&self, kind: Kind) -> Count {
        self.shared.counts.lock().unwrap().get(&kind).copied().unwrap_or_default()
    }

    /// Returns the number of requests of all kinds that met a fault.
    pub(crate) fn faults(&self) -> u64 {
        Kind::ALL.iter().map(|kind| self.count(*kind).faults).sum()
    }

    /// Returns the keys of the objects other than pins stored through this proxy, bucket included, oldest first.
    pub(crate) fn stored(&self) -> Vec<String> {
        self.shared.stored.lock().unwrap().clone()
    }
}

impl Drop for FaultyS3 {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::SeqCst);
        self.heal();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn next_fault(&self, kind: Kind) -> Fault {
        let fault = self.schedule.lock().unwrap().next(kind);
        let mut counts = self.counts.lock().unwrap();
        let count = counts.entry(kind).or_default();
        count.requests += 1;
        count.faults += u64::from(fault != Fault::None);
        fault
    }

    /// Waits for this long, or until the next [`FaultyS3::heal`].
    fn hang(&self, at_most: Duration) {
        let healed = self.healed.lock().unwrap();
        let before = *healed;
        drop(self.healing.wait_timeout_while(healed, at_most, |healed| *healed == before).unwrap());
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.stops.load(Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(shared);
        // Any I/O error closes the connection, which is all that a client can see.
        std::thread::spawn(move || drop(serve(client, &shared)));
    }
}

fn serve(client: TcpStream, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    client.set_read_timeout(Some(IDLE_MAX))?;
    let mut requests = BufReader::new(client.try_clone()?);
    while let Some(request) = http::read_request(&mut requests)? {
        let kind = Kind::of(&request);
        let exchange = exchange::Exchange { shared, client: &client, kind, request: &request };
        exchange.run(shared.next_fault(kind))?;
    }
    Ok(())
}
