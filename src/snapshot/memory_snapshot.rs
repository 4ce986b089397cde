//! The memory engines cut at one commit: what images are made of.
//!
//! Guarantees: the cut holds exactly the commits up to its position. Writers wait for microseconds, however much there
//! is. Holds what it shows in memory: drop it when it has been written.

use crate::commit::committer::Committer;
use crate::commit::gate::RefusalReason;
use crate::engine::memory::MemoryCut;
use crate::error::{Error, Result};
use crate::log::recovery::ImagePosition;
use std::time::{Duration, Instant};

/// The memory engines at one commit.
pub struct MemorySnapshot {
    /// What they held.
    pub cut: MemoryCut,
    /// Bytes they held.
    pub bytes: usize,
    /// After which commit.
    pub at: ImagePosition,
    /// How long the writer lock was held.
    pub pause: Duration,
}

impl MemorySnapshot {
    /// The memory engines now. Refused once a log write failed: they may hold effects then that no log has.
    pub fn take(committer: &Committer) -> Result<Self> {
        let mut turn = committer.lock_logs();
        let locked = Instant::now();
        if committer.gate.stands(RefusalReason::Broken) {
            let reason = "no snapshot is cut after a failed log write: restart first".to_owned();
            return Err(Error::Refused { reason });
        }
        let at = turn.image_position();
        let memory = &turn.writer().memory;
        let (cut, bytes) = (memory.cut(), memory.memory_bytes());
        drop(turn);
        Ok(Self { cut, bytes, at, pause: locked.elapsed() })
    }
}
