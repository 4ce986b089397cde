//! The memory engines: lists and sorted sets, held in memory and changed by ops.
//!
//! ```text
//! op          effects as bytes: encode, validate, apply
//! replay      the ops of a log, applied on several threads
//! dictionary  keys and their values;  part: a share of them, in shards;  cut: the content at one moment
//! list, zset  the values;  tree: the counted B+tree below both;  packed, run, bucket: its leaves
//! zset_small, zset_large   the two forms of a sorted set
//! compact     keys and members;  zset_builder: a whole sorted set at once
//! reclaim     drops what is large on another thread
//! undo        takes back what was applied since a cut
//! ```
//!
//! Guarantees: a cut is taken in microseconds, never changes and is read by another thread while the writer goes on;
//! a change copies at most the nodes on its path, never a whole value. Everything else is used by one thread at a
//! time, under the writer lock, but for a replay, whose threads share the parts out. Non-goal: knowing which keys other
//! engines hold; a key is in one dictionary at most, and that is the caller's to keep.

mod bucket;
mod cut;
pub mod dictionary;
pub mod list;
pub mod op;
mod packed;
pub mod part;
pub(super) mod reclaim;
mod replay;
mod run;
mod small_bytes;
mod tree;
mod undo;
pub mod zset;
mod zset_builder;
mod zset_large;
mod zset_small;

pub use cut::Cut;
pub use dictionary::{Dictionary, Entry};
pub use list::List;
pub use op::{ListEncoder, ListOp, ListOps, Op, Scope, ZsetEncoder, ZsetOp, ZsetOps};
pub use replay::{Misfit, replay};
pub use small_bytes::SmallBytes;
pub use undo::Undo;
pub use zset::Zset;
pub use zset_builder::ZsetBuilder;

use crate::error::Result;
use crate::record::CommitRecord;

impl dictionary::Value for List {
    fn memory_bytes(&self) -> usize {
        self.memory_bytes()
    }
}

impl dictionary::Value for Zset {
    fn memory_bytes(&self) -> usize {
        self.memory_bytes()
    }
}

/// Checks encoded list and sorted set ops to their last item; whether they fit a state shows when they are applied.
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
    /// No keys.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies encoded list ops. Malformed bytes change nothing; an op that does not fit the state is an error that
    /// leaves those before it applied: the state has diverged from its history and is to be given up.
    pub fn apply_lists(&mut self, ops: &[u8]) -> Result<()> {
        ListOps::new(ops).try_for_each(|op| op.map(drop))?;
        ListOps::new(ops).try_for_each(|op| op?.apply(&mut self.lists))
    }

    /// Applies encoded sorted set ops, as [`Memory::apply_lists`] does list ops.
    pub fn apply_zsets(&mut self, ops: &[u8]) -> Result<()> {
        ZsetOps::new(ops).try_for_each(|op| op.map(drop))?;
        ZsetOps::new(ops).try_for_each(|op| op?.apply(&mut self.zsets))
    }

    /// Applies a commit's ops, as [`Memory::apply_lists`] does.
    pub fn apply(&mut self, commit: &CommitRecord) -> Result<()> {
        self.apply_lists(&commit.lists)?;
        self.apply_zsets(&commit.zsets)
    }

    /// Heap bytes of both engines; O(1).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.lists.memory_bytes() + self.zsets.memory_bytes()
    }

    /// Number of keys in both engines.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lists.len() + self.zsets.len()
    }

    /// Whether no engine has a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Both engines as they are now, for another thread.
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
