//! Publishes bases on schedule and on request, on a primary or a replica. Repairing eventual bases is in
//! [`super::repairs`].
//!
//! Guarantees: a node publishes one base at a time. No base is published before the archive's chunks reach its csn, so
//! a base never holds commits that a promotion abandons. A base that is less strict than
//! requested leaves nothing behind.

use super::core::Core;
use super::every::every;
use super::repairs::{REPAIR_GRACE, Repairs};
use super::roles::ArchivingStatus;
use super::schedule::{self, Able, Asked, Situation, Step};
use super::snapshots::{BaseTools, Snapshots};
use crate::archive::bandwidth::Bandwidth;
use crate::archive::layout::BaseName;
use crate::archive::listing::BaseStart;
use crate::archive::store::Archive;
use crate::commit::gate::RefusalReason;
use crate::config::Consistency;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::history::line::read_manifest;
use crate::ship::message::Publishing;
use crate::snapshot::base::LocalBase;
use crate::snapshot::manifest::Level;
use crate::snapshot::publish::{Published, Publisher};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// Limit on the attempts of the schedule to cut a bounded base whose engines' cuts lie too far apart.
const BOUNDED_ATTEMPTS_MAX: u32 = 5;
/// Time between two checks whether work on bases is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after the first of these attempts; the pause doubles after each attempt.
const BOUNDED_PAUSE: Duration = Duration::from_secs(1);
/// Limit on the time that a base waits for the archive's chunks to reach its csn.
const COVERED_WITHIN: Duration = Duration::from_secs(600);
/// A replica that lags further behind its primary than this does not publish bases.
const PUBLISHER_LAG_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed attempt while a base is requested.
const FAILURE_PAUSE: Duration = Duration::from_secs(60);
/// Facts about the last base.
#[derive(Clone, Debug, Default)]
pub struct LastBase {
    /// The last published base; `None` if there was none since the start.
    pub report: Option<Published>,
    /// The replica that published the base; empty if this node published it.
    pub publisher: String,
    /// The last base that this node published or found already published.
    pub own: Option<BaseStart>,
    /// When the last attempt ended.
    pub ended: Option<Instant>,
    /// Why the last attempt failed; `None` if it succeeded.
    pub error: Option<String>,
    /// Raw chunk bytes that were cut for the archive when the last attempt began.
    pub cut_bytes: u64,
}

/// Running and pending work on bases.
pub struct Bases {
    core: Arc<Core>,
    /// Memory images, and the cutting of bases.
    pub snapshots: Arc<Snapshots>,
    /// Limits the bandwidth of all uploads of bases together.
    pub bandwidth: Arc<Bandwidth>,
    /// On a replica: the primary wants a base at this csn or above; 0 if it wants none.
    wanted: AtomicU64,
    /// On a primary: the replica that was asked for a base.
    asked: Mutex<Option<AskedSince>>,
    /// The eventual bases that wait for repair.
    pub repairs: Arc<Repairs>,
    /// Whether a due base is being published here, or the manifest of a replica's base is being read.
    is_at_work: AtomicBool,
    /// Whether a base was requested as soon as possible.
    is_requested: AtomicBool,
    last: Mutex<LastBase>,
}

struct AskedSince {
    node: String,
    wanted: Csn,
    /// When the replica was asked or last reported that it was publishing.
    since: Instant,
    failed: Vec<String>,
}

impl Bases {
    /// Creates the state of a node that has published no base.
    #[must_use]
    pub fn new(core: Arc<Core>, snapshots: Arc<Snapshots>) -> Arc<Self> {
        let bandwidth: Arc<Bandwidth> = Arc::default();
        bandwidth.set(core.config().archive_bandwidth.0);
        Arc::new(Self {
            repairs: Repairs::new(Arc::clone(&core), Arc::clone(&bandwidth)),
            core,
            snapshots,
            bandwidth,
            wanted: AtomicU64::new(0),
            asked: Mutex::default(),
            is_at_work: AtomicBool::new(false),
            is_requested: AtomicBool::new(false),
            last: Mutex::default(),
        })
    }

    /// Starts the schedule, which ends with the node.
    pub(super) fn start_schedule(self: &Arc<Self>) {
        let look = |bases: Arc<Self>| async move { bases.look() };
        self.core.spawn_until_stop(every(Arc::downgrade(self), |_| Some(LOOK_INTERVAL), look));
    }

    /// Returns the facts about the last base.
    #[must_use]
    pub fn last(&self) -> LastBase {
        self.last.lock().clone()
    }

    /// Requests a base as soon as possible.
    pub fn request(&self) {
        self.is_requested.store(true, Ordering::Release);
    }

