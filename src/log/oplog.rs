//! The op-log: the log of the keys in memory. It is a directory of segments, of which the last is active.
//!
//! Guarantees: frames are appended in csn order. A sealed segment is synced before the next one gets its first frame,
//! so that only the active segment can have a torn tail. Room is reserved before a command runs: a full disk refuses a
//! write before the write has any effect.
//!
//! Not here: which part of history belongs into the op-log (`commit`), and the meaning of a lost tail (`recovery`).

use super::frame;
use super::oplog_reader::OpLogReader;
use super::segment::{self, ChainEnd, HEADER_LEN, Segment, SegmentHeader};
use crate::csn::{Csn, Epoch, SegmentId};
use crate::error::{Error, Result};
use crate::io::{Io, LogFile};
use crate::record::CommitRecord;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the prepared file that becomes the next segment.
const SPARE: &str = "spare";
/// Name of a new segment while it is made, if no spare segment is ready or large enough.
const FRESH: &str = "fresh";
/// Bytes of zeroes that one write holds when a tail is cut off.
const ZEROES: usize = 1 << 20;

/// A sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sealed {
    id: SegmentId,
    /// Csn of the segment's last frame, or of the last frame before the segment if it has none.
    last: Csn,
    bytes: u64,
}

struct Active {
    id: SegmentId,
    file: LogFile,
    /// Offset of the next frame.
    at: u64,
    capacity: u64,
}

/// The writer of the op-log.
pub struct OpLog {
    io: Arc<dyn Io>,
    dir: PathBuf,
    segment_bytes: u64,
    sealed: VecDeque<Sealed>,
    active: Option<Active>,
    /// Csn of the last frame.
    last: Csn,
    next_id: SegmentId,
    epoch: Epoch,
    /// The durable watermark that the committer reported last; written into the next segment's header.
    durable: Csn,
    /// Whether a sync or a rename has failed: then the content of the disk is unknown, and nothing is appended until a
    /// restart.
    is_broken: bool,
}

impl std::fmt::Debug for OpLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpLog").field("dir", &self.dir).field("last", &self.last).finish_non_exhaustive()
    }
}

impl OpLog {
    /// Opens the op-log in a directory, which is created if missing, and finds its end. New segments will have
    /// `segment_bytes`. Nothing is cut off here: see [`OpLog::truncate_above`].
    pub fn open(io: Arc<dyn Io>, dir: &Path, segment_bytes: u64) -> Result<Self> {
        io.create_dir(dir)?;
        io.remove_unfinished(dir)?;
        let ids = segment::list(&*io, dir)?;
        let mut log = Self {
            io,
            dir: dir.to_owned(),
            segment_bytes,
            sealed: VecDeque::new(),
            active: None,
            last: Csn::ZERO,
            next_id: ids.last().map_or(SegmentId(1), |id| id.next()),
            epoch: Epoch::ZERO,
            durable: Csn::ZERO,
            is_broken: false,
        };
        let mut end = None;
        for (nth, &id) in ids.iter().enumerate() {
            end = Some(log.admit(id, nth + 1 == ids.len(), end)?);
        }
        Ok(log)
    }

    /// Reads one segment at open and adds it to the known ones. `end` is where the chain of frames ended in the
    /// segment before; returns where the chain ends in this one.
    fn admit(&mut self, id: SegmentId, is_last: bool, end: Option<ChainEnd>) -> Result<ChainEnd> {
        let segment = Segment::read(&*self.io, &self.dir, id)?;
        end.map_or(Ok(()), |end| end.joins(&self.dir, &segment))?;
        let mut frames = segment.frames();
        frames.by_ref().for_each(drop);
        self.last = frames.last_csn();
        let end = ChainEnd { id, at: frames.offset(), last: self.last };
        self.durable = self.durable.max(segment.header.durable);
        if is_last {
            let file = self.io.open(&segment::path(&self.dir, id))?;
            self.active = Some(Active { id, file, at: frames.offset(), capacity: segment.capacity() });
        } else {
            self.sealed.push_back(Sealed { id, last: self.last, bytes: segment.capacity() });
        }
        Ok(end)
    }

    /// Returns the csn of the last frame, or `ZERO` if there is none.
    #[must_use]
    pub fn last(&self) -> Csn {
        self.last
    }

    /// Returns the highest durable watermark in the segment headers, or reported since.
    #[must_use]
    pub fn durable_told(&self) -> Csn {
        self.durable
    }

    /// Notes the durable watermark, for the next segment's header.
    pub fn note_durable(&mut self, durable: Csn) {
        self.durable = self.durable.max(durable);
    }

