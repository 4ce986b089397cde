//! Frees disk space while the disk is low: writes a memory image, so that the logs before it can be purged, and removes
//! deleted rows from RocksDB's files, so that deletions by clients free space.

use super::core::Core;
use super::snapshots::Snapshots;
use crate::background;
use crate::commit::gate::RefusalReason;
use crate::commit::room;
use crate::csn::Csn;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_secs(3);

/// The state of reclaiming.
#[derive(Default)]
pub(super) struct Reclaiming {
    /// The last commit at the last round; without a later commit, nothing was deleted since.
    looked_at: Option<Csn>,
    round: Arc<Mutex<Round>>,
}

#[derive(Default)]
enum Round {
    #[default]
    None,
    Running,
    Ended(Instant),
}

impl Reclaiming {
    /// Starts a round in the background if the disk is low and a commit since the last round may have deleted
    /// something.
    pub(super) fn look(&mut self, core: &Arc<Core>, snapshots: &Arc<Snapshots>) {
        let committed = core.committer.watermarks.committed.get();
        if !core.committer.gate.stands(RefusalReason::DiskLow) || self.looked_at == Some(committed) {
            return;
        }
        let mut round = self.round.lock();
        match *round {
            Round::Running => return,
            Round::Ended(when) if when.elapsed() < PAUSE => return,
            _ => *round = Round::Running,
        }
        drop(round);
        self.looked_at = Some(committed);
        let (core, snapshots, round) = (Arc::clone(core), Arc::clone(snapshots), Arc::clone(&self.round));
        std::thread::spawn(move || {
            background::run(|| reclaim(&core, &snapshots));
            *round.lock() = Round::Ended(Instant::now());
        });
    }
}

fn reclaim(core: &Core, snapshots: &Snapshots) {
    let room = || room::room_to_reclaim(core.dir.root(), core.config().min_free_bytes.0);
    let before = room();
    // An image is at most as large as the keys in memory.
    if (core.committer.memory().memory_bytes() as u64) < before / 2 {
        snapshots.write_image();
    }
    if let Err(error) = core.committer.disk().reclaim(room) {
        tracing::warn!(%error, "the disk space of deleted data could not be freed");
    }
    let freed = room().saturating_sub(before);
    if freed > 0 {
        tracing::info!(freed, "the disk space of logs and deleted rows was freed");
    }
}
