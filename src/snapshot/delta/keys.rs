//! What happened to the keys of a memory engine between two commits.
//!
//! Guarantees: what a key holds is either what changed since the begin or, if nothing of what was there then counts (it
//! was deleted, renamed, or would cost less as a whole), that it is to be written whole; a flush forgets what was before.

use super::{OP_BYTES, OpSink};
use crate::error::Result;
use std::collections::HashMap;

/// What happened to a key.
pub(super) enum Change<C> {
    /// It was there at the begin and is still.
    Since(C),
    /// Nothing of what was there at the begin counts.
    Whole {
        /// Whether there was such a key.
        was_there: bool,
    },
}

/// The keys that were touched.
pub(super) struct Keys<C> {
    /// Whether all keys were deleted: what was there at the begin is gone, `touched` begin after that.
    cleared: bool,
    touched: HashMap<Box<[u8]>, Change<C>>,
}

impl<C> Default for Keys<C> {
    fn default() -> Self {
        Self { cleared: false, touched: HashMap::new() }
    }
}

impl<C> Keys<C> {
    /// All keys were deleted.
    pub fn clear(&mut self) {
        self.cleared = true;
        self.touched.clear();
    }

    /// What happened to a key so far; if nothing did: `since`, none of which means that it is not there.
    pub fn touch(&mut self, key: &[u8], since: impl FnOnce() -> Option<C>) -> &mut Change<C> {
        let begin = || since().map_or(Change::Whole { was_there: false }, Change::Since);
        self.touched.entry(key.into()).or_insert_with(begin)
    }

    /// Nothing of what was there under a key counts any more; `is_there`: whether there is something now.
    pub fn become_whole(&mut self, key: &[u8], is_there: bool) {
        let was_there = match self.touched.get(key) {
            Some(Change::Whole { .. }) => return,
            Some(Change::Since(_)) => true,
            None => is_there,
        };
        self.touched.insert(key.into(), Change::Whole { was_there });
    }

    /// A key whose last element went is gone.
    pub fn note_gone(&mut self, key: &[u8]) {
        if let Some(change @ Change::Since(_)) = self.touched.get_mut(key) {
            *change = Change::Whole { was_there: true };
        }
    }

    pub fn len(&self) -> usize {
        self.touched.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Change<C>)> {
        self.touched.iter().map(|(key, change)| (&**key, change))
    }

    /// Writes the ops of all keys, in the order of these; `clear` writes that of a flush, `write` those of a key.
    pub fn write(
        &self,
        sink: &mut OpSink<'_>,
        clear: impl FnOnce(&mut Vec<u8>),
        write: impl Fn(&[u8], &Change<C>, &mut Vec<u8>, &mut OpSink<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut ops = Vec::new();
        if self.cleared {
            clear(&mut ops);
        }
        let mut keys: Vec<_> = self.iter().collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        for (key, change) in keys {
            write(key, change, &mut ops, sink)?;
            hand_on(&mut ops, sink)?;
        }
        if ops.is_empty() { Ok(()) } else { sink(&ops) }
    }
}

/// Hands ops on when they get long.
pub(super) fn hand_on(ops: &mut Vec<u8>, sink: &mut OpSink<'_>) -> Result<()> {
    if ops.len() >= OP_BYTES { sink(&std::mem::take(ops)) } else { Ok(()) }
}
