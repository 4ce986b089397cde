//! The row cache: rows of the disk engines (a key's metadata with a string's value, a hash field, a set member) as they
//! were last read or written, and the knowledge that a row is not there.
//!
//! Guarantees: a row found here is what RocksDB holds now. A publication changes rows one by one while RocksDB changes
//! at once, so who reads without the writer lock uses the cache only if no publication was under way meanwhile; what it
//! read from RocksDB is kept only under the same condition. Bytes are bounded; rows that are read again stay longest.

use super::batch::{Family, Record, Records};
use super::key;
use crate::error::Result;
use quick_cache::sync::{Cache, GuardResult};
use quick_cache::{OptionsBuilder, Weighter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A larger row is always read from RocksDB.
const ROW_BYTES_MAX: usize = 16 << 10;
/// What a row takes beside its bytes, about.
const ROW_OVERHEAD_BYTES: u64 = 96;
/// Bytes of a row, about, for the first size of the tables.
const ROW_BYTES_TYPICAL: u64 = 256;

/// A row; `None`: there is none.
pub type Row = Option<Arc<[u8]>>;

#[derive(Clone)]
struct ByBytes;

impl Weighter<Vec<u8>, Row> for ByBytes {
    fn weight(&self, key: &Vec<u8>, row: &Row) -> u64 {
        ROW_OVERHEAD_BYTES + (key.len() + row.as_ref().map_or(0, |row| row.len())) as u64
    }
}

type Rows = Cache<Vec<u8>, Row, ByBytes>;

/// The cache.
pub struct RowCache {
    metas: Rows,
    elements: Rows,
    /// Odd while a publication is under way.
    publications: AtomicU64,
}

impl RowCache {
    /// An empty cache of at most `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let rows = || {
            let bytes = bytes as u64 / 2;
            let options = OptionsBuilder::new()
                .estimated_items_capacity((bytes / ROW_BYTES_TYPICAL) as usize)
                .weight_capacity(bytes)
                .build()
                .expect("both capacities are given");
            Cache::with_options(options, ByBytes, Default::default(), Default::default())
        };
        Self { metas: rows(), elements: rows(), publications: AtomicU64::new(0) }
    }

    fn of(&self, family: Family) -> Option<&Rows> {
        match family {
            Family::Default => Some(&self.metas),
            Family::Sub => Some(&self.elements),
            Family::Stream => None,
        }
    }

    /// Reads a row under the writer lock: from here, else by `read`, whose answer is kept. That there is none is not
    /// kept: who asks is about to write it, or keeps the key in the memory engines.
    pub fn read_locked(&self, family: Family, key: &[u8], read: impl FnOnce() -> Result<Row>) -> Result<Row> {
        let Some(rows) = self.of(family) else { return read() };
        if let Some(row) = rows.get(key) {
            return Ok(row);
        }
        let row = read()?;
        if row.is_some() && is_kept(&row) {
            rows.insert(key.to_vec(), row.clone());
        }
        Ok(row)
    }

    /// Reads a row without the writer lock: from here, else by `read`, whose answer is kept.
    pub fn read(&self, family: Family, key: &[u8], read: impl FnOnce() -> Result<Row>) -> Result<Row> {
        let before = self.publications.load(Ordering::Acquire);
        let Some(rows) = self.of(family).filter(|_| before.is_multiple_of(2)) else { return read() };
        match rows.get_value_or_guard(key, Some(Duration::ZERO)) {
            GuardResult::Value(row) if self.is_at(before) => Ok(row),
            GuardResult::Value(_) | GuardResult::Timeout => read(),
            GuardResult::Guard(guard) => {
                let row = read()?;
                // A publication that begins after this look replaces the guard's place, and then this fails.
                if is_kept(&row) && self.is_at(before) {
                    let _ = guard.insert(row.clone());
                }
                Ok(row)
            }
        }
    }

    fn is_at(&self, publications: u64) -> bool {
        std::sync::atomic::fence(Ordering::Acquire);
        self.publications.load(Ordering::Relaxed) == publications
    }

    /// Begins a publication, which ends when it is dropped. Under the writer lock, around RocksDB's write.
    pub fn publish(&self) -> Publication<'_> {
        self.publications.fetch_add(1, Ordering::AcqRel);
        Publication { cache: self }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.metas.weight() + self.elements.weight()
    }
}

fn is_kept(row: &Row) -> bool {
    row.as_ref().is_none_or(|row| row.len() <= ROW_BYTES_MAX)
}

/// A publication under way.
pub struct Publication<'c> {
    cache: &'c RowCache,
}

impl Publication<'_> {
    /// Keeps the rows that write batch records leave behind.
    pub fn store(&self, records: &[u8]) -> Result<()> {
        self.each(records, |rows, key, row| match row {
            Some(row) if row.len() > ROW_BYTES_MAX => drop(rows.remove(key)),
            row => rows.insert(key.to_vec(), row.map(Arc::from)),
        })
    }

    /// Forgets the rows that write batch records change.
    pub fn forget(&self, records: &[u8]) -> Result<()> {
        self.each(records, |rows, key, _| drop(rows.remove(key)))
    }

    fn each(&self, records: &[u8], change: impl Fn(&Rows, &[u8], Option<&[u8]>)) -> Result<()> {
        for record in Records::new(records) {
            let (family, key, row) = match record? {
                Record::Put(family, key, value) => (family, key, Some(value)),
                Record::Delete(family, key) => (family, key, None),
                Record::DeleteRange(family, ..) => {
                    self.cache.of(family).inspect(|rows| rows.clear());
                    continue;
                }
                Record::LogData(_) => continue,
            };
            let is_system = family == Family::Default && key::user_key(key).is_none();
            if let Some(rows) = self.cache.of(family).filter(|_| !is_system) {
                change(rows, key, row);
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

    fn row(bytes: &[u8]) -> Row {
        Some(Arc::from(bytes))
    }

    fn cached(cache: &RowCache, name: &[u8]) -> Option<Row> {
        let mut read = false;
        let found = cache.read(Family::Default, &key(name), || {
            read = true;
            Ok(None)
        });
        (!read).then_some(found.unwrap())
    }

    #[test]
    fn a_row_is_what_the_last_publication_left() {
        let cache = RowCache::new(1 << 20);
        assert_eq!(cache.read(Family::Default, &key(b"a"), || Ok(row(b"1"))).unwrap(), row(b"1"));
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
        let read = cache.read(Family::Default, &key(b"a"), || {
            cache.publish().store(&records).unwrap();
            Ok(row(b"old"))
        });
        assert_eq!(read.unwrap(), row(b"old"), "it was so when it was read");
        assert_eq!(cached(&cache, b"a"), Some(row(b"new")));
        let publication = cache.publish();
        assert_eq!(cached(&cache, b"a"), None, "while rows change one by one, the database is asked");
        drop(publication);
        assert_eq!(cached(&cache, b"a"), Some(row(b"new")));
    }
}
