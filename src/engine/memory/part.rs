//! A part of a dictionary: the keys of some of its shards, and all that is kept about them.
//!
//! Guarantees: no part needs anything from another one, so that threads can change several at a time.

use super::dictionary::{Entry, Value};
use super::reclaim;
use super::small_bytes::SmallBytes;
use crate::engine::hash::hash;
use hashbrown::HashTable;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Parts of a dictionary.
pub const PARTS: usize = 8;
const GROUPS_PER_PART: usize = 16;
const SHARDS_PER_GROUP: usize = 128;
const SHARDS_PER_PART: usize = GROUPS_PER_PART * SHARDS_PER_GROUP;

/// Number of shards of a dictionary; the first cursor that `Dictionary::scan` never returns.
pub const SHARDS: usize = PARTS * SHARDS_PER_PART;

/// Heap bytes of an expiry in its index, at the usual fill of a B-tree's nodes.
const EXPIRY_BYTES: usize = 48;
/// Heap bytes of a shard beside its table.
const SHARD_BYTES: usize = 16 + 8 + size_of::<HashTable<()>>();

/// A key on its way to its entry.
#[derive(Clone, Copy)]
pub struct Hashed<'k> {
    key: &'k [u8],
    hash: u64,
}

impl<'k> Hashed<'k> {
    /// Of a key.
    #[must_use]
    pub fn of(key: &'k [u8]) -> Self {
        Self { key, hash: hash(key) }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &'k [u8] {
        self.key
    }

    /// Number of the part that has the key.
    #[must_use]
    pub fn part(&self) -> usize {
        self.shard() / SHARDS_PER_PART
    }

    /// The key's entry in all groups of a dictionary.
    pub(super) fn find_in<V>(self, groups: &[Arc<Group<V>>]) -> Option<&Entry<V>> {
        let shard = groups[self.shard() / SHARDS_PER_GROUP].0[self.shard() % SHARDS_PER_GROUP].as_ref()?;
        shard.find(self.hash, |slot| *slot.key == *self.key).map(|slot| &slot.entry)
    }

    /// Of the key's shard, from bits that the shard's table uses neither for its buckets nor for its tags.
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

/// Shards by number; `None` has no key.
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
    /// (expiry in milliseconds, key) of every key that expires.
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
    /// Number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Heap bytes of keys, values, tables and expiries; O(1). What only cuts still hold is not counted.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.bytes + self.expiries.len() * EXPIRY_BYTES
    }

    /// The entry of a key, expired or not.
    #[must_use]
    pub fn get(&self, key: Hashed<'_>) -> Option<&Entry<V>> {
        if self.len == 0 {
            // Commands ask here about keys of other engines, too: that needs no look into the shards.
            return None;
        }
        let shard = self.shard(key.shard())?;
        shard.find(key.hash, |slot| *slot.key == *key.key).map(|slot| &slot.entry)
    }

    /// Changes the value of a key; `None` if there is no such key.
    pub fn update<R>(&mut self, key: Hashed<'_>, change: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.try_update(key, change).ok()
    }

    /// Changes the value of a key, which is added with the default value and no expiry if it is not there.
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

    /// Gives a key a value and an expiry, whatever it had.
    pub fn insert(&mut self, key: Hashed<'_>, entry: Entry<V>) {
        self.delete(key);
        self.add(key, entry);
    }

    /// Takes a key and its entry out. The caller drops it, large or not; see [`Part::delete`].
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

    /// Removes a key and drops its value, a large one elsewhere; false if there is no such key.
    pub fn delete(&mut self, key: Hashed<'_>) -> bool {
        let Some(entry) = self.remove(key) else { return false };
        let bytes = entry.value.memory_bytes();
        reclaim::dispose(entry, bytes);
        true
    }

    /// Sets the expiry of a key, 0 = never; false if there is no such key.
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

    /// (Expiry, key) of every key that expires, the earliest first.
    pub(super) fn expiries(&self) -> impl Iterator<Item = &(u64, SmallBytes)> {
        self.expiries.iter()
    }

    /// A shard of the dictionary that lies in this part.
    pub(super) fn shard(&self, shard: usize) -> Option<&Shard<V>> {
        let (group, at) = place(shard);
        self.groups[group].0[at].as_deref()
    }

    /// Adds a key that is not there.
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

    /// Changes the value of a key; gives `change` back if there is no such key.
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

    /// Where a key's shard hangs, in a group that no cut shares.
    fn place_mut(&mut self, key: Hashed<'_>) -> &mut Option<Arc<Shard<V>>> {
        let (group, at) = place(key.shard());
        &mut Arc::make_mut(&mut self.groups[group]).0[at]
    }
}

/// A shard's group within its part, and its place in the group.
fn place(shard: usize) -> (usize, usize) {
    (shard / SHARDS_PER_GROUP % GROUPS_PER_PART, shard % SHARDS_PER_GROUP)
}

#[cfg(test)]
impl<V: Value> Part<V> {
    /// Panics unless the counters are what a recount finds.
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
