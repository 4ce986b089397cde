//! The state that all parts of a running node share: the open data directory, its identity, the committer, the archive,
//! the settings, and the node's role.
//!
//! Guarantees: a change of the identity is durable before it is visible. A node that follows a primary adopts that
//! primary's history only if the node's own commits lie on it. A fenced node refuses writes, also after a restart.

use super::open::Opened;
use super::roles::{PrimaryRole, ReplicaLink};
use crate::archive::opening::open_second;
use crate::archive::store::Archive;
use crate::command::errors;
use crate::commit::committer::{CommitSink, Committer};
use crate::commit::gate::RefusalReason;
use crate::config::{Config, Port};
use crate::csn::{CommitTime, Csn, Epoch};
use crate::directory::{DataDir, DirLock, EpochStart, FencedBy, Identity, LastRole};
use crate::error::{Error, Result};
use crate::history::archive_figures::ArchiveFigures;
use crate::io::Backends;
use crate::ship::feed::FeedStatus;
use crate::ship::source::CommitSource;
use crate::ship::tail::Tail;
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::watch;

/// The state that all parts of a running node share.
pub struct Core {
    config: ArcSwap<Config>,
    /// The data directory.
    pub dir: DataDir,
    _lock: DirLock,
    identity: Mutex<Identity>,
    /// The backends that read and write the directory's files.
    pub backends: Backends,
    /// Orders commits and writes them to the logs.
    pub committer: Arc<Committer>,
    /// The source from which shipping reads commits.
    pub source: CommitSource,
    /// The archive; `None` if none is configured.
    pub archive: Option<Archive>,
    is_replica: AtomicBool,
    primary_archives: AtomicBool,
    /// Set on a node that started as a replica.
    link: OnceLock<Arc<dyn ReplicaLink>>,
    /// Set once shipping has started.
    primary: OnceLock<Arc<dyn PrimaryRole>>,
    /// When the node came up.
    pub started: Instant,
    stop: watch::Sender<bool>,
    /// The figures of the archive when this node last listed it.
    pub archive_figures: Mutex<Option<ArchiveFigures>>,
}

impl Core {
    /// Creates the state over an open directory.
    #[must_use]
    pub fn new(config: Config, opened: Opened, archive: Option<Archive>, is_replica: bool) -> Arc<Self> {
        let tail = Arc::new(Tail::new(config.ring_bytes.0 as usize));
        let sink: Arc<dyn CommitSink> = Arc::clone(&tail) as _;
        opened.committer.attach(sink);
        opened.committer.start_log_thread();
        let image = opened.image.position;
        opened.committer.ages.note_past(image.csn, image.time, CommitTime(crate::clock::now_micros()));
        if is_replica {
            opened.committer.gate.close(RefusalReason::Replica, errors::READ_ONLY_REASON);
        }
        Arc::new(Self {
            config: ArcSwap::from_pointee(config),
            dir: opened.dir,
            _lock: opened.lock,
            identity: Mutex::new(opened.identity),
            backends: opened.backends,
            source: CommitSource::new(Arc::clone(&opened.committer), tail),
            committer: opened.committer,
            archive,
            is_replica: AtomicBool::new(is_replica),
            primary_archives: AtomicBool::new(false),
            link: OnceLock::new(),
            primary: OnceLock::new(),
            started: Instant::now(),
            stop: watch::Sender::new(false),
            archive_figures: Mutex::default(),
        })
    }

    /// Returns the settings in force.
    pub fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// Replaces the settings.
    pub fn set_config(&self, config: Config) {
        self.config.store(Arc::new(config));
    }

    /// Records the port on which this node listens for replicas.
    pub fn set_repl_port(&self, port: u16) {
        let mut config = Config::clone(&self.config.load());
        config.repl_port = Port(port);
        self.set_config(config);
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

    /// Sets the work of a primary; may be called once.
    pub fn set_primary(&self, primary: Arc<dyn PrimaryRole>) {
        assert!(self.primary.set(primary).is_ok(), "a node becomes a primary once");
    }

    /// Returns the work of a primary; `None` until shipping has started.
    #[must_use]
    pub fn primary(&self) -> Option<&Arc<dyn PrimaryRole>> {
        self.primary.get()
    }

    /// Returns the replicas that are connected to this node.
    #[must_use]
    pub fn feeds(&self) -> Vec<FeedStatus> {
        self.primary().map_or_else(Vec::new, |primary| primary.feeds())
    }

    /// Reports whether the node is currently a replica.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.is_replica.load(Ordering::Acquire)
    }

    /// Makes this node a primary for its clients. Shipping must have started, so that every write is shipped.
    pub fn take_writes(&self) {
        self.is_replica.store(false, Ordering::Release);
        self.committer.gate.open(RefusalReason::Replica);
    }

    /// Returns a copy of the current identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Returns the current epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.identity.lock().epoch()
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

    /// Reverts [`Core::begin_epoch`] on a node that has committed nothing under the new epoch.
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

    /// Returns the archived watermark; `None` without an archive.
    #[must_use]
    pub fn archived(&self) -> Option<Csn> {
        self.archive.as_ref().map(|_| self.committer.watermarks.archived.get())
    }

    /// Opens the second archive on a primary; `None` on a replica or without a configured one.
    pub fn second_archive(&self) -> Result<Option<Archive>> {
        if self.is_replica() { Ok(None) } else { open_second(&self.config()) }
    }

    /// Waits until the archive holds the commit at `csn`. Returns an error if there is no archive or uploading has
    /// ended.
    pub async fn archive_acknowledged(&self, csn: Csn) -> Result<()> {
        match self.primary() {
            Some(primary) => primary.archived(csn).await,
            None => Err(Error::NotConfigured {
                reason: "archive-ack is set, but no archive is configured. Set archive, or set archive-ack to no"
                    .into(),
            }),
        }
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
}
