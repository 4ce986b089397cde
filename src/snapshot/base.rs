//! Cuts a base into a local directory: the keys in memory at csn M, RocksDB at csn R, and for a strict base the
//! commits between M and R.
//!
//! ```text
//! memory.image, or memory-<n>.image ...   the keys in memory at M
//! <first>-<last>.chunk                    the completion of a strict base: commits (M, R], memory ops only
//! db/                                     RocksDB at R, without WAL
//! ```
//!
//! Guarantees: writers wait only while the keys in memory are cut; RocksDB is never cut before the keys in memory; a
//! base holds no commit that a power cut could lose although the durability mode protects from power cuts. The
//! directory holds one base at a time: it is cleared before a cut, after a failed cut, and when the base is dropped;
//! the next cut clears what a crash leaves. A strict base needs the logs from M on: the logs must not be purged above
//! the newest memory image while the base is cut.

use super::checkpoint::{self, SstHashes};
use super::image::{Contents, ImageParts, Share};
use super::manifest::{DiskPart, FileRef, Level, MANIFEST_FORMAT, Manifest, MemoryPart, TypeCounts};
use super::memory_snapshot::MemorySnapshot;
use super::{completion, skew::Skew};
use crate::archive::layout::ObjectName;
use crate::background;
use crate::cluster::ClusterId;
use crate::commit::committer::Committer;
use crate::commit::gate::RefusalReason;
use crate::config::Consistency;
use crate::csn::Csn;
use crate::directory::{DataDir, LastRole};
use crate::error::{Error, Result};
use crate::io::Io;
use crate::log::reader::LogCursor;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Name of the directory for RocksDB's files within a local base.
const DB: &str = "db";
/// Pause between two checks of the durable watermark.
const DURABLE_POLL: Duration = Duration::from_millis(1);
/// Largest number of images that the keys in memory are written to in parallel.
const IMAGES_MAX: usize = 4;
/// Default of [`BaseCutter::with_image_memory_min`]: below this size another thread does not pay.
const IMAGE_MEMORY_MIN: usize = 32 << 20;

/// Cuts the bases of one node.
pub struct BaseCutter {
    io: Arc<dyn Io>,
    dir: PathBuf,
    cluster: ClusterId,
    hashes: SstHashes,
    /// Least bytes of the keys in memory for each image.
    image_memory_min: usize,
    /// Shared with the [`LocalBase`] in `dir`, if there is one.
    occupied: Arc<()>,
}

/// Which base to cut, and the node that cuts it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CutRequest {
    /// How far apart the engines may be cut.
    pub consistency: Consistency,
    /// Name of the node.
    pub node: String,
    /// Role of the node.
    pub role: LastRole,
}

/// A base on the local disk; dropping it removes its files.
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
    /// Name in the manifest, unique within the base.
    pub name: String,
    /// Path of the file.
    pub path: PathBuf,
    /// Length in bytes.
    pub bytes: u64,
    /// Name of the file's object in the archive.
    pub object: ObjectName,
}

impl BaseCutter {
    /// Creates the cutter of the node whose data directory is `dir`. Touches no file.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, dir: &DataDir, cluster: ClusterId) -> Self {
        let (hashes, image_memory_min) = (SstHashes::default(), IMAGE_MEMORY_MIN);
        Self { io, dir: dir.base(), cluster, hashes, image_memory_min, occupied: Arc::new(()) }
    }

    /// Sets the least bytes of the keys in memory for each image, so that a base of little memory has several images.
    #[must_use]
    pub fn with_image_memory_min(self, bytes: usize) -> Self {
        Self { image_memory_min: bytes, ..self }
    }

    /// Cuts a base of all commits so far. Blocks for a flush of RocksDB and one pass over the keys in memory. Errors:
    /// [`Error::NotNow`] while the previous base is in use; [`Error::InconsistentTiming`] if the cuts are further
    /// apart than the request allows.
    pub fn cut(&mut self, committer: &Committer, request: &CutRequest) -> Result<LocalBase> {
        self.cut_between(committer, request, || {})
    }

    /// Cuts a base as [`Self::cut`] does, and calls `between` between the two cuts.
    pub(super) fn cut_between(
        &mut self,
        committer: &Committer,
        request: &CutRequest,
        between: impl FnOnce(),
    ) -> Result<LocalBase> {
        if Arc::strong_count(&self.occupied) > 1 {
            let reason =
                "the previous base is being published or sent to a replica. Try again when that has ended".to_owned();
            return Err(Error::NotNow { reason });
        }
        clear(&self.dir)?;
        let base = self.cut_into_dir(committer, request, between);
        // A failed base must not occupy space on a disk that may be full.
        if base.is_err()
            && let Err(error) = clear(&self.dir)
        {
            tracing::warn!(%error, "the files of a failed base could not be removed; the next cut tries again");
        }
        base
    }

    fn cut_into_dir(
        &mut self,
        committer: &Committer,
        request: &CutRequest,
        between: impl FnOnce(),
    ) -> Result<LocalBase> {
        let started = Instant::now();
        self.io.create_dir(&self.dir)?;
        // The checkpoint flushes what is unflushed, and that flush lies between the cuts: flushing first keeps the
        // skew small.
        committer.disk().flush()?;
        let moment = MemorySnapshot::take(committer)?;
        let (cut_pause, at) = (moment.pause, moment.at);
        let images = images_for(moment.bytes, self.image_memory_min);
        between();
        let (io, dir, hashes) = (&*self.io, &*self.dir, &mut self.hashes);
        let given_up = AtomicBool::new(false);
        let (memory, disk) = std::thread::scope(|scope| {
            let memory = scope.spawn(|| background::run(|| write_memory(io, dir, moment, images, &given_up)));
            let db = dir.join(DB);
            let disk = checkpoint::make(committer.disk(), &db).and_then(|()| {
                let disk = background::run(|| checkpoint::describe(&db, hashes))?;
                check_order(at.log_cursor(), &disk)?;
                Skew::between(at.position, &disk).check(request.consistency)?;
                Ok(disk)
            });
            given_up.store(disk.is_err(), Ordering::Relaxed);
            let memory = memory.join().expect("writing an image does not panic");
            disk.and_then(|disk| Ok((memory?, disk)))
        })?;
        let skew = Skew::between(at.position, &disk);
        let level = skew.level(request.consistency);
        let epoch = at.position.epoch.max(disk.epoch);
        let completion = if level == Level::Strict {
            let (logs, _) = committer.log_reader();
            let until = LogCursor { csn: disk.csn, wal_seq: disk.wal_seq };
            completion::write(io, dir, &logs, (at.log_cursor(), until), epoch)?
        } else {
            Vec::new()
        };
        let mut manifest = Manifest {
            format: MANIFEST_FORMAT,
            cluster: self.cluster,
            epoch,
            csn: memory.csn.max(disk.csn),
            time: if disk.csn > memory.csn { disk.time } else { memory.time },
            hash: if memory.csn >= disk.csn { memory.hash } else { disk.hash },
            level,
            cut: skew.record(request.consistency, &request.node, request.role),
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
        tracing::info!(csn = %manifest.csn, %epoch, %level, bytes = manifest.bytes(), ?cut_pause, "base cut");
        Ok(LocalBase { dir: self.dir.clone(), manifest, cut_pause, started, _occupied: Arc::clone(&self.occupied) })
    }
}

