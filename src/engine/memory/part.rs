//! A part of a dictionary: the keys of some of its shards, with their values, expiries and counters.
//!
//! Guarantees: no part depends on another one, so that several threads can each change a part at the same time.

use super::entry::{Entry, Value};
use super::reclaim;
use super::small_bytes::SmallBytes;
use crate::engine::hash::hash;
use hashbrown::HashTable;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Number of parts of a dictionary.
pub const PARTS: usize = 8;
const GROUPS_PER_PART: usize = 16;
const SHARDS_PER_GROUP: usize = 128;
const SHARDS_PER_PART: usize = GROUPS_PER_PART * SHARDS_PER_GROUP;

/// Number of shards of a dictionary, and the smallest cursor that `Dictionary::scan` never returns.
pub const SHARDS: usize = PARTS * SHARDS_PER_PART;

/// Heap bytes of an expiry in its index, at the usual fill of the nodes of a B-tree.
const EXPIRY_BYTES: usize = 48;
/// Heap bytes of a shard beside its table.
const SHARD_BYTES: usize = 16 + 8 + size_of::<HashTable<()>>();

/// A key with its hash.
#[derive(Clone, Copy)]
pub struct Hashed<'k> {
    key: &'k [u8],
    hash: u64,
}

impl<'k> Hashed<'k> {
    /// Hashes a key.
    #[must_use]
    pub fn of(key: &'k [u8]) -> Self {
        Self { key, hash: hash(key) }
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &'k [u8] {
        self.key
    }

    /// Returns the number of the part to which the key belongs.
    #[must_use]
    pub fn part(&self) -> usize {
        self.shard() / SHARDS_PER_PART
    }

    /// Returns the key's entry; `groups` must be all groups of a dictionary, in order.
    pub(super) fn find_in<V>(self, groups: &[Arc<Group<V>>]) -> Option<&Entry<V>> {
        let shard = groups[self.shard() / SHARDS_PER_GROUP].0[self.shard() % SHARDS_PER_GROUP].as_ref()?;
        shard.find(self.hash, |slot| *slot.key == *self.key).map(|slot| &slot.entry)
    }

    /// Returns the number of the key's shard. It is made of bits of the hash that the shard's table uses neither for
    /// its buckets nor for its tags.
    fn shard(&self) -> usize {
        (self.hash >> 32) as usize % SHARDS
    }
}

#[derive(Clone)]
pub(super) struct Slot<V> {
    pub(super) key: SmallBytes,
    pub(super) entry: Entry<V>,
}

impl<V: Value> Slot<V> {
    fn bytes(&self) -> usize {
        self.key.memory_bytes() + self.entry.value.memory_bytes()
    }
}

pub(super) type Shard<V> = HashTable<Slot<V>>;

fn shard_bytes<V>(shard: &Shard<V>) -> usize {
    SHARD_BYTES + shard.allocation_size()
}

/// Shards by number; `None`: the shard has no key.
#[derive(Clone)]
pub(super) struct Group<V>(pub(super) [Option<Arc<Shard<V>>>; SHARDS_PER_GROUP]);

impl<V> Default for Group<V> {
    fn default() -> Self {
        Self([const { None }; SHARDS_PER_GROUP])
    }
}

/// Keys and values of one part.
pub struct Part<V: Value> {
    groups: Vec<Arc<Group<V>>>,
    /// Expiry (in ms since the Unix epoch) and key of every key that expires.
    expiries: BTreeSet<(u64, SmallBytes)>,
    /// Number of keys.
    len: usize,
    /// Heap bytes of shards, keys and values, without the expiries.
    bytes: usize,
}

impl<V: Value> Default for Part<V> {
    fn default() -> Self {
        let groups = (0..GROUPS_PER_PART).map(|_| Arc::default()).collect();
        Self { groups, expiries: BTreeSet::new(), len: 0, bytes: 0 }
    }
}

impl<V: Value> Part<V> {
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

