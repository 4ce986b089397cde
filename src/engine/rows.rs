//! The row cache: rows of the disk engines (a key's metadata with a string's value, a hash field, a set member) as they
//! were last read or written, and the knowledge that a row does not exist.
//!
//! The cache keeps all elements of a small hash or set in one buffer (see `whole`) instead of their rows, from the
//! collection's creation on or once the collection was walked. Of a collection that outgrew its buffer, the cache knows
//! all rows until it has to remove one (see `complete`). The cache also knows which slots hold no keys (see `slots`).
//!
//! Guarantees: a row that the cache returns is the row that RocksDB holds. A publication changes the cache row by row,
//! while RocksDB changes at once. So a reader without the writer lock uses the cache only if no publication was under
//! way during the lookup; a row read from RocksDB is kept under the same condition. A reader under the writer lock need
//! not check for publications of rows: it finds the rows of a group on its way in the group's effects and does not ask
//! the cache for them, and no further group can start. It may ask for a buffer of elements that shows a part of such a
//! group's effects; the effects, laid over the buffer, complete it. The bytes of the cache are bounded; rows that are
//! read repeatedly stay longest (second chance).
//!
//! The row cache is not built on a general cache: here a row's key and value lie in one allocation, so that a hit costs
//! only three cache misses of the processor.

use super::batch::{Family, Record, Records};
use super::complete::Complete;
use super::hash;
use super::key::{self, Generation};
use super::memory::reclaim;
use super::row_shard::{Kind, Limit, Shard, Value};
use super::slots::Slots;
use super::whole;
use crate::csn::Csn;
use crate::error::Result;
use parking_lot::Mutex;
use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Number of shards, each under its own lock. Shards are small, because a sweep visits a whole shard.
const SHARDS: usize = 1024;
/// Number of rows that are looked up together: a little more than a CPU can fetch at once.
pub const FETCHED_TOGETHER: usize = 16;
/// Largest row that is cached, in bytes of key and value; a larger row is always read from RocksDB.
const ROW_BYTES_MAX: usize = 16 << 10;
/// How a row is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowAccess {
    /// Without the writer lock.
    Unlocked,
    /// Under the writer lock, by a command that only reads.
    Locked,
    /// Under the writer lock, by a command that may write. The absence of a row is not kept, because the command is
    /// about to write the row or to keep its key in the keys in memory.
    Changing,
}

