//! A string: the bytes of a block, or a text.
//!
//! Guarantees: reading, overwriting or appending `n` bytes costs O(log length + n), or a copy of at most one block.

use super::block::{Block, Form};
use super::slot::{LargeValue, Slot};
use super::text::Text;
use std::ops::Range;
use std::sync::Arc;

/// A string, for reading.
#[derive(Clone, Copy)]
pub enum StringRef<'a> {
    /// All bytes, in one piece.
    Small(&'a [u8]),
    /// Bytes in pieces.
    Large(&'a Text),
}

impl<'a> StringRef<'a> {
    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Small(bytes) => bytes.len() as u64,
            Self::Large(text) => text.len(),
        }
    }

    /// Reports whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the bytes at these positions to `out`. Positions behind the end have no bytes.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u8>) {
        match self {
            Self::Small(bytes) => {
                let [from, to] = [range.start, range.end].map(|at| at.min(bytes.len() as u64) as usize);
                out.extend_from_slice(&bytes[from..to.max(from)]);
            }
            Self::Large(text) => text.pieces(range).for_each(|piece| out.extend_from_slice(piece)),
        }
    }
}

impl Slot {
    /// Returns a slot with a string.
    #[must_use]
    pub fn string(key: &[u8], expire_ms: u64, bytes: &[u8]) -> Self {
        if Block::fits(key.len(), bytes.len()) {
            return Self::Small(Block::new(key, Form::Text, expire_ms, bytes));
        }
        Self::large(key, expire_ms, LargeValue::Text(Text::of(bytes)))
    }

    /// Returns the string; `None` if the value has another type.
    #[must_use]
    #[inline]
    pub fn as_string(&self) -> Option<StringRef<'_>> {
        match self {
            Self::Small(block) => (block.form() == Form::Text).then(|| StringRef::Small(block.body())),
            Self::Large(large) => match large.value() {
                LargeValue::Text(text) => Some(StringRef::Large(text)),
                _ => None,
            },
        }
    }

    /// Replaces the bytes of a string. The expiry stays.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        match self {
            Self::Small(block) if block.can_hold(bytes.len()) => block.splice(0..block.body().len(), bytes),
            _ => self.replace(Self::string(self.key(), self.expire_ms(), bytes)),
        }
    }

    /// Appends bytes to a string.
    pub fn append(&mut self, bytes: &[u8]) {
        let end = self.as_string().expect("the caller knows the type").len();
        self.write(end, bytes);
    }

    /// Writes bytes at a position of a string. A gap between the end and the position is filled with zeros.
    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        if let Self::Small(block) = self {
            let len = block.body().len();
            let end = position as usize + bytes.len();
            if block.can_hold(len.max(end)) {
                return write_to_block(block, position as usize, bytes);
            }
            let text = Text::of(block.body());
            self.grow(LargeValue::Text(text));
        }
        match self {
            Self::Large(large) => match Arc::make_mut(large).value_mut() {
                LargeValue::Text(text) => text.write(position, bytes),
                _ => unreachable!("the caller knows the type"),
            },
            Self::Small(_) => unreachable!("it has just grown"),
        }
    }
}

fn write_to_block(block: &mut Block, position: usize, bytes: &[u8]) {
    let len = block.body().len();
    if position > len {
        block.splice(len..len, &vec![0; position - len]);
    }
    let len = block.body().len();
    block.splice(position..len.min(position + bytes.len()), bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn bytes(slot: &Slot) -> Vec<u8> {
        let mut out = Vec::new();
        slot.as_string().unwrap().read(0..u64::MAX, &mut out);
        out
    }

    #[test]
    fn a_string_is_a_byte_string_in_either_form() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut slot, mut model) = (Slot::string(b"key", 7, b""), Vec::new());
            let mut kept = Vec::new();
            for step in 0..200_u8 {
                let piece = vec![step; random.random_range(0..40)];
                match random.random_range(0..10) {
                    0 => {
                        slot.set_bytes(&piece);
                        model.clone_from(&piece);
                    }
                    1..7 => {
                        slot.append(&piece);
                        model.extend_from_slice(&piece);
                    }
                    _ => {
                        let at = random.random_range(0..model.len() + 1000);
                        slot.write(at as u64, &piece);
                        model.resize(model.len().max(at + piece.len()), 0);
                        model[at..at + piece.len()].copy_from_slice(&piece);
                    }
                }
                assert_eq!(bytes(&slot), model, "seed {seed} step {step}");
                assert_eq!((slot.key(), slot.expire_ms()), (&b"key"[..], 7));
                kept.push((slot.clone(), model.clone()));
            }
            kept.iter().for_each(|(slot, model)| assert_eq!(bytes(slot), *model));
        }
    }
}
