//! One client's connection. It reads requests, runs a pipeline's worth of them in a session, waits until their replies
//! may be sent, and sends the replies.
//!
//! Guarantees: replies are in request order; the reply to a write is sent only when the durability mode allows; the
//! memory that a client can make the server hold is bounded, for the read buffer and for the replies. A client that
//! leaves while its request waits is noticed within half a second, whatever the request waits for and however much the
//! client has sent ahead. A client that closes only its sending direction cannot be told from one that left: it gets
//! the replies that are ready within that time.

use super::frame::{Limits, Request};
use super::lane::{LEFT_LOOK_INTERVAL, Lane, READ_BYTES, Service, has_left};
use super::requests::End;
use crate::command::args::OwnedArgs;
use crate::command::client::{Blocked, Client};
use crate::command::client_card::ClientCard;
use crate::command::host::{Task, TaskReply};
use crate::command::reply::Out;
use crate::command::session::{Outcome, Session};
use crate::command::table::TABLE;
use crate::config::AppendFsync;
use crate::error::{Error, Result};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Bytes of the largest empty request buffer that a connection keeps while its client is idle.
const IDLE_BUFFER_BYTES: usize = 1 << 10;
/// Bytes of the largest request buffer that a connection keeps when the buffer is empty.
const LARGE_BUFFER_BYTES: usize = 1 << 20;
/// Bytes of replies at which the replies are sent although the read buffer holds more requests.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// Bytes of the largest reply buffer that a connection keeps after the replies were sent.
const REPLY_BUFFER_BYTES: usize = 64 << 10;

/// Serves one client until it leaves or breaks the protocol. Cancel-safe: the connection is closed between two requests
/// or during a wait, and its commits are already in their group.
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
    /// The next request is incomplete: at least so many bytes are missing.
    Incomplete(usize),
    /// The replies are many, or a task must be awaited. The requests left in the buffer run afterwards.
    Paused,
    /// The client broke the protocol, and the error reply is in the reply buffer.
    Broken,
}

/// Returns how long a client may neither send nor take any byte. `None` means without limit.
fn idle_max(lane: &Lane) -> Option<Duration> {
    let seconds = lane.service.host.config().timeout.0;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Awaits `moves`, a read or a write of the socket. Returns an error if it takes longer than the client may be idle.
async fn within(
    idle_max: Option<Duration>,
    moves: impl Future<Output = std::io::Result<usize>>,
) -> std::io::Result<usize> {
    let Some(idle_max) = idle_max else { return moves.await };
    tokio::time::timeout(idle_max, moves).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Returns at the deadline. Without a deadline it never returns.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
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

/// Awaits `waits` and returns its output. Returns an error if the client leaves first.
async fn unless_left<T>(stream: &TcpStream, waits: impl Future<Output = T>) -> std::io::Result<T> {
    // Cancel-safe: both arms only wait.
    tokio::select! {
        biased;
        done = waits => Ok(done),
        () = left(stream) => Err(std::io::ErrorKind::ConnectionAborted.into()),
    }
}

/// `Ok` if the replies may be sent. `Err` if an error reply has replaced the replies and the connection must end.
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
                    Err(error) => self.out.error(&format!("{} {error}", error.kind().reply_code())),
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

    /// Runs a task and returns its result. Returns an error if the client leaves first; a task that must not outlive
    /// its client is aborted then.
    async fn run_task(&self, task: Task) -> std::io::Result<Result<TaskReply>> {
        let host = Arc::clone(&self.lane.service.host);
        let outlives_client = task.outlives_client();
        let mut run = self.lane.service.runtime.spawn(async move { host.run(task).await });
        let done = unless_left(&self.stream, &mut run).await.inspect_err(|_| {
            if !outlives_client {
                run.abort();
            }
        })?;
        Ok(done.unwrap_or_else(|error| Err(Error::of_task(error))))
    }

    /// Runs the complete requests in the read buffer.
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
            // The buffer is freed before its requests are written to the logs, so that a large request is not in memory
            // twice.
            *input = BytesMut::new();
        }
        self.update_card(outcome.now_us / 1000);
        (batch, outcome)
    }

    /// Waits until the replies may be sent. Returns an error if the client leaves first.
    async fn acknowledged(&mut self, outcome: Outcome) -> std::io::Result<Acknowledged> {
        let Service { committer, host, .. } = &*self.lane.service;
        let mut depends_on = outcome.depends_on;
        if let Some(open) = outcome.open {
            self.lane.left_open.notify_one();
            if let Err(error) = self.lane.settled(open.group, &self.stream).await? {
                // The replies that remain depend on earlier groups, and must wait for the durability that those groups
                // promise.
                depends_on = open.fail(&committer.groups, &error, &mut self.out);
            }
        }
        let mut acknowledged = Ok(());
        if committer.syncer.mode() == AppendFsync::Always && !self.out.is_empty() {
            // A read may have seen a commit of another client that is not synced.
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

    /// Runs a blocked read after each commit until the read has a reply or its timeout passes. Returns false if the
    /// client left.
    async fn wait_for_commits(&mut self, mut blocked: Blocked) -> std::io::Result<bool> {
        self.send().await?;
        let deadline = blocked.timeout.map(|timeout| Instant::now() + timeout);
        let mut committed = self.lane.service.committer.watermarks.committed.subscribe();
        // Commits made after the read ran and before the subscription count, too.
        committed.mark_changed();
        loop {
            // Cancel-safe: all arms only wait.
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
        session.run(TABLE.call(request.as_args()));
        session.finish()
    }

    /// Sends the replies. Nothing is read in the meantime, so a client that does not take its replies cannot send more
    /// requests.
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

    /// Reads more bytes. Returns false at the end of the stream.
    async fn read(&mut self, needed: usize) -> std::io::Result<bool> {
        let Self { stream, input, lane, .. } = self;
        if !input.is_empty() {
            // The missing bytes were only announced, so the reservation grows with the bytes that have arrived.
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
        card.queued = self.client.queue.as_ref().map(|queue| queue.requests.len());
        card.resp = if self.client.protocol == crate::command::reply::Protocol::Resp3 { 3 } else { 2 };
        // Most clients have no name, and comparing two empty names is slow: the C library's memcmp makes a masked load
        // from an address without memory (measured: 0.15 us, a tenth of what a small command takes in user space).
        let has_name = !(card.name.is_empty() && self.client.name.is_empty());
        if has_name && card.name != self.client.name {
            card.name.clone_from(&self.client.name);
        }
    }
}
