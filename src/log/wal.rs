//! Reading commits back out of RocksDB's WAL, and removing WAL files nobody needs any more.
//!
//! Guarantees: commits come without a hole in RocksDB's sequence, or there is an error; RocksDB itself skips purged
//! files silently and ends on an error as if at the tail. For catch-up and recovery only: each reader decodes the
//! file it starts in from that file's beginning.

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

/// Commits of the WAL with sequences in a range.
pub struct WalCommits {
    disk: Arc<Disk>,
    iterator: Option<rocksdb::DBWALIterator>,
    /// Last sequence read.
    at: WalSeq,
    /// Sequence to read up to.
    until: WalSeq,
    read: VecDeque<CommitRecord>,
}

impl std::fmt::Debug for WalCommits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalCommits").field("at", &self.at).field("until", &self.until).finish_non_exhaustive()
    }
}

impl WalCommits {
    /// The commits whose batches lie above `after` up to and including `until`. Both must be ends of batches, and
    /// `until` must have been written before the call.
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

    /// The iterator cannot resume at the tail, so a new one is made; it must bring the next batch.
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

/// The iterator's next batch with commits in it, and its sequence; `None` at the end and after an error.
fn next_batch(iterator: &mut rocksdb::DBWALIterator) -> Result<Option<(WalSeq, Bytes)>> {
    for next in iterator {
        let (sequence, batch) = next.map_err(Error::rocks("read its WAL"))?;
        if batch.data().len() < HEADER_LEN {
            return Err(Error::corrupt("RocksDB's WAL", sequence, "batch without a header"));
        }
        // RocksDB puts an empty batch at the start of the file it begins after one that ended torn.
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

/// A log file is blocks of this size, a block is records, what is left of it is zero (`db/log_format.h`).
const BLOCK: usize = 32 << 10;
/// A record's head: crc u32, length u16, kind u8.
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

/// Removes archived WAL files that hold nothing above `keep_after`; returns how many bytes that freed.
///
/// A file ends where the next one that holds anything begins; the last file is never removed.
pub fn purge(wal_dir: &Path, keep_after: WalSeq) -> Result<u64> {
    let mut files = list(wal_dir, false)?;
    files.extend(list(&wal_dir.join("archive"), true)?);
    files.sort_by_key(|file| file.number);
    let mut freed = 0;
    // Start of the oldest file behind the one looked at that holds anything.
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

/// The position right below the oldest batch that the WAL files still hold; `None` if they hold none.
pub fn before_oldest(wal_dir: &Path) -> Result<Option<WalSeq>> {
    let mut oldest: Option<WalSeq> = None;
    // The live files first: one that is archived meanwhile is found in the archive, too.
    for file in list(wal_dir, false)?.into_iter().chain(list(&wal_dir.join("archive"), true)?) {
        let first = first_sequence(&file.path)?;
        oldest = [oldest, first].into_iter().flatten().min();
    }
    Ok(oldest.map(|first| WalSeq(first.0.saturating_sub(1))))
}

/// Bytes of all WAL files, archived ones included.
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

/// Makes the files of a WAL that is not open durable.
///
/// A process that was killed left what it had not synced in the page cache. RocksDB builds upon it when it opens: it
/// flushes it into SST files, which are synced, and never syncs the file itself any more. A power cut would then leave
/// a database that is ahead of its own log.
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

/// Makes the files end where RocksDB ended its recovery, at `end`; returns how many bytes that cut off. Only after an
/// open, before anything is written.
///
/// After a power cut a file may have a hole with whole batches behind it. RocksDB drops those, but leaves them in the
/// file, where its reader would meet them before the new batches that were given their sequences.
pub fn cut_above(wal_dir: &Path, end: WalSeq) -> Result<u64> {
    let mut files = list(&wal_dir.join("archive"), true)?;
    files.extend(list(wal_dir, false)?);
    files.sort_by_key(|file| file.number);
    // RocksDB has just begun the last one.
    files.pop();
    let mut dropped = 0;
    for WalFile { path, .. } in files.iter().rev() {
        let Some(offset) = first_above(path, end)? else {
            // What lies before a file that holds something was recovered whole.
            if has_batches(path)? { break } else { continue }
        };
        let file = File::options().write(true).open(path).map_err(Error::io("open", path))?;
        dropped += file.metadata().map_err(Error::io("stat", path))?.len() - offset;
        file.set_len(offset).and_then(|()| file.sync_all()).map_err(Error::io("cut", path))?;
        tracing::warn!(file = %path.display(), offset, "batches behind a hole in RocksDB's WAL were cut off");
    }
    Ok(dropped)
}

/// Sequence of the first batch of a WAL file; `None` if it holds none (or was moved meanwhile).
fn first_sequence(path: &Path) -> Result<Option<WalSeq>> {
    heads(path, |_, head| Some(head.sequence))
}

fn has_batches(path: &Path) -> Result<bool> {
    Ok(heads(path, |_, head| (head.operations > 0).then_some(()))?.is_some())
}

/// Offset of the first batch above `end` in a file, whatever state the file is in.
fn first_above(path: &Path, end: WalSeq) -> Result<Option<u64>> {
    heads(path, |offset, head| (head.sequence > end && head.operations > 0).then_some(offset))
}

/// What a batch begins with.
struct BatchHead {
    sequence: WalSeq,
    operations: u32,
}

/// Looks at the batches of a WAL file with their offsets until one brings an answer. What does not parse is passed
/// over up to the next block, as RocksDB does; checksums are not looked at. A file that is not there has no batches.
fn heads<T>(path: &Path, mut answer: impl FnMut(u64, BatchHead) -> Option<T>) -> Result<Option<T>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let mut block = Vec::with_capacity(BLOCK);
    // Offset and first bytes of a batch whose head goes on in the next block.
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

/// Kind and payload of the log record at an offset of a block; `None` if there is none.
fn record_at(block: &[u8], at: usize) -> Option<(u8, &[u8])> {
    let (head, rest) = block.get(at..)?.split_first_chunk::<RECORD_HEAD>()?;
    let payload = rest.get(..usize::from(u16::from_le_bytes([head[4], head[5]])))?;
    (head[6] != RECORD_NONE).then_some((head[6], payload))
}

#[cfg(test)]
#[path = "wal_tests.rs"]
mod tests;
