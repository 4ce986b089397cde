//! One client's connection: reads requests, runs a pipeline's worth of them in a session, waits until their replies may
//! be sent, and sends them.
//!
//! Guarantees: replies are in request order; a reply to a write leaves only when the durability mode allows; what a
//! client may make this side hold is bounded, read buffer and replies alike. A client that leaves while it waits is
//! noticed within half a second, whatever it waits for and however much it has sent ahead. A client that only closes its
//! own direction of the connection looks the same: it gets the replies that are ready within that time.

use super::frame::{Limits, Request};
use super::listener::Registry;
use super::requests::{End, Requests};
use crate::command::args::OwnedArgs;
use crate::command::client::{Blocked, Client, ClientCard};
use crate::command::host::{Host, Task, TaskReply};
use crate::command::reply::Out;
use crate::command::session::{Outcome, Session};
use crate::command::table::Call;
use crate::commit::committer::Committer;
use crate::commit::groups::GroupNumber;
use crate::config::AppendFsync;
use crate::error::{Error, Result};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Bytes read from a socket at a time, at least.
const READ_BYTES: usize = 16 << 10;
/// A larger empty buffer for requests is given up while a client is idle.
const IDLE_BUFFER_BYTES: usize = 1 << 10;
/// A larger buffer for requests is given up as soon as it is empty.
const LARGE_BUFFER_BYTES: usize = 1 << 20;
/// Replies held before they are sent although more requests are there.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// A larger empty buffer for replies is given up once they are sent.
const REPLY_BUFFER_BYTES: usize = 64 << 10;

