//! Reads the commits of an open chunk: a merge of its sections by csn.
//!
//! Guarantees: [`Commits`] yields the commits from first to last without a gap. Times agree between the sections and
//! never decrease. History hashes lead from the header's first to its last, and no entry is left over. The first error
//! ends the iteration. Blocks are decompressed one at a time, when the iterator reaches them.

use super::codec::BlockDecompressor;
use super::decode::{Chunk, position};
use super::entry::EntryHead;
use super::kind::SectionKind;
use crate::csn::{CommitTime, Csn, HistoryHash};
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use bytes::{Buf, Bytes};

/// Iterator over a chunk's commits. Ends after the first error.
pub struct Commits<'c> {
    chunk: &'c Chunk,
    sections: [SectionReader<'c>; SectionKind::COUNT],
    /// Csn of the next commit; `None` at the end.
    next: Option<Csn>,
    /// Commit time of the last commit yielded; the chunk's first time before that.
    time: CommitTime,
    /// History hash after the last commit yielded; the hash before the chunk before that.
    hash: HistoryHash,
}

impl Chunk {
    /// Returns an iterator over the commits in csn order, each under the chunk's epoch.
    #[must_use]
    pub fn commits(&self) -> Commits<'_> {
        Commits::new(self)
    }
}

impl<'c> Commits<'c> {
    fn new(chunk: &'c Chunk) -> Self {
        Self {
            chunk,
            sections: SectionKind::ALL.map(|kind| SectionReader::new(chunk, kind)),
            next: Some(chunk.header().first),
            time: chunk.header().first_time,
            hash: chunk.header().hash_before,
        }
    }

    /// Returns the history hash before the next commit, or after the last one at the end.
    #[must_use]
    pub fn hash(&self) -> HistoryHash {
        self.hash
    }
}

impl Iterator for Commits<'_> {
    type Item = Result<CommitRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        let csn = self.next.take()?;
        let item = self.read(csn);
        if item.is_ok() && csn < self.chunk.header().last {
            self.next = Some(csn.next());
        }
        Some(item)
    }
}

impl Commits<'_> {
    fn read(&mut self, csn: Csn) -> Result<CommitRecord> {
        let header = self.chunk.header();
        let time = self.agreed_time(csn)?;
        let memory = self.take_memory_ops(csn)?;
        let wal = self.sections[SectionKind::Wal.index()].take(csn)?;
        if wal.as_ref().is_some_and(|entry| entry.disk_ops == 0) && !memory.is_empty() {
            return Err(self.chunk.corrupt_at(csn, "marked as a commit without effects, yet it has memory ops"));
        }
        let (disk_ops, disk) = wal.map_or_else(Default::default, |entry| (entry.disk_ops, entry.payload));
        if csn == header.last {
            self.check_end(time)?;
        }
        self.time = time;
        let mut commit = CommitRecord { csn, epoch: header.epoch, time, hash: self.hash, disk_ops, disk, memory };
        commit.hash = commit.hash_after(self.hash);
        if csn == header.last && commit.hash != header.hash_after {
            let detail = format!(
                "the history hash of its commits is {}, but the header states {}",
                commit.hash, header.hash_after
            );
            return Err(self.chunk.corrupt_at(csn, detail));
        }
        self.hash = commit.hash;
        Ok(commit)
    }

    /// Returns the commit's ops on keys in memory, which only the section that suits them may have.
    fn take_memory_ops(&mut self, csn: Csn) -> Result<Bytes> {
        let mut ops = Bytes::new();
        for section in &mut self.sections {
            if section.kind == SectionKind::Wal {
                continue;
            }
            let Some(entry) = section.take(csn)? else { continue };
            if !ops.is_empty() || SectionKind::of_memory_ops(&entry.payload) != Some(section.kind) {
                let detail = format!("the {} section has ops that belong in another section", section.kind.name());
                return Err(self.chunk.corrupt_at(csn, detail));
            }
            ops = entry.payload;
        }
        Ok(ops)
    }

    /// Returns the commit time, on which every section that has the commit must agree.
    fn agreed_time(&mut self, csn: Csn) -> Result<CommitTime> {
        let mut agreed: Option<CommitTime> = None;
        let mut later: Option<Csn> = None;
        for section in &mut self.sections {
            match section.peek()? {
                Some(place) if place.csn == csn => {
                    if let Some(time) = agreed.filter(|time| *time != place.time) {
                        return Err(self
                            .chunk
                            .corrupt_at(csn, format!("one section states {time}, another states {}", place.time)));
                    }
                    agreed = Some(place.time);
                }
                Some(place) => later = Some(later.map_or(place.csn, |csn| csn.min(place.csn))),
                None => {}
            }
        }
        let Some(time) = agreed else {
            let found = later.map_or_else(|| "the end".to_owned(), |csn| format!("csn {csn}"));
            return Err(Error::Gap { what: self.chunk.what().to_owned(), expected: csn, found });
        };
        if time < self.time || (csn == self.chunk.header().first && time != self.time) {
            return Err(self.chunk.corrupt_at(csn, format!("commit time {time} does not follow {}", self.time)));
        }
        Ok(time)
    }

    fn check_end(&mut self, time: CommitTime) -> Result<()> {
        let header = self.chunk.header();
        if time != header.last_time {
            let detail = format!("the commit time is {time}, but the header states {}", header.last_time);
            return Err(self.chunk.corrupt_at(header.last, detail));
        }
        for section in &mut self.sections {
            if let Some(place) = section.peek()? {
                let detail = format!("an entry of csn {} is left over", place.csn);
                return Err(self.chunk.corrupt(section.position(), detail));
            }
        }
        Ok(())
    }
}

