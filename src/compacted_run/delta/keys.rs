//! Records what happened to the keys of a memory engine between two commits.
//!
//! Guarantees: for each touched key there is either the change since the beginning, or a note that the key is to be
//! written whole, because its old content is irrelevant (the key was deleted or renamed) or because the whole content
//! is smaller. A flush discards all earlier records.

use super::{OP_BYTES, OpSink};
use crate::error::Result;
use std::collections::HashMap;

/// The net change of a key since the beginning.
pub(super) enum Change<C> {
    /// The key existed at the beginning and was not deleted since.
    Since(C),
    /// The key's content at the beginning is irrelevant; the key is to be written whole.
    Whole {
        /// Whether the key existed at the beginning, or after the last flush.
        was_there: bool,
    },
}

/// The touched keys.
pub(super) struct Keys<C> {
    /// Whether all keys were deleted by a flush: `touched` then holds only changes after the flush.
    cleared: bool,
    touched: HashMap<Box<[u8]>, Change<C>>,
}

impl<C> Default for Keys<C> {
    fn default() -> Self {
        Self { cleared: false, touched: HashMap::new() }
    }
}

impl<C> Keys<C> {
    /// Records a flush: all keys were deleted.
    pub(super) fn clear(&mut self) {
        self.cleared = true;
        self.touched.clear();
    }

    /// Returns the record of a key. Creates it if there is none, with the change from `since`; `None` from `since`
    /// means that the key does not exist before this op.
    pub(super) fn touch(&mut self, key: &[u8], since: impl FnOnce() -> Option<C>) -> &mut Change<C> {
        let begin = || since().map_or(Change::Whole { was_there: false }, Change::Since);
        self.touched.entry(key.into()).or_insert_with(begin)
    }

    /// Records that the earlier content of a key is irrelevant; `is_there` says whether the key exists before this op.
    pub(super) fn become_whole(&mut self, key: &[u8], is_there: bool) {
        let was_there = match self.touched.get(key) {
            Some(Change::Whole { .. }) => return,
            Some(Change::Since(_)) => true,
            None => is_there,
        };
        self.touched.insert(key.into(), Change::Whole { was_there });
    }

    /// Records that a key was deleted together with its last element.
    pub(super) fn note_gone(&mut self, key: &[u8]) {
        if let Some(change @ Change::Since(_)) = self.touched.get_mut(key) {
            *change = Change::Whole { was_there: true };
        }
    }

    pub(super) fn len(&self) -> usize {
        self.touched.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &Change<C>)> {
        self.touched.iter().map(|(key, change)| (&**key, change))
    }

    /// Writes the ops of all keys in key order. `clear` encodes the op of a flush, `write` encodes the ops of one key.
    pub(super) fn write(
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

/// Passes the ops to `sink` once they reach [`OP_BYTES`].
pub(super) fn hand_on(ops: &mut Vec<u8>, sink: &mut OpSink<'_>) -> Result<()> {
    if ops.len() >= OP_BYTES { sink(&std::mem::take(ops)) } else { Ok(()) }
}
