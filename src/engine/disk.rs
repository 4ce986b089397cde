//! The disk engines' home: one RocksDB with three column families. The database is opened with the only option set that
//! keeps its WAL shippable (see the rules for RocksDB in the design).
//!
//! Guarantees: only the committer writes to the database, so that WAL order is csn order. A compaction filter drops the
//! elements of deleted collections; it never drops by time to live.

use super::batch::Family;
use super::key;
use super::meta::Meta;
use super::row_shard::Value;
use super::rows::{RowAccess, RowCache};
use super::whole;
use crate::csn::WalSeq;
use crate::error::{Error, Result};
use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBPinnableSlice, Options,
};
use rocksdb::{DBRawIterator, DBRecoveryMode, Env, ErrorKind, IngestExternalFileOptions, ReadOptions};
use rocksdb::{WaitForCompactOptions, WriteOptions};
use std::ffi::CStr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// Ten years: RocksDB must archive WAL files and never purge them by itself, because walferry's janitor purges them.
const WAL_TTL_SECONDS: u64 = 10 * 365 * 24 * 3600;
/// Bytes of the WAL at which RocksDB flushes the families that pin the oldest WAL files. Without a limit, one rarely
/// written family would pin all WAL files.
const TOTAL_WAL_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a memtable. A memtable must fit into the CPU's caches, because each insertion searches it.
const MEMTABLE_BYTES: usize = 4 << 20;
/// Number of memtables that are flushed together into one file.
const MEMTABLES_MERGED: i32 = 4;
/// Bytes of a memtable while the WAL is replayed. RocksDB then flushes each memtable to a file of its own.
const MEMTABLE_REPLAY_BYTES: usize = MEMTABLES_MERGED as usize * MEMTABLE_BYTES;
/// Size of a memtable's Bloom filter, as a fraction of the memtable.
const MEMTABLE_FILTER_RATIO: f64 = 0.05;
/// Number of memtables that may exist at a time, most of them waiting for their flush.
const MEMTABLES_MAX: i32 = 8 * MEMTABLES_MERGED;
/// Bytes of read-ahead of a walk over all keys.
const WALK_READ_AHEAD_BYTES: usize = 1 << 20;
/// Number of level-0 files that are compacted at a time: together they are half as large as level 1.
const LEVEL_0_FILES: i32 = 8;
/// Number of level-0 files at which RocksDB slows writes down.
const LEVEL_0_FILES_SLOW: i32 = 40;
/// Number of level-0 files at which RocksDB stops writes.
const LEVEL_0_FILES_MAX: i32 = 64;

/// The settings of RocksDB that a caller may choose.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Size of the block cache in bytes.
    pub cache_bytes: usize,
    /// Size of the row cache in bytes.
    pub row_cache_bytes: usize,
    /// Whether RocksDB starts compactions by itself. Off while restoring and while reading a checkpoint.
    pub compaction: bool,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self { cache_bytes: 256 << 20, row_cache_bytes: 1 << 20, compaction: true }
    }
}

/// The open RocksDB.
pub struct Disk {
    db: Option<Arc<DB>>,
    wal_dir: PathBuf,
    orphans: Arc<OrphanShared>,
    rows: RowCache,
    /// Made once, because each set of RocksDB options is an allocation.
    reading: ReadOptions,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("wal_dir", &self.wal_dir).finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens or creates the database in `db_dir` with its WAL in `wal_dir`, and replays the WAL.
    pub fn open(db_dir: &Path, wal_dir: &Path, options: DiskOptions) -> Result<Self> {
        std::fs::create_dir_all(db_dir).map_err(Error::io("create", db_dir))?;
        std::fs::create_dir_all(wal_dir).map_err(Error::io("create", wal_dir))?;
        let orphans = Arc::new(OrphanShared::default());
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let families = Family::ALL.map(|family| {
            ColumnFamilyDescriptor::new(family.name(), family_options(family, &cache, options, &orphans))
        });
        let db = DB::open_cf_descriptors(&database_options(wal_dir), db_dir, families)
            .map_err(Error::rocks("open the database"))?;
        let db = Arc::new(db);
        orphans.db.set(Arc::downgrade(&db)).expect("this is the only place that sets the database");
        let disk = Self {
            db: Some(db),
            wal_dir: wal_dir.to_owned(),
            orphans,
            rows: RowCache::new(options.row_cache_bytes),
            reading: ReadOptions::default(),
        };
        let memtable_bytes = MEMTABLE_BYTES.to_string();
        for family in Family::ALL {
            let resized = disk.db().set_options_cf(disk.family(family), &[("write_buffer_size", &memtable_bytes)]);
            resized.map_err(Error::rocks("set the size of memtables"))?;
        }
        Ok(disk)
    }

