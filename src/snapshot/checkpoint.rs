//! The disk engines' part of a base: a RocksDB checkpoint, turned into a directory of SSTs and metadata without WAL.
//!
//! Guarantees: the directory opens without a WAL and holds every commit up to the csn in its system key. SSTs are hard
//! links: a checkpoint costs a flush, not a copy. An SST that was hashed for the previous base is not read a second
//! time.

use super::manifest::{DbFile, DiskContents, DiskPart, FamilyContents};
use crate::csn::WalSeq;
use crate::engine::batch::Family;
use crate::engine::disk::{Disk, DiskOptions};
use crate::error::{Error, Result};
use crate::log::recovery::disk_position;
use crate::position::Position;
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Block cache size in bytes while a checkpoint is opened. Small, because only the WAL is read.
const CACHE_BYTES: usize = 8 << 20;

/// Content hashes of the SSTs of the last base, by file attributes that a hard link does not change.
#[derive(Debug, Default)]
pub(crate) struct SstHashes {
    known: HashMap<SstId, blake3::Hash>,
}

/// Inode, length in bytes, and time of the last modification in seconds and nanoseconds.
type SstId = (u64, u64, i64, i64);

/// Makes a checkpoint of `disk` in `dir`, which must not exist and must be on the same file system.
pub(crate) fn make(disk: &Disk, dir: &Path) -> Result<()> {
    let checkpoint = rocksdb::checkpoint::Checkpoint::new(disk.db()).map_err(Error::rocks("prepare a checkpoint"))?;
    checkpoint.create_checkpoint(dir).map_err(Error::rocks("make a checkpoint"))
}

/// Prepares a new checkpoint for a base and returns its description. Does not touch the database that the checkpoint
/// was made of.
pub(crate) fn describe(dir: &Path, hashes: &mut SstHashes) -> Result<DiskPart> {
    let Absorbed { position, wal_seq, families } = absorb_wal(dir)?;
    remove_leftovers(dir)?;
    let files = hashes.list(dir)?;
    let contents = DiskContents { digest: digest(&files), families };
    let Position { csn, time, epoch, hash } = position;
    Ok(DiskPart { csn, time, epoch, hash, wal_seq, contents, files })
}

/// The position and content of a checkpoint after its WAL was flushed.
struct Absorbed {
    position: Position,
    wal_seq: WalSeq,
    families: Vec<FamilyContents>,
}

/// Opens the checkpoint once, so that its WAL (the writes made during the checkpoint's flush) is flushed to SSTs too.
fn absorb_wal(dir: &Path) -> Result<Absorbed> {
    let disk =
        Disk::open(dir, dir, DiskOptions { cache_bytes: CACHE_BYTES, compaction: false, ..DiskOptions::default() })?;
    Ok(Absorbed { position: disk_position(&disk)?, wal_seq: disk.wal_seq(), families: families(&disk)? })
}

/// Returns counts of the SSTs' content by column family, from the SSTs' metadata.
fn families(disk: &Disk) -> Result<Vec<FamilyContents>> {
    let files = disk.db().live_files().map_err(Error::rocks("list its files"))?;
    let of = |family: Family| {
        let mut contents = FamilyContents { name: family.name().to_owned(), entries: 0, deletions: 0, bytes: 0 };
        for file in files.iter().filter(|file| file.column_family_name == family.name()) {
            contents.entries += file.num_entries;
            contents.deletions += file.num_deletions;
            contents.bytes += file.size as u64;
        }
        contents
    };
    Ok(Family::ALL.map(of).to_vec())
}

/// Computes [`DiskContents::digest`].
pub(crate) fn digest(files: &[DbFile]) -> blake3::Hash {
    let mut hashes: Vec<_> = files.iter().filter(|file| file.shared).map(|file| *file.blake3.as_bytes()).collect();
    hashes.sort_unstable();
    blake3::hash(hashes.as_flattened())
}

/// Removes the files that an opened database leaves beside its state: WAL files, lock files, informational logs.
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
    /// Lists all files of the directory in name order, with their hashes.
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