    /// Sets the epoch that the next segment's header gets.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// Returns the bytes of all segments; of the active segment only the bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|s| s.bytes).sum::<u64>() + self.active.as_ref().map_or(0, |a| a.at)
    }

    /// Returns the active segment's file, which a sync must reach. Sealed segments are already synced.
    #[must_use]
    pub fn active_file(&self) -> Option<LogFile> {
        self.active.as_ref().map(|active| active.file.clone())
    }

    /// Returns a reader of this op-log, for other threads.
    #[must_use]
    pub fn reader(&self) -> OpLogReader {
        OpLogReader::new(Arc::clone(&self.io), &self.dir)
    }

    /// Reports whether the content of the disk is unknown, because a sync failed, for example. Unlike a full disk,
    /// this state lasts until a restart.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Returns the bytes of frames that fit into the active segment; 0 if nothing may be appended.
    #[must_use]
    pub fn room(&self) -> usize {
        let active = self.active.as_ref().filter(|_| !self.is_broken);
        active.map_or(0, |active| active.capacity.saturating_sub(active.at) as usize)
    }

    /// Makes sure that frames of `bytes` fit into the active segment; begins a new segment if they do not. On an error
    /// nothing may be appended: the disk is full, or the op-log is broken.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.is_broken {
            return Err(Error::NeedsRestart {
                reason: "the op-log takes no commits until a restart: a sync or a rename failed, so the content of \
                         the op-log on the disk is unknown"
                    .into(),
            });
        }
        match &self.active {
            Some(active) if active.at + bytes as u64 <= active.capacity => Ok(()),
            _ => self.rotate(bytes as u64),
        }
    }

    /// Returns the bytes of the frames that [`OpLog::append`] makes of these commits.
    #[must_use]
    pub fn frame_bytes(commits: &[CommitRecord]) -> usize {
        commits.iter().filter(|commit| belongs(commit)).map(frame::encoded_len).sum()
    }

    /// Appends frames of those commits of a group that belong into the op-log. Returns their bytes. After this the
    /// frames are in the page cache, but not synced.
    pub fn append(&mut self, commits: &[CommitRecord]) -> Result<usize> {
        self.append_all(commits.iter().filter(|commit| belongs(commit)))
    }

    /// Appends a frame of a commit whether the commit belongs into the op-log or not. Readers take the commit from
    /// this frame and not from the WAL.
    pub fn append_in_place(&mut self, commit: &CommitRecord) -> Result<()> {
        self.append_all(std::iter::once(commit)).map(drop)
    }

    fn append_all<'c>(&mut self, commits: impl Iterator<Item = &'c CommitRecord> + Clone) -> Result<usize> {
        let bytes = commits.clone().map(frame::encoded_len).sum::<usize>();
        if bytes == 0 {
            return Ok(0);
        }
        self.reserve(bytes)?;
        let active = self.active.as_mut().expect("reserved above");
        let mut frames = Vec::with_capacity(bytes);
        let mut last = self.last;
        for commit in commits {
            assert!(commit.csn > last, "op-log frames follow in csn order, found {} after {last}", commit.csn);
            frame::encode(&mut frames, active.id, last, commit);
            last = commit.csn;
        }
        self.io.write_at(&active.file, active.at, Bytes::from(frames))?;
        active.at += bytes as u64;
        self.last = last;
        Ok(bytes)
    }

    /// Syncs the appended frames.
    pub fn sync(&mut self) -> Result<()> {
        let synced = self.active.as_ref().map_or(Ok(()), |active| self.io.sync_data(&active.file));
        self.or_broken(synced)
    }

    /// Returns the spare segment to prepare if more than a quarter of the active segment is used and no spare segment
    /// is ready.
    #[must_use]
    pub fn wants_spare(&self) -> Option<SpareSegment> {
        let active = self.active.as_ref()?;
        let path = self.dir.join(SPARE);
        (active.at * 4 > active.capacity && !path.exists()).then(|| SpareSegment {
            io: Arc::clone(&self.io),
            path,
            bytes: self.segment_bytes,
        })
    }

    fn rotate(&mut self, bytes: u64) -> Result<()> {
        let id = self.next_id;
        let path = segment::path(&self.dir, id);
        let wanted = self.segment_bytes.max(HEADER_LEN as u64 + bytes);
        let spare = self.dir.join(SPARE);
        let file = if wanted == self.segment_bytes && spare.exists() {
            self.io.open(&spare)?
        } else {
            let fresh = self.dir.join(FRESH);
            if fresh.exists() {
                self.io.remove(&fresh)?;
            }
            self.io.create_zeroed(&fresh, wanted)?
        };
        let header = SegmentHeader { id, epoch: self.epoch, previous: self.last, durable: self.durable };
        let sealed = self.active.as_ref().map_or(Ok(()), |active| self.io.sync_data(&active.file));
        self.or_broken(sealed)?;
        self.io.write_at(&file, 0, Bytes::copy_from_slice(&header.encode()))?;
        let begun = self.io.sync_data(&file);
        self.or_broken(begun)?;
        let renamed = self.io.rename(file.path(), &path);
        // A full disk renames nothing. After any other error the new segment may or may not have its name; then
        // nothing may be appended to the active segment.
        self.is_broken |= renamed.as_ref().is_err_and(|error| !error.is_want_of_space());
        renamed?;
        // The new segment has its name: a frame in the segment before would break the chain.
        let named = self.io.sync_dir(&self.dir).and_then(|()| self.io.open(&path));
        let file = self.or_broken(named)?;
        let next = Active { id, file, at: HEADER_LEN as u64, capacity: wanted };
        if let Some(old) = self.active.replace(next) {
            self.sealed.push_back(Sealed { id: old.id, last: self.last, bytes: old.at });
        }
        self.next_id = id.next();
        Ok(())
    }

    /// Marks the op-log as broken if `outcome` is an error. A failed sync is never retried: a second one may succeed
    /// although pages are lost.
    fn or_broken<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.is_broken |= outcome.is_err();
        outcome
    }

    /// Cuts off all frames above `csn` and everything after the last valid frame, durably.
    pub fn truncate_above(&mut self, csn: Csn) -> Result<()> {
        let mut ids = segment::list(&*self.io, &self.dir)?;
        while let Some(id) = ids.pop() {
            let segment = Segment::read(&*self.io, &self.dir, id)?;
            if segment.header.previous > csn || (segment.header.previous == csn && !ids.is_empty()) {
                self.io.remove(&segment::path(&self.dir, id))?;
                continue;
            }
            let (mut at, mut last) = (HEADER_LEN as u64, segment.header.previous);
            for (offset, frame) in segment.frames().take_while(|(_, frame)| frame.commit.csn <= csn) {
                (at, last) = (offset + frame.len as u64, frame.commit.csn);
            }
            let file = self.io.open(&segment::path(&self.dir, id))?;
            self.zero(&file, at, &segment)?;
            self.sealed.retain(|sealed| sealed.id < id);
            self.active = Some(Active { id, file, at, capacity: segment.capacity() });
            self.last = last;
            self.next_id = id.next();
            return self.io.sync_dir(&self.dir);
        }
        self.active = None;
        self.sealed.clear();
        self.last = Csn::ZERO;
        Ok(())
    }

    /// Overwrites the bytes from `from` to the segment's end with zeroes, up to the last byte that is not zero.
    fn zero(&self, file: &LogFile, from: u64, segment: &Segment) -> Result<()> {
        let tail = segment.tail(from);
        let dirty = tail.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let zeroes = Bytes::from(vec![0; dirty.min(ZEROES)]);
        for start in (0..dirty).step_by(ZEROES) {
            let length = (dirty - start).min(ZEROES);
            self.io.write_at(file, from + start as u64, zeroes.slice(..length))?;
        }
        self.io.sync_data(file)
    }

    /// Removes sealed segments that hold nothing above `csn`. Returns the bytes freed.
    pub fn purge_until(&mut self, csn: Csn) -> Result<u64> {
        let mut freed = 0;
        while let Some(oldest) = self.sealed.front().copied().filter(|oldest| oldest.last <= csn) {
            match self.io.remove(&segment::path(&self.dir, oldest.id)) {
                // An earlier removal returned an error but took effect.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
            self.sealed.pop_front();
            freed += oldest.bytes;
        }
        Ok(freed)
    }
}

/// Reports whether a commit has a frame: it touches a memory engine, or it has no effect at all, because a no-op must
/// be in one of the logs.
#[must_use]
pub fn belongs(commit: &CommitRecord) -> bool {
    commit.touches_memory() || !commit.touches_disk()
}

/// A segment that is prepared without any lock.
#[derive(Debug)]
pub struct SpareSegment {
    io: Arc<dyn Io>,
    path: PathBuf,
    bytes: u64,
}

impl SpareSegment {
    /// Writes the zeroes of the segment and makes the file durable.
    pub fn prepare(&self) -> Result<()> {
        self.io.create_zeroed(&self.path, self.bytes).map(drop)
    }
}

#[cfg(test)]
#[path = "oplog_fault_tests.rs"]
mod fault_tests;
#[cfg(test)]
#[path = "oplog_tests.rs"]
mod tests;
