//! Applies the primary's chunks.
//!
//! Guarantees: a chunk is applied only if all its checksums hold, it belongs to the primary's current epoch, and it
//! continues exactly the history that this replica holds.

use bytes::Bytes;
use std::sync::Arc;
use walferry::chunk::{BLOCK_RAW_BYTES_MAX, Chunk, RAW_BYTES_MAX};
use walferry::commit::committer::Committer;
use walferry::commit::turns::apply_in_turns;
use walferry::csn::Epoch;
use walferry::error::{Error, Result};
use walferry::record::CommitRecord;

/// Bytes from which on a chunk is assumed to hold a large commit.
const LARGE_CHUNK_BYTES_MIN: usize = 4 * RAW_BYTES_MAX;

/// Applies the chunks of one connection to a primary.
pub(crate) struct Follower {
    committer: Arc<Committer>,
    epoch: Epoch,
}

impl Follower {
    /// Creates a follower that accepts chunks of `epoch`.
    pub(crate) fn new(committer: Arc<Committer>, epoch: Epoch) -> Self {
        Self { committer, epoch }
    }

    /// Checks a chunk and applies it. Blocking. Errors: [`Error::Gap`] if the chunk does not continue the replica's
    /// commits, [`Error::OtherHistory`] if the history hash differs.
    pub(crate) fn apply(&self, bytes: Bytes) -> Result<()> {
        let chunk = Chunk::open(bytes, "chunk from the primary")?;
        let header = chunk.header();
        let corrupt = |detail: String| Error::corrupt("chunk from the primary", "header", detail);
        let position = self.committer.position();
        let expected = position.csn.next();
        if header.first != expected {
            return Err(Error::Gap { what: "the primary's stream".into(), expected, found: header.first.to_string() });
        }
        if header.epoch != self.epoch {
            return Err(corrupt(format!("epoch {} instead of {}", header.epoch, self.epoch)));
        }
        if header.hash_before != position.hash {
            return Err(Error::OtherHistory {
                what: "the primary's stream".into(),
                csn: position.csn,
                expected: position.hash,
                found: header.hash_before,
            });
        }
        // All commits are decoded before any is applied.
        let mut commits: Vec<CommitRecord> = chunk.commits().collect::<Result<_>>()?;
        // A large commit must not be in memory twice: small parts that share the chunk's buffer would keep the buffer
        // alive, so they are copied.
        if chunk.bytes().len() >= LARGE_CHUNK_BYTES_MIN {
            for commit in &mut commits {
                for part in [&mut commit.disk, &mut commit.memory] {
                    if part.len() <= BLOCK_RAW_BYTES_MAX {
                        *part = Bytes::copy_from_slice(part);
                    }
                }
            }
        }
        drop(chunk);
        apply_in_turns(&self.committer, commits)?;
        Ok(())
    }
}
