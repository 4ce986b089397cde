//! The link to the primary: connects, introduces the replica, follows the primary, and reconnects after every failure.
//!
//! Guarantees: commits are applied in order, from the primary's stream or, if the primary does not hold the next
//! commits, from the archive. Commits acknowledged as applied were applied, and commits acknowledged as durable were
//! synced.

use crate::follow::Follower;
use crate::lag::Lag;
use crate::primary_address::PrimaryAddress;
use crate::probe;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use walferry::archive::epochs::EpochTree;
use walferry::archive::lineage::Lineage;
use walferry::background;
use walferry::clock::{self, Moment};
use walferry::cluster::ClusterId;
use walferry::csn::CommitTime;
use walferry::directory::Identity;
use walferry::error::{Error, Result};
use walferry::history::catch_up::CatchUp;
use walferry::node::bases::Bases;
use walferry::node::core::Core;
use walferry::node::roles::{LinkStatus, ReplicaLink};
use walferry::position::Position;
use walferry::ship::message::{self, Ack, BaseBegin, Challenge, Heartbeat, Hello, Message, Resume};
use walferry::ship::wire::{Receiver, Sender};

/// Longest duration of connecting together with sending the introduction, and of sending one acknowledgement.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Time after which a silent primary is given up; a primary sends a heartbeat every 100 ms.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Longest silence before the answer to the introduction. While the primary cuts a base, it sends heartbeats.
const ANSWER_SILENCE_MAX: Duration = Duration::from_secs(30);
/// Largest number of characters kept of a failure, because the peer may have written the text.
const FAILURE_CHARS_MAX: usize = 500;
/// Pause after the first of several failures in a row; it doubles with each failure up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Longest time between two acknowledgements.
const ACK_INTERVAL: Duration = Duration::from_millis(50);
/// Largest number of chunks received and not yet applied.
const CHUNKS_WAITING_MAX: usize = 4;

/// Why a connection ended without an error.
#[derive(Debug)]
enum Ended {
    /// The link was asked to stop.
    Stopped,
    /// The next commits are in the archive.
    GoToArchive,
}

/// The link of a replica to its primary.
pub(crate) struct Link {
    me: Weak<Link>,
    core: Weak<Core>,
    bases: Weak<Bases>,
    primary: PrimaryAddress,
    /// The status without the fields that `lag` provides.
    status: Mutex<LinkStatus>,
    lag: Mutex<Lag>,
    stop: watch::Sender<bool>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Link {
    /// Starts following `primary`.
    pub(crate) fn start(core: &Arc<Core>, bases: &Arc<Bases>, primary: PrimaryAddress) -> Arc<Self> {
        let status = LinkStatus {
            host: primary.host.clone(),
            port: primary.port,
            state: "connect",
            source: "none",
            ..LinkStatus::default()
        };
        let link = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            core: Arc::downgrade(core),
            bases: Arc::downgrade(bases),
            primary,
            status: Mutex::new(status),
            lag: Mutex::new(Lag::new()),
            stop: watch::Sender::new(false),
            task: tokio::sync::Mutex::default(),
        });
        *link.task.try_lock().expect("no other reference to the link exists") = link.spawn();
        link
    }

    fn spawn(&self) -> Option<JoinHandle<()>> {
        let (link, core, bases) = (self.me.upgrade()?, self.core.upgrade()?, self.bases.upgrade()?);
        let session = Session { link, core, bases, primary: self.primary.clone(), stopping: self.stop.subscribe() };
        Some(tokio::spawn(session.run()))
    }

    fn note(&self, change: impl FnOnce(&mut LinkStatus)) {
        change(&mut self.status.lock());
    }
}

impl ReplicaLink for Link {
    fn status(&self) -> LinkStatus {
        let mut status = self.status.lock().clone();
        if let Some(core) = self.core.upgrade() {
            let (csn, time) = (core.committer.watermarks.committed.get(), core.committer.committed_time());
            let (is_connected, wall) = (status.state == "connected", CommitTime(clock::now_micros()));
            let lag = self.lag.lock();
            status.heard = lag.heard();
            status.lag_ms = lag.at(Moment::now(), (csn, time), is_connected, wall).as_micros().div_ceil(1000) as u64;
        }
        status
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        async move {
            self.stop.send_replace(true);
            if let Some(task) = self.task.lock().await.take() {
                let _ = task.await;
            }
            self.note(|status| status.state = "connect");
        }
        .boxed()
    }

    fn resume(&self) -> BoxFuture<'_, ()> {
        async move {
            let mut task = self.task.lock().await;
            if task.is_none() {
                self.stop.send_replace(false);
                *task = self.spawn();
            }
        }
        .boxed()
    }
}

