//! Brings the engines from a base, or from the empty state, to the target.
//!
//! The caller's thread unpacks chunks. One thread gathers their disk effects into sorted batches, one ingests full sorted
//! batches into RocksDB, and several change the keys in memory. The disk side and the memory side do not wait for each
//! other until the end. Guarantees: no effect beyond the target is written. The csn key in RocksDB is written once, at
//! the end. After a failure the directory must be discarded. Memory is bounded by [`CHUNKS_QUEUED_MAX`] chunks on each
//! side and two sorted batches.

use crate::csn::Csn;
use crate::engine::batch::{self, Family, HEADER_LEN};
use crate::engine::disk::Disk;
use crate::engine::key::CSN_KEY;
use crate::engine::memory::{self, Memory};
use crate::engine::sorted::{Bounds, SortedBatch};
use crate::error::{Error, Result};
use crate::history::step::ChunkStep;
use crate::history::unpack::{Unpacked, Unpacker};
use crate::log::recovery::disk_position;
use crate::position::Position;
use crate::record::CommitRecord;
use crate::threads::join;
use bytes::Bytes;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

/// Limit on the number of unpacked chunks that wait for one side.
const CHUNKS_QUEUED_MAX: usize = 2;

/// The engines of a directory during a restore.
pub(super) struct Engines {
    /// RocksDB, opened without compaction.
    pub disk: Disk,
    /// The keys in memory.
    pub memory: Memory,
    /// The last commit that every engine holds; the keys in memory hold no later commit.
    pub position: Position,
    /// RocksDB already holds the effects up to this csn, which lies above the position if RocksDB was cut later than
    /// the keys in memory. The disk side skips the commits up to this csn.
    pub disk_at: Csn,
    /// A directory beside RocksDB's, for files before their ingestion.
    pub scratch: PathBuf,
}

/// Counts of applied chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Applied {
    /// Number of chunks.
    pub chunks: u64,
    /// Number of commits.
    pub commits: u64,
    /// Bytes of the chunks before compression, including commits that were not used.
    pub raw_bytes: u64,
}

impl Applied {
    /// Adds the counts of a later call.
    pub(super) fn add(&mut self, later: Self) {
        self.chunks += later.chunks;
        self.commits += later.commits;
        self.raw_bytes += later.raw_bytes;
    }
}

/// How applying chunks ended.
pub(super) struct Ended {
    /// The applied commits.
    pub applied: Applied,
    /// The step that could not be fetched or read, and the error; the engines are before this step. `None` if all were
    /// applied.
    pub failed: Option<(ChunkStep, Error)>,
}

/// A chunk to apply: its step, its name for messages, and its bytes.
pub(super) type Arrival = (ChunkStep, String, Bytes);

impl Engines {
    /// Applies the chunks that `next` returns. Ends when `next` returns `None` or a chunk that could not be fetched or
    /// read. Passes each chunk's stored bytes to `applied`. After an error the engines must be discarded.
    pub(super) fn apply(
        &mut self,
        unpacker: &mut Unpacker,
        next: impl FnMut() -> Option<(ChunkStep, Result<Arrival>)>,
        applied: &(dyn Fn(u64) + Sync),
    ) -> Result<Ended> {
        let Self { disk, memory, position, disk_at, scratch } = self;
        let (disk, disk_at, scratch) = (&*disk, *disk_at, &**scratch);
        std::thread::scope(|scope| {
            let (to_disk, from_unpacker) = sync_channel(CHUNKS_QUEUED_MAX);
            let disk_side = scope.spawn(move || write_all(disk, disk_at, scratch, Bounds::default(), &from_unpacker));
            let (to_memory, from_unpacker) = sync_channel(CHUNKS_QUEUED_MAX);
            let memory_side = scope.spawn(move || change_all(memory, &from_unpacker));
            // Each side receives only the chunks that change it.
            let send = |unpacked: &Unpacked| {
                let commits = &unpacked.commits;
                (!commits.iter().any(CommitRecord::touches_disk) || to_disk.send(unpacked.clone()).is_ok())
                    && (!commits.iter().any(CommitRecord::touches_memory) || to_memory.send(unpacked.clone()).is_ok())
            };
            let outcome = unpack_all(unpacker, next, position, |unpacked, stored| {
                let is_taken = send(unpacked);
                applied(stored);
                is_taken
            });
            drop((to_disk, to_memory));
            // A side that fails stops receiving, so its error is the cause of all later errors.
            join(disk_side)?;
            join(memory_side)?;
            Ok(outcome)
        })
    }

    /// Writes the position to RocksDB if necessary, makes RocksDB durable, and checks its position.
    pub(super) fn finish(&mut self) -> Result<()> {
        if disk_position(&self.disk)? != self.position {
            let mut batch = vec![0; HEADER_LEN];
            batch::push_put(&mut batch, Family::Default, CSN_KEY, &self.position.encode());
            batch[8..HEADER_LEN].copy_from_slice(&1u32.to_le_bytes());
            self.disk.write(&batch, false)?;
        }
        self.disk.flush()?;
        let found = disk_position(&self.disk)?;
        if found == self.position {
            return Ok(());
        }
        let detail = format!("the image is at csn {}, but the restore is at csn {}", found.csn, self.position.csn);
        Err(Error::corrupt("RocksDB", "the csn key", detail))
    }
}

