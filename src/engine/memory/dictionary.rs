//! Keys and their values in many small shards, cut in microseconds.
//!
//! Shards lie in groups, groups in parts; shards and groups are shared with cuts. A cut clones the groups' pointers
//! only, so its cost does not depend on the number of keys; afterwards the first change in a group copies its pointers
//! to shards, and the first change in a shard copies that shard's table: pointers to keys and values, never what they
//! hold.
//!
//! Guarantees: a cut never changes; a key stays in its shard for as long as the process lives; `memory_bytes` is exact
//! up to the allocator's rounding, at any time, in O(1); large values are dropped off the writer's thread.
//! Non-goals: hiding expired keys (the caller knows the time), locks.

use super::cut::Cut;
use super::part::{Hashed, PARTS, Part, SHARDS};
use super::small_bytes::SmallBytes;

/// What a dictionary can hold: cheap to clone, because a shard's copy clones it.
pub trait Value: Clone + Send + Sync + 'static {
    /// Heap bytes held; O(1).
    fn memory_bytes(&self) -> usize;
}

/// A value and its expiry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<V> {
    /// The value.
    pub value: V,
    /// Milliseconds since the Unix epoch from which on the key is expired; 0 = never.
    pub expire_ms: u64,
}

/// Keys and values of one memory engine.
pub struct Dictionary<V: Value> {
    parts: [Part<V>; PARTS],
}

impl<V: Value> Default for Dictionary<V> {
    fn default() -> Self {
        Self { parts: std::array::from_fn(|_| Part::default()) }
    }
}

impl<V: Value> Dictionary<V> {
    /// An empty dictionary.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Part::is_empty)
    }

    /// Heap bytes of keys, values, tables and expiries; O(1). What only cuts still hold is not counted.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.parts.iter().map(Part::memory_bytes).sum()
    }

    /// The entry of a key, expired or not.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Entry<V>> {
        let key = Hashed::of(key);
        self.parts[key.part()].get(key)
    }

    /// Changes the value of a key; `None` if there is no such key.
    pub fn update<R>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> R) -> Option<R> {
        let (part, key) = self.part_of(key);
        part.update(key, change)
    }

    /// Changes the value of a key, which is added with the default value and no expiry if it is not there.
    pub fn update_or_default<R>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        let (part, key) = self.part_of(key);
        part.update_or_default(key, change)
    }

    /// Gives a key a value and an expiry, whatever it had.
    pub fn insert(&mut self, key: &[u8], entry: Entry<V>) {
        let (part, key) = self.part_of(key);
        part.insert(key, entry);
    }

    /// Takes a key and its entry out. The caller drops it, large or not; see [`Dictionary::delete`].
    pub fn remove(&mut self, key: &[u8]) -> Option<Entry<V>> {
        let (part, key) = self.part_of(key);
        part.remove(key)
    }

    /// Removes a key and drops its value, a large one elsewhere; false if there is no such key.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let (part, key) = self.part_of(key);
        part.delete(key)
    }

    /// Moves an entry to another key, whose entry is dropped; false if there is no such key.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some(entry) = self.remove(from) else { return false };
        self.insert(to, entry);
        true
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.parts.iter_mut().for_each(Part::clear);
    }

    /// All keys and entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry<V>)> {
        self.parts.iter().flat_map(|part| super::cut::entries(part.groups()))
    }

    /// Keys of whole shards from `cursor` on, until there are at least `count`; and the cursor to go on from, 0 at the
    /// end. A key that is there from the first call to the last is returned exactly once.
    #[must_use]
    pub fn scan(&self, cursor: u64, count: usize) -> (u64, Vec<SmallBytes>) {
        let mut keys = Vec::new();
        let mut at = usize::try_from(cursor).unwrap_or(SHARDS);
        while at < SHARDS && keys.len() < count.max(1) {
            let shard = self.parts[at / (SHARDS / PARTS)].shard(at);
            keys.extend(shard.into_iter().flatten().map(|slot| slot.key.clone()));
            at += 1;
        }
        (if at < SHARDS { at as u64 } else { 0 }, keys)
    }

    /// Up to `limit` keys whose expiry is not after `now_ms`, the earliest first.
    #[must_use]
    pub fn expired(&self, now_ms: u64, limit: usize) -> Vec<SmallBytes> {
        let due = self.parts.iter().map(|part| part.expiries().take_while(|(at, _)| *at <= now_ms).peekable());
        let mut parts: Vec<_> = due.collect();
        let earliest = || {
            let heads = parts.iter_mut().filter_map(|part| part.peek().copied().map(|head| (head, part)));
            heads.min_by_key(|(head, _)| *head)?.1.next()
        };
        std::iter::from_fn(earliest).take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// The content as it is now, for another thread.
    #[must_use]
    pub fn cut(&self) -> Cut<V> {
        Cut::new(self.parts.iter().flat_map(|part| part.groups().iter().cloned()).collect(), self.len())
    }

    /// Each part, by its number.
    pub(super) fn parts_mut(&mut self) -> &mut [Part<V>; PARTS] {
        &mut self.parts
    }

    /// The part that has a key, or would have it.
    pub(super) fn part_of<'k>(&mut self, key: &'k [u8]) -> (&mut Part<V>, Hashed<'k>) {
        let key = Hashed::of(key);
        (&mut self.parts[key.part()], key)
    }
}

#[cfg(test)]
impl<V: Value> Dictionary<V> {
    /// Sets the expiry of a key, 0 = never; false if there is no such key.
    pub fn set_expire(&mut self, key: &[u8], expire_ms: u64) -> bool {
        let (part, key) = self.part_of(key);
        part.set_expire(key, expire_ms)
    }

    /// Panics unless the counters are what a recount finds.
    pub fn check(&self) {
        self.parts.iter().for_each(Part::check);
        assert_eq!(self.len(), self.iter().count());
    }
}

#[cfg(test)]
#[path = "dictionary_tests.rs"]
mod tests;
