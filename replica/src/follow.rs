//! Applies the primary's chunks.
//!
//! Guarantees: a chunk is applied only if all its checksums hold, it belongs to the primary's current epoch and it
//! continues exactly where this replica stands.

use bytes::Bytes;
use std::sync::Arc;
use walferry::chunk::Chunk;
use walferry::commit::committer::Committer;
use walferry::csn::{CommitTime, Csn, Epoch};
use walferry::error::{Error, Result};
use walferry::record::CommitRecord;

/// Commits applied in one turn of the writer lock: bounds how long a reader waits.
const COMMITS_PER_TURN: usize = 256;
/// Bytes of effects applied in one turn (a single commit may have more).
const BYTES_PER_TURN: usize = 1 << 20;

/// Follows one primary over one connection.
pub struct Follower {
    committer: Arc<Committer>,
    epoch: Epoch,
    /// CRC of the header of the chunk before; none for the first of a connection.
    previous_header_crc: Option<u32>,
}

impl Follower {
    /// Applies chunks of `epoch`.
    pub fn new(committer: Arc<Committer>, epoch: Epoch) -> Self {
        Self { committer, epoch, previous_header_crc: None }
    }

    /// Checks a chunk and applies it. Returns the time of its last commit. Blocking.
    pub fn apply(&mut self, bytes: Bytes) -> Result<CommitTime> {
        let chunk = Chunk::open(bytes, "chunk from the primary")?;
        let header = chunk.header();
        let expected = self.committer.watermarks.committed.get().next();
        if header.first != expected {
            return Err(Error::Gap { what: "the primary's stream".into(), expected, found: header.first.to_string() });
        }
        if header.epoch != self.epoch {
            let detail = format!("epoch {} instead of {}", header.epoch, self.epoch);
            return Err(Error::corrupt("chunk from the primary", "header", detail));
        }
        if self.previous_header_crc.is_some_and(|crc| crc != header.previous_header_crc) {
            return Err(Error::corrupt("chunk from the primary", "header", "does not follow the chunk before it"));
        }
        // All of it is read before any is applied.
        let commits: Vec<CommitRecord> = chunk.commits().collect::<Result<_>>()?;
        apply_in_turns(&self.committer, commits)?;
        self.previous_header_crc = Some(header.crc());
        Ok(header.last_time)
    }
}

/// Applies dense commits in several turns of the writer lock; returns the last csn.
pub fn apply_in_turns(committer: &Committer, commits: Vec<CommitRecord>) -> Result<Csn> {
    let mut turn_of = Vec::new();
    let mut bytes = 0;
    let mut last = committer.watermarks.committed.get();
    let mut commits = commits.into_iter().peekable();
    while let Some(commit) = commits.next() {
        bytes += commit.effect_bytes();
        turn_of.push(commit);
        if turn_of.len() >= COMMITS_PER_TURN || bytes >= BYTES_PER_TURN || commits.peek().is_none() {
            last = committer.turn().apply(std::mem::take(&mut turn_of).into())?;
            bytes = 0;
        }
    }
    Ok(last)
}
