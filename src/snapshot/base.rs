//! Cuts a strict base: every engine at exactly one csn, while writes go on.
//!
//! The memory engines are cut under the writer lock (that is the pause); everything else happens beside the writers: the
//! image is written from the cut while RocksDB makes a checkpoint, which is opened to fold its WAL in and to read its
//! own csn. What the memory engines missed between the two cuts is carried as chunks with memory ops only.
//!
//! Guarantees: the base is described by its manifest alone; nothing in it is taken on trust (every file is hashed).

use super::image::write_image;
use super::manifest::{DbFile, DiskPart, FileRef, Level, MANIFEST_FORMAT, Manifest, MemoryPart};
use crate::archive::layout::ObjectName;
use crate::chunk::{ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::cluster::ClusterId;
use crate::commit::committer::Committer;
use crate::csn::{Csn, WalSeq};
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::memory::MemoryCut;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::log::envelope::Position;
use crate::log::reader::LogPosition;
use crate::log::recovery::{ImagePosition, disk_position};
use crate::record::CommitRecord;
use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Cache while a checkpoint is opened: only its WAL is read.
const CACHE_BYTES: usize = 8 << 20;
/// Name of the image file in a base.
const IMAGE: &str = "memory.image";

/// Content hashes of SSTs seen before, so that an unchanged one is not read again. An SST never changes under its inode.
#[derive(Debug, Default)]
pub struct SstHashes {
    known: HashMap<(u64, u64, i64), blake3::Hash>,
}

impl SstHashes {
    fn of(&mut self, path: &Path) -> Result<blake3::Hash> {
        let meta = std::fs::metadata(path).map_err(Error::io("stat", path))?;
        let identity = (meta.ino(), meta.len(), meta.mtime_nsec().wrapping_add(meta.mtime().wrapping_mul(1_000_000_000)));
        if let Some(hash) = self.known.get(&identity) {
            return Ok(*hash);
        }
        let hash = hash_file(path)?;
        self.known.insert(identity, hash);
        Ok(hash)
    }
}

fn hash_file(path: &Path) -> Result<blake3::Hash> {
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(Error::io("read", path))?;
    Ok(hasher.finalize())
}

/// A file of a base on local disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// The object it is in an archive.
    pub object: ObjectName,
    /// Where it lies.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// A base on local disk.
#[derive(Debug)]
pub struct LocalBase {
    dir: PathBuf,
    /// What it consists of. `bytes_new` and `bytes_shared` are known only when it is published.
    pub manifest: Manifest,
    /// How long writers waited for the cut.
    pub pause: Duration,
    /// When the cut was made.
    pub started: Instant,
}

impl LocalBase {
    /// Its files, without the manifest.
    #[must_use]
    pub fn files(&self) -> Vec<LocalFile> {
        let base = self.manifest.base();
        let own = self.manifest.memory.files.iter().chain(&self.manifest.completion);
        let own = own.map(|file| LocalFile { object: file.object(base), path: self.dir.join(&file.name), bytes: file.bytes });
        let disk = self.manifest.disk.files.iter();
        let disk = disk.map(|file| LocalFile { object: file.object(base), path: db_dir(&self.dir).join(&file.name), bytes: file.bytes });
        own.chain(disk).collect()
    }

    /// Removes it from local disk.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).map_err(Error::io("remove", &self.dir))
    }
}

fn db_dir(dir: &Path) -> PathBuf {
    dir.join("db")
}

