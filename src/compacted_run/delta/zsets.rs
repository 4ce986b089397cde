//! The net change of the sorted sets: the last score of each changed member and the last expiry of each key, or the
//! whole content of a set.
//!
//! Guarantees: many changes of one member become one change, or none if the member ends with the score that it had at
//! the beginning. The written ops fit the state at the beginning; ops of different keys are independent of each other
//! (a renamed set is written whole).

use super::keys::{Change, Keys, hand_on};
use super::{EngineDelta, OP_BYTES, OpSink, Span};
use crate::engine::memory::{Dictionary, Entry, Memory, Zset, ZsetChange, ZsetEncoder, ZsetOp, ZsetOps};
use crate::error::Result;
use crate::position::Position;
use crate::record::CommitRecord;
use std::collections::HashMap;

/// Number of touched members up to which even a small set keeps its changes instead of being written whole.
const MEMBERS_SLACK: u64 = 8;

/// Changes of a set that existed at the beginning and was not deleted since.
struct Members {
    /// Expiry of the set at the beginning, in milliseconds since the Unix epoch; 0 if it had none.
    expire_ms: u64,
    /// The touched members, and the score of each at the beginning; `None` if the member did not exist then.
    before: HashMap<Box<[u8]>, Option<f64>>,
}

/// The net change of the sorted sets; see the module's text.
pub struct ZsetDelta {
    span: Span,
    keys: Keys<Members>,
}

impl ZsetDelta {
    /// Begins an empty delta after `after`.
    #[must_use]
    pub fn begin(after: Position) -> Self {
        Self { span: Span::begin(after), keys: Keys::default() }
    }

    /// Writes the ops that lead from the state at the beginning to `state`, which must be the state at the end.
    pub fn write(&self, state: &Memory, sink: &mut OpSink<'_>) -> Result<()> {
        self.keys.write(
            sink,
            |ops| ZsetEncoder::new(ops).clear(),
            |key, change, ops, sink| match (change, state.zsets.get(key)) {
                (Change::Since(members), Some(entry)) if members.before.len() as u64 <= entry.value.len() => {
                    write_members(key, members, entry, ops, sink)
                }
                (Change::Since(_) | Change::Whole { was_there: true }, entry) => {
                    ZsetEncoder::new(ops).delete(key);
                    write_whole(key, entry, ops, sink)
                }
                (Change::Whole { was_there: false }, entry) => write_whole(key, entry, ops, sink),
            },
        )
    }

    /// Records an op before it is applied.
    fn note(&mut self, op: &ZsetOp<'_>, zsets: &Dictionary<Zset>) {
        match *op {
            ZsetOp::Clear => self.keys.clear(),
            ZsetOp::Rename { from, to } => {
                [from, to].into_iter().for_each(|key| self.keys.become_whole(key, zsets.get(key).is_some()));
            }
            ZsetOp::Delete { key } => self.keys.become_whole(key, zsets.get(key).is_some()),
            ZsetOp::Change { key, change } => match change {
                ZsetChange::Set { pairs } => self.touch(key, pairs.iter().map(|(member, _)| member), zsets),
                ZsetChange::Remove { members } => self.touch(key, members.iter(), zsets),
                ZsetChange::RemoveRanks { start, stop } => {
                    let count = (stop - start) as usize;
                    let entry = zsets.get(key);
                    let members = entry.into_iter().flat_map(|entry| entry.value.iter_from(start)).take(count);
                    self.touch(key, members.map(|(member, _)| member), zsets);
                }
            },
            ZsetOp::Expire { key, .. } => self.touch(key, std::iter::empty(), zsets),
        }
    }

    fn touch<'m>(&mut self, key: &[u8], members: impl Iterator<Item = &'m [u8]>, zsets: &Dictionary<Zset>) {
        let there = zsets.get(key);
        let begin = |entry: &Entry<Zset>| Members { expire_ms: entry.expire_ms, before: HashMap::new() };
        let change = self.keys.touch(key, || there.map(begin));
        let (Change::Since(Members { before, .. }), Some(entry)) = (&mut *change, there) else { return };
        for member in members {
            if !before.contains_key(member) {
                before.insert(member.into(), entry.value.score(member));
            }
        }
        if before.len() as u64 > entry.value.len() * 2 + MEMBERS_SLACK {
            *change = Change::Whole { was_there: true };
        }
    }
}

impl EngineDelta for ZsetDelta {
    fn span(&self) -> &Span {
        &self.span
    }

    fn push(&mut self, commit: &CommitRecord, state: &mut Memory) -> Result<()> {
        self.span.advance(commit)?;
        ZsetOps::validate(&commit.zsets)?;
        for op in ZsetOps::new(&commit.zsets) {
            let op = op?;
            self.note(&op, &state.zsets);
            op.apply(&mut state.zsets)?;
            let key = op.key();
            if state.zsets.get(key).is_none() {
                self.keys.note_gone(key);
            }
        }
        Ok(())
    }

    fn keys(&self) -> u64 {
        self.keys.len() as u64
    }
}

/// Writes the changes of the touched members and of the expiry.
fn write_members(
    key: &[u8],
    Members { expire_ms, before }: &Members,
    now: &Entry<Zset>,
    ops: &mut Vec<u8>,
    sink: &mut OpSink<'_>,
) -> Result<()> {
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    for (member, score) in before {
        match (score, now.value.score(member)) {
            (Some(score), Some(new)) if score.to_bits() == new.to_bits() => {}
            (_, Some(new)) => set.push((&**member, new)),
            (Some(_), None) => removed.push(&**member),
            (None, None) => {}
        }
    }
    set.sort_unstable_by_key(|(member, _)| *member);
    removed.sort_unstable();
    // Members are added before others are removed: a set that becomes empty in between would be deleted with its
    // expiry.
    for part in parts(&set, |(member, _)| member.len()) {
        ZsetEncoder::new(ops).set(key, part.iter().copied());
        hand_on(ops, sink)?;
    }
    for part in parts(&removed, |member| member.len()) {
        ZsetEncoder::new(ops).remove(key, part.iter().copied());
        hand_on(ops, sink)?;
    }
    if now.expire_ms != *expire_ms {
        ZsetEncoder::new(ops).expire(key, now.expire_ms);
    }
    Ok(())
}

/// Writes a set's content and expiry, if the set exists.
fn write_whole(key: &[u8], entry: Option<&Entry<Zset>>, ops: &mut Vec<u8>, sink: &mut OpSink<'_>) -> Result<()> {
    let Some(entry) = entry else { return Ok(()) };
    let (mut pairs, mut bytes) = (Vec::new(), 0);
    for (member, score) in entry.value.iter_from(0) {
        pairs.push((member, score));
        bytes += member.len() + size_of::<f64>();
        if bytes >= OP_BYTES {
            ZsetEncoder::new(ops).set(key, pairs.drain(..));
            hand_on(ops, sink)?;
            bytes = 0;
        }
    }
    if !pairs.is_empty() {
        ZsetEncoder::new(ops).set(key, pairs.drain(..));
    }
    if entry.expire_ms != 0 {
        ZsetEncoder::new(ops).expire(key, entry.expire_ms);
    }
    Ok(())
}

/// Splits `items` into slices of about [`OP_BYTES`] each.
fn parts<T>(items: &[T], bytes_of: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|item| {
            bytes += bytes_of(item) + size_of::<f64>();
            bytes < OP_BYTES
        });
        let count = fits.count().max(1).min(rest.len());
        let (now, later) = rest.split_at(count);
        rest = later;
        (!now.is_empty()).then_some(now)
    })
}
