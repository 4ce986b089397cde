//! Builds the files of one compacted run.
//!
//! Guarantees: the files lie in a directory of their own, which is removed when the run is dropped. Memory: one sorted
//! run of disk effects, the touched keys and elements in memory, and one part of ops; the caller holds
//! the state itself.

use super::manifest::{RUN_FORMAT, RunFile, RunManifest, RunRange};
use crate::archive::layout::ObjectName;
use crate::chunk::{ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::cluster::ClusterId;
use crate::compacted_run::delta::{Bounds, DiskDelta, DiskFiles, EngineDelta, MemoryDelta, Span};
use crate::csn::CommitTime;
use crate::engine::memory::Memory;
use crate::engine::sorted::SortedFile;
use crate::error::{Error, Result};
use crate::grain::Grain;
use crate::io::Io;
use crate::position::Position;
use crate::record::{self, CommitRecord};
use crate::snapshot::manifest::FileRef;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Gathers the commits of one run.
pub struct RunBuilder {
    cluster: ClusterId,
    grain: Grain,
    disk: DiskDelta,
    memory: MemoryDelta,
    first_time: CommitTime,
    raw_bytes: u64,
    /// The last field, so that files in the directory are closed before the directory is removed.
    dir: Scratch,
}

/// A compacted run on the local disk; dropping it removes its files.
pub struct LocalRun {
    dir: Scratch,
    manifest: RunManifest,
}

impl RunBuilder {
    /// Begins an empty run after `after`. Creates the directory `dir`, which must not exist.
    pub fn begin(dir: PathBuf, cluster: ClusterId, grain: Grain, after: Position) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
        let disk = DiskDelta::begin(after, dir.join("spill"), Bounds::default());
        let memory = MemoryDelta::begin(after);
        let dir = Scratch(dir);
        Ok(Self { dir, cluster, grain, disk, memory, first_time: CommitTime::default(), raw_bytes: 0 })
    }

    /// Returns the range of commits so far.
    #[must_use]
    pub fn span(&self) -> &Span {
        self.disk.span()
    }

    /// Takes the next commit and applies it to `state`, which must be the keys in memory before the commit.
    pub fn push(&mut self, commit: &CommitRecord, state: &Memory) -> Result<()> {
        if self.span().commits() == 0 {
            self.first_time = commit.time;
        }
        self.disk.push(commit, state)?;
        self.memory.push(commit, state)?;
        self.raw_bytes += commit.effect_bytes() as u64;
        Ok(())
    }

    /// Writes the files; `state` must be the state after the last commit. The run must have at least one commit.
    pub fn finish(self, io: &Arc<dyn Io>, state: &Memory) -> Result<LocalRun> {
        let Self { dir, cluster, grain, disk, memory, first_time, raw_bytes } = self;
        let span = *disk.span();
        assert!(span.commits() > 0, "a run has commits");
        let mut parts = Parts {
            io: &**io,
            dir: &dir.0,
            at: span.until,
            encoder: Encoder::new(Profile::default()),
            ops: Vec::new(),
            files: Vec::new(),
        };
        memory.write(state, &mut |ops| parts.push(ops))?;
        let (memory_keys, memory) = (memory.keys(), parts.finish()?);
        let DiskFiles { ranges, files } = disk.write(&dir.0)?;
        let manifest = RunManifest {
            format: RUN_FORMAT,
            cluster,
            epoch: span.until.epoch,
            first: span.after.csn.next(),
            last: span.until.csn,
            first_time,
            last_time: span.until.time,
            hash_before: span.after.hash,
            hash_after: span.until.hash,
            grain,
            raw_bytes,
            puts: files.iter().map(|file| file.puts).sum(),
            deletes: files.iter().map(|file| file.deletes).sum(),
            memory_keys,
            ranges: ranges.iter().map(RunRange::of).collect(),
            disk: files.iter().map(hashed).collect::<Result<_>>()?,
            memory,
        };
        Ok(LocalRun { dir, manifest })
    }
}

impl LocalRun {
    /// Returns the manifest of the run.
    #[must_use]
    pub fn manifest(&self) -> &RunManifest {
        &self.manifest
    }

    /// Returns the path, the object name and the length in bytes of each file of the run.
    pub fn files(&self) -> impl Iterator<Item = (PathBuf, ObjectName, u64)> {
        let disk = self.manifest.disk.iter().map(|file| &file.name);
        let names = disk.chain(self.manifest.memory.iter().map(|file| &file.name));
        names.zip(self.manifest.objects()).map(|(name, (object, bytes, _))| (self.dir.0.join(name), object, bytes))
    }
}

fn hashed(file: &SortedFile) -> Result<RunFile> {
    let mut hasher = blake3::Hasher::new();
    let bytes = File::open(&file.path)
        .and_then(|opened| hasher.update_reader(&opened).map(drop).and_then(|()| opened.metadata()))
        .map_err(Error::io("read", &file.path))?
        .len();
    let name = file.path.file_name().and_then(|name| name.to_str()).expect("its name was made here").to_owned();
    Ok(RunFile { family: file.family.name().to_owned(), name, bytes, blake3: hasher.finalize() })
}

/// The files of the memory part, while they are written.
struct Parts<'a> {
    io: &'a dyn Io,
    dir: &'a Path,
    at: Position,
    encoder: Encoder,
    /// Ops of the current file.
    ops: Vec<u8>,
    files: Vec<FileRef>,
}

impl Parts<'_> {
    fn push(&mut self, ops: &[u8]) -> Result<()> {
        if self.ops.len() + ops.len() > RAW_BYTES_MAX {
            self.seal()?;
        }
        self.ops.extend_from_slice(ops);
        Ok(())
    }

    fn seal(&mut self) -> Result<()> {
        if self.ops.is_empty() {
            return Ok(());
        }
        let Position { csn, time, epoch, .. } = self.at;
        let memory = std::mem::take(&mut self.ops).into();
        let mut commit = CommitRecord { csn, time, epoch, memory, ..CommitRecord::default() };
        let link = ChunkLink { epoch, ..ChunkLink::default() };
        record::chain(link.hash_before, [&mut commit]);
        let chunk = self.encoder.encode(std::iter::once(&commit), link);
        let name = format!("memory-{:06}.chunk", self.files.len());
        let bytes = self.io.write_file(&self.dir.join(&name), &mut std::iter::once(Ok(chunk.bytes().clone())))?;
        self.files.push(FileRef { name, bytes, blake3: blake3::hash(chunk.bytes()) });
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<FileRef>> {
        self.seal()?;
        Ok(self.files)
    }
}

/// A directory that is removed when the value is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "a scratch directory could not be removed");
        }
    }
}
