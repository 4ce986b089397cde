//! The row cache: rows of the disk engines (a key's metadata with a string's value, a hash field, a set member) as they
//! were last read or written, and the knowledge that a row is not there.
//!
//! Guarantees: a row found here is what RocksDB holds now. A publication changes rows one by one while RocksDB changes
//! at once, so who reads without the writer lock uses the cache only if no publication was under way meanwhile; what it
//! read from RocksDB is kept only under the same condition. Who holds the writer lock need not care: the rows of a
//! group on its way are found in its effects and never asked for here, and no further group can start. Bytes are
//! bounded; rows that are read again stay longest (second chance).
//!
//! A row's key and value lie in one allocation, and a hit costs three cache misses: that is why it is no general cache.

use super::batch::{Family, Record, Records};
use super::key;
use super::memory::hash;
use crate::error::Result;
use hashbrown::HashTable;
use parking_lot::Mutex;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Parts of the cache, each under a lock of its own; small, because a sweep goes through a whole one.
const SHARDS: usize = 1024;
/// A sweep makes this part of a shard free.
const SWEPT_PART: usize = 8;
/// A larger row is always read from RocksDB.
const ROW_BYTES_MAX: usize = 16 << 10;
/// What a row takes beside its bytes: its slot in a table that is not full, and what the allocator adds.
const ROW_OVERHEAD_BYTES: usize = size_of::<Slot>() * 3 / 2 + 24;

/// A stored row's value.
#[derive(Clone, Debug)]
pub struct Value {
    /// The key, then the value.
    row: Arc<[u8]>,
    at: usize,
}

impl Value {
    fn new(key: &[u8], value: &[u8]) -> Self {
        // One allocation, filled where it lies.
        let mut row: Arc<[u8]> = std::iter::repeat_n(0, key.len() + value.len()).collect();
        let bytes = Arc::get_mut(&mut row).expect("nobody else has it yet");
        bytes[..key.len()].copy_from_slice(key);
        bytes[key.len()..].copy_from_slice(value);
        Self { row, at: key.len() }
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self { row: value.into(), at: 0 }
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.row[self.at..]
    }
}

/// How a row is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowAccess {
    /// Without the writer lock.
    Unlocked,
    /// Under the writer lock, by a command that only reads.
    Locked,
    /// Under the writer lock, by a command that may write. That a row is not there is not kept: it is about to be
    /// written, or its key to be kept in the memory engines.
    Changing,
}

struct Slot {
    /// The key, then the value.
    row: Arc<[u8]>,
    hash: u64,
    /// Length of the key.
    at: u32,
    family: Family,
    is_there: bool,
    /// Read since the last sweep.
    was_read: bool,
}

impl Slot {
    fn is(&self, hash: u64, family: Family, key: &[u8]) -> bool {
        self.hash == hash && self.family == family && self.row[..self.at as usize] == *key
    }

    fn bytes(&self) -> usize {
        self.row.len() + ROW_OVERHEAD_BYTES
    }
}

#[derive(Default)]
struct Shard {
    slots: HashTable<Slot>,
    bytes: usize,
}

impl Shard {
    fn find(&mut self, hash: u64, family: Family, key: &[u8]) -> Option<&mut Slot> {
        self.slots.find_mut(hash, |slot| slot.is(hash, family, key))
    }

    fn put(&mut self, hash: u64, family: Family, key: &[u8], value: Option<&[u8]>, bytes_max: usize) {
        let (is_there, value) = (value.is_some(), value.unwrap_or_default());
        if let Some(slot) = self.find(hash, family, key) {
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
            let slot = Slot { row, hash, at: key.len() as u32, family, is_there, was_read: false };
            self.bytes += slot.bytes();
            self.slots.insert_unique(hash, slot, |slot| slot.hash);
        }
        while self.bytes > bytes_max {
            self.sweep(hash, bytes_max - bytes_max / SWEPT_PART);
        }
    }

