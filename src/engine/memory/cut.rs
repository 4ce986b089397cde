//! The content of a dictionary at one moment, readable by another thread while the writer continues.
//!
//! Guarantees: a cut never changes. A cut keeps its content in memory, so it should be dropped once it has been read.

use super::entry::{Entry, Value};
use super::part::{Group, Hashed};
use std::sync::Arc;

/// Keys and entries as they were when the cut was made.
#[derive(Clone)]
pub struct Cut<V: Value> {
    groups: Vec<Arc<Group<V>>>,
    len: usize,
}

impl<V: Value> Cut<V> {
    pub(super) fn new(groups: Vec<Arc<Group<V>>>, len: usize) -> Self {
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

    /// Returns the entry of a key, expired or not.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Entry<V>> {
        Hashed::of(key).find_in(&self.groups)
    }

    /// Iterates over all keys and entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry<V>)> {
        entries(&self.groups)
    }

    /// Iterates over the keys and entries of share number `share` of `shares`. The shares have about equally many keys;
    /// each key is in exactly one share.
    pub fn iter_share(&self, share: usize, shares: usize) -> impl Iterator<Item = (&[u8], &Entry<V>)> {
        assert!(share < shares, "share {share} of {shares}");
        let bound = |share: usize| self.groups.len() * share / shares;
        entries(&self.groups[bound(share)..bound(share + 1)])
    }
}

/// Iterates over all keys and entries of `groups`.
pub(super) fn entries<V: Value>(groups: &[Arc<Group<V>>]) -> impl Iterator<Item = (&[u8], &Entry<V>)> + Clone {
    let shards = groups.iter().flat_map(|group| group.0.iter().flatten());
    shards.flat_map(|shard| shard.iter()).map(|slot| (&*slot.key, &slot.entry))
}
