//! The gate tells whether this node takes writes, and if not, why. Every write is checked against it.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why writes are refused. If several reasons stand, clients are told the highest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RefusalReason {
    /// The spool is full, because the archive has not taken chunks for too long. Ends when the archive takes chunks.
    SpoolFull,
    /// The disk has less room than `min-free-bytes`. Writes that free space are taken. Ends once there is space.
    DiskLow,
    /// The disk has no room for the logs or for RocksDB. Ends once there is space.
    DiskFull,
    /// This node is a replica.
    Replica,
    /// Uploading ended for another reason than a newer epoch: nothing written would be archived until a restart.
    Unarchived,
    /// A log could not be written or synced: the content of the disk is unknown until a restart.
    Broken,
    /// A newer epoch exists. A restart does not end this obstacle.
    Fenced,
}

impl RefusalReason {
    /// Returns the Redis error code that a client gets.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Replica => "READONLY",
            Self::Fenced => "FENCED",
            Self::SpoolFull | Self::DiskLow | Self::DiskFull | Self::Unarchived | Self::Broken => "MISCONF",
        }
    }

    /// Returns the error of a request that this reason refuses; `reason` is the text of the gate.
    #[must_use]
    pub fn error(self, reason: String) -> Error {
        match self {
            Self::SpoolFull | Self::DiskLow | Self::DiskFull => Error::NoRoom { reason },
            Self::Unarchived | Self::Broken => Error::NeedsRestart { reason },
            Self::Replica | Self::Fenced => Error::Conflict { reason },
        }
    }
}

/// The obstacles that stand on one node, each with a text for operators and clients.
#[derive(Debug, Default)]
pub struct Gate {
    /// Sorted by obstacle, lowest first; each obstacle occurs once.
    obstacles: Mutex<Vec<(RefusalReason, String)>>,
    /// Whether `obstacles` holds any: the only field that a write reads while writes are taken.
    is_closed: AtomicBool,
}

impl Gate {
    /// Adds an obstacle, so that writes are refused. `reason` replaces an earlier reason of the same obstacle.
    pub fn close(&self, obstacle: RefusalReason, reason: impl Into<String>) {
        self.change(|all| {
            all.retain(|(other, _)| *other != obstacle);
            all.push((obstacle, reason.into()));
            all.sort();
        });
    }

    /// Removes one obstacle, if it stands.
    pub fn open(&self, obstacle: RefusalReason) {
        if self.stands(obstacle) {
            self.change(|all| all.retain(|(other, _)| *other != obstacle));
        }
    }

    /// Returns why this obstacle stands, or `None` if it does not.
    #[must_use]
    pub fn reason(&self, obstacle: RefusalReason) -> Option<String> {
        let obstacles = self.is_closed().then(|| self.obstacles.lock())?;
        obstacles.iter().find(|(other, _)| *other == obstacle).map(|(_, reason)| reason.clone())
    }

    /// Returns an error while this obstacle stands.
    pub fn require_open(&self, obstacle: RefusalReason) -> Result<()> {
        self.reason(obstacle).map_or(Ok(()), |reason| Err(obstacle.error(reason)))
    }

    /// Reports whether this obstacle stands.
    #[must_use]
    pub fn stands(&self, obstacle: RefusalReason) -> bool {
        self.is_closed() && self.obstacles.lock().iter().any(|(other, _)| *other == obstacle)
    }

    /// Reports whether this node must not change its archive, because another node may be responsible for the archive.
    #[must_use]
    pub fn leaves_archive_alone(&self) -> bool {
        self.stands(RefusalReason::Fenced) || self.stands(RefusalReason::Unarchived)
    }

    /// Returns why writes are refused, or `None` if writes are taken.
    #[must_use]
    pub fn refusal(&self) -> Option<(RefusalReason, String)> {
        self.is_closed().then(|| self.obstacles.lock().last().cloned()).flatten()
    }

    /// Returns why a write that frees space is refused, or `None` if such a write is taken.
    #[must_use]
    pub fn refusal_to_free(&self) -> Option<(RefusalReason, String)> {
        let obstacles = self.is_closed().then(|| self.obstacles.lock())?;
        obstacles.iter().rev().find(|(obstacle, _)| *obstacle != RefusalReason::DiskLow).cloned()
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<(RefusalReason, String)>)) {
        let mut all = self.obstacles.lock();
        change(&mut all);
        self.is_closed.store(!all.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_obstacle_is_told_and_all_must_go() {
        let gate = Gate::default();
        assert!(gate.refusal().is_none());
        gate.close(RefusalReason::Fenced, "newer epoch");
        gate.close(RefusalReason::SpoolFull, "spool");
        gate.close(RefusalReason::Broken, "a restart ends this alone");
        assert_eq!(gate.refusal().unwrap().0, RefusalReason::Fenced);
        gate.open(RefusalReason::Fenced);
        gate.open(RefusalReason::Broken);
        assert_eq!(gate.refusal().unwrap().0.code(), "MISCONF");
        gate.close(RefusalReason::DiskLow, "little room");
        assert_eq!(gate.refusal().unwrap().0, RefusalReason::DiskLow);
        assert_eq!(gate.refusal_to_free().unwrap().0, RefusalReason::SpoolFull);
        gate.open(RefusalReason::SpoolFull);
        assert!(gate.refusal().is_some() && gate.refusal_to_free().is_none());
        gate.open(RefusalReason::DiskLow);
        assert!(gate.refusal().is_none());
    }
}