fn clear(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", dir)(error)),
        _ => Ok(()),
    }
}

/// Writes the images, several in parallel, and frees the memory snapshot on this thread, which no writer waits for.
fn write_memory(
    io: &dyn Io,
    dir: &Path,
    moment: MemorySnapshot,
    images: usize,
    given_up: &AtomicBool,
) -> Result<MemoryPart> {
    let moment = &moment;
    let written: Vec<(FileRef, Contents)> = std::thread::scope(|scope| {
        let write = |nth: usize| {
            let name = if images == 1 { "memory.image".to_owned() } else { format!("memory-{nth}.image") };
            move || write_image(io, dir, name, moment, Share { nth, of: images }, given_up)
        };
        let others: Vec<_> = (1..images).map(|nth| scope.spawn(write(nth))).collect();
        let own = write(0)();
        let others = others.into_iter().map(|other| other.join().expect("writing an image does not panic"));
        std::iter::once(own).chain(others).collect::<Result<_>>()
    })?;
    let mut contents = Contents::default();
    written.iter().for_each(|(_, part)| contents += *part);
    Ok(MemoryPart {
        csn: moment.at.position.csn,
        time: moment.at.position.time,
        hash: moment.at.position.hash,
        keys: TypeCounts::of(&contents.counts),
        elements: contents.counts.elements,
        digest: contents.digest.hash(),
        files: written.into_iter().map(|(file, _)| file).collect(),
    })
}

/// Returns the number of images for `bytes` of memory, of which each image takes at least `memory_min`.
fn images_for(bytes: usize, memory_min: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (bytes / memory_min).clamp(1, cores.min(IMAGES_MAX))
}

fn write_image(
    io: &dyn Io,
    dir: &Path,
    name: String,
    moment: &MemorySnapshot,
    share: Share,
    given_up: &AtomicBool,
) -> Result<(FileRef, Contents)> {
    let mut hasher = blake3::Hasher::new();
    let mut image = ImageParts::new(&moment.cut, moment.at, share);
    let mut parts = image.by_ref().map(|part| {
        if given_up.load(Ordering::Relaxed) {
            return Err(Error::NotNow {
                reason: "the base is given up, because the part of the other engines failed".to_owned(),
            });
        }
        hasher.update(&part);
        Ok(part)
    });
    let bytes = io.write_file(&dir.join(&name), &mut parts)?;
    drop(parts);
    Ok((FileRef { name, bytes, blake3: hasher.finalize() }, image.contents()))
}

/// Checks the order of the two cuts. The checkpoint is made after the keys in memory were cut, so it must hold all
/// disk effects up to that cut; its csn is higher if and only if there were disk effects after the memory cut.
fn check_order(memory: LogCursor, disk: &DiskPart) -> Result<()> {
    if disk.wal_seq >= memory.wal_seq && (disk.wal_seq > memory.wal_seq) == (disk.csn > memory.csn) {
        return Ok(());
    }
    let found = format!("csn {} and sequence {}", disk.csn, disk.wal_seq);
    let detail = format!(
        "the checkpoint was made after csn {} and sequence {}, but it contains {found}",
        memory.csn, memory.wal_seq
    );
    Err(Error::corrupt("RocksDB's checkpoint", "its end", detail))
}

/// Waits until no power cut can make this node lose a commit of the base, because the base leaves the node.
fn wait_until_shippable(committer: &Committer, csn: Csn) -> Result<()> {
    while committer.syncer.shippable() < csn {
        if committer.gate.stands(RefusalReason::Broken) {
            let reason =
                format!("the base at csn {csn} is given up, because the logs could not be synced up to that csn");
            return Err(Error::NeedsRestart { reason });
        }
        std::thread::sleep(DURABLE_POLL);
    }
    Ok(())
}

impl LocalBase {
    /// Returns the manifest. All bytes count as new until the base is published.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns how long writers waited for the cut.
    #[must_use]
    pub fn cut_pause(&self) -> Duration {
        self.cut_pause
    }

    /// Returns the time since the cut began.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the SSTs of the base, and its other files.
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
