//! A shard of the row cache: slots in a hash table, and the sweep that bounds their bytes.
//!
//! Guarantees: a shard holds at most [`Limit::bytes_max`] bytes; the slots that were read since the last sweep stay
//! longest (second chance).

use super::batch::Family;
use super::complete::Complete;
use super::key;
use super::whole;
use hashbrown::HashTable;
use std::ops::Deref;
use std::sync::Arc;

/// A sweep frees `1 / SWEPT_PART` of a shard's bytes.
const SWEPT_PART: usize = 8;
/// Bytes that a row takes beside its key and value: its slot in a table that is not full, and the overhead of the
/// allocator.
const ROW_OVERHEAD_BYTES: usize = size_of::<Slot>() * 3 / 2 + 24;

/// A stored row's value, or a part of it. Dereferences to the value.
#[derive(Clone, Debug)]
pub struct Value {
    /// The whole row; the value is `row[at..end]`.
    row: Arc<[u8]>,
    at: usize,
    end: usize,
}

impl Value {
    fn new(key: &[u8], value: &[u8]) -> Self {
        // One allocation, filled in place.
        let mut row: Arc<[u8]> = std::iter::repeat_n(0, key.len() + value.len()).collect();
        let bytes = Arc::get_mut(&mut row).expect("no other reference exists");
        bytes[..key.len()].copy_from_slice(key);
        bytes[key.len()..].copy_from_slice(value);
        Self { at: key.len(), end: row.len(), row }
    }

    /// Returns the value of an element, if this value is the buffer of a small collection that has the element.
    pub(super) fn element(mut self, name: &[u8]) -> Option<Self> {
        let value = whole::value_of(&self, name)?;
        (self.at, self.end) = (self.at + value.start, self.at + value.end);
        Some(self)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self { row: value.into(), at: 0, end: value.len() }
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.row[self.at..self.end]
    }
}

/// Kind of content of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A row.
    Row(Family),
    /// All elements of a small collection, under the common prefix of their keys.
    Whole,
}

/// A row, or all elements of a small collection, in a shard.
pub(super) struct Slot {
    /// The key, then the value.
    row: Arc<[u8]>,
    hash: u64,
    /// Length of the key.
    at: u32,
    kind: Kind,
    /// Whether the row exists, or whether the elements fit into a buffer.
    pub is_there: bool,
    /// Whether the slot was read since the last sweep.
    pub was_read: bool,
}

impl Slot {
    /// Reports whether the slot has this key.
    pub(super) fn is(&self, hash: u64, kind: Kind, key: &[u8]) -> bool {
        self.hash == hash && self.kind == kind && self.row[..self.at as usize] == *key
    }

    /// Returns the value without copying it.
    pub(super) fn value(&self) -> Value {
        Value { row: Arc::clone(&self.row), at: self.at as usize, end: self.row.len() }
    }

    fn bytes(&self) -> usize {
        self.row.len() + ROW_OVERHEAD_BYTES
    }

    /// Forgets that the collection of this row is complete. Called before the slot is removed while RocksDB still holds
    /// the row.
    fn leave(&self, complete: &Complete) {
        if self.kind == Kind::Row(Family::Sub)
            && self.is_there
            && !complete.is_empty()
            && let Some(element) = key::parse_element(&self.row[..self.at as usize])
        {
            complete.forget(element.prefix);
        }
    }
}

/// Bounds of a shard, and the complete collections, which must be told of rows that are removed.
pub(super) struct Limit {
    /// Largest number of bytes of a shard.
    pub bytes_max: usize,
    /// The collections whose elements all have rows in the cache.
    pub complete: Complete,
}

/// A shard of the row cache.
#[derive(Default)]
pub(super) struct Shard {
    pub slots: HashTable<Slot>,
    /// Bytes of all slots.
    pub bytes: usize,
}

impl Shard {
    /// Returns the slot with this key.
    pub(super) fn find(&mut self, hash: u64, kind: Kind, key: &[u8]) -> Option<&mut Slot> {
        self.slots.find_mut(hash, |slot| slot.is(hash, kind, key))
    }

    /// Stores a value, or its absence, and removes other rows if the shard has become too large.
    pub(super) fn put(&mut self, hash: u64, kind: Kind, key: &[u8], value: Option<&[u8]>, limit: &Limit) {
        let (is_there, value) = (value.is_some(), value.unwrap_or_default());
        if let Some(slot) = self.find(hash, kind, key) {
            let before = slot.bytes();
            slot.is_there = is_there;
            match Arc::get_mut(&mut slot.row) {
                Some(row) if row.len() == key.len() + value.len() => row[key.len()..].copy_from_slice(value),
                _ => slot.row = Value::new(key, value).row,
            }
            let after = slot.bytes();
            self.bytes = self.bytes + after - before;
        } else {
            let row = Value::new(key, value).row;
            let slot = Slot { row, hash, at: key.len() as u32, kind, is_there, was_read: false };
            self.bytes += slot.bytes();
            self.slots.insert_unique(hash, slot, |slot| slot.hash);
        }
        while self.bytes > limit.bytes_max {
            self.sweep(hash, limit.bytes_max - limit.bytes_max / SWEPT_PART, &limit.complete);
        }
    }

    /// Removes rows that were not read since the last sweep, starting at a position derived from `place`, until at most
    /// `bytes_max` bytes are left. A second round treats all rows as not read.
    fn sweep(&mut self, place: u64, bytes_max: usize, complete: &Complete) {
        let Self { slots, bytes } = self;
        let mut skipped = place as usize % slots.len().max(1);
        for _ in 0..2 {
            slots.retain(|slot| {
                let stays = skipped > 0 || *bytes <= bytes_max || slot.was_read;
                slot.was_read &= skipped > 0 || *bytes <= bytes_max;
                skipped = skipped.saturating_sub(1);
                if !stays {
                    *bytes -= slot.bytes();
                    slot.leave(complete);
                }
                stays
            });
        }
    }

    /// Removes the slot with this key, if it is there.
    pub(super) fn remove(&mut self, hash: u64, kind: Kind, key: &[u8]) {
        if let Ok(found) = self.slots.find_entry(hash, |slot| slot.is(hash, kind, key)) {
            self.bytes -= found.remove().0.bytes();
        }
    }
}
