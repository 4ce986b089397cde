//! The op-log: the memory engines' log, a directory of segments of which the last is active.
//!
//! Guarantees: frames are appended in csn order; a sealed segment was synced before the next one got its first frame,
//! so that only the active segment can have a torn tail. Room is reserved before a command runs: a full disk refuses a
//! write before it has any effect.
//!
//! Not here: which commits belong in it (`commit`), what a lost tail means (`recovery`).

use super::frame;
use super::segment::{self, Frames, HEADER_LEN, Segment, SegmentHeader};
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
/// Name of a segment made in haste, because no spare one was ready or large enough.
const FRESH: &str = "fresh";
/// Zeroes written at a time when a tail is cut off.
const ZEROES: usize = 1 << 20;

/// A sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sealed {
    id: SegmentId,
    /// Csn of its last frame, or of the last one before it if it has none.
    last: Csn,
    bytes: u64,
}

struct Active {
    id: SegmentId,
    file: LogFile,
    /// Where the next frame goes.
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
    /// Durable watermark as the committer last told it; goes into the next segment's header.
    durable: Csn,
    /// A sync or a rename failed: what the disk holds is unknown, and nothing is appended any more.
    is_broken: bool,
}

impl std::fmt::Debug for OpLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpLog").field("dir", &self.dir).field("last", &self.last).finish_non_exhaustive()
    }
}

impl OpLog {
    /// Opens the op-log of a directory, which is created if missing, and finds its end. The next segment will have
    /// `segment_bytes`. Nothing is cut here: see [`OpLog::truncate_above`].
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

    /// Reads one segment at open and appends it to what is known. Takes and returns where the chain of frames ends.
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

    /// Csn of the last frame; `ZERO` if there is none.
    #[must_use]
    pub fn last(&self) -> Csn {
        self.last
    }

    /// The highest durable watermark the segment headers tell.
    #[must_use]
    pub fn durable_told(&self) -> Csn {
        self.durable
    }

    /// Takes over the durable watermark, for the next segment's header.
    pub fn note_durable(&mut self, durable: Csn) {
        self.durable = self.durable.max(durable);
    }

