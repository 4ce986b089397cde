//! One commit's effects in the form in which they travel: from the committer to the tail, into chunks, out of the two
//! logs, and into every apply.
//!
//! Guarantees: a record is whole. What it carries is effects, never commands: applying it needs no clock, no
//! randomness and no earlier reply.

use crate::csn::{CommitTime, Csn, Epoch};
use bytes::Bytes;

/// One commit: all effects of one command or of one MULTI/EXEC, over all engines.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CommitRecord {
    /// Position of the commit.
    pub csn: Csn,
    /// Generation of the writer that made it.
    pub epoch: Epoch,
    /// When it was made.
    pub time: CommitTime,
    /// Number of RocksDB operations in `disk`.
    pub disk_ops: u32,
    /// RocksDB write batch records (tags, column families, keys, values) without the batch header, without LogData
    /// and without the csn key. Empty if the commit touches no disk engine.
    pub disk: Bytes,
    /// Encoded list ops (see `engine::memory::op`). Empty if none.
    pub lists: Bytes,
    /// Encoded sorted set ops (see `engine::memory::op`). Empty if none.
    pub zsets: Bytes,
}

impl CommitRecord {
    /// Whether the commit has effects in the memory engines.
    #[must_use]
    pub fn touches_memory(&self) -> bool {
        !self.lists.is_empty() || !self.zsets.is_empty()
    }

    /// Whether the commit has effects in the disk engines.
    #[must_use]
    pub fn touches_disk(&self) -> bool {
        self.disk_ops > 0
    }

    /// Whether the commit has effects on both sides, and therefore stands whole in both logs.
    #[must_use]
    pub fn is_cross_engine(&self) -> bool {
        self.touches_disk() && self.touches_memory()
    }

    /// Bytes of effects, all engines.
    #[must_use]
    pub fn effect_bytes(&self) -> usize {
        self.disk.len() + self.lists.len() + self.zsets.len()
    }
}
