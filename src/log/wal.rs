//! Reads commits from RocksDB's WAL, and removes WAL files that are not needed.
//!
//! Guarantees: commits come without a gap in RocksDB's sequence, or there is an error. RocksDB's own iterator skips
//! purged files silently, and ends at an error as if at the end. For catch-up and recovery only: each reader decodes
//! the file in which it starts from that file's beginning.

use super::envelope;
use crate::csn::{Csn, WalSeq};
use crate::engine::batch::HEADER_LEN;
use crate::engine::disk::Disk;
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Iterator over the commits of the WAL with sequences in a range.
pub struct WalCommits {
    disk: Arc<Disk>,
    iterator: Option<rocksdb::DBWALIterator>,
    /// Sequence at the end of the last batch read.
    at: WalSeq,
    /// Sequence up to which to read, inclusive.
    until: WalSeq,
    read: VecDeque<CommitRecord>,
}

impl std::fmt::Debug for WalCommits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalCommits").field("at", &self.at).field("until", &self.until).finish_non_exhaustive()
    }
}

impl WalCommits {
    /// Reads the commits whose batches lie above `after`, up to and including `until`. Both must be ends of batches,
    /// and `until` must have been written before the call.
    #[must_use]
    pub fn new(disk: &Arc<Disk>, after: WalSeq, until: WalSeq) -> Self {
        Self { disk: Arc::clone(disk), iterator: None, at: after, until, read: VecDeque::new() }
    }

    fn gap(&self, found: String) -> Error {
        let expected = Csn(self.at.next().0);
        Error::Gap {
            what: format!("RocksDB's WAL in {} (by sequence)", self.disk.wal_dir().display()),
            expected,
            found,
        }
    }

    fn read_batch(&mut self) -> Result<()> {
        let next = match &mut self.iterator {
            Some(iterator) => next_batch(iterator)?,
            None => None,
        };
        let (sequence, bytes) = match next {
            Some(batch) => batch,
            None => self.reopen()?,
        };
        if sequence != self.at.next() {
            return Err(self.gap(format!("sequence {sequence}: WAL files were removed")));
        }
        self.at = WalSeq(self.at.0 + u64::from(envelope::operations(&bytes)));
        self.read.extend(envelope::disassemble(&bytes)?);
        Ok(())
    }

    /// Makes a new iterator, because one that has reached the end cannot resume, and returns the next batch. Returns a
    /// gap error if there is none.
    fn reopen(&mut self) -> Result<(WalSeq, Bytes)> {
        let mut iterator = self.disk.db().get_updates_since(self.at.0).map_err(Error::rocks("open its WAL"))?;
        let Some(batch) = next_batch(&mut iterator)? else {
            let status = iterator.status().map_or_else(|error| format!(" ({error})"), |()| String::new());
            return Err(self.gap(format!("the end, although sequence {} was written{status}", self.until)));
        };
        self.iterator = Some(iterator);
        Ok(batch)
    }
}

/// Returns the iterator's next batch that holds commits, and its sequence; `None` at the end and after an error.
fn next_batch(iterator: &mut rocksdb::DBWALIterator) -> Result<Option<(WalSeq, Bytes)>> {
    for next in iterator {
        let (sequence, batch) = next.map_err(Error::rocks("read its WAL"))?;
        if batch.data().len() < HEADER_LEN {
            return Err(Error::corrupt("RocksDB's WAL", sequence, "batch without a header"));
        }
        // RocksDB begins a file with an empty batch if the file before ended torn.
        let is_empty = batch.data().len() == HEADER_LEN && envelope::operations(batch.data()) == 0;
        if !is_empty {
            return Ok(Some((WalSeq(sequence), Bytes::copy_from_slice(batch.data()))));
        }
    }
    Ok(None)
}

