//! The state of the memory engines: their dictionaries, and how encoded ops change them.

use super::cut::Cut;
use super::dictionary::Dictionary;
use super::entry::Value;
use super::list::List;
use super::op::{ListOps, ZsetOps};
use super::zset::Zset;
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
    ListOps::validate(lists)?;
    ZsetOps::validate(zsets)
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
        ListOps::validate(ops)?;
        ListOps::new(ops).try_for_each(|op| op?.apply(&mut self.lists))
    }

    /// Applies encoded sorted set ops, with the same errors as [`Memory::apply_lists`].
    pub fn apply_zsets(&mut self, ops: &[u8]) -> Result<()> {
        ZsetOps::validate(ops)?;
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
