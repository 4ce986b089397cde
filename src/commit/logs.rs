//! Both logs, as groups are written to them: by one thread at a time, in csn order.
//!
//! Guarantees: csns are dense over all groups; a group's frames are in the op-log before its batch is in RocksDB's WAL.

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
    /// The last commit written.
    pub position: Position,
    /// End of the WAL.
    pub wal_seq: WalSeq,
}

/// What becomes of cached rows that commits change.
#[derive(Clone, Copy)]
pub(super) enum Rows {
    /// They are kept as they are now: who writes a key here is likely to read it here.
    Store,
    /// They are dropped: on a replica few rows are read.
    Forget,
}

/// What a group brought into the logs.
#[derive(Clone, Copy)]
pub(super) struct Logged {
    pub oplog_bytes: usize,
    /// Whether RocksDB's WAL got a batch.
    pub wal: bool,
}

impl Logs {
    /// Writes commits that follow the last one. The op-log first: while it fails nothing has reached RocksDB, whose
    /// write cannot be undone. `superseded`: see [`envelope::assemble`].
    ///
    /// # Panics
    /// If csns are not dense: a commit was lost on its way here, and nothing behind it may be acknowledged.
    pub fn write(
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
