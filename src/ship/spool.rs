//! The spool: sealed chunks on local disk until the archive has them. Bounded.
//!
//! Guarantees: a chunk is there whole and durable, or not at all; chunks follow each other without a gap; a chunk is
//! removed only after the archive confirmed it, or when it is cut anew. The newest one stays after its upload: it tells
//! the next start where cutting goes on. Beyond its limit the spool closes the node's gate until there is room again. What
//! it keeps for a second archive is in `spool/second.rs`.

mod second;

pub use second::SecondSource;

use crate::archive::layout::ChunkName;
use crate::archive::uploader::{ChunkSource, Comparison, SealedChunk};
use crate::chunk::{Chunk, ChunkHeader};
use crate::commit::gate::{Gate, RefusalReason};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::directory::Identity;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::watermark::Watermarks;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SUFFIX: &str = ".chunk";
/// In its place in the name of a chunk that turned out to be damaged.
const DAMAGED: &str = "damaged";

struct Entry {
    name: ChunkName,
    time: CommitTime,
    last_time: CommitTime,
    bytes: u64,
}

#[derive(Default)]
struct State {
    /// By last csn.
    chunks: BTreeMap<Csn, Entry>,
    archived: Csn,
    /// Time of that commit; none if it is not known.
    archived_time: Option<CommitTime>,
    /// For the second archive.
    kept: second::Kept,
}

impl State {
    /// Bytes of chunks that wait for the archive.
    fn waiting_bytes(&self) -> u64 {
        self.chunks.range(self.archived.next()..).map(|(_, entry)| entry.bytes).sum()
    }

    /// The last commit that chunks reach without a gap from `after` on, each of which continues the history of the one
    /// before it.
    fn continued(&self, after: Csn, headers: &BTreeMap<Csn, ChunkHeader>) -> Csn {
        let (mut reached, mut hash) = (after, None);
        for (last, entry) in self.chunks.range(after.next()..) {
            let header = &headers[last];
            let is_next = entry.name.first == reached.next();
            let is_other = is_next && hash.is_some_and(|hash| hash != header.hash_before);
            if entry.name.first > reached.next() || is_other {
                break;
            }
            (reached, hash) = (*last, Some(header.hash_after));
        }
        reached
    }

    fn status_after(&self, after: Csn) -> SpoolStatus {
        let waiting = self.chunks.range(after.next()..);
        let empty = SpoolStatus::default();
        waiting.fold(empty, |status, (_, entry)| SpoolStatus {
            chunks: status.chunks + 1,
            bytes: status.bytes + entry.bytes,
            ..status
        })
    }
}

/// What the spool holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpoolStatus {
    /// Chunks not archived yet.
    pub chunks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Time of the last archived commit; none if none was archived since the start.
    pub archived_time: Option<CommitTime>,
}

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
    /// Opens the spool in `dir`, of a node with this identity whose logs and archive are known to `watermarks`; gives the
    /// header of the chunk that cutting goes on behind, if it does not go on where the archive ends.
    ///
    /// A chunk is durable before the commits in it need be: after a power cut it can hold commits that the logs lost.
    /// Those are not this node's history any more, so such a chunk is removed. So is one behind a hole, where a damaged
    /// chunk was, and one that does not continue the chunk before it: everything from there on is cut anew. `is_own` tells
    /// whether this node's history went through a commit with a history hash.
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
                tracing::warn!(chunk = %path.display(), "holds commits that this node lost: it is removed from the spool");
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
            tracing::warn!(chunk = %path.display(), after = reached.0, "lies behind a hole: it is removed and cut anew");
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

    /// The last commit that the spool's chunks reach without a gap from `after` on.
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

    /// Changes the limit.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::Relaxed);
        self.check_limit();
    }

    /// When the first and the last commit of each chunk were made.
    #[must_use]
    pub fn times(&self) -> Vec<(Csn, CommitTime)> {
        let state = self.state.lock();
        let ends = |entry: &Entry| [(entry.name.first, entry.time), (entry.name.last, entry.last_time)];
        state.chunks.values().flat_map(ends).collect()
    }

    /// What waits for the archive.
    #[must_use]
    pub fn status(&self) -> SpoolStatus {
        let state = self.state.lock();
        SpoolStatus { archived_time: state.archived_time, ..state.status_after(state.archived) }
    }

    /// Removes what every archive has, but the newest chunk.
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
                "the spool is full: {waiting} bytes wait for the archive, spool-max-bytes is {limit}. Writes are refused until the \
                 archive takes them; see archive_last_error in INFO walferry"
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

/// The chunk a spool file's name stands for; `None` for any other file.
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

/// Takes a damaged chunk out of the way of the next start, which cuts anew what was in it.
fn set_aside(io: &dyn Io, path: &Path, error: &Error) {
    let aside = path.with_extension(DAMAGED);
    match io.rename(path, &aside) {
        Ok(()) => {
            tracing::error!(%error, kept_as = %aside.display(), "a chunk in the spool is damaged: it is set aside")
        }
        Err(rename) => tracing::error!(%error, %rename, "a damaged chunk stays in the spool: remove it"),
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
        comparison(own, found)
    }
}

/// How one chunk's bytes relate to another's.
pub(super) fn comparison(own: &Bytes, found: &Bytes) -> Comparison {
    let commits = |bytes: &Bytes| Chunk::open(bytes.clone(), "chunk")?.commits().collect::<Result<Vec<_>>>();
    if own == found {
        return Comparison::Same;
    }
    match (commits(own), commits(found)) {
        (Ok(own), Ok(found)) if own == found => Comparison::Same,
        (_, Err(Error::Corrupt { .. })) => Comparison::Unreadable,
        _ => Comparison::Other,
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