    /// Returns the database. Only the committer may write through it.
    #[must_use]
    pub fn db(&self) -> &DB {
        self.db.as_deref().expect("present until drop")
    }

    /// Returns the directory of the live WAL files; archived WAL files lie in `archive` below it.
    #[must_use]
    pub fn wal_dir(&self) -> &Path {
        &self.wal_dir
    }

    /// Returns the handle of a family.
    #[must_use]
    pub fn family(&self, family: Family) -> &ColumnFamily {
        self.db().cf_handle(family.name()).expect("all families are created at open")
    }

    /// Reads one key from the database.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>> {
        let found = match family {
            Family::Default => self.db().get_pinned_opt(key, &self.reading),
            _ => self.db().get_pinned_cf_opt(self.family(family), key, &self.reading),
        };
        found.map_err(Error::rocks("read a key"))
    }

    /// Returns the row cache.
    #[must_use]
    pub fn rows(&self) -> &RowCache {
        &self.rows
    }

    /// Reads one key through the row cache.
    pub fn row(&self, family: Family, key: &[u8], access: RowAccess) -> Result<Option<Value>> {
        self.rows.read(family, key, access, || self.get(family, key))
    }

    /// Reads all elements of a small collection, whose keys start with `prefix`, through the row cache; `None` if the
    /// elements do not fit into one buffer.
    pub fn whole(&self, prefix: &[u8], access: RowAccess) -> Result<Option<Value>> {
        self.rows.read_whole(prefix, access, || {
            let mut elements = Vec::new();
            let mut cursor = self.cursor(Family::Sub, key::prefix_range(prefix.to_vec()));
            cursor.seek_to_first();
            while let Some((stored, value)) = cursor.item() {
                if !whole::push(&mut elements, &stored[prefix.len()..], value) {
                    return Ok(None);
                }
                cursor.next();
            }
            cursor.status().map_err(Error::rocks("read a collection"))?;
            Ok(Some(elements))
        })
    }

    /// Returns a cursor over a key range, not yet positioned. The cursor sees one state of the database.
    #[must_use]
    pub fn cursor(&self, family: Family, range: Range<Vec<u8>>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(range);
        self.db().raw_iterator_cf_opt(self.family(family), options)
    }

    /// Reports whether there is a user key. A database that cannot be read counts as one with keys.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        let mut cursor = self.cursor(Family::Default, key::user_range());
        cursor.seek_to_first();
        cursor.valid() || cursor.status().is_err()
    }

    /// Returns a cursor for one walk over all user keys of a family. The walk does not fill the block cache.
    #[must_use]
    pub fn walk_all(&self, family: Family) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(key::user_range());
        options.fill_cache(false);
        options.set_readahead_size(WALK_READ_AHEAD_BYTES);
        self.db().raw_iterator_cf_opt(self.family(family), options)
    }

    /// Writes one batch given as bytes, header included. `wal` may be false only while restoring.
    ///
    /// The bytes must have been built or validated by `batch`: RocksDB detects a malformed batch only after logging it.
    pub fn write(&self, batch: &[u8], wal: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(!wal);
        self.db().write_opt(rocksdb::WriteBatch::from_data(batch), &options).map_err(Error::rocks("write a batch"))
    }

    /// Writes one batch with the WAL, as [`Disk::write`] does. The bytes are freed once RocksDB has its own copy,
    /// before RocksDB applies the copy, so that a large batch is not held twice.
    pub fn write_and_free(&self, batch: Vec<u8>) -> Result<()> {
        let copy = rocksdb::WriteBatch::from_data(&batch);
        drop(batch);
        self.db().write_opt(copy, &WriteOptions::default()).map_err(Error::rocks("write a batch"))
    }

    /// Returns the sequence number of the last operation written.
    #[must_use]
    pub fn wal_seq(&self) -> WalSeq {
        WalSeq(self.db().latest_sequence_number())
    }

    /// Syncs the WAL: everything written before the call survives a power cut.
    pub fn sync_wal(&self) -> Result<()> {
        self.db().flush_wal(true).map_err(Error::rocks("sync its WAL"))
    }

    /// Flushes all memtables to SST files.
    pub fn flush(&self) -> Result<()> {
        for family in Family::ALL {
            self.db().flush_cf(self.family(family)).map_err(Error::rocks("flush a memtable"))?;
        }
        Ok(())
    }

    /// Ingests files made with [`sorted_file_options`], which must not overlap each other. Their content is newer than
    /// everything written before. Allowed only while restoring, because ingested data is in no WAL.
    pub fn ingest(&self, family: Family, files: Vec<PathBuf>) -> Result<()> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let ingested = self.db().ingest_external_file_cf_opts(self.family(family), &options, files);
        ingested.map_err(Error::rocks("ingest a sorted batch"))
    }

    /// Returns the error that stops flushes or compactions; `None` if there is none. While there is such an error,
    /// RocksDB refuses writes or soon will.
    #[must_use]
    pub fn background_error(&self) -> Option<Error> {
        // RocksDB returns an existing error at once; the timeout (in µs) avoids waiting for work under way.
        let mut options = WaitForCompactOptions::default();
        options.set_timeout(1);
        let failed = self.db().wait_for_compact(&options).err()?;
        let is_none = matches!(failed.kind(), ErrorKind::TimedOut | ErrorKind::ShutdownInProgress);
        (!is_none).then(|| Error::RocksDb { action: "flush or compact", source: failed })
    }

    /// Returns an estimate of the number of keys of all disk engines. Does not read the database.
    #[must_use]
    pub fn estimated_keys(&self) -> u64 {
        self.db().property_int_value("rocksdb.estimate-num-keys").ok().flatten().unwrap_or(0)
    }

    /// Returns an estimate of the bytes that the indexes and filters of the SST files hold in memory.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        let of = |family| self.db().property_int_value_cf(self.family(family), "rocksdb.estimate-table-readers-mem");
        Family::ALL.into_iter().filter_map(|family| of(family).ok().flatten()).sum()
    }

    /// Returns the bytes of the SST files.
    #[must_use]
    pub fn sst_bytes(&self) -> u64 {
        self.db().live_files().map_or(0, |files| files.iter().map(|file| file.size as u64).sum())
    }
}

