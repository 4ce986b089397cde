//! Hash tables of slots: a shard, and a group of shards.
//!
//! Guarantees: cuts share groups and shards. After a cut, the first change in a group copies the group's pointers to
//! shards, and the first change in a shard copies the shard's table, which holds pointers to keys and values, but not
//! their content. A key stays in its shard for as long as the process lives.

use crate::engine::hash::hash;
use crate::engine::memory::slot::Slot;
use hashbrown::HashTable;
use std::sync::Arc;

/// Number of shards in a group.
pub(super) const SHARDS_PER_GROUP: usize = 128;
/// Number of all shards.
pub const SHARDS: usize = 16_384;
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
    #[inline]
    pub fn of(key: &'k [u8]) -> Self {
        Self { key, hash: hash(key) }
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &'k [u8] {
        self.key
    }

    /// Returns the hash.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the number of the key's shard. It is made of bits of the hash that the shard's table uses neither for
    /// its buckets nor for its tags.
    #[must_use]
    pub fn shard(&self) -> usize {
        (self.hash >> 32) as usize % SHARDS
    }
}

/// Slots, found by their keys.
pub(super) type Shard = HashTable<Slot>;

/// Returns the heap bytes of a shard without those of its slots.
fn shard_bytes(shard: &Shard) -> usize {
    SHARD_BYTES + shard.allocation_size()
}

/// Shards by number; `None`: the shard has no key.
#[derive(Clone)]
pub(super) struct Group([Option<Arc<Shard>>; SHARDS_PER_GROUP]);

impl Default for Group {
    fn default() -> Self {
        Self([const { None }; SHARDS_PER_GROUP])
    }
}

impl Group {
    /// Returns the slot of a key, which belongs to this group.
    #[inline]
    pub(super) fn get(&self, key: Hashed<'_>) -> Option<&Slot> {
        let shard = self.0[key.shard() % SHARDS_PER_GROUP].as_ref()?;
        shard.find(key.hash, |slot| slot.key() == key.key)
    }

    /// Returns the slot of a key, for changing it.
    #[inline]
    pub(super) fn get_mut(&mut self, key: Hashed<'_>) -> Option<&mut Slot> {
        let shard = Arc::make_mut(self.0[key.shard() % SHARDS_PER_GROUP].as_mut()?);
        shard.find_mut(key.hash, |slot| slot.key() == key.key)
    }

    /// Adds a key that does not exist. Returns the bytes by which the shard's table grew.
    pub(super) fn add(&mut self, key: Hashed<'_>, slot: Slot) -> usize {
        let place = &mut self.0[key.shard() % SHARDS_PER_GROUP];
        let before = place.as_ref().map_or(0, |shard| shard_bytes(shard));
        let shard = Arc::make_mut(place.get_or_insert_default());
        shard.insert_unique(key.hash, slot, |slot| hash(slot.key()));
        shard_bytes(shard) - before
    }

    /// Removes a key. Returns its slot, and the bytes by which the shard's table shrank.
    pub(super) fn remove(&mut self, key: Hashed<'_>) -> Option<(Slot, usize)> {
        let place = &mut self.0[key.shard() % SHARDS_PER_GROUP];
        let shard = Arc::make_mut(place.as_mut()?);
        let found = shard.find_entry(key.hash, |slot| slot.key() == key.key).ok()?;
        let (slot, _) = found.remove();
        let mut freed = 0;
        if shard.is_empty() {
            freed = shard_bytes(shard);
            *place = None;
        } else if shard.capacity() > 64 && shard.len() < shard.capacity() / 8 {
            let before = shard_bytes(shard);
            shard.shrink_to(shard.len() * 2, |slot| hash(slot.key()));
            freed = before - shard_bytes(shard);
        }
        Some((slot, freed))
    }

    /// Iterates over the slots of all shards.
    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> + Clone {
        self.0.iter().flatten().flat_map(|shard| shard.iter())
    }

    /// Iterates over the slots of one shard, by its number in the group.
    pub(super) fn slots_of(&self, shard: usize) -> impl Iterator<Item = &Slot> {
        self.0[shard].iter().flat_map(|shard| shard.iter())
    }

    /// Returns the heap bytes of the tables.
    pub(super) fn table_bytes(&self) -> usize {
        self.0.iter().flatten().map(|shard| shard_bytes(shard)).sum()
    }
}
