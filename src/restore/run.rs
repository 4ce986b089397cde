//! Sorted runs: the disk effects of many commits, gathered, sorted by key and written as SST files that RocksDB takes
//! over whole. A restored directory is a new lineage that nobody reads yet, so its effects need not pass a memtable one
//! by one.
//!
//! Guarantees: once a run is ingested, RocksDB holds what its operations lead to after everything written before; of the
//! versions of a key inside a run only the last is written. A run's memory is bounded by [`RUN_BYTES_MAX`] and one
//! commit. Does not write the csn key.

use crate::engine::batch::{self, Family, HEADER_LEN, Record, Records};
use crate::engine::disk::{Disk, run_options};
use crate::error::{Error, Result};
use rocksdb::SstFileWriter;
use std::cmp::Ordering;
use std::path::{Path, PathBuf};

/// Bytes of operations and their index at which a run is full. Two runs exist at a time: one is gathered while the one
/// before is written. Tiny in unit tests, so that their histories take many runs.
pub const RUN_BYTES_MAX: usize = if cfg!(test) { 400 } else { 64 << 20 };
/// Operations of a family from which its files are sorted and written by several threads.
const PARALLEL_MIN: usize = if cfg!(test) { 4 } else { 10_000 };
/// Threads that write files.
const WRITERS_MAX: usize = 4;

/// Operations of successive commits.
#[derive(Default)]
pub struct Run {
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

impl Run {
    /// Takes a commit's operations, checked: there must be `count`.
    pub fn push(&mut self, operations: &[u8], count: u32) -> Result<()> {
        batch::validate(operations, count)?;
        let begin = self.records.len();
        self.records.extend_from_slice(operations);
        let mut records = Records::new(operations);
        loop {
            let at = u32::try_from(begin + records.offset()).expect("a run and a commit are below 4 GiB");
            match records.next() {
                None => return Ok(()),
                Some(Ok(Record::Put(family, key, _) | Record::Delete(family, key))) => {
                    self.entries[family as usize].push(Entry { prefix: prefix(key), at });
                }
                Some(Ok(Record::DeleteRange(family, from, to))) => self.delete_range(family, from, to),
                Some(Ok(Record::LogData(_))) => {}
                Some(Err(error)) => return Err(error),
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

    /// Whether it must be ingested before it takes more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let entries: usize = self.entries.iter().map(Vec::len).sum();
        self.records.len() + self.ranges.len() + entries * size_of::<Entry>() >= RUN_BYTES_MAX
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range_count == 0 && self.entries.iter().all(Vec::is_empty)
    }

    /// Brings the run into RocksDB, by way of files in `scratch`; `nth` tells runs apart.
    pub fn ingest(mut self, disk: &Disk, scratch: &Path, nth: u64) -> Result<()> {
        if self.range_count > 0 {
            let mut batch = vec![0; HEADER_LEN];
            batch[8..HEADER_LEN].copy_from_slice(&self.range_count.to_le_bytes());
            batch.append(&mut self.ranges);
            disk.write(&batch, false)?;
        }
        for family in Family::ALL {
            let entries = newest_by_key(&self.records, std::mem::take(&mut self.entries[family as usize]));
            if !entries.is_empty() {
                let files = write_files(&self.records, &entries, &|part| {
                    scratch.join(format!("run-{nth:06}-{}-{part}.sst", family.name()))
                })?;
                disk.ingest(family, files)?;
            }
        }
        Ok(())
    }
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

/// Writes sorted entries as files, one after another by key; gives their paths.
fn write_files(records: &[u8], entries: &[Entry], path: &(dyn Fn(usize) -> PathBuf + Sync)) -> Result<Vec<PathBuf>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parts = if entries.len() < PARALLEL_MIN { 1 } else { cores.min(WRITERS_MAX) };
    std::thread::scope(|scope| {
        let parts = entries.chunks(entries.len().div_ceil(parts)).enumerate();
        let writers: Vec<_> =
            parts.map(|(part, entries)| scope.spawn(move || write_file(records, entries, path(part)))).collect();
        let join = |writer: std::thread::ScopedJoinHandle<'_, Result<PathBuf>>| {
            writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        writers.into_iter().map(join).collect()
    })
}

fn write_file(records: &[u8], entries: &[Entry], path: PathBuf) -> Result<PathBuf> {
    let options = run_options();
    let mut file = SstFileWriter::create(&options);
    let written = file.open(&path).and_then(|()| {
        for entry in entries {
            match record_of(records, entry) {
                Record::Put(_, key, value) => file.put(key, value)?,
                Record::Delete(_, key) => file.delete(key)?,
                Record::DeleteRange(..) | Record::LogData(_) => unreachable!("entries are puts and deletes"),
            }
        }
        file.finish()
    });
    written.map(|()| path).map_err(Error::rocks("write a sorted run"))
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
