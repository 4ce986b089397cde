//! The net change of the keys in memory.
//!
//! A queue that millions of elements passed through costs only its remaining elements; many changes of one field or
//! member become one; a long list or string with a few changes costs only the changes. Guarantees: the written ops fit
//! the state at the beginning; ops of different keys are independent of each other (a renamed key is written whole).

use super::members::{Members, hand_on, write_members};
use super::whole::write_whole;
use super::{EngineDelta, OpSink, Span};
use crate::engine::memory::ops::{ElementsChange, StringChange, ValueChange, ZsetChange};
use crate::engine::memory::{Change as Commit, Encoder, Memory, Op, Ops, Slot, Type};
use crate::error::Result;
use crate::position::Position;
use crate::record::CommitRecord;
use std::collections::HashMap;

/// Bytes by which the ops of a key may exceed its size before the key is written whole.
const OPS_SLACK: usize = 64;
/// Number of touched members up to which even a small value keeps its changes instead of being written whole.
const MEMBERS_SLACK: u64 = 8;

/// The net change of a key since the beginning.
enum Change {
    /// The encoded ops of a list or a string that existed at the beginning and was not deleted since.
    Ops(Vec<u8>),
    /// The touched elements of a hash, set or sorted set that existed at the beginning and was not deleted since.
    Members(Members),
    /// The content at the beginning is irrelevant; the key is to be written whole.
    Whole {
        /// Whether the key existed at the beginning, or after the last flush.
        was_there: bool,
    },
}

/// The net change of the keys in memory; see the module's text.
pub struct MemoryDelta {
    span: Span,
    /// Whether all keys were deleted by a flush: `touched` then holds only changes after the flush.
    is_cleared: bool,
    touched: HashMap<Box<[u8]>, Change>,
}

impl MemoryDelta {
    /// Begins an empty delta after `after`.
    #[must_use]
    pub fn begin(after: Position) -> Self {
        Self { span: Span::begin(after), is_cleared: false, touched: HashMap::new() }
    }

    /// Writes the ops that lead from the state at the beginning to `state`, which must be the state at the end. The ops
    /// come in the order of their keys.
    pub fn write(&self, state: &Memory, sink: &mut OpSink<'_>) -> Result<()> {
        let mut ops = Vec::new();
        if self.is_cleared {
            Encoder::new(&mut ops).clear();
        }
        let mut keys: Vec<_> = self.touched.iter().collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        for (key, change) in keys {
            let slot = state.get(key);
            write_key(key, change, slot.as_deref(), &mut ops, sink)?;
            hand_on(&mut ops, sink)?;
        }
        if ops.is_empty() { Ok(()) } else { sink(&ops) }
    }

    /// Records an op before it is applied; `encoded` is the same op in encoded form.
    fn note(&mut self, op: &Op<'_>, encoded: &[u8], state: &Memory) {
        match *op {
            Op::Clear => {
                self.is_cleared = true;
                self.touched.clear();
            }
            Op::Rename { from, to } => [from, to].into_iter().for_each(|key| self.become_whole(key, state)),
            Op::Delete { key } => self.become_whole(key, state),
            Op::Expire { key, .. } => self.note_change(key, None, encoded, state),
            Op::Change { key, change } => self.note_change(key, Some(change), encoded, state),
        }
    }

    /// Records that the earlier content of a key is irrelevant.
    fn become_whole(&mut self, key: &[u8], state: &Memory) {
        let was_there = match self.touched.get(key) {
            Some(Change::Whole { .. }) => return,
            Some(_) => true,
            None => state.get(key).is_some(),
        };
        self.touched.insert(key.into(), Change::Whole { was_there });
    }

