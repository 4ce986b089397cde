//! Who owns a key: one view over all engines for the commands.
//!
//! Guarantees: a key has one type and lives in one engine; giving it another type deletes it where it was. A key past
//! its expiry is absent to every reader; a writer that meets one deletes it first, as an effect of its own commit.
//!
//! Two modes. Under the writer lock everything works. Without it, only disk keys can be read: what would need the
//! memory engines ends in [`AccessError::NeedsLock`], and the caller runs the command again under the lock.

use super::batch::Family;
use super::disk::Disk;
use super::effects::{Effects, Overlaid, Overlay, SealedEffects};
use super::expiry::ExpiryIndex;
use super::key::{self, Generation, StreamId};
use super::memory::{List, ListEncoder, ListOps, Memory, Op, Undo, Zset, ZsetEncoder, ZsetOps};
use super::meta::{self, Collection, DiskType, Meta};
use super::rows::{RowAccess, Sought, Value};
use super::scan::{Direction, Scan};
use super::walk::Walked;
use super::watch::WatchTable;
use super::wear::Wear;
use super::whole::{self, WHOLE_ELEMENTS_MAX};
use crate::csn::Csn;
use crate::error::{Error, Result};
use std::ops::{ControlFlow, Deref, Range};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long to look whether there is a key before all of them are deleted.
const EMPTINESS_TIME: Duration = Duration::from_millis(5);

/// Why the keyspace could not answer.
#[derive(Debug)]
pub enum AccessError {
    /// The answer needs the writer lock, which is not held.
    NeedsLock,
    /// The commit would get larger than it may.
    TooLarge,
    /// The database failed.
    Failed(Error),
}

impl From<Error> for AccessError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Result of a look at the keyspace.
pub type Access<T> = std::result::Result<T, AccessError>;

/// What a command changes, under the writer lock.
pub struct Changing<'a> {
    /// The memory engines.
    pub memory: &'a mut Memory,
    /// The open group's effects.
    pub effects: &'a mut Effects,
    /// What it takes to take back this command's changes of the memory engines.
    pub undo: &'a mut Undo,
    /// Those of groups on their way to the logs, oldest first.
    pub sealed: &'a [SealedEffects],
    /// Who watches which key.
    pub watches: &'a mut WatchTable,
    /// The index of the keys that expire.
    pub expiries: &'a mut ExpiryIndex,
    /// What collections lost.
    pub wear: &'a mut Wear,
    /// The csn this command's commit will get.
    pub csn: Csn,
}

/// A string's value with what stands before it.
pub struct StringValue {
    stored: Value,
    value_at: usize,
    /// When it expires, in ms since the Unix epoch; 0: never.
    pub expire_ms: u64,
}

impl Deref for StringValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.stored[self.value_at..]
    }
}

/// What a key holds.
pub enum Found {
    /// Nothing.
    Absent,
    /// A string.
    String(StringValue),
    /// A hash, set or stream.
    Collection(Collection),
    /// A list that expires at this time (ms; 0: never). The list: [`Keyspace::list`].
    List(u64),
    /// A sorted set that expires at this time (ms; 0: never). The set: [`Keyspace::zset`].
    Zset(u64),
}

impl Found {
    /// Whether there is no such key.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// When it expires, in ms since the Unix epoch; 0: never.
    #[must_use]
    pub fn expire_ms(&self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::String(value) => value.expire_ms,
            Self::Collection(collection) => collection.expire_ms,
            Self::List(expire_ms) | Self::Zset(expire_ms) => *expire_ms,
        }
    }

    /// Redis' name of the type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Absent => "none",
            Self::String(_) => "string",
            Self::List(_) => "list",
            Self::Zset(_) => "zset",
            Self::Collection(collection) => match collection.kind {
                DiskType::Set => "set",
                DiskType::Stream => "stream",
                DiskType::Hash | DiskType::String => "hash",
            },
        }
    }
}

/// Elements of a collection, in byte order of their names.
pub enum Elements<'a> {
    /// As the database has them.
    Scanned(Scan<'a>),
    /// As the row cache has them, from an offset on.
    Whole(Value, usize),
}