/// Something to look up in the cache.
#[derive(Clone, Copy)]
pub enum Sought<'k> {
    /// A row, by its key.
    Row(Family, &'k [u8]),
    /// All elements of a small collection, by the common prefix of their keys.
    Whole(&'k [u8]),
}

impl<'k> Sought<'k> {
    fn hashed(self) -> (u64, Kind, &'k [u8]) {
        match self {
            Self::Row(family, key) => (row_hash(family, key), Kind::Row(family), key),
            Self::Whole(prefix) => (whole_hash(prefix), Kind::Whole, prefix),
        }
    }
}

/// The row cache. See the module's documentation.
pub struct RowCache {
    shards: Vec<Mutex<Shard>>,
    /// Applies to each shard.
    limit: Limit,
    /// Count of begins and ends of publications: odd while a publication is under way.
    publications: AtomicU64,
    slots: Slots,
}

impl RowCache {
    /// Returns an empty cache of at most `bytes` bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        let limit = Limit { bytes_max: bytes / SHARDS, complete: Complete::default() };
        Self { shards, limit, publications: AtomicU64::new(0), slots: Slots::default() }
    }

    /// Returns which slots may hold keys.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // The shard number uses bits that the shard's own table does not use.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// Returns the known content; the outer `None`: nothing is known, the inner `None`: it is known to be absent.
    fn get(&self, hash: u64, kind: Kind, key: &[u8]) -> Option<Option<Value>> {
        let mut shard = self.shard(hash).lock();
        let slot = shard.find(hash, kind, key)?;
        slot.was_read = true;
        Some(slot.is_there.then(|| slot.value()))
    }

    /// Reads a row from the cache, else by `read`; the result of `read` is kept.
    pub fn read<V: Deref<Target = [u8]>>(
        &self,
        family: Family,
        key: &[u8],
        access: RowAccess,
        read: impl FnOnce() -> Result<Option<V>>,
    ) -> Result<Option<Value>> {
        let before = self.publications.load(Ordering::Acquire);
        // Under the writer lock a publication does not matter: its rows are in the group's effects and are not asked
        // for here.
        let is_steady = || access != RowAccess::Unlocked || self.is_steady_since(before);
        let (hash, kind) = (row_hash(family, key), Kind::Row(family));
        if let Some(known) = self.get(hash, kind, key)
            && is_steady()
        {
            return Ok(known);
        }
        if self.is_of_complete(family, key) && is_steady() {
            return Ok(None);
        }
        let value = read()?;
        let is_wanted = value.is_some() || access != RowAccess::Changing;
        if is_wanted && is_kept(family, key, value.as_deref().unwrap_or_default()) {
            let mut shard = self.shard(hash).lock();
            // A publication that begins after this check waits for the shard's lock and then overwrites the row.
            if is_steady() {
                shard.put(hash, kind, key, value.as_deref(), &self.limit);
            }
        }
        Ok(value.map(|value| Value::from(&*value)))
    }

    /// Reports whether the row belongs to a complete collection, so that its absence from the cache means that it does
    /// not exist.
    fn is_of_complete(&self, family: Family, key: &[u8]) -> bool {
        family == Family::Sub
            && !self.limit.complete.is_empty()
            && key::parse_element(key).is_some_and(|element| self.limit.complete.holds(element.prefix))
    }

    /// Returns what is known of all elements of a small collection, whose keys start with `prefix`. The outer `None`:
    /// nothing is known; the inner `None`: the elements do not fit into a buffer.
    pub fn whole(&self, prefix: &[u8], access: RowAccess) -> Option<Option<Value>> {
        let before = self.publications.load(Ordering::Acquire);
        let known = self.get(whole_hash(prefix), Kind::Whole, prefix)?;
        (access != RowAccess::Unlocked || self.is_steady_since(before)).then_some(known)
    }

    /// Reads all elements as [`RowCache::whole`] does, else by `read`; the result of `read` is kept.
    pub fn read_whole(
        &self,
        prefix: &[u8],
        access: RowAccess,
        read: impl FnOnce() -> Result<Option<Vec<u8>>>,
    ) -> Result<Option<Value>> {
        if let Some(known) = self.whole(prefix, access) {
            return Ok(known);
        }
        let before = self.publications.load(Ordering::Acquire);
        let elements = read()?;
        let hash = whole_hash(prefix);
        let mut shard = self.shard(hash).lock();
        // Checked under the writer lock, too: unlike a single row, the elements may include a part of a publication.
        if self.is_steady_since(before) {
            if elements.is_some() {
                // Later changes go to the buffer and remove the rows, so the rows alone are no longer complete.
                self.limit.complete.forget(prefix);
            }
            shard.put(hash, Kind::Whole, prefix, elements.as_deref(), &self.limit);
        }
        Ok(elements.map(|elements| Value::from(&*elements)))
    }

    /// Reports whether no publication was under way since the count of publications was `before`.
    fn is_steady_since(&self, before: u64) -> bool {
        fence(Ordering::Acquire);
        before.is_multiple_of(2) && self.publications.load(Ordering::Relaxed) == before
    }

    /// Begins a publication, which ends when the returned value is dropped. The caller holds one publication at a time,
    /// around RocksDB's write.
    pub fn publish(&self) -> Publication<'_> {
        self.publications.fetch_add(1, Ordering::AcqRel);
        Publication { cache: self, is_noting: Cell::new(false) }
    }

    /// Looks up rows together, so that their memory is fetched in parallel instead of one by one. A following lookup of
    /// these rows finds them in the CPU's caches.
    pub fn fetch<'k>(&self, rows: impl Iterator<Item = Sought<'k>>) {
        let mut rows = rows.map(Sought::hashed);
        let (mut wanted, mut locked) = (Vec::new(), Vec::new());
        loop {
            wanted.clear();
            wanted.extend(rows.by_ref().take(FETCHED_TOGETHER));
            if wanted.is_empty() {
                return;
            }
            // All locks are taken before the first lookup, because taking a lock waits for the lookups before it. A
            // shard that is locked already, by this thread or another, is skipped.
            locked.extend(wanted.iter().map(|&(hash, ..)| self.shard(hash).try_lock()));
            for (shard, &(hash, kind, key)) in locked.iter().zip(&wanted) {
                if let Some(shard) = shard {
                    std::hint::black_box(shard.slots.find(hash, |slot| slot.is(hash, kind, key)).is_some());
                }
            }
            locked.clear();
        }
    }

    /// Returns the metadata row of a key if the cache has it. The row may belong to a publication under way, so the
    /// answer is only a guess.
    #[must_use]
    pub fn peek(&self, meta: &[u8]) -> Option<Value> {
        self.get(row_hash(Family::Default, meta), Kind::Row(Family::Default), meta)?
    }

    /// Returns the bytes of all shards.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