/// The work of a link between its start and its stop: one connection after another.
struct Session {
    link: Arc<Link>,
    core: Arc<Core>,
    bases: Arc<Bases>,
    primary: PrimaryAddress,
    stopping: watch::Receiver<bool>,
}

impl Session {
    async fn run(mut self) {
        let mut pause = RETRY_FIRST;
        loop {
            let before = self.core.committer.watermarks.committed.get();
            let ended = self.connect_and_follow().await;
            if self.core.committer.watermarks.committed.get() > before {
                pause = RETRY_FIRST;
            }
            self.link.note(|status| status.state = "connect");
            let failure = match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::GoToArchive) => {
                    pause = RETRY_FIRST;
                    self.catch_up_from_archive().await.err()
                }
                Err(error) => Some(error),
            };
            match failure {
                None => pause = RETRY_FIRST,
                Some(error) => self.note_failure(&error),
            }
            // Cancel-safe: both arms only wait.
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_MAX),
                () = stopped(&mut self.stopping) => return,
            }
        }
    }

    fn note_failure(&self, error: &Error) {
        let printable = |char: char| if char.is_control() { ' ' } else { char };
        let message: String = error.to_string().chars().map(printable).take(FAILURE_CHARS_MAX).collect();
        self.link.note(|status| {
            if status.last_error != message {
                tracing::warn!(primary = %self.primary, error = message, "the link to the primary is down; the \
                    connection is retried");
            }
            status.last_error = message;
        });
    }

    async fn connect_and_follow(&mut self) -> Result<Ended> {
        let identity = self.core.identity();
        let position = self.core.committer.position();
        let hello = |challenge: &Challenge, nonce| hello(&identity, &self.core, challenge, nonce, position);
        let (config, mut stopping) = (self.core.config(), self.stopping.clone());
        // Cancel-safe: dropping the connection attempt closes the connection.
        let connected = tokio::select! {
            connected = connect(&self.primary, &config.repl_secret, hello) => connected?,
            () = stopped(&mut stopping) => return Ok(Ended::Stopped),
        };
        let Connected { receiver, sender, answer } = connected;
        match answer {
            Message::Resume(resume) if resume.cluster != identity.cluster => Err(Error::Protocol {
                peer: self.primary.to_string(),
                detail: format!("belongs to cluster {}, this replica to {}", resume.cluster, identity.cluster),
            }),
            Message::Resume(resume) => self.follow(receiver, sender, resume).await,
            Message::GoToArchive(_) => Ok(Ended::GoToArchive),
            Message::Refuse(refuse) => Err(refuse.into_error(&self.primary)),
            Message::BaseBegin(_) => Err(Error::Protocol {
                peer: self.primary.to_string(),
                detail: "sends a base to a replica that is not empty".into(),
            }),
            other => Err(Error::Protocol {
                peer: self.primary.to_string(),
                detail: format!("expected an answer, got {other:?}"),
            }),
        }
    }

    async fn follow(
        &mut self,
        mut receiver: Receiver<OwnedReadHalf>,
        mut sender: Sender<OwnedWriteHalf>,
        resume: Resume,
    ) -> Result<Ended> {
        self.core.adopt_history(&resume.history)?;
        let epoch = self.core.identity().epoch();
        tracing::info!(primary = %self.primary, epoch = epoch.0, csn = self.core.committer.watermarks.committed.get().0, "following the primary");
        self.link.note(|status| {
            status.state = "connected";
            status.source = "stream";
            status.last_error.clear();
            // Values from another primary do not count for this one.
            status.primary_csn = self.core.committer.watermarks.committed.get();
        });
        self.link.lag.lock().begin_connection();
        let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING_MAX);
        let mut applier = self.start_applier(Follower::new(Arc::clone(&self.core.committer), epoch), waiting);
        let ended = self.receive(&mut receiver, &mut sender, &chunks, &mut applier).await;
        // Received chunks are applied before the link continues, so that the next introduction states the true
        // position.
        drop(chunks);
        if applier.is_finished() && ended.is_err() {
            return ended;
        }
        applier.await.expect("applying does not panic")?;
        ended
    }

    fn start_applier(&self, follower: Follower, mut waiting: mpsc::Receiver<bytes::Bytes>) -> JoinHandle<Result<()>> {
        let (link, core) = (Arc::clone(&self.link), Arc::clone(&self.core));
        let apply = move || {
            while let Some(chunk) = waiting.blocking_recv() {
                follower.apply(chunk)?;
                let applied = core.committer.watermarks.committed.get();
                link.note(|status| status.primary_csn = status.primary_csn.max(applied));
            }
            Ok(())
        };
        tokio::task::spawn_blocking(move || background::apply(apply))
    }

    /// Receives until the connection ends; acknowledges commits as they are applied.
    async fn receive(
        &mut self,
        receiver: &mut Receiver<OwnedReadHalf>,
        sender: &mut Sender<OwnedWriteHalf>,
        chunks: &mpsc::Sender<bytes::Bytes>,
        applier: &mut JoinHandle<Result<()>>,
    ) -> Result<Ended> {
        let mut tick = tokio::time::interval(ACK_INTERVAL);
        let mut applied = self.core.committer.watermarks.committed.subscribe();
        let mut stopping = self.stopping.clone();
        loop {
            // Cancel-safe: receiving keeps a partial message, and the other arms only wait.
            tokio::select! {
                message = receiver.receive() => match message? {
                    Some(Message::Chunk(chunk)) => {
                        if chunks.send(chunk).await.is_err() {
                            return Err(finished(applier).await);
                        }
                    }
                    Some(Message::Heartbeat(heartbeat)) => self.take_heartbeat(heartbeat)?,
                    Some(Message::GoToArchive(_)) => return Ok(Ended::GoToArchive),
                    Some(Message::Refuse(refuse)) => return Err(refuse.into_error(&self.primary)),
                    Some(other) => return Err(Error::Protocol { peer: self.primary.to_string(), detail: format!("sent {other:?} while streaming") }),
                    None => return Err(Error::Protocol { peer: self.primary.to_string(), detail: "closed the connection".into() }),
                },
                _ = applied.changed() => self.acknowledge(sender).await?,
                _ = tick.tick() => {
                    if applier.is_finished() {
                        return Err(finished(applier).await);
                    }
                    // A commit of many megabytes is one message, so the bytes received of a message count as activity.
                    if receiver.silent_for() > SILENCE_MAX {
                        return Err(Error::Protocol { peer: self.primary.to_string(), detail: format!("was silent for {} s", SILENCE_MAX.as_secs()) });
                    }
                    self.acknowledge(sender).await?;
                }
                () = stopped(&mut stopping) => return Ok(Ended::Stopped),
            }
        }
    }

    async fn acknowledge(&self, sender: &mut Sender<OwnedWriteHalf>) -> Result<()> {
        let watermarks = &self.core.committer.watermarks;
        let publishing = self.bases.publishing();
        let ack = Ack { applied: watermarks.committed.get(), durable: watermarks.durable.get(), publishing };
        match timeout(CONNECT_DEADLINE, sender.send(&Message::Ack(ack))).await {
            Ok(sent) => sent,
            Err(_) => Err(Error::Protocol {
                peer: self.primary.to_string(),
                detail: "did not accept an acknowledgement in time".into(),
            }),
        }
    }

    fn take_heartbeat(&self, heartbeat: Heartbeat) -> Result<()> {
        let epoch = self.core.identity().epoch();
        if heartbeat.epoch != epoch {
            let detail = format!("sends commits of epoch {}, but began to stream in epoch {epoch}", heartbeat.epoch);
            return Err(Error::Protocol { peer: self.primary.to_string(), detail });
        }
        // The watermark is read without the locks, which are held while a large commit is applied. If everything sent
        // is applied, no commit is being applied.
        let applied = self.core.committer.watermarks.committed.get();
        if applied == heartbeat.sent {
            let position = self.core.committer.position();
            if position.csn == heartbeat.sent && position.hash != heartbeat.hash {
                let (expected, found) = (heartbeat.hash, position.hash);
                return Err(Error::OtherHistory { what: "this replica".into(), csn: applied, expected, found });
            }
        }
        self.core.note_primary_archives(heartbeat.archives);
        self.core.committer.watermarks.archived.raise(heartbeat.archived.min(applied));
        self.bases.want(heartbeat.wants_base);
        self.link.lag.lock().take_heartbeat(heartbeat.committed, heartbeat.time, applied, Moment::now());
        self.link.note(|status| status.primary_csn = status.primary_csn.max(heartbeat.committed));
        Ok(())
    }

    /// Applies the commits that the archive holds beyond this replica's last commit.
    async fn catch_up_from_archive(&mut self) -> Result<()> {
        let Some(archive) = self.core.archive.clone() else {
            let reason = "the primary's logs do not reach back to this replica's next commits, which are in the primary's \
                          archive. Start this replica with --archive";
            return Err(Error::NotConfigured { reason: reason.to_owned() });
        };
        self.link.note(|status| (status.state, status.source) = ("sync", "archive"));
        let position = self.core.committer.position();
        let after = position.csn;
        let tree = EpochTree::read(&archive).await?;
        let lineage = Lineage::newest(&tree).ok_or_else(|| Error::Config {
            key: "archive".into(),
            detail: format!(
                "{} is empty, but the primary's archive holds the next commits. Use the primary's archive",
                archive.url()
            ),
        })?;
        // The archive's commits continue this replica's history only if this replica's commits lie on that line.
        self.core.adopt_history(&lineage.starts())?;
        let commits = CatchUp::open(&archive, &lineage, position).await?;
        tracing::info!(after = after.0, until = commits.until().0, "catching up from the archive");
        commits.apply(&self.core.committer, || *self.stopping.borrow()).await
    }
}

