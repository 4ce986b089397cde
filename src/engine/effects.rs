//! The effects of groups of commits on their way to the logs, and what they already mean to the reads of later commands.
//!
//! Guarantees: effects are appended in execution order; a lookup sees the newest effect on a disk key; each record that a
//! later one of its group undoes is known.
//! Memory ops are applied to the memory engines as they are recorded, so only disk effects need an overlay.

use super::batch::{self, Family};
use super::key;
use super::rows::row_hash;
use bytes::Bytes;
use hashbrown::HashTable;
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
    /// Offset of its record.
    start: usize,
    placed: batch::Placed,
    deleted: bool,
}

impl Entry {
    fn record(&self) -> Range<usize> {
        self.start..self.placed.value.0 + self.placed.value.1
    }
}

/// What a group's disk operations mean to reads: of each key the newest one.
#[derive(Default)]
struct DiskIndex {
    newest: HashTable<Entry>,
    /// Set by a deletion of all user keys: what the database holds below is gone for this group.
    cleared: bool,
}

impl DiskIndex {
    fn lookup<'d>(&self, disk: &'d [u8], hash: u64, family: Family, key: &[u8]) -> Overlaid<'d> {
        match self.newest.find(hash, |entry| entry.family == family && slice(disk, entry.placed.key) == key) {
            Some(entry) if entry.deleted => Overlaid::Deleted,
            Some(entry) => Overlaid::Value(slice(disk, entry.placed.value)),
            None if self.cleared => Overlaid::Deleted,
            None => Overlaid::Untouched,
        }
    }

    fn in_range<'d>(
        &self,
        disk: &'d [u8],
        family: Family,
        range: &Range<Vec<u8>>,
    ) -> impl Iterator<Item = (&'d [u8], Option<&'d [u8]>)> {
        let bounds = range.start.as_slice()..range.end.as_slice();
        self.newest
            .iter()
            .filter(move |entry| entry.family == family && bounds.contains(&slice(disk, entry.placed.key)))
            .map(move |entry| {
                (slice(disk, entry.placed.key), (!entry.deleted).then(|| slice(disk, entry.placed.value)))
            })
    }

    /// Returns the entry that this one takes the place of.
    fn remember(&mut self, disk: &[u8], entry: Entry) -> Option<Entry> {
        let hash_of = |entry: &Entry| row_hash(entry.family, slice(disk, entry.placed.key));
        let same = |other: &Entry| {
            other.family == entry.family && slice(disk, other.placed.key) == slice(disk, entry.placed.key)
        };
        match self.newest.entry(hash_of(&entry), same, hash_of) {
            hashbrown::hash_table::Entry::Occupied(mut occupied) => Some(std::mem::replace(occupied.get_mut(), entry)),
            hashbrown::hash_table::Entry::Vacant(vacant) => {
                vacant.insert(entry);
                None
            }
        }
    }

    fn forget(&mut self) {
        self.newest.clear();
        self.cleared = false;
    }
}

fn slice(disk: &[u8], (at, length): (usize, usize)) -> &[u8] {
    &disk[at..at + length]
}

/// Disk operations and memory ops of the open group, with an index over the disk operations.
#[derive(Default)]
pub struct Effects {
    /// RocksDB write batch records.
    disk: Vec<u8>,
    disk_ops: u32,
    /// Where records lie whose key a later record sets or deletes.
    superseded: Vec<Range<usize>>,
    /// Encoded list ops.
    pub lists: Vec<u8>,
    /// Encoded sorted set ops.
    pub zsets: Vec<u8>,
    index: DiskIndex,
    /// An index that a sealed group no longer needs: its room is used again.
    spare_index: Option<DiskIndex>,
}

/// The effects of a group that takes no more commits: on its way to the logs.
pub struct SealedEffects {
    /// RocksDB write batch records.
    pub disk: Bytes,
    /// Where records lie, in ascending order, whose key a later one of these records sets or deletes.
    pub superseded: Vec<Range<usize>>,
    /// Encoded list ops.
    pub lists: Bytes,
    /// Encoded sorted set ops.
    pub zsets: Bytes,
    index: DiskIndex,
}