    /// Returns the heap bytes of keys, values, tables and expiries; O(1). Memory that only cuts hold is not counted.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.expiries.len() * EXPIRY_BYTES
    }

    /// Returns the entry of a key, expired or not.
    #[must_use]
    pub fn get(&self, key: Hashed<'_>) -> Option<&Entry<V>> {
        if self.len == 0 {
            // Commands also ask here about keys of other engines. An empty part answers without a lookup in its shards.
            return None;
        }
        let shard = self.shard(key.shard())?;
        shard.find(key.hash, |slot| *slot.key == *key.key).map(|slot| &slot.entry)
    }

    /// Changes the value of a key; `None` if there is no such key.
    pub fn update<R>(&mut self, key: Hashed<'_>, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.try_update(key, change).ok()
    }

    /// Changes the value of a key. A key that does not exist is added first, with the default value and no expiry.
    pub fn update_or_default<R>(&mut self, key: Hashed<'_>, change: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        self.try_update(key, change).unwrap_or_else(|change| {
            let mut value = V::default();
            let result = change(&mut value);
            self.add(key, Entry { value, expire_ms: 0 });
            result
        })
    }

    /// Sets the value and the expiry of a key, whether or not the key exists.
    pub fn insert(&mut self, key: Hashed<'_>, entry: Entry<V>) {
        self.delete(key);
        self.add(key, entry);
    }

    /// Removes a key and returns its entry. The caller drops the entry on its own thread; for large values see
    /// [`Part::delete`].
    pub fn remove(&mut self, key: Hashed<'_>) -> Option<Entry<V>> {
        let place = self.place_mut(key);
        let shard = Arc::make_mut(place.as_mut()?);
        let found = shard.find_entry(key.hash, |slot| *slot.key == *key.key).ok()?;
        let (slot, _) = found.remove();
        let mut freed = slot.bytes();
        if shard.is_empty() {
            freed += shard_bytes(shard);
            *place = None;
        }
        self.bytes -= freed;
        self.len -= 1;
        if slot.entry.expire_ms != 0 {
            self.expiries.remove(&(slot.entry.expire_ms, slot.key));
        }
        Some(slot.entry)
    }

    /// Removes a key and drops its value, a large value on another thread; false if there is no such key.
    pub fn delete(&mut self, key: Hashed<'_>) -> bool {
        let Some(entry) = self.remove(key) else { return false };
        let bytes = entry.value.memory_bytes();
        reclaim::dispose(entry, bytes);
        true
    }

    /// Sets the expiry of a key, 0: never; false if there is no such key.
    pub fn set_expire(&mut self, key: Hashed<'_>, expire_ms: u64) -> bool {
        let Some(slot) = self.slot_mut(key) else { return false };
        let old = std::mem::replace(&mut slot.entry.expire_ms, expire_ms);
        let mut indexed = (old, slot.key.clone());
        if old != 0 {
            self.expiries.remove(&indexed);
        }
        if expire_ms != 0 {
            indexed.0 = expire_ms;
            self.expiries.insert(indexed);
        }
        true
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        let bytes = self.memory_bytes();
        reclaim::dispose(std::mem::take(self), bytes);
    }

    pub(super) fn groups(&self) -> &[Arc<Group<V>>] {
        &self.groups
    }

    /// Iterates over expiry and key of every key that expires, the earliest first.
    pub(super) fn expiries(&self) -> impl Iterator<Item = &(u64, SmallBytes)> {
        self.expiries.iter()
    }

    /// Returns a shard, given its number in the dictionary; the shard must belong to this part. `None`: the shard has
    /// no key.
    pub(super) fn shard(&self, shard: usize) -> Option<&Shard<V>> {
        let (group, at) = place(shard);
        self.groups[group].0[at].as_deref()
    }

    /// Adds a key that does not exist.
    fn add(&mut self, key: Hashed<'_>, entry: Entry<V>) {
        let name = SmallBytes::from(key.key);
        if entry.expire_ms != 0 {
            self.expiries.insert((entry.expire_ms, name.clone()));
        }
        let slot = Slot { key: name, entry };
        let bytes = slot.bytes();
        let place = self.place_mut(key);
        let before = place.as_ref().map_or(0, |shard| shard_bytes(shard));
        let shard = Arc::make_mut(place.get_or_insert_default());
        shard.insert_unique(key.hash, slot, |slot| hash(&slot.key));
        let after = shard_bytes(shard);
        self.bytes = self.bytes + bytes + after - before;
        self.len += 1;
    }

    /// Changes the value of a key; returns `change` as the error if there is no such key.
    fn try_update<R, F: FnOnce(&mut V) -> R>(&mut self, key: Hashed<'_>, change: F) -> Result<R, F> {
        let Some(slot) = self.slot_mut(key) else { return Err(change) };
        let value = &mut slot.entry.value;
        let before = value.memory_bytes();
        let result = change(value);
        let after = value.memory_bytes();
        self.bytes = self.bytes + after - before;
        Ok(result)
    }

    fn slot_mut(&mut self, key: Hashed<'_>) -> Option<&mut Slot<V>> {
        let shard = Arc::make_mut(self.place_mut(key).as_mut()?);
        shard.find_mut(key.hash, |slot| *slot.key == *key.key)
    }

    /// Returns the pointer to a key's shard, in a group that no cut shares (a shared group is copied first).
    fn place_mut(&mut self, key: Hashed<'_>) -> &mut Option<Arc<Shard<V>>> {
        let (group, at) = place(key.shard());
        &mut Arc::make_mut(&mut self.groups[group]).0[at]
    }
}

/// Returns the number of a shard's group in its part, and the shard's number in the group.
fn place(shard: usize) -> (usize, usize) {
    (shard / SHARDS_PER_GROUP % GROUPS_PER_PART, shard % SHARDS_PER_GROUP)
}

#[cfg(test)]
impl<V: Value> Part<V> {
    /// Panics if a counter or the index of expiries differs from a recount.
    pub fn check(&self) {
        let shards = || self.groups.iter().flat_map(|group| group.0.iter().flatten());
        let slots = || shards().flat_map(|shard| shard.iter());
        let tables = shards().map(|shard| shard_bytes(shard)).sum::<usize>();
        assert_eq!(self.bytes, tables + slots().map(Slot::bytes).sum::<usize>());
        assert_eq!(self.len, slots().count());
        let expiring = || slots().filter(|slot| slot.entry.expire_ms != 0);
        assert!(expiring().all(|slot| self.expiries.contains(&(slot.entry.expire_ms, slot.key.clone()))));
        assert_eq!(self.expiries.len(), expiring().count());
    }
}