/// Pause between two looks whether a client that waits has left.
const LEFT_LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often requests that have just come in may put off that the open group is written (measured on two cores: under
/// `always` fifty clients that send one command at a time are served a fifth faster; more gain nothing).
const GATHERED_ROUNDS_MAX: usize = 4;

/// What connections share.
pub struct Service {
    /// The commits' way.
    pub committer: Arc<Committer>,
    /// The node.
    pub host: Arc<dyn Host>,
    /// Who is connected.
    pub registry: Registry,
    /// Where tasks run that commands ask for: never on a thread that serves clients.
    pub runtime: Handle,
}

/// A thread that serves clients: its connections fill one group of commits in turn, and once all of them that had
/// something to do have run, the group is written.
pub struct Lane {
    /// What all lanes share.
    pub service: Arc<Service>,
    left_open: Notify,
    /// The connections that wait until a group is settled.
    waiting: Mutex<Waiting>,
    /// What a connection reads goes here first, so that one that waits holds no buffer. Never held across an await.
    arrivals: Mutex<Box<[u8]>>,
    /// The requests of the connection that runs. Never held across an await.
    requests: Mutex<Requests>,
}

/// Connections that wait until a group is settled.
#[derive(Default)]
struct Waiting {
    /// How often all of them were woken.
    round: u64,
    /// How many of these rounds were there to look whether a client has left.
    looks: u64,
    /// Each at most once in a round.
    wakers: Vec<Waker>,
}

impl Waiting {
    /// Begins a new round: those who waited in the one before are to be woken.
    fn next_round(&mut self, woken: &mut Vec<Waker>) {
        self.round += 1;
        std::mem::swap(&mut self.wakers, woken);
    }
}

impl Lane {
    /// A lane without connections.
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

    /// Sees to groups that connections leave open, for as long as the lane lives. A task that is woken runs behind those
    /// that were ready before it: here, behind the connections whose requests came in together.
    pub async fn write_groups(&self) {
        loop {
            self.left_open.notified().await;
            self.gather().await;
            self.service.committer.write_soon();
        }
    }

    /// Lets connections join the group whose requests come in while it is being filled: the more share it, the less
    /// writing it, or even syncing it, costs each of them.
    async fn gather(&self) {
        for _ in 0..GATHERED_ROUNDS_MAX {
            let waiting = self.waiting.lock().wakers.len();
            // Behind what the system has to tell by now.
            tokio::task::yield_now().await;
            if self.waiting.lock().wakers.len() == waiting {
                return;
            }
        }
    }

    /// Wakes the connections whose groups were settled, for as long as the lane lives: whichever thread wrote them, it
    /// has to wake each lane only once.
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

    /// Has the connections that wait for a group look whether their clients have left, for as long as the lane lives. A
    /// group is written in so little time, as a rule, that a timer for each would show.
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

    /// Returns when a group is settled, with an error inside if it could not be written; or with an error when the client
    /// has left before. Cancel-safe.
    async fn settled(&self, group: GroupNumber, stream: &TcpStream) -> std::io::Result<Result<()>> {
        // The round in which this connection waits, and the looks before its first.
        let mut since: Option<(u64, u64)> = None;
        poll_fn(|cx| {
            // Locked before the look, so that no change between the two is missed.
            let mut waiting = self.waiting.lock();
            if let Some(outcome) = self.service.committer.groups.outcome(group) {
                return Poll::Ready(Ok(outcome));
            }
            let (round, looks) = since.unwrap_or((0, waiting.looks));
            // A whole interval has passed then: a client that closes its direction gets replies that take less.
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

/// Serves one client until it leaves or breaks the protocol. Cancel-safe: the connection is closed between two requests
/// or while it waits; what it committed is in its group.
pub async fn serve(stream: TcpStream, client: Client, lane: &Lane, limits: Limits, card: &Mutex<ClientCard>) {
    let out = Out::new(client.protocol);
    let mut connection =
        Connection { stream, client, lane, limits, card, input: BytesMut::new(), request: Request::default(), out };
    if let Err(error) = connection.run().await {
        tracing::debug!(client = connection.client.id, %error, "a connection ended");
    }
}

struct Connection<'c> {
    stream: TcpStream,
    client: Client,
    lane: &'c Lane,
    limits: Limits,
    card: &'c Mutex<ClientCard>,
    input: BytesMut,
    request: Request,
    out: Out,
}

/// Why a batch of requests ended.
enum Batch {
    /// More bytes are needed.
    Incomplete(usize),
    /// The replies are many, or a task must be awaited: go on with what is buffered afterwards.
    Paused,
    /// The client broke the protocol; its error reply is written.
    Broken,
}

/// How long a client may neither send nor take anything; none: for ever.
fn idle_max(lane: &Lane) -> Option<Duration> {
    let seconds = lane.service.host.config().timeout.0;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// What moves bytes, unless that takes longer than the client may be idle.
async fn within(
    idle_max: Option<Duration>,
    moves: impl Future<Output = std::io::Result<usize>>,
) -> std::io::Result<usize> {
    let Some(idle_max) = idle_max else { return moves.await };
    tokio::time::timeout(idle_max, moves).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Returns at the deadline; never without one.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Whether the client closed the connection, or its direction of it. Nothing is read, so what it sent ahead stays in the
/// socket.
fn has_left(stream: &TcpStream) -> bool {
    let mut looked_at = [PollFd::new(stream, PollFlags::RDHUP)];
    let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    // A look that fails shows nothing; the next one may.
    let looked = rustix::event::poll(&mut looked_at, Some(&Timespec::default()));
    looked.is_ok() && looked_at[0].revents().intersects(ends)
}

/// Returns once the client has left. Cancel-safe.
async fn left(stream: &TcpStream) {
    loop {
        tokio::time::sleep(LEFT_LOOK_INTERVAL).await;
        if has_left(stream) {
            return;
        }
    }
}

/// What is waited for; an error if the client leaves before it comes.
async fn unless_left<T>(stream: &TcpStream, waits: impl Future<Output = T>) -> std::io::Result<T> {
    // Both arms only wait.
    tokio::select! {
        biased;
        done = waits => Ok(done),
        () = left(stream) => Err(std::io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Whether replies may be sent; if not, an error that takes their place was written, and the connection is to end.
type Acknowledged = std::result::Result<(), ()>;

impl Connection<'_> {
    async fn run(&mut self) -> std::io::Result<()> {
        loop {
            let (batch, outcome) = self.run_batch();
            if self.acknowledged(outcome).await?.is_err() {
                self.send().await?;
                return Ok(());
            }
            if let Some(task) = self.client.task.take() {
                self.send().await?;
                match self.run_task(task).await? {
                    Ok(TaskReply::Ok) => self.out.ok(),
                    Ok(TaskReply::Csn(csn)) => self.out.count(csn.0),
                    Ok(TaskReply::Count(count)) => self.out.count(count),
                    Ok(TaskReply::Encoded(reply)) => *self.out.buffer_mut() = reply,
                    Ok(TaskReply::Refused(error)) => self.out.error(&error),
                    Ok(TaskReply::Close) => return Ok(()),
                    Err(error) => self.out.error(&format!("ERR {error}")),
                }
            }
            if let Some(blocked) = self.client.blocked.take()
                && !self.wait_for_commits(blocked).await?
            {
                return Ok(());
            }
            self.send().await?;
            match batch {
                Batch::Broken => return Ok(()),
                _ if self.client.closes => return Ok(()),
                Batch::Paused => {}
                Batch::Incomplete(needed) => {
                    if !self.read(needed).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Runs a task; an error if the client leaves before it is done. A task that is only waited for ends then, too.
    async fn run_task(&self, task: Task) -> std::io::Result<Result<TaskReply>> {
        let host = Arc::clone(&self.lane.service.host);
        let outlives_client = task.outlives_client();
        let mut run = self.lane.service.runtime.spawn(async move { host.run(task).await });
        let done = unless_left(&self.stream, &mut run).await.inspect_err(|_| {
            if !outlives_client {
                run.abort();
            }
        })?;
        Ok(done.unwrap_or_else(|_| Err(Error::Refused { reason: "the node is stopping".into() })))
    }

    /// Runs the requests that are there.
    fn run_batch(&mut self) -> (Batch, Outcome) {
        let Self { client, lane, limits, input, request, out, .. } = self;
        let service = &lane.service;
        let mut session = Session::new(&service.committer, &*service.host, client, out);
        let mut requests = lane.requests.lock();
        let (mut consumed, mut broken) = (0, None);
        let batch = 'batch: loop {
            limits.is_authenticated = session.is_authenticated();
            let rest = &input[consumed..];
            let end = requests.read(rest, limits, request);
            let ready = requests.iter(rest);
            if ready.len() > 1 {
                session.expect(ready.clone().map(|(call, _)| call));
            }
            for (call, end_of_request) in ready {
                if session.run(call) || session.reply_bytes() >= REPLY_BYTES_MAX {
                    consumed += end_of_request;
                    requests.unread(end_of_request, request);
                    break 'batch Batch::Paused;
                }
            }
            consumed += requests.end();
            match end {
                End::Full => {}
                End::Incomplete(needed) => break Batch::Incomplete(needed),
                End::Broken(error) => {
                    broken = Some(error);
                    break Batch::Broken;
                }
            }
        };
        requests.release();
        drop(requests);
        let outcome = session.finish();
        if let Some(error) = broken {
            out.error(&error.to_string());
        }
        input.advance(consumed);
        if input.is_empty() && input.capacity() > LARGE_BUFFER_BYTES {
            // Before what it held is written: a large request is not held twice.
            *input = BytesMut::new();
        }
        self.update_card(outcome.now_us / 1000);
        (batch, outcome)
    }

    /// Waits until the replies may be sent; an error if the client leaves before.
    async fn acknowledged(&mut self, outcome: Outcome) -> std::io::Result<Acknowledged> {
        let Service { committer, host, .. } = &*self.lane.service;
        let mut depends_on = outcome.depends_on;
        if let Some(open) = outcome.open {
            self.lane.left_open.notify_one();
            if let Err(error) = self.lane.settled(open.group, &self.stream).await? {
                // The replies of the groups before are still to wait for what they promise.
                depends_on = open.fail(&committer.groups, &error, &mut self.out);
            }
        }
        let mut acknowledged = Ok(());
        if committer.syncer.mode() == AppendFsync::Always && !self.out.is_empty() {
            // A read may have seen a commit of another client that is not synced yet.
            let seen = committer.watermarks.committed.get();
            acknowledged = unless_left(&self.stream, committer.syncer.acknowledged(seen)).await?;
        }
        if let Some(csn) = depends_on.filter(|_| acknowledged.is_ok() && host.config().archive_ack) {
            acknowledged = unless_left(&self.stream, host.archive_acknowledged(csn)).await?;
        }
        Ok(acknowledged.map_err(|error| {
            self.out.buffer_mut().clear();
            self.out.error(&format!("MISCONF {error}"));
        }))
    }

    /// Runs a blocked read again whenever something was committed, until it has something to say or its time is over;
    /// false if the client left.
    async fn wait_for_commits(&mut self, mut blocked: Blocked) -> std::io::Result<bool> {
        self.send().await?;
        let deadline = blocked.timeout.map(|timeout| Instant::now() + timeout);
        let mut committed = self.lane.service.committer.watermarks.committed.subscribe();
        // What was committed since the read ran counts, too.
        committed.mark_changed();
        loop {
            // All arms only wait.
            tokio::select! {
                _ = committed.changed() => {}
                () = sleep_until(deadline) => {
                    self.out.null_array();
                    return Ok(true);
                }
                () = left(&self.stream) => return Ok(false),
            }
            let outcome = self.run_again(&blocked.request);
            if self.acknowledged(outcome).await?.is_err() {
                return Ok(true);
            }
            match self.client.blocked.take() {
                Some(again) => blocked.request = again.request,
                None => return Ok(true),
            }
        }
    }

    fn run_again(&mut self, request: &OwnedArgs) -> Outcome {
        let service = &*self.lane.service;
        let mut session = Session::new(&service.committer, &*service.host, &mut self.client, &mut self.out);
        session.run(Call::of(request.as_args()));
        session.finish()
    }

    /// Sends the replies. Nothing is read meanwhile: a client that does not take its replies can ask for no more.
    async fn send(&mut self) -> std::io::Result<()> {
        if !self.out.is_empty() {
            let mut sent = 0;
            while sent < self.out.len() {
                sent += within(idle_max(self.lane), self.stream.write(&self.out.as_bytes()[sent..])).await?;
            }
            let buffer = self.out.buffer_mut();
            buffer.clear();
            if buffer.capacity() > REPLY_BUFFER_BYTES {
                *buffer = BytesMut::new();
            }
        }
        Ok(())
    }

    /// Reads more; false at the end of the stream.
    async fn read(&mut self, needed: usize) -> std::io::Result<bool> {
        let Self { stream, input, lane, .. } = self;
        if !input.is_empty() {
            // What is missing was only announced: memory grows with what has come.
            input.reserve(needed.min(input.len()).max(READ_BYTES));
            return Ok(within(idle_max(lane), stream.read_buf(input)).await? > 0);
        }
        let arrives = poll_fn(|cx| {
            let mut arrivals = lane.arrivals.lock();
            let mut arrived = ReadBuf::new(&mut arrivals);
            let polled = pin!(&mut *stream).poll_read(cx, &mut arrived);
            if polled.is_pending() && input.capacity() > IDLE_BUFFER_BYTES {
                *input = BytesMut::new();
            }
            input.extend_from_slice(arrived.filled());
            polled.map_ok(|()| input.len())
        });
        Ok(within(idle_max(lane), arrives).await? > 0)
    }

    fn update_card(&self, seen_ms: u64) {
        let mut card = self.card.lock();
        card.seen_ms = seen_ms;
        card.last_command = self.client.last_command;
        card.queued = self.client.queue.as_ref().map(|queue| queue.commands.len());
        card.resp = if self.client.protocol == crate::command::reply::Protocol::Resp3 { 3 } else { 2 };
        // Most clients have no name, and to compare nothing with nothing is slow: the C library's memcmp makes a masked
        // load from where no memory is (measured: 0.15 us, a tenth of what a small command takes in user space).
        let has_name = !(card.name.is_empty() && self.client.name.is_empty());
        if has_name && card.name != self.client.name {
            card.name.clone_from(&self.client.name);
        }
    }
}
