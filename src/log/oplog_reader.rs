//! Reads the op-log's files while the writer appends.

use super::segment::{self, ChainEnd, Frames, HEADER_LEN, Segment, SegmentHeader};
use crate::csn::{Csn, SegmentId};
use crate::error::{Error, Result};
use crate::io::Io;
use crate::record::CommitRecord;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A reader of the op-log.
#[derive(Clone, Debug)]
pub struct OpLogReader {
    io: Arc<dyn Io>,
    dir: PathBuf,
}

impl OpLogReader {
    /// Makes a reader of the op-log in `dir`.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, dir: &Path) -> Self {
        Self { io, dir: dir.to_owned() }
    }

    /// Reads the commits above `after`, up to and including `until`, which must have been appended before the call.
    /// Segments are read one by one. Returns [`Error::Gap`] if frames right above `after` were purged.
    pub fn commits(&self, after: Csn, until: Csn) -> Result<Commits> {
        let ids = segment::list(&*self.io, &self.dir)?;
        let mut commits = Commits { reader: self.clone(), ids: ids.into(), frames: None, after, until, end: None };
        commits.skip_to_start()?;
        Ok(commits)
    }
}

/// Iterator over commits of the op-log.
#[derive(Debug)]
pub struct Commits {
    reader: OpLogReader,
    /// Segments that are not read yet.
    ids: VecDeque<SegmentId>,
    /// The rest of the segment that is being read.
    frames: Option<Frames>,
    after: Csn,
    until: Csn,
    /// End of the chain in the segment that was read last; `None` before the first.
    end: Option<ChainEnd>,
}

impl Commits {
    /// Drops the segments that end at or below `after`, by the header of the segment that follows each.
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

    /// Returns the frames of the next segment, or `None` if no later segment is wanted.
    fn open_next(&mut self) -> Result<Option<Frames>> {
        let Some(id) = self.ids.pop_front() else { return Ok(None) };
        let segment = Segment::read(&*self.reader.io, &self.reader.dir, id)?;
        match self.end {
            Some(end) => end.joins(&self.reader.dir, &segment)?,
            None if segment.header.previous > self.after => {
                return Err(Error::Gap {
                    what: format!("op-log in {}", self.reader.dir.display()),
                    expected: self.after.next(),
                    found: format!("segments that start after csn {}", segment.header.previous),
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
