//! Bringing the engines from a base, or from nothing, to the target.
//!
//! The caller's thread unpacks chunks, one gathers their disk effects in sorted runs, one brings full runs into RocksDB,
//! one changes the memory engines; the two sides need nothing from each other until the end. Guarantees: nothing is
//! written beyond the target; the csn key moves once, at the end; whatever fails leaves a directory that is to be thrown
//! away. Memory is bounded by [`CHUNKS_QUEUED_MAX`] chunks on each side and two runs.

use super::plan::ChunkStep;
use super::run::Run;
use super::unpack::{Unpacked, Unpacker};
use crate::csn::Csn;
use crate::engine::batch::{self, Family, HEADER_LEN};
use crate::engine::disk::Disk;
use crate::engine::key::CSN_KEY;
use crate::engine::memory::Memory;
use crate::error::{Error, Result};
use crate::log::envelope::Position;
use crate::log::recovery::disk_position;
use crate::record::CommitRecord;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::ScopedJoinHandle;

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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Commits.
    pub commits: u64,
    /// Bytes of their chunks before compression, unused commits included.
    pub raw_bytes: u64,
    /// Chunks that were not cut after the bytes of the chunk before.
    pub links_broken: u64,
}

/// A chunk to apply: its step, its name for messages, its bytes.
pub type Arrival = (ChunkStep, String, Bytes);

impl Engines {
    /// Applies chunks as `next` gives them, until it gives none. `applied` is told each chunk's stored bytes.
    pub fn apply(
        &mut self,
        unpacker: &mut Unpacker,
        next: impl FnMut() -> Result<Option<Arrival>>,
        applied: &(dyn Fn(u64) + Sync),
    ) -> Result<Applied> {
        let Self { disk, memory, position, disk_at, scratch } = self;
        let (disk, disk_at, scratch) = (&*disk, *disk_at, &**scratch);
        std::thread::scope(|scope| {
            let (to_disk, from_unpacker) = sync_channel(CHUNKS_QUEUED_MAX);
            let disk_side = scope.spawn(move || write_all(disk, disk_at, scratch, &from_unpacker));
            let (to_memory, from_unpacker) = sync_channel(CHUNKS_QUEUED_MAX);
            let memory_side = scope.spawn(move || change_all(memory, &from_unpacker));
            let send = |unpacked: &Unpacked| {
                to_disk.send(unpacked.clone()).is_ok() && to_memory.send(unpacked.clone()).is_ok()
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
            outcome
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
        change(memory, &commit)?;
        last = commit.csn;
    }
    Ok(last)
}

fn join<T>(side: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    side.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Unpacks until there is nothing more or `take` refuses.
fn unpack_all(
    unpacker: &mut Unpacker,
    mut next: impl FnMut() -> Result<Option<Arrival>>,
    position: &mut Position,
    mut take: impl FnMut(&Unpacked, u64) -> bool,
) -> Result<Applied> {
    let mut sum = Applied::default();
    while let Some((step, what, bytes)) = next()? {
        let stored = bytes.len() as u64;
        let unpacked = unpacker.unpack(step, bytes, &what)?;
        sum.commits += unpacked.commits.len() as u64;
        sum.raw_bytes += unpacked.raw_bytes;
        sum.links_broken += u64::from(unpacked.is_link_broken);
        *position = end_of(&unpacked);
        if !take(&unpacked, stored) {
            break;
        }
    }
    Ok(sum)
}

fn end_of(unpacked: &Unpacked) -> Position {
    let last = unpacked.commits.last().expect("a step has commits");
    Position { csn: last.csn, time: last.time, epoch: last.epoch }
}

/// Gathers runs of what lies above `disk_at` and has them ingested one after another.
fn write_all(disk: &Disk, disk_at: Csn, scratch: &Path, chunks: &Receiver<Unpacked>) -> Result<()> {
    std::fs::create_dir_all(scratch).map_err(Error::io("create", scratch))?;
    std::thread::scope(|scope| {
        let (to_rocksdb, full) = sync_channel::<Run>(0);
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
fn gather_all(chunks: &Receiver<Unpacked>, disk_at: Csn, mut take: impl FnMut(Run) -> bool) -> Result<()> {
    let mut run = Run::default();
    for chunk in chunks {
        for commit in chunk.commits.iter().filter(|commit| commit.touches_disk() && commit.csn > disk_at) {
            run.push(&commit.disk, commit.disk_ops).map_err(|error| at_commit(&chunk, commit, &error))?;
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
    for chunk in chunks {
        for commit in chunk.commits.iter() {
            change(memory, commit).map_err(|error| at_commit(&chunk, commit, &error))?;
        }
    }
    Ok(())
}

fn change(memory: &mut Memory, commit: &CommitRecord) -> Result<()> {
    memory.apply_lists(&commit.lists)?;
    memory.apply_zsets(&commit.zsets)
}

fn at_commit(chunk: &Unpacked, commit: &CommitRecord, error: &Error) -> Error {
    Error::corrupt(&*chunk.what, format!("csn {}", commit.csn), error.to_string())
}
