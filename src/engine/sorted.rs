//! Sorted batches: the disk effects of many commits, gathered, sorted by key and written as SST files that RocksDB
//! ingests. Nobody reads a directory while it is being restored, so its effects need not pass a memtable one by one. A
//! compacted run of the archive consists of the same files.
//!
//! Guarantees: after a batch is ingested, RocksDB holds the state that the batch's operations lead to when applied to
//! everything written before. Of several versions of a key in a batch, only the last is written. A batch's memory is
//! bounded by [`Bounds::bytes_max`] and one commit. The csn key is not written.

use super::batch::{self, Family, HEADER_LEN, Operations, Record, Records};
use super::disk::{Disk, sorted_file_options};
use crate::error::{Error, Result};
use crate::threads::join;
use rocksdb::{Options, SstFileWriter};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// When a sorted batch is full, and when it pays to use several threads. The default is what a node uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bytes of operations and their index at which a batch is full. Two batches exist at a time: one is gathered while
    /// the previous one is written.
    pub bytes_max: usize,
    /// Number of operations of a family at which several threads sort them and write the files.
    pub parallel_min: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes_max: 64 << 20, parallel_min: 10_000 }
    }
}

/// Largest number of threads that write files.
const WRITERS_MAX: usize = 4;
/// Number of records that are brought into the processor's caches together.
const ENTRIES_AHEAD: usize = 16;
/// Bytes of a cache line of the processor.
const CACHE_LINE_BYTES: usize = 64;

/// How puts and deletes are represented in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The file has puts and deletes.
    Plain,
    /// The file has puts of a tagged value, so that a database that gathers several batches keeps the deletes. The
    /// value is [`TAG_PUT`] followed by the value of a put, or [`TAG_DELETE`] alone.
    Tagged,
}

/// Tag of a put.
pub const TAG_PUT: u8 = 1;
/// Tag of a delete.
pub const TAG_DELETE: u8 = 0;

/// A file of a sorted batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SortedFile {
    /// The family that the keys belong to.
    pub family: Family,
    /// Path of the file.
    pub path: PathBuf,
    /// Number of puts in the file.
    pub puts: u64,
    /// Number of deletes in the file.
    pub deletes: u64,
}

/// Operations of successive commits, gathered for sorting.
#[derive(Default)]
pub struct SortedBatch {
    bounds: Bounds,
    /// Records of write batches, in the order of their arrival.
    records: Vec<u8>,
    /// The puts and deletes in `records`, by family, without those that a later range delete covers.
    entries: [Vec<Entry>; 3],
    /// Range deletes, as records. They apply to everything written before this batch, and to nothing in it.
    ranges: Vec<u8>,
    /// Number of range deletes.
    range_count: u32,
}

/// A put or a delete.
#[derive(Clone, Copy)]
struct Entry {
    /// The first 16 bytes of the key, so that most comparisons need not read the key.
    prefix: [u64; 2],
    /// Offset of the record.
    at: u32,
}

impl SortedBatch {
    /// Makes an empty batch with other bounds than the default ones.
    #[must_use]
    pub fn within(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Takes the batch out and leaves an empty one with the same bounds.
    #[must_use]
    pub fn take(&mut self) -> Self {
        let empty = Self::within(self.bounds);
        std::mem::replace(self, empty)
    }

    /// Adds a commit's operations and checks them: there must be exactly `count`. After an error the batch must not be
    /// used.
    pub fn push(&mut self, operations: &[u8], count: u32) -> Result<()> {
        let begin = self.records.len();
        self.records.extend_from_slice(operations);
        let mut operations = Operations::new(operations, count);
        loop {
            let at = u32::try_from(begin + operations.offset()).expect("a batch and a commit are below 4 GiB");
            match operations.next().transpose()? {
                None => return Ok(()),
                Some(Record::Put(family, key, _) | Record::Delete(family, key)) => {
                    self.entries[family as usize].push(Entry { prefix: prefix(key), at });
                }
                Some(Record::DeleteRange(family, from, to)) => self.delete_range(family, from, to),
                Some(Record::LogData(_)) => unreachable!("operations hold no log data"),
            }
        }
    }

    fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        let records = &self.records;
        self.entries[family as usize].retain(|entry| {
            let key = key_of(records, entry);
            key < from || key >= to
        });
        batch::push_delete_range(&mut self.ranges, family, from, to);
        self.range_count += 1;
    }

