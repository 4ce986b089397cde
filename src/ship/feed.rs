//! Feeds: one for each replica that is connected to this node.
//!
//! A feed cuts chunks of its own from the commits since its last chunk: at once if the link is idle (latency), every
//! few milliseconds if the link is busy, and full ones if the replica is behind (throughput).
//!
//! Guarantees: each feed has its own cursor, a deadline for each send, and a bound on unacknowledged bytes. It pins
//! nothing, and no write waits for it. A replica that is behind the ring gets commits from the logs. A replica that is
//! behind the logs is sent to the archive; if there is no archive, it is refused and told to start from an empty
//! directory, to get a base.

use super::admission::{Admission, admit};
use super::feed_host::FeedHost;
use super::message::{self, Ack, Challenge, GoToArchive, Heartbeat, Hello, Message, Publishing, Refuse, Resume};
use super::source::CommitSource;
use super::tail::Slice;
use super::wire::{Receiver, Sender, Sending};
use crate::chunk::{ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::clock::Moment;
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn};
use crate::error::{Error, Result};
use crate::log::reader::LogCursor;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

/// Longest time that the sending of one message, or of a piece of one, may take.
pub const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// Longest time until a replica must have introduced itself.
const INTRODUCTION_DEADLINE: Duration = Duration::from_secs(5);
/// Connections that may be introducing themselves at a time. One more connection closes the oldest of them.
const INTRODUCING_MAX: usize = 128;
/// Time between two heartbeats. On an idle link, the state that the replica knows of the primary is at most this old.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
/// Longest silence of a replica, which acknowledges at least every heartbeat.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Shortest time between two chunks while the link keeps up. Commits gather in between, because a chunk costs both
/// nodes as much as some dozens of commits. The first chunk after a pause is sent at once.
const CHUNK_INTERVAL: Duration = Duration::from_millis(2);
/// Limit of bytes that are sent and not acknowledged.
const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// Bytes of effects up to which a chunk is encoded on the feed's own task. Encoding such a chunk takes less time than
/// passes between two heartbeats.
const ENCODED_AT_ONCE_BYTES_MAX: usize = 2 * RAW_BYTES_MAX;
/// Replicas that may be connected at a time.
const FEEDS_MAX: usize = 32;

/// A connected replica, for INFO, ROLE and WAIT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedStatus {
    /// IP address of the replica.
    pub address: String,
    /// Port of the replica for clients.
    pub port: u16,
    /// Node number of the replica.
    pub node: String,
    /// State in Redis' words: `send_bulk` while the replica gets a base, `online` otherwise.
    pub state: &'static str,
    /// Last commit sent.
    pub sent: Csn,
    /// The replica's last acknowledgement.
    pub ack: Ack,
    /// Time of the last commit that the replica had when it connected; 0 if it had none.
    pub had_time: CommitTime,
    /// When the replica's last message arrived.
    pub seen: Moment,
    /// Bytes sent and not acknowledged.
    pub in_flight_bytes: usize,
    /// Lowest csn of the base that the replica is asked to publish; 0 if none is asked for.
    pub wants_base: Csn,
}

/// All feeds of a node.
pub struct Feeds {
    host: Arc<dyn FeedHost>,
    source: CommitSource,
    committed: watch::Receiver<Csn>,
    durable: watch::Receiver<Csn>,
    feeds: Mutex<BTreeMap<u64, FeedStatus>>,
    /// Connections that have not introduced themselves, oldest first. A connection that is notified must close.
    introducing: Mutex<VecDeque<(u64, Arc<Notify>)>>,
    next_id: AtomicU64,
}

impl Feeds {
    /// Makes the feeds over `source`. Changes of the watermarks `committed` and `durable` wake them.
    #[must_use]
    pub fn new(
        host: Arc<dyn FeedHost>,
        source: CommitSource,
        committed: watch::Receiver<Csn>,
        durable: watch::Receiver<Csn>,
    ) -> Self {
        Self {
            host,
            source,
            committed,
            durable,
            feeds: Mutex::default(),
            introducing: Mutex::default(),
            next_id: AtomicU64::new(1),
        }
    }

    /// Returns the connected replicas.
    #[must_use]
    pub fn status(&self) -> Vec<FeedStatus> {
        self.feeds.lock().values().cloned().collect()
    }