impl Elements<'_> {
    /// Name and value of the next one; `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "what it returns borrows from the walk")]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        match self {
            Self::Scanned(scan) => {
                let Some((stored, value)) = scan.next()? else { return Ok(None) };
                let element = key::parse_element(stored);
                let element = element.ok_or_else(|| Error::corrupt("element key", "start", "does not parse"))?;
                Ok(Some((element.rest, value)))
            }
            Self::Whole(elements, at) => Ok(whole::element_at(elements, *at).map(|(name, value, end)| {
                *at = end;
                (name, value)
            })),
        }
    }
}

/// The keys of all engines, as one command sees them.
pub struct Keyspace<'a> {
    disk: &'a Disk,
    /// The command's clock: ms since the Unix epoch, the same for the whole command or EXEC.
    pub now_ms: u64,
    changing: Option<Changing<'a>>,
    access: RowAccess,
    /// Without the lock: how many keys the memory engines hold; none if they are not asked about.
    memory_keys: Option<&'a AtomicUsize>,
}

impl<'a> Keyspace<'a> {
    /// Under the writer lock.
    #[must_use]
    pub fn changing(disk: &'a Disk, now_ms: u64, changing: Changing<'a>) -> Self {
        Self { disk, now_ms, changing: Some(changing), access: RowAccess::Changing, memory_keys: None }
    }

    /// Without the writer lock: disk keys only. `memory_keys` is how many keys the memory engines hold; none: the caller
    /// asks about the disk engines alone.
    #[must_use]
    pub fn reading(disk: &'a Disk, now_ms: u64, memory_keys: Option<&'a AtomicUsize>) -> Self {
        Self { disk, now_ms, changing: None, access: RowAccess::Unlocked, memory_keys }
    }

    /// Says that the command under the writer lock only reads.
    #[must_use]
    pub fn only_reading(self) -> Self {
        Self { access: RowAccess::Locked, ..self }
    }

