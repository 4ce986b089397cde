//! A cut of the keys in memory at one commit, from which images are written.
//!
//! Guarantees: the cut holds exactly the commits up to its position. Writers wait for microseconds, whatever the size
//! of the engines. The cut keeps the values that it shows in memory: drop it as soon as it is written.

use crate::commit::committer::Committer;
use crate::commit::gate::RefusalReason;
use crate::engine::memory::MemoryCut;
use crate::error::{Error, Result};
use crate::log::recovery::CutPoint;
use std::time::{Duration, Instant};

/// The keys in memory at one commit.
pub struct MemorySnapshot {
    /// The content of the engines.
    pub cut: MemoryCut,
    /// Bytes of memory that the engines held.
    pub bytes: usize,
    /// Position of the last commit in the cut.
    pub at: CutPoint,
    /// How long the writer lock was held.
    pub pause: Duration,
}

impl MemorySnapshot {
    /// Cuts the keys in memory at the last commit. [`Error::NeedsRestart`] after a failed log write: the engines may then
    /// hold effects that are in no log.
    pub fn take(committer: &Committer) -> Result<Self> {
        let turn = committer.lock_logs();
        let locked = Instant::now();
        if committer.gate.stands(RefusalReason::Broken) {
            let reason = "no snapshot is cut after a failed log write, because memory may hold effects that no log \
                          has. Restart the node first"
                .to_owned();
            return Err(Error::NeedsRestart { reason });
        }
        let at = turn.cut_point();
        let memory = committer.memory();
        let (cut, bytes) = (memory.cut(), memory.memory_bytes());
        drop(turn);
        Ok(Self { cut, bytes, at, pause: locked.elapsed() })
    }
}