    /// Removes rows that were not read since the last sweep, from some place on, until `bytes_max` are left. In the
    /// second round all of them count as not read.
    fn sweep(&mut self, place: u64, bytes_max: usize) {
        let Self { slots, bytes } = self;
        let mut skipped = place as usize % slots.len().max(1);
        for _ in 0..2 {
            slots.retain(|slot| {
                let stays = skipped > 0 || *bytes <= bytes_max || slot.was_read;
                slot.was_read &= skipped > 0 || *bytes <= bytes_max;
                skipped = skipped.saturating_sub(1);
                *bytes -= if stays { 0 } else { slot.bytes() };
                stays
            });
        }
    }

    fn remove(&mut self, hash: u64, family: Family, key: &[u8]) {
        if let Ok(found) = self.slots.find_entry(hash, |slot| slot.is(hash, family, key)) {
            self.bytes -= found.remove().0.bytes();
        }
    }
}

/// The cache.
pub struct RowCache {
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
    /// Odd while a publication is under way.
    publications: AtomicU64,
}

impl RowCache {
    /// An empty cache of at most `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, shard_bytes_max: bytes / SHARDS, publications: AtomicU64::new(0) }
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // Bits that the shard's own table does not use.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// What is known of a row; the outer `None`: nothing.
    fn get(&self, hash: u64, family: Family, key: &[u8]) -> Option<Option<Value>> {
        let mut shard = self.shard(hash).lock();
        let slot = shard.find(hash, family, key)?;
        slot.was_read = true;
        Some(slot.is_there.then(|| Value { row: Arc::clone(&slot.row), at: slot.at as usize }))
    }

    /// Reads a row: from here, else by `read`, whose answer is kept.
    pub fn read<V: Deref<Target = [u8]>>(
        &self,
        family: Family,
        key: &[u8],
        access: RowAccess,
        read: impl FnOnce() -> Result<Option<V>>,
    ) -> Result<Option<Value>> {
        let before = self.publications.load(Ordering::Acquire);
        // What is being published while the lock is held is not asked for here.
        let is_steady = || access != RowAccess::Unlocked || (before.is_multiple_of(2) && self.is_at(before));
        let hash = row_hash(family, key);
        if let Some(known) = self.get(hash, family, key)
            && is_steady()
        {
            return Ok(known);
        }
        let value = read()?;
        let is_wanted = value.is_some() || access != RowAccess::Changing;
        if is_wanted && is_kept(family, key, value.as_deref().unwrap_or_default()) {
            let mut shard = self.shard(hash).lock();
            // A publication that begins after this look waits for the shard and then has its say.
            if is_steady() {
                shard.put(hash, family, key, value.as_deref(), self.shard_bytes_max);
            }
        }
        Ok(value.map(|value| Value::from(&*value)))
    }

    fn is_at(&self, publications: u64) -> bool {
        fence(Ordering::Acquire);
        self.publications.load(Ordering::Relaxed) == publications
    }

