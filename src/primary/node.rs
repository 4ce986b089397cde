//! A running node: an open data directory that serves clients, as a primary or as a replica.
//!
//! Holds the state that the stages share, and answers the requests of commands to the node. The work of a primary
//! beside serving (archive, feeds, expiry) is in [`super::shipping`] and [`super::chores`]. The link of a replica is in
//! the crate `walferry-replica`; the node sees it through [`ReplicaLink`].

use super::compacting::Compacted;
use super::info;
use super::key_count::KeyCounter;
use super::open::Opened;
use super::pruning::LastPrune;
use super::shipping::Shipping;
use super::snapshots::Snapshots;
use super::takeover;
use crate::archive::store::Archive;
use crate::clock::Moment;
use crate::command::all_keys;
use crate::command::client::ClientCard;
use crate::command::errors;
use crate::command::host::{Host, InfoSection, Insistence, MarkCard, Role, Task, TaskReply, WatermarkReport};
use crate::commit::committer::Committer;
use crate::commit::gate::RefusalReason;
use crate::config::{AppendFsync, Config, Port};
use crate::csn::{CommitTime, Csn, Epoch};
use crate::directory::{DataDir, DirLock, EpochStart, FencedBy, Identity, LastRole};
use crate::engine::keyspace::Keyspace;
use crate::error::{Error, Result};
use crate::history::archive_figures::ArchiveFigures;
use crate::io::Backends;
use crate::server::connection::Service;
use crate::ship::source::CommitSource;
use crate::ship::tail::Tail;
use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use bytes::BytesMut;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;
use tokio::sync::watch;

/// The state of a replica's link.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkStatus {
    /// The primary's host.
    pub host: String,
    /// The primary's replication port.
    pub port: u16,
    /// The state in Redis' words: connect, connecting, sync, connected.
    pub state: &'static str,
    /// The primary's last commit, according to its last heartbeat.
    pub primary_csn: Csn,
    /// When the last message from the primary arrived; `None` if none arrived since the start.
    pub heard: Option<Moment>,
    /// Milliseconds since the oldest commit was made that may not be applied; never less than the true lag. 0 when all
    /// commits are known to be applied.
    pub lag_ms: u64,
    /// The current source of commits: stream, archive or base.
    pub source: &'static str,
    /// Why the link is down; empty if it is up.
    pub last_error: String,
}

/// A replica's link, as seen by the node.
pub trait ReplicaLink: Send + Sync {
    /// Returns the state of the link.
    fn status(&self) -> LinkStatus;

    /// Stops the link; everything received is applied when the future completes.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// Starts the link again after [`ReplicaLink::stop`].
    fn resume(&self) -> BoxFuture<'_, ()>;
}

/// Counters since the start.
#[derive(Debug)]
pub struct Stats {
    /// When the node came up.
    pub started: Instant,
    /// Number of commands executed.
    pub commands: AtomicU64,
}

/// A running promotion or its outcome, shared by all callers that wait for it.
type Promotion = Shared<BoxFuture<'static, Result<(), Arc<Error>>>>;

/// A running node.
pub struct Node {
    me: Weak<Node>,
    config: ArcSwap<Config>,
    /// The data directory.
    pub dir: DataDir,
    _lock: DirLock,
    identity: Mutex<Identity>,
    /// The backends that read and write the directory's files.
    pub backends: Backends,
    /// Orders commits and writes them to the logs.
    pub committer: Arc<Committer>,
    /// The newest commits, in memory.
    pub tail: Arc<Tail>,
    /// The source from which shipping reads commits.
    pub source: CommitSource,
    /// The archive; `None` if none is configured.
    pub archive: Option<Archive>,
    /// The shipping of a primary; `None` on a replica.
    pub shipping: ArcSwapOption<Shipping>,
    /// Bases and memory images.
    pub snapshots: Snapshots,
    is_replica: AtomicBool,
    primary_archives: AtomicBool,
    /// The running or last promotion.
    promotion: Mutex<Option<Promotion>>,
    link: OnceLock<Arc<dyn ReplicaLink>>,
    service: OnceLock<Arc<Service>>,
    /// Counters since the start.
    pub stats: Stats,
    stop: watch::Sender<bool>,
    /// Counts the keys on disk.
    pub(super) key_counter: Arc<KeyCounter>,
    /// The figures of the archive when this node last listed it.
    pub archive_figures: Mutex<Option<ArchiveFigures>>,
    /// The results of compacting since the start.
    pub compacted: Mutex<Compacted>,
    /// The result of the last scheduled prune.
    pub last_prune: Mutex<LastPrune>,
}

