//! The net change of the lists: the ops of each list, or the whole content where the ops are larger.
//!
//! A queue that millions of elements passed through costs only its remaining elements; a long list with a few pushes
//! costs only the pushes. Guarantees: the written ops fit the state at the beginning; ops of different keys are
//! independent of each other (a renamed list is written whole).

use super::keys::{Change, Keys, hand_on};
use super::{EngineDelta, OP_BYTES, OpSink, Span};
use crate::engine::memory::{Dictionary, List, ListEncoder, ListOp, ListOps, Memory};
use crate::error::Result;
use crate::position::Position;
use crate::record::CommitRecord;

/// Bytes by which the ops of a list may exceed the list's size before the list is written whole.
const OPS_SLACK: usize = 64;

/// The net change of the lists; see the module's text.
pub struct ListDelta {
    span: Span,
    /// The touched lists. The change of a list that existed at the beginning and was not deleted since is its encoded
    /// ops.
    keys: Keys<Vec<u8>>,
}

impl ListDelta {
    /// Begins an empty delta after `after`.
    #[must_use]
    pub fn begin(after: Position) -> Self {
        Self { span: Span::begin(after), keys: Keys::default() }
    }

    /// Writes the ops that lead from the state at the beginning to `state`, which must be the state at the end.
    pub fn write(&self, state: &Memory, sink: &mut OpSink<'_>) -> Result<()> {
        self.keys.write(
            sink,
            |ops| ListEncoder::new(ops).clear(),
            |key, change, ops, sink| {
                match change {
                    Change::Since(own) => ops.extend_from_slice(own),
                    Change::Whole { was_there } => {
                        if *was_there {
                            ListEncoder::new(ops).delete(key);
                        }
                        write_whole(&state.lists, key, ops, sink)?;
                    }
                }
                Ok(())
            },
        )
    }

    /// Records an op before it is applied; `encoded` is the same op in encoded form.
    fn note(&mut self, op: &ListOp<'_>, encoded: &[u8], lists: &Dictionary<List>) {
        match *op {
            ListOp::Clear => self.keys.clear(),
            ListOp::Rename { from, to } => {
                [from, to].into_iter().for_each(|key| self.keys.become_whole(key, lists.get(key).is_some()));
            }
            ListOp::Delete { key } => self.keys.become_whole(key, lists.get(key).is_some()),
            _ => {
                let key = op.key();
                let there = lists.get(key);
                let change = self.keys.touch(key, || there.map(|_| Vec::new()));
                if let Change::Since(own) = change {
                    own.extend_from_slice(encoded);
                    if own.len() > OPS_SLACK + there.map_or(0, |entry| entry.value.memory_bytes()) {
                        *change = Change::Whole { was_there: true };
                    }
                }
            }
        }
    }
}

impl EngineDelta for ListDelta {
    fn span(&self) -> &Span {
        &self.span
    }

    fn push(&mut self, commit: &CommitRecord, state: &mut Memory) -> Result<()> {
        self.span.advance(commit)?;
        ListOps::validate(&commit.lists)?;
        let mut ops = ListOps::new(&commit.lists);
        let mut at = 0;
        while let Some(op) = ops.next().transpose()? {
            self.note(&op, &commit.lists[at..ops.offset()], &state.lists);
            op.apply(&mut state.lists)?;
            let key = op.key();
            if state.lists.get(key).is_none() {
                self.keys.note_gone(key);
            }
            at = ops.offset();
        }
        Ok(())
    }

    fn keys(&self) -> u64 {
        self.keys.len() as u64
    }
}

/// Encodes a list's content and expiry into `ops`, and passes the ops to `sink` when they get long.
fn write_whole(lists: &Dictionary<List>, key: &[u8], ops: &mut Vec<u8>, sink: &mut OpSink<'_>) -> Result<()> {
    let Some(entry) = lists.get(key) else { return Ok(()) };
    let (mut elements, mut bytes) = (Vec::new(), 0);
    for element in entry.value.iter_from(0) {
        elements.push(element);
        bytes += element.len();
        if bytes >= OP_BYTES {
            ListEncoder::new(ops).push_back(key, elements.drain(..));
            hand_on(ops, sink)?;
            bytes = 0;
        }
    }
    if !elements.is_empty() {
        ListEncoder::new(ops).push_back(key, elements.drain(..));
    }
    if entry.expire_ms != 0 {
        ListEncoder::new(ops).expire(key, entry.expire_ms);
    }
    Ok(())
}
