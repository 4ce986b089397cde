//! The disk engines' part of a base: a RocksDB checkpoint, made into a directory of SSTs and metadata without WAL.
//!
//! Guarantees: the directory opens without its WAL and holds every commit up to the csn its system key tells. SSTs are
//! hard links: making it costs a flush, not a copy; what was hashed for the base before is not read again.

use super::manifest::{DbFile, DiskPart};
use crate::csn::WalSeq;
use crate::engine::disk::{Disk, DiskOptions};
use crate::error::{Error, Result};
use crate::log::envelope::Position;
use crate::log::recovery::disk_position;
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Block cache while a checkpoint is opened: nothing but its WAL is read.
const CACHE_BYTES: usize = 8 << 20;

/// Content hashes of the SSTs of the last base, by what a hard link leaves alone.
#[derive(Debug, Default)]
pub struct SstHashes {
    known: HashMap<SstId, blake3::Hash>,
}

/// Inode, length, and time of the last change in seconds and nanoseconds.
type SstId = (u64, u64, i64, i64);

/// Makes a checkpoint of `disk` in `dir`, which must not exist but be on the same file system.
pub fn take(disk: &Disk, dir: &Path, hashes: &mut SstHashes) -> Result<DiskPart> {
    let checkpoint = rocksdb::checkpoint::Checkpoint::new(disk.db()).map_err(Error::rocks("prepare a checkpoint"))?;
    checkpoint.create_checkpoint(dir).map_err(Error::rocks("make a checkpoint"))?;
    let (position, wal_seq) = absorb_wal(dir)?;
    remove_leftovers(dir)?;
    let files = hashes.list(dir)?;
    Ok(DiskPart { csn: position.csn, time: position.time, epoch: position.epoch, wal_seq, files })
}

/// Opens the checkpoint once, so that what its WAL holds (what was written during its flush) is flushed to SSTs too.
fn absorb_wal(dir: &Path) -> Result<(Position, WalSeq)> {
    let disk =
        Disk::open(dir, dir, DiskOptions { cache_bytes: CACHE_BYTES, compaction: false, ..DiskOptions::default() })?;
    Ok((disk_position(&disk)?, disk.wal_seq()))
}

/// Removes what an open database leaves beside its state: WAL files, locks, informational logs.
fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.as_encoded_bytes();
        if entry.file_type().map_err(Error::io("inspect", &path))?.is_dir() {
            fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        } else if name.ends_with(b".log") || name == b"LOCK" || name.starts_with(b"LOG") {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(())
}

impl SstHashes {
    /// All files of the directory in name order, hashed.
    fn list(&mut self, dir: &Path) -> Result<Vec<DbFile>> {
        let mut current = HashMap::new();
        let mut files = Vec::new();
        for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
            let path = entry.map_err(Error::io("list", dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let meta = fs::metadata(&path).map_err(Error::io("inspect", &path))?;
            let shared = name.ends_with(".sst");
            let id = (meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
            let blake3 = match self.known.get(&id).filter(|_| shared) {
                Some(known) => *known,
                None => hash(&path)?,
            };
            if shared {
                current.insert(id, blake3);
            }
            files.push(DbFile { name, bytes: meta.len(), blake3, shared });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        self.known = current;
        Ok(files)
    }
}

fn hash(path: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    File::open(path).and_then(|file| hasher.update_reader(file).map(drop)).map_err(Error::io("read", path))?;
    Ok(hasher.finalize())
}