impl Iterator for WalCommits {
    type Item = Result<CommitRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(commit) = self.read.pop_front() {
                return Some(Ok(commit));
            }
            if self.at >= self.until {
                return None;
            }
            if let Err(error) = self.read_batch() {
                self.at = self.until;
                return Some(Err(error));
            }
        }
    }
}

/// Bytes of a block. A log file consists of blocks, and a block of records; the rest of a block is zero. Source:
/// RocksDB's `db/log_format.h`.
const BLOCK: usize = 32 << 10;
/// Bytes of a record's head: crc u32, length u16, kind u8.
const RECORD_HEAD: usize = 7;
const RECORD_NONE: u8 = 0;
const RECORD_FULL: u8 = 1;
const RECORD_FIRST: u8 = 2;

#[derive(Debug)]
struct WalFile {
    number: u64,
    path: PathBuf,
    is_archived: bool,
}

/// Removes archived WAL files that hold nothing above `keep_after`. Returns the bytes freed.
///
/// A file ends where the next file that holds a batch begins; so the last file is never removed.
pub fn purge(wal_dir: &Path, keep_after: WalSeq) -> Result<u64> {
    let mut files = list(wal_dir, false)?;
    files.extend(list(&wal_dir.join("archive"), true)?);
    files.sort_by_key(|file| file.number);
    let mut freed = 0;
    // First sequence of the nearest later file that holds a batch.
    let mut next_start = None;
    let mut removable = Vec::new();
    for file in files.iter().rev() {
        let start = first_sequence(&file.path)?;
        let is_done = next_start.is_some_and(|next: WalSeq| next <= keep_after.next());
        if file.is_archived && is_done {
            removable.push(&file.path);
        }
        next_start = start.or(next_start);
    }
    for path in removable {
        freed += std::fs::metadata(path).map_or(0, |meta| meta.len());
        std::fs::remove_file(path).map_err(Error::io("remove", path))?;
    }
    Ok(freed)
}

/// Returns the sequence just below the oldest batch in the WAL files, or `None` if they hold no batch.
pub fn before_oldest(wal_dir: &Path) -> Result<Option<WalSeq>> {
    let mut oldest: Option<WalSeq> = None;
    // Live files are listed first: a file that RocksDB archives in between is found in the archive, too.
    for file in list(wal_dir, false)?.into_iter().chain(list(&wal_dir.join("archive"), true)?) {
        let first = first_sequence(&file.path)?;
        oldest = [oldest, first].into_iter().flatten().min();
    }
    Ok(oldest.map(|first| WalSeq(first.0.saturating_sub(1))))
}

/// Returns the bytes of all WAL files, archived ones included.
#[must_use]
pub fn bytes(wal_dir: &Path) -> u64 {
    let archived = list(&wal_dir.join("archive"), true).unwrap_or_default();
    let live = list(wal_dir, false).unwrap_or_default();
    archived.iter().chain(&live).filter_map(|file| std::fs::metadata(&file.path).ok()).map(|meta| meta.len()).sum()
}

fn list(dir: &Path, is_archived: bool) -> Result<Vec<WalFile>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let number = |path: &Path| path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(paths.filter_map(|path| Some(WalFile { number: number(&path)?, path, is_archived })).collect())
}

/// Syncs the files of a WAL that is not open.
///
/// A process that was killed leaves unsynced bytes in the page cache. When RocksDB opens, it flushes these bytes into
/// SST files, which are synced, and does not sync the WAL file itself. A power cut would then leave a database that is
/// ahead of its own log.
pub fn sync(wal_dir: &Path) -> Result<()> {
    let files = list(wal_dir, false)?;
    for WalFile { path, .. } in &files {
        File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path))?;
    }
    if files.is_empty() {
        return Ok(());
    }
    File::open(wal_dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync directory", wal_dir))
}

