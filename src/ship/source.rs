//! The source of commits for the cutter and the feeds: the ring, or the two logs if the ring does not reach back far
//! enough.
//!
//! Guarantees: commits come in dense csn order, and only as far as the durability mode allows to ship them. A position
//! that neither the ring nor the logs reach is a gap error, never a silent skip.

use super::tail::{Slice, Tail};
use crate::chunk::RAW_BYTES_MAX;
use crate::commit::committer::Committer;
use crate::csn::{CommitTime, Csn, HistoryHash};
use crate::error::Result;
use crate::log::reader::LogCursor;
use crate::position::Position;
use std::sync::Arc;

/// Bytes that are read from the logs at a time. Opening the logs costs a pass over the first WAL file.
const LOG_READ_BYTES_MAX: usize = 8 * RAW_BYTES_MAX;

/// Relation of a position on another node to this node's history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Continuity {
    /// This node's history contains the position.
    Same,
    /// This node has other commits up to that csn.
    Other,
    /// The position lies beyond this node's last commit.
    Ahead,
    /// The logs do not hold the commit after the position, so that its history hash cannot be checked.
    Unknown,
}

/// Reads commits for shipping.
#[derive(Clone)]
pub struct CommitSource {
    committer: Arc<Committer>,
    tail: Arc<Tail>,
}

impl CommitSource {
    /// Makes a source over this node's ring and logs.
    #[must_use]
    pub fn new(committer: Arc<Committer>, tail: Arc<Tail>) -> Self {
        Self { committer, tail }
    }

    /// Returns the highest csn that may be shipped at this moment.
    #[must_use]
    pub fn shippable(&self) -> Csn {
        self.committer.syncer.shippable()
    }

    /// Returns the position of this node's last commit.
    #[must_use]
    pub fn position(&self) -> Position {
        self.committer.position()
    }

    /// Returns the time that a commit made at this moment would have.
    #[must_use]
    pub fn now(&self) -> CommitTime {
        self.committer.clock.now()
    }

    /// Returns the ring, to wait for commits.
    #[must_use]
    pub fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Reports whether the ring holds the commit after `after`, or no commit may be shipped after it: then a read does
    /// not touch the logs.
    #[must_use]
    pub fn is_in_ring(&self, after: Csn) -> bool {
        after >= self.shippable() || self.tail.read(after, after.next(), 1).is_some()
    }

    /// Reports whether the ring or the logs hold the commit after `after`. May read a part of the logs.
    pub fn reaches(&self, after: Csn) -> Result<bool> {
        if self.is_in_ring(after) {
            return Ok(true);
        }
        self.committer.first_after(after).map(|next| next.is_some())
    }

    /// Compares the state after commit `csn`, with this history hash, with this node's history. May read a part of the
    /// logs.
    pub fn compare(&self, csn: Csn, hash: HistoryHash) -> Result<Continuity> {
        let position = self.committer.position();
        if csn > position.csn {
            return Ok(Continuity::Ahead);
        }
        let same = |is_same| if is_same { Continuity::Same } else { Continuity::Other };
        if csn == position.csn {
            return Ok(same(hash == position.hash));
        }
        let in_ring = self.tail.read(csn, csn.next(), 1).and_then(|slice| slice.commits.into_iter().next());
        let next = match in_ring {
            Some(next) => Some(next),
            None => self.committer.first_after(csn)?,
        };
        Ok(next.map_or(Continuity::Unknown, |next| same(next.hash_after(hash) == next.hash)))
    }

    /// Reads the commits that follow `after`, in slices of about one chunk each; the result is empty if there are
    /// none. `after.wal_seq` may be lower than necessary. A read from the logs returns several slices at once. Blocks.
    pub fn read(&self, after: LogCursor) -> Result<Vec<Slice>> {
        let until = self.shippable();
        if after.csn >= until {
            return Ok(Vec::new());
        }
        match self.tail.read(after.csn, until, RAW_BYTES_MAX) {
            Some(slice) if slice.commits.is_empty() => Ok(Vec::new()),
            Some(slice) => Ok(vec![slice]),
            None => self.read_logs(after, until),
        }
    }

    fn read_logs(&self, after: LogCursor, until: Csn) -> Result<Vec<Slice>> {
        let known = self.committer.log_cursor(after.csn)?;
        let from = LogCursor { csn: after.csn, wal_seq: known.wal_seq.max(after.wal_seq) };
        let (reader, end) = self.committer.log_reader();
        let mut slices = Vec::new();
        let (mut slice, mut bytes, mut total) = (Slice::default(), 0, 0);
        for commit in reader.commits(from, end)? {
            let commit = commit?;
            if commit.csn > until || total >= LOG_READ_BYTES_MAX {
                break;
            }
            if slice.commits.last().is_some_and(|last| commit.time < last.time) {
                slices.push(std::mem::take(&mut slice));
                bytes = 0;
            }
            bytes += commit.effect_bytes();
            total += commit.effect_bytes();
            slice.commits.push(commit);
            if bytes >= RAW_BYTES_MAX {
                slices.push(std::mem::take(&mut slice));
                bytes = 0;
            }
        }
        if !slice.commits.is_empty() {
            slices.push(slice);
        }
        for slice in &mut slices {
            // The exact WAL range of a slice is unknown here. A lower position finds the same commits.
            (slice.wal_before, slice.wal_after) = (from.wal_seq, from.wal_seq);
            if let Some(last) = slice.last() {
                slice.wal_after = self.committer.log_cursor(last)?.wal_seq.max(from.wal_seq);
            }
        }
        Ok(slices)
    }
}
