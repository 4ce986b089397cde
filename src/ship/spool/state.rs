//! State of the spool: its chunks, and what each archive lacks. Pure.

use crate::archive::layout::ChunkName;
use crate::chunk::ChunkHeader;
use crate::csn::{CommitTime, Csn};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// State of the second archive in the spool. Empty without a second archive.
#[derive(Default)]
pub(super) struct Kept {
    /// All chunks after this csn are kept; `None` without a second archive, and after a drop.
    pub after: Option<Csn>,
    /// Notified for each sealed chunk.
    pub wake: Option<Arc<Notify>>,
    /// Number of times that a backlog was dropped.
    pub drops: watch::Sender<u64>,
}

/// A chunk in the spool.
pub(super) struct Entry {
    pub name: ChunkName,
    /// Time of the first commit.
    pub time: CommitTime,
    /// Time of the last commit.
    pub last_time: CommitTime,
    /// Length of the file.
    pub bytes: u64,
}

/// The chunks in the spool, and how far the archives have come.
#[derive(Default)]
pub(super) struct State {
    /// Chunks by their last csn.
    pub chunks: BTreeMap<Csn, Entry>,
    /// Last commit that the archive has.
    pub archived: Csn,
    /// Time of the commit `archived`; `None` if it is not known.
    pub archived_time: Option<CommitTime>,
    /// The chunks that are kept for the second archive.
    pub kept: Kept,
}

impl State {
    /// Returns the bytes of the chunks that wait for the archive.
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.chunks.range(self.archived.next()..).map(|(_, entry)| entry.bytes).sum()
    }

    /// Returns the last commit that chunks reach from `after` without a gap, each chunk continuing the history of the
    /// one before.
    pub(super) fn continued(&self, after: Csn, headers: &BTreeMap<Csn, ChunkHeader>) -> Csn {
        let (mut reached, mut hash) = (after, None);
        for (last, entry) in self.chunks.range(after.next()..) {
            let header = &headers[last];
            let is_next = entry.name.first == reached.next();
            let is_other = is_next && hash.is_some_and(|hash| hash != header.hash_before);
            if entry.name.first > reached.next() || is_other {
                break;
            }
            (reached, hash) = (*last, Some(header.hash_after));
        }
        reached
    }

    /// Returns the bytes of the chunks that the first archive has and the second one lacks.
    pub(super) fn kept_bytes(&self) -> u64 {
        let Some(after) = self.kept.after.filter(|after| *after < self.archived) else { return 0 };
        self.chunks.range(after.next()..=self.archived).map(|(_, entry)| entry.bytes).sum()
    }

    /// Returns the last commit that the chunks reach from `after` without a gap.
    pub(super) fn reachable(&self, after: Csn) -> Csn {
        self.chunks.values().fold(after, |reached, entry| {
            if entry.name.first <= reached.next() { reached.max(entry.name.last) } else { reached }
        })
    }

    /// Returns what waits for an archive that has every commit up to `after`.
    pub(super) fn status_after(&self, after: Csn) -> SpoolStatus {
        let waiting = self.chunks.range(after.next()..);
        let empty = SpoolStatus::default();
        waiting.fold(empty, |status, (_, entry)| SpoolStatus {
            chunks: status.chunks + 1,
            bytes: status.bytes + entry.bytes,
            ..status
        })
    }
}

/// The amount of chunks that wait in the spool for an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpoolStatus {
    /// Number of chunks that the archive does not have.
    pub chunks: usize,
    /// Bytes of the chunks that the archive does not have.
    pub bytes: u64,
    /// Time of the last archived commit; `None` if none was archived since the start.
    pub archived_time: Option<CommitTime>,
}
