//! The spool: sealed chunks on local disk until the archive has them. Its size is bounded.
//!
//! Guarantees: a chunk is in the spool whole and durable, or not at all. Chunks follow each other without a gap. A
//! chunk is removed only after the archive confirmed it, or when its commits are cut again. The newest chunk stays
//! after its upload, because the next start continues cutting after it. At its limit the spool closes the node's gate
//! until there is room. What the spool keeps for a second archive is described in `spool/second.rs`.

mod second;
mod state;

pub use second::SecondSource;
pub use state::SpoolStatus;

use crate::archive::chunk_put::{Comparison, compare_commits};
use crate::archive::layout::ChunkName;
use crate::archive::uploader::{ChunkSource, SealedChunk};
use crate::chunk::{Chunk, ChunkHeader};
use crate::commit::gate::{Gate, RefusalReason};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::directory::Identity;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::watermark::Watermarks;
use bytes::Bytes;
use parking_lot::Mutex;
use state::{Entry, State};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SUFFIX: &str = ".chunk";
/// Suffix that replaces `chunk` in the name of a damaged chunk's file.
const DAMAGED: &str = "damaged";

/// The spool of one node.
pub struct Spool {
    io: Arc<dyn Io>,
    dir: PathBuf,
    state: Mutex<State>,
    bytes_max: AtomicU64,
    gate: Arc<Gate>,
    watermarks: Arc<Watermarks>,
}

impl Spool {
    /// Opens the spool in `dir`, for a node with this identity; `watermarks` tells how far its logs and its archive
    /// reach. Returns the header of the chunk after which cutting continues, or `None` if the spool does not hold that
    /// chunk: then cutting continues where the archive ends.
    ///
    /// A chunk can be durable before its commits are: after a power cut, a chunk may hold commits that the logs lost
    /// and that are not part of this node's history. Such a chunk is removed. A chunk after a hole, where a damaged
    /// chunk was, is removed, too, and so is a chunk that does not continue the one before; their commits are cut
    /// again. `is_own` tells whether this node's history contains a commit with a given history hash.
    pub fn open(
        io: Arc<dyn Io>,
        dir: &Path,
        bytes_max: u64,
        identity: &Identity,
        gate: Arc<Gate>,
        watermarks: Arc<Watermarks>,
        is_own: &dyn Fn(Csn, HistoryHash) -> Result<bool>,
    ) -> Result<(Self, Option<ChunkHeader>)> {
        io.create_dir(dir)?;
        io.remove_unfinished(dir)?;
        let mut state = State { archived: watermarks.archived.get(), ..State::default() };
        let mut headers: BTreeMap<Csn, ChunkHeader> = BTreeMap::new();
        for file in io.list(dir)? {
            let Some(name) = parse_name(&file) else { continue };
            let path = dir.join(&file);
            let shared = identity.shared_until(name.epoch).unwrap_or_default();
            if name.last > shared.min(watermarks.committed.get()) {
                tracing::warn!(chunk = %path.display(), "a chunk holds commits that this node has lost; the chunk is \
                                                         removed from the spool");
                io.remove(&path)?;
                continue;
            }
            let header = match read_header(&*io, &path, name) {
                Err(error @ Error::Corrupt { .. }) => {
                    set_aside(&*io, &path, &error);
                    continue;
                }
                header => header?,
            };
            let bytes = std::fs::metadata(&path).map_err(Error::io("stat", &path))?.len();
            let (time, last_time) = (header.first_time, header.last_time);
            state.chunks.insert(name.last, Entry { name, time, last_time, bytes });
            headers.insert(header.last, header);
        }
        let mut reached = state.continued(state.archived, &headers);
        if let Some(header) = headers.get(&reached)
            && !is_own(header.last, header.hash_after)?
        {
            tracing::warn!(
                csn = reached.0,
                "the spool's chunks belong to another history than the logs: they are removed"
            );
            reached = state.archived;
        }
        for (_, behind) in state.chunks.split_off(&reached.next()) {
            let path = dir.join(file_name(behind.name));
            tracing::warn!(chunk = %path.display(), after = reached.0, "a chunk follows missing chunks; it is removed \
                and cut again from the logs");
            io.remove(&path)?;
        }
        let spool = Self {
            io,
            dir: dir.to_owned(),
            state: Mutex::new(state),
            bytes_max: AtomicU64::new(bytes_max),
            gate,
            watermarks,
        };
        spool.check_limit();
        Ok((spool, headers.remove(&reached)))
    }

    /// Returns the last commit that the spool's chunks reach from `after` without a gap.
    #[must_use]
    pub fn reachable(&self, after: Csn) -> Csn {
        self.state.lock().reachable(after)
    }

    /// Stores a chunk durably.
    pub fn seal(&self, chunk: &Chunk) -> Result<()> {
        let header = chunk.header();
        let name = ChunkName { epoch: header.epoch, first: header.first, last: header.last };
        let bytes = chunk.bytes().clone();
        self.io.write_file(&self.path(name), &mut std::iter::once(Ok(bytes)))?;
        let (time, last_time, bytes) = (header.first_time, header.last_time, chunk.bytes().len() as u64);
        let entry = Entry { name, time, last_time, bytes };
        let mut state = self.state.lock();
        state.chunks.insert(header.last, entry);
        if let Some(wake) = &state.kept.wake {
            wake.notify_one();
        }
        drop(state);
        self.check_limit();
        Ok(())
    }