/// Csn and commit time of an entry.
#[derive(Clone, Copy)]
struct Place {
    csn: Csn,
    time: CommitTime,
}

/// An entry that was taken from a section.
struct Entry {
    /// Number of RocksDB operations; 0 outside `wal`.
    disk_ops: u32,
    payload: Bytes,
}

/// Reads one section entry by entry.
struct SectionReader<'c> {
    chunk: &'c Chunk,
    kind: SectionKind,
    decompressor: BlockDecompressor,
    /// Blocks begun so far.
    blocks_begun: usize,
    /// Raw bytes of the blocks that have not begun.
    raw_left: u64,
    /// The rest of the current block.
    block: Bytes,
    /// Head of the entry whose payload comes next.
    peeked: Option<(Place, EntryHead)>,
    /// Lowest csn that the next entry can have, and the time of the entry before.
    at: Place,
}

impl<'c> SectionReader<'c> {
    fn new(chunk: &'c Chunk, kind: SectionKind) -> Self {
        Self {
            chunk,
            kind,
            decompressor: BlockDecompressor::default(),
            blocks_begun: 0,
            raw_left: chunk.header().section(kind).raw_len,
            block: Bytes::new(),
            peeked: None,
            at: Place { csn: chunk.header().first, time: chunk.header().first_time },
        }
    }

    /// Returns csn and time of the next entry, or `None` at the section's end.
    fn peek(&mut self) -> Result<Option<Place>> {
        if self.peeked.is_none() {
            self.peeked = self.read_head()?;
        }
        Ok(self.peeked.map(|(place, _)| place))
    }

    /// Returns the next entry if its csn is `csn`. The caller must have called [`SectionReader::peek`].
    fn take(&mut self, csn: Csn) -> Result<Option<Entry>> {
        let Some((_, head)) = self.peeked.take_if(|(place, _)| place.csn == csn) else { return Ok(None) };
        Ok(Some(Entry { disk_ops: head.disk_ops, payload: self.read_payload(head.payload_len)? }))
    }

    fn read_head(&mut self) -> Result<Option<(Place, EntryHead)>> {
        if self.block.is_empty() && !self.begin_block()? {
            return Ok(None);
        }
        let (head, len) = loop {
            match EntryHead::decode(self.kind, &self.block).map_err(|detail| self.corrupt(detail))? {
                Some(decoded) => break decoded,
                None => self.join_next_block()?,
            }
        };
        self.block.advance(len);
        let header = self.chunk.header();
        let csn = self.at.csn.0.checked_add(head.csn_skip).map(Csn).filter(|csn| *csn <= header.last);
        let time = self.at.time.0.checked_add(head.time_delta).map(CommitTime).filter(|time| *time <= header.last_time);
        let (Some(csn), Some(time)) = (csn, time) else {
            return Err(self.corrupt(format!("{head:?} after {} lies outside the chunk's range", self.at.csn)));
        };
        self.at = Place { csn: csn.next(), time };
        Ok(Some((Place { csn, time }, head)))
    }

    /// Joins the next block to a head that continues there. Heads are short, so that little is copied.
    fn join_next_block(&mut self) -> Result<()> {
        let mut joined = self.block.to_vec();
        if !self.begin_block()? {
            return Err(self.corrupt("the section ends inside an entry's head"));
        }
        joined.extend_from_slice(&self.block);
        self.block = Bytes::from(joined);
        Ok(())
    }

    fn read_payload(&mut self, len: u64) -> Result<Bytes> {
        if len <= self.block.len() as u64 {
            return Ok(self.block.split_to(len as usize));
        }
        let left = self.block.len() as u64 + self.raw_left;
        if len > left {
            return Err(self.corrupt(format!("a payload has {len} bytes, but {left} are left in the section")));
        }
        // Not reserved at once: the length is only a claim until the blocks are decompressed.
        let mut payload = Vec::new();
        while (payload.len() as u64) < len {
            if self.block.is_empty() && !self.begin_block()? {
                return Err(self.corrupt("the section ends inside a payload"));
            }
            let part = (len - payload.len() as u64).min(self.block.len() as u64);
            payload.extend_from_slice(&self.block[..part as usize]);
            self.block.advance(part as usize);
        }
        Ok(Bytes::from(payload))
    }

    /// Makes the next block the current one. Returns false if there is none.
    fn begin_block(&mut self) -> Result<bool> {
        let Some(block) = self.chunk.blocks(self.kind).get(self.blocks_begun) else { return Ok(false) };
        self.blocks_begun += 1;
        self.raw_left -= block.raw_len as u64;
        let stored = self.chunk.bytes().slice(block.stored.clone());
        let raw = self.decompressor.decompress(block.codec, stored, block.raw_len);
        self.block = raw.map_err(|detail| self.corrupt(detail))?;
        Ok(true)
    }

    fn position(&self) -> String {
        position(self.kind, self.blocks_begun.saturating_sub(1))
    }

    fn corrupt(&self, detail: impl Into<String>) -> Error {
        self.chunk.corrupt(self.position(), detail)
    }
}
