//! The changes of a hash, a set or a sorted set, by element.

use super::{OP_BYTES, OpSink};
use crate::engine::memory::{Encoder, Slot};
use crate::error::Result;
use std::collections::HashMap;

/// The touched elements of a value.
pub(super) struct Members {
    /// Expiry of the key at the beginning, in milliseconds since the Unix epoch; 0 if it had none.
    expire_ms: u64,
    /// What each touched element was at the beginning.
    before: HashMap<Box<[u8]>, Before>,
}

/// What an element was at the beginning.
#[derive(Clone, Copy)]
enum Before {
    Absent,
    /// A field, or a member of a set.
    Present,
    /// A member of a sorted set.
    Score(f64),
}

impl Before {
    fn of(slot: &Slot, name: &[u8]) -> Self {
        let is_present = match (slot.as_hash(), slot.as_set()) {
            (Some(hash), _) => hash.get(name).is_some(),
            (_, Some(set)) => set.get(name).is_some(),
            _ => return slot.as_zset().and_then(|zset| zset.score(name)).map_or(Self::Absent, Self::Score),
        };
        if is_present { Self::Present } else { Self::Absent }
    }
}

impl Members {
    /// Returns the changes of a value that has not changed yet.
    pub(super) fn of(slot: &Slot) -> Self {
        Self { expire_ms: slot.expire_ms(), before: HashMap::new() }
    }

    /// Returns the number of touched elements.
    pub(super) fn len(&self) -> u64 {
        self.before.len() as u64
    }

    /// Records that an element is about to change; `slot` is the value before the change.
    pub(super) fn touch(&mut self, name: &[u8], slot: &Slot) {
        if !self.before.contains_key(name) {
            self.before.insert(name.into(), Before::of(slot, name));
        }
    }
}

/// Passes the ops to `sink` once they reach [`OP_BYTES`].
pub(super) fn hand_on(ops: &mut Vec<u8>, sink: &mut OpSink<'_>) -> Result<()> {
    if ops.len() >= OP_BYTES { sink(&std::mem::take(ops)) } else { Ok(()) }
}

/// Writes the changes of the touched elements and of the expiry.
pub(super) fn write_members(
    key: &[u8],
    Members { expire_ms, before }: &Members,
    now: &Slot,
    ops: &mut Vec<u8>,
    sink: &mut OpSink<'_>,
) -> Result<()> {
    let mut names: Vec<(&[u8], Before)> = before.iter().map(|(name, before)| (&**name, *before)).collect();
    names.sort_unstable_by_key(|(name, _)| *name);
    let is_gone = |before: Before, is_there: bool| !is_there && !matches!(before, Before::Absent);
    // Elements are added before others are removed: a value that becomes empty in between would be deleted with its
    // expiry.
    if let Some(hash) = now.as_hash() {
        let put = names.iter().filter_map(|(name, _)| Some((*name, hash.get(name)?))).collect();
        let gone = names.iter().filter(|(name, before)| is_gone(*before, hash.get(name).is_some()));
        let gone = gone.map(|(name, _)| *name).collect();
        in_parts(
            put,
            |(field, value): &(&[u8], &[u8])| field.len() + value.len(),
            ops,
            sink,
            |ops, part| {
                ops.put_fields(key, part.iter().copied());
            },
        )?;
        in_parts(
            gone,
            |field: &&[u8]| field.len(),
            ops,
            sink,
            |ops, part| ops.remove_fields(key, part.iter().copied()),
        )?;
    } else if let Some(set) = now.as_set() {
        let is_there = |name: &[u8]| set.get(name).is_some();
        let added = names.iter().filter(|(name, before)| matches!(before, Before::Absent) && is_there(name));
        let added = added.map(|(name, _)| *name).collect();
        let gone =
            names.iter().filter(|(name, before)| is_gone(*before, is_there(name))).map(|(name, _)| *name).collect();
        in_parts(added, |name: &&[u8]| name.len(), ops, sink, |ops, part| ops.add_members(key, part.iter().copied()))?;
        in_parts(
            gone,
            |name: &&[u8]| name.len(),
            ops,
            sink,
            |ops, part| ops.remove_members(key, part.iter().copied()),
        )?;
    } else if let Some(zset) = now.as_zset() {
        let set = names.iter().filter_map(|(name, before)| {
            let score = zset.score(name)?;
            let is_same = matches!(before, Before::Score(old) if old.to_bits() == score.to_bits());
            (!is_same).then_some((*name, score))
        });
        let set = set.collect();
        let gone = names.iter().filter(|(name, before)| is_gone(*before, zset.score(name).is_some()));
        let gone = gone.map(|(name, _)| *name).collect();
        in_parts(
            set,
            |(member, _): &(&[u8], f64)| member.len() + size_of::<f64>(),
            ops,
            sink,
            |ops, part| {
                ops.set_scores(key, part.iter().copied());
            },
        )?;
        in_parts(gone, |name: &&[u8]| name.len(), ops, sink, |ops, part| ops.remove_scored(key, part.iter().copied()))?;
    }
    if now.expire_ms() != *expire_ms {
        Encoder::new(ops).expire(key, now.expire_ms());
    }
    Ok(())
}

/// Encodes `items` in parts of about [`OP_BYTES`] each.
fn in_parts<T>(
    items: Vec<T>,
    bytes_of: impl Fn(&T) -> usize,
    ops: &mut Vec<u8>,
    sink: &mut OpSink<'_>,
    encode: impl Fn(&mut Encoder<'_>, &[T]),
) -> Result<()> {
    let mut rest = &items[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|item| {
            bytes += bytes_of(item);
            bytes < OP_BYTES
        });
        let count = fits.count().max(1);
        let (now, later) = rest.split_at(count);
        encode(&mut Encoder::new(ops), now);
        hand_on(ops, sink)?;
        rest = later;
    }
    Ok(())
}