    /// The generation that writes from here on, for the next segment's header.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = epoch;
    }

    /// Bytes of all segments that hold frames, the active one by what is used of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sealed.iter().map(|s| s.bytes).sum::<u64>() + self.active.as_ref().map_or(0, |a| a.at)
    }

    /// The file that a sync must reach; sealed ones were synced before.
    #[must_use]
    pub fn active_file(&self) -> Option<LogFile> {
        self.active.as_ref().map(|active| active.file.clone())
    }

    /// A reader of this op-log, for other threads.
    #[must_use]
    pub fn reader(&self) -> OpLogReader {
        OpLogReader { io: Arc::clone(&self.io), dir: self.dir.clone() }
    }

    /// Whether a sync failed, or something else left unknown what the disk holds: unlike a full disk, that does not end
    /// before a restart.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Bytes of frames that fit without a new segment; 0 if nothing may be appended.
    #[must_use]
    pub fn room(&self) -> usize {
        let active = self.active.as_ref().filter(|_| !self.is_broken);
        active.map_or(0, |active| active.capacity.saturating_sub(active.at) as usize)
    }

    /// Makes sure that frames of `bytes` fit without a new segment. An error means that nothing was written and
    /// nothing may be: the disk is full or broken.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.is_broken {
            return Err(Error::Refused {
                reason: "the op-log takes nothing until a restart, because what the disk holds of it is unknown since a sync or a rename failed".into(),
            });
        }
        match &self.active {
            Some(active) if active.at + bytes as u64 <= active.capacity => Ok(()),
            _ => self.rotate(bytes as u64),
        }
    }

    /// Bytes of the frames that [`OpLog::append`] makes of these commits.
    #[must_use]
    pub fn frame_bytes(commits: &[CommitRecord]) -> usize {
        commits.iter().filter(|commit| belongs(commit)).map(frame::encoded_len).sum()
    }

    /// Appends the frames of those commits of a group that belong in the op-log. They are in the OS afterwards. Returns
    /// their bytes.
    pub fn append(&mut self, commits: &[CommitRecord]) -> Result<usize> {
        self.append_all(commits.iter().filter(|commit| belongs(commit)))
    }

    /// Appends a frame that readers take instead of what the WAL says of the commit.
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
            assert!(commit.csn > last, "op-log frames go upwards: {} after {last}", commit.csn);
            frame::encode(&mut frames, active.id, last, commit);
            last = commit.csn;
        }
        self.io.write_at(&active.file, active.at, Bytes::from(frames))?;
        active.at += bytes as u64;
        self.last = last;
        Ok(bytes)
    }

    /// Syncs what was appended.
    pub fn sync(&mut self) -> Result<()> {
        let synced = self.active.as_ref().map_or(Ok(()), |active| self.io.sync_data(&active.file));
        self.or_broken(synced)
    }

    /// Whether a good part of the active segment is used and no spare segment lies ready.
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
        // A full disk renames nothing. After any other error the segment may count or not: then nothing may be appended to
        // the one before.
        self.is_broken |= renamed.as_ref().is_err_and(|error| !error.is_want_of_space());
        renamed?;
        // From here on the segment counts: appending to the one before would break the chain.
        let named = self.io.sync_dir(&self.dir).and_then(|()| self.io.open(&path));
        let file = self.or_broken(named)?;
        let next = Active { id, file, at: HEADER_LEN as u64, capacity: wanted };
        if let Some(old) = self.active.replace(next) {
            self.sealed.push_back(Sealed { id: old.id, last: self.last, bytes: old.at });
        }
        self.next_id = id.next();
        Ok(())
    }

    /// A failed sync is never tried again: a second one may succeed although pages are gone.
    fn or_broken<T>(&mut self, outcome: Result<T>) -> Result<T> {
        self.is_broken |= outcome.is_err();
        outcome
    }

    /// Cuts off every frame above `csn` and everything behind the last valid frame, durably.
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

    /// Overwrites what is not zero from `from` to the segment's end.
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

    /// Removes every segment, for a directory whose state was replaced from elsewhere.
    pub fn reset(&mut self, after: Csn) -> Result<()> {
        self.active = None;
        self.sealed.clear();
        for id in segment::list(&*self.io, &self.dir)? {
            self.io.remove(&segment::path(&self.dir, id))?;
        }
        self.last = after;
        self.io.sync_dir(&self.dir)
    }

    /// Removes sealed segments that hold nothing above `csn`; returns how many bytes that freed.
    pub fn purge_until(&mut self, csn: Csn) -> Result<u64> {
        let mut freed = 0;
        while let Some(oldest) = self.sealed.front().copied().filter(|oldest| oldest.last <= csn) {
            match self.io.remove(&segment::path(&self.dir, oldest.id)) {
                // It was removed, although an error came the time before.
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
            self.sealed.pop_front();
            freed += oldest.bytes;
        }
        Ok(freed)
    }
}

/// Where the chain of frames ends in a segment.
#[derive(Clone, Copy, Debug)]
struct ChainEnd {
    id: SegmentId,
    /// Offset behind the last frame.
    at: u64,
    /// Csn of the last frame.
    last: Csn,
}

impl ChainEnd {
    /// Checks that the chain goes on in the next segment.
    fn joins(self, dir: &Path, next: &Segment) -> Result<()> {
        let previous = next.header.previous;
        if next.header.id != self.id.next() {
            return Err(Error::Gap {
                what: format!("op-log in {}", dir.display()),
                expected: self.last.next(),
                found: format!("segment {} right behind segment {}", next.header.id, self.id),
            });
        }
        if previous != self.last {
            let detail =
                format!("the last frame is that of csn {}; segment {} says csn {previous}", self.last, next.header.id);
            let path = segment::path(dir, self.id);
            return Err(Error::corrupt(path.display().to_string(), format!("byte {}", self.at), detail));
        }
        Ok(())
    }
}