impl Drop for Disk {
    /// Closes the database on this thread. Otherwise a compaction filter that holds the last reference would close the
    /// database on RocksDB's own compaction thread, and that thread would wait for itself.
    fn drop(&mut self) {
        self.orphans.closing.store(true, Ordering::SeqCst);
        let mut db = self.db.take().expect("present until drop");
        db.cancel_all_background_work(true);
        while Arc::get_mut(&mut db).is_none() && Arc::strong_count(&db) > 1 {
            std::thread::yield_now();
        }
    }
}

fn database_options(wal_dir: &Path) -> Options {
    let mut options = Options::default();
    if let Ok(mut environment) = Env::new() {
        // Applies to all databases of the process. When compaction falls behind, writes wait and leave the processor to
        // it.
        environment.lower_thread_pool_cpu_priority();
    }
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_dir(wal_dir);
    options.set_wal_ttl_seconds(WAL_TTL_SECONDS);
    options.set_wal_size_limit_mb(0);
    options.set_max_total_wal_size(TOTAL_WAL_BYTES_MAX);
    options.set_recycle_log_file_num(0);
    options.set_manual_wal_flush(false);
    options.set_wal_bytes_per_sync(0);
    options.set_enable_pipelined_write(false);
    options.set_atomic_flush(false);
    // Only one thread writes, so protection against concurrent writers would only cost time.
    options.set_allow_concurrent_memtable_write(false);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(8 << 20);
    options.set_max_open_files(4096);
    options
}

/// Returns the options for files of sorted batches: the same as for the files of a flush, in any family.
#[must_use]
pub fn sorted_file_options() -> Options {
    let mut table = table_options();
    table.disable_cache();
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options
}

fn table_options() -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    table.set_block_size(8 << 10);
    table.set_format_version(6);
    table
}

