//! The effects of groups of commits on their way to the logs, and what they already mean to the reads of later commands.
//!
//! Guarantees: effects are appended in execution order; a lookup sees the newest effect on a disk key; each record that a
//! later one of its group undoes is known; a commit that is bounded gathers no more than its bound, and can be taken back.
//! Memory ops are applied to the memory engines as they are recorded, so only disk effects need an overlay.

use super::batch::{self, Family, Placed, Record, Records};
use super::key;
use super::rows::row_hash;
use crate::error::{Error, Result};
use bytes::Bytes;
use hashbrown::HashTable;
use std::ops::Range;

/// What a record takes beside its key and its value, at most: tag, family and two lengths.
const RECORD_HEAD_MAX: usize = 1 + 1 + 5 + 5;

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
    placed: Placed,
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

    /// All user keys were deleted.
    fn clear(&mut self) {
        self.newest.clear();
        self.cleared = true;
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
    /// Bytes that all effects may have until the commit that is being made ends; none: it is known to be small.
    bytes_max: Option<usize>,
    /// Whether the commit has more effects than that. Nothing is appended then.
    is_over: bool,
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

    /// Bounds the commit that begins now, until [`Effects::end_bound`].
    pub fn bound(&mut self, bytes_max: usize) {
        (self.bytes_max, self.is_over) = (Some(self.bytes() + bytes_max), false);
    }

    /// Ends the commit's bound; false if its effects went beyond it: then they are not whole.
    pub fn end_bound(&mut self) -> bool {
        self.bytes_max = None;
        !std::mem::take(&mut self.is_over)
    }

    /// Whether more effects of `bytes` stay within the commit's bound.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        !self.is_over && self.bytes_max.is_none_or(|max| self.bytes() + bytes <= max)
    }

    /// Whether effects of `bytes` are to be appended. Once some are not, none of the commit is.
    fn takes(&mut self, bytes: usize) -> bool {
        self.is_over |= !self.has_room(bytes);
        !self.is_over
    }

    /// To be called behind memory ops that were appended: false if they are beyond the commit's bound. Then they are
    /// gone.
    pub fn takes_ops(&mut self, before: Extent) -> bool {
        if !self.takes(0) {
            self.lists.truncate(before.lists);
            self.zsets.truncate(before.zsets);
        }
        !self.is_over
    }

    /// Takes back everything behind `extent`.
    pub fn take_back(&mut self, extent: Extent) -> Result<()> {
        self.lists.truncate(extent.lists);
        self.zsets.truncate(extent.zsets);
        self.disk.truncate(extent.disk);
        // What was taken back may have been large, and what is left is kept for long.
        for gathered in [&mut self.disk, &mut self.lists, &mut self.zsets] {
            gathered.shrink_to_fit();
        }
        (self.disk_ops, self.bytes_max, self.is_over) = (extent.disk_ops, None, false);
        self.superseded.clear();
        self.index.forget();
        let disk = std::mem::take(&mut self.disk);
        let mut records = Records::new(&disk);
        let place = |bytes: &[u8]| (bytes.as_ptr() as usize - disk.as_ptr() as usize, bytes.len());
        loop {
            let start = records.offset();
            let Some(record) = records.next().transpose()? else { break };
            let (family, key, value) = match record {
                Record::Put(family, key, value) => (family, key, Some(value)),
                Record::Delete(family, key) => (family, key, None),
                Record::DeleteRange(..) => {
                    self.index.clear();
                    continue;
                }
                Record::LogData(_) => return Err(Error::corrupt("effects", start, "hold log data")),
            };
            let value_place = value.map_or((records.offset(), 0), place);
            let placed = Placed { key: place(key), value: value_place };
            let entry = Entry { family, start, placed, deleted: value.is_none() };
            self.superseded.extend(self.index.remember(&disk, entry).map(|before| before.record()));
        }
        self.disk = disk;
        Ok(())
    }

    /// Sets a disk key.
    pub fn put(&mut self, family: Family, key: &[u8], value: &[u8]) {
        if !self.takes(RECORD_HEAD_MAX + key.len() + value.len()) {
            return;
        }
        let start = self.disk.len();
        let placed = batch::push_put(&mut self.disk, family, key, value);
        self.remember(Entry { family, start, placed, deleted: false });
    }

    /// Deletes a disk key.
    pub fn delete(&mut self, family: Family, key: &[u8]) {
        if !self.takes(RECORD_HEAD_MAX + key.len()) {
            return;
        }
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
        self.index.clear();
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
        let record = |at: &Range<usize>| Records::new(&sealed.disk[at.clone()]).next().unwrap().unwrap();
        let superseded: Vec<_> = sealed.superseded.iter().map(record).collect();
        let put = |key, value| Record::Put(Family::Default, key, value);
        let expected = [put(b"a", b"1"), put(b"b", b"1"), Record::Delete(Family::Default, b"b"), put(b"a", b"2")];
        assert_eq!(superseded, expected, "what a deletion of all keys came after is not asked");
        effects.put(Family::Default, b"a", b"5");
        assert!(effects.seal().superseded.is_empty(), "another group");
    }

    /// Goal: a commit that is taken back leaves the group as it was: bytes, lookups, ranges and what is superseded.
    #[test]
    fn a_commit_is_taken_back_and_the_ones_before_it_stay() {
        let gather = |has_third: bool| {
            let mut effects = Effects::default();
            effects.put(Family::Default, b"a", b"1");
            effects.put(Family::Default, b"b", b"1");
            effects.put(Family::Default, b"a", b"2");
            effects.delete(Family::Default, b"b");
            let first = effects.extent();
            effects.clear();
            effects.put(Family::Default, b"c", b"1");
            effects.put(Family::Sub, b"c", b"2");
            effects.lists.push(1);
            let second = effects.extent();
            if has_third {
                effects.bound(64);
                effects.put(Family::Default, b"a", b"3");
                effects.put(Family::Default, b"c", b"3");
                effects.delete(Family::Sub, b"c");
                effects.lists.push(2);
                effects.zsets.push(2);
                effects.clear();
                effects.take_back(second).unwrap();
            }
            (effects, first, second)
        };
        let [(mut back, ..), (mut never, first, second)] = [true, false].map(gather);
        for (family, key) in [b"a", b"b", b"c"].into_iter().flat_map(|key| Family::ALL.map(|family| (family, key))) {
            assert_eq!(back.lookup(family, key), never.lookup(family, key), "{family:?} {key:?}");
        }
        assert_eq!(back.extent(), second);
        for effects in [&mut back, &mut never] {
            effects.put(Family::Default, b"c", b"4");
        }
        let [sealed_back, sealed_never] = [back.seal(), never.seal()];
        assert_eq!(sealed_back.disk, sealed_never.disk);
        assert_eq!(sealed_back.superseded, sealed_never.superseded);
        let (mut effects, ..) = gather(false);
        effects.take_back(first).unwrap();
        assert_eq!(
            effects.lookup(Family::Default, b"a"),
            Overlaid::Value(b"2"),
            "nor is the deletion of all keys left"
        );
        assert_eq!(effects.lookup(Family::Sub, b"c"), Overlaid::Untouched);
    }

    #[test]
    fn a_bounded_commit_gathers_no_more_than_its_bound() {
        let mut effects = Effects::default();
        effects.put(Family::Default, b"before", &[0; 100]);
        effects.bound(100);
        assert!(effects.has_room(100) && !effects.has_room(101));
        effects.put(Family::Default, b"fits", &[0; 50]);
        let before = effects.extent();
        effects.put(Family::Default, b"does not", &[0; 50]);
        effects.put(Family::Default, b"nor what follows", b"");
        effects.delete(Family::Default, b"fits");
        effects.lists.push(1);
        assert!(!effects.takes_ops(before) && effects.lists.is_empty());
        assert_eq!(effects.extent(), before);
        assert!(!effects.end_bound());
        effects.bound(100);
        effects.put(Family::Default, b"the next one", &[0; 50]);
        assert!(effects.end_bound());
        effects.put(Family::Default, b"one without a bound", &[0; 200]);
        assert!(effects.end_bound());
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