impl Node {
    /// Creates a node over an open directory.
    #[must_use]
    pub fn new(config: Config, opened: Opened, archive: Option<Archive>, is_replica: bool) -> Arc<Self> {
        let tail = Arc::new(Tail::new(config.ring_bytes.0 as usize));
        let sink: Arc<dyn crate::commit::committer::CommitSink> = Arc::clone(&tail) as _;
        opened.committer.attach(sink);
        opened.committer.start_log_thread();
        let image = opened.image.position;
        opened.committer.ages.note_past(image.csn, image.time, CommitTime(crate::clock::now_micros()));
        if is_replica {
            opened.committer.gate.close(RefusalReason::Replica, errors::READ_ONLY_REASON);
        }
        let source = CommitSource::new(Arc::clone(&opened.committer), Arc::clone(&tail));
        let snapshots = Snapshots::new(opened.image);
        snapshots.bases.bandwidth.set(config.archive_bandwidth.0);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            config: ArcSwap::from_pointee(config),
            dir: opened.dir,
            _lock: opened.lock,
            identity: Mutex::new(opened.identity),
            backends: opened.backends,
            committer: opened.committer,
            tail,
            source,
            archive,
            shipping: ArcSwapOption::empty(),
            snapshots,
            is_replica: AtomicBool::new(is_replica),
            primary_archives: AtomicBool::new(false),
            promotion: Mutex::default(),
            link: OnceLock::new(),
            service: OnceLock::new(),
            stats: Stats { started: Instant::now(), commands: AtomicU64::new(0) },
            stop: watch::Sender::new(false),
            key_counter: Arc::default(),
            archive_figures: Mutex::default(),
            compacted: Mutex::default(),
            last_prune: Mutex::default(),
        })
    }

    /// Returns a shared reference to the node.
    #[must_use]
    pub fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("the node exists while it calls itself")
    }

    /// Sets the replica's link; may be called once.
    pub fn set_link(&self, link: Arc<dyn ReplicaLink>) {
        assert!(self.link.set(link).is_ok(), "a node has one link");
    }

    /// Returns the replica's link; `None` on a node that started as a primary.
    #[must_use]
    pub fn link(&self) -> Option<&Arc<dyn ReplicaLink>> {
        self.link.get()
    }

    /// Returns the state that the node's client connections share.
    pub fn service(&self) -> Arc<Service> {
        let service = self.service.get_or_init(|| {
            let host: Arc<dyn Host> = self.arc();
            Arc::new(Service {
                committer: Arc::clone(&self.committer),
                host,
                registry: Default::default(),
                runtime: tokio::runtime::Handle::current(),
            })
        });
        Arc::clone(service)
    }

    /// Reports whether the node is currently a replica.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.is_replica.load(Ordering::Acquire)
    }

    /// Returns a copy of the current identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Changes the identity durably.
    pub fn change_identity(&self, change: impl FnOnce(&mut Identity)) -> Result<()> {
        let mut identity = self.identity.lock();
        let mut changed = identity.clone();
        change(&mut changed);
        if changed != *identity {
            self.dir.write_identity(&changed)?;
            *identity = changed;
        }
        Ok(())
    }

    /// Adopts the primary's history, because a replica's commits belong to the epochs of its primary. Refused if this
    /// node's commits do not lie on that history.
    pub fn adopt_history(&self, history: &[EpochStart]) -> Result<()> {
        let committed = self.committer.watermarks.committed.get();
        if let Some(fault) = self.identity().fault_in(history, committed) {
            return Err(Error::Conflict {
                reason: format!("the primary's history does not contain this node's commits: {fault}"),
            });
        }
        self.change_identity(|identity| {
            identity.history = history.to_vec();
            // The node follows a line again that contains its own position, so it is not fenced.
            identity.fenced_by = None;
        })?;
        self.committer.lock_logs().set_epoch(self.identity().epoch());
        Ok(())
    }

    /// Continues under the epoch `start`: the node's current epoch, or a new one that forks after the node's last
    /// commit that was not replaced. Does not accept writes yet.
    pub fn begin_epoch(&self, start: EpochStart) -> Result<()> {
        let mut turn = self.committer.lock_logs();
        let is_new = self.identity().current() != start;
        self.change_identity(|identity| {
            identity.role = LastRole::Primary;
            identity.may_lack_commits = false;
            if identity.current() != start {
                identity.begin_epoch(start);
            }
            identity.intact_until = None;
        })?;
        turn.set_epoch(start.epoch);
        turn.start_clock(is_new);
        Ok(())
    }

    /// Reverts [`Node::begin_epoch`] on a node that has committed nothing under the new epoch.
    pub fn leave_epoch(&self, before: &Identity) -> Result<()> {
        let mut turn = self.committer.lock_logs();
        self.change_identity(|identity| {
            identity.role = before.role;
            identity.history.clone_from(&before.history);
        })?;
        turn.set_epoch(before.epoch());
        Ok(())
    }

    /// Reports whether the followed primary has an archive, according to its last message.
    #[must_use]
    pub fn primary_archives(&self) -> bool {
        self.primary_archives.load(Ordering::Acquire)
    }

    /// Records whether the followed primary has an archive.
    pub fn note_primary_archives(&self, archives: bool) {
        self.primary_archives.store(archives, Ordering::Release);
    }

    /// Makes this node a primary for its clients. Shipping must have started, so that every write is shipped.
    pub fn take_writes(&self) {
        self.is_replica.store(false, Ordering::Release);
        self.committer.gate.open(RefusalReason::Replica);
    }

    /// Records the port on which this node listens for replicas.
    pub fn set_repl_port(&self, port: u16) {
        let mut config = Config::clone(&self.config.load());
        config.repl_port = Port(port);
        self.config.store(Arc::new(config));
    }

    /// Fences this node because another node has the newer epoch `newer`: writes are refused from then on.
    pub fn fence(&self, newer: Epoch, node: &str) {
        let own = self.identity().epoch();
        // Written down first: a client that was told of the fence finds the node fenced after a kill, too.
        let fenced_by = Some(FencedBy { epoch: newer, node: node.to_owned() });
        if let Err(error) = self.change_identity(|identity| identity.fenced_by = fenced_by) {
            tracing::error!(%error, "the fence of this node could not be recorded on the disk; do not start this node \
                                     as a primary");
        }
        if !self.committer.gate.stands(RefusalReason::Fenced) {
            tracing::error!(own = own.0, newer = newer.0, node, "fenced: a newer epoch exists");
        }
        let reason = Error::Fenced { own, newer, node: node.to_owned() };
        self.committer.gate.close(RefusalReason::Fenced, reason.to_string());
    }

    /// Returns a receiver that turns true when the node is to stop.
    #[must_use]
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Runs a task until the node stops. Dropping the task at any await point must be as harmless as a crash.
    pub fn spawn_until_stop(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stopping = self.stopping();
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        });
    }

    /// Requests the node to stop.
    pub fn request_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Returns the number of keys of all engines for INFO. If there are many keys on disk, returns their last count,
    /// because INFO must neither wait nor delay clients.
    pub(super) fn told_key_count(&self) -> u64 {
        let keys = Keyspace::reading(self.committer.disk(), crate::clock::now_millis(), None);
        let on_disk = all_keys::count_few(&keys).ok().flatten().unwrap_or_else(|| self.known_key_count());
        on_disk + self.committer.memory_keys().load(Ordering::Acquire) as u64
    }

    async fn key_count(&self) -> Result<u64> {
        let (counter, committer) = (Arc::clone(&self.key_counter), Arc::clone(&self.committer));
        let on_disk = blocking(move || counter.count(&committer)).await?;
        Ok(on_disk + self.committer.memory_keys().load(Ordering::Acquire) as u64)
    }

    async fn matching_keys(&self, pattern: Vec<u8>) -> Result<BytesMut> {
        let committer = Arc::clone(&self.committer);
        let listed = blocking(move || all_keys::list(&committer, &pattern)).await?;
        if self.committer.syncer.mode() == AppendFsync::Always {
            // The listed keys may come from commits that are not synced yet.
            self.committer.syncer.acknowledged(self.committer.watermarks.committed.get()).await?;
        }
        Ok(listed)
    }

    /// Makes this replica a primary. One promotion runs at a time, on its own task, so that a client that disconnects
    /// does not interrupt it. Later callers wait for the running promotion and receive its outcome.
    async fn promote(&self, insistence: Insistence) -> Result<TaskReply> {
        let promotion = {
            let mut running = self.promotion.lock();
            match running.as_ref().filter(|promotion| promotion.peek().is_none()) {
                Some(promotion) => promotion.clone(),
                None if !self.is_replica() => return Ok(TaskReply::Ok),
                None => {
                    let node = self.arc();
                    let task = tokio::spawn(async move { node.promote_once(insistence).await });
                    let outcome = async move {
                        let guard = task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                        guard.map_err(Arc::new)
                    };
                    running.insert(outcome.boxed().shared()).clone()
                }
            }
        };
        promotion.await.map(|()| TaskReply::Ok).map_err(Error::Shared)
    }

    async fn promote_once(&self, insistence: Insistence) -> Result<()> {
        if let Some(link) = self.link.get() {
            link.stop().await;
        }
        let taken_over = takeover::take_over(&self.arc(), insistence).await;
        if taken_over.is_err()
            && let Some(link) = self.link.get().filter(|_| self.is_replica())
        {
            // The node is still a replica: it follows its primary again and can be promoted later.
            link.resume().await;
        }
        taken_over
    }
}

