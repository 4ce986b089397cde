//! Cuts a strict base into a local directory: memory at csn M, RocksDB at csn R, and the commits (M, R] between them.
//!
//! ```text
//! memory.image               the memory engines at M
//! <first>-<last>.chunk       the completion: commits (M, R], memory ops only
//! db/                        RocksDB at R, without WAL
//! ```
//!
//! Guarantees: writers wait only while the memory engines are cut; nothing in a base can be lost by a power cut that
//! the durability mode protects from. The directory is cleared before a base is cut and when it was used, so that one
//! base is there at a time; what a crash leaves is cleared by the next cut.
//! Needs the logs from M on: they must not be purged above the newest memory image while a base is cut.

use super::checkpoint::{self, SstHashes};
use super::manifest::{DiskPart, FileRef, Level, MANIFEST_FORMAT, Manifest, MemoryPart};
use super::moment::MemoryMoment;
use super::{completion, image};
use crate::archive::layout::ObjectName;
use crate::cluster::ClusterId;
use crate::commit::committer::Committer;
use crate::commit::gate::Obstacle;
use crate::csn::Csn;
use crate::directory::DataDir;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::log::reader::LogPosition;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Name of the memory image in a base.
const IMAGE: &str = "memory.image";
/// Directory of RocksDB's files in a base that lies on a local disk.
const DB: &str = "db";
/// Pause between two looks at the durable watermark.
const DURABLE_POLL: Duration = Duration::from_millis(1);

/// Cuts the bases of one node.
pub struct BaseCutter {
    io: Arc<dyn Io>,
    dir: PathBuf,
    cluster: ClusterId,
    hashes: SstHashes,
    /// Shared with the base that lies in `dir`.
    occupied: Arc<()>,
}

/// A base on the local disk; its files go when it is dropped.
#[derive(Debug)]
pub struct LocalBase {
    dir: PathBuf,
    manifest: Manifest,
    cut_pause: Duration,
    started: Instant,
    _occupied: Arc<()>,
}

/// One file of a base on the local disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Its name in the manifest; no two files of a base have the same.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// Its object in the archive.
    pub object: ObjectName,
}

impl BaseCutter {
    /// For the node whose data directory is `dir`. Nothing is touched yet.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, dir: &DataDir, cluster: ClusterId) -> Self {
        Self { io, dir: dir.base(), cluster, hashes: SstHashes::default(), occupied: Arc::new(()) }
    }

    /// Cuts a base of what is committed now. Blocking: a flush of RocksDB and a pass over the memory engines. Refused
    /// while the base before is still in use.
    pub fn cut(&mut self, committer: &Committer) -> Result<LocalBase> {
        if Arc::strong_count(&self.occupied) > 1 {
            let reason = "the base cut before is still being published or sent: try again when it is done".to_owned();
            return Err(Error::Refused { reason });
        }
        clear(&self.dir)?;
        let base = self.cut_in_dir(committer);
        // What a failed one takes of a full disk is needed for other things.
        if base.is_err()
            && let Err(error) = clear(&self.dir)
        {
            tracing::warn!(%error, "a base that failed could not be removed; the next cut tries again");
        }
        base
    }

    fn cut_in_dir(&mut self, committer: &Committer) -> Result<LocalBase> {
        let started = Instant::now();
        self.io.create_dir(&self.dir)?;
        let moment = MemoryMoment::take(committer)?;
        let cut_pause = moment.pause;
        let at = moment.at;
        let (io, dir, hashes) = (&*self.io, &*self.dir, &mut self.hashes);
        let (memory, disk) = std::thread::scope(|scope| {
            let memory = scope.spawn(|| write_memory(io, dir, moment));
            let disk = checkpoint::take(committer.disk(), &dir.join(DB), hashes);
            (memory.join().expect("writing an image does not panic"), disk)
        });
        let (memory, disk) = (memory?, disk?);
        check_order(at.in_logs(), &disk)?;
        let (logs, _) = committer.log_reader();
        let until = LogPosition { csn: disk.csn, wal_seq: disk.wal_seq };
        let epoch = at.position.epoch.max(disk.epoch);
        let completion = completion::write(io, dir, &logs, (at.in_logs(), until), epoch)?;
        let mut manifest = Manifest {
            format: MANIFEST_FORMAT,
            cluster: self.cluster,
            epoch,
            csn: memory.csn.max(disk.csn),
            time: memory.time.max(disk.time),
            level: Level::Strict,
            memory,
            disk,
            completion,
            bytes_new: 0,
            bytes_shared: 0,
            took_ms: 0,
        };
        manifest.bytes_new = manifest.bytes();
        manifest.took_ms = started.elapsed().as_millis() as u64;
        wait_until_shippable(committer, manifest.csn)?;
        tracing::info!(csn = %manifest.csn, %epoch, bytes = manifest.bytes(), ?cut_pause, "base cut");
        Ok(LocalBase { dir: self.dir.clone(), manifest, cut_pause, started, _occupied: Arc::clone(&self.occupied) })
    }
}

fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// Writes the image and lets go of the cut.
fn write_memory(io: &dyn Io, dir: &Path, MemoryMoment { cut, at, .. }: MemoryMoment) -> Result<MemoryPart> {
    let mut hasher = blake3::Hasher::new();
    let mut parts = image::image_parts(&cut, at)
        .inspect(|part| {
            hasher.update(part);
        })
        .map(Ok);
    let bytes = io.write_file(&dir.join(IMAGE), &mut parts)?;
    drop(parts);
    let file = FileRef { name: IMAGE.to_owned(), bytes, blake3: hasher.finalize() };
    let (lists, zsets) = (cut.lists.len() as u64, cut.zsets.len() as u64);
    Ok(MemoryPart { csn: at.position.csn, time: at.position.time, lists, zsets, files: vec![file] })
}

/// The checkpoint was taken after the memory engines were cut, so it must hold all disk effects up to that cut; it is
/// at a lower csn if and only if there was none since.
fn check_order(memory: LogPosition, disk: &DiskPart) -> Result<()> {
    if disk.wal_seq >= memory.wal_seq && (disk.wal_seq > memory.wal_seq) == (disk.csn > memory.csn) {
        return Ok(());
    }
    let found = format!("csn {} and sequence {}", disk.csn, disk.wal_seq);
    let detail = format!("made after csn {} and sequence {}, it holds {found}", memory.csn, memory.wal_seq);
    Err(Error::corrupt("RocksDB's checkpoint", "its end", detail))
}

/// What leaves this node must not be lost by it in a power cut.
fn wait_until_shippable(committer: &Committer, csn: Csn) -> Result<()> {
    while committer.syncer.shippable() < csn {
        if committer.gate.stands(Obstacle::Broken) {
            let reason = format!("the base at csn {csn} is given up: the logs could not be synced up to it");
            return Err(Error::Refused { reason });
        }
        std::thread::sleep(DURABLE_POLL);
    }
    Ok(())
}

impl LocalBase {
    /// What the base consists of. All its bytes count as new until it is published.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How long writers waited for it.
    #[must_use]
    pub fn cut_pause(&self) -> Duration {
        self.cut_pause
    }

    /// How long ago its cut began.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Its SSTs and its other files.
    #[must_use]
    pub fn files(&self) -> (Vec<LocalFile>, Vec<LocalFile>) {
        let base = self.manifest.base();
        let own = self.manifest.memory.files.iter().chain(&self.manifest.completion).map(|file| {
            let path = self.dir.join(&file.name);
            LocalFile { name: file.name.clone(), path, bytes: file.bytes, object: file.object(base) }
        });
        let mut own: Vec<_> = own.collect();
        let mut ssts = Vec::new();
        for file in &self.manifest.disk.files {
            let path = self.dir.join(DB).join(&file.name);
            let local = LocalFile { name: file.name.clone(), path, bytes: file.bytes, object: file.object(base) };
            if file.shared { ssts.push(local) } else { own.push(local) }
        }
        (ssts, own)
    }
}

impl Drop for LocalBase {
    fn drop(&mut self) {
        if let Err(error) = clear(&self.dir) {
            tracing::warn!(%error, "a used base could not be removed; the next cut tries again");
        }
    }
}

#[cfg(test)]
#[path = "base_tests.rs"]
mod tests;
