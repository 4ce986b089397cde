//! Keys and their values in many small shards, cut in microseconds.
//!
//! Shards lie in groups; both are shared with cuts. A cut clones the groups' pointers only, so its cost does not
//! depend on the number of keys; afterwards the first change in a group copies its pointers to shards, and the first
//! change in a shard copies that shard's table: pointers to keys and values, never what they hold.
//!
//! Guarantees: a cut never changes; a key stays in its shard for as long as the process lives; `memory_bytes` is exact
//! up to the allocator's rounding, at any time, in O(1); large values are dropped off the writer's thread.
//! Non-goals: hiding expired keys (the caller knows the time), locks.

use super::compact::Compact;
use super::cut::Cut;
use super::hash::hash;
use super::reclaim;
use hashbrown::HashTable;
use std::collections::BTreeSet;
use std::sync::Arc;

const GROUPS: usize = 128;
const SHARDS_PER_GROUP: usize = 128;

/// Number of shards; the first cursor that [`Dictionary::scan`] never returns.
pub const SHARDS: usize = GROUPS * SHARDS_PER_GROUP;

/// Heap bytes of an expiry in its index, at the usual fill of a B-tree's nodes.
const EXPIRY_BYTES: usize = 48;
/// Heap bytes of a shard beside its table.
const SHARD_BYTES: usize = 16 + 8 + size_of::<HashTable<()>>();

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

#[derive(Clone)]
pub(super) struct Slot<V> {
    pub(super) key: Compact,
    pub(super) entry: Entry<V>,
}

pub(super) type Shard<V> = HashTable<Slot<V>>;

/// Shards by number; `None` has no key.
#[derive(Clone)]
pub(super) struct Group<V>(pub(super) [Option<Arc<Shard<V>>>; SHARDS_PER_GROUP]);

impl<V> Default for Group<V> {
    fn default() -> Self {
        Self([const { None }; SHARDS_PER_GROUP])
    }
}

/// Keys and values of one memory engine.
pub struct Dictionary<V: Value> {
    groups: Vec<Arc<Group<V>>>,
    /// (expiry in milliseconds, key) of every key that expires.
    expiries: BTreeSet<(u64, Compact)>,
    /// Number of keys.
    len: usize,
    /// Heap bytes of shards, keys and values, without the expiries.
    bytes: usize,
}

impl<V: Value> Default for Dictionary<V> {
    fn default() -> Self {
        let groups = (0..GROUPS).map(|_| Arc::default()).collect();
        Self { groups, expiries: BTreeSet::new(), len: 0, bytes: 0 }
    }
}

/// Shard of a hash, from bits that the shard's table uses neither for its buckets nor for its tags.
fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl<V: Value> Slot<V> {
    fn bytes(&self) -> usize {
        self.key.memory_bytes() + self.entry.value.memory_bytes()
    }
}