impl Host for Node {
    fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    fn reconfigure(&self, pairs: &[(String, String)]) -> Result<()> {
        let mut config = Config::clone(&self.config.load());
        for (key, value) in pairs {
            config.change(key, value)?;
        }
        self.committer.syncer.set_mode(config.appendfsync);
        self.snapshots.bases.bandwidth.set(config.archive_bandwidth.0);
        if let Some(shipping) = self.shipping.load().as_ref() {
            shipping.reconfigure(&config);
        }
        self.config.store(Arc::new(config));
        Ok(())
    }

    fn progress(&self) -> WatermarkReport {
        let watermarks = &self.committer.watermarks;
        WatermarkReport {
            epoch: self.identity.lock().epoch(),
            committed: watermarks.committed.get(),
            durable: watermarks.durable.get(),
            archived: watermarks.archived.get(),
        }
    }

    fn info(&self) -> Vec<InfoSection> {
        info::sections(self)
    }

    fn marks(&self) -> Result<Vec<MarkCard>> {
        self.mark_cards()
    }

    fn role(&self) -> Role {
        let committed = self.committer.watermarks.committed.get();
        match self.link.get().filter(|_| self.is_replica()) {
            Some(link) => {
                let status = link.status();
                Role::Replica { host: status.host, port: status.port, state: status.state, applied: committed }
            }
            None => {
                let feeds = self.shipping.load().as_ref().map_or_else(Vec::new, |shipping| shipping.feeds.status());
                let replicas = feeds.into_iter().map(|feed| (feed.address, feed.port, feed.ack.applied)).collect();
                Role::Primary { committed, replicas }
            }
        }
    }

