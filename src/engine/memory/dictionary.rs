//! Keys and their values in many small shards, of which a cut is taken in microseconds.
//!
//! Shards lie in groups, groups in parts. Cuts share the shards and groups. A cut clones only the pointers to groups,
//! so its cost does not depend on the number of keys. After a cut, the first change in a group copies the group's
//! pointers to shards, and the first change in a shard copies the shard's table, which holds pointers to keys and
//! values, but not their content.
//!
//! Guarantees: a cut never changes. A key stays in its shard for as long as the process lives. `memory_bytes` is exact
//! up to the allocator's rounding, at any time, in O(1). Large values are dropped on another thread than the writer's.
//! Non-goals: hiding expired keys (the caller knows the time), locks.

use super::cut::Cut;
use super::entry::{Entry, Value};
use super::part::{Hashed, PARTS, Part, SHARDS};
use super::small_bytes::SmallBytes;

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
    /// Returns an empty dictionary.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Reports whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Part::is_empty)
    }

    /// Returns the heap bytes of keys, values, tables and expiries; O(1). Memory that only cuts hold is not counted.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.parts.iter().map(Part::memory_bytes).sum()
    }

    /// Returns the entry of a key, expired or not.
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

    /// Changes the value of a key. A key that does not exist is added first, with the default value and no expiry.
    pub fn update_or_default<R>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        let (part, key) = self.part_of(key);
        part.update_or_default(key, change)
    }

    /// Sets the value and the expiry of a key, whether or not the key exists.
    pub fn insert(&mut self, key: &[u8], entry: Entry<V>) {
        let (part, key) = self.part_of(key);
        part.insert(key, entry);
    }

    /// Removes a key and returns its entry. The caller drops the entry on its own thread; for large values see
    /// [`Dictionary::delete`].
    pub fn remove(&mut self, key: &[u8]) -> Option<Entry<V>> {
        let (part, key) = self.part_of(key);
        part.remove(key)
    }

    /// Removes a key and drops its value, a large value on another thread; false if there is no such key.
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let (part, key) = self.part_of(key);
        part.delete(key)
    }

    /// Moves an entry to another key, whose former entry is dropped; false if there is no key `from`.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some(entry) = self.remove(from) else { return false };
        self.insert(to, entry);
        true
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.parts.iter_mut().for_each(Part::clear);
    }

    /// Iterates over all keys and entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry<V>)> {
        self.parts.iter().flat_map(|part| super::cut::entries(part.groups()))
    }

    /// Returns the cursor to continue from (0 at the end), and the keys of whole shards from `cursor` on, until there
    /// are at least `count` keys. A key that exists from the first call to the last one is returned exactly once.
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

    /// Returns up to `limit` keys whose expiry is not after `now_ms`, the earliest first.
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

    /// Returns a cut of the current content, which another thread may read.
    #[must_use]
    pub fn cut(&self) -> Cut<V> {
        Cut::new(self.parts.iter().flat_map(|part| part.groups().iter().cloned()).collect(), self.len())
    }

    /// Returns all parts, by number.
    pub(super) fn parts_mut(&mut self) -> &mut [Part<V>; PARTS] {
        &mut self.parts
    }

    /// Returns the part to which a key belongs, whether or not the key exists.
    pub(super) fn part_of<'k>(&mut self, key: &'k [u8]) -> (&mut Part<V>, Hashed<'k>) {
        let key = Hashed::of(key);
        (&mut self.parts[key.part()], key)
    }
}

#[cfg(test)]
impl<V: Value> Dictionary<V> {
    /// Sets the expiry of a key, 0: never; false if there is no such key.
    pub fn set_expire(&mut self, key: &[u8], expire_ms: u64) -> bool {
        let (part, key) = self.part_of(key);
        part.set_expire(key, expire_ms)
    }

    /// Panics if a counter differs from a recount.
    pub fn check(&self) {
        self.parts.iter().for_each(Part::check);
        assert_eq!(self.len(), self.iter().count());
    }
}

#[cfg(test)]
#[path = "dictionary_tests.rs"]
mod tests;