    /// The database.
    pub(super) fn disk(&self) -> &'a Disk {
        self.disk
    }

    pub(super) fn held(&mut self) -> &mut Changing<'a> {
        self.changing.as_mut().expect("effects are made under the writer lock only")
    }

    /// The memory engines.
    pub fn memory(&self) -> Access<&Memory> {
        self.changing.as_ref().map(|changing| &*changing.memory).ok_or(AccessError::NeedsLock)
    }

    /// Number of keys in the memory engines; 0 if the caller asks about the disk engines alone.
    #[must_use]
    pub fn memory_key_count(&self) -> usize {
        match &self.changing {
            Some(changing) => changing.memory.len(),
            None => self.memory_keys.map_or(0, |keys| keys.load(Ordering::Acquire)),
        }
    }

    /// Adds a watcher of a key. Under the lock.
    pub fn watch(&mut self, key: &[u8], flag: &super::watch::Touched) -> Access<()> {
        self.changing.as_mut().map(|changing| changing.watches.watch(key, flag)).ok_or(AccessError::NeedsLock)
    }

    // ---- looking ----

    pub(super) fn is_expired(&self, expire_ms: u64) -> bool {
        expire_ms != 0 && expire_ms <= self.now_ms
    }

    pub(super) fn overlay(&self) -> Option<Overlay<'_>> {
        self.changing.as_ref().map(|changing| Overlay { open: changing.effects, sealed: changing.sealed })
    }

    fn get(&self, family: Family, disk_key: &[u8]) -> Result<Option<Value>> {
        self.get_or(family, disk_key, || self.disk.row(family, disk_key, self.access))
    }

    /// A row as the groups have it, else by `stored`.
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
            // Looked at after the miss: a key that moves to the memory engines is counted there before it leaves the disk.
            None if self.memory_keys.is_some_and(|keys| keys.load(Ordering::Acquire) > 0) => {
                Err(AccessError::NeedsLock)
            }
            None => Ok(Found::Absent),
        }
    }

    /// Fetches the rows of keys that are about to be looked at.
    pub fn fetch<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let metas: Vec<_> = keys.map(key::meta).collect();
        self.disk.rows().fetch(metas.iter().map(|meta| Sought::Row(Family::Default, meta)));
    }

    /// Looks keys up in the memory engines together, as [`RowCache::fetch`](super::rows::RowCache::fetch) does with rows.
    /// Under the lock.
    pub fn fetch_in_memory<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) {
        let Some(changing) = &self.changing else { return };
        for key in keys {
            std::hint::black_box(changing.memory.lists.get(key).map(|entry| entry.value.len()));
            std::hint::black_box(changing.memory.zsets.get(key).map(|entry| entry.value.len()));
        }
    }

    /// What a key holds; an expired key is absent.
    pub fn find(&self, key: &[u8]) -> Access<Found> {
        let found = self.look(key)?;
        Ok(if self.is_expired(found.expire_ms()) { Found::Absent } else { found })
    }

    /// As `find`, for a command that is about to write the key: an expired key is deleted as part of the commit.
    pub fn find_to_change(&mut self, key: &[u8]) -> Access<Found> {
        let found = self.look(key)?;
        if self.is_expired(found.expire_ms()) {
            self.delete(key, &found)?;
            return Ok(Found::Absent);
        }
        Ok(found)
    }

    /// The list at a key; `None` if there is none (or it has expired).
    pub fn list(&self, key: &[u8]) -> Access<Option<&List>> {
        let entry = self.memory()?.lists.get(key);
        Ok(entry.filter(|entry| !self.is_expired(entry.expire_ms)).map(|entry| &entry.value))
    }

    /// The sorted set at a key; `None` if there is none (or it has expired).
    pub fn zset(&self, key: &[u8]) -> Access<Option<&Zset>> {
        let entry = self.memory()?.zsets.get(key);
        Ok(entry.filter(|entry| !self.is_expired(entry.expire_ms)).map(|entry| &entry.value))
    }

    /// Value of a hash field; `Some` and empty for a set member.
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

    /// Fields of a hash or members of a set from `from` (inclusive) on, in byte order.
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

    /// All elements of a small collection; `None` if there may be too many.
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

    /// Entries of a stream between two ids, both inclusive. Each scanned key must go through [`entry_id`].
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

    /// A stream entry's stored fields.
    pub fn entry(&self, key: &[u8], generation: Generation, id: StreamId) -> Access<Option<Value>> {
        Ok(self.get(Family::Stream, &key::stream(key, generation, id))?)
    }

    /// Without the lock a collection may be deleted, and its elements compacted away, between the look at its metadata
    /// and the scan: the scan counts only if the same creation lives on when the scan's state was fixed.
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

    /// Metadata of all disk keys of a range of slots. Each scanned pair must go through [`scanned_key`].
    #[must_use]
    pub fn disk_keys(&self, slots: Range<u16>) -> Scan<'_> {
        let range = slots.start.to_be_bytes().to_vec()..slots.end.min(key::SLOTS).to_be_bytes().to_vec();
        Scan::new(self.disk, self.overlay(), Family::Default, range, Direction::Forward)
    }

    // ---- changing ----

    /// An error if a command cannot have so many more bytes of effects. For commands whose effects are as large as what is
    /// stored: they ask before they gather them.
    pub fn require_room(&self, bytes: usize) -> Access<()> {
        let effects = self.changing.as_ref().map(|changing| &*changing.effects);
        if effects.is_none_or(|effects| effects.has_room(bytes)) { Ok(()) } else { Err(AccessError::TooLarge) }
    }

    /// Whether the commit that is being made is too large already. Then it is not whole, and will be taken back.
    #[must_use]
    pub fn is_over_bound(&self) -> bool {
        self.changing.as_ref().is_some_and(|changing| !changing.effects.has_room(0))
    }

    /// Marks the watchers of a key: for effects that leave its metadata as it is.
    pub fn touch(&mut self, key: &[u8]) {
        self.held().watches.touch(key);
    }

    /// The generation of a collection created by this commit.
    #[must_use]
    pub fn new_generation(&mut self) -> Generation {
        Generation(self.held().csn.0)
    }

    /// Deletes a key that holds `found`.
    pub fn delete(&mut self, key: &[u8], found: &Found) -> Access<()> {
        self.delete_value(key, found)?;
        if matches!(found, Found::String(_) | Found::Collection(_)) {
            self.forget_expiry(key, found.expire_ms());
        }
        Ok(())
    }

    /// Deletes what a key holds; its entry of the expiry index stays.
    pub(super) fn delete_value(&mut self, key: &[u8], found: &Found) -> Access<()> {
        match found {
            Found::Absent => return Ok(()),
            Found::List(_) => self.change_list(key, |ops| ops.delete(key))?,
            Found::Zset(_) => self.change_zset(key, |ops| ops.delete(key))?,
            Found::String(_) | Found::Collection(_) => {
                self.drop_young_elements(key)?;
                self.held().effects.delete(Family::Default, &key::meta(key));
            }
        }
        self.touch(key);
        Ok(())
    }

    /// Elements of a collection that this very commit created cannot be told from those of the next creation in the
    /// same commit by their generation, so they are deleted one by one.
    fn drop_young_elements(&mut self, key: &[u8]) -> Access<()> {
        let held = self.held();
        let Overlaid::Value(stored) = held.effects.lookup(Family::Default, &key::meta(key)) else { return Ok(()) };
        let generation = Generation(held.csn.0);
        match Meta::decode(stored)? {
            Meta::Collection(collection) if collection.generation == generation => {}
            _ => return Ok(()),
        }
        let range = key::prefix_range(key::element_prefix(key, generation));
        for family in [Family::Sub, Family::Stream] {
            for element in held.effects.present_in_range(family, &range) {
                held.effects.delete(family, &element);
            }
        }
        Ok(())
    }

    /// Deletes a key from the memory engines, if it is there: it is about to live on disk.
    fn leave_memory(&mut self, key: &[u8]) -> Access<()> {
        if self.held().memory.lists.get(key).is_some() {
            self.change_list(key, |ops| ops.delete(key))?;
        }
        if self.held().memory.zsets.get(key).is_some() {
            self.change_zset(key, |ops| ops.delete(key))?;
        }
        Ok(())
    }

    /// Makes a key a string, whatever it was. `expire_ms` in ms since the Unix epoch; 0: never.
    pub fn put_string(&mut self, key: &[u8], value: &[u8], expire_ms: u64) -> Access<()> {
        self.store_string(key, value, expire_ms, None)
    }

    /// `before_ms`: when the key was to expire so far, 0: never; `None`: nobody looked.
    fn store_string(&mut self, key: &[u8], value: &[u8], expire_ms: u64, before_ms: Option<u64>) -> Access<()> {
        // Before a list or a sorted set is deleted for it.
        self.require_room(key.len() + value.len())?;
        self.leave_memory(key)?;
        self.drop_young_elements(key)?;
        self.held().effects.put(Family::Default, &key::meta(key), &meta::encode_string(value, expire_ms));
        self.note_expiry(key, expire_ms, before_ms);
        self.touch(key);
        Ok(())
    }

    /// Stores a collection's metadata. Its key must be absent or hold that collection. A count of 0 deletes the key,
    /// but for a stream, which may be empty.
    pub fn put_collection(&mut self, key: &[u8], collection: &Collection) -> Access<()> {
        if collection.count == 0 && collection.kind != DiskType::Stream {
            return self.delete(key, &Found::Collection(*collection));
        }
        self.held().effects.put(Family::Default, &key::meta(key), &collection.encode());
        self.touch(key);
        Ok(())
    }

    /// Sets a hash field or adds a set member (with an empty value).
    pub fn put_element(&mut self, key: &[u8], generation: Generation, field: &[u8], value: &[u8]) {
        self.held().effects.put(Family::Sub, &key::sub(key, generation, field), value);
    }

    /// Deletes a hash field or a set member.
    pub fn delete_element(&mut self, key: &[u8], generation: Generation, field: &[u8]) {
        self.held().effects.delete(Family::Sub, &key::sub(key, generation, field));
    }

    /// Counts elements that are about to be deleted from a collection; whether those it keeps are worth writing anew, under
    /// a new generation. Not if this commit created it: its elements would get the generation they have.
    pub fn is_worn_by(&mut self, key: &[u8], collection: &Collection, deleted: u64) -> bool {
        let held = self.held();
        let count = collection.count.saturating_sub(deleted);
        held.wear.note(key, collection.generation, deleted, count) && collection.generation != Generation(held.csn.0)
    }

    /// Adds a stream entry.
    pub fn put_entry(&mut self, key: &[u8], generation: Generation, id: StreamId, fields: &[u8]) {
        self.held().effects.put(Family::Stream, &key::stream(key, generation, id), fields);
    }

    /// Deletes a stream entry.
    pub fn delete_entry(&mut self, key: &[u8], generation: Generation, id: StreamId) {
        self.held().effects.delete(Family::Stream, &key::stream(key, generation, id));
    }

    /// Records list ops and applies them. `key` must be absent or hold a list.
    pub fn change_list(&mut self, key: &[u8], encode: impl FnOnce(&mut ListEncoder<'_>)) -> Access<()> {
        let held = self.held();
        let before = held.effects.extent();
        encode(&mut ListEncoder(&mut held.effects.lists));
        if !held.effects.takes_ops(before) {
            return Err(AccessError::TooLarge);
        }
        held.undo.before_change(held.memory);
        ListOps::new(&held.effects.lists[before.lists..]).try_for_each(|op| op?.apply(&mut held.memory.lists))?;
        held.watches.touch(key);
        Ok(())
    }

    /// Records sorted set ops and applies them. `key` must be absent or hold a sorted set.
    pub fn change_zset(&mut self, key: &[u8], encode: impl FnOnce(&mut ZsetEncoder<'_>)) -> Access<()> {
        let held = self.held();
        let before = held.effects.extent();
        encode(&mut ZsetEncoder(&mut held.effects.zsets));
        if !held.effects.takes_ops(before) {
            return Err(AccessError::TooLarge);
        }
        held.undo.before_change(held.memory);
        ZsetOps::new(&held.effects.zsets[before.zsets..]).try_for_each(|op| op?.apply(&mut held.memory.zsets))?;
        held.watches.touch(key);
        Ok(())
    }

    /// Sets when a key that holds `found` expires; 0: never.
    pub fn set_expire(&mut self, key: &[u8], found: &Found, expire_ms: u64) -> Access<()> {
        match found {
            Found::Absent => return Ok(()),
            Found::List(_) => self.change_list(key, |ops| ops.expire(key, expire_ms))?,
            Found::Zset(_) => self.change_zset(key, |ops| ops.expire(key, expire_ms))?,
            Found::String(value) => self.store_string(key, value, expire_ms, Some(value.expire_ms))?,
            Found::Collection(collection) => {
                self.put_collection(key, &Collection { expire_ms, ..*collection })?;
                self.note_expiry(key, expire_ms, Some(collection.expire_ms));
            }
        }
        if expire_ms == 0 && !matches!(found, Found::List(_) | Found::Zset(_)) {
            self.forget_expiry(key, found.expire_ms());
        }
        self.touch(key);
        Ok(())
    }

    /// Deletes every key of every engine.
    pub fn clear(&mut self) -> Access<()> {
        for watched in self.held().watches.watched() {
            if !self.find(&watched)?.is_absent() {
                self.touch(&watched);
            }
        }
        let deadline = Instant::now() + EMPTINESS_TIME;
        let walked = self.walk(&[0, 0], deadline, |_| Ok(ControlFlow::Break(())))?;
        let is_disk_empty = walked == Walked::End;
        let held = self.held();
        if !is_disk_empty {
            held.effects.clear();
            held.expiries.clear();
        }
        if !held.memory.lists.is_empty() {
            self.change_list(b"", |ops| ops.clear())?;
        }
        if !self.held().memory.zsets.is_empty() {
            self.change_zset(b"", |ops| ops.clear())?;
        }
        Ok(())
    }
}

fn is_small(collection: &Collection) -> bool {
    collection.count <= WHOLE_ELEMENTS_MAX
}

/// Id in a key that [`Keyspace::entries`] scanned.
pub fn entry_id(scanned: &[u8]) -> Result<StreamId> {
    let id = key::parse_element(scanned).and_then(|element| key::parse_stream_id(element.rest));
    id.ok_or_else(|| Error::corrupt("stream entry key", "start", "does not parse"))
}

/// User key and metadata in a pair that [`Keyspace::disk_keys`] scanned.
pub fn scanned_key<'s>((stored_key, value): (&'s [u8], &[u8])) -> Result<(&'s [u8], Meta)> {
    let user_key =
        key::user_key(stored_key).ok_or_else(|| Error::corrupt("metadata key", "start", "is a system key"))?;
    Ok((user_key, Meta::decode(value)?))
}