    fn clients(&self) -> Vec<ClientCard> {
        self.service().registry.cards()
    }

    fn start_snapshot(&self) -> Result<()> {
        self.snapshots.start(&self.arc())
    }

    fn last_save(&self) -> u64 {
        self.snapshots.last_save()
    }

    fn known_key_count(&self) -> u64 {
        self.key_counter.known(&self.committer)
    }

    fn is_memory_full(&self) -> bool {
        let limit = self.config.load().maxmemory.0;
        limit != 0 && self.committer.memory_bytes() as u64 >= limit
    }

    fn count_command(&self) {
        self.stats.commands.fetch_add(1, Ordering::Relaxed);
    }

    fn archive_acknowledged(&self, csn: Csn) -> BoxFuture<'_, Result<()>> {
        async move {
            match self.shipping.load_full() {
                Some(shipping) => shipping.archived(csn).await,
                None => Err(Error::NotConfigured {
                    reason: "archive-ack is set, but no archive is configured. Set archive, or set archive-ack to no"
                        .into(),
                }),
            }
        }
        .boxed()
    }

    fn run(&self, task: Task) -> BoxFuture<'_, Result<TaskReply>> {
        async move {
            match task {
                Task::CountKeys => self.key_count().await.map(TaskReply::Count),
                Task::ListKeys(pattern) => self.matching_keys(pattern).await.map(TaskReply::Encoded),
                Task::ArchiveFlush => {
                    let shipping = self.shipping.load_full().filter(|shipping| shipping.has_archive());
                    let shipping = shipping.ok_or_else(|| Error::NotConfigured {
                        reason: "this node does not write to an archive: none is configured, or the node is a replica"
                            .into(),
                    })?;
                    let csn = self.committer.watermarks.committed.get();
                    shipping.flush(csn).await?;
                    Ok(TaskReply::Csn(self.committer.watermarks.archived.get()))
                }
                Task::Snapshot(consistency) => {
                    self.snapshots.publish(&self.arc(), consistency).await.map(TaskReply::Csn)
                }
                Task::Mark(name) => self.mark(name).await,
                Task::Unmark(name) => self.unmark(name).await,
                Task::Promote(insistence) => self.promote(insistence).await,
                Task::Shutdown => {
                    self.request_stop();
                    Ok(TaskReply::Close)
                }
            }
        }
        .boxed()
    }
}

/// Runs blocking work on a separate thread.
async fn blocking<T: Send + 'static>(run: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(run).await.map_err(Error::of_task)?
}