    /// Reports whether a base was requested and none was published since.
    fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::Acquire)
    }

    /// Returns the node name of the replica that was asked for the due base; empty if none.
    #[must_use]
    pub fn asked(&self) -> String {
        self.asked.lock().as_ref().map_or_else(String::new, |asked| asked.node.clone())
    }

    /// Records that the primary wants a base from this replica at `csn` or above; 0 for none.
    pub fn want(&self, csn: Csn) {
        self.wanted.store(csn.0, Ordering::Relaxed);
    }

    /// Starts a BGSAVE: a base on a primary with an archive, otherwise a memory image.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        let writes_image = self.core.archive.is_none() || self.core.is_replica();
        if if writes_image { self.snapshots.must_image_wait() } else { self.snapshots.is_busy() } {
            return Err(Error::NotNow { reason: "Background save already in progress".into() });
        }
        if writes_image {
            let snapshots = Arc::clone(&self.snapshots);
            std::thread::spawn(move || snapshots.write_image());
        } else {
            let bases = Arc::clone(self);
            tokio::spawn(async move {
                let _ = bases.publish(bases.core.config().snapshot_consistency).await;
            });
        }
        Ok(())
    }

    /// Returns the raw log bytes cut for the archive since the start; 0 without an archive.
    fn logged_bytes(&self) -> u64 {
        let archiving = self.core.primary().and_then(|primary| primary.archiving());
        archiving.map_or(0, |archiving| archiving.cutter.raw_bytes)
    }

    /// Reports whether a base is due by time or by the bytes cut since the last base.
    fn is_base_due(&self) -> bool {
        let config = self.core.config();
        let last = self.last.lock();
        let cut = self.logged_bytes();
        let since = last.ended.unwrap_or(self.core.started).elapsed();
        let interval = config.snapshot_interval;
        let log_max = config.snapshot_max_log_bytes.0;
        let by_time = !interval.is_zero() && since >= interval && cut > last.cut_bytes;
        by_time || (log_max != 0 && cut.saturating_sub(last.cut_bytes) >= log_max)
    }

    /// Cuts a base and publishes it; returns its csn. Refused without an archive and on a fenced node.
    pub async fn publish(self: &Arc<Self>, consistency: Consistency) -> Result<Csn> {
        let Some(archive) = self.core.archive.clone() else {
            let reason = "no archive is configured, so no base can be published. Set archive".into();
            return Err(Error::NotConfigured { reason });
        };
        self.core.identity().require_unfenced()?;
        self.core.committer.gate.require_open(RefusalReason::Fenced)?;
        let base_tools = Arc::clone(&self.snapshots.base_tools).lock_owned().await;
        // The base runs on its own task, so it continues if the caller stops waiting. A caller that is dropped before
        // it acquires the lock starts no base.
        let bases = Arc::clone(self);
        let publish = async move { bases.publish_from(base_tools, &archive, consistency).await };
        let publishing = tokio::spawn(publish);
        publishing.await.map_err(Error::of_task)?
    }

    async fn publish_from(
        &self,
        mut base_tools: OwnedMutexGuard<BaseTools>,
        archive: &Archive,
        consistency: Consistency,
    ) -> Result<Csn> {
        let logged = self.logged_bytes();
        let published = async {
            let base = self.snapshots.cut(&mut base_tools, consistency).await?;
            let start = base.manifest().start();
            let publisher = base_tools.publisher.get_or_insert_with(|| Publisher::new(self.paced(archive)));
            let published = publisher.publish_kept(&base, covered(&self.core, start.base.csn)).await;
            hand_on(&self.core, base, base_tools).await;
            published.map(|published| (start, published))
        }
        .await;
        self.note(logged, &published);
        let (start, published) = published.inspect_err(|error| tracing::error!(%error, "publishing a base failed"))?;
        if published.is_some_and(|published| published.level == Level::Eventual) {
            self.repairs.owe(start, Duration::ZERO);
        }
        Ok(start.base.csn)
    }

    /// Publishes the due base. Tries a bounded base several times.
    async fn publish_due(self: &Arc<Self>) {
        let mut pause = BOUNDED_PAUSE;
        for _ in 0..BOUNDED_ATTEMPTS_MAX {
            match self.publish(self.core.config().snapshot_consistency).await {
                Err(Error::InconsistentTiming { .. }) => tokio::time::sleep(pause).await,
                _ => return,
            }
            pause *= 2;
        }
    }

    /// Starts due work on bases.
    fn look(self: &Arc<Self>) {
        let core = &self.core;
        let Some(archive) = &core.archive else { return };
        let is_primary = !core.is_replica() && core.primary().is_some();
        if is_primary {
            self.repairs.look_for_unrepaired(archive);
        }
        self.repairs.repair_next(archive);
        if self.snapshots.is_busy() {
            return;
        }
        if core.is_replica() {
            self.look_at_request();
        } else if is_primary {
            self.look_at_schedule(archive);
        }
    }

    /// On a replica, publishes the base that the primary requested.
    fn look_at_request(self: &Arc<Self>) {
        let wanted = Csn(self.wanted.load(Ordering::Relaxed));
        let has_published = self.last().own.is_some_and(|own| own.base.csn >= wanted);
        let has_applied = self.core.committer.watermarks.committed.get() >= wanted;
        if wanted > Csn::ZERO && has_applied && !has_published && !self.failed_lately() && self.is_willing() {
            self.start_due();
        }
    }

    fn failed_lately(&self) -> bool {
        let last = self.last();
        last.error.is_some() && last.ended.is_some_and(|ended| ended.elapsed() < FAILURE_PAUSE)
    }

    fn start_due(self: &Arc<Self>) {
        if self.is_at_work.swap(true, Ordering::AcqRel) {
            return;
        }
        let bases = Arc::clone(self);
        tokio::spawn(async move {
            bases.publish_due().await;
            bases.is_at_work.store(false, Ordering::Release);
        });
    }

    fn look_at_schedule(self: &Arc<Self>, archive: &Archive) {
        if self.is_at_work.load(Ordering::Acquire) {
            return;
        }
        let able = able(&self.core);
        let committed = self.core.committer.watermarks.committed.get();
        let situation = {
            let mut asked = self.asked.lock();
            if let Some(asked) = &mut *asked
                && able.iter().any(|able| able.node == asked.node && able.is_busy)
            {
                asked.since = Instant::now();
            }
            Situation {
                from: self.core.config().snapshot_from,
                is_due: self.is_base_due(),
                is_requested: self.is_requested() && !self.failed_lately(),
                able,
                asked: asked.as_ref().map(|asked| Asked {
                    node: asked.node.clone(),
                    wanted: asked.wanted,
                    idle: asked.since.elapsed(),
                    failed: asked.failed.clone(),
                }),
            }
        };
        match schedule::next_step(&situation) {
            Step::Wait => self.repeat_request(),
            Step::Publish => {
                self.set_asked(None);
                self.start_due();
            }
            Step::Ask(replica) => {
                let before = situation.asked.map(|asked| [asked.failed, vec![asked.node]].concat()).unwrap_or_default();
                let failed = if before.contains(&replica) { Vec::new() } else { before };
                tracing::info!(node = replica, csn = committed.0, "a base is due; a replica is asked to publish it");
                let asked = AskedSince { node: replica, wanted: committed, since: Instant::now(), failed };
                self.set_asked(Some(asked));
            }
            Step::Credit(replica) => self.credit(archive, replica),
        }
    }

    fn set_asked(&self, asked: Option<AskedSince>) {
        if let Some(primary) = self.core.primary() {
            let ask = asked.as_ref().map(|asked| (asked.node.clone(), asked.wanted));
            primary.ask_for_base(ask);
        }
        *self.asked.lock() = asked;
    }

    /// Repeats the request, because the replica may have reconnected since it was asked.
    fn repeat_request(&self) {
        let asked = self.asked.lock().as_ref().map(|asked| (asked.node.clone(), asked.wanted));
        if let (Some(asked), Some(primary)) = (asked, self.core.primary()) {
            primary.ask_for_base(Some(asked));
        }
    }

    /// Records a base that a replica published, after reading its manifest once.
    fn credit(self: &Arc<Self>, archive: &Archive, replica: String) {
        let told = self.core.feeds().into_iter().find(|feed| feed.node == replica).map(|feed| feed.ack.publishing);
        let Some(Publishing { csn, epoch, after, .. }) = told else { return };
        self.is_at_work.store(true, Ordering::Release);
        let (bases, archive, logged) = (Arc::clone(self), archive.clone(), self.logged_bytes());
        tokio::spawn(async move {
            let start = BaseStart { base: BaseName { csn, epoch }, after };
            let cluster = bases.core.identity().cluster;
            let mut found = read_manifest(&archive, cluster, start).await;
            if found.is_err() && !start.is_whole() {
                // Another node may have published a strict base at this csn first.
                found = read_manifest(&archive, cluster, BaseStart::whole(start.base)).await;
            }
            match found {
                Ok(manifest) => {
                    tracing::info!(node = replica, csn = csn.0, "a replica published the base that was due");
                    bases.note_of_replica(logged, Published::of(&manifest), replica);
                    if manifest.level == Level::Eventual {
                        bases.repairs.owe(start, REPAIR_GRACE);
                    }
                }
                // The base stays due, and the next call decides what to do.
                Err(error) => {
                    tracing::warn!(node = replica, %error, "the base that a replica published cannot be read")
                }
            }
            bases.set_asked(None);
            bases.is_at_work.store(false, Ordering::Release);
        });
    }

    /// Returns what this node reports to its primary about bases.
    #[must_use]
    pub fn publishing(&self) -> Publishing {
        let own = self.last().own;
        Publishing {
            is_willing: self.is_willing(),
            is_busy: self.is_at_work.load(Ordering::Acquire),
            csn: own.map(|own| own.base.csn).unwrap_or_default(),
            epoch: own.map(|own| own.base.epoch).unwrap_or_default(),
            after: own.map(|own| own.after).unwrap_or_default(),
        }
    }

    /// Returns the archive with the bandwidth limit for bases.
    fn paced(&self, archive: &Archive) -> Archive {
        archive.with_bandwidth(Arc::clone(&self.bandwidth))
    }

    /// Reports whether this replica is ready to publish a base.
    fn is_willing(&self) -> bool {
        let core = &self.core;
        let may = core.config().snapshot_from != crate::config::SnapshotFrom::Primary;
        let link = core.link().filter(|_| may && core.is_replica() && core.archive.is_some());
        let Some(link) = link else { return false };
        let status = link.status();
        status.state == "connected" && Duration::from_millis(status.lag_ms) <= PUBLISHER_LAG_MAX
    }

    /// Records how an attempt to publish ended. `logged` is the number of log bytes when the attempt began.
    fn note(&self, logged: u64, outcome: &Result<(BaseStart, Option<Published>)>) {
        let mut last = self.last.lock();
        (last.ended, last.cut_bytes) = (Some(Instant::now()), logged);
        match outcome {
            Ok((start, published)) => {
                (last.report, last.own) = (published.or(last.report), Some(*start));
                last.publisher.clear();
                last.error = None;
                self.is_requested.store(false, Ordering::Release);
                self.snapshots.note_saved();
            }
            Err(error) => last.error = Some(error.to_string()),
        }
    }

    /// Records a base that a replica published.
    fn note_of_replica(&self, logged: u64, published: Published, replica: String) {
        let mut last = self.last.lock();
        (last.ended, last.cut_bytes) = (Some(Instant::now()), logged);
        (last.report, last.publisher, last.error) = (Some(published), replica, None);
    }
}