    /// Returns the bytes of operations and their index.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(Vec::len).sum();
        self.records.len() + self.ranges.len() + entries * size_of::<Entry>()
    }

    /// Reports whether the batch must be written before it takes more operations.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.bounds.bytes_max
    }

    /// Reports whether the batch has no operations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range_count == 0 && self.entries.iter().all(Vec::is_empty)
    }

    /// Returns the range deletes, as records. They apply to everything written before this batch, and to nothing in it.
    #[must_use]
    pub fn ranges(&self) -> &[u8] {
        &self.ranges
    }

    /// Ingests the batch into RocksDB, by way of files in `scratch`. `nth` makes the file names of different batches
    /// different.
    pub fn ingest(self, disk: &Disk, scratch: &Path, nth: u64) -> Result<()> {
        self.ingest_as(Form::Plain, disk, scratch, nth)
    }

    /// Ingests the batch as [`SortedBatch::ingest`] does, in the given form.
    pub fn ingest_as(mut self, form: Form, disk: &Disk, scratch: &Path, nth: u64) -> Result<()> {
        delete_ranges(disk, &self.ranges, self.range_count)?;
        for family in Family::ALL {
            let files =
                self.write(family, form, &|part| scratch.join(format!("batch-{nth:06}-{}-{part}.sst", family.name())))?;
            if !files.is_empty() {
                disk.ingest(family, files.into_iter().map(|file| file.path).collect())?;
            }
        }
        Ok(())
    }

    /// Writes the batch's operations of one family and frees their index. `path` names the files, which do not overlap
    /// each other.
    pub fn write(
        &mut self,
        family: Family,
        form: Form,
        path: &(dyn Fn(usize) -> PathBuf + Sync),
    ) -> Result<Vec<SortedFile>> {
        let entries = std::mem::take(&mut self.entries[family as usize]);
        let is_parallel = |entries: &[Entry]| entries.len() >= self.bounds.parallel_min;
        let entries = newest_by_key(&self.records, is_parallel(&entries), entries);
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = if is_parallel(&entries) { cores.min(WRITERS_MAX) } else { 1 };
        write_files(&self.records, &entries, parts, family, form, path)
    }
}

/// Writes range deletes to the database without the WAL, given as `count` records.
pub fn delete_ranges(disk: &Disk, ranges: &[u8], count: u32) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let mut batch = vec![0; HEADER_LEN];
    batch[8..HEADER_LEN].copy_from_slice(&count.to_le_bytes());
    batch.extend_from_slice(ranges);
    disk.write(&batch, false)
}

/// Returns the first 16 bytes of a key as numbers that sort like the bytes; a shorter key is filled up with zeros.
fn prefix(key: &[u8]) -> [u64; 2] {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    let (first, second) = bytes.split_at(8);
    [first, second].map(|half| u64::from_be_bytes(half.try_into().expect("eight bytes")))
}

fn record_of<'r>(records: &'r [u8], entry: &Entry) -> Record<'r> {
    let record = Records::new(&records[entry.at as usize..]).next();
    record.expect("an entry is where a record begins").expect("the operations were checked before")
}

fn key_of<'r>(records: &'r [u8], entry: &Entry) -> &'r [u8] {
    match record_of(records, entry) {
        Record::Put(_, key, _) | Record::Delete(_, key) => key,
        Record::DeleteRange(..) | Record::LogData(_) => unreachable!("entries are puts and deletes"),
    }
}

