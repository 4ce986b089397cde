//! The effects of groups of commits on their way to the logs, and the overlay that shows them to the reads of later
//! commands.
//!
//! Guarantees: effects are appended in execution order; a lookup sees the newest effect on a disk key. For each group
//! it is known which records are superseded by a later record of the same key in the group. A bounded commit gathers no
//! more effects than its bound, and can be taken back. Memory ops are applied when they are recorded, so only disk
//! effects need an overlay.

use super::batch::{self, Family, Placed, Record, Records};
use super::key;
use super::rows::row_hash;
use crate::error::{Error, Result};
use bytes::Bytes;
use hashbrown::HashTable;
use std::ops::Range;

/// Largest number of bytes that a record has beside its key and value: tag, family and two lengths.
const RECORD_HEAD_MAX: usize = 1 + 1 + 5 + 5;

/// The effect of a group on a disk key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overlaid<'a> {
    /// No effect: the state of the database applies.
    Untouched,
    /// Deleted in this group.
    Deleted,
    /// Set in this group.
    Value(&'a [u8]),
}

#[derive(Clone, Copy)]
struct Entry {
    family: Family,
    /// Offset of the record.
    start: usize,
    placed: Placed,
    deleted: bool,
}

impl Entry {
    fn record(&self) -> Range<usize> {
        self.start..self.placed.value.0 + self.placed.value.1
    }
}

/// Index over a group's disk operations: the newest operation on each key.
#[derive(Default)]
struct DiskIndex {
    newest: HashTable<Entry>,
    /// Whether the group deleted all user keys: the group then hides everything that the database holds.
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

    /// Adds an entry. Returns the entry of the same key that it replaces.
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

    /// Notes that all user keys were deleted.
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
    /// Ranges of records whose key a later record sets or deletes. A deletion of all keys supersedes no record.
    superseded: Vec<Range<usize>>,
    /// Encoded ops on keys in memory.
    pub memory: Vec<u8>,
    index: DiskIndex,
    /// Empty index of a group that is done, kept so that its allocation is reused.
    spare_index: Option<DiskIndex>,
    /// Largest number of bytes that all effects together may reach until the current commit ends; `None`: no bound, the
    /// commit is known to be small.
    bytes_max: Option<usize>,
    /// Whether the commit exceeded its bound. While true, no put, delete or memory op is recorded.
    is_over: bool,
}

/// The effects of a group on its way to the logs, which takes no more commits.
pub struct SealedEffects {
    /// RocksDB write batch records.
    pub disk: Bytes,
    /// Ranges of records, ascending, whose key a later one of these records sets or deletes.
    pub superseded: Vec<Range<usize>>,
    /// Encoded ops on keys in memory.
    pub memory: Bytes,
    index: DiskIndex,
}

/// Lengths of the effects at one moment: the boundary between two commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Extent {
    /// Bytes of disk records.
    pub disk: usize,
    /// Number of disk operations.
    pub disk_ops: u32,
    /// Bytes of ops on keys in memory.
    pub memory: usize,
}

impl Effects {
    /// Returns the current lengths of the effects.
    #[must_use]
    pub fn extent(&self) -> Extent {
        Extent { disk: self.disk.len(), disk_ops: self.disk_ops, memory: self.memory.len() }
    }