/// Returns the connected replicas that can publish a base.
fn able(core: &Core) -> Vec<Able> {
    let willing = core.feeds().into_iter().filter(|feed| feed.ack.publishing.is_willing || feed.ack.publishing.is_busy);
    willing
        .map(|feed| Able { node: feed.node, is_busy: feed.ack.publishing.is_busy, published: feed.ack.publishing.csn })
        .collect()
}

/// Waits until the archive's chunks reach `csn`. A primary cuts the chunks at once.
async fn covered(core: &Core, csn: Csn) -> Result<()> {
    let wait = async {
        match core.primary().filter(|_| core.archive.is_some()) {
            Some(primary) => primary.flush(csn).await,
            None => {
                core.committer.watermarks.archived.reached(csn).await;
                Ok(())
            }
        }
    };
    let Ok(outcome) = tokio::time::timeout(COVERED_WITHIN, wait).await else {
        let reason = format!(
            "the base at csn {csn} is given up, because the archive's chunks did not reach this csn within {} s",
            COVERED_WITHIN.as_secs()
        );
        return Err(Error::NotNow { reason });
    };
    outcome
}

/// Publishes the base to the second archive in the background, if there is one, and then removes the base's files.
/// Called when the first archive no longer needs the base.
async fn hand_on(core: &Core, base: LocalBase, base_tools: OwnedMutexGuard<BaseTools>) {
    let has_second = |archiving: ArchivingStatus| archiving.second.is_some();
    let primary = core.primary().filter(|primary| primary.archiving().is_some_and(has_second));
    let remove = async |base, base_tools| {
        let removed = tokio::task::spawn_blocking(move || drop(base)).await;
        removed.expect("removing files does not panic");
        drop::<OwnedMutexGuard<BaseTools>>(base_tools);
    };
    let Some(primary) = primary.cloned() else { return remove(base, base_tools).await };
    tokio::spawn(async move {
        primary.publish_to_second(&base).await;
        remove(base, base_tools).await;
    });
}
