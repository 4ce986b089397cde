//! A digest of a set of entries that does not depend on their order: two nodes with the same keys have the same
//! digest, whatever the order in memory.
//!
//! An entry is a key with its type, its absolute expiry and its whole value, in the byte form of the memory image (see
//! `FORMAT.md`). The hash of an entry is BLAKE3. The digest is the sum of all hashes: each hash is read as four
//! little-endian numbers of 64 bits, and each of the four is added separately, without carry between them. Guarantees:
//! equal sets have equal digests; two different sets have the same digest by chance as rarely as with a hash of 256
//! bits. Non-goal: resistance to somebody who chooses entries to produce equal digests.

use std::ops::AddAssign;

/// The sum over the entries added so far. The digest of the empty set is all zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SetDigest([u64; 4]);

impl SetDigest {
    /// Adds an entry, given its hash.
    pub fn add(&mut self, entry: blake3::Hash) {
        *self += Self(std::array::from_fn(|at| {
            u64::from_le_bytes(entry.as_bytes()[at * 8..at * 8 + 8].try_into().expect("eight bytes"))
        }));
    }

    /// Returns the digest in its stored form: four little-endian numbers.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        let mut bytes = [0; 32];
        bytes.chunks_exact_mut(8).zip(self.0).for_each(|(to, lane)| to.copy_from_slice(&lane.to_le_bytes()));
        bytes.into()
    }
}

impl AddAssign for SetDigest {
    /// Adds the digest of a set that has no entry in common with this one.
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(lane, more)| *lane = lane.wrapping_add(more));
    }
}

/// Hashes entries that come in pieces, one entry after another.
#[derive(Default)]
pub struct EntryHasher {
    /// Hash state of the current entry; `None` before its first piece.
    open: Option<Box<blake3::Hasher>>,
    /// A hasher for reuse between entries: a hasher is large, so it is allocated once.
    spare: Option<Box<blake3::Hasher>>,
}

impl EntryHasher {
    /// Adds a piece to the current entry.
    pub fn take(&mut self, piece: &[u8]) {
        if piece.is_empty() {
            return;
        }
        self.open.get_or_insert_with(|| self.spare.take().unwrap_or_default()).update(piece);
    }

    /// Ends the current entry with its last piece; returns the entry's hash.
    pub fn end(&mut self, piece: &[u8]) -> blake3::Hash {
        let Some(mut hasher) = self.open.take() else { return blake3::hash(piece) };
        hasher.update(piece);
        let hash = hasher.finalize();
        hasher.reset();
        self.spare = Some(hasher);
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digest<'a>(entries: impl IntoIterator<Item = &'a Vec<u8>>) -> SetDigest {
        let mut digest = SetDigest::default();
        entries.into_iter().for_each(|entry| digest.add(blake3::hash(entry)));
        digest
    }

    proptest! {
        #[test]
        fn order_and_grouping_do_not_matter_and_any_change_does(
            entries in prop::collection::hash_set(any::<Vec<u8>>(), 1..20), cut in 0..20_usize, which in 0..20_usize
        ) {
            let entries: Vec<Vec<u8>> = entries.into_iter().collect();
            let whole = digest(&entries);
            prop_assert_eq!(digest(entries.iter().rev()), whole);
            let (left, right) = entries.split_at(cut.min(entries.len()));
            let mut joined = digest(left);
            joined += digest(right);
            prop_assert_eq!(joined.hash(), whole.hash());
            let mut changed = entries.clone();
            let which = which % changed.len();
            changed[which].push(0);
            prop_assert_ne!(digest(&changed).hash(), whole.hash());
            changed.remove(which);
            prop_assert_ne!(digest(&changed).hash(), whole.hash());
        }

        #[test]
        fn pieces_do_not_matter(entries in prop::collection::vec(any::<Vec<u8>>(), 1..5), piece in 1..9_usize) {
            let mut hasher = EntryHasher::default();
            for entry in &entries {
                entry.chunks(piece).for_each(|part| hasher.take(part));
                prop_assert_eq!(hasher.end(b""), blake3::hash(entry));
            }
        }
    }
}
