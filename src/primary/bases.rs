//! Publishes bases on schedule and on request, on a primary or a replica, and repairs eventual bases.
//!
//! Guarantees: a node publishes one base at a time. No base is published before the archive's chunks reach its csn, so
//! a base never holds commits that a promotion abandons. An eventual base is repaired until it is strict, even across
//! restarts. A base that is less strict than requested leaves nothing behind.

use super::node::Node;
use super::schedule::{self, Able, Asked, Situation, Step};
use super::snapshots::{BaseTools, Snapshots, hand_on};
use super::takeover::check_fence;
use crate::archive::bandwidth::Bandwidth;
use crate::archive::layout::BaseName;
use crate::archive::listing::BaseStart;
use crate::archive::store::Archive;
use crate::command::host::Host;
use crate::commit::gate::RefusalReason;
use crate::config::Consistency;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::history::line::read_manifest;
use crate::restore::repair::{self, Repair};
use crate::ship::wire::Publishing;
use crate::snapshot::manifest::Level;
use crate::snapshot::publish::{Published, Publisher};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// Limit on the attempts of the schedule to cut a bounded base whose engines' cuts lie too far apart.
const BOUNDED_ATTEMPTS_MAX: u32 = 5;
/// Pause after the first of these attempts; the pause doubles after each attempt.
const BOUNDED_PAUSE: Duration = Duration::from_secs(1);
/// Limit on the time that a base waits for the archive's chunks to reach its csn.
const COVERED_WITHIN: Duration = Duration::from_secs(600);
/// A replica that lags further behind its primary than this does not publish bases.
const PUBLISHER_LAG_MAX: Duration = Duration::from_secs(10);
/// Pause after a failed attempt while a base is requested.
const FAILURE_PAUSE: Duration = Duration::from_secs(60);
/// Time that a primary leaves the repair of an eventual base to the replica that published it.
const REPAIR_GRACE: Duration = Duration::from_secs(60);
/// Longest pause between two attempts to repair a base.
const REPAIR_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// Running and pending work on bases.
#[derive(Default)]
pub struct Bases {
    /// Limits the bandwidth of all uploads of bases together.
    pub bandwidth: Arc<Bandwidth>,
    /// On a replica: the primary wants a base at this csn or above; 0 if it wants none.
    wanted: AtomicU64,
    /// On a primary: the replica that was asked for a base.
    asked: Mutex<Option<AskedSince>>,
    repairs: Mutex<BTreeMap<BaseStart, Owed>>,
    is_repairing: AtomicBool,
    /// Whether a due base is being published here, or the manifest of a replica's base is being read.
    is_at_work: AtomicBool,
    /// Whether this process has searched for bases that were left without repair before its start.
    was_looked_for: AtomicBool,
}

struct AskedSince {
    node: String,
    wanted: Csn,
    /// When the replica was asked or last reported that it was publishing.
    since: Instant,
    failed: Vec<String>,
}

/// When a base is to be repaired.
#[derive(Clone, Copy)]
struct Owed {
    not_before: Instant,
    /// Pause after the next failed attempt.
    pause: Duration,
}

impl Bases {
    /// Returns the number of eventual bases that wait for repair, as far as this node knows.
    #[must_use]
    pub fn to_repair(&self) -> usize {
        self.repairs.lock().len()
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

    fn owe_repair(&self, start: BaseStart, after: Duration) {
        let owed = Owed { not_before: Instant::now() + after, pause: REPAIR_GRACE };
        self.repairs.lock().insert(start, owed);
    }
}

impl Snapshots {
    /// Cuts a base and publishes it; returns its csn. Refused without an archive and on a fenced node.
    pub async fn publish(&self, node: &Arc<Node>, consistency: Consistency) -> Result<Csn> {
        let Some(archive) = node.archive.clone() else {
            let reason = "no archive is configured, so no base can be published. Set archive".into();
            return Err(Error::NotConfigured { reason });
        };
        check_fence(&node.identity(), None)?;
        node.committer.gate.require_open(RefusalReason::Fenced)?;
        let base_tools = Arc::clone(&self.base_tools).lock_owned().await;
        // The base runs on its own task, so it continues if the caller stops waiting. A caller that is dropped before
        // it acquires the lock starts no base.
        let node = Arc::clone(node);
        let publish = async move { node.snapshots.publish_from(base_tools, &node, &archive, consistency).await };
        let publishing = tokio::spawn(publish);
        publishing.await.map_err(Error::of_task)?
    }

