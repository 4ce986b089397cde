//! Repairs eventual bases in the archive, so that they become strict.
//!
//! Guarantees: a base is repaired until it is strict, even across restarts. One repair runs at a time.

use super::core::Core;
use crate::archive::bandwidth::Bandwidth;
use crate::archive::listing::BaseStart;
use crate::archive::store::Archive;
use crate::error::Result;
use crate::restore::repair::{self, Repair};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time that a primary leaves the repair of an eventual base to the replica that published it. Also the pause after the
/// first failed attempt to repair a base.
pub const REPAIR_GRACE: Duration = Duration::from_secs(60);
/// Longest pause between two attempts to repair a base.
const REPAIR_PAUSE_MAX: Duration = Duration::from_secs(3600);

/// When a base is to be repaired.
#[derive(Clone, Copy)]
struct Owed {
    not_before: Instant,
    /// Pause after the next failed attempt.
    pause: Duration,
}

/// The eventual bases that wait for repair, as far as this node knows.
pub struct Repairs {
    core: Arc<Core>,
    /// Limits the bandwidth of all uploads of bases together.
    bandwidth: Arc<Bandwidth>,
    owed: Mutex<BTreeMap<BaseStart, Owed>>,
    is_repairing: AtomicBool,
    /// Whether this process has searched for bases that were left without repair before its start.
    was_looked_for: AtomicBool,
}

impl Repairs {
    /// Creates the state of a node that knows of no base to repair.
    #[must_use]
    pub fn new(core: Arc<Core>, bandwidth: Arc<Bandwidth>) -> Arc<Self> {
        let (is_repairing, was_looked_for) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { core, bandwidth, owed: Mutex::default(), is_repairing, was_looked_for })
    }

    /// Returns the number of eventual bases that wait for repair, as far as this node knows.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.owed.lock().len()
    }

    /// Records that a base is to be repaired, at the earliest `after` from this moment.
    pub fn owe(&self, start: BaseStart, after: Duration) {
        let owed = Owed { not_before: Instant::now() + after, pause: REPAIR_GRACE };
        self.owed.lock().insert(start, owed);
    }

    /// Once after the start or after a promotion, finds eventual bases whose repair a crash interrupted.
    pub fn look_for_unrepaired(self: &Arc<Self>, archive: &Archive) {
        if self.was_looked_for.swap(true, Ordering::AcqRel) {
            return;
        }
        let (repairs, archive) = (Arc::clone(self), archive.clone());
        tokio::spawn(async move {
            let identity = repairs.core.identity();
            match repair::unrepaired(&archive, identity.cluster, identity.epoch()).await {
                Ok(found) => {
                    found.into_iter().for_each(|start| repairs.owe(start, Duration::ZERO));
                }
                Err(error) => tracing::warn!(%error, "the bases that need repair could not be determined"),
            }
        });
    }

    /// Starts the repair of an eventual base, if one is due and no other repair is running.
    pub fn repair_next(self: &Arc<Self>, archive: &Archive) {
        let now = Instant::now();
        let due = self.owed.lock().iter().find(|(_, owed)| owed.not_before <= now).map(|(start, _)| *start);
        let Some(start) = due else { return };
        if self.is_repairing.swap(true, Ordering::AcqRel) {
            return;
        }
        let repairs = Arc::clone(self);
        let archive = archive.with_bandwidth(Arc::clone(&self.bandwidth));
        tokio::spawn(async move {
            let identity = repairs.core.identity();
            let is_own = identity.shared_until(start.base.epoch).is_some_and(|until| start.base.csn <= until);
            let logs = Some(&repairs.core.committer).filter(|_| is_own);
            let outcome = repair::repair(&archive, identity.cluster, start, logs).await;
            repairs.note(start, outcome);
            repairs.is_repairing.store(false, Ordering::Release);
        });
    }

    fn note(&self, start: BaseStart, outcome: Result<Repair>) {
        let mut all_owed = self.owed.lock();
        match outcome {
            Ok(_) => drop(all_owed.remove(&start)),
            Err(error) => {
                tracing::warn!(csn = start.base.csn.0, %error, "a base could not be repaired; the repair is retried");
                if let Some(owed) = all_owed.get_mut(&start) {
                    owed.not_before = Instant::now() + owed.pause;
                    owed.pause = (owed.pause * 2).min(REPAIR_PAUSE_MAX);
                }
            }
        }
    }
}
