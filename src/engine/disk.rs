//! The disk engines' home: one RocksDB with three column families, opened with the only option set that keeps its WAL
//! shippable (see the rules for RocksDB in the design).
//!
//! Guarantees: only the committer writes here, so that WAL order is csn order; elements of deleted collections are
//! dropped by a compaction filter, never by time to live.

use super::batch::Family;
use super::key;
use super::meta::Meta;
use super::rows::{RowAccess, RowCache, Value};
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

/// Ten years: RocksDB must archive WAL files and never purge them by itself; walferry's janitor does.
const WAL_TTL_SECONDS: u64 = 10 * 365 * 24 * 3600;
/// One rarely written family must not pin all WAL files for ever.
const TOTAL_WAL_BYTES_MAX: u64 = 256 << 20;
/// Size of a memtable: small enough for the CPU's caches, because an insertion is a search in it.
const MEMTABLE_BYTES: usize = 4 << 20;
/// Memtables that are flushed to one file.
const MEMTABLES_MERGED: i32 = 4;
/// Size of a memtable while the WAL is replayed, when each is flushed to a file of its own.
const MEMTABLE_REPLAY_BYTES: usize = MEMTABLES_MERGED as usize * MEMTABLE_BYTES;
/// Part of a memtable that its filter takes.
const MEMTABLE_FILTER_RATIO: f64 = 0.05;
/// How many memtables may wait for their flush.
const MEMTABLES_MAX: i32 = 8 * MEMTABLES_MERGED;
/// Bytes that a walk over all keys reads ahead.
const WALK_READ_AHEAD_BYTES: usize = 1 << 20;
/// Files of level 0 that are merged at a time: as many as make half of level 1.
const LEVEL_0_FILES: i32 = 8;
/// Files of level 0 at which writes are slowed down.
const LEVEL_0_FILES_SLOW: i32 = 40;
/// Files of level 0 at which writes wait.
const LEVEL_0_FILES_MAX: i32 = 64;

/// What the caller may choose about RocksDB.
#[derive(Clone, Copy, Debug)]
pub struct DiskOptions {
    /// Bytes of the block cache.
    pub cache_bytes: usize,
    /// Bytes of the row cache.
    pub row_cache_bytes: usize,
    /// Whether compaction runs by itself; off while restoring and while reading a checkpoint.
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
    /// Made once: RocksDB's options are an allocation each.
    reading: ReadOptions,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("wal_dir", &self.wal_dir).finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens or creates the database in `db_dir` with its WAL in `wal_dir`, replaying the WAL.
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
        orphans.db.set(Arc::downgrade(&db)).expect("set once, here");
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

    /// The database. Nothing but the committer may write through it.
    #[must_use]
    pub fn db(&self) -> &DB {
        self.db.as_deref().expect("present until drop")
    }

    /// Directory of the live WAL files; archived ones lie in `archive` below it.
    #[must_use]
    pub fn wal_dir(&self) -> &Path {
        &self.wal_dir
    }

    /// The handle of a family.
    #[must_use]
    pub fn family(&self, family: Family) -> &ColumnFamily {
        self.db().cf_handle(family.name()).expect("all families are created at open")
    }

    /// Reads one key.
    pub fn get(&self, family: Family, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>> {
        let found = match family {
            Family::Default => self.db().get_pinned_opt(key, &self.reading),
            _ => self.db().get_pinned_cf_opt(self.family(family), key, &self.reading),
        };
        found.map_err(Error::rocks("read a key"))
    }

    /// Rows known without asking the database.
    #[must_use]
    pub fn rows(&self) -> &RowCache {
        &self.rows
    }

    /// Reads one key through the row cache.
    pub fn row(&self, family: Family, key: &[u8], access: RowAccess) -> Result<Option<Value>> {
        self.rows.read(family, key, access, || self.get(family, key))
    }

    /// All elements of a small collection, whose keys start with `prefix`, through the row cache; `None` if they are too
    /// many.
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

    /// A cursor over a key range, not yet positioned. It sees one state of the database.
    #[must_use]
    pub fn cursor(&self, family: Family, range: Range<Vec<u8>>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(range);
        self.db().raw_iterator_cf_opt(self.family(family), options)
    }

    /// A cursor over all user keys of a family, for one walk over all of them: the block cache keeps what it has.
    #[must_use]
    pub fn walk_all(&self, family: Family) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(key::user_range());
        options.fill_cache(false);
        options.set_readahead_size(WALK_READ_AHEAD_BYTES);
        self.db().raw_iterator_cf_opt(self.family(family), options)
    }