fn shard_bytes<V>(shard: &Shard<V>) -> usize {
    SHARD_BYTES + shard.allocation_size()
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
    pub fn get(&self, key: &[u8]) -> Option<&Entry<V>> {
        let hash = hash(key);
        let shard = self.shard(shard_of(hash))?;
        shard.find(hash, |slot| *slot.key == *key).map(|slot| &slot.entry)
    }

    /// Changes the value of a key; `None` if there is no such key.
    pub fn update<R>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> R) -> Option<R> {
        self.try_update(key, change).ok()
    }

    /// Changes the value of a key, which is added with the default value and no expiry if it is not there.
    pub fn update_or_default<R>(&mut self, key: &[u8], change: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        self.try_update(key, change).unwrap_or_else(|change| {
            self.insert(key, Entry { value: V::default(), expire_ms: 0 });
            self.update(key, change).expect("the key was added")
        })
    }

    /// Gives a key a value and an expiry, whatever it had.
    pub fn insert(&mut self, key: &[u8], entry: Entry<V>) {
        self.delete(key);
        let hash = hash(key);
        let key = Compact::from(key);
        if entry.expire_ms != 0 {
            self.expiries.insert((entry.expire_ms, key.clone()));
        }
        let slot = Slot { key, entry };
        let bytes = slot.bytes();
        let place = self.place_mut(shard_of(hash));
        let before = place.as_ref().map_or(0, |shard| shard_bytes(shard));
        let shard = Arc::make_mut(place.get_or_insert_default());
        shard.insert_unique(hash, slot, |slot| super::hash::hash(&slot.key));
        let after = shard_bytes(shard);
        self.bytes = self.bytes + bytes + after - before;
        self.len += 1;
    }

    /// Takes a key and its entry out. The caller drops it, large or not; see [`Dictionary::delete`].
    pub fn remove(&mut self, key: &[u8]) -> Option<Entry<V>> {
        let hash = hash(key);
        let place = self.place_mut(shard_of(hash));
        let shard = Arc::make_mut(place.as_mut()?);
        let found = shard.find_entry(hash, |slot| *slot.key == *key).ok()?;
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
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let Some(entry) = self.remove(key) else { return false };
        let bytes = entry.value.memory_bytes();
        reclaim::dispose(entry, bytes);
        true
    }

    /// Sets the expiry of a key, 0 = never; false if there is no such key.
    pub fn set_expire(&mut self, key: &[u8], expire_ms: u64) -> bool {
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

    /// Moves an entry to another key, whose entry is dropped; false if there is no such key.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> bool {
        let Some(entry) = self.remove(from) else { return false };
        self.insert(to, entry);
        true
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        let bytes = self.memory_bytes();
        reclaim::dispose(std::mem::take(self), bytes);
    }

    /// All keys and entries, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry<V>)> {
        super::cut::entries(&self.groups)
    }

    /// Keys of whole shards from `cursor` on, until there are at least `count`; and the cursor to go on from, 0 at the
    /// end. A key that is there from the first call to the last is returned exactly once.
    #[must_use]
    pub fn scan(&self, cursor: u64, count: usize) -> (u64, Vec<Compact>) {
        let mut keys = Vec::new();
        let mut at = usize::try_from(cursor).unwrap_or(SHARDS);
        while at < SHARDS && keys.len() < count.max(1) {
            keys.extend(self.shard(at).into_iter().flatten().map(|slot| slot.key.clone()));
            at += 1;
        }
        (if at < SHARDS { at as u64 } else { 0 }, keys)
    }

    /// Up to `limit` keys whose expiry is not after `now_ms`, the earliest first.
    #[must_use]
    pub fn expired(&self, now_ms: u64, limit: usize) -> Vec<Compact> {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now_ms);
        due.take(limit).map(|(_, key)| key.clone()).collect()
    }

    /// The content as it is now, for another thread.
    #[must_use]
    pub fn cut(&self) -> Cut<V> {
        Cut::new(self.groups.clone(), self.len)
    }

    /// Changes the value of a key; gives `change` back if there is no such key.
    fn try_update<R, F: FnOnce(&mut V) -> R>(&mut self, key: &[u8], change: F) -> Result<R, F> {
        let Some(slot) = self.slot_mut(key) else { return Err(change) };
        let value = &mut slot.entry.value;
        let before = value.memory_bytes();
        let result = change(value);
        let after = value.memory_bytes();
        self.bytes = self.bytes + after - before;
        Ok(result)
    }

    fn slot_mut(&mut self, key: &[u8]) -> Option<&mut Slot<V>> {
        let hash = hash(key);
        let shard = Arc::make_mut(self.place_mut(shard_of(hash)).as_mut()?);
        shard.find_mut(hash, |slot| *slot.key == *key)
    }

    fn shard(&self, shard: usize) -> Option<&Shard<V>> {
        self.groups[shard / SHARDS_PER_GROUP].0[shard % SHARDS_PER_GROUP].as_deref()
    }

    /// Where a shard hangs, in a group that no cut shares.
    fn place_mut(&mut self, shard: usize) -> &mut Option<Arc<Shard<V>>> {
        &mut Arc::make_mut(&mut self.groups[shard / SHARDS_PER_GROUP]).0[shard % SHARDS_PER_GROUP]
    }
}

#[cfg(test)]
impl<V: Value> Dictionary<V> {
    /// Panics unless the counters are what a recount finds.
    pub fn check(&self) {
        let shards = (0..SHARDS).filter_map(|shard| self.shard(shard));
        let bytes = |shard: &Shard<V>| shard_bytes(shard) + shard.iter().map(Slot::bytes).sum::<usize>();
        assert_eq!(self.bytes, shards.map(bytes).sum::<usize>());
        assert_eq!(self.len, self.iter().count());
        let expiring = super::cut::entries(&self.groups).filter(|(_, entry)| entry.expire_ms != 0);
        assert!(expiring.clone().all(|(key, entry)| self.expiries.contains(&(entry.expire_ms, key.into()))));
        assert_eq!(self.expiries.len(), expiring.count());
    }
}

#[cfg(test)]
#[path = "dictionary_tests.rs"]
mod tests;
