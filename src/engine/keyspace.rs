//! The keyspace: one view over all engines for the commands, which knows the engine that owns a key. The functions that
//! change keys are in `change`.
//!
//! Guarantees: a key has one type and lives in one engine; giving a key another type deletes its old value in the old
//! engine. A key past its expiry is absent to every reader; a writer that meets an expired key deletes the key first,
//! as an effect of the writer's own commit.
//!
//! A keyspace has two modes. Under the writer lock every call works. Without the lock only disk keys can be read: a
//! call that would need the memory engines returns [`AccessError::NeedsLock`], and the caller runs the command a second
//! time under the lock.

use super::batch::Family;
use super::disk::Disk;
use super::effects::{Effects, Overlaid, Overlay, SealedEffects};
use super::expiry_index::ExpiryIndex;
pub use super::found::{Elements, Found, StringValue};
use super::key::{self, Generation, StreamId};
use super::memory::{List, Memory, Undo, Zset};
use super::meta::{Collection, Meta};
use super::row_shard::Value;
use super::rows::{RowAccess, Sought};
use super::scan::{Direction, Scan};
use super::watch::WatchTable;
use super::wear::Wear;
use super::whole::{self, WHOLE_ELEMENTS_MAX};
use crate::csn::Csn;
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// The memory engines.
    pub memory: &'a mut Memory,
    /// Effects of the open group.
    pub effects: &'a mut Effects,
    /// The state that undoes this command's changes of the memory engines.
    pub undo: &'a mut Undo,
    /// Effects of the groups on their way to the logs, oldest first.
    pub sealed: &'a [SealedEffects],
    /// Which clients watch which key.
    pub watches: &'a mut WatchTable,
    /// The index of the disk keys that expire.
    pub expiries: &'a mut ExpiryIndex,
    /// Numbers of elements that were deleted from each collection.
    pub wear: &'a mut Wear,
    /// The csn that the commit of this command gets.
    pub csn: Csn,
}

/// The keys of all engines, as one command sees them.
pub struct Keyspace<'a> {
    disk: &'a Disk,
    /// The command's clock: ms since the Unix epoch, the same for a whole command or EXEC.
    pub now_ms: u64,
    changing: Option<Changing<'a>>,
    access: RowAccess,
    /// Without the lock: the number of keys in the memory engines; `None` if the caller asks about the disk engines
    /// alone.
    memory_keys: Option<&'a AtomicUsize>,
}

impl<'a> Keyspace<'a> {
    /// Returns the keyspace for a command under the writer lock.
    #[must_use]
    pub fn changing(disk: &'a Disk, now_ms: u64, changing: Changing<'a>) -> Self {
        Self { disk, now_ms, changing: Some(changing), access: RowAccess::Changing, memory_keys: None }
    }

    /// Returns the keyspace for a command without the writer lock, which reads disk keys only. `memory_keys` is the
    /// number of keys in the memory engines; `None` if the caller asks about the disk engines alone.
    #[must_use]
    pub fn reading(disk: &'a Disk, now_ms: u64, memory_keys: Option<&'a AtomicUsize>) -> Self {
        Self { disk, now_ms, changing: None, access: RowAccess::Unlocked, memory_keys }
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

    pub(super) fn held(&mut self) -> &mut Changing<'a> {
        self.changing.as_mut().expect("effects are made under the writer lock only")
    }

    /// Returns the memory engines. Without the writer lock: [`AccessError::NeedsLock`].
    pub fn memory(&self) -> Access<&Memory> {
        self.changing.as_ref().map(|changing| &*changing.memory).ok_or(AccessError::NeedsLock)
    }