    /// Writes one batch given as bytes, header included. `wal` off only while restoring.
    ///
    /// The bytes must have been built or validated by `batch`: RocksDB finds a malformed batch only after it logged it.
    pub fn write(&self, batch: &[u8], wal: bool) -> Result<()> {
        let mut options = WriteOptions::default();
        options.disable_wal(!wal);
        self.db().write_opt(rocksdb::WriteBatch::from_data(batch), &options).map_err(Error::rocks("write a batch"))
    }

    /// The same, with the WAL. The bytes are freed once RocksDB has its copy, before it takes them in: a large batch is
    /// not held twice.
    pub fn write_and_free(&self, batch: Vec<u8>) -> Result<()> {
        let copy = rocksdb::WriteBatch::from_data(&batch);
        drop(batch);
        self.db().write_opt(copy, &WriteOptions::default()).map_err(Error::rocks("write a batch"))
    }

    /// Sequence of the last operation written.
    #[must_use]
    pub fn wal_seq(&self) -> WalSeq {
        WalSeq(self.db().latest_sequence_number())
    }

    /// Makes everything written so far survive a power cut.
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

    /// Takes over files made with [`run_options`], which do not overlap each other; they are newer than everything
    /// written before. Only while restoring: what is ingested is in no WAL.
    pub fn ingest(&self, family: Family, files: Vec<PathBuf>) -> Result<()> {
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let ingested = self.db().ingest_external_file_cf_opts(self.family(family), &options, files);
        ingested.map_err(Error::rocks("ingest a sorted run"))
    }

    /// Why flushes or compactions do not go on; `None` if they do. While there is such an error, RocksDB takes no writes or
    /// soon will not.
    #[must_use]
    pub fn background_error(&self) -> Option<Error> {
        // Told at once if there is an error; waiting for work under way is not wanted.
        let mut options = WaitForCompactOptions::default();
        options.set_timeout(1);
        let failed = self.db().wait_for_compact(&options).err()?;
        let is_none = matches!(failed.kind(), ErrorKind::TimedOut | ErrorKind::ShutdownInProgress);
        (!is_none).then(|| Error::RocksDb { action: "flush or compact", source: failed })
    }

    /// Number of keys of all engines here, about, in no time.
    #[must_use]
    pub fn estimated_keys(&self) -> u64 {
        self.db().property_int_value("rocksdb.estimate-num-keys").ok().flatten().unwrap_or(0)
    }

    /// Bytes that the indexes and filters of the SST files hold in memory, about.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        let of = |family| self.db().property_int_value_cf(self.family(family), "rocksdb.estimate-table-readers-mem");
        Family::ALL.into_iter().filter_map(|family| of(family).ok().flatten()).sum()
    }

    /// Bytes of the SST files.
    #[must_use]
    pub fn sst_bytes(&self) -> u64 {
        self.db().live_files().map_or(0, |files| files.iter().map(|file| file.size as u64).sum())
    }
}

impl Drop for Disk {
    /// Closes the database on this thread: a compaction filter that holds the last reference would close it on
    /// RocksDB's own compaction thread, which would then wait for itself.
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
        // Of all databases of the process. When compaction falls behind, writes wait, and it gets the processor.
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
    // One thread writes: what guards against others costs it time.
    options.set_allow_concurrent_memtable_write(false);
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(8 << 20);
    options.set_max_open_files(4096);
    options
}

