//! Writes a whole value as ops.

use super::members::hand_on;
use super::{OP_BYTES, OpSink};
use crate::engine::memory::{Element, Encoder, LargeValue, Slot, StringRef};
use crate::error::Result;

/// Encodes a key's value and expiry into `ops`, and passes the ops to `sink` when they get long. The key must not exist
/// where the ops are applied, unless the value is a string.
pub(super) fn write_whole(slot: &Slot, ops: &mut Vec<u8>, sink: &mut OpSink<'_>) -> Result<()> {
    let key = slot.key();
    if let Some(string) = slot.as_string() {
        return write_string(key, slot.expire_ms(), string, ops, sink);
    }
    if let Some(hash) = slot.as_hash() {
        let mut out = Batches { ops, sink, bytes: 0, items: Vec::new() };
        for pair in hash.iter_from(0) {
            let Element::Pair((field, value)) = pair else { unreachable!("a hash has no integers") };
            out.add((field, value), field.len() + value.len(), |ops, pairs| ops.put_fields(key, pairs))?;
        }
        out.end(|ops, pairs| ops.put_fields(key, pairs));
    } else if let Some(set) = slot.as_set() {
        let mut out = Batches { ops, sink, bytes: 0, items: Vec::new() };
        let encode = |ops: &mut Encoder<'_>, members: std::vec::Drain<'_, Vec<u8>>| {
            let members: Vec<_> = members.collect();
            ops.add_members(key, members.iter().map(Vec::as_slice));
        };
        for member in set.iter_from(0) {
            let member = member.with(|(member, _)| member.to_vec());
            let bytes = member.len();
            out.add(member, bytes, encode)?;
        }
        out.end(encode);
    } else if let Slot::Large(large) = slot {
        match large.value() {
            LargeValue::List(list) => {
                let mut out = Batches { ops, sink, bytes: 0, items: Vec::new() };
                for element in list.iter_from(0) {
                    out.add(element, element.len(), |ops, elements| ops.push_back(key, elements))?;
                }
                out.end(|ops, elements| ops.push_back(key, elements));
            }
            LargeValue::Zset(zset) => {
                let mut out = Batches { ops, sink, bytes: 0, items: Vec::new() };
                for (member, score) in zset.iter_from(0) {
                    let bytes = member.len() + size_of::<f64>();
                    out.add((member, score), bytes, |ops, pairs| ops.set_scores(key, pairs))?;
                }
                out.end(|ops, pairs| ops.set_scores(key, pairs));
            }
            LargeValue::Text(_) | LargeValue::Hash(_) | LargeValue::Set(_) => unreachable!("handled above"),
        }
    }
    if slot.expire_ms() != 0 {
        Encoder::new(ops).expire(key, slot.expire_ms());
    }
    Ok(())
}

fn write_string(
    key: &[u8],
    expire_ms: u64,
    string: StringRef<'_>,
    ops: &mut Vec<u8>,
    sink: &mut OpSink<'_>,
) -> Result<()> {
    let text = match string {
        StringRef::Small(bytes) => {
            Encoder::new(ops).set_string(key, expire_ms, bytes);
            return Ok(());
        }
        StringRef::Large(text) => text,
    };
    let mut part = Vec::new();
    for from in (0..text.len().max(1)).step_by(OP_BYTES) {
        part.clear();
        text.pieces(from..text.len().min(from + OP_BYTES as u64)).for_each(|piece| part.extend_from_slice(piece));
        if from == 0 {
            Encoder::new(ops).set_string(key, expire_ms, &part);
        } else {
            Encoder::new(ops).append(key, &part);
        }
        hand_on(ops, sink)?;
    }
    Ok(())
}

/// Elements that are encoded together, in ops of about [`OP_BYTES`] each.
struct Batches<'o, 's, T> {
    ops: &'o mut Vec<u8>,
    sink: &'o mut OpSink<'s>,
    bytes: usize,
    items: Vec<T>,
}

impl<T> Batches<'_, '_, T> {
    fn add(
        &mut self,
        item: T,
        bytes: usize,
        encode: impl FnOnce(&mut Encoder<'_>, std::vec::Drain<'_, T>),
    ) -> Result<()> {
        self.items.push(item);
        self.bytes += bytes;
        if self.bytes < OP_BYTES {
            return Ok(());
        }
        self.bytes = 0;
        encode(&mut Encoder::new(self.ops), self.items.drain(..));
        hand_on(self.ops, self.sink)
    }

    /// Encodes the elements that are left.
    fn end(mut self, encode: impl FnOnce(&mut Encoder<'_>, std::vec::Drain<'_, T>)) {
        if !self.items.is_empty() {
            encode(&mut Encoder::new(self.ops), self.items.drain(..));
        }
    }
}
