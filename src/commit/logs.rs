//! Both logs, as groups are written to them: by one thread at a time, in csn order.
//!
//! Guarantees: csns are dense over all groups. A group's frames are in the op-log before its batch is in RocksDB's
//! WAL.

use crate::csn::WalSeq;
use crate::engine::disk::Disk;
use crate::error::Result;
use crate::log::envelope;
use crate::log::oplog::OpLog;
use crate::position::Position;
use crate::record::CommitRecord;
use std::ops::Range;

/// The state under the logs' lock.
pub(super) struct Logs {
    pub oplog: OpLog,
    /// Position of the last commit written.
    pub position: Position,
    /// Sequence at the end of the WAL.
    pub wal_seq: WalSeq,
}

/// How the row cache treats the rows that commits change.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// The new rows are cached: a client that writes a key on this node is likely to read it here.
    Store,
    /// The changed rows are dropped from the cache: few rows are read on a replica.
    Forget,
}

/// The additions to the logs by the write of a group.
#[derive(Clone, Copy)]
pub(super) struct Logged {
    pub oplog_bytes: usize,
    /// Whether RocksDB's WAL got a batch.
    pub wal: bool,
}

impl Logs {
    /// Writes commits that follow the last one. The op-log is written first: if that fails, nothing has reached
    /// RocksDB, whose write cannot be undone. `superseded`: see [`envelope::assemble`].
    ///
    /// # Panics
    /// If csns are not dense: a commit was lost before the write, and nothing after it may be acknowledged.
    pub(super) fn write(
        &mut self,
        disk: &Disk,
        commits: &[CommitRecord],
        superseded: &[Range<usize>],
        rows: Rows,
    ) -> Result<Logged> {
        let mut expected = self.position.csn;
        for commit in commits {
            expected = expected.next();
            assert_eq!(commit.csn, expected, "commits are logged in dense csn order");
        }
        let oplog_bytes = self.oplog.append(commits)?;
        let last = commits.last().expect("a group is never empty");
        let position = Position::of(last);
        let Some(batch) = envelope::assemble(commits, superseded) else {
            self.position = position;
            return Ok(Logged { oplog_bytes, wal: false });
        };
        let expected = self.wal_seq.0 + u64::from(envelope::operations(&batch));
        let publication = disk.rows().publish();
        disk.write_and_free(batch)?;
        if matches!(rows, Rows::Store) && commits.len() > 1 {
            publication.fetch(commits.iter().map(|commit| &*commit.disk));
        }
        for commit in commits {
            match rows {
                Rows::Store => publication.store(commit.csn, &commit.disk)?,
                Rows::Forget => publication.forget(&commit.disk)?,
            }
        }
        drop(publication);
        self.wal_seq = disk.wal_seq();
        assert_eq!(self.wal_seq.0, expected, "nothing but the committer may write to RocksDB");
        self.position = position;
        Ok(Logged { oplog_bytes, wal: true })
    }
}
