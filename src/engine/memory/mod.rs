//! The memory engines: lists and sorted sets, held in memory and changed by ops.
//!
//! ```text
//! op                       effects as bytes: encode, validate, apply
//! replay                   applies the ops of a log on several threads
//! dictionary               keys and their values
//! part, cut                a share of a dictionary's keys, in shards; a dictionary's content at one moment
//! list, zset               the values
//! tree                     the counted B+tree of lists and of large sorted sets
//! packed, run, bucket      the leaves of such trees
//! zset_small, zset_large   the two forms of a sorted set
//! small_bytes              keys and members
//! zset_builder             builds a whole sorted set at once
//! reclaim                  drops large values on another thread
//! undo                     takes back the ops that were applied since a cut
//! ```
//!
//! Guarantees: taking a cut costs microseconds; a cut never changes and can be read by another thread while the writer
//! continues. A change copies at most the nodes on its path, never a whole value. Everything else is used by one thread
//! at a time, under the writer lock, except for a replay, whose threads each change their own parts. Non-goal: knowing
//! which keys other engines hold. A key must be in at most one dictionary; the caller ensures this.

mod block;
mod bucket;
mod cut;
mod elements;
pub mod dictionary;
mod entry;
pub mod list;
pub mod op;
mod integers;
pub mod keys;
mod packed;
mod pairs;
mod pairs_tree;
pub mod part;
pub(super) mod reclaim;
mod replay;
mod run;
mod slot;
mod small_bytes;
mod string;
mod text;
mod tree;
mod undo;
pub mod zset;
mod zset_builder;
mod zset_large;
mod zset_small;

pub use cut::Cut;
pub use dictionary::Dictionary;
pub use entry::{Entry, Value};
pub use list::List;
pub use op::{ListEncoder, ListOp, ListOps, Op, Scope, ZsetEncoder, ZsetOp, ZsetOps};
pub use replay::{Misfit, replay};
pub use small_bytes::SmallBytes;
pub use undo::Undo;
pub use zset::Zset;
pub use zset_builder::ZsetBuilder;

use crate::error::Result;
use crate::record::CommitRecord;

impl Value for List {
    fn memory_bytes(&self) -> usize {
        self.memory_bytes()
    }
}

impl Value for Zset {
    fn memory_bytes(&self) -> usize {
        self.memory_bytes()
    }
}

/// Checks encoded list and sorted set ops down to their last item. Whether the ops fit a state is checked when they are
/// applied.
pub fn validate(lists: &[u8], zsets: &[u8]) -> Result<()> {
    ListOps::new(lists).try_for_each(|op| op.map(drop))?;
    ZsetOps::new(zsets).try_for_each(|op| op.map(drop))
}

/// The state of the memory engines.
#[derive(Default)]
pub struct Memory {
    /// Lists by key.
    pub lists: Dictionary<List>,
    /// Sorted sets by key.
    pub zsets: Dictionary<Zset>,
}

impl Memory {
    /// Returns engines without keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies encoded list ops. Malformed bytes are an error and change nothing. An op that does not fit the state is
    /// an error, too, and the ops before it stay applied: the state has diverged from its history and must be given up.
    pub fn apply_lists(&mut self, ops: &[u8]) -> Result<()> {
        ListOps::new(ops).try_for_each(|op| op.map(drop))?;
        ListOps::new(ops).try_for_each(|op| op?.apply(&mut self.lists))
    }

    /// Applies encoded sorted set ops, with the same errors as [`Memory::apply_lists`].
    pub fn apply_zsets(&mut self, ops: &[u8]) -> Result<()> {
        ZsetOps::new(ops).try_for_each(|op| op.map(drop))?;
        ZsetOps::new(ops).try_for_each(|op| op?.apply(&mut self.zsets))
    }

    /// Applies a commit's ops, with the same errors as [`Memory::apply_lists`].
    pub fn apply(&mut self, commit: &CommitRecord) -> Result<()> {
        self.apply_lists(&commit.lists)?;
        self.apply_zsets(&commit.zsets)
    }

    /// Returns the heap bytes of both engines; O(1).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.lists.memory_bytes() + self.zsets.memory_bytes()
    }

    /// Returns the number of keys in both engines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lists.len() + self.zsets.len()
    }

    /// Reports whether no engine has a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a cut of both engines, which another thread may read.
    #[must_use]
    pub fn cut(&self) -> MemoryCut {
        MemoryCut { lists: self.lists.cut(), zsets: self.zsets.cut() }
    }
}

/// The memory engines at one moment.
#[derive(Clone)]
pub struct MemoryCut {
    /// Lists by key.
    pub lists: Cut<List>,
    /// Sorted sets by key.
    pub zsets: Cut<Zset>,
}
