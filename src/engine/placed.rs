//! A bounded memory of the entries of the expiry index: the time under which a key stands there. With it, a key whose
//! value or expiry is set many times gets one entry instead of one each time.
//!
//! Guarantees: a remembered entry is in the index, or in a group on its way there. The number of remembered entries is
//! bounded; the entries of keys that were not looked up for longest are forgotten first, and a lookup of a forgotten
//! entry returns `None`.

use super::hash::hash;
use super::key;
use super::memory::reclaim;
use hashbrown::HashTable;

/// Number of tables. They are many and small, so that none takes long to grow under the writer lock.
const SHARDS: usize = 256;
/// Largest number of entries in a shard's newer half. All entries together take 70 MB at most.
const NEW_ENTRIES_MAX: usize = 4096;
/// Bits of a time; a key with a later expiry is not remembered.
const MS_BITS: u32 = 48;

/// Identity of a key: its hash and its slot. The key itself is not stored.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Id {
    hash: u64,
    slot: u16,
}

impl Id {
    fn of(key: &[u8]) -> Self {
        Self { hash: hash(key), slot: key::slot(key) }
    }

    fn shard(self) -> usize {
        (self.hash >> 32) as usize % SHARDS
    }
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    /// The slot in the bits above the time, and the time in ms since the Unix epoch.
    slot_and_ms: u64,
}

impl Entry {
    fn new(id: Id, at_ms: u64) -> Self {
        Self { hash: id.hash, slot_and_ms: u64::from(id.slot) << MS_BITS | at_ms }
    }

    fn is(&self, id: Id) -> bool {
        self.hash == id.hash && self.slot_and_ms >> MS_BITS == u64::from(id.slot)
    }

    fn at_ms(&self) -> u64 {
        self.slot_and_ms & ((1 << MS_BITS) - 1)
    }
}

/// Entries in two halves: when the newer half is full, it replaces the older half, which is forgotten.
#[derive(Default)]
struct Shard {
    newer: HashTable<Entry>,
    older: HashTable<Entry>,
}

impl Shard {
    fn take(&mut self, id: Id) -> Option<u64> {
        [&mut self.newer, &mut self.older].into_iter().find_map(|half| {
            let found = half.find_entry(id.hash, |entry| entry.is(id)).ok()?;
            Some(found.remove().0.at_ms())
        })
    }

    fn put(&mut self, entry: Entry) {
        self.newer.insert_unique(entry.hash, entry, |entry| entry.hash);
        if self.newer.len() >= NEW_ENTRIES_MAX {
            self.older = std::mem::take(&mut self.newer);
        }
    }
}

/// The remembered entries.
pub(super) struct Placed {
    shards: Vec<Shard>,
}

impl Default for Placed {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }
}

impl Placed {
    /// Returns the time under which a key stands in the index, in ms since the Unix epoch; `None` if it is not
    /// remembered. The entry moves to the newer half.
    pub(super) fn get(&mut self, key: &[u8]) -> Option<u64> {
        let id = Id::of(key);
        let shard = &mut self.shards[id.shard()];
        if let Some(entry) = shard.newer.find(id.hash, |entry| entry.is(id)) {
            return Some(entry.at_ms());
        }
        let at_ms = shard.take(id)?;
        shard.put(Entry::new(id, at_ms));
        Some(at_ms)
    }

    /// Notes that a key's entry stands under a time.
    pub(super) fn set(&mut self, key: &[u8], at_ms: u64) {
        let id = Id::of(key);
        let shard = &mut self.shards[id.shard()];
        shard.take(id);
        if at_ms >> MS_BITS == 0 {
            shard.put(Entry::new(id, at_ms));
        }
    }

    /// Forgets a key's entry, which is about to be deleted, and returns its time if it was remembered.
    pub(super) fn take(&mut self, key: &[u8]) -> Option<u64> {
        let id = Id::of(key);
        self.shards[id.shard()].take(id)
    }

    /// Forgets all entries.
    pub(super) fn clear(&mut self) {
        let bytes = |half: &HashTable<Entry>| half.allocation_size();
        let held = self.shards.iter().map(|shard| bytes(&shard.newer) + bytes(&shard.older)).sum();
        if held > 0 {
            reclaim::dispose(std::mem::take(&mut self.shards), held);
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_place_of_a_key_is_remembered() {
        let mut placed = Placed::default();
        assert_eq!(placed.get(b"a"), None);
        placed.set(b"a", 5);
        placed.set(b"b", 6);
        placed.set(b"a", 7);
        assert_eq!((placed.get(b"a"), placed.get(b"b")), (Some(7), Some(6)));
        assert_eq!((placed.take(b"a"), placed.take(b"a"), placed.get(b"a")), (Some(7), None, None));
        placed.set(b"b", u64::MAX);
        assert_eq!(placed.get(b"b"), None, "no time is taken for another one");
        placed.set(b"b", (1 << MS_BITS) - 1);
        assert_eq!(placed.get(b"b"), Some((1 << MS_BITS) - 1));
        placed.clear();
        assert_eq!(placed.get(b"b"), None);
    }

    #[test]
    fn places_are_bounded_and_those_that_are_asked_for_stay() {
        let mut placed = Placed::default();
        placed.set(b"hot", 1);
        let most = 2 * SHARDS * NEW_ENTRIES_MAX;
        for n in 0..2 * most as u64 {
            placed.set(&n.to_be_bytes(), n);
            assert_eq!(placed.get(b"hot"), Some(1));
        }
        let held: usize = placed.shards.iter().map(|shard| shard.newer.len() + shard.older.len()).sum();
        assert!(held <= most && held > most / 4, "{held} of {most}");
        assert_eq!(placed.get(&0u64.to_be_bytes()), None);
    }
}
