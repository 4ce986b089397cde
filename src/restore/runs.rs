//! Fetches the files of a run and applies them to the engines.
//!
//! Guarantees: the engines are changed only after all files of the run were fetched and verified. Afterwards the
//! engines are at the run's last commit; after an error the directory must be discarded.

use super::apply::Engines;
use super::progress::Meter;
use crate::archive::store::Archive;
use crate::chunk::Chunk;
use crate::compacted_run::RunManifest;
use crate::engine::batch::Family;
use crate::engine::disk::Disk;
use crate::engine::memory::Memory;
use crate::engine::sorted::delete_ranges;
use crate::error::{Error, Result};
use crate::history::fetch::{FileFetch, fetch_files};
use crate::io::Io;
use crate::threads::join;
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// A run whose files are being fetched or have arrived.
pub(super) struct RunFetch {
    manifest: RunManifest,
    dir: PathBuf,
    task: JoinHandle<Result<()>>,
}

impl RunFetch {
    /// Starts to fetch a run's files into a directory below `scratch`.
    pub(super) fn begin(
        archive: &Archive,
        io: &Arc<dyn Io>,
        scratch: &Path,
        manifest: RunManifest,
        meter: Arc<Meter>,
    ) -> Self {
        let dir = scratch.join(format!("run-{}-{}", manifest.first, manifest.last));
        let (archive, io, to, of) = (archive.clone(), Arc::clone(io), dir.clone(), manifest.clone());
        let task = tokio::spawn(async move {
            io.create_dir(&to)?;
            let names = names(&of);
            let files = names.zip(of.objects()).map(|(name, (object, bytes, blake3))| FileFetch {
                object,
                path: to.join(name),
                bytes,
                blake3,
            });
            fetch_files(&archive, &io, files.collect(), &|bytes| meter.add(bytes)).await
        });
        Self { manifest, dir, task }
    }

    /// Returns the run's manifest.
    pub(super) fn manifest(&self) -> &RunManifest {
        &self.manifest
    }

    /// Waits until all files have arrived and are verified.
    pub(super) async fn arrived(&mut self) -> Result<()> {
        (&mut self.task).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Applies the run to the engines. Dropping `self` then removes the remaining files. Blocking.
    pub(super) fn apply(self, io: &dyn Io, engines: &mut Engines) -> Result<()> {
        let Self { manifest, dir, .. } = &self;
        manifest.validate(engines.position)?;
        let Engines { disk, memory, .. } = engines;
        std::thread::scope(|scope| {
            let disk_side = scope.spawn(|| ingest(manifest, dir, disk));
            let changed = change(manifest, dir, io, memory);
            join(disk_side)?;
            changed
        })?;
        engines.position = manifest.position();
        Ok(())
    }
}

impl Drop for RunFetch {
    fn drop(&mut self) {
        self.task.abort();
        // A directory that cannot be removed lies in the scratch directory and is removed with it.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn names(manifest: &RunManifest) -> impl Iterator<Item = &String> {
    manifest.disk.iter().map(|file| &file.name).chain(manifest.memory.iter().map(|file| &file.name))
}

fn ingest(manifest: &RunManifest, dir: &Path, disk: &Disk) -> Result<()> {
    let (records, count) = manifest.range_records();
    delete_ranges(disk, &records, count)?;
    for family in Family::ALL {
        let files = manifest.disk.iter().filter(|file| file.family() == family);
        let files: Vec<PathBuf> = files.map(|file| dir.join(&file.name)).collect();
        if !files.is_empty() {
            disk.ingest(family, files)?;
        }
    }
    Ok(())
}

fn change(manifest: &RunManifest, dir: &Path, io: &dyn Io, memory: &Memory) -> Result<()> {
    for file in &manifest.memory {
        let path = dir.join(&file.name);
        let bytes = io.read_file(&path)?;
        apply_part(manifest, bytes, &path.display().to_string(), memory)?;
    }
    Ok(())
}

/// Applies one file of a run's memory part to the keys in memory.
pub(super) fn apply_part(manifest: &RunManifest, bytes: Bytes, what: &str, memory: &Memory) -> Result<()> {
    let chunk = Chunk::open(bytes, what)?;
    let header = chunk.header();
    if (header.first, header.last) != (manifest.last, manifest.last) {
        let detail = format!("csn {} to {} instead of {}", header.first, header.last, manifest.last);
        return Err(Error::corrupt(what, "header", detail));
    }
    for commit in chunk.commits() {
        let commit = commit?;
        if commit.touches_disk() {
            return Err(Error::corrupt(what, "content", "the memory part of a run contains disk effects"));
        }
        memory.apply_commit(&commit)?;
    }
    Ok(())
}