    /// Begins a publication, which ends when it is dropped. One at a time, around RocksDB's write.
    pub fn publish(&self) -> Publication<'_> {
        self.publications.fetch_add(1, Ordering::AcqRel);
        Publication { cache: self }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

/// Hash of a row's key.
pub(super) fn row_hash(family: Family, key: &[u8]) -> u64 {
    // An odd factor: another hash for each family.
    hash::hash(key) ^ (family as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Stream entries are read in ranges, which the cache does not know; system keys are not read at all.
fn is_kept(family: Family, key: &[u8], value: &[u8]) -> bool {
    key.len() + value.len() <= ROW_BYTES_MAX
        && match family {
            Family::Default => key::user_key(key).is_some(),
            Family::Sub => true,
            Family::Stream => false,
        }
}

/// A publication under way.
pub struct Publication<'c> {
    cache: &'c RowCache,
}

impl Publication<'_> {
    /// Keeps the rows that write batch records leave behind.
    pub fn store(&self, records: &[u8]) -> Result<()> {
        self.each(records, true)
    }

    /// Forgets the rows that write batch records change.
    pub fn forget(&self, records: &[u8]) -> Result<()> {
        self.each(records, false)
    }

    fn each(&self, records: &[u8], keeps: bool) -> Result<()> {
        for record in Records::new(records) {
            let (family, key, value) = match record? {
                Record::Put(family, key, value) => (family, key, Some(value)),
                Record::Delete(family, key) => (family, key, None),
                Record::DeleteRange(..) => {
                    self.cache.shards.iter().for_each(|shard| *shard.lock() = Shard::default());
                    continue;
                }
                Record::LogData(_) => continue,
            };
            if family == Family::Stream {
                continue;
            }
            let hash = row_hash(family, key);
            let mut shard = self.cache.shard(hash).lock();
            if keeps && is_kept(family, key, value.unwrap_or_default()) {
                shard.put(hash, family, key, value, self.cache.shard_bytes_max);
            } else {
                shard.remove(hash, family, key);
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
mod tests {
    use super::super::batch::{push_delete, push_put};
    use super::*;

    fn key(name: &[u8]) -> Vec<u8> {
        key::meta(name)
    }

    fn row(bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    fn plain(value: Result<Option<Value>>) -> Option<Vec<u8>> {
        value.unwrap().map(|value| value.to_vec())
    }

    fn cached(cache: &RowCache, name: &[u8]) -> Option<Option<Vec<u8>>> {
        if !cache.publications.load(Ordering::Relaxed).is_multiple_of(2) {
            return None;
        }
        let key = key(name);
        cache.get(row_hash(Family::Default, &key), Family::Default, &key).map(|found| found.map(|value| value.to_vec()))
    }

    #[test]
    fn a_row_is_what_the_last_publication_left() {
        let cache = RowCache::new(1 << 20);
        assert_eq!(plain(cache.read(Family::Default, &key(b"a"), RowAccess::Unlocked, || Ok(row(b"1")))), row(b"1"));
        assert_eq!(cached(&cache, b"a"), Some(row(b"1")));
        let mut records = Vec::new();
        push_put(&mut records, Family::Default, &key(b"a"), b"2");
        push_put(&mut records, Family::Default, &key(b"large"), &[0; ROW_BYTES_MAX + 1]);
        push_put(&mut records, Family::Default, &key(b"b"), b"3");
        push_delete(&mut records, Family::Default, &key(b"b"));
        cache.publish().store(&records).unwrap();
        assert_eq!(cached(&cache, b"a"), Some(row(b"2")));
        assert_eq!(cached(&cache, b"b"), Some(None));
        assert_eq!(cached(&cache, b"large"), None);
        cache.publish().forget(&records).unwrap();
        assert_eq!(cached(&cache, b"a"), None);
    }

    #[test]
    fn a_read_that_a_publication_overtakes_is_not_kept() {
        let cache = RowCache::new(1 << 20);
        let mut records = Vec::new();
        push_put(&mut records, Family::Default, &key(b"a"), b"new");
        let read = cache.read(Family::Default, &key(b"a"), RowAccess::Unlocked, || {
            cache.publish().store(&records).unwrap();
            Ok(row(b"old"))
        });
        assert_eq!(plain(read), row(b"old"), "it was so when it was read");
        assert_eq!(cached(&cache, b"a"), Some(row(b"new")));
        let publication = cache.publish();
        assert_eq!(cached(&cache, b"a"), None, "while rows change one by one, the database is asked");
        drop(publication);
        assert_eq!(cached(&cache, b"a"), Some(row(b"new")));
    }

    #[test]
    fn bytes_are_bounded_and_rows_that_are_read_stay() {
        let bytes_max = SHARDS * 32 * 256;
        let cache = RowCache::new(bytes_max);
        let name = |n: u32| format!("key:{n}").into_bytes();
        for n in 0..100_000 {
            let read = plain(cache.read(Family::Default, &key(&name(n)), RowAccess::Unlocked, || Ok(row(&[7; 100]))));
            assert_eq!(read, row(&[7; 100]));
            assert!(cached(&cache, &name(0)).is_some(), "key 0 is read all the time, {n}");
        }
        assert!(cache.bytes() <= bytes_max && cache.bytes() > bytes_max / 2, "{}", cache.bytes());
        for n in (0..100_000).filter(|&n| cached(&cache, &name(n)).is_some()) {
            let mut records = Vec::new();
            push_delete(&mut records, Family::Default, &key(&name(n)));
            cache.publish().forget(&records).unwrap();
            assert!(cached(&cache, &name(n)).is_none());
        }
        assert_eq!(cache.bytes(), 0);
    }
}
