//! Reads both logs as one: the commits of a range in dense csn order.
//!
//! Guarantees: every commit of the range comes once and whole, or there is an error that names the first missing one.
//! A cross-engine commit is whole in both logs. The reader takes it from the op-log: a recovery that lost commits may
//! have left out memory ops of the commit, and only the op-log records that.

use super::oplog_reader::{self, OpLogReader};
use super::wal::WalCommits;
use crate::csn::{Csn, HistoryHash, WalSeq};
use crate::engine::disk::Disk;
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use std::iter::Peekable;
use std::sync::Arc;

/// The place from which a reader continues in both logs: the WAL holds all commits up to `csn` at or below `wal_seq`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogCursor {
    /// Csn of the last commit that was read.
    pub csn: Csn,
    /// End of a WAL batch: reading after it finds every commit above `csn`.
    pub wal_seq: WalSeq,
}

/// Opens both logs of one data directory for reading.
#[derive(Clone, Debug)]
pub struct LogReader {
    disk: Arc<Disk>,
    oplog: OpLogReader,
}

impl LogReader {
    /// Makes a reader of these two logs.
    #[must_use]
    pub fn new(disk: Arc<Disk>, oplog: OpLogReader) -> Self {
        Self { disk, oplog }
    }

    /// Reads the commits above `after`, up to and including `until`, which must have been committed before the call.
    /// `after.wal_seq` may be lower than necessary.
    pub fn commits(&self, after: LogCursor, until: LogCursor) -> Result<Merged> {
        let wal = WalCommits::new(&self.disk, after.wal_seq, until.wal_seq);
        Ok(Merged {
            wal: wal.peekable(),
            oplog: self.oplog.commits(after.csn, until.csn)?.peekable(),
            last: after.csn,
            hash: None,
            until: until.csn,
        })
    }
}

/// Iterator over the commits of both logs.
#[derive(Debug)]
pub struct Merged {
    wal: Peekable<WalCommits>,
    oplog: Peekable<oplog_reader::Commits>,
    last: Csn,
    /// History hash after `last`; `None` before the first commit was read.
    hash: Option<HistoryHash>,
    until: Csn,
}

impl Merged {
    fn take_next(&mut self) -> Result<CommitRecord> {
        let wanted = self.last.next();
        while self.wal.next_if(|commit| commit.as_ref().is_ok_and(|c| c.csn < wanted)).is_some() {}
        let is_wanted = |commit: &Result<CommitRecord>| commit.as_ref().map_or(true, |c| c.csn == wanted);
        let from_wal = self.wal.next_if(is_wanted).transpose()?;
        let from_oplog = self.oplog.next_if(is_wanted).transpose()?;
        if let Some(commit) = from_oplog.or(from_wal) {
            if let Some(hash) = self.hash {
                commit.require_continues(hash, "a commit in the logs")?;
            }
            (self.last, self.hash) = (wanted, Some(commit.hash));
            return Ok(commit);
        }
        let later = [self.wal.peek(), self.oplog.peek()].into_iter().flatten().flatten().map(|c| c.csn).min();
        let found = later.map_or_else(|| "the end".to_owned(), |csn| csn.to_string());
        Err(Error::Gap { what: "the logs".into(), expected: wanted, found })
    }
}

impl Iterator for Merged {
    type Item = Result<CommitRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.last >= self.until {
            return None;
        }
        let commit = self.take_next();
        if commit.is_err() {
            self.last = self.until;
        }
        Some(commit)
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
