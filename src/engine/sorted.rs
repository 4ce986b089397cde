//! Sorted runs: the disk effects of many commits, gathered, sorted by key and written as SST files that RocksDB takes
//! over whole. A restored directory is a new lineage that nobody reads yet, so its effects need not pass a memtable one
//! by one; a compacted run of the archive is made of the same files.
//!
//! Guarantees: once a run is ingested, RocksDB holds what its operations lead to after everything written before; of the
//! versions of a key inside a run only the last is written. A run's memory is bounded by [`RUN_BYTES_MAX`] and one
//! commit. Does not write the csn key.

use super::batch::{self, Family, HEADER_LEN, Operations, Record, Records};
use super::disk::{Disk, run_options};
use crate::error::{Error, Result};
use crate::threads::join;
use rocksdb::{Options, SstFileWriter};
use std::cmp::Ordering;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Bytes of operations and their index at which a run is full. Two runs exist at a time: one is gathered while the one
/// before is written. Tiny in unit tests, so that their histories take many runs.
pub const RUN_BYTES_MAX: usize = if cfg!(test) { 400 } else { 64 << 20 };
/// Operations of a family from which its files are sorted and written by several threads.
const PARALLEL_MIN: usize = if cfg!(test) { 4 } else { 10_000 };
/// Threads that write files.
const WRITERS_MAX: usize = 4;
/// Records that are brought into the processor's caches at a time.
const ENTRIES_AHEAD: usize = 16;
/// Bytes that the processor reads at a time.
const CACHE_LINE_BYTES: usize = 64;

/// How puts and deletes stand in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// As they are.
    Plain,
    /// As puts of the tagged value, so that a database that gathers several runs keeps the deletes: [`TAG_PUT`] and the
    /// value, or [`TAG_DELETE`].
    Tagged,
}

/// Tag of a value.
pub const TAG_PUT: u8 = 1;
/// Tag of a delete.
pub const TAG_DELETE: u8 = 0;

/// A file of a sorted run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SortedFile {
    /// The family it belongs to.
    pub family: Family,
    /// Where it lies.
    pub path: PathBuf,
    /// Keys set in it.
    pub puts: u64,
    /// Keys deleted in it.
    pub deletes: u64,
}

/// Operations of successive commits.
#[derive(Default)]
pub struct SortedRun {
    /// Records of write batches, as they came.
    records: Vec<u8>,
    /// The puts and deletes in `records`, by family; none that a later range delete covers.
    entries: [Vec<Entry>; 3],
    /// Range deletes, as records: they concern what was written before this run and nothing in it.
    ranges: Vec<u8>,
    /// How many.
    range_count: u32,
}

/// A put or a delete.
#[derive(Clone, Copy)]
struct Entry {
    /// The key's first bytes, so that most comparisons end here.
    prefix: [u64; 2],
    /// Where its record begins.
    at: u32,
}

impl SortedRun {
    /// Takes a commit's operations and checks them: there must be `count`. After an error the run is of no use.
    pub fn push(&mut self, operations: &[u8], count: u32) -> Result<()> {
        let begin = self.records.len();
        self.records.extend_from_slice(operations);
        let mut operations = Operations::new(operations, count);
        loop {
            let at = u32::try_from(begin + operations.offset()).expect("a run and a commit are below 4 GiB");
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

    /// Bytes of operations and their index.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let entries: usize = self.entries.iter().map(Vec::len).sum();
        self.records.len() + self.ranges.len() + entries * size_of::<Entry>()
    }

    /// Whether it must be written before it takes more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes() >= RUN_BYTES_MAX
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range_count == 0 && self.entries.iter().all(Vec::is_empty)
    }

    /// The range deletes, as records. They concern what was written before this run and nothing in it.
    #[must_use]
    pub fn ranges(&self) -> &[u8] {
        &self.ranges
    }

    /// Brings the run into RocksDB, by way of files in `scratch`; `nth` tells runs apart.
    pub fn ingest(self, disk: &Disk, scratch: &Path, nth: u64) -> Result<()> {
        self.ingest_as(Form::Plain, disk, scratch, nth)
    }

    /// As [`SortedRun::ingest`], in another form.
    pub fn ingest_as(mut self, form: Form, disk: &Disk, scratch: &Path, nth: u64) -> Result<()> {
        delete_ranges(disk, &self.ranges, self.range_count)?;
        for family in Family::ALL {
            let files =
                self.write(family, form, &|part| scratch.join(format!("run-{nth:06}-{}-{part}.sst", family.name())))?;
            if !files.is_empty() {
                disk.ingest(family, files.into_iter().map(|file| file.path).collect())?;
            }
        }
        Ok(())
    }

