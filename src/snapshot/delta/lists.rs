//! The change of the lists: of each list its ops, or its whole content where they grow larger than that.
//!
//! A queue that millions of elements went through costs what is left in it; a long list with some pushes costs the
//! pushes. Guarantees: the ops written fit the state at the begin; those of different keys do not depend on each other
//! (a renamed list is written whole).

use super::{EngineDelta, OP_BYTES, OpSink, Span};
use crate::chunk::SectionKind;
use crate::engine::memory::{Dictionary, List, ListEncoder, ListOp, ListOps, Memory};
use crate::error::Result;
use crate::log::envelope::Position;
use crate::record::CommitRecord;
use std::collections::HashMap;

/// Bytes of ops a list may have although it is smaller.
const OPS_SLACK: usize = 64;

/// What happened to a list.
enum Change {
    /// It was there at the begin and is still; encoded ops.
    Ops(Vec<u8>),
    /// Nothing of what was there at the begin counts.
    Whole {
        /// Whether there was a list.
        was_there: bool,
    },
}

/// See the module's text.
pub struct ListDelta {
    span: Span,
    /// Whether all lists were deleted: what was there at the begin is gone, `keys` begin after that.
    cleared: bool,
    keys: HashMap<Box<[u8]>, Change>,
}

impl ListDelta {
    /// Of no commit yet.
    #[must_use]
    pub fn begin(after: Position) -> Self {
        Self { span: Span::begin(after), cleared: false, keys: HashMap::new() }
    }

    /// Writes ops that lead from the state at the begin to `state`, the one at the end.
    pub fn write(&self, state: &Memory, sink: &mut OpSink<'_>) -> Result<()> {
        let mut ops = Vec::new();
        if self.cleared {
            ListEncoder(&mut ops).clear();
        }
        let mut keys: Vec<(&[u8], &Change)> = self.keys.iter().map(|(key, change)| (&**key, change)).collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        for (key, change) in keys {
            match change {
                Change::Ops(own) => ops.extend_from_slice(own),
                Change::Whole { was_there } => {
                    if *was_there {
                        ListEncoder(&mut ops).delete(key);
                    }
                    write_whole(&state.lists, key, &mut ops, sink)?;
                }
            }
            if ops.len() >= OP_BYTES {
                sink(&std::mem::take(&mut ops))?;
            }
        }
        if ops.is_empty() { Ok(()) } else { sink(&ops) }
    }

    /// Notes an op before it is carried out; `encoded` is the op itself.
    fn note(&mut self, op: &ListOp<'_>, encoded: &[u8], lists: &Dictionary<List>) {
        match *op {
            ListOp::Clear => {
                self.cleared = true;
                self.keys.clear();
            }
            ListOp::Rename { from, to } => {
                self.become_whole(from, lists);
                self.become_whole(to, lists);
            }
            ListOp::Delete { key } => self.become_whole(key, lists),
            _ => {
                let key = key_of(op);
                let there = lists.get(key);
                let change = self.keys.entry(key.into()).or_insert_with(|| match there {
                    Some(_) => Change::Ops(Vec::new()),
                    None => Change::Whole { was_there: false },
                });
                if let Change::Ops(own) = change {
                    own.extend_from_slice(encoded);
                    if own.len() > OPS_SLACK + there.map_or(0, |entry| entry.value.memory_bytes()) {
                        *change = Change::Whole { was_there: true };
                    }
                }
            }
        }
    }

    fn become_whole(&mut self, key: &[u8], lists: &Dictionary<List>) {
        let was_there = match self.keys.get(key) {
            Some(Change::Whole { .. }) => return,
            Some(Change::Ops(_)) => true,
            None => lists.get(key).is_some(),
        };
        self.keys.insert(key.into(), Change::Whole { was_there });
    }

    /// Notes that a list whose last element went is gone.
    fn note_gone(&mut self, key: &[u8], lists: &Dictionary<List>) {
        if lists.get(key).is_none()
            && let Some(change @ Change::Ops(_)) = self.keys.get_mut(key)
        {
            *change = Change::Whole { was_there: true };
        }
    }
}

impl EngineDelta for ListDelta {
    fn kind(&self) -> SectionKind {
        SectionKind::List
    }

    fn span(&self) -> &Span {
        &self.span
    }

    fn push(&mut self, commit: &CommitRecord, state: &mut Memory) -> Result<()> {
        self.span.advance(commit)?;
        ListOps::new(&commit.lists).try_for_each(|op| op.map(drop))?;
        let mut ops = ListOps::new(&commit.lists);
        let mut at = 0;
        while let Some(op) = ops.next().transpose()? {
            self.note(&op, &commit.lists[at..ops.offset()], &state.lists);
            op.apply(&mut state.lists)?;
            self.note_gone(key_of(&op), &state.lists);
            at = ops.offset();
        }
        Ok(())
    }

    fn keys(&self) -> u64 {
        self.keys.len() as u64
    }

    fn estimated_bytes(&self, state: &Memory) -> u64 {
        let bytes = |key: &[u8], change: &Change| match change {
            Change::Ops(own) => own.len(),
            Change::Whole { .. } => key.len() + state.lists.get(key).map_or(0, |entry| entry.value.memory_bytes()),
        };
        self.keys.iter().map(|(key, change)| bytes(key, change)).sum::<usize>() as u64
    }
}

/// The key an op is on; empty for a clear.
fn key_of<'a>(op: &ListOp<'a>) -> &'a [u8] {
    match *op {
        ListOp::PushFront { key, .. }
        | ListOp::PushBack { key, .. }
        | ListOp::PopFront { key, .. }
        | ListOp::PopBack { key, .. }
        | ListOp::Set { key, .. }
        | ListOp::Insert { key, .. }
        | ListOp::Remove { key, .. }
        | ListOp::Keep { key, .. }
        | ListOp::Delete { key }
        | ListOp::Expire { key, .. }
        | ListOp::Rename { from: key, .. } => key,
        ListOp::Clear => &[],
    }
}

/// Writes a list's content and expiry behind `ops`, handing these on when they get long.
fn write_whole(lists: &Dictionary<List>, key: &[u8], ops: &mut Vec<u8>, sink: &mut OpSink<'_>) -> Result<()> {
    let Some(entry) = lists.get(key) else { return Ok(()) };
    let (mut elements, mut bytes) = (Vec::new(), 0);
    for element in entry.value.iter_from(0) {
        elements.push(element);
        bytes += element.len();
        if bytes >= OP_BYTES {
            ListEncoder(ops).push_back(key, elements.drain(..));
            sink(&std::mem::take(ops))?;
            bytes = 0;
        }
    }
    if !elements.is_empty() {
        ListEncoder(ops).push_back(key, elements.drain(..));
    }
    if entry.expire_ms != 0 {
        ListEncoder(ops).expire(key, entry.expire_ms);
    }
    Ok(())
}
