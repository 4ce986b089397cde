//! The keyspace: one view over both homes for the commands, which knows the home of a key. The functions that change
//! keys are in `change`, those that read and change elements in `elements`, and moves in `moves`.
//!
//! Guarantees: a key has one type and lives in one home; giving a key another type deletes its old value. A key past its
//! expiry is absent to every reader; a writer that meets an expired key deletes the key first, as an effect of the
//! writer's own commit.
//!
//! A keyspace has two modes. Under the writer lock every call works and sees all commits, also those that are not
//! written yet. Without the lock a reader sees written commits only: a call that meets a change of a later commit
//! returns [`AccessError::NeedsLock`], and the caller runs the command a second time under the lock.

use super::batch::Family;
use super::disk::Disk;
use super::effects::{Effects, Overlaid, Overlay, SealedEffects};
use super::expiry_index::ExpiryIndex;
pub use super::found::{Found, ListRef, StringValue, ValueRef, ZsetRef};
use super::key;
use super::memory::{Memory, Slot, SlotGuard};
use super::meta::{Home, Meta};
use super::routing::Routing;
use super::row_shard::Value;
use super::rows::{RowAccess, Sought};
use super::scan::{Direction, Scan};
use super::watch::WatchTable;
use super::wear::Wear;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::watermark::Watermark;
use std::num::NonZeroU64;
use std::ops::Range;

/// Why the keyspace could not answer.
#[derive(Debug)]
pub enum AccessError {
    /// The answer needs the writer lock, which is not held.
    NeedsLock,
    /// The commit would be larger than its bound.
    TooLarge,
    /// The database failed.
    Failed(Error),
}

impl From<Error> for AccessError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Result of an access to the keyspace.
pub type Access<T> = std::result::Result<T, AccessError>;

/// The state that a command may change under the writer lock.
pub struct Changing<'a> {
    /// Effects of the open group.
    pub effects: &'a mut Effects,
    /// Number of the hidden change that this command makes in memory; `None`: readers see each change at once.
    pub hidden: Option<NonZeroU64>,
    /// Effects of the groups on their way to the logs, oldest first.
    pub sealed: &'a [SealedEffects],
    /// Which clients watch which key.
    pub watches: &'a mut WatchTable,
    /// The index of the disk keys that expire.
    pub expiries: &'a mut ExpiryIndex,
    /// Numbers of elements that were deleted from each collection.
    pub wear: &'a mut Wear,
    /// How homes are chosen.
    pub routing: Routing,
    /// The csn that the commit of this command gets.
    pub csn: Csn,
}

/// All keys, as one command sees them.
pub struct Keyspace<'a> {
    disk: &'a Disk,
    memory: &'a Memory,
    /// The command's clock: ms since the Unix epoch, the same for a whole command or EXEC.
    pub now_ms: u64,
    changing: Option<Changing<'a>>,
    access: RowAccess,
    /// Without the lock: the csn up to which commits are written.
    committed: Option<&'a Watermark>,
}

impl<'a> Keyspace<'a> {
    /// Returns the keyspace for a command under the writer lock.
    #[must_use]
    pub fn changing(disk: &'a Disk, memory: &'a Memory, now_ms: u64, changing: Changing<'a>) -> Self {
        Self { disk, memory, now_ms, changing: Some(changing), access: RowAccess::Changing, committed: None }
    }

    /// Returns the keyspace for a command without the writer lock. `committed` is the csn up to which commits are
    /// written.
    #[must_use]
    pub fn reading(disk: &'a Disk, memory: &'a Memory, now_ms: u64, committed: &'a Watermark) -> Self {
        Self { disk, memory, now_ms, changing: None, access: RowAccess::Unlocked, committed: Some(committed) }
    }

    /// Declares that the command under the writer lock only reads.
    #[must_use]
    pub fn only_reading(self) -> Self {
        Self { access: RowAccess::Locked, ..self }
    }