/// Returns the hash of a row's key in a family.
pub(super) fn row_hash(family: Family, key: &[u8]) -> u64 {
    // An odd factor gives each family another hash of the same key.
    hash::hash(key) ^ (family as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn whole_hash(prefix: &[u8]) -> u64 {
    hash::hash(prefix) ^ (Family::ALL.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Reports whether a row is cached. Stream entries are read in ranges, which the cache does not know; system keys are
/// not read.
fn is_kept(family: Family, key: &[u8], value: &[u8]) -> bool {
    key.len() + value.len() <= ROW_BYTES_MAX
        && match family {
            Family::Default => key::user_key(key).is_some(),
            Family::Sub => true,
            Family::Stream => false,
        }
}

/// A publication under way; dropping it ends the publication.
pub struct Publication<'c> {
    cache: &'c RowCache,
    /// Whether slots may be noted: set by the first row that is stored or forgotten, which is after RocksDB's write.
    is_noting: Cell<bool>,
}

/// Largest number of collections created by one commit whose elements are kept in buffers from the first element on.
const CREATED_MAX: usize = 16;

impl Publication<'_> {
    /// Prefetches into the CPU's caches the rows that are about to be stored.
    pub fn fetch<'k>(&self, records: impl Iterator<Item = &'k [u8]>) {
        let changed = records.flat_map(Records::new).filter_map(|record| match record {
            Ok(Record::Put(family, key, _) | Record::Delete(family, key)) if family != Family::Stream => {
                Some(Sought::Row(family, key))
            }
            _ => None,
        });
        self.cache.fetch(changed);
    }

    /// Stores the rows that a commit's write batch records set or delete.
    pub fn store(&self, csn: Csn, records: &[u8]) -> Result<()> {
        // Prefixes of the collections that this commit created, added when their first element is met.
        let mut created: Vec<&[u8]> = Vec::new();
        self.each(records, |family, key, value| {
            // An element is either in a buffer or in a row, never in both.
            let is_in_whole = family == Family::Sub && self.store_in_whole(csn, &mut created, key, value);
            let (hash, kind) = (row_hash(family, key), Kind::Row(family));
            let mut shard = self.cache.shard(hash).lock();
            if !is_in_whole && is_kept(family, key, value.unwrap_or_default()) {
                shard.put(hash, kind, key, value, &self.cache.limit);
            } else {
                if !is_in_whole {
                    self.forget_complete(family, key);
                }
                shard.remove(hash, kind, key);
            }
        })
    }

    /// Removes the rows that write batch records change.
    pub fn forget(&self, records: &[u8]) -> Result<()> {
        self.each(records, |family, key, _| {
            self.forget_complete(family, key);
            self.remove(Kind::Row(family), row_hash(family, key), key);
            if family == Family::Sub
                && let Some(element) = key::parse_element(key)
            {
                self.remove(Kind::Whole, whole_hash(element.prefix), element.prefix);
            }
        })
    }

    /// Forgets that a row's collection is complete. Called before the row is removed.
    fn forget_complete(&self, family: Family, key: &[u8]) {
        let complete = &self.cache.limit.complete;
        if family == Family::Sub
            && !complete.is_empty()
            && let Some(element) = key::parse_element(key)
        {
            complete.forget(element.prefix);
        }
    }

    fn remove(&self, kind: Kind, hash: u64, key: &[u8]) {
        self.cache.shard(hash).lock().remove(hash, kind, key);
    }

    /// Changes an element in the buffer of its collection. False if there is no buffer, or if the buffer got too large
    /// and was given up. `created` collects the prefixes of the collections that the commit created.
    fn store_in_whole<'k>(&self, csn: Csn, created: &mut Vec<&'k [u8]>, key: &'k [u8], value: Option<&[u8]>) -> bool {
        let Some(element) = key::parse_element(key) else { return false };
        let (prefix, hash) = (element.prefix, whole_hash(element.prefix));
        let mut shard = self.cache.shard(hash).lock();
        let limit = &self.cache.limit;
        let before = match shard.find(hash, Kind::Whole, prefix) {
            Some(slot) if slot.is_there => slot.value(),
            Some(_) => {
                if value.is_none() {
                    // After a deletion the collection may fit into a buffer.
                    shard.remove(hash, Kind::Whole, prefix);
                }
                return false;
            }
            // The first element of a collection that this commit created: there are no others. Its later elements find
            // the buffer; if the buffer had to be removed, `created` prevents a second one, which would lack elements.
            None if element.generation == Generation(csn.0)
                && created.len() < CREATED_MAX
                && !created.contains(&prefix) =>
            {
                created.push(prefix);
                Value::from(&[][..])
            }
            None => return false,
        };
        let elements = whole::changed(&before, element.rest, value);
        if elements.is_some() {
            // Releases the reference, so that the buffer can be changed in place.
            drop(before);
            shard.put(hash, Kind::Whole, prefix, elements.as_deref(), limit);
            return true;
        }
        shard.put(hash, Kind::Whole, prefix, None, limit);
        drop(shard);
        self.store_rows(prefix, &before);
        false
    }

    /// Stores the elements of a collection that outgrew its buffer as rows. They are all elements of the collection, so
    /// it is complete.
    fn store_rows(&self, prefix: &[u8], elements: &[u8]) {
        let RowCache { limit, .. } = self.cache;
        limit.complete.begin(prefix);
        let mut key = prefix.to_vec();
        let mut at = 0;
        while let Some((name, value, end)) = whole::element_at(elements, at) {
            key.truncate(prefix.len());
            key.extend_from_slice(name);
            let hash = row_hash(Family::Sub, &key);
            self.cache.shard(hash).lock().put(hash, Kind::Row(Family::Sub), &key, Some(value), limit);
            at = end;
        }
        limit.complete.finish(prefix);
    }

    fn each<'r>(&self, records: &'r [u8], mut visit: impl FnMut(Family, &'r [u8], Option<&'r [u8]>)) -> Result<()> {
        if !self.is_noting.replace(true) {
            self.cache.slots.begin_noting();
        }
        for record in Records::new(records) {
            match record? {
                Record::Put(Family::Stream, ..) | Record::Delete(Family::Stream, _) | Record::LogData(_) => {}
                Record::Put(family, key, value) => {
                    if let Some(slot) = key::slot_of_meta(key).filter(|_| family == Family::Default) {
                        self.cache.slots.note(slot);
                    }
                    visit(family, key, Some(value));
                }
                Record::Delete(family, key) => visit(family, key, None),
                Record::DeleteRange(..) => {
                    self.cache.limit.complete.clear();
                    let taken = self.cache.shards.iter().map(|shard| std::mem::take(&mut *shard.lock()));
                    let taken: Vec<Shard> = taken.collect();
                    let bytes = taken.iter().map(|shard| shard.bytes).sum();
                    reclaim::dispose(taken, bytes);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Publication<'_> {
    fn drop(&mut self) {
        self.cache.publications.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