    /// Asks one replica, by its node number, for a base that is not below a csn. All other requests end; `None` ends
    /// all.
    pub fn ask_for_base(&self, asked: Option<(String, Csn)>) {
        for status in self.feeds.lock().values_mut() {
            let own = asked.as_ref().filter(|(node, _)| *node == status.node);
            status.wants_base = own.map_or(Csn::ZERO, |(_, csn)| *csn);
        }
    }

    /// Serves one connection until it ends.
    pub async fn serve(&self, stream: TcpStream) {
        let address = stream.peer_addr().map_or_else(|_| "?".to_owned(), |address| address.ip().to_string());
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        match self.serve_replica(stream, &address, id).await {
            Ok(()) => tracing::info!(address, "a replica disconnected"),
            Err(error) => tracing::warn!(address, %error, "a feed ended"),
        }
        self.feeds.lock().remove(&id);
    }

    async fn serve_replica(&self, stream: TcpStream, address: &str, id: u64) -> Result<()> {
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (mut receiver, mut sender) = (Receiver::from_replica(reader, address), Sender::new(writer, address));
        let (challenge, hello) = self.introduce(&mut receiver, &mut sender, address, id).await?;
        let admission = match tokio::task::block_in_place(|| admit(&*self.host, &self.source, &hello, &challenge))? {
            Admission::Newer => Admission::Refuse(self.host.newer_epoch(&hello).await?),
            Admission::Resume => self.enter(id, status(address, &hello, "online"), Admission::Resume),
            Admission::Base => self.enter(id, status(address, &hello, "send_bulk"), Admission::Base),
            refuse @ Admission::Refuse(_) => refuse,
        };
        match admission {
            Admission::Refuse(refuse) => {
                tracing::warn!(address, node = hello.node, reason = refuse.reason, "a replica was refused");
                return deadline(address, sender.send(&Message::Refuse(refuse))).await;
            }
            Admission::Base => return self.host.send_base(&hello, &mut sender).await,
            Admission::Resume | Admission::Newer => {}
        }
        tracing::info!(address, node = hello.node, csn = hello.csn.0, epoch = hello.epoch.0, "a replica resumes");
        let cluster = self.host.cluster();
        let proof = message::primary_proof(&self.host.secret(), &hello, cluster);
        let resume = Resume { cluster, history: self.host.history(), proof };
        deadline(address, sender.send(&Message::Resume(resume))).await?;
        let mut feed = Feed {
            feeds: self,
            id,
            address,
            sender,
            cursor: LogCursor { csn: hello.csn, ..LogCursor::default() },
            encoder: Encoder::new(Profile::Link),
            link: ChunkLink { epoch: hello.epoch, hash_before: hello.hash, ..ChunkLink::default() },
            ready: VecDeque::new(),
            heard: Instant::now(),
            in_flight: VecDeque::new(),
            next_chunk_at: Instant::now(),
        };
        feed.run(receiver).await
    }

    /// Sends the challenge and waits for the replica's hello.
    async fn introduce(
        &self,
        receiver: &mut Receiver<OwnedReadHalf>,
        sender: &mut Sender<OwnedWriteHalf>,
        address: &str,
        id: u64,
    ) -> Result<(Challenge, Hello)> {
        let makes_room = Arc::new(Notify::new());
        {
            let mut introducing = self.introducing.lock();
            introducing.push_back((id, Arc::clone(&makes_room)));
            if introducing.len() > INTRODUCING_MAX {
                introducing.front().expect("there are many").1.notify_one();
            }
        }
        let broken = |detail: String| Error::Protocol { peer: address.to_owned(), detail };
        let exchange = async {
            let challenge = Challenge { version: message::VERSION, nonce: ClusterId::generate()?.to_string() };
            sender.send(&Message::Challenge(challenge.clone())).await?;
            match receiver.receive().await? {
                Some(Message::Hello(hello)) => Ok((challenge, hello)),
                Some(other) => Err(broken(format!("expected hello, got {other:?}"))),
                None => Err(broken("closed the connection before it introduced itself".into())),
            }
        };
        // Cancel-safe: unless a hello came, the connection is closed, whichever arm ends first.
        let introduced = tokio::select! {
            introduced = timeout(INTRODUCTION_DEADLINE, exchange) => introduced.unwrap_or_else(|_| {
                Err(broken(format!("did not introduce itself within {} s", INTRODUCTION_DEADLINE.as_secs())))
            }),
            () = makes_room.notified() => {
                Err(broken(format!("did not introduce itself before {INTRODUCING_MAX} others connected")))
            }
        };
        self.introducing.lock().retain(|(other, _)| *other != id);
        introduced
    }

