//! The disk engines' part of a base: a RocksDB checkpoint, made into a directory of SSTs and metadata without WAL.
//!
//! Guarantees: the directory opens without its WAL and holds every commit up to the csn its system key tells. SSTs are
//! hard links: making it costs a flush, not a copy; what was hashed for the base before is not read again.

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
pub fn make(disk: &Disk, dir: &Path) -> Result<()> {
    let checkpoint = rocksdb::checkpoint::Checkpoint::new(disk.db()).map_err(Error::rocks("prepare a checkpoint"))?;
    checkpoint.create_checkpoint(dir).map_err(Error::rocks("make a checkpoint"))
}

/// Makes a new checkpoint ready for a base, and tells what it holds. The database it was made of is not touched.
pub fn describe(dir: &Path, hashes: &mut SstHashes) -> Result<DiskPart> {
    let Absorbed { position, wal_seq, families } = absorb_wal(dir)?;
    remove_leftovers(dir)?;
    let files = hashes.list(dir)?;
    let contents = DiskContents { digest: digest(&files), families };
    let Position { csn, time, epoch, hash } = position;
    Ok(DiskPart { csn, time, epoch, hash, wal_seq, contents, files })
}

/// What a checkpoint holds once its WAL is absorbed.
struct Absorbed {
    position: Position,
    wal_seq: WalSeq,
    families: Vec<FamilyContents>,
}

/// Opens the checkpoint once, so that what its WAL holds (what was written during its flush) is flushed to SSTs too.
fn absorb_wal(dir: &Path) -> Result<Absorbed> {
    let disk =
        Disk::open(dir, dir, DiskOptions { cache_bytes: CACHE_BYTES, compaction: false, ..DiskOptions::default() })?;
    Ok(Absorbed { position: disk_position(&disk)?, wal_seq: disk.wal_seq(), families: families(&disk)? })
}

/// What the SSTs hold, by family; their metadata tells.
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

/// See [`DiskContents::digest`].
pub fn digest(files: &[DbFile]) -> blake3::Hash {
    let mut hashes: Vec<_> = files.iter().filter(|file| file.shared).map(|file| *file.blake3.as_bytes()).collect();
    hashes.sort_unstable();
    blake3::hash(hashes.as_flattened())
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
