//! A large string: bytes in a counted tree of chunks.
//!
//! Guarantees: the length costs O(1); reading, overwriting or appending `n` bytes costs O(log length + n); a clone costs
//! O(1) and never changes. Non-goal: small strings; those fit into a block.

use super::tree::{Leaf, Tree};
use std::ops::Range;

/// Largest number of bytes in a chunk. This bounds what a change of one byte copies if a clone shares the chunk.
const CHUNK_BYTES: usize = 8192;
/// Bytes that an allocator adds to an allocation.
const ALLOCATION_BYTES: usize = 8;

#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Leaf for Bytes {
    type Key = ();

    fn len(&self) -> usize {
        self.0.len()
    }

    fn bytes(&self) -> usize {
        self.0.capacity() + ALLOCATION_BYTES
    }

    fn low(&self) {}

    fn is_sparse(&self) -> bool {
        self.0.len() < CHUNK_BYTES / 4
    }

    fn fits(&self, right: &Self) -> bool {
        self.0.len() + right.0.len() <= CHUNK_BYTES * 3 / 4
    }

    fn append(&mut self, right: Self) {
        self.0.extend_from_slice(&right.0);
    }
}

/// The bytes of a string.
#[derive(Clone, Default)]
pub struct Text {
    tree: Tree<Bytes>,
}

impl Text {
    /// Returns a string of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { tree: Tree::of(bytes.chunks(CHUNK_BYTES).map(|chunk| Bytes(chunk.to_vec()))) }
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tree.len()
    }

    /// Reports whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the heap bytes held, allocator overhead included; O(1).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.tree.bytes()
    }

    /// Iterates over the pieces of the bytes at these positions, in order. Positions behind the end have no bytes.
    pub fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = &[u8]> {
        let (mut at, end) = (range.start, range.end.min(self.len()));
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (Bytes(chunk), offset) = self.tree.at(at);
            let piece = &chunk[offset..chunk.len().min(offset + (end - at) as usize)];
            at += piece.len() as u64;
            Some(piece)
        })
    }

    /// Appends bytes.
    pub fn append(&mut self, bytes: &[u8]) {
        self.tree.edit_last(|Bytes(last)| {
            let (own, more) = bytes.split_at(bytes.len().min(CHUNK_BYTES - last.len()));
            last.extend_from_slice(own);
            ((), more.chunks(CHUNK_BYTES).map(|chunk| Bytes(chunk.to_vec())).collect())
        });
    }

    /// Writes bytes at a position. The gap between the end and the position, if there is one, is filled with zeros.
    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        while self.len() < position {
            let missing = (position - self.len()).min(CHUNK_BYTES as u64) as usize;
            self.append(&[0; CHUNK_BYTES][..missing]);
        }
        let mut rest = bytes;
        let mut at = position;
        while !rest.is_empty() && at < self.len() {
            let written = self.tree.edit_at(at, |Bytes(chunk), offset| {
                let written = rest.len().min(chunk.len() - offset);
                chunk[offset..offset + written].copy_from_slice(&rest[..written]);
                (written, Vec::new())
            });
            (at, rest) = (at + written as u64, &rest[written..]);
        }
        if !rest.is_empty() {
            self.append(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn content(text: &Text) -> Vec<u8> {
        text.tree.check();
        text.pieces(0..u64::MAX).flatten().copied().collect()
    }

    #[test]
    fn a_text_is_a_byte_string() {
        let mut random = StdRng::seed_from_u64(1);
        let mut model = vec![b'x'; 70_000];
        let mut text = Text::of(&model);
        let mut kept = Vec::new();
        for step in 0..600_u32 {
            let bytes = vec![step as u8; random.random_range(0..3000)];
            if random.random_bool(0.5) {
                text.append(&bytes);
                model.extend_from_slice(&bytes);
            } else {
                let at = random.random_range(0..model.len() + 9000);
                text.write(at as u64, &bytes);
                model.resize(model.len().max(at + bytes.len()).max(at), 0);
                model[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            assert_eq!(text.len(), model.len() as u64);
            if step % 100 == 0 {
                kept.push((text.clone(), model.clone()));
            }
            let from = random.random_range(0..model.len());
            let to = model.len().min(from + 10_000);
            let read: Vec<u8> = text.pieces(from as u64..to as u64).flatten().copied().collect();
            assert_eq!(read, model[from..to]);
        }
        assert_eq!(content(&text), model);
        kept.iter().for_each(|(text, model)| assert_eq!(content(text), *model));
        assert!(Text::default().is_empty() && content(&Text::of(b"")).is_empty());
    }
}