/// Whether a commit has a frame: it touches a memory engine, or it has no effect at all (a no-op must stand somewhere).
#[must_use]
pub fn belongs(commit: &CommitRecord) -> bool {
    commit.touches_memory() || !commit.touches_disk()
}

/// A segment to be prepared outside the writer lock.
#[derive(Debug)]
pub struct SpareSegment {
    io: Arc<dyn Io>,
    path: PathBuf,
    bytes: u64,
}

impl SpareSegment {
    /// Writes the zeroes and makes them durable.
    pub fn prepare(&self) -> Result<()> {
        self.io.create_zeroed(&self.path, self.bytes).map(drop)
    }
}

/// Reads the op-log's files while the writer goes on.
#[derive(Clone, Debug)]
pub struct OpLogReader {
    io: Arc<dyn Io>,
    dir: PathBuf,
}

impl OpLogReader {
    /// A reader of the op-log in `dir`.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, dir: &Path) -> Self {
        Self { io, dir: dir.to_owned() }
    }

    /// The commits above `after` up to and including `until`, which must have been appended before the call. The
    /// segments are read one by one. `Gap` if frames right above `after` were purged.
    pub fn commits(&self, after: Csn, until: Csn) -> Result<Commits> {
        let ids = segment::list(&*self.io, &self.dir)?;
        let mut commits = Commits { reader: self.clone(), ids: ids.into(), frames: None, after, until, end: None };
        commits.skip_to_start()?;
        Ok(commits)
    }
}

/// Iterator over the commits of the op-log.
#[derive(Debug)]
pub struct Commits {
    reader: OpLogReader,
    /// Segments not read yet.
    ids: VecDeque<SegmentId>,
    /// What is left of the segment that is being read.
    frames: Option<Frames>,
    after: Csn,
    until: Csn,
    /// Where the segment read last ends; `None` before the first.
    end: Option<ChainEnd>,
}

impl Commits {
    /// Drops the segments that end at or below `after`: those whose successor says so.
    fn skip_to_start(&mut self) -> Result<()> {
        while let Some(&second) = self.ids.get(1) {
            let path = segment::path(&self.reader.dir, second);
            let file = self.reader.io.open_read(&path)?;
            let head = self.reader.io.read_at(&file, 0, HEADER_LEN)?;
            if SegmentHeader::decode(&head, &path.display().to_string())?.previous > self.after {
                break;
            }
            self.ids.pop_front();
        }
        Ok(())
    }

    /// The frames of the next segment; `None` behind the last one that is wanted.
    fn open_next(&mut self) -> Result<Option<Frames>> {
        let Some(id) = self.ids.pop_front() else { return Ok(None) };
        let segment = Segment::read(&*self.reader.io, &self.reader.dir, id)?;
        match self.end {
            Some(end) => end.joins(&self.reader.dir, &segment)?,
            None if segment.header.previous > self.after => {
                return Err(Error::Gap {
                    what: format!("op-log in {}", self.reader.dir.display()),
                    expected: self.after.next(),
                    found: format!("segments that start behind csn {}", segment.header.previous),
                });
            }
            None => {}
        }
        Ok((segment.header.previous < self.until).then(|| segment.frames()))
    }
}

impl Iterator for Commits {
    type Item = Result<CommitRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let (after, until) = (self.after, self.until);
        loop {
            if let Some(frames) = &mut self.frames {
                if let Some((_, frame)) = frames.find(|(_, frame)| frame.commit.csn > after) {
                    return (frame.commit.csn <= until).then_some(Ok(frame.commit));
                }
                self.end = Some(ChainEnd { id: frames.id(), at: frames.offset(), last: frames.last_csn() });
            }
            match self.open_next() {
                Ok(frames) => self.frames = Some(frames?),
                Err(error) => {
                    self.ids.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "oplog_fault_tests.rs"]
mod fault_tests;
#[cfg(test)]
#[path = "oplog_tests.rs"]
mod tests;