    /// Adds a replica to the connected ones, or refuses it if there is no room.
    fn enter(&self, id: u64, status: FeedStatus, admission: Admission) -> Admission {
        let mut feeds = self.feeds.lock();
        if feeds.len() >= FEEDS_MAX {
            let reason =
                format!("{FEEDS_MAX} replicas are connected, and a primary accepts no more. The replica tries again");
            return Admission::Refuse(Refuse { is_final: false, reason, newer_epoch: None });
        }
        feeds.insert(id, status);
        admission
    }
}

fn status(address: &str, hello: &Hello, state: &'static str) -> FeedStatus {
    FeedStatus {
        address: address.to_owned(),
        port: hello.port,
        node: hello.node.clone(),
        state,
        sent: hello.csn,
        ack: Ack { applied: hello.csn, durable: hello.csn, publishing: Publishing::default() },
        had_time: hello.time,
        seen: Moment::now(),
        in_flight_bytes: 0,
        wants_base: Csn::ZERO,
    }
}

/// Waits for `what`, at most [`SEND_DEADLINE`]. After that the peer counts as silent, which is an error.
pub async fn deadline<T>(peer: &str, what: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(SEND_DEADLINE, what).await {
        Ok(done) => done,
        Err(_) => Err(Error::Protocol {
            peer: peer.to_owned(),
            detail: format!("was silent for {} s", SEND_DEADLINE.as_secs()),
        }),
    }
}

/// The feed of one connected replica.
struct Feed<'f> {
    feeds: &'f Feeds,
    id: u64,
    address: &'f str,
    sender: Sender<OwnedWriteHalf>,
    /// Position up to which commits were sent to this replica.
    cursor: LogCursor,
    encoder: Encoder,
    link: ChunkLink,
    /// Slices that were read and not sent.
    ready: VecDeque<Slice>,
    /// When the last acknowledgement arrived.
    heard: Instant,
    /// Last csn and bytes of each chunk that was sent and not acknowledged.
    in_flight: VecDeque<(Csn, usize)>,
    /// When more commits may be read, once all slices in `ready` are sent.
    next_chunk_at: Instant,
}