/// Cuts a base into `dir`, which is cleared first. Blocking; takes as long as flushing memtables and writing the image.
pub fn cut(committer: &Committer, io: &Arc<dyn Io>, dir: &Path, cluster: ClusterId, hashes: &mut SstHashes) -> Result<LocalBase> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).map_err(Error::io("remove", dir))?;
    }
    io.create_dir(dir)?;
    let started = Instant::now();
    let (memory, image) = {
        let mut turn = committer.turn();
        let image = turn.image_position();
        (turn.writer().memory.cut(), image)
    };
    let pause = started.elapsed();
    let (image_file, disk) = std::thread::scope(|scope| {
        let image_file = scope.spawn(|| write_memory(&**io, dir, &memory, image));
        let disk = cut_disk(committer, &db_dir(dir), hashes);
        (image_file.join().expect("writing an image does not panic"), disk)
    });
    let (image_file, disk) = (image_file?, disk?);
    let position = if disk.csn > image.position.csn { Position { csn: disk.csn, time: disk.time, epoch: disk.epoch } } else { image.position };
    let completion = write_completion(committer, &**io, dir, image, position.csn)?;
    let epoch = committer.turn().position().epoch;
    let manifest = Manifest {
        format: MANIFEST_FORMAT,
        cluster,
        epoch,
        csn: position.csn,
        time: position.time,
        level: Level::Strict,
        memory: MemoryPart {
            csn: image.position.csn,
            time: image.position.time,
            lists: memory.lists.len() as u64,
            zsets: memory.zsets.len() as u64,
            files: vec![image_file],
        },
        disk,
        completion,
        bytes_new: 0,
        bytes_shared: 0,
        took_ms: started.elapsed().as_millis() as u64,
    };
    Ok(LocalBase { dir: dir.to_owned(), manifest, pause, started })
}

fn write_memory(io: &dyn Io, dir: &Path, memory: &MemoryCut, image: ImagePosition) -> Result<FileRef> {
    let path = dir.join(IMAGE);
    let bytes = write_image(io, &path, memory, image)?;
    Ok(FileRef { name: IMAGE.to_owned(), bytes, blake3: hash_file(&path)? })
}

/// Makes a checkpoint, folds its WAL into its SSTs and describes its files.
fn cut_disk(committer: &Committer, dir: &Path, hashes: &mut SstHashes) -> Result<DiskPart> {
    let checkpoint = Checkpoint::new(committer.disk().db()).map_err(Error::rocks("begin a checkpoint"))?;
    checkpoint.create_checkpoint(dir).map_err(Error::rocks("make a checkpoint"))?;
    let opened = Disk::open(dir, dir, DiskOptions { cache_bytes: CACHE_BYTES, compaction: false })?;
    opened.flush()?;
    let (position, wal_seq): (Position, WalSeq) = (disk_position(&opened)?, opened.wal_seq());
    drop(opened);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_kept = name.ends_with(".sst") || name == "CURRENT" || ["MANIFEST-", "OPTIONS-"].iter().any(|prefix| name.starts_with(prefix));
        if !is_kept {
            continue;
        }
        let path = entry.path();
        let bytes = entry.metadata().map_err(Error::io("stat", &path))?.len();
        let shared = name.ends_with(".sst");
        let blake3 = if shared { hashes.of(&path)? } else { hash_file(&path)? };
        files.push(DbFile { name, bytes, blake3, shared });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(DiskPart { csn: position.csn, time: position.time, epoch: position.epoch, wal_seq, files })
}

/// Chunks of the commits above the image up to `until`, memory ops only.
fn write_completion(committer: &Committer, io: &dyn Io, dir: &Path, image: ImagePosition, until: Csn) -> Result<Vec<FileRef>> {
    let mut files = Vec::new();
    if until <= image.position.csn {
        return Ok(files);
    }
    let (reader, end) = committer.log_reader();
    let end = LogPosition { csn: until, ..end };
    let mut encoder = Encoder::new(Profile::default());
    let mut commits: Vec<CommitRecord> = Vec::new();
    let mut bytes = 0;
    for commit in reader.commits(image.in_logs(), end)? {
        let commit = CommitRecord { disk: Bytes::new(), disk_ops: 0, ..commit? };
        bytes += commit.effect_bytes();
        let is_last = commit.csn == until;
        commits.push(commit);
        if bytes >= RAW_BYTES_MAX || is_last {
            files.push(write_chunk(&mut encoder, io, dir, &commits)?);
            commits.clear();
            bytes = 0;
        }
    }
    Ok(files)
}

fn write_chunk(encoder: &mut Encoder, io: &dyn Io, dir: &Path, commits: &[CommitRecord]) -> Result<FileRef> {
    let epoch = commits.last().expect("never empty").epoch;
    let chunk = encoder.encode(commits.iter(), ChunkLink { epoch, ..ChunkLink::default() });
    let name = format!("completion-{}.chunk", chunk.header().first.padded());
    let bytes = io.write_file(&dir.join(&name), &mut std::iter::once(Ok(chunk.bytes().clone())))?;
    Ok(FileRef { name, bytes, blake3: blake3::hash(chunk.bytes()) })
}