    /// Returns the database.
    pub(super) fn disk(&self) -> &'a Disk {
        self.disk
    }

    /// How rows are read.
    pub(super) fn access(&self) -> RowAccess {
        self.access
    }

    pub(super) fn held(&mut self) -> &mut Changing<'a> {
        self.changing.as_mut().expect("effects are made under the writer lock only")
    }

    /// Returns [`AccessError::NeedsLock`] without the writer lock. Only under the lock do several reads see one moment.
    pub fn require_lock(&self) -> Access<()> {
        if self.changing.is_some() { Ok(()) } else { Err(AccessError::NeedsLock) }
    }

    /// Returns the keys in memory. A reader without the writer lock may see changes of commits that are not written.
    #[must_use]
    pub fn memory(&self) -> &'a Memory {
        self.memory
    }

    /// Reports whether new strings, hashes and sets may start in memory.
    #[must_use]
    pub fn grows_memory(&self) -> bool {
        self.changing.as_ref().is_some_and(|changing| changing.routing.home_of_new(0) == Home::Memory)
    }

    /// Adds a watcher of a key. Without the writer lock: [`AccessError::NeedsLock`].
    pub fn watch(&mut self, key: &[u8], flag: &super::watch::Touched) -> Access<()> {
        self.changing.as_mut().map(|changing| changing.watches.watch(key, flag)).ok_or(AccessError::NeedsLock)
    }

    pub(super) fn is_expired(&self, expire_ms: u64) -> bool {
        expire_ms != 0 && expire_ms <= self.now_ms
    }

    pub(super) fn overlay(&self) -> Option<Overlay<'_>> {
        self.changing.as_ref().map(|changing| Overlay { open: changing.effects, sealed: changing.sealed })
    }

    pub(super) fn get(&self, family: Family, disk_key: &[u8]) -> Result<Option<Value>> {
        self.get_or(family, disk_key, || self.disk.row(family, disk_key, self.access))
    }

    /// Returns a row as the open and the sealed groups have it; if they did not touch the row, the result of `stored`.
    pub(super) fn get_or(
        &self,
        family: Family,
        disk_key: &[u8],
        stored: impl FnOnce() -> Result<Option<Value>>,
    ) -> Result<Option<Value>> {
        let overlaid = self.overlay().map_or(Overlaid::Untouched, |overlay| overlay.lookup(family, disk_key));
        match overlaid {
            Overlaid::Deleted => Ok(None),
            Overlaid::Value(value) => Ok(Some(Value::from(value))),
            Overlaid::Untouched => stored(),
        }
    }

    /// Returns the slot of a key in memory, and the newest commit that may have changed the answer. The slot must be
    /// dropped before the key is changed.
    pub(super) fn slot(&self, key: &[u8]) -> Access<(Option<SlotGuard<'a>>, Csn)> {
        let Some(committed) = self.committed else { return Ok((self.memory.get(key), Csn::ZERO)) };
        let seen = self.memory.seen(key);
        // The watermark is read after the slot: a commit that it includes is whole in both homes.
        if seen.csn > committed.get() { Err(AccessError::NeedsLock) } else { Ok((seen.slot, seen.csn)) }
    }

    /// Returns what a key holds, expired or not, and counts the access.
    pub(super) fn look(&self, key: &[u8]) -> Access<Found> {
        let (slot, before) = self.slot(key)?;
        if let Some(slot) = slot {
            self.memory.tracker().note_in_memory(slot.touch());
            return Ok(Found::in_memory(&slot));
        }
        let found = self.look_beyond_memory(key, before)?;
        if !found.is_absent() {
            self.memory.tracker().note_on_disk(key);
        }
        Ok(found)
    }

    /// Returns what a key holds, without counting the access. An expired key is absent.
    pub fn peek(&self, key: &[u8]) -> Access<Found> {
        let (slot, before) = self.slot(key)?;
        let found = match slot {
            Some(slot) => Found::in_memory(&slot),
            None => self.look_beyond_memory(key, before)?,
        };
        Ok(if self.is_expired(found.expire_ms()) { Found::Absent } else { found })
    }

    /// Returns what a key holds that was not in memory after the commit `before`.
    fn look_beyond_memory(&self, key: &[u8], before: Csn) -> Access<Found> {
        let found = self.look_on_disk(key)?;
        if found.is_absent() && self.committed.is_some() {
            // The key may have moved to memory since the first look.
            let (slot, after) = self.slot(key)?;
            if slot.is_some() || after != before {
                return Err(AccessError::NeedsLock);
            }
        }
        Ok(found)
    }

    /// Returns what a key holds on disk.
    pub(super) fn look_on_disk(&self, key: &[u8]) -> Access<Found> {
        let slots = self.disk.rows().slots();
        if !slots.may_have_any() && self.overlay().is_none_or(Overlay::is_empty) {
            return Ok(Found::Absent);
        }
        let row = key::meta(key);
        let may_be_there = || slots.may_have_keys(key::slot_of_meta(&row).unwrap_or_default());
        let stored = self.get_or(Family::Default, &row, || {
            if may_be_there() { self.disk.row(Family::Default, &row, self.access) } else { Ok(None) }
        })?;
        Ok(match stored {
            None => Found::Absent,
            Some(stored) => match Meta::decode(&stored)? {
                Meta::String { value_at, expire_ms } => {
                    Found::String(StringValue::Disk { stored, value_at, expire_ms })
                }
                Meta::Collection(collection) => Found::Collection(collection),
            },
        })
    }

    /// Calls `with` with the slot of each key in memory, all at one moment; `None` for a key that is absent or expired.
    /// Returns [`AccessError::NeedsLock`] without the writer lock if a key may be on disk, or as other reads do; then
    /// `with` may have been called for some keys.
    pub fn with_slots<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
        mut with: impl FnMut(Option<&Slot>),
    ) -> Access<()> {
        let Some(committed) = self.committed else { return Err(AccessError::NeedsLock) };
        if self.disk.rows().slots().may_have_any() {
            return Err(AccessError::NeedsLock);
        }
        let newest = self.memory.seen_together(keys, |slot| {
            let slot = slot.filter(|slot| !self.is_expired(slot.expire_ms()));
            slot.into_iter().for_each(|slot| self.memory.tracker().note_in_memory(slot.touch()));
            with(slot);
        });
        if newest > committed.get() { Err(AccessError::NeedsLock) } else { Ok(()) }
    }

    /// Brings the keys that are about to be read into the CPU's caches.
    pub fn fetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let metas: Vec<_> = keys.map(key::meta).collect();
        self.disk.rows().fetch(metas.iter().map(|meta| Sought::Row(Family::Default, meta)));
    }

    /// Returns what a key holds. An expired key is absent.
    pub fn find(&self, key: &[u8]) -> Access<Found> {
        let found = self.look(key)?;
        Ok(if self.is_expired(found.expire_ms()) { Found::Absent } else { found })
    }

    /// Returns the list at a key; `None` if the key holds no list or has expired.
    pub fn list(&self, key: &[u8]) -> Access<Option<ListRef<'_>>> {
        self.value(key, Slot::as_list)
    }

    /// Returns the sorted set at a key; `None` if the key holds no sorted set or has expired.
    pub fn zset(&self, key: &[u8]) -> Access<Option<ZsetRef<'_>>> {
        self.value(key, Slot::as_zset)
    }

    fn value<T>(&self, key: &[u8], read: fn(&Slot) -> Option<&T>) -> Access<Option<ValueRef<'_, T>>> {
        let Some(slot) = self.slot(key)?.0.filter(|slot| !self.is_expired(slot.expire_ms())) else { return Ok(None) };
        self.memory.tracker().note_in_memory(slot.touch());
        if self.changing.is_some() {
            return Ok(parking_lot::MappedRwLockReadGuard::try_map(slot, read).ok().map(ValueRef::Held));
        }
        Ok(read(&slot).is_some().then(|| ValueRef::Kept(slot.clone(), read)))
    }

    /// Scans the metadata of all disk keys in a range of slots. [`scanned_key`] decodes a scanned pair.
    #[must_use]
    pub fn disk_keys(&self, slots: Range<u16>) -> Scan<'_> {
        let range = slots.start.to_be_bytes().to_vec()..slots.end.min(key::SLOTS).to_be_bytes().to_vec();
        Scan::new(self.disk, self.overlay(), Family::Default, range, Direction::Forward)
    }

    /// Returns [`AccessError::TooLarge`] if the commit has no room for `bytes` more bytes of effects. A command whose
    /// effects are as large as the stored value asks before it gathers them.
    pub fn require_room(&self, bytes: usize) -> Access<()> {
        let effects = self.changing.as_ref().map(|changing| &*changing.effects);
        if effects.is_none_or(|effects| effects.has_room(bytes)) { Ok(()) } else { Err(AccessError::TooLarge) }
    }

    /// Reports whether the commit that is being made exceeds its bound. Such a commit is incomplete and will be taken
    /// back.
    #[must_use]
    pub fn is_over_bound(&self) -> bool {
        self.changing.as_ref().is_some_and(|changing| !changing.effects.has_room(0))
    }
}

/// Returns the user key and the metadata in a pair that [`Keyspace::disk_keys`] scanned.
pub fn scanned_key<'s>((stored_key, value): (&'s [u8], &[u8])) -> Result<(&'s [u8], Meta)> {
    let user_key =
        key::user_key(stored_key).ok_or_else(|| Error::corrupt("metadata key", "start", "is a system key"))?;
    Ok((user_key, Meta::decode(value)?))
}
