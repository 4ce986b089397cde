//! Deltas: the net change of one engine between two commits, so that state at the end = state at the begin + delta.
//!
//! ```text
//! disk    RocksDB: sorted by key, of each key the last operation; range deletes apart
//! lists   their op-log, or a list's whole content where that is smaller
//! zsets   of each member the last score, however often it changed, or a set's whole content
//! keys    what these two have in common
//! ```
//!
//! A delta is gathered while the state is brought forward: ops are relative to the state (a rank, an index), so only who
//! has the state knows which key or member they mean. Guarantees: every op kind is covered, a key that was deleted and
//! made anew, renamed, expired or flushed included; what a delta of a memory engine holds is bounded by the state it
//! leads to and the keys it touched, not by the number of ops. Non-goals: files and names, see [`super::run`].

mod disk;
mod keys;
mod lists;
#[cfg(test)]
mod tests;
mod zsets;

pub use disk::{DiskDelta, DiskFiles, RangeDelete};
pub use lists::ListDelta;
pub use zsets::ZsetDelta;

use crate::chunk::SectionKind;
use crate::csn::Csn;
use crate::engine::memory::Memory;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;

/// Bytes of elements or members in one op of a key that is written whole.
const OP_BYTES: usize = 64 << 10;

/// The change of one engine.
pub trait EngineDelta {
    /// Which log the changes come from.
    fn kind(&self) -> SectionKind;

    /// Between which commits.
    fn span(&self) -> &Span;

    /// Takes the next commit's effects on this engine, and carries them out in `state`, which must be that before the
    /// commit. The disk engines have no state here.
    fn push(&mut self, commit: &CommitRecord, state: &mut Memory) -> Result<()>;

    /// Keys it changes, at most: for the disk engines stored rows, each change counted until the delta is written.
    fn keys(&self) -> u64;

    /// Bytes it takes up, about, uncompressed; `state` is that at its end.
    fn estimated_bytes(&self, state: &Memory) -> u64;

    /// Whether it can be applied to a state at this position: exactly to the one it begins with.
    fn validate(&self, at: Position) -> Result<()> {
        self.span().validate(at, self.kind().name())
    }
}

/// Takes encoded ops, whole ones, in the order in which they are to be applied.
pub type OpSink<'s> = dyn FnMut(&[u8]) -> Result<()> + 's;

/// The commits a delta is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// The state it begins with: after this commit.
    pub after: Position,
    /// The last commit in it; `after` before the first.
    pub until: Position,
}

impl Span {
    /// Of no commit yet, after `after`.
    #[must_use]
    pub fn begin(after: Position) -> Self {
        Self { after, until: after }
    }

    /// Adds the next commit.
    fn advance(&mut self, commit: &CommitRecord) -> Result<()> {
        if commit.csn != self.until.csn.next() {
            let found = format!("csn {}", commit.csn);
            return Err(Error::Gap {
                what: "the commits of a delta".to_owned(),
                expected: self.until.csn.next(),
                found,
            });
        }
        self.until = Position::of(commit);
        Ok(())
    }

    /// Number of commits.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.until.csn.since(self.after.csn)
    }

    /// Whether a state at `at` is the one it begins with.
    fn validate(&self, at: Position, what: &str) -> Result<()> {
        // Before the first commit there is no generation.
        let is_same = at.csn == self.after.csn && (at.epoch == self.after.epoch || at.csn == Csn::ZERO);
        if is_same {
            return Ok(());
        }
        let found = format!("a state at csn {} of epoch {}", at.csn, at.epoch);
        let what = format!("a {what} delta that begins after csn {} of epoch {}", self.after.csn, self.after.epoch);
        Err(Error::Gap { what, expected: self.after.csn, found })
    }
}
