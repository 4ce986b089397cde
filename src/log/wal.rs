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
        let (sequence, batch) = match self.iterator.as_mut().and_then(Iterator::next) {
            Some(next) => next.map_err(Error::rocks("read its WAL"))?,
            None => self.reopen()?,
        };
        if sequence != self.at.next().0 {
            return Err(self.gap(format!("sequence {sequence}: WAL files were removed")));
        }
        let bytes = Bytes::copy_from_slice(batch.data());
        if bytes.len() < HEADER_LEN {
            return Err(Error::corrupt("RocksDB's WAL", sequence, "batch without a header"));
        }
        self.at = WalSeq(self.at.0 + u64::from(envelope::operations(&bytes)));
        self.read.extend(envelope::disassemble(&bytes)?);
        Ok(())
    }

    /// The iterator cannot resume at the tail, so a new one is made; it must bring the next batch.
    fn reopen(&mut self) -> Result<(u64, rocksdb::WriteBatch)> {
        let mut iterator = self.disk.db().get_updates_since(self.at.0).map_err(Error::rocks("open its WAL"))?;
        let next = iterator.next();
        let batch = match next {
            Some(batch) => batch.map_err(Error::rocks("read its WAL"))?,
            None => {
                iterator.status().map_err(Error::rocks("read its WAL"))?;
                return Err(self.gap(format!("the end, although sequence {} was written", self.until)));
            }
        };
        self.iterator = Some(iterator);
        Ok(batch)
    }
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

/// Log file header: crc u32, length u16, type u8.
const RECORD_HEAD: usize = 7;
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

/// Sequence of the first batch of a WAL file; `None` if it holds none (or was moved meanwhile).
fn first_sequence(path: &Path) -> Result<Option<WalSeq>> {
    let mut head = [0; 512];
    let length = match std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut head)) {
        Ok(length) => length,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut rest = &head[..length];
    while rest.len() >= RECORD_HEAD + 8 {
        let record_len = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
        match rest[6] {
            RECORD_FULL | RECORD_FIRST => {
                let sequence = rest[RECORD_HEAD..RECORD_HEAD + 8].try_into().expect("eight bytes");
                return Ok(Some(WalSeq(u64::from_le_bytes(sequence))));
            }
            _ => rest = rest.get(RECORD_HEAD + record_len..).unwrap_or_default(),
        }
    }
    Ok(None)
}