/// Returns when the link is asked to stop. Cancel-safe.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn finished(applier: &mut JoinHandle<Result<()>>) -> Error {
    match applier.await.expect("applying does not panic") {
        Err(error) => error,
        Ok(()) => Error::Stopping,
    }
}

/// Asks the primary, if it can be reached, whether it would serve this replica. A directory of another cluster or of
/// another history must not serve readers as if it followed this primary.
pub(crate) async fn require_admission(core: &Core, primary: &PrimaryAddress) -> Result<()> {
    let identity = core.identity();
    let position = core.committer.position();
    let hello = |challenge: &Challenge, nonce| hello(&identity, core, challenge, nonce, position);
    match connect(primary, &core.config().repl_secret, hello).await {
        Ok(Connected { answer: Message::Refuse(refuse), .. }) if refuse.is_final => {
            let what = format!("data directory {} as a replica of {primary}", core.dir.root().display());
            Err(Error::Identity { what, detail: refuse.reason })
        }
        Err(error @ Error::Config { .. }) => Err(error),
        _ => Ok(()),
    }
}

/// An open connection and the primary's answer to the introduction.
pub(crate) struct Connected {
    /// Receives the primary's messages.
    pub receiver: Receiver<OwnedReadHalf>,
    /// Sends messages to the primary.
    pub sender: Sender<OwnedWriteHalf>,
    /// The primary's answer to the introduction.
    pub answer: Message,
}