/// Returns the entries sorted by key, with only the last entry of each key. If `is_parallel`, two threads sort them.
fn newest_by_key(records: &[u8], is_parallel: bool, mut entries: Vec<Entry>) -> Vec<Entry> {
    let by_key =
        |a: &Entry, b: &Entry| a.prefix.cmp(&b.prefix).then_with(|| key_of(records, a).cmp(key_of(records, b)));
    let newest_first = |a: &Entry, b: &Entry| by_key(a, b).then(b.at.cmp(&a.at));
    if !is_parallel {
        entries.sort_unstable_by(newest_first);
    } else {
        let middle = entries.len() / 2;
        entries.select_nth_unstable_by(middle, newest_first);
        let (low, high) = entries.split_at_mut(middle);
        std::thread::scope(|scope| {
            scope.spawn(|| low.sort_unstable_by(newest_first));
            high.sort_unstable_by(newest_first);
        });
    }
    entries.dedup_by(|older, newest| by_key(older, newest) == Ordering::Equal);
    entries
}

/// Writes sorted entries into at most `parts` files, each with one range of keys.
fn write_files(
    records: &[u8],
    entries: &[Entry],
    parts: usize,
    family: Family,
    form: Form,
    path: &(dyn Fn(usize) -> PathBuf + Sync),
) -> Result<Vec<SortedFile>> {
    std::thread::scope(|scope| {
        let parts = entries.chunks(entries.len().div_ceil(parts)).enumerate();
        let write = |entries, path| move || write_file(records, entries, family, form, path);
        let writers: Vec<_> = parts.map(|(part, entries)| scope.spawn(write(entries, path(part)))).collect();
        writers.into_iter().map(join).collect()
    })
}

/// Brings records into the processor's caches. In key order the records are scattered in memory: reading them one after
/// another would wait for each, while these reads are under way together.
fn read_ahead(records: &[u8], entries: &[Entry]) {
    let at = |entry: &Entry, offset| records.get(entry.at as usize + offset).copied().unwrap_or_default();
    let lines = entries.iter().map(|entry| at(entry, 0) ^ at(entry, CACHE_LINE_BYTES));
    std::hint::black_box(lines.fold(0, |all, line| all ^ line));
}

fn write_file(records: &[u8], entries: &[Entry], family: Family, form: Form, path: PathBuf) -> Result<SortedFile> {
    let mut file = SortedFileWriter::create(family, path)?;
    let mut tagged = Vec::new();
    for (nth, entry) in entries.iter().enumerate() {
        if nth % ENTRIES_AHEAD == 0 {
            read_ahead(records, &entries[nth..entries.len().min(nth + ENTRIES_AHEAD)]);
        }
        let (key, value) = match record_of(records, entry) {
            Record::Put(_, key, value) => (key, Some(value)),
            Record::Delete(_, key) => (key, None),
            Record::DeleteRange(..) | Record::LogData(_) => unreachable!("entries are puts and deletes"),
        };
        match form {
            Form::Plain => file.push(key, value)?,
            Form::Tagged => {
                tagged.clear();
                tagged.push(if value.is_some() { TAG_PUT } else { TAG_DELETE });
                tagged.extend_from_slice(value.unwrap_or_default());
                file.push(key, Some(&tagged))?;
            }
        }
    }
    file.finish()
}

/// Writer of one sorted file.
pub struct SortedFileWriter {
    writer: SstFileWriter<'static>,
    file: SortedFile,
    bytes: u64,
}

impl SortedFileWriter {
    /// Creates a file at `path`.
    pub fn create(family: Family, path: PathBuf) -> Result<Self> {
        static OPTIONS: OnceLock<Options> = OnceLock::new();
        let writer = SstFileWriter::create(OPTIONS.get_or_init(sorted_file_options));
        writer.open(&path).map_err(Error::rocks("begin a sorted file"))?;
        Ok(Self { writer, file: SortedFile { family, path, puts: 0, deletes: 0 }, bytes: 0 })
    }

    /// Adds a key, which must be above the key before; `None` as value is a delete.
    pub fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
        let written = match value {
            Some(value) => {
                self.file.puts += 1;
                self.writer.put(key, value)
            }
            None => {
                self.file.deletes += 1;
                self.writer.delete(key)
            }
        };
        written.map_err(Error::rocks("write a sorted file"))
    }

    /// Returns the bytes of keys and values added so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Completes the file, which must not be empty.
    pub fn finish(mut self) -> Result<SortedFile> {
        self.writer.finish().map_err(Error::rocks("finish a sorted file"))?;
        Ok(self.file)
    }
}

#[cfg(test)]
#[path = "sorted_tests.rs"]
mod tests;