impl SealedEffects {
    /// Bytes of all effects.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.disk.len() + self.lists.len() + self.zsets.len()
    }
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
        let start = self.disk.len();
        let placed = batch::push_put(&mut self.disk, family, key, value);
        self.remember(Entry { family, start, placed, deleted: false });
    }

    /// Deletes a disk key.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        let start = self.disk.len();
        let placed = batch::push_delete(&mut self.disk, family, key);
        self.remember(Entry { family, start, placed, deleted: true });
    }

    fn remember(&mut self, entry: Entry) {
        self.disk_ops += 1;
        if let Some(before) = self.index.remember(&self.disk, entry) {
            self.superseded.push(before.record());
        }
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
        self.index.forget();
        self.index.cleared = true;
    }

    /// What the group says about a disk key.
    #[must_use]
    pub fn lookup(&self, family: Family, key: &[u8]) -> Overlaid<'_> {
        self.index.lookup(&self.disk, row_hash(family, key), family, key)
    }

    /// The keys of a range that the group gave a value last.
    #[must_use]
    pub fn present_in_range(&self, family: Family, range: &Range<Vec<u8>>) -> Vec<Vec<u8>> {
        let all = self.index.in_range(&self.disk, family, range);
        all.filter(|(_, value)| value.is_some()).map(|(key, _)| key.to_vec()).collect()
    }

    /// Takes the effects out; what follows belongs to the next group.
    #[must_use]
    pub fn seal(&mut self) -> SealedEffects {
        self.disk_ops = 0;
        let next = self.spare_index.take().unwrap_or_default();
        self.superseded.sort_unstable_by_key(|record| record.start);
        SealedEffects {
            disk: std::mem::take(&mut self.disk).into(),
            superseded: std::mem::take(&mut self.superseded),
            lists: std::mem::take(&mut self.lists).into(),
            zsets: std::mem::take(&mut self.zsets).into(),
            index: std::mem::replace(&mut self.index, next),
        }
    }

    /// Takes back the room of effects that nobody needs any more.
    pub fn recycle(&mut self, sealed: SealedEffects) {
        let mut index = sealed.index;
        index.forget();
        self.spare_index = Some(index);
    }
}

/// What is not in the database yet, as reads under the writer lock see it: the open group, and below it the sealed ones.
#[derive(Clone, Copy)]
pub struct Overlay<'a> {
    /// The open group.
    pub open: &'a Effects,
    /// Groups on their way to the logs, oldest first.
    pub sealed: &'a [SealedEffects],
}