/// Connects and introduces this replica. With a shared `secret`, requires the primary to prove that it knows the
/// secret. `hello` builds the introduction from the primary's challenge and a nonce.
pub(crate) async fn connect(
    primary: &PrimaryAddress,
    secret: &str,
    hello: impl FnOnce(&Challenge, String) -> Hello,
) -> Result<Connected> {
    let peer = primary.to_string();
    let step = async {
        let stream = TcpStream::connect((primary.host.as_str(), primary.port)).await;
        let stream = stream.map_err(|source| Error::Net { action: "connect to", peer: peer.clone(), source })?;
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (mut receiver, mut sender) = (Receiver::new(reader, &peer), Sender::new(writer, &peer));
        let challenge = match receiver.receive().await? {
            Some(Message::Challenge(challenge)) => challenge,
            other => {
                return Err(Error::Protocol {
                    peer: peer.clone(),
                    detail: format!("expected a challenge, got {other:?}; is this a replication port?"),
                });
            }
        };
        let hello = hello(&challenge, ClusterId::generate()?.to_string());
        sender.send(&Message::Hello(hello.clone())).await?;
        Ok((receiver, sender, hello))
    };
    let silent = |limit: Duration| Error::Protocol {
        peer: peer.clone(),
        detail: format!("did not answer within {} s", limit.as_secs()),
    };
    let connected = match timeout(CONNECT_DEADLINE, step).await {
        Ok(connected) => connected,
        // A port for clients is silent until the client sends a request, so a silent peer is probed.
        Err(_) => Err(probe::port_for_clients(primary).await.unwrap_or_else(|| silent(CONNECT_DEADLINE))),
    };
    let (mut receiver, sender, hello) = connected?;
    let answer = loop {
        match timeout(ANSWER_SILENCE_MAX, receiver.receive()).await.map_err(|_| silent(ANSWER_SILENCE_MAX))?? {
            Some(Message::Heartbeat(_)) => {}
            Some(answer) => break answer,
            None => {
                return Err(Error::Protocol { peer, detail: "closed the connection before it answered".into() });
            }
        }
    };
    let proven = match &answer {
        Message::Resume(Resume { cluster, proof, .. }) | Message::BaseBegin(BaseBegin { cluster, proof, .. }) => {
            *proof == message::primary_proof(secret, &hello, *cluster)
        }
        _ => true,
    };
    if !proven {
        return Err(Error::Protocol { peer, detail: "does not know this replica's repl-secret".into() });
    }
    Ok(Connected { receiver, sender, answer })
}

fn hello(identity: &Identity, core: &Core, challenge: &Challenge, nonce: String, position: Position) -> Hello {
    let config = core.config();
    Hello {
        version: message::VERSION,
        cluster: Some(identity.cluster),
        node: identity.node.clone(),
        epoch: identity.epoch(),
        incarnation: identity.current().incarnation,
        csn: position.csn,
        hash: position.hash,
        time: position.time,
        has_archive: core.archive.is_some(),
        port: config.port.0,
        nonce,
        proof: message::proof(&config.repl_secret, challenge, &identity.node),
    }
}