    /// Returns the number of keys in the memory engines; 0 if the caller asks about the disk engines alone.
    #[must_use]
    pub fn memory_key_count(&self) -> usize {
        match &self.changing {
            Some(changing) => changing.memory.len(),
            None => self.memory_keys.map_or(0, |keys| keys.load(Ordering::Acquire)),
        }
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

    fn get(&self, family: Family, disk_key: &[u8]) -> Result<Option<Value>> {
        self.get_or(family, disk_key, || self.disk.row(family, disk_key, self.access))
    }

    /// Returns a row as the open and the sealed groups have it; if they did not touch the row, the result of `stored`.
    fn get_or(
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

    pub(super) fn look(&self, key: &[u8]) -> Access<Found> {
        if let Some(changing) = &self.changing {
            if let Some(entry) = changing.memory.lists.get(key) {
                return Ok(Found::List(entry.expire_ms));
            }
            if let Some(entry) = changing.memory.zsets.get(key) {
                return Ok(Found::Zset(entry.expire_ms));
            }
        }
        match self.get(Family::Default, &key::meta(key))? {
            Some(stored) => Ok(match Meta::decode(&stored)? {
                Meta::String { value_at, expire_ms } => Found::String(StringValue { stored, value_at, expire_ms }),
                Meta::Collection(collection) => Found::Collection(collection),
            }),
            // The count is read after the miss: a key that moves to the memory engines is counted there before it
            // leaves the disk.
            None if self.memory_keys.is_some_and(|keys| keys.load(Ordering::Acquire) > 0) => {
                Err(AccessError::NeedsLock)
            }
            None => Ok(Found::Absent),
        }
    }

    /// Brings the rows of keys that are about to be read into the CPU's caches.
    pub fn fetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let metas: Vec<_> = keys.map(key::meta).collect();
        self.disk.rows().fetch(metas.iter().map(|meta| Sought::Row(Family::Default, meta)));
    }

    /// Brings the entries of keys in the memory engines into the CPU's caches, as
    /// [`RowCache::fetch`](super::rows::RowCache::fetch) does with rows. Does nothing without the writer lock.
    pub fn fetch_in_memory<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let Some(changing) = &self.changing else { return };
        for key in keys {
            std::hint::black_box(changing.memory.lists.get(key).map(|entry| entry.value.len()));
            std::hint::black_box(changing.memory.zsets.get(key).map(|entry| entry.value.len()));
        }
    }

    /// Returns what a key holds. An expired key is absent.
    pub fn find(&self, key: &[u8]) -> Access<Found> {
        let found = self.look(key)?;
        Ok(if self.is_expired(found.expire_ms()) { Found::Absent } else { found })
    }

    /// Returns the list at a key; `None` if the key holds no list or has expired.
    pub fn list(&self, key: &[u8]) -> Access<Option<&List>> {
        let entry = self.memory()?.lists.get(key);
        Ok(entry.filter(|entry| !self.is_expired(entry.expire_ms)).map(|entry| &entry.value))
    }

    /// Returns the sorted set at a key; `None` if the key holds no sorted set or has expired.
    pub fn zset(&self, key: &[u8]) -> Access<Option<&Zset>> {
        let entry = self.memory()?.zsets.get(key);
        Ok(entry.filter(|entry| !self.is_expired(entry.expire_ms)).map(|entry| &entry.value))
    }

    /// Returns the value of a hash field; for a set member an empty value. `None` if there is no such element.
    pub fn element(&self, key: &[u8], collection: &Collection, field: &[u8]) -> Access<Option<Value>> {
        let stored_key = key::sub(key, collection.generation, field);
        Ok(self.get_or(Family::Sub, &stored_key, || {
            let prefix = &stored_key[..stored_key.len() - field.len()];
            if is_small(collection)
                && let Some(Some(elements)) = self.disk.rows().whole(prefix, self.access)
            {
                return Ok(elements.element(field));
            }
            self.disk.row(Family::Sub, &stored_key, self.access)
        })?)
    }