    async fn publish_from(
        &self,
        mut base_tools: OwnedMutexGuard<BaseTools>,
        node: &Arc<Node>,
        archive: &Archive,
        consistency: Consistency,
    ) -> Result<Csn> {
        let logged = self.logged_bytes(node);
        let published = async {
            let base = self.cut(node, &mut base_tools, consistency).await?;
            let start = base.manifest().start();
            let publisher = base_tools.publisher.get_or_insert_with(|| Publisher::new(paced(node, archive)));
            let published = publisher.publish_kept(&base, covered(node, start.base.csn)).await;
            hand_on(node, base, base_tools).await;
            published.map(|published| (start, published))
        }
        .await;
        self.note(logged, &published);
        let (start, published) = published.inspect_err(|error| tracing::error!(%error, "publishing a base failed"))?;
        if published.is_some_and(|published| published.level == Level::Eventual) {
            self.bases.owe_repair(start, Duration::ZERO);
        }
        Ok(start.base.csn)
    }

    /// Publishes the due base. Tries a bounded base several times.
    async fn publish_due(&self, node: &Arc<Node>) {
        let mut pause = BOUNDED_PAUSE;
        for _ in 0..BOUNDED_ATTEMPTS_MAX {
            match self.publish(node, node.config().snapshot_consistency).await {
                Err(Error::InconsistentTiming { .. }) => tokio::time::sleep(pause).await,
                _ => return,
            }
            pause *= 2;
        }
    }

    /// Starts due work on bases; called once a second. `started` is the time at which the node came up.
    pub fn look_at_bases(&self, node: &Arc<Node>, started: Instant) {
        let Some(archive) = node.archive.clone() else { return };
        let is_primary = !node.is_replica() && node.shipping.load().is_some();
        if is_primary {
            self.look_for_unrepaired(node, &archive);
        }
        self.repair_next(node, &archive);
        if self.is_busy() {
            return;
        }
        if node.is_replica() {
            self.look_at_request(node);
        } else if is_primary {
            self.look_at_schedule(node, &archive, started);
        }
    }

    /// On a replica, publishes the base that the primary requested.
    fn look_at_request(&self, node: &Arc<Node>) {
        let wanted = Csn(self.bases.wanted.load(Ordering::Relaxed));
        let has_published = self.last().own.is_some_and(|own| own.base.csn >= wanted);
        let has_applied = node.committer.watermarks.committed.get() >= wanted;
        if wanted > Csn::ZERO && has_applied && !has_published && !self.failed_lately() && is_willing(node) {
            self.start_due(node);
        }
    }

    fn failed_lately(&self) -> bool {
        let last = self.last();
        last.error.is_some() && last.ended.is_some_and(|ended| ended.elapsed() < FAILURE_PAUSE)
    }

    fn start_due(&self, node: &Arc<Node>) {
        if self.bases.is_at_work.swap(true, Ordering::AcqRel) {
            return;
        }
        let node = Arc::clone(node);
        tokio::spawn(async move {
            node.snapshots.publish_due(&node).await;
            node.snapshots.bases.is_at_work.store(false, Ordering::Release);
        });
    }

