//! The completion of a base: the commits between its two cuts, as chunks without disk effects.
//!
//! Guarantees: a completion holds every commit above the memory image up to the base's csn, without a gap. Applied to
//! the image, the completion brings the keys in memory to exactly that csn. RocksDB holds the disk effects of these
//! commits already. Memory: the commits of one chunk.

use super::manifest::FileRef;
use crate::chunk::{ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::csn::{Csn, Epoch, HistoryHash};
use crate::error::{Error, Result};
use crate::io::Io;
use crate::log::reader::{LogCursor, LogReader};
use crate::record::{self, CommitRecord};
use bytes::Bytes;
use std::path::Path;

/// Writes the commits above `after` up to `until` into chunk files in `dir`, and returns the files: none if there are
/// no commits. Every commit is written under `epoch`, the base's epoch.
pub(crate) fn write(
    io: &dyn Io,
    dir: &Path,
    logs: &LogReader,
    (after, until): (LogCursor, LogCursor),
    epoch: Epoch,
) -> Result<Vec<FileRef>> {
    let mut files = Vec::new();
    if after.csn >= until.csn {
        return Ok(files);
    }
    let mut put = |(file, content): (FileRef, Bytes)| {
        io.write_file(&dir.join(&file.name), &mut std::iter::once(Ok(content)))?;
        files.push(file);
        Ok(())
    };
    let mut builder = CompletionBuilder::new(after.csn, until.csn, epoch);
    for commit in logs.commits(after, until)? {
        builder.push(commit?)?.map_or(Ok(()), &mut put)?;
    }
    builder.finish()?.map_or(Ok(()), &mut put)?;
    Ok(files)
}

/// Makes chunk files from commits that are pushed one by one.
pub(crate) struct CompletionBuilder {
    encoder: Encoder,
    link: ChunkLink,
    commits: Vec<CommitRecord>,
    bytes: usize,
    /// The last commit taken.
    last: Csn,
    /// The completion's own history hash up to `last`.
    hash: HistoryHash,
    /// The last commit to take.
    until: Csn,
}

impl CompletionBuilder {
    /// Creates a builder for the commits above `after` up to `until`.
    #[must_use]
    pub(crate) fn new(after: Csn, until: Csn, epoch: Epoch) -> Self {
        let link = ChunkLink { epoch, ..ChunkLink::default() };
        Self {
            encoder: Encoder::new(Profile::default()),
            link,
            commits: Vec::new(),
            bytes: 0,
            last: after,
            hash: HistoryHash::ZERO,
            until,
        }
    }

    /// Reports whether every commit up to the last one was taken.
    #[must_use]
    pub(crate) fn is_complete(&self) -> bool {
        self.last == self.until
    }

    /// Takes the next commit. Returns a chunk file and its content whenever a chunk ends: the chunk is full, or the
    /// commit begins an epoch with an earlier time. Ignores commits beyond the last one.
    pub(crate) fn push(&mut self, commit: CommitRecord) -> Result<Option<(FileRef, Bytes)>> {
        if self.is_complete() {
            return Ok(None);
        }
        if commit.csn != self.last.next() {
            return Err(self.gap(commit.csn.to_string()));
        }
        self.last = commit.csn;
        let is_done = |before: &CommitRecord| self.bytes >= RAW_BYTES_MAX || commit.time < before.time;
        let done = self.commits.last().is_some_and(is_done).then(|| self.seal());
        let mut commit = CommitRecord { disk_ops: 0, disk: Bytes::new(), ..commit };
        // A commit without its disk effects has another hash, so a completion has a hash chain of its own.
        self.hash = record::chain(self.hash, [&mut commit]);
        // The record's own size counts too: otherwise millions of commits without effects would end up in one chunk.
        self.bytes += size_of::<CommitRecord>() + commit.effect_bytes();
        self.commits.push(commit);
        Ok(done)
    }

    /// Returns the last chunk file, if any; [`Error::Gap`] if commits are missing.
    pub(crate) fn finish(mut self) -> Result<Option<(FileRef, Bytes)>> {
        if !self.is_complete() {
            return Err(self.gap("the end".to_owned()));
        }
        Ok((!self.commits.is_empty()).then(|| self.seal()))
    }

    fn gap(&self, found: String) -> Error {
        Error::Gap { what: "the commits between the cuts of a base".to_owned(), expected: self.last.next(), found }
    }

    fn seal(&mut self) -> (FileRef, Bytes) {
        let chunk = self.encoder.encode(self.commits.iter(), self.link);
        let header = chunk.header();
        let name = format!("{}-{}.chunk", header.first.padded(), header.last.padded());
        self.link.hash_before = header.hash_after;
        self.commits.clear();
        self.bytes = 0;
        let content = chunk.bytes().clone();
        (FileRef { name, bytes: content.len() as u64, blake3: blake3::hash(&content) }, content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csn::CommitTime;

    #[test]
    fn a_chunk_ends_where_an_epoch_began_at_an_earlier_time() {
        let mut builder = CompletionBuilder::new(Csn(3), Csn(7), Epoch(2));
        let mut names = Vec::new();
        for (csn, time) in [(4, 5), (5, 9), (6, 2), (7, 2)] {
            let (csn, time) = (Csn(csn), CommitTime(time));
            let commit = CommitRecord { csn, time, memory: Bytes::from_static(b"ops"), ..CommitRecord::default() };
            names.extend(builder.push(commit).unwrap().map(|(file, _)| file.name));
        }
        assert!(builder.is_complete());
        names.extend(builder.finish().unwrap().map(|(file, _)| file.name));
        let name = |first: u64, last: u64| format!("{}-{}.chunk", Csn(first).padded(), Csn(last).padded());
        assert_eq!(names, [name(4, 5), name(6, 7)]);
    }
}