fn family_options(family: Family, cache: &Cache, chosen: DiskOptions, orphans: &Arc<OrphanShared>) -> Options {
    let mut table = table_options();
    table.set_block_cache(cache);
    // Indexes and filters stay outside the block cache. The filter of one file (10 bits per key) takes a good part of
    // one shard of the cache, so a few filters would evict each other, and each lookup of an absent key would read
    // megabytes.
    table.set_cache_index_and_filter_blocks(false);
    // Most lookups before a write find nothing (a new key, field or member); a filter makes the search in the memtables
    // unnecessary. The crate has no call for this option.
    let filtering = Options::default().get_options_from_string("memtable_whole_key_filtering=true");
    let mut options = filtering.expect("RocksDB knows this option");
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(MEMTABLE_REPLAY_BYTES);
    options.set_min_write_buffer_number_to_merge(MEMTABLES_MERGED);
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    options.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES);
    options.set_level_zero_slowdown_writes_trigger(LEVEL_0_FILES_SLOW);
    options.set_level_zero_stop_writes_trigger(LEVEL_0_FILES_MAX);
    options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_RATIO);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options.set_disable_auto_compactions(!chosen.compaction);
    if family != Family::Default {
        options.set_compaction_filter_factory(OrphanFilterFactory { shared: Arc::clone(orphans) });
    }
    options
}

/// State that the compaction filter shares with the database it runs in.
#[derive(Default)]
struct OrphanShared {
    db: OnceLock<Weak<DB>>,
    /// Set before the database is closed. Once set, the filter looks nothing up and keeps every element.
    closing: AtomicBool,
}

struct OrphanFilterFactory {
    shared: Arc<OrphanShared>,
}

impl CompactionFilterFactory for OrphanFilterFactory {
    type Filter = OrphanFilter;

    fn create(&mut self, _: CompactionFilterContext) -> OrphanFilter {
        OrphanFilter { shared: Arc::clone(&self.shared), last: None }
    }

    fn name(&self) -> &CStr {
        c"walferry.orphans"
    }
}

/// Drops elements whose collection was deleted, or was created anew after them.
///
/// This is sound because generations are unique and a collection's metadata is written in one batch with its elements:
/// if the metadata is absent or has a younger generation when an element meets a compaction, nothing refers to the
/// element.
struct OrphanFilter {
    shared: Arc<OrphanShared>,
    /// The metadata key looked up last, and the living generation of that key, if any. One entry suffices because
    /// elements come sorted by key.
    last: Option<(Vec<u8>, Option<u64>)>,
}

impl OrphanFilter {
    /// Returns the living generation at a metadata key; the inner `None`: no collection lives there, the outer `None`:
    /// unknown, keep the element.
    fn living_generation(&mut self, element: &key::Element<'_>) -> Option<Option<u64>> {
        let is_same =
            |meta: &[u8]| meta.len() == 2 + element.key.len() && meta[..2] == element.slot && meta[2..] == *element.key;
        if let Some((meta, generation)) = &self.last
            && is_same(meta)
        {
            return Some(*generation);
        }
        if self.shared.closing.load(Ordering::SeqCst) {
            return None;
        }
        let db = self.shared.db.get()?.upgrade()?;
        let meta_key = [&element.slot[..], element.key].concat();
        let generation = match db.get_pinned(&meta_key).ok()? {
            None => None,
            Some(stored) => match Meta::decode(&stored).ok()? {
                Meta::String { .. } => None,
                Meta::Collection(collection) => Some(collection.generation.0),
            },
        };
        self.last = Some((meta_key, generation));
        Some(generation)
    }
}

/// Recognizes elements of deleted collections.
pub(super) struct Orphans(OrphanFilter);

impl Orphans {
    /// Returns the recognizer for a database.
    pub(super) fn of(disk: &Disk) -> Self {
        Self(OrphanFilter { shared: Arc::clone(&disk.orphans), last: None })
    }

    /// Reports whether `key` is the key of an element whose collection was deleted, or was created anew after the
    /// element.
    pub(super) fn has(&mut self, key: &[u8]) -> bool {
        self.0.is_orphan(key)
    }
}

impl OrphanFilter {
    fn is_orphan(&mut self, bytes: &[u8]) -> bool {
        let Some(element) = key::parse_element(bytes) else { return false };
        match self.living_generation(&element) {
            Some(None) => true,
            Some(Some(living)) => element.generation.0 < living,
            None => false,
        }
    }
}

impl CompactionFilter for OrphanFilter {
    fn filter(&mut self, _level: u32, bytes: &[u8], _value: &[u8]) -> Decision {
        if self.is_orphan(bytes) { Decision::Remove } else { Decision::Keep }
    }

    fn name(&self) -> &CStr {
        c"walferry.orphans"
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