/// Cuts the files at `end`, where RocksDB ended its recovery. Returns the bytes cut off. To be called after an open,
/// before anything is written.
///
/// After a power cut a file may have a hole with whole batches after it. RocksDB drops those batches but leaves them
/// in the file. Its reader would find them before the new batches that get the same sequences.
pub fn cut_above(wal_dir: &Path, end: WalSeq) -> Result<u64> {
    let mut files = list(&wal_dir.join("archive"), true)?;
    files.extend(list(wal_dir, false)?);
    files.sort_by_key(|file| file.number);
    // RocksDB began the last file when it opened.
    files.pop();
    let mut dropped = 0;
    for WalFile { path, .. } in files.iter().rev() {
        let Some(offset) = first_above(path, end)? else {
            // A file before one that holds batches was recovered whole.
            if has_batches(path)? { break } else { continue }
        };
        let file = File::options().write(true).open(path).map_err(Error::io("open", path))?;
        dropped += file.metadata().map_err(Error::io("stat", path))?.len() - offset;
        file.set_len(offset).and_then(|()| file.sync_all()).map_err(Error::io("cut", path))?;
        tracing::warn!(file = %path.display(), offset, "batches after missing commits in RocksDB's WAL were removed");
    }
    Ok(dropped)
}

/// Returns the sequence of the first batch of a WAL file, or `None` if the file holds none or was moved in between.
fn first_sequence(path: &Path) -> Result<Option<WalSeq>> {
    heads(path, |_, head| Some(head.sequence))
}

fn has_batches(path: &Path) -> Result<bool> {
    Ok(heads(path, |_, head| (head.operations > 0).then_some(()))?.is_some())
}

/// Returns the offset of the first batch above `end` in a file. The file may be damaged.
fn first_above(path: &Path, end: WalSeq) -> Result<Option<u64>> {
    heads(path, |offset, head| (head.sequence > end && head.operations > 0).then_some(offset))
}

/// The first fields of a batch.
struct BatchHead {
    sequence: WalSeq,
    operations: u32,
}

/// Calls `answer` with the offset and the head of each batch of a WAL file until it returns a value. Bytes that do not
/// parse are skipped up to the next block, as RocksDB does; checksums are not checked. A missing file has no batches.
fn heads<T>(path: &Path, mut answer: impl FnMut(u64, BatchHead) -> Option<T>) -> Result<Option<T>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let mut block = Vec::with_capacity(BLOCK);
    // Offset and first bytes of a batch whose head continues in the next block.
    let mut begun: Option<(u64, Vec<u8>)> = None;
    for nth in 0_u64.. {
        block.clear();
        let length = file.by_ref().take(BLOCK as u64).read_to_end(&mut block).map_err(Error::io("read", path))?;
        let mut at = 0;
        while let Some((kind, payload)) = record_at(&block, at) {
            if kind == RECORD_FULL || kind == RECORD_FIRST {
                begun = Some((nth * BLOCK as u64 + at as u64, Vec::new()));
            }
            if let Some((offset, bytes)) = &mut begun {
                bytes.extend_from_slice(&payload[..payload.len().min(HEADER_LEN)]);
                if let Some((head, _)) = bytes.split_first_chunk::<HEADER_LEN>() {
                    let sequence = WalSeq(u64::from_le_bytes(head[..8].try_into().expect("eight bytes")));
                    let found = answer(*offset, BatchHead { sequence, operations: envelope::operations(head) });
                    if found.is_some() {
                        return Ok(found);
                    }
                    begun = None;
                }
            }
            at += RECORD_HEAD + payload.len();
        }
        if length < BLOCK {
            break;
        }
    }
    Ok(None)
}

/// Returns kind and payload of the log record at an offset of a block, or `None` if there is none.
fn record_at(block: &[u8], at: usize) -> Option<(u8, &[u8])> {
    let (head, rest) = block.get(at..)?.split_first_chunk::<RECORD_HEAD>()?;
    let payload = rest.get(..usize::from(u16::from_le_bytes([head[4], head[5]])))?;
    (head[6] != RECORD_NONE).then_some((head[6], payload))
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
