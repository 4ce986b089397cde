//! Deltas: the net change of one home between two commits, so that the state at the end equals the state at the
//! beginning with the delta applied.
//!
//! ```text
//! disk      RocksDB: the last operation on each key, sorted by key; range deletes are kept separately
//! memory    the keys in memory: the ops of a key, the changes of its elements, or its whole value
//! members   the changes of a hash, set or sorted set, by element
//! whole     a whole value as ops
//! ```
//!
//! A delta is gathered while the commits are applied to the state: ops are relative to the state (a rank, an index),
//! so the state is needed to find the key or member that an op changes. Guarantees: every kind of op is covered, also
//! for a key that was deleted and created a second time, renamed, expired or flushed. The size of the memory home's
//! delta is bounded by the state at the end and by the touched keys, not by the number of ops. Non-goals: files and
//! names, see [`super::RunManifest`].

mod disk;
mod members;
mod memory;
#[cfg(test)]
mod tests;
mod whole;

pub use disk::{Bounds, DiskDelta, DiskFiles, RangeDelete};
pub use memory::MemoryDelta;

use crate::engine::memory::Memory;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;

/// Largest number of bytes of elements or members in one op where a key is written whole.
const OP_BYTES: usize = 64 << 10;

/// The net change of one home.
pub trait EngineDelta {
    /// Returns the range of commits that the delta covers.
    fn span(&self) -> &Span;

    /// Takes the next commit's effects on this home and applies them to `state`, which must be the state before the
    /// commit. The delta of the disk ignores `state`.
    fn push(&mut self, commit: &CommitRecord, state: &Memory) -> Result<()>;

    /// Returns an upper bound of the number of changed keys. For the disk this is the number of operations on
    /// stored rows, where several operations on one row count separately.
    fn keys(&self) -> u64;
}

/// Receives encoded ops, always complete ones, in the order in which they must be applied.
pub type OpSink<'s> = dyn FnMut(&[u8]) -> Result<()> + 's;

/// The range of commits that a delta covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Position of the state that the delta begins with: the last commit before the delta.
    pub after: Position,
    /// Position of the last commit in the delta; equal to `after` before the first commit.
    pub until: Position,
}

impl Span {
    /// Creates an empty span that begins after `after`.
    #[must_use]
    pub fn begin(after: Position) -> Self {
        Self { after, until: after }
    }

    /// Adds the next commit; [`Error::Gap`] if the commit does not continue the span.
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
}
