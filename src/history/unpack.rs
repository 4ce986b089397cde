//! From chunks to commits, checked against each other.
//!
//! Guarantees: the commits that come out are dense over all chunks, on one line of history, with times that
//! decrease nowhere but between two chunks; each carries the epoch that made it, not the one that archived it. A chunk whose header contradicts its
//! name is an error, and so is one that does not continue the history of the commit before it: it belongs to another
//! history, and nothing of it comes out.
//!
//! Does not look into payloads.

use super::plan::ChunkStep;
use crate::archive::layout::ChunkName;
use crate::archive::lineage::Lineage;
use crate::chunk::Chunk;
use crate::csn::{Csn, HistoryHash};
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;
use bytes::Bytes;
use std::sync::Arc;

/// Commits for which room is made before they were seen.
const COMMITS_RESERVED_MAX: u64 = 1 << 16;

/// Where a stream of commits begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// After a commit whose position is known: what follows must continue its history.
    Position(Position),
    /// After a commit whose history hash is not known here: the caller compares the first commit with its own history.
    Csn(Csn),
}

impl After {
    /// The commit.
    #[must_use]
    pub fn csn(self) -> Csn {
        match self {
            Self::Position(position) => position.csn,
            Self::Csn(csn) => csn,
        }
    }
}

impl From<Position> for After {
    fn from(position: Position) -> Self {
        Self::Position(position)
    }
}

impl From<Csn> for After {
    fn from(csn: Csn) -> Self {
        if csn == Csn::ZERO { Self::Position(Position::default()) } else { Self::Csn(csn) }
    }
}

/// What one step gave.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The chunk's name for messages.
    pub what: Arc<str>,
    /// Its commits that count, in csn order; never empty.
    pub commits: Arc<Vec<CommitRecord>>,
    /// Bytes of the chunk before compression.
    pub raw_bytes: u64,
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
    /// History hash after the commit before; none if it is not known.
    hash: Option<HistoryHash>,
}

impl Unpacker {
    /// Goes on along `lineage` after a commit.
    #[must_use]
    pub fn new(lineage: Lineage, after: impl Into<After>) -> Self {
        let after = after.into();
        let hash = match after {
            After::Position(position) => Some(position.hash),
            After::Csn(_) => None,
        };
        Self { lineage, next: after.csn().next(), hash }
    }

    /// The commits of a step's chunk; `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::OtherHistory`] if the chunk does not continue the history of the commit before it, or a fork of the line
    /// lies in it and the fork's record has another history hash.
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
        let mut commits =
            Vec::with_capacity(step.use_until.since(step.use_from).min(COMMITS_RESERVED_MAX) as usize + 1);
        let mut source = chunk.commits();
        loop {
            let before = source.hash();
            let Some(commit) = source.next().transpose()? else { break };
            if commit.csn == step.use_from {
                self.require_hash(before, what)?;
            }
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
        self.check_forks(&commits)?;
        (self.next, self.hash) = (last.csn.next(), Some(last.hash));
        let raw_bytes = chunk.header().raw_len();
        Ok(Unpacked { what: what.into(), commits: Arc::new(commits), raw_bytes })
    }

    /// The chunk `what` continues a history that has the hash `found` after the commit before the next one.
    fn require_hash(&self, found: HistoryHash, what: &str) -> Result<()> {
        match self.hash {
            Some(expected) if expected != found => {
                Err(Error::OtherHistory { what: what.to_owned(), csn: self.next.prev(), expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Epochs that fork at one of these commits forked from this history and no other.
    fn check_forks(&self, commits: &[CommitRecord]) -> Result<()> {
        for branch in self.lineage.branches() {
            let nth = branch.from_exclusive.0.checked_sub(commits[0].csn.0);
            let Some(commit) = nth.and_then(|nth| commits.get(nth as usize)) else { continue };
            if commit.hash != branch.fork_hash {
                return Err(Error::OtherHistory {
                    what: format!("epoch {}, by the fork in its record,", branch.epoch),
                    csn: commit.csn,
                    expected: commit.hash,
                    found: branch.fork_hash,
                });
            }
        }
        Ok(())
    }
}

/// A chunk's header must say what its name says.
pub(crate) fn check_name(chunk: &Chunk, name: ChunkName, what: &str) -> Result<()> {
    let header = chunk.header();
    if (header.epoch, header.first, header.last) == (name.epoch, name.first, name.last) {
        return Ok(());
    }
    let detail = format!("csn {} to {} of epoch {} by its header", header.first, header.last, header.epoch);
    Err(Error::corrupt(what, "header", format!("the name does not fit: {detail}")))
}