    /// Returns the fields of a hash or the members of a set from `from` (inclusive) on, in byte order.
    pub fn elements(&self, key: &[u8], collection: &Collection, from: &[u8]) -> Access<Elements<'_>> {
        let generation = collection.generation;
        let prefix = key::element_prefix(key, generation);
        if let Some(elements) = self.small(&prefix, collection)? {
            self.require_living(key, generation)?;
            let at = whole::seek(&elements, from);
            return Ok(Elements::Whole(elements, at));
        }
        let range = key::sub(key, generation, from)..key::prefix_range(prefix).end;
        Ok(Elements::Scanned(self.scan_of(key, generation, Family::Sub, range, Direction::Forward)?))
    }

    /// Returns all elements of a small collection in one buffer (see `whole`); `None` if they may not fit into a
    /// buffer.
    fn small(&self, prefix: &[u8], collection: &Collection) -> Result<Option<Value>> {
        let overlay = self.overlay();
        if !is_small(collection) || overlay.is_some_and(Overlay::is_cleared) {
            return Ok(None);
        }
        let Some(stored) = self.disk.whole(prefix, self.access)? else { return Ok(None) };
        let range = key::prefix_range(prefix.to_vec());
        let laid_over = overlay.map_or_else(Vec::new, |overlay| overlay.in_range(Family::Sub, &range));
        Ok(laid_over.into_iter().try_fold(stored, |elements, (stored_key, value)| {
            whole::changed(&elements, &stored_key[prefix.len()..], value).as_deref().map(Value::from)
        }))
    }

    /// Scans the entries of a stream between two ids, both inclusive. [`entry_id`] returns the id in a scanned key.
    pub fn entries(
        &self,
        key: &[u8],
        generation: Generation,
        ids: Range<StreamId>,
        direction: Direction,
    ) -> Access<Scan<'_>> {
        let mut end = key::stream(key, generation, ids.end);
        end.push(0);
        self.scan_of(key, generation, Family::Stream, key::stream(key, generation, ids.start)..end, direction)
    }

    /// Returns the stored fields of a stream entry.
    pub fn entry(&self, key: &[u8], generation: Generation, id: StreamId) -> Access<Option<Value>> {
        Ok(self.get(Family::Stream, &key::stream(key, generation, id))?)
    }

    /// Scans the elements of one creation of a collection. Without the lock, the collection may be deleted and its
    /// elements compacted away after its metadata was read and before the scan fixes its state. So the scan is returned
    /// only if the collection has the same generation after the scan fixed its state; else the result is
    /// [`AccessError::NeedsLock`].
    fn scan_of(
        &self,
        key: &[u8],
        generation: Generation,
        family: Family,
        range: Range<Vec<u8>>,
        direction: Direction,
    ) -> Access<Scan<'_>> {
        let scan = Scan::new(self.disk, self.overlay(), family, range, direction);
        self.require_living(key, generation)?;
        Ok(scan)
    }

    fn require_living(&self, key: &[u8], generation: Generation) -> Access<()> {
        if self.changing.is_some() {
            return Ok(());
        }
        match self.look(key)? {
            Found::Collection(collection) if collection.generation == generation => Ok(()),
            _ => Err(AccessError::NeedsLock),
        }
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

fn is_small(collection: &Collection) -> bool {
    collection.count <= WHOLE_ELEMENTS_MAX
}

/// Returns the id in a key that [`Keyspace::entries`] scanned.
pub fn entry_id(scanned: &[u8]) -> Result<StreamId> {
    let id = key::parse_element(scanned).and_then(|element| key::parse_stream_id(element.rest));
    id.ok_or_else(|| Error::corrupt("stream entry key", "start", "does not parse"))
}

/// Returns the user key and the metadata in a pair that [`Keyspace::disk_keys`] scanned.
pub fn scanned_key<'s>((stored_key, value): (&'s [u8], &[u8])) -> Result<(&'s [u8], Meta)> {
    let user_key =
        key::user_key(stored_key).ok_or_else(|| Error::corrupt("metadata key", "start", "is a system key"))?;
    Ok((user_key, Meta::decode(value)?))
}
