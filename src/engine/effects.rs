//! The effects of a group of commits on their way to the logs, and what they already mean to the reads of later
//! commands of the same group.
//!
//! Guarantees: effects are appended in execution order; a lookup sees the newest effect of the group on a disk key.
//! Memory ops are applied to the memory engines as they are recorded, so only disk effects need an overlay.

use super::batch::{self, Family};
use super::key;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::ops::Range;

/// What the group says about a disk key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overlaid<'a> {
    /// Nothing: the database's state holds.
    Untouched,
    /// Deleted in this group.
    Deleted,
    /// Set in this group.
    Value(&'a [u8]),
}

#[derive(Clone, Copy)]
struct Entry {
    family: Family,
    placed: batch::Placed,
    deleted: bool,
}

/// Disk operations and memory ops of a group, with an index over the disk operations.
#[derive(Default)]
pub struct Effects {
    /// RocksDB write batch records.
    disk: Vec<u8>,
    disk_ops: u32,
    /// Encoded list ops.
    pub lists: Vec<u8>,
    /// Encoded sorted set ops.
    pub zsets: Vec<u8>,
    index: HashTable<Entry>,
    hasher: hashbrown::DefaultHashBuilder,
    /// Set by a deletion of all user keys: what the database holds below is gone for this group.
    cleared: bool,
}

/// Lengths of the effects at one moment: the boundary between two commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// Bytes of disk records.
    pub disk: usize,
    /// Number of disk operations.
    pub disk_ops: u32,
    /// Bytes of list ops.
    pub lists: usize,
    /// Bytes of sorted set ops.
    pub zsets: usize,
}

impl Effects {
    /// How far the effects reach now.
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent { disk: self.disk.len(), disk_ops: self.disk_ops, lists: self.lists.len(), zsets: self.zsets.len() }
    }

    /// Bytes of all effects.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.disk.len() + self.lists.len() + self.zsets.len()
    }

    /// Sets a disk key.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        let placed = batch::push_put(&mut self.disk, family, key, value);
        self.disk_ops += 1;
        self.remember(Entry { family, placed, deleted: false });
    }

    /// Deletes a disk key.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        let placed = batch::push_delete(&mut self.disk, family, key);
        self.disk_ops += 1;
        self.remember(Entry { family, placed, deleted: true });
    }

    /// Deletes every user key of every family, and the expiry index.
    pub fn clear(&mut self) {
        for family in Family::ALL {
            let range = key::user_range();
            batch::push_delete_range(&mut self.disk, family, &range.start, &range.end);
        }
        let index = key::expiry_range(0, u64::MAX);
        batch::push_delete_range(&mut self.disk, Family::Default, &index.start, &index.end);
        self.disk_ops += Family::ALL.len() as u32 + 1;
        self.index.clear();
        self.cleared = true;
    }

    /// What the group says about a disk key.
    #[must_use]
    pub fn lookup(&self, family: Family, key: &[u8]) -> Overlaid<'_> {
        let hash = self.hasher.hash_one((family, key));
        match self.index.find(hash, |entry| entry.family == family && self.slice(entry.placed.key) == key) {
            Some(entry) if entry.deleted => Overlaid::Deleted,
            Some(entry) => Overlaid::Value(self.slice(entry.placed.value)),
            None if self.cleared => Overlaid::Deleted,
            None => Overlaid::Untouched,
        }
    }

    /// Whether the database's state below the group is gone.
    #[must_use]
    pub fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// The group's newest effects on the keys of a range, in key order; a deletion has no value.
    #[must_use]
    pub fn in_range(&self, family: Family, range: &Range<Vec<u8>>) -> Vec<(&[u8], Option<&[u8]>)> {
        let bounds = range.start.as_slice()..range.end.as_slice();
        let mut found: Vec<_> = self
            .index
            .iter()
            .filter(|entry| entry.family == family)
            .map(|entry| (self.slice(entry.placed.key), (!entry.deleted).then(|| self.slice(entry.placed.value))))
            .filter(|(key, _)| bounds.contains(key))
            .collect();
        found.sort_unstable_by_key(|(key, _)| *key);
        found
    }

    /// Takes the buffers of disk records, list ops and sorted set ops out and forgets the rest.
    pub fn take(&mut self) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        self.index.clear();
        self.disk_ops = 0;
        self.cleared = false;
        (std::mem::take(&mut self.disk), std::mem::take(&mut self.lists), std::mem::take(&mut self.zsets))
    }

    fn slice(&self, (at, length): (usize, usize)) -> &[u8] {
        &self.disk[at..at + length]
    }

    fn remember(&mut self, entry: Entry) {
        let Self { index, hasher, disk, .. } = self;
        let slice = |(at, length): (usize, usize)| &disk[at..at + length];
        let hash_of = |entry: &Entry| hasher.hash_one((entry.family, slice(entry.placed.key)));
        let hash = hash_of(&entry);
        let same = |other: &Entry| other.family == entry.family && slice(other.placed.key) == slice(entry.placed.key);
        match index.entry(hash, same, hash_of) {
            hashbrown::hash_table::Entry::Occupied(mut occupied) => *occupied.get_mut() = entry,
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                vacant.insert(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_sees_the_newest_effect() {
        let mut effects = Effects::default();
        assert_eq!(effects.lookup(Family::Default, b"k"), Overlaid::Untouched);
        effects.put(Family::Default, b"k", b"1");
        effects.put(Family::Default, b"k", b"2");
        effects.put(Family::Sub, b"k", b"other family");
        assert_eq!(effects.lookup(Family::Default, b"k"), Overlaid::Value(b"2"));
        effects.delete(Family::Default, b"k");
        assert_eq!(effects.lookup(Family::Default, b"k"), Overlaid::Deleted);
        assert_eq!(effects.in_range(Family::Default, &(b"a".to_vec()..b"z".to_vec())), vec![(&b"k"[..], None)]);
        effects.clear();
        assert_eq!(effects.lookup(Family::Sub, b"k"), Overlaid::Deleted);
        effects.put(Family::Sub, b"k", b"after");
        assert_eq!(effects.lookup(Family::Sub, b"k"), Overlaid::Value(b"after"));
        let extent = effects.extent();
        let (disk, _, _) = effects.take();
        batch::validate(&disk, extent.disk_ops).unwrap();
    }
}