    /// Writes what the run holds of a family and lets go of it; `path` names the files, which do not overlap.
    pub fn write(
        &mut self,
        family: Family,
        form: Form,
        path: &(dyn Fn(usize) -> PathBuf + Sync),
    ) -> Result<Vec<SortedFile>> {
        let entries = newest_by_key(&self.records, std::mem::take(&mut self.entries[family as usize]));
        if entries.is_empty() { Ok(Vec::new()) } else { write_files(&self.records, &entries, family, form, path) }
    }
}

/// Writes range deletes, given as `count` records.
pub fn delete_ranges(disk: &Disk, ranges: &[u8], count: u32) -> Result<()> {
    if count == 0 {
        return Ok(());
    }
    let mut batch = vec![0; HEADER_LEN];
    batch[8..HEADER_LEN].copy_from_slice(&count.to_le_bytes());
    batch.extend_from_slice(ranges);
    disk.write(&batch, false)
}

/// Sixteen bytes from the front, as numbers that sort like them; a shorter key is filled up with zeros.
fn prefix(key: &[u8]) -> [u64; 2] {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    let (first, second) = bytes.split_at(8);
    [first, second].map(|half| u64::from_be_bytes(half.try_into().expect("eight bytes")))
}

fn record_of<'r>(records: &'r [u8], entry: &Entry) -> Record<'r> {
    let record = Records::new(&records[entry.at as usize..]).next();
    record.expect("an entry is where a record begins").expect("checked when it came")
}

fn key_of<'r>(records: &'r [u8], entry: &Entry) -> &'r [u8] {
    match record_of(records, entry) {
        Record::Put(_, key, _) | Record::Delete(_, key) => key,
        Record::DeleteRange(..) | Record::LogData(_) => unreachable!("entries are puts and deletes"),
    }
}

/// The entries sorted by key, of each key the one that came last.
fn newest_by_key(records: &[u8], mut entries: Vec<Entry>) -> Vec<Entry> {
    let by_key =
        |a: &Entry, b: &Entry| a.prefix.cmp(&b.prefix).then_with(|| key_of(records, a).cmp(key_of(records, b)));
    let newest_first = |a: &Entry, b: &Entry| by_key(a, b).then(b.at.cmp(&a.at));
    if entries.len() < PARALLEL_MIN {
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

/// Writes sorted entries as files, one after another by key.
fn write_files(
    records: &[u8],
    entries: &[Entry],
    family: Family,
    form: Form,
    path: &(dyn Fn(usize) -> PathBuf + Sync),
) -> Result<Vec<SortedFile>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = if entries.len() < PARALLEL_MIN { 1 } else { cores.min(WRITERS_MAX) };
    std::thread::scope(|scope| {
        let parts = entries.chunks(entries.len().div_ceil(parts)).enumerate();
        let write = |entries, path| move || write_file(records, entries, family, form, path);
        let writers: Vec<_> = parts.map(|(part, entries)| scope.spawn(write(entries, path(part)))).collect();
        writers.into_iter().map(join).collect()
    })
}

/// Brings records into the processor's caches. In the order of their keys they lie anywhere in memory: one after another each
/// would be waited for, these reads are under way together.
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

/// Writes one file.
pub struct SortedFileWriter {
    writer: SstFileWriter<'static>,
    file: SortedFile,
    bytes: u64,
}

impl SortedFileWriter {
    /// A new file.
    pub fn create(family: Family, path: PathBuf) -> Result<Self> {
        static OPTIONS: OnceLock<Options> = OnceLock::new();
        let writer = SstFileWriter::create(OPTIONS.get_or_init(run_options));
        writer.open(&path).map_err(Error::rocks("begin a sorted file"))?;
        Ok(Self { writer, file: SortedFile { family, path, puts: 0, deletes: 0 }, bytes: 0 })
    }

    /// Adds a key, which lies behind the one before; no value: a delete.
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

    /// Bytes of keys and values so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends the file, which must not be empty.
    pub fn finish(mut self) -> Result<SortedFile> {
        self.writer.finish().map_err(Error::rocks("finish a sorted file"))?;
        Ok(self.file)
    }
}

#[cfg(test)]
#[path = "sorted_tests.rs"]
mod tests;