    /// Records a change of a value, or with `None` that of an expiry.
    fn note_change(&mut self, key: &[u8], value: Option<ValueChange<'_>>, encoded: &[u8], state: &Memory) {
        if let Some(ValueChange::String(StringChange::Set { .. } | StringChange::Replace { .. })) = value {
            return self.become_whole(key, state);
        }
        let there = state.get(key);
        let begin = || match there.as_deref() {
            None => Change::Whole { was_there: false },
            Some(slot) => match slot.value_type() {
                Type::String | Type::List => Change::Ops(Vec::new()),
                Type::Hash | Type::Set | Type::Zset => Change::Members(Members::of(slot)),
            },
        };
        let change = self.touched.entry(key.into()).or_insert_with(begin);
        let Some(slot) = there.as_deref() else { return };
        let is_too_long = match change {
            Change::Whole { .. } => false,
            Change::Ops(own) => {
                own.extend_from_slice(encoded);
                own.len() > OPS_SLACK + slot.memory_bytes()
            }
            Change::Members(members) => {
                value.into_iter().for_each(|value| touch(members, value, slot));
                members.len() > members_of(slot) * 2 + MEMBERS_SLACK
            }
        };
        if is_too_long {
            *change = Change::Whole { was_there: true };
        }
    }
}

/// Records the elements that a change of a hash, set or sorted set touches.
fn touch(members: &mut Members, change: ValueChange<'_>, slot: &Slot) {
    match change {
        ValueChange::Elements(ElementsChange::PutFields { pairs }) => {
            pairs.iter().for_each(|(field, _)| members.touch(field, slot));
        }
        ValueChange::Elements(
            ElementsChange::RemoveFields { fields: names }
            | ElementsChange::AddMembers { members: names }
            | ElementsChange::RemoveMembers { members: names },
        )
        | ValueChange::Zset(ZsetChange::Remove { members: names }) => {
            names.iter().for_each(|name| members.touch(name, slot));
        }
        ValueChange::Zset(ZsetChange::Set { pairs }) => {
            pairs.iter().for_each(|(member, _)| members.touch(member, slot));
        }
        ValueChange::Zset(ZsetChange::RemoveRanks { start, stop }) => {
            let zset = slot.as_zset().into_iter().flat_map(|zset| zset.iter_from(start));
            zset.take((stop - start) as usize).for_each(|(member, _)| members.touch(member, slot));
        }
        ValueChange::String(_) | ValueChange::List(_) => {}
    }
}

/// Returns the number of elements of a hash, set or sorted set; 0 for other values.
fn members_of(slot: &Slot) -> u64 {
    let hash = slot.as_hash().map(|hash| hash.len());
    hash.or_else(|| slot.as_set().map(|set| set.len())).or_else(|| slot.as_zset().map(|zset| zset.len())).unwrap_or(0)
}

fn write_key(key: &[u8], change: &Change, slot: Option<&Slot>, ops: &mut Vec<u8>, sink: &mut OpSink<'_>) -> Result<()> {
    match (change, slot) {
        (Change::Ops(own), _) => {
            ops.extend_from_slice(own);
            Ok(())
        }
        (Change::Members(members), Some(slot)) if members.len() <= members_of(slot) => {
            write_members(key, members, slot, ops, sink)
        }
        (Change::Members(_) | Change::Whole { was_there: true }, slot) => {
            // Setting a string replaces whatever is there.
            if slot.is_none_or(|slot| slot.value_type() != Type::String) {
                Encoder::new(ops).delete(key);
            }
            slot.map_or(Ok(()), |slot| write_whole(slot, ops, sink))
        }
        (Change::Whole { was_there: false }, slot) => slot.map_or(Ok(()), |slot| write_whole(slot, ops, sink)),
    }
}

impl EngineDelta for MemoryDelta {
    fn span(&self) -> &Span {
        &self.span
    }

    fn push(&mut self, commit: &CommitRecord, state: &Memory) -> Result<()> {
        self.span.advance(commit)?;
        Ops::validate(&commit.memory)?;
        let of = Commit { csn: commit.csn, hidden: None };
        let mut ops = Ops::new(&commit.memory);
        let mut at = 0;
        while let Some(op) = ops.next().transpose()? {
            self.note(&op, &commit.memory[at..ops.offset()], state);
            op.apply(state, of)?;
            if let Op::Change { key, .. } = op
                && state.get(key).is_none()
                && let Some(change @ (Change::Ops(_) | Change::Members(_))) = self.touched.get_mut(key)
            {
                // The key was deleted together with its last element.
                *change = Change::Whole { was_there: true };
            }
            at = ops.offset();
        }
        Ok(())
    }

    fn keys(&self) -> u64 {
        self.touched.len() as u64
    }
}
