//! A lane: a thread that serves clients, and the groups of commits that its connections share.

use super::registry::Registry;
use super::requests::Requests;
use crate::command::host::Host;
use crate::commit::committer::Committer;
use crate::commit::groups::GroupNumber;
use crate::error::Result;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Size in bytes of the buffer that a socket is read into, and the least space that is reserved for further bytes of a
/// request.
pub(super) const READ_BYTES: usize = 16 << 10;
/// Pause between two checks whether a waiting client has left.
pub(super) const LEFT_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often newly arrived requests may delay the writing of the open group. Measured on two cores: with this value,
/// fifty clients under `always` that send one command at a time are served a fifth faster; a higher value gains
/// nothing.
const GATHERED_ROUNDS_MAX: usize = 4;

/// The state that all connections share.
pub struct Service {
    /// Orders the commits and writes them.
    pub committer: Arc<Committer>,
    /// The node that the commands run on.
    pub host: Arc<dyn Host>,
    /// The connected clients.
    pub registry: Arc<Registry>,
    /// Runtime of the tasks that commands start. Tasks never run on a thread that serves clients.
    pub runtime: Handle,
}

/// A thread that serves clients. Its connections fill one group of commits in turn; the group is written when all
/// connections that had requests have run.
pub struct Lane {
    /// The state that all lanes share.
    pub service: Arc<Service>,
    /// Notified when a connection has left a group open.
    pub(super) left_open: Notify,
    /// Connections that wait until a group is settled.
    waiting: Mutex<Waiting>,
    /// Buffer that a connection reads into first, so that a waiting connection holds no buffer. Never locked across an
    /// await.
    pub(super) arrivals: Mutex<Box<[u8]>>,
    /// Requests of the connection that runs. Never locked across an await.
    pub(super) requests: Mutex<Requests>,
}

/// Connections that wait until a group is settled.
#[derive(Default)]
struct Waiting {
    /// Number of times that all waiting connections were woken.
    round: u64,
    /// Number of those rounds that [`Lane::look_for_left`] began.
    looks: u64,
    /// Wakers of the waiting connections; each connection adds at most one in a round.
    wakers: Vec<Waker>,
}

impl Waiting {
    /// Begins a new round: moves the wakers of the last round to `woken`, for the caller to wake.
    fn next_round(&mut self, woken: &mut Vec<Waker>) {
        self.round += 1;
        std::mem::swap(&mut self.wakers, woken);
    }
}

impl Lane {
    /// Makes a lane without connections.
    #[must_use]
    pub fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            left_open: Notify::new(),
            waiting: Mutex::default(),
            arrivals: Mutex::new(vec![0; READ_BYTES].into()),
            requests: Mutex::default(),
        }
    }

    /// Has the groups written that connections leave open, for as long as the lane lives. The runtime runs a woken task
    /// behind the tasks that were ready before it: here, behind the connections whose requests arrived together.
    pub async fn write_groups(&self) {
        loop {
            self.left_open.notified().await;
            self.gather().await;
            self.service.committer.write_soon();
        }
    }

    /// Waits while further connections join the open group. The more connections share a group, the less its writing
    /// and syncing costs each of them.
    async fn gather(&self) {
        for _ in 0..GATHERED_ROUNDS_MAX {
            let waiting = self.waiting.lock().wakers.len();
            // After the yield, the connections have run whose requests the system has reported.
            tokio::task::yield_now().await;
            if self.waiting.lock().wakers.len() == waiting {
                return;
            }
        }
    }

    /// Wakes the waiting connections when groups are settled, for as long as the lane lives. The thread that wrote the
    /// groups thus has to wake each lane only once.
    pub async fn follow_groups(&self) {
        let committer = &self.service.committer;
        let mut seen = committer.groups.settled_until();
        let mut woken = Vec::new();
        loop {
            seen = committer.groups.settled_above(seen).await;
            self.waiting.lock().next_round(&mut woken);
            woken.drain(..).for_each(Waker::wake);
            committer.write_soon();
        }
    }

    /// Has the connections that wait for a group check whether their clients have left, for as long as the lane lives.
    /// One timer for all connections is enough: a group is usually written so quickly that a timer for each connection
    /// would cost measurable time.
    pub async fn look_for_left(&self) {
        let mut woken = Vec::new();
        loop {
            tokio::time::sleep(LEFT_LOOK_INTERVAL).await;
            {
                let mut waiting = self.waiting.lock();
                waiting.looks += 1;
                waiting.next_round(&mut woken);
            }
            woken.drain(..).for_each(Waker::wake);
        }
    }

    /// Returns when `group` is settled; the inner result is an error if the group could not be written. Returns an
    /// error if the client leaves before that. Cancel-safe.
    pub(super) async fn settled(&self, group: GroupNumber, stream: &TcpStream) -> std::io::Result<Result<()>> {
        // The round in which this connection waits, and the value of `looks` before its first round.
        let mut since: Option<(u64, u64)> = None;
        poll_fn(|cx| {
            // The lock is taken before the outcome is read, so that no change between the two is missed.
            let mut waiting = self.waiting.lock();
            if let Some(outcome) = self.service.committer.groups.outcome(group) {
                return Poll::Ready(Ok(outcome));
            }
            let (round, looks) = since.unwrap_or((0, waiting.looks));
            // Two checks mean that a whole interval has passed. A client that closed only its sending direction gets
            // the replies that take less.
            if waiting.looks > looks + 1 && has_left(stream) {
                return Poll::Ready(Err(std::io::ErrorKind::ConnectionAborted.into()));
            }
            if since.is_none() || round != waiting.round {
                since = Some((waiting.round, looks));
                waiting.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

/// Reports whether the client closed the connection or its sending direction. Nothing is read, so the bytes that the
/// client sent ahead stay in the socket.
pub(super) fn has_left(stream: &TcpStream) -> bool {
    let mut looked_at = [PollFd::new(stream, PollFlags::RDHUP)];
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    // A failed poll says nothing about the client; the next one may.
    let looked = rustix::event::poll(&mut looked_at, Some(&Timespec::default()));
    looked.is_ok() && looked_at[0].revents().intersects(ends)
}
