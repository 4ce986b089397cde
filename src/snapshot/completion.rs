//! The completion of a strict base: the commits between its two cuts, as chunks without disk effects.
//!
//! Guarantees: every commit above the memory image up to the base's csn, dense; applied to the image they bring the
//! memory engines to exactly that csn. RocksDB holds their disk effects already.

use super::manifest::FileRef;
use crate::chunk::{ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::csn::Epoch;
use crate::error::Result;
use crate::io::Io;
use crate::log::reader::{LogPosition, LogReader};
use crate::record::CommitRecord;
use bytes::Bytes;
use std::path::Path;

/// Writes the commits above `after` up to `until` into chunk files in `dir`; none if there are no commits. Every commit
/// is put under `epoch`, the base's lineage.
pub fn write(
    io: &dyn Io,
    dir: &Path,
    logs: &LogReader,
    (after, until): (LogPosition, LogPosition),
    epoch: Epoch,
) -> Result<Vec<FileRef>> {
    let mut chunks =
        Chunks { io, dir, encoder: Encoder::new(Profile::default()), link: ChunkLink::default(), files: Vec::new() };
    chunks.link.epoch = epoch;
    let (mut commits, mut bytes) = (Vec::new(), 0);
    if after.csn < until.csn {
        for commit in logs.commits(after, until)? {
            let commit = CommitRecord { disk_ops: 0, disk: Bytes::new(), ..commit? };
            // A commit's own size counts too: without effects left, millions of them would make one chunk.
            bytes += size_of::<CommitRecord>() + commit.effect_bytes();
            commits.push(commit);
            if bytes >= RAW_BYTES_MAX {
                chunks.seal(&commits)?;
                (commits, bytes) = (Vec::new(), 0);
            }
        }
    }
    if !commits.is_empty() {
        chunks.seal(&commits)?;
    }
    Ok(chunks.files)
}

/// The chunk files so far.
struct Chunks<'a> {
    io: &'a dyn Io,
    dir: &'a Path,
    encoder: Encoder,
    link: ChunkLink,
    files: Vec<FileRef>,
}

impl Chunks<'_> {
    fn seal(&mut self, commits: &[CommitRecord]) -> Result<()> {
        let chunk = self.encoder.encode(commits.iter(), self.link);
        let header = chunk.header();
        let name = format!("{}-{}.chunk", header.first.padded(), header.last.padded());
        self.link.previous_header_crc = header.crc();
        let bytes = self.io.write_file(&self.dir.join(&name), &mut std::iter::once(Ok(chunk.bytes().clone())))?;
        self.files.push(FileRef { name, bytes, blake3: blake3::hash(chunk.bytes()) });
        Ok(())
    }
}