impl Feed<'_> {
    async fn run(&mut self, mut receiver: Receiver<OwnedReadHalf>) -> Result<()> {
        let mut committed = self.feeds.committed.clone();
        let mut durable = self.feeds.durable.clone();
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        loop {
            let has_room = self.in_flight_bytes() < IN_FLIGHT_BYTES_MAX;
            let is_due = !self.ready.is_empty() || Instant::now() >= self.next_chunk_at;
            let may_send = has_room && is_due;
            if may_send && self.send_chunk(&mut receiver).await? {
                continue;
            }
            // Cancel-safe: all arms wait, or read whole messages.
            tokio::select! {
                message = receiver.receive() => match message? {
                    Some(message) => self.take(message)?,
                    None => return Ok(()),
                },
                _ = committed.changed(), if may_send => {}
                _ = durable.changed(), if may_send => {}
                () = tokio::time::sleep_until(self.next_chunk_at), if has_room && !is_due => {}
                _ = heartbeat.tick() => {
                    if self.heard.elapsed() > SILENCE_MAX {
                        return Err(Error::Protocol { peer: self.address.into(), detail: "stopped acknowledging".into() });
                    }
                    self.send_heartbeat().await?;
                }
            }
        }
    }

    fn in_flight_bytes(&self) -> usize {
        self.in_flight.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Sends the next chunk. Returns false if there is nothing to send. Acknowledgements that arrive meanwhile are
    /// taken, because they make room for more bytes in flight.
    async fn send_chunk(&mut self, receiver: &mut Receiver<OwnedReadHalf>) -> Result<bool> {
        if self.ready.is_empty() {
            let (source, cursor) = (self.feeds.source.clone(), self.cursor);
            let read = if source.is_in_ring(cursor.csn) {
                tokio::task::block_in_place(|| source.read(cursor))
            } else {
                self.meanwhile_alive(move || source.read(cursor)).await?
            };
            match read {
                Ok(slices) => self.ready.extend(slices),
                Err(error) if matches!(error, Error::Gap { .. }) => return self.give_up(error).await,
                Err(error) => return Err(error),
            }
        }
        let Some(slice) = self.ready.pop_front() else { return Ok(false) };
        let (last, slice_end) = (slice.last().expect("slices are never empty"), slice.wal_after);
        slice.commits[0].require_continues(self.link.hash_before, "a commit to be sent to a replica")?;
        self.link.epoch = self.feeds.host.history().last().expect("a history is never empty").epoch;
        (self.link.wal_first, self.link.wal_last) = (slice.wal_before, slice.wal_after);
        let chunk = if slice.bytes() <= ENCODED_AT_ONCE_BYTES_MAX {
            tokio::task::block_in_place(|| self.encoder.encode(slice.commits.iter(), self.link))
        } else {
            let (mut encoder, link) = (Encoder::new(Profile::Link), self.link);
            self.meanwhile_alive(move || encoder.encode(slice.commits.iter(), link)).await?
        };
        self.link.hash_before = chunk.header().hash_after;
        let bytes = chunk.bytes().clone();
        self.in_flight.push_back((last, bytes.len()));
        let mut sending = Sending::of(&Message::Chunk(bytes));
        while deadline(self.address, self.sender.send_piece(&mut sending)).await? {
            self.take_arrived(receiver)?;
        }
        self.cursor = LogCursor { csn: last, wal_seq: slice_end };
        self.take_arrived(receiver)?;
        self.next_chunk_at = Instant::now() + CHUNK_INTERVAL;
        let in_flight_bytes = self.in_flight_bytes();
        self.note(|status| (status.sent, status.in_flight_bytes) = (last, in_flight_bytes));
        Ok(true)
    }

    /// Runs work that may take long on another thread, and sends heartbeats meanwhile.
    async fn meanwhile_alive<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let mut work = tokio::task::spawn_blocking(work);
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        loop {
            // Cancel-safe: both arms only wait.
            tokio::select! {
                done = &mut work => return done.map_err(Error::of_task),
                _ = heartbeat.tick() => self.send_heartbeat().await?,
            }
        }
    }

    /// Takes the messages that have arrived.
    fn take_arrived(&mut self, receiver: &mut Receiver<OwnedReadHalf>) -> Result<()> {
        while let Some(Some(message)) = futures::FutureExt::now_or_never(receiver.receive()).transpose()? {
            self.take(message)?;
        }
        Ok(())
    }

    /// Ends the feed of a replica that is behind the logs: sends it to the archive, or refuses it.
    async fn give_up(&mut self, error: Error) -> Result<bool> {
        let message = match self.feeds.host.archived() {
            Some(archived) => Message::GoToArchive(GoToArchive { archived }),
            None => Message::Refuse(Refuse {
                is_final: true,
                reason: format!(
                    "{error}, and the primary has no archive. Start the replica from an empty directory, so that it \
                     gets a base"
                ),
                newer_epoch: None,
            }),
        };
        deadline(self.address, self.sender.send(&message)).await?;
        Err(error)
    }

    async fn send_heartbeat(&mut self) -> Result<()> {
        let heartbeat = Heartbeat {
            epoch: self.feeds.host.history().last().expect("a history is never empty").epoch,
            committed: self.feeds.source.shippable(),
            sent: self.cursor.csn,
            hash: self.link.hash_before,
            archives: self.feeds.host.archived().is_some(),
            archived: self.feeds.host.archived().unwrap_or_default(),
            time: self.feeds.source.now(),
            wants_base: self.feeds.feeds.lock().get(&self.id).map(|status| status.wants_base).unwrap_or_default(),
        };
        deadline(self.address, self.sender.send(&Message::Heartbeat(heartbeat))).await
    }

    fn take(&mut self, message: Message) -> Result<()> {
        let Message::Ack(ack) = message else {
            return Err(Error::Protocol {
                peer: self.address.into(),
                detail: format!("expected an ack, got {message:?}"),
            });
        };
        self.heard = Instant::now();
        let sent = self.cursor.csn;
        if ack.applied.max(ack.durable) > sent {
            let detail = format!(
                "acknowledges csn {} as applied and {} as durable, but {sent} was sent last",
                ack.applied, ack.durable
            );
            return Err(Error::Protocol { peer: self.address.into(), detail });
        }
        while self.in_flight.front().is_some_and(|(last, _)| *last <= ack.applied) {
            self.in_flight.pop_front();
        }
        let in_flight_bytes = self.in_flight_bytes();
        self.note(|status| {
            status.ack = ack;
            status.seen = Moment::now();
            status.in_flight_bytes = in_flight_bytes;
        });
        Ok(())
    }

    fn note(&self, change: impl FnOnce(&mut FeedStatus)) {
        if let Some(status) = self.feeds.feeds.lock().get_mut(&self.id) {
            change(status);
        }
    }
}
