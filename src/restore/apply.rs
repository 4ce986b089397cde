//! Bringing the engines from a base, or from nothing, to the target.
//!
//! The caller's thread unpacks chunks, one gathers their disk effects in sorted runs, one brings full runs into RocksDB,
//! some change the memory engines; the two sides need nothing from each other until the end. Guarantees: nothing is
//! written beyond the target; the csn key moves once, at the end; whatever fails leaves a directory that is to be thrown
//! away. Memory is bounded by [`CHUNKS_QUEUED_MAX`] chunks on each side and two runs.

use crate::csn::Csn;
use crate::engine::batch::{self, Family, HEADER_LEN};
use crate::engine::disk::Disk;
use crate::engine::key::CSN_KEY;
use crate::engine::memory::{self, Memory};
use crate::engine::sorted::SortedRun;
use crate::error::{Error, Result};
use crate::history::plan::ChunkStep;
use crate::history::unpack::{Unpacked, Unpacker};
use crate::log::recovery::disk_position;
use crate::position::Position;
use crate::record::CommitRecord;
use crate::threads::join;
use bytes::Bytes;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

/// Unpacked chunks that may wait for one side.
pub const CHUNKS_QUEUED_MAX: usize = 2;

/// The engines of a directory that is being restored.
pub struct Engines {
    /// RocksDB, opened without compaction.
    pub disk: Disk,
    /// Lists and sorted sets.
    pub memory: Memory,
    /// The last commit that every engine holds, and the last one that the memory engines hold.
    pub position: Position,
    /// The last commit of which RocksDB holds the effects: above the position if it was cut later. It skips what it has.
    pub disk_at: Csn,
    /// A directory beside RocksDB's, for files on their way into it.
    pub scratch: PathBuf,
}

/// What was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Applied {
    /// Chunks.
    pub chunks: u64,
    /// Commits.
    pub commits: u64,
    /// Bytes of their chunks before compression, unused commits included.
    pub raw_bytes: u64,
}

impl Applied {
    /// Adds what was applied later.
    pub fn add(&mut self, later: Self) {
        self.chunks += later.chunks;
        self.commits += later.commits;
        self.raw_bytes += later.raw_bytes;
    }
}

/// How applying chunks ended.
pub struct Ended {
    /// What was applied.
    pub applied: Applied,
    /// The step that could not be had or read, and why; the engines stand before it. None: all were applied.
    pub failed: Option<(ChunkStep, Error)>,
}

/// A chunk to apply: its step, its name for messages, its bytes.
pub type Arrival = (ChunkStep, String, Bytes);

impl Engines {
    /// Applies chunks as `next` gives them, until it gives none, or one that cannot be had or read. `applied` is told each
    /// chunk's stored bytes. After an error the engines are to be thrown away.
    pub fn apply(
        &mut self,
        unpacker: &mut Unpacker,
        next: impl FnMut() -> Option<(ChunkStep, Result<Arrival>)>,
        applied: &(dyn Fn(u64) + Sync),
    ) -> Result<Ended> {
        let Self { disk, memory, position, disk_at, scratch } = self;
        let (disk, disk_at, scratch) = (&*disk, *disk_at, &**scratch);
        std::thread::scope(|scope| {
            let (to_disk, from_unpacker) = sync_channel(CHUNKS_QUEUED_MAX);
            let disk_side = scope.spawn(move || write_all(disk, disk_at, scratch, &from_unpacker));
            let (to_memory, from_unpacker) = sync_channel(CHUNKS_QUEUED_MAX);
            let memory_side = scope.spawn(move || change_all(memory, &from_unpacker));
            // A chunk that changes one side only is no work for the other.
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
            // A side that failed stops listening, so its error is the cause of whatever followed.
            join(disk_side)?;
            join(memory_side)?;
            Ok(outcome)
        })
    }

    /// Makes RocksDB durable and whole at the position, whatever touched it last, and checks it.
    pub fn finish(&mut self) -> Result<()> {
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
        let detail = format!("it is at csn {}, the restore at csn {}", found.csn, self.position.csn);
        Err(Error::corrupt("RocksDB", "the csn key", detail))
    }
}

/// Applies the commits of a base's completion, which touch the memory engines only; gives the last one's csn.
pub fn complete(memory: &mut Memory, commits: impl Iterator<Item = Result<CommitRecord>>, after: Csn) -> Result<Csn> {
    let mut last = after;
    for commit in commits {
        let commit = commit?;
        if commit.csn != last.next() || commit.touches_disk() {
            let detail = format!("csn {} with {} disk operations after csn {last}", commit.csn, commit.disk_ops);
            return Err(Error::corrupt("a base's completion", format!("csn {}", commit.csn), detail));
        }
        memory.apply(&commit)?;
        last = commit.csn;
    }
    Ok(last)
}

/// Unpacks until there is nothing more, something cannot be unpacked, or `take` refuses.
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

/// Gathers runs of what lies above `disk_at` and has them ingested one after another.
fn write_all(disk: &Disk, disk_at: Csn, scratch: &Path, chunks: &Receiver<Unpacked>) -> Result<()> {
    std::fs::create_dir_all(scratch).map_err(Error::io("create", scratch))?;
    std::thread::scope(|scope| {
        let (to_rocksdb, full) = sync_channel::<SortedRun>(0);
        let ingesting =
            scope.spawn(move || full.into_iter().zip(0..).try_for_each(|(run, nth)| run.ingest(disk, scratch, nth)));
        let outcome = gather_all(chunks, disk_at, |run| to_rocksdb.send(run).is_ok());
        drop(to_rocksdb);
        // As above: the later stage's error is the cause.
        join(ingesting)?;
        outcome
    })
}

/// Gathers runs until there is nothing more or `take` refuses.
fn gather_all(chunks: &Receiver<Unpacked>, disk_at: Csn, mut take: impl FnMut(SortedRun) -> bool) -> Result<()> {
    let mut run = SortedRun::default();
    for chunk in chunks {
        for commit in chunk.commits.iter().filter(|commit| commit.touches_disk() && commit.csn > disk_at) {
            run.push(&commit.disk, commit.disk_ops).map_err(|error| at_commit(&chunk, commit.csn, &error))?;
            if run.is_full() && !take(std::mem::take(&mut run)) {
                return Ok(());
            }
        }
    }
    if !run.is_empty() {
        take(run);
    }
    Ok(())
}

fn change_all(memory: &mut Memory, chunks: &Receiver<Unpacked>) -> Result<()> {
    memory::replay(memory, chunks.iter()).map_err(|misfit| at_commit(&misfit.batch, misfit.csn, &misfit.error))
}

fn at_commit(chunk: &Unpacked, csn: Csn, error: &Error) -> Error {
    Error::corrupt(&*chunk.what, format!("csn {csn}"), error.to_string())
}