    /// Changes the limit for the bytes that wait.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.check_limit();
    }

    /// Returns csn and commit time of the first and the last commit of each chunk.
    #[must_use]
    pub fn times(&self) -> Vec<(Csn, CommitTime)> {
        let state = self.state.lock();
        let ends = |entry: &Entry| [(entry.name.first, entry.time), (entry.name.last, entry.last_time)];
        state.chunks.values().flat_map(ends).collect()
    }

    /// Returns what waits for the archive.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let state = self.state.lock();
        SpoolStatus { archived_time: state.archived_time, ..state.status_after(state.archived) }
    }

    /// Removes the chunks that every archive has, except the newest chunk.
    fn remove_done(&self, state: &mut State) {
        let newest = state.chunks.keys().next_back().copied();
        let until = state.kept.after.map_or(state.archived, |after| after.min(state.archived));
        let done: Vec<Csn> =
            state.chunks.range(..=until).map(|(last, _)| *last).filter(|last| Some(*last) != newest).collect();
        for last in done {
            let entry = state.chunks.remove(&last).expect("found above");
            if let Err(error) = self.io.remove(&self.path(entry.name)) {
                tracing::warn!(%error, "an archived chunk stays in the spool");
            }
        }
    }

    fn check_limit(&self) {
        self.limit_second();
        let waiting = self.state.lock().waiting_bytes();
        let limit = self.bytes_max.load(Ordering::Relaxed);
        if waiting < limit {
            self.gate.open(RefusalReason::SpoolFull);
        } else if !self.gate.stands(RefusalReason::SpoolFull) {
            tracing::error!(waiting, limit, "the spool is full: writes are refused until the archive takes chunks");
            let reason = format!(
                "the spool is full: {waiting} bytes wait for the archive, and spool-max-bytes is {limit}. Writes \
                 are refused until the archive takes chunks. The cause is in archive_last_error of INFO walferry"
            );
            self.gate.close(RefusalReason::SpoolFull, reason);
        }
    }

    fn path(&self, name: ChunkName) -> PathBuf {
        self.dir.join(file_name(name))
    }
}

fn file_name(name: ChunkName) -> String {
    format!("{}-{}-{}{SUFFIX}", name.epoch.padded(), name.first.padded(), name.last.padded())
}

/// Returns the chunk that a spool file's name stands for, or `None` for any other file.
fn parse_name(file: &OsStr) -> Option<ChunkName> {
    let mut parts = file.to_str()?.strip_suffix(SUFFIX)?.split('-');
    let epoch = Epoch(parts.next()?.parse().ok()?);
    let (first, last) = (Csn(parts.next()?.parse().ok()?), Csn(parts.next()?.parse().ok()?));
    parts.next().is_none().then_some(ChunkName { epoch, first, last })
}

fn read_header(io: &dyn Io, path: &Path, name: ChunkName) -> Result<ChunkHeader> {
    let file = io.open_read(path)?;
    let what = path.display().to_string();
    let len = io.len(&file)?.min(ChunkHeader::ENCODED_LEN as u64);
    let header = ChunkHeader::decode(&io.read_at(&file, 0, len as usize)?, &what)?;
    if (header.epoch, header.first, header.last) != (name.epoch, name.first, name.last) {
        return Err(Error::corrupt(what, "header", "does not fit the file's name"));
    }
    Ok(header)
}

/// Renames a damaged chunk, so that the next start ignores it and cuts its commits again.
fn set_aside(io: &dyn Io, path: &Path, error: &Error) {
    let aside = path.with_extension(DAMAGED);
    match io.rename(path, &aside) {
        Ok(()) => {
            tracing::error!(%error, kept_as = %aside.display(), "a damaged chunk in the spool was renamed; its \
                commits are cut again from the logs")
        }
        Err(rename) => {
            tracing::error!(%error, %rename, "a damaged chunk in the spool could not be renamed: remove the file")
        }
    }
}

impl ChunkSource for Spool {
    fn next_sealed(&self, after: Csn) -> Option<SealedChunk> {
        let state = self.state.lock();
        let (_, entry) = state.chunks.range(after.next()..).next()?;
        Some(SealedChunk { name: entry.name })
    }

    fn read(&self, chunk: &SealedChunk) -> Result<Bytes> {
        let path = self.path(chunk.name);
        let bytes = self.io.read_file(&path)?;
        Chunk::open(bytes.clone(), &path.display().to_string())
            .inspect_err(|error| set_aside(&*self.io, &path, error))?;
        Ok(bytes)
    }

    fn archived(&self, csn: Csn) {
        let mut state = self.state.lock();
        state.archived = csn;
        state.archived_time = state.chunks.get(&csn).map(|entry| entry.last_time);
        self.remove_done(&mut state);
        drop(state);
        self.watermarks.archived.raise(csn);
        self.check_limit();
    }

    fn compare(&self, own: &Bytes, found: &Bytes) -> Comparison {
        compare_commits(own, found)
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
