//! Fetches and opens the files of a base.
//!
//! Guarantees: the opened engines are all at the manifest's csn; the engines of a base that is not strict are each at
//! the csn that the manifest states. Everything else is an error.

use super::apply::{Engines, complete};
use super::progress::Meter;
use crate::archive::layout::BaseName;
use crate::archive::store::Archive;
use crate::chunk::Chunk;
use crate::csn::Epoch;
use crate::directory::DataDir;
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::memory::Memory;
use crate::error::{Error, Result};
use crate::history::fetch::{FileFetch, PIECE_BYTES, fetch_files};
use crate::history::line::full_name;
use crate::io::Io;
use crate::log::recovery::disk_position;
use crate::position::Position;
use crate::snapshot::image::{Contents, read_images};
use crate::snapshot::manifest::{FileRef, Level, Manifest, TypeCounts};
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// Size of the block cache during a restore, in bytes; small because only opening the files reads through the cache.
const CACHE_BYTES: usize = 8 << 20;

/// Fetches a base's files into the directory: RocksDB's files to their final place, the others to the scratch
/// directory.
pub(super) async fn fetch(
    archive: &Archive,
    io: &Arc<dyn Io>,
    dir: &DataDir,
    manifest: &Manifest,
    meter: &Meter,
) -> Result<()> {
    let base = manifest.base();
    let own = manifest.memory.files.iter().chain(&manifest.completion).map(|file| FileFetch {
        object: file.object(base),
        path: dir.base().join(&file.name),
        bytes: file.bytes,
        blake3: file.blake3,
    });
    let disk = manifest.disk.files.iter().map(|file| FileFetch {
        object: file.object(base),
        path: dir.db().join(&file.name),
        bytes: file.bytes,
        blake3: file.blake3,
    });
    let files = disk.chain(own).collect();
    fetch_files(archive, io, files, &|bytes| meter.add(bytes)).await
}

/// Opens empty engines, which are before the first commit.
pub(super) fn open_empty(dir: &DataDir) -> Result<Engines> {
    let (disk, memory, position) = (open_disk(dir)?, Memory::new(), Position::default());
    Ok(Engines { disk, memory, position, disk_at: position.csn, scratch: dir.base() })
}

/// Opens the files that [`fetch`] wrote. `epoch` made the commit at which the base starts. Blocking.
pub(super) fn open(
    io: &dyn Io,
    dir: &DataDir,
    manifest: &Manifest,
    archive: &Archive,
    epoch: Epoch,
) -> Result<Engines> {
    let disk = open_disk(dir)?;
    let found = disk_position(&disk)?;
    let part = &manifest.disk;
    if found != (Position { csn: part.csn, time: part.time, epoch: part.epoch, hash: part.hash }) {
        let detail = format!(
            "RocksDB is at {found:?}, but the manifest states csn {} with history hash {}",
            part.csn, part.hash
        );
        return Err(Error::corrupt(format!("{}/{}", archive.url(), manifest.base()), "RocksDB", detail));
    }
    let memory = open_memory(
        manifest,
        archive,
        |file| read_parts(io, &dir.base().join(&file.name), file.bytes),
        Compare::Counts,
    )?;
    let position = manifest.start_position(epoch);
    Ok(Engines { disk, memory, position, disk_at: manifest.csn, scratch: dir.base() })
}

/// How the keys in memory of a base are compared with the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Compare {
    /// Compares the numbers of keys; the BLAKE3 hashes of the files already prove the bytes.
    Counts,
    /// Also compares every key, element, score and expiry, by means of the digests.
    Digests,
}

/// Builds the keys in memory of a base; those of a strict base are brought to the base's csn. `parts` reads a file.
pub(super) fn open_memory<P: Iterator<Item = Result<Bytes>> + Send>(
    manifest: &Manifest,
    archive: &Archive,
    parts: impl Fn(&FileRef) -> P + Sync,
    compare: Compare,
) -> Result<Memory> {
    let base = manifest.base();
    let files = &manifest.memory.files;
    let what = |nth: usize| named(archive, base, &files[nth]);
    let (memory, image) = read_images(files.len(), what, |nth| parts(&files[nth]))?;
    let keys = TypeCounts::in_memory(&memory);
    let told = &manifest.memory;
    if (image.position.csn, image.position.hash, keys) != (told.csn, told.hash, told.keys) {
        let detail = format!(
            "found csn {} with {keys:?}, but the manifest states csn {} with {:?}",
            image.position.csn, told.csn, told.keys
        );
        return Err(Error::corrupt(what(0), "header", detail));
    }
    if compare == Compare::Digests {
        let found = Contents::of(&memory.cut());
        let found = (found.counts.elements, found.digest.hash());
        if found != (told.elements, told.digest) {
            let detail = format!(
                "the number of elements and the digest are {found:?}, but the manifest states {:?}",
                (told.elements, told.digest)
            );
            return Err(Error::corrupt(what(0), "content", detail));
        }
    }
    if manifest.level != Level::Strict {
        return Ok(memory);
    }
    let mut csn = manifest.memory.csn;
    for file in &manifest.completion {
        let what = named(archive, base, file);
        let bytes = parts(file).collect::<Result<Vec<Bytes>>>()?.concat();
        let chunk = Chunk::open(bytes.into(), &what)?;
        csn = complete(&memory, chunk.commits(), csn)?;
    }
    if csn == manifest.csn {
        return Ok(memory);
    }
    Err(Error::Gap {
        what: format!("the completion of {}/{base}", archive.url()),
        expected: csn.next(),
        found: format!("the end, although the base is at csn {}", manifest.csn),
    })
}

fn open_disk(dir: &DataDir) -> Result<Disk> {
    Disk::open(
        &dir.db(),
        &dir.wal(),
        DiskOptions { cache_bytes: CACHE_BYTES, compaction: false, ..DiskOptions::default() },
    )
}

fn named(archive: &Archive, base: BaseName, file: &FileRef) -> String {
    full_name(archive, &file.object(base))
}

/// Returns a file's bytes, piece by piece.
fn read_parts<'io>(io: &'io dyn Io, path: &Path, len: u64) -> impl Iterator<Item = Result<Bytes>> + Send + use<'io> {
    let mut file = Some(io.open_read(path));
    let mut at = 0;
    let mut open = None;
    std::iter::from_fn(move || {
        match file.take() {
            Some(Ok(opened)) => open = Some(opened),
            Some(Err(error)) => return Some(Err(error)),
            None => {}
        }
        let piece = PIECE_BYTES.min(len - at);
        let opened = open.as_ref().filter(|_| piece > 0)?;
        at += piece;
        Some(io.read_at(opened, at - piece, piece as usize))
    })
}
