//! Unpacks chunks into commits and checks the chunks against each other.
//!
//! Guarantees: the commits are dense over all chunks and lie on one line of history. Commit times never decrease within
//! a chunk; between two chunks they may. Each commit carries the epoch that made it, which may differ from the epoch
//! that archived it. A chunk whose header contradicts its name is an error. A chunk that does not continue the history
//! of the preceding commit is also an error: the chunk belongs to another history, and none of its commits is
//! delivered.
//!
//! Does not inspect the commits' payloads.

use super::step::ChunkStep;
use crate::archive::layout::ChunkName;
use crate::archive::lineage::Lineage;
use crate::chunk::Chunk;
use crate::csn::{Csn, HistoryHash};
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;
use bytes::Bytes;
use std::sync::Arc;

/// Upper limit on the number of commits for which memory is reserved before they are read.
const COMMITS_RESERVED_MAX: u64 = 1 << 16;

/// The commit after which a stream of commits begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// A commit whose position is known: the stream must continue its history.
    Position(Position),
    /// A commit whose history hash is not known here: the caller compares the first commit with its own history.
    Csn(Csn),
}

impl After {
    /// Returns the commit's csn.
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

/// The commits of one step.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The chunk's full name, for messages.
    pub what: Arc<str>,
    /// The commits in the step's range, in csn order; never empty.
    pub commits: Arc<Vec<CommitRecord>>,
    /// Bytes of the whole chunk before compression.
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
    /// The commit with which the next step must begin.
    next: Csn,
    /// History hash after the commit before `next`; `None` if unknown.
    hash: Option<HistoryHash>,
}

impl Unpacker {
    /// Creates an unpacker that begins after the commit `after` and follows `lineage`.
    #[must_use]
    pub fn new(lineage: Lineage, after: impl Into<After>) -> Self {
        let after = after.into();
        let hash = match after {
            After::Position(position) => Some(position.hash),
            After::Csn(_) => None,
        };
        Self { lineage, next: after.csn().next(), hash }
    }

    /// Returns the commits that `step` uses from its chunk; `what` names the chunk in errors.
    ///
    /// # Errors
    /// [`Error::Gap`] if the step does not begin with the next commit. [`Error::OtherHistory`] if the chunk does not
    /// continue the history of the preceding commit, or if a fork of the line lies in the chunk and the fork's record
    /// has another history hash. [`Error::Corrupt`] or [`Error::Version`] if the chunk cannot be decoded.
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
        assert_eq!((first.csn, last.csn), (step.use_from, step.use_until), "a chunk holds its range without a gap");
        self.check_forks(&commits)?;
        (self.next, self.hash) = (last.csn.next(), Some(last.hash));
        let raw_bytes = chunk.header().raw_len();
        Ok(Unpacked { what: what.into(), commits: Arc::new(commits), raw_bytes })
    }

    /// Checks that the hash `found`, which the chunk `what` states for the commit before `next`, is the known one.
    fn require_hash(&self, found: HistoryHash, what: &str) -> Result<()> {
        match self.hash {
            Some(expected) if expected != found => {
                Err(Error::OtherHistory { what: what.to_owned(), csn: self.next.prev(), expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Checks that every epoch of the line that forks at one of these commits forked from this history.
    fn check_forks(&self, commits: &[CommitRecord]) -> Result<()> {
        for branch in self.lineage.branches() {
            let nth = branch.from_exclusive.0.checked_sub(commits[0].csn.0);
            let Some(commit) = nth.and_then(|nth| commits.get(nth as usize)) else { continue };
            if commit.hash != branch.fork_hash {
                return Err(Error::OtherHistory {
                    what: format!("epoch {} (by the fork in its record)", branch.epoch),
                    csn: commit.csn,
                    expected: commit.hash,
                    found: branch.fork_hash,
                });
            }
        }
        Ok(())
    }
}

/// Checks that a chunk's header states the epoch and the range of the chunk's name.
pub(crate) fn check_name(chunk: &Chunk, name: ChunkName, what: &str) -> Result<()> {
    let header = chunk.header();
    if (header.epoch, header.first, header.last) == (name.epoch, name.first, name.last) {
        return Ok(());
    }
    let detail = format!("csn {} to {} of epoch {} by its header", header.first, header.last, header.epoch);
    Err(Error::corrupt(what, "header", format!("its name does not match its header: {detail}")))
}