impl<'a> Overlay<'a> {
    /// What the newest group that says anything about a disk key says.
    #[must_use]
    pub fn lookup(self, family: Family, key: &[u8]) -> Overlaid<'a> {
        let hash = row_hash(family, key);
        let below = self.sealed.iter().rev().map(|sealed| sealed.index.lookup(&sealed.disk, hash, family, key));
        let mut all = std::iter::once(self.open.index.lookup(&self.open.disk, hash, family, key)).chain(below);
        all.find(|found| *found != Overlaid::Untouched).unwrap_or(Overlaid::Untouched)
    }

    /// Whether the database's state below the groups is gone.
    #[must_use]
    pub fn is_cleared(self) -> bool {
        self.open.index.cleared || self.sealed.iter().any(|sealed| sealed.index.cleared)
    }

    /// The groups' newest effects on the keys of a range, in key order; a deletion has no value.
    #[must_use]
    pub fn in_range(self, family: Family, range: &Range<Vec<u8>>) -> Vec<(&'a [u8], Option<&'a [u8]>)> {
        // A group that clears hides those below it.
        let first = self.sealed.iter().rposition(|sealed| sealed.index.cleared).unwrap_or(0);
        let below = if self.open.index.cleared { &[] } else { &self.sealed[first..] };
        let mut found: Vec<_> = self.open.index.in_range(&self.open.disk, family, range).collect();
        for sealed in below.iter().rev() {
            found.extend(sealed.index.in_range(&sealed.disk, family, range));
        }
        // Stable: of one key's effects the newest group's comes first and stays.
        found.sort_by_key(|(key, _)| *key);
        found.dedup_by_key(|(key, _)| *key);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Range<Vec<u8>> {
        b"a".to_vec()..b"z".to_vec()
    }

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
        let overlay = Overlay { open: &effects, sealed: &[] };
        assert_eq!(overlay.in_range(Family::Default, &whole()), vec![(&b"k"[..], None)]);
        effects.clear();
        assert_eq!(effects.lookup(Family::Sub, b"k"), Overlaid::Deleted);
        effects.put(Family::Sub, b"k", b"after");
        assert_eq!(effects.lookup(Family::Sub, b"k"), Overlaid::Value(b"after"));
        let extent = effects.extent();
        batch::validate(&effects.seal().disk, extent.disk_ops).unwrap();
    }

    #[test]
    fn a_record_is_superseded_by_a_later_one_of_its_key_and_group() {
        let mut effects = Effects::default();
        effects.put(Family::Default, b"a", b"1");
        effects.put(Family::Default, b"b", b"1");
        effects.put(Family::Sub, b"b", b"1");
        effects.delete(Family::Default, b"b");
        effects.put(Family::Default, b"a", b"2");
        effects.put(Family::Default, b"a", b"3");
        effects.put(Family::Default, b"b", b"2");
        effects.clear();
        effects.put(Family::Default, b"a", b"4");
        let sealed = effects.seal();
        let record = |at: &Range<usize>| batch::Records::new(&sealed.disk[at.clone()]).next().unwrap().unwrap();
        let superseded: Vec<_> = sealed.superseded.iter().map(record).collect();
        let put = |key, value| batch::Record::Put(Family::Default, key, value);
        let expected =
            [put(b"a", b"1"), put(b"b", b"1"), batch::Record::Delete(Family::Default, b"b"), put(b"a", b"2")];
        assert_eq!(superseded, expected, "what a deletion of all keys came after is not asked");
        effects.put(Family::Default, b"a", b"5");
        assert!(effects.seal().superseded.is_empty(), "another group");
    }

    #[test]
    fn sealed_groups_lie_below_the_open_one_and_hide_each_other() {
        let mut effects = Effects::default();
        effects.put(Family::Default, b"a", b"first");
        effects.put(Family::Default, b"b", b"first");
        effects.put(Family::Default, b"c", b"first");
        let first = effects.seal();
        effects.put(Family::Default, b"b", b"second");
        effects.delete(Family::Default, b"c");
        let sealed = [first, effects.seal()];
        effects.put(Family::Default, b"d", b"open");
        let overlay = Overlay { open: &effects, sealed: &sealed };
        let lookup = |key: &[u8]| overlay.lookup(Family::Default, key);
        assert_eq!(lookup(b"a"), Overlaid::Value(b"first"));
        assert_eq!(lookup(b"b"), Overlaid::Value(b"second"));
        assert_eq!(lookup(b"c"), Overlaid::Deleted);
        assert_eq!(lookup(b"d"), Overlaid::Value(b"open"));
        assert_eq!(lookup(b"e"), Overlaid::Untouched);
        let all: [(&[u8], Option<&[u8]>); 4] =
            [(b"a", Some(b"first")), (b"b", Some(b"second")), (b"c", None), (b"d", Some(b"open"))];
        assert_eq!(overlay.in_range(Family::Default, &whole()), all);

        effects.clear();
        effects.put(Family::Default, b"f", b"kept");
        let sealed = [effects.seal()];
        effects.put(Family::Default, b"g", b"open");
        let overlay = Overlay { open: &effects, sealed: &sealed };
        assert!(overlay.is_cleared());
        assert_eq!(overlay.lookup(Family::Default, b"a"), Overlaid::Deleted);
        let all: [(&[u8], Option<&[u8]>); 2] = [(b"f", Some(b"kept")), (b"g", Some(b"open"))];
        assert_eq!(overlay.in_range(Family::Default, &whole()), all);
        let [sealed] = sealed;
        effects.recycle(sealed);
        let _ = effects.seal();
        assert_eq!(effects.lookup(Family::Default, b"f"), Overlaid::Untouched, "a used index is empty");
    }
}