    fn look_at_schedule(&self, node: &Arc<Node>, archive: &Archive, started: Instant) {
        if self.bases.is_at_work.load(Ordering::Acquire) {
            return;
        }
        let able = able(node);
        let committed = node.committer.watermarks.committed.get();
        let situation = {
            let mut asked = self.bases.asked.lock();
            if let Some(asked) = &mut *asked
                && able.iter().any(|able| able.node == asked.node && able.is_busy)
            {
                asked.since = Instant::now();
            }
            Situation {
                from: node.config().snapshot_from,
                is_due: self.is_base_due(node, started),
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
            Step::Wait => self.repeat_request(node),
            Step::Publish => {
                self.set_asked(node, None);
                self.start_due(node);
            }
            Step::Ask(replica) => {
                let before = situation.asked.map(|asked| [asked.failed, vec![asked.node]].concat()).unwrap_or_default();
                let failed = if before.contains(&replica) { Vec::new() } else { before };
                tracing::info!(node = replica, csn = committed.0, "a base is due; a replica is asked to publish it");
                let asked = AskedSince { node: replica, wanted: committed, since: Instant::now(), failed };
                self.set_asked(node, Some(asked));
            }
            Step::Credit(replica) => self.credit(node, archive, replica),
        }
    }

    fn set_asked(&self, node: &Node, asked: Option<AskedSince>) {
        if let Some(shipping) = node.shipping.load().as_ref() {
            let ask = asked.as_ref().map(|asked| (asked.node.clone(), asked.wanted));
            shipping.feeds.ask_for_base(ask);
        }
        *self.bases.asked.lock() = asked;
    }

    /// Repeats the request, because the replica may have reconnected since it was asked.
    fn repeat_request(&self, node: &Node) {
        let asked = self.bases.asked.lock().as_ref().map(|asked| (asked.node.clone(), asked.wanted));
        if let (Some(asked), Some(shipping)) = (asked, node.shipping.load().as_ref()) {
            shipping.feeds.ask_for_base(Some(asked));
        }
    }

    /// Records a base that a replica published, after reading its manifest once.
    fn credit(&self, node: &Arc<Node>, archive: &Archive, replica: String) {
        let feeds = node.shipping.load().as_ref().map_or_else(Vec::new, |shipping| shipping.feeds.status());
        let told = feeds.into_iter().find(|feed| feed.node == replica).map(|feed| feed.ack.publishing);
        let Some(Publishing { csn, epoch, after, .. }) = told else { return };
        self.bases.is_at_work.store(true, Ordering::Release);
        let (node, archive, logged) = (Arc::clone(node), archive.clone(), self.logged_bytes(node));
        tokio::spawn(async move {
            let start = BaseStart { base: BaseName { csn, epoch }, after };
            let cluster = node.identity().cluster;
            let mut found = read_manifest(&archive, cluster, start).await;
            if found.is_err() && !start.is_whole() {
                // Another node may have published a strict base at this csn first.
                found = read_manifest(&archive, cluster, BaseStart::whole(start.base)).await;
            }
            match found {
                Ok(manifest) => {
                    tracing::info!(node = replica, csn = csn.0, "a replica published the base that was due");
                    node.snapshots.note_of_replica(logged, Published::of(&manifest), replica);
                    if manifest.level == Level::Eventual {
                        node.snapshots.bases.owe_repair(start, REPAIR_GRACE);
                    }
                }
                // The base stays due, and the next call decides what to do.
                Err(error) => {
                    tracing::warn!(node = replica, %error, "the base that a replica published cannot be read")
                }
            }
            node.snapshots.set_asked(&node, None);
            node.snapshots.bases.is_at_work.store(false, Ordering::Release);
        });
    }

    /// Once after the start or after a promotion, finds eventual bases whose repair a crash interrupted.
    fn look_for_unrepaired(&self, node: &Arc<Node>, archive: &Archive) {
        if self.bases.was_looked_for.swap(true, Ordering::AcqRel) {
            return;
        }
        let (node, archive) = (Arc::clone(node), archive.clone());
        tokio::spawn(async move {
            let identity = node.identity();
            match repair::unrepaired(&archive, identity.cluster, identity.epoch()).await {
                Ok(found) => {
                    found.into_iter().for_each(|start| node.snapshots.bases.owe_repair(start, Duration::ZERO));
                }
                Err(error) => tracing::warn!(%error, "the bases that need repair could not be determined"),
            }
        });
    }

    /// Starts the repair of an eventual base, if one is due and no other repair is running.
    fn repair_next(&self, node: &Arc<Node>, archive: &Archive) {
        let now = Instant::now();
        let due = self.bases.repairs.lock().iter().find(|(_, owed)| owed.not_before <= now).map(|(start, _)| *start);
        let Some(start) = due else { return };
        if self.bases.is_repairing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (node, archive) = (Arc::clone(node), paced(node, archive));
        tokio::spawn(async move {
            let identity = node.identity();
            let is_own = identity.shared_until(start.base.epoch).is_some_and(|until| start.base.csn <= until);
            let logs = Some(&node.committer).filter(|_| is_own);
            let outcome = repair::repair(&archive, identity.cluster, start, logs).await;
            node.snapshots.note_repair(start, outcome);
            node.snapshots.bases.is_repairing.store(false, Ordering::Release);
        });
    }

    fn note_repair(&self, start: BaseStart, outcome: Result<Repair>) {
        let mut repairs = self.bases.repairs.lock();
        match outcome {
            Ok(_) => drop(repairs.remove(&start)),
            Err(error) => {
                tracing::warn!(csn = start.base.csn.0, %error, "a base could not be repaired; the repair is retried");
                if let Some(owed) = repairs.get_mut(&start) {
                    owed.not_before = Instant::now() + owed.pause;
                    owed.pause = (owed.pause * 2).min(REPAIR_PAUSE_MAX);
                }
            }
        }
    }

    /// Returns what this node reports to its primary about bases.
    #[must_use]
    pub fn publishing(&self, node: &Node) -> Publishing {
        let own = self.last().own;
        Publishing {
            is_willing: is_willing(node),
            is_busy: self.bases.is_at_work.load(Ordering::Acquire),
            csn: own.map(|own| own.base.csn).unwrap_or_default(),
            epoch: own.map(|own| own.base.epoch).unwrap_or_default(),
            after: own.map(|own| own.after).unwrap_or_default(),
        }
    }
}

/// Returns the archive with the bandwidth limit for bases.
fn paced(node: &Node, archive: &Archive) -> Archive {
    archive.with_bandwidth(Arc::clone(&node.snapshots.bases.bandwidth))
}

/// Reports whether this replica is ready to publish a base.
fn is_willing(node: &Node) -> bool {
    let may = node.config().snapshot_from != crate::config::SnapshotFrom::Primary;
    let Some(link) = node.link().filter(|_| may && node.is_replica() && node.archive.is_some()) else { return false };
    let status = link.status();
    status.state == "connected" && Duration::from_millis(status.lag_ms) <= PUBLISHER_LAG_MAX
}

/// Returns the connected replicas that can publish a base.
fn able(node: &Node) -> Vec<Able> {
    let feeds = node.shipping.load().as_ref().map_or_else(Vec::new, |shipping| shipping.feeds.status());
    let willing = feeds.into_iter().filter(|feed| feed.ack.publishing.is_willing || feed.ack.publishing.is_busy);
    willing
        .map(|feed| Able { node: feed.node, is_busy: feed.ack.publishing.is_busy, published: feed.ack.publishing.csn })
        .collect()
}

/// Waits until the archive's chunks reach `csn`. A primary cuts the chunks at once.
async fn covered(node: &Arc<Node>, csn: Csn) -> Result<()> {
    let wait = async {
        match node.shipping.load_full().filter(|shipping| shipping.has_archive()) {
            Some(shipping) => shipping.flush(csn).await,
            None => {
                node.committer.watermarks.archived.reached(csn).await;
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

impl Snapshots {
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
                self.saved.store(crate::clock::now_millis() / 1000, Ordering::Relaxed);
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
