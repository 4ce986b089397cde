//! One commit's effects in the form in which they travel: from the committer to the tail, into chunks, out of the two
//! logs, and to wherever they are applied.
//!
//! Guarantees: a record is whole, and carries effects, never commands: applying a record needs no clock, no randomness
//! and no earlier reply.

use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::error::{Error, Result};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// One commit: all effects of one command or of one MULTI/EXEC, over all engines.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CommitRecord {
    /// Number of the commit.
    pub csn: Csn,
    /// Generation of the writer that made the commit.
    pub epoch: Epoch,
    /// Time of the commit.
    pub time: CommitTime,
    /// History hash after this commit.
    pub hash: HistoryHash,
    /// Number of RocksDB operations in `disk`.
    pub disk_ops: u32,
    /// RocksDB write batch records (tags, column families, keys, values) without the batch header, without LogData
    /// and without the csn key. Empty if the commit touches no disk engine.
    pub disk: Bytes,
    /// Encoded ops on the keys in memory (see `engine::memory::ops`). Empty if none.
    pub memory: Bytes,
}

impl CommitRecord {
    /// Reports whether the commit has effects on keys in memory.
    #[must_use]
    pub fn touches_memory(&self) -> bool {
        !self.memory.is_empty()
    }

    /// Reports whether the commit has effects on disk.
    #[must_use]
    pub fn touches_disk(&self) -> bool {
        self.disk_ops > 0
    }

    /// Reports whether the commit has effects in memory and on disk, and therefore stands whole in both logs.
    #[must_use]
    pub fn is_cross_engine(&self) -> bool {
        self.touches_disk() && self.touches_memory()
    }

    /// Returns the bytes of effects in both homes.
    #[must_use]
    pub fn effect_bytes(&self) -> usize {
        self.disk.len() + self.memory.len()
    }

    /// Returns the history hash after this commit if `before` is the hash before it: XXH3 (64 bits) over the commit's
    /// time and its effects, chained through the seed. The field `hash` is not read. The hashed bytes are in
    /// `log/FORMAT.md`.
    #[must_use]
    pub fn hash_after(&self, before: HistoryHash) -> HistoryHash {
        // Odd multipliers (from SplitMix64 and XXH64) keep the three words of the seed apart.
        let seed = before.0.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            ^ self.time.0.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
            ^ u64::from(self.disk_ops).wrapping_mul(0x1656_67b1_9e37_79f9);
        let hash = xxh3_64_with_seed(&self.disk, seed);
        HistoryHash(if self.memory.is_empty() { hash } else { xxh3_64_with_seed(&self.memory, hash.wrapping_add(1)) })
    }

    /// Checks that this commit continues the history that has the hash `before`; `what` names the source of the commit.
    /// Returns an error if the commit belongs to another history.
    pub fn require_continues(&self, before: HistoryHash, what: &str) -> Result<()> {
        let found = self.hash_after(before);
        if found == self.hash {
            return Ok(());
        }
        Err(Error::OtherHistory { what: what.to_owned(), csn: self.csn, expected: found, found: self.hash })
    }
}

/// Sets the history hashes of consecutive commits, the first of which follows `before`. Returns the last hash.
pub fn chain<'c>(before: HistoryHash, commits: impl IntoIterator<Item = &'c mut CommitRecord>) -> HistoryHash {
    commits.into_iter().fold(before, |before, commit| {
        commit.hash = commit.hash_after(before);
        commit.hash
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Goal: any difference in effects, time or predecessor gives another hash.
        #[test]
        fn what_differs_hashes_differently(
            before: u64, other: u64, time in 0..u64::MAX - 1,
            disk in proptest::collection::vec(any::<u8>(), 0..300), memory: Vec<u8>,
        ) {
            let commit = CommitRecord {
                time: CommitTime(time),
                disk_ops: u32::from(!disk.is_empty()),
                disk: disk.into(),
                memory: memory.into(),
                ..CommitRecord::default()
            };
            let hash = commit.hash_after(HistoryHash(before));
            prop_assert_eq!(hash, commit.clone().hash_after(HistoryHash(before)));
            prop_assert_eq!(hash == commit.hash_after(HistoryHash(other)), before == other);
            let moved = CommitRecord { time: CommitTime(time + 1), ..commit.clone() };
            prop_assert_ne!(hash, moved.hash_after(HistoryHash(before)));
            let more = CommitRecord { memory: [&commit.memory[..], b"x"].concat().into(), ..commit.clone() };
            prop_assert_ne!(hash, more.hash_after(HistoryHash(before)));
            if commit.disk != commit.memory {
                let (disk, memory) = (commit.memory.clone(), commit.disk.clone());
                prop_assert_ne!(hash, CommitRecord { disk, memory, ..commit }.hash_after(HistoryHash(before)));
            }
        }
    }

    /// Goal: the hash is part of the formats: its value never changes.
    #[test]
    fn the_hash_of_a_known_commit_is_known() {
        let commit = CommitRecord {
            time: CommitTime(1_790_000_000_000_000),
            disk_ops: 1,
            disk: Bytes::from_static(b"disk"),
            memory: Bytes::from_static(b"lists"),
            ..CommitRecord::default()
        };
        assert_eq!(commit.hash_after(HistoryHash(1)).to_string(), "aeb14f75cab44a5c");
    }

    #[test]
    fn a_commit_of_another_history_is_told() {
        let mut commits = vec![CommitRecord::default(); 2];
        chain(HistoryHash::ZERO, &mut commits);
        commits[1].require_continues(commits[0].hash, "a chunk").unwrap();
        let error = commits[1].require_continues(HistoryHash(7), "a chunk").unwrap_err();
        assert!(matches!(error, Error::OtherHistory { .. }), "{error}");
    }
}
