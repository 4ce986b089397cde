//! Applies many commits without holding the writer lock for long.

use super::committer::Committer;
use crate::csn::Csn;
use crate::error::Result;
use crate::record::CommitRecord;

/// Largest number of commits applied under one hold of the writer lock: bounds how long a reader waits.
const COMMITS_PER_TURN: usize = 256;
/// Bytes of effects after which the writer lock is released; a single commit may have more.
const BYTES_PER_TURN: usize = 1 << 20;

/// Applies commits that were made elsewhere and follow the last commit without a gap, in several holds of the writer
/// lock; returns the last csn. After an error, the commits before the failed hold are applied. Blocking.
pub fn apply_in_turns(committer: &Committer, commits: Vec<CommitRecord>) -> Result<Csn> {
    let mut turn_of = Vec::new();
    let mut bytes = 0;
    let mut last = committer.watermarks.committed.get();
    let mut commits = commits.into_iter().peekable();
    while let Some(commit) = commits.next() {
        bytes += commit.effect_bytes();
        turn_of.push(commit);
        if turn_of.len() >= COMMITS_PER_TURN || bytes >= BYTES_PER_TURN || commits.peek().is_none() {
            last = committer.lock_logs().apply(std::mem::take(&mut turn_of).into())?;
            bytes = 0;
        }
    }
    Ok(last)
}