/// Applies the commits of a base's completion, which change the keys in memory only; returns the csn of the last one.
pub(super) fn complete(
    memory: &Memory,
    commits: impl Iterator<Item = Result<CommitRecord>>,
    after: Csn,
) -> Result<Csn> {
    let mut last = after;
    for commit in commits {
        let commit = commit?;
        if commit.csn != last.next() || commit.touches_disk() {
            let detail = format!("csn {} with {} disk operations after csn {last}", commit.csn, commit.disk_ops);
            return Err(Error::corrupt("a base's completion", format!("csn {}", commit.csn), detail));
        }
        memory.apply_commit(&commit)?;
        last = commit.csn;
    }
    Ok(last)
}

/// Unpacks chunks until `next` returns `None`, a chunk cannot be unpacked, or `take` returns false.
fn unpack_all(
    unpacker: &mut Unpacker,
    mut next: impl FnMut() -> Option<(ChunkStep, Result<Arrival>)>,
    position: &mut Position,
    mut take: impl FnMut(&Unpacked, u64) -> bool,
) -> Ended {
    let mut applied = Applied::default();
    while let Some((step, arrival)) = next() {
        let unpacked = arrival.and_then(|(step, what, bytes)| {
            let stored = bytes.len() as u64;
            unpacker.unpack(step, bytes, &what).map(|unpacked| (unpacked, stored))
        });
        let (unpacked, stored) = match unpacked {
            Ok(unpacked) => unpacked,
            Err(error) => return Ended { applied, failed: Some((step, error)) },
        };
        applied.chunks += 1;
        applied.commits += unpacked.commits.len() as u64;
        applied.raw_bytes += unpacked.raw_bytes;
        *position = end_of(&unpacked);
        if !take(&unpacked, stored) {
            break;
        }
    }
    Ended { applied, failed: None }
}

fn end_of(unpacked: &Unpacked) -> Position {
    Position::of(unpacked.commits.last().expect("a step has commits"))
}

/// Gathers the effects above `disk_at` into sorted batches and ingests these one after another.
fn write_all(disk: &Disk, disk_at: Csn, scratch: &Path, bounds: Bounds, chunks: &Receiver<Unpacked>) -> Result<()> {
    std::fs::create_dir_all(scratch).map_err(Error::io("create", scratch))?;
    std::thread::scope(|scope| {
        let (to_rocksdb, full) = sync_channel::<SortedBatch>(0);
        let ingesting = scope
            .spawn(move || full.into_iter().zip(0..).try_for_each(|(batch, nth)| batch.ingest(disk, scratch, nth)));
        let outcome = gather_all(chunks, disk_at, SortedBatch::within(bounds), |batch| to_rocksdb.send(batch).is_ok());
        drop(to_rocksdb);
        // The ingesting thread stops receiving when it fails, so its error is the cause.
        join(ingesting)?;
        outcome
    })
}

/// Gathers sorted batches, beginning with the empty `batch`, until `chunks` ends or `take` returns false.
fn gather_all(
    chunks: &Receiver<Unpacked>,
    disk_at: Csn,
    mut batch: SortedBatch,
    mut take: impl FnMut(SortedBatch) -> bool,
) -> Result<()> {
    for chunk in chunks {
        for commit in chunk.commits.iter().filter(|commit| commit.touches_disk() && commit.csn > disk_at) {
            batch.push(&commit.disk, commit.disk_ops).map_err(|error| at_commit(&chunk, commit.csn, &error))?;
            if batch.is_full() && !take(batch.take()) {
                return Ok(());
            }
        }
    }
    if !batch.is_empty() {
        take(batch);
    }
    Ok(())
}

fn change_all(memory: &Memory, chunks: &Receiver<Unpacked>) -> Result<()> {
    memory::replay(memory, chunks.iter()).map_err(|misfit| at_commit(&misfit.batch, misfit.csn, &misfit.error))
}

fn at_commit(chunk: &Unpacked, csn: Csn, error: &Error) -> Error {
    Error::corrupt(&*chunk.what, format!("csn {csn}"), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::disk::DiskOptions;
    use crate::log::testing::on_disk;
    use std::sync::Arc;

    fn open(dir: &Path) -> Disk {
        let options = DiskOptions { compaction: false, ..DiskOptions::default() };
        Disk::open(&dir.join("db"), &dir.join("wal"), options).unwrap()
    }

    /// Goal: commits that take many sorted batches leave the rows that their single writes leave, without the commits that
    /// RocksDB holds already.
    #[test]
    fn many_sorted_batches_lead_where_single_writes_lead() {
        let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let disk = open(dir.path());
        let (to_disk, chunks) = sync_channel(100);
        let commit = |csn: u64| {
            let mut commit = on_disk(csn);
            let mut operations = commit.disk.to_vec();
            let row = format!("row {}", csn % 7);
            batch::push_put(&mut operations, Family::Sub, row.as_bytes(), &csn.to_be_bytes());
            (commit.disk, commit.disk_ops) = (operations.into(), 2);
            commit
        };
        for first in (1..=90).step_by(9) {
            let commits = Arc::new((first..first + 9).map(commit).collect());
            to_disk.send(Unpacked { what: "a chunk".into(), commits, raw_bytes: 0 }).unwrap();
        }
        drop(to_disk);
        let bounds = Bounds { bytes_max: 400, parallel_min: 4 };
        write_all(&disk, Csn(3), scratch.path(), bounds, &chunks).unwrap();
        for row in 0..7u64 {
            let last = (4..=90).filter(|csn| csn % 7 == row).max().unwrap();
            let found = disk.get(Family::Sub, format!("row {row}").as_bytes()).unwrap();
            assert_eq!(found.as_deref(), Some(&last.to_be_bytes()[..]));
        }
    }
}