/// How files of sorted runs are written: like those that a flush makes, in any family.
#[must_use]
pub fn run_options() -> Options {
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
    // Not in the cache: a file's filter, 10 bits a key, takes a good part of one of its shards, so that a few of them drive
    // each other out, and each look for a key that is not there would read megabytes.
    table.set_cache_index_and_filter_blocks(false);
    // Most looks before a write find nothing (a new key, field or member): a filter spares the search in the memtables.
    // The crate has no call for it.
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

/// What the compaction filter needs of the database it runs in.
#[derive(Default)]
struct OrphanShared {
    db: OnceLock<Weak<DB>>,
    /// Set before the database is closed: from then on nothing is looked up.
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

/// Drops elements whose collection was deleted or created anew since.
///
/// Sound because generations are unique and a collection's metadata is written in one batch with its elements: if the
/// metadata is gone, or of a younger generation, by the time an element meets a compaction, nothing refers to it.
struct OrphanFilter {
    shared: Arc<OrphanShared>,
    /// The metadata key looked up last and the generation that lives there, if any: elements come sorted by key.
    last: Option<(Vec<u8>, Option<u64>)>,
}

impl OrphanFilter {
    /// Generation alive at a metadata key; the outer `None` means "unknown: keep".
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

/// Tells elements of deleted collections.
pub(super) struct Orphans(OrphanFilter);

impl Orphans {
    /// In this database.
    pub fn of(disk: &Disk) -> Self {
        Self(OrphanFilter { shared: Arc::clone(&disk.orphans), last: None })
    }

    /// Whether a key is that of an element whose collection was deleted or created anew since.
    pub fn has(&mut self, key: &[u8]) -> bool {
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
mod tests {
    use super::super::batch::{HEADER_LEN, push_delete, push_put};
    use super::super::key::Generation;
    use super::super::meta::{Collection, DiskType};
    use super::*;

    fn write(disk: &Disk, fill: impl FnOnce(&mut Vec<u8>) -> u32) {
        let mut batch = vec![0; HEADER_LEN];
        let count = fill(&mut batch);
        batch[8..12].copy_from_slice(&count.to_le_bytes());
        disk.write(&batch, true).unwrap();
    }

    #[test]
    fn compaction_drops_elements_of_deleted_and_recreated_collections_only() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("db"), &dir.path().join("wal"), DiskOptions::default()).unwrap();
        let element = |name: &[u8], generation| key::sub(name, Generation(generation), b"field");
        write(&disk, |batch| {
            for (name, generation) in [(b"gone", 1), (b"anew", 2), (b"kept", 3), (b"text", 4)] {
                push_put(
                    batch,
                    Family::Default,
                    &key::meta(name),
                    &Collection::new(DiskType::Hash, Generation(generation)).encode(),
                );
                push_put(batch, Family::Sub, &element(name, generation), b"v");
            }
            8
        });
        write(&disk, |batch| {
            push_delete(batch, Family::Default, &key::meta(b"gone"));
            push_put(
                batch,
                Family::Default,
                &key::meta(b"anew"),
                &Collection::new(DiskType::Hash, Generation(9)).encode(),
            );
            push_put(batch, Family::Sub, &element(b"anew", 9), b"v");
            push_put(batch, Family::Default, &key::meta(b"text"), &super::super::meta::encode_string(b"s", 0));
            4
        });
        disk.flush().unwrap();
        disk.db().compact_range_cf(disk.family(Family::Sub), None::<&[u8]>, None::<&[u8]>);
        for (name, generation, lives) in
            [(b"gone", 1, false), (b"anew", 2, false), (b"anew", 9, true), (b"kept", 3, true), (b"text", 4, false)]
        {
            assert_eq!(
                disk.get(Family::Sub, &element(name, generation)).unwrap().is_some(),
                lives,
                "{name:?} {generation}"
            );
        }
    }
}
