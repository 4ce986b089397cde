//! An op-log segment file: its name, its header, and the iteration over its frames.
//!
//! Guarantees: a segment is preallocated with written zeroes. Its end is found by CRC and by the csn chain, never by
//! the file's size. `FORMAT.md` gives the bytes.

use super::frame::{self, Frame};
use crate::csn::{Csn, Epoch, SegmentId};
use crate::error::{Error, Result};
use crate::io::Io;
use bytes::Bytes;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Bytes of a segment's header; frames follow.
pub const HEADER_LEN: usize = 64;
const MAGIC: [u8; 8] = *b"WFOPLOG\x1A";
const VERSION: u32 = 3;
const SUFFIX: &str = ".oplog";

/// Returns the path of a segment.
#[must_use]
pub fn path(dir: &Path, id: SegmentId) -> PathBuf {
    dir.join(format!("{}{SUFFIX}", id.padded()))
}

/// Returns the segment that a file name stands for, or `None` for any other file.
#[must_use]
pub fn parse_name(name: &OsStr) -> Option<SegmentId> {
    let digits = name.to_str()?.strip_suffix(SUFFIX)?;
    let id = SegmentId(digits.parse().ok()?);
    (id.padded() == digits).then_some(id)
}

/// Lists the segments of a directory, oldest first.
pub fn list(io: &dyn Io, dir: &Path) -> Result<Vec<SegmentId>> {
    let mut ids: Vec<_> = io.list(dir)?.iter().filter_map(|name| parse_name(name)).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// The header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Number of the segment, equal to the number in the file's name.
    pub id: SegmentId,
    /// Epoch of the writer that began the segment.
    pub epoch: Epoch,
    /// Csn of the last frame before this segment; 0 if there was none.
    pub previous: Csn,
    /// Durable watermark when the segment was begun.
    pub durable: Csn,
}

impl SegmentHeader {
    /// Returns the stored form.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.id.0.to_le_bytes());
        out[16..20].copy_from_slice(&self.epoch.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.previous.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.durable.0.to_le_bytes());
        let crc = crc32fast::hash(&out[..HEADER_LEN - 4]);
        out[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes the stored form; `what` names the file in errors.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let Some((head, _)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(Error::corrupt(what, "header", format!("{} bytes instead of {HEADER_LEN}", bytes.len())));
        };
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        if head[..8] != MAGIC {
            return Err(Error::corrupt(what, "header", "does not begin with the op-log magic"));
        }
        if word(8) != VERSION {
            return Err(Error::Version { what: what.into(), found: word(8), known: VERSION });
        }
        if crc32fast::hash(&head[..HEADER_LEN - 4]) != word(HEADER_LEN - 4) {
            return Err(Error::corrupt(what, "header", "CRC does not match"));
        }
        Ok(Self { id: SegmentId(word(12)), epoch: Epoch(word(16)), previous: Csn(long(24)), durable: Csn(long(32)) })
    }
}

/// A segment file, read as a whole.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The decoded header.
    pub header: SegmentHeader,
    bytes: Bytes,
}

impl Segment {
    /// Reads a segment file and checks its header.
    pub fn read(io: &dyn Io, dir: &Path, id: SegmentId) -> Result<Self> {
        let path = path(dir, id);
        let bytes = io.read_file(&path)?;
        Self::parse(bytes, id, &path.display().to_string())
    }

    /// Checks the header in the bytes of a segment file; `what` names the file in errors.
    pub fn parse(bytes: Bytes, id: SegmentId, what: &str) -> Result<Self> {
        let header = SegmentHeader::decode(&bytes, what)?;
        if header.id != id {
            return Err(Error::corrupt(
                what,
                "header",
                format!("the header states segment {}, but the file name states {id}", header.id),
            ));
        }
        Ok(Self { header, bytes })
    }

    /// Returns the bytes of the file.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the bytes from an offset to the end of the file.
    #[must_use]
    pub fn tail(&self, from: u64) -> &[u8] {
        &self.bytes[(from as usize).min(self.bytes.len())..]
    }

    /// Returns an iterator over the frames and their offsets, up to the end of the log.
    #[must_use]
    pub fn frames(&self) -> Frames {
        Frames { segment: self.clone(), at: HEADER_LEN, last: self.header.previous }
    }
}

/// End of the chain of frames in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainEnd {
    /// The segment.
    pub id: SegmentId,
    /// Offset after the last frame.
    pub at: u64,
    /// Csn of the last frame.
    pub last: Csn,
}

impl ChainEnd {
    /// Checks that the chain continues in the next segment.
    pub(super) fn joins(self, dir: &Path, next: &Segment) -> Result<()> {
        let previous = next.header.previous;
        if next.header.id != self.id.next() {
            return Err(Error::Gap {
                what: format!("op-log in {}", dir.display()),
                expected: self.last.next(),
                found: format!("segment {} directly after segment {}", next.header.id, self.id),
            });
        }
        if previous != self.last {
            let detail =
                format!("the last frame has csn {}, but segment {} states csn {previous}", self.last, next.header.id);
            let path = path(dir, self.id);
            return Err(Error::corrupt(path.display().to_string(), format!("byte {}", self.at), detail));
        }
        Ok(())
    }
}

/// Iterator over the frames of a segment.
#[derive(Debug)]
pub struct Frames {
    segment: Segment,
    at: usize,
    /// Csn of the last frame returned, or of the last frame before the segment: the next frame must name it as its
    /// predecessor.
    last: Csn,
}

impl Frames {
    /// Returns the segment's number.
    #[must_use]
    pub fn id(&self) -> SegmentId {
        self.segment.header.id
    }

    /// Returns the offset after the last frame returned.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at as u64
    }

    /// Returns the csn of the last frame returned, or of the last frame before the segment.
    #[must_use]
    pub fn last_csn(&self) -> Csn {
        self.last
    }
}

impl Iterator for Frames {
    /// Offset of a frame, and the frame.
    type Item = (u64, Frame);

    fn next(&mut self) -> Option<Self::Item> {
        let Segment { header, bytes } = &self.segment;
        let frame = frame::decode(bytes, self.at, header.id).filter(|frame| frame.previous == self.last)?;
        let at = self.at as u64;
        self.at += frame.len;
        self.last = frame.commit.csn;
        Some((at, frame))
    }
}