    /// Returns the bytes of all effects.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.disk.len() + self.memory.len()
    }

    /// Bounds the effects of the commit that begins with this call to `bytes_max` bytes, until [`Effects::end_bound`].
    pub fn bound(&mut self, bytes_max: usize) {
        (self.bytes_max, self.is_over) = (Some(self.bytes() + bytes_max), false);
    }

    /// Ends the commit's bound; false if the commit exceeded it, so that its effects are incomplete.
    pub fn end_bound(&mut self) -> bool {
        self.bytes_max = None;
        !std::mem::take(&mut self.is_over)
    }

    /// Reports whether `bytes` more bytes of effects stay within the commit's bound.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        !self.is_over && self.bytes_max.is_none_or(|max| self.bytes() + bytes <= max)
    }

    /// Reports whether effects of `bytes` bytes may be appended. Once the answer is false, it is false for the rest of
    /// the commit.
    fn takes(&mut self, bytes: usize) -> bool {
        self.is_over |= !self.has_room(bytes);
        !self.is_over
    }

    /// Must be called after memory ops were appended; `before` is the extent before them. False if the ops exceed the
    /// commit's bound; then the ops are removed.
    pub fn takes_ops(&mut self, before: Extent) -> bool {
        if !self.takes(0) {
            self.memory.truncate(before.memory);
        }
        !self.is_over
    }

    /// Removes all effects behind `extent`, and rebuilds the index from the remaining records.
    pub fn take_back(&mut self, extent: Extent) -> Result<()> {
        self.memory.truncate(extent.memory);
        self.disk.truncate(extent.disk);
        // The removed effects may have been large, and the remaining buffers live long.
        for gathered in [&mut self.disk, &mut self.memory] {
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

    /// Returns the effect of the open group on a disk key.
    #[must_use]
    pub fn lookup(&self, family: Family, key: &[u8]) -> Overlaid<'_> {
        self.index.lookup(&self.disk, row_hash(family, key), family, key)
    }

    /// Returns the keys in a range whose newest effect in this group is a put.
    #[must_use]
    pub fn present_in_range(&self, family: Family, range: &Range<Vec<u8>>) -> Vec<Vec<u8>> {
        let all = self.index.in_range(&self.disk, family, range);
        all.filter(|(_, value)| value.is_some()).map(|(key, _)| key.to_vec()).collect()
    }

    /// Takes the effects out. Effects recorded after this call belong to the next group.
    #[must_use]
    pub fn seal(&mut self) -> SealedEffects {
        self.disk_ops = 0;
        let next = self.spare_index.take().unwrap_or_default();
        self.superseded.sort_unstable_by_key(|record| record.start);
        SealedEffects {
            disk: std::mem::take(&mut self.disk).into(),
            superseded: std::mem::take(&mut self.superseded),
            memory: std::mem::take(&mut self.memory).into(),
            index: std::mem::replace(&mut self.index, next),
        }
    }

    /// Keeps the allocation of a sealed group that is done, for a later group.
    pub fn recycle(&mut self, sealed: SealedEffects) {
        let mut index = sealed.index;
        index.forget();
        self.spare_index = Some(index);
    }
}

/// The effects that are not in the database yet, as reads under the writer lock see them: the open group on top of the
/// sealed groups.
#[derive(Clone, Copy)]
pub struct Overlay<'a> {
    /// The open group.
    pub open: &'a Effects,
    /// Groups on their way to the logs, oldest first.
    pub sealed: &'a [SealedEffects],
}

impl<'a> Overlay<'a> {
    /// Returns the effect of the newest group that touches a disk key.
    #[must_use]
    pub fn lookup(self, family: Family, key: &[u8]) -> Overlaid<'a> {
        let hash = row_hash(family, key);
        let below = self.sealed.iter().rev().map(|sealed| sealed.index.lookup(&sealed.disk, hash, family, key));
        let mut all = std::iter::once(self.open.index.lookup(&self.open.disk, hash, family, key)).chain(below);
        all.find(|found| *found != Overlaid::Untouched).unwrap_or(Overlaid::Untouched)
    }

    /// Reports whether no group touches the disk.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.open.disk.is_empty() && self.sealed.iter().all(|sealed| sealed.disk.is_empty())
    }

    /// Reports whether a group hides the state of the database by a deletion of all keys.
    #[must_use]
    pub fn is_cleared(self) -> bool {
        self.open.index.cleared || self.sealed.iter().any(|sealed| sealed.index.cleared)
    }

    /// Returns the newest effect on each changed key of a range, in key order; a deletion has no value.
    #[must_use]
    pub fn in_range(self, family: Family, range: &Range<Vec<u8>>) -> Vec<(&'a [u8], Option<&'a [u8]>)> {
        // A group that deletes all keys hides the groups below it.
        let first = self.sealed.iter().rposition(|sealed| sealed.index.cleared).unwrap_or(0);
        let below = if self.open.index.cleared { &[] } else { &self.sealed[first..] };
        let mut found: Vec<_> = self.open.index.in_range(&self.open.disk, family, range).collect();
        for sealed in below.iter().rev() {
            found.extend(sealed.index.in_range(&sealed.disk, family, range));
        }
        // The sort is stable: the effect of the newest group comes first for each key, and the removal of duplicates
        // keeps it.
        found.sort_by_key(|(key, _)| *key);
        found.dedup_by_key(|(key, _)| *key);
        found
    }
}

#[cfg(test)]
#[path = "effects_tests.rs"]
mod tests;
