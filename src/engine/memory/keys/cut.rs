//! All keys in memory at one moment, readable by another thread while the writer continues.
//!
//! Guarantees: a cut never changes. A cut keeps its content in memory, so it should be dropped once it has been read.

use super::shard::{Group, Hashed, SHARDS_PER_GROUP};
use crate::engine::memory::slot::Slot;
use std::sync::Arc;

/// Slots as they were when the cut was made.
#[derive(Clone)]
pub struct MemoryCut {
    groups: Vec<Arc<Group>>,
    len: usize,
}

impl MemoryCut {
    pub(super) fn new(groups: Vec<Arc<Group>>, len: usize) -> Self {
        Self { groups, len }
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Reports whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the slot of a key, expired or not.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Slot> {
        let key = Hashed::of(key);
        self.groups[key.shard() / SHARDS_PER_GROUP].get(key)
    }

    /// Iterates over all slots, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.groups.iter().flat_map(|group| group.slots())
    }

    /// Iterates over the slots of share number `share` of `shares`. The shares have about equally many keys; each key
    /// is in exactly one share.
    pub fn iter_share(&self, share: usize, shares: usize) -> impl Iterator<Item = &Slot> {
        assert!(share < shares, "share {share} of {shares}");
        let bound = |share: usize| self.groups.len() * share / shares;
        self.groups[bound(share)..bound(share + 1)].iter().flat_map(|group| group.slots())
    }
}
