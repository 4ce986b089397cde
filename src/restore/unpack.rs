//! From chunks to commits, checked against each other.
//!
//! Guarantees: the commits that come out are dense over all chunks, on one line of history, with times that never
//! decrease; each carries the epoch that made it, not the one that archived it. A chunk whose header contradicts its
//! name is an error. One that does not name the chunk before it as its predecessor is counted and logged, no more: after
//! a restart a writer may cut commits again that the archive has already; the archive then keeps the earlier bytes,
//! which hold the same commits under another header CRC (see `ChunkSource::compare` of the uploader).
//!
//! Does not look into payloads.

use super::plan::ChunkStep;
use crate::archive::layout::ChunkName;
use crate::archive::lineage::Lineage;
use crate::chunk::Chunk;
use crate::csn::{CommitTime, Csn};
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use bytes::Bytes;
use std::sync::Arc;

/// Commits for which room is made before they were seen.
const COMMITS_RESERVED_MAX: u64 = 1 << 16;

/// What one step gave.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The chunk's name for messages.
    pub what: Arc<str>,
    /// Its commits that count, in csn order; never empty.
    pub commits: Arc<[CommitRecord]>,
    /// Bytes of the chunk before compression.
    pub raw_bytes: u64,
    /// Whether its writer went on from other bytes than those of the chunk before.
    pub is_link_broken: bool,
}

impl AsRef<[CommitRecord]> for Unpacked {
    fn as_ref(&self) -> &[CommitRecord] {
        &self.commits
    }
}

/// Unpacks the chunks of successive steps.
#[derive(Clone, Debug)]
pub struct Unpacker {
    lineage: Lineage,
    /// The commit that must come next.
    next: Csn,
    /// Time of the commit before.
    time: CommitTime,
    /// Ending CRC of the chunk before.
    previous_crc: u32,
}

impl Unpacker {
    /// Goes on after commit `after`, made at `time` (0: unknown).
    #[must_use]
    pub fn new(lineage: Lineage, after: Csn, time: CommitTime) -> Self {
        Self { lineage, next: after.next(), time, previous_crc: 0 }
    }

    /// The commits of a step's chunk; `what` names it in errors.
    pub fn unpack(&mut self, step: ChunkStep, bytes: Bytes, what: &str) -> Result<Unpacked> {
        if step.use_from != self.next {
            return Err(Error::Gap {
                what: what.to_owned(),
                expected: self.next,
                found: format!("csn {}", step.use_from),
            });
        }
        let chunk = Chunk::open(bytes, what)?;
        check_name(&chunk, step.chunk, what)?;
        let is_link_broken = step.is_linked && !follows(&chunk, &[self.previous_crc]);
        if is_link_broken {
            tracing::warn!(
                chunk = what,
                "was not cut after the bytes of the chunk before: one of the two was cut twice"
            );
        }
        let mut commits =
            Vec::with_capacity(step.use_until.since(step.use_from).min(COMMITS_RESERVED_MAX) as usize + 1);
        for commit in chunk.commits() {
            let commit = commit?;
            if commit.csn > step.use_until {
                break;
            }
            if commit.csn >= step.use_from {
                let epoch = self.lineage.epoch_at(commit.csn);
                commits.push(CommitRecord { epoch, ..commit });
            }
        }
        let (first, last) = (&commits[0], &commits[commits.len() - 1]);
        assert_eq!((first.csn, last.csn), (step.use_from, step.use_until), "a chunk holds its range without a hole");
        if first.time < self.time {
            let detail = format!("commit time {} is before that of the commit before, {}", first.time, self.time);
            return Err(Error::corrupt(what, format!("csn {}", first.csn), detail));
        }
        (self.next, self.time) = (last.csn.next(), last.time);
        self.previous_crc = chunk.header().ending_crc();
        let raw_bytes = chunk.header().raw_len();
        Ok(Unpacked { what: what.into(), commits: commits.into(), raw_bytes, is_link_broken })
    }
}

/// A chunk's header must say what its name says.
pub(super) fn check_name(chunk: &Chunk, name: ChunkName, what: &str) -> Result<()> {
    let header = chunk.header();
    if (header.epoch, header.first, header.last) == (name.epoch, name.first, name.last) {
        return Ok(());
    }
    let detail = format!("csn {} to {} of epoch {} by its header", header.first, header.last, header.epoch);
    Err(Error::corrupt(what, "header", format!("the name does not fit: {detail}")))
}

/// Whether the chunk was cut after one with one of these header CRCs. A writer that starts anew may say 0: unknown.
pub(super) fn follows(chunk: &Chunk, before: &[u32]) -> bool {
    let told = chunk.header().previous_header_crc;
    told == 0 || before.contains(&told)
}
