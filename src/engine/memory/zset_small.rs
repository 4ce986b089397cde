//! A sorted set of few members, packed into one buffer in the set's order: the same as a leaf of a list, with scores.
//!
//! An entry is {width: 1 byte, score: width bytes, member}. A score that is a whole number takes 1, 2 or 4 bytes (two's
//! complement, little-endian) if it fits; any other score takes 8 bytes (IEEE 754).
//!
//! Guarantees: every operation costs at most a walk over [`LEAF_ELEMENTS`](super::packed::LEAF_ELEMENTS) entries in
//! [`LEAF_BYTES`]; a clone costs O(1) and never changes. Non-goal: holding a set that does not fit.

use super::packed::{LEAF_BYTES, Packed, encoded_len};
use super::tree::{Leaf, Ordered};
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// Heap bytes of a shared leaf beside its buffer: the counters of the `Arc`, the leaf itself, and the overhead of the
/// allocator.
const SHARED_BYTES: usize = 16 + size_of::<Packed>() + 8;
/// Bytes of the widest score, its width included.
const SCORE_BYTES_MAX: usize = 9;

/// Members with scores, ordered by score and then by the member's bytes.
#[derive(Clone, Default)]
pub(super) struct SmallZset {
    /// The packed entries; `None`: no members.
    entries: Option<Arc<Packed>>,
}

/// The members do not fit: the set must take the large form first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Returns the stored form of a score, {width, score}, and its number of bytes.
fn encode(score: f64) -> ([u8; SCORE_BYTES_MAX], usize) {
    let mut to = [0; SCORE_BYTES_MAX];
    // The cast saturates, so that a score which does not fit differs from the result.
    let whole = score as i32;
    let width = match whole {
        _ if f64::from(whole) != score => 8,
        -0x80..0x80 => 1,
        -0x8000..0x8000 => 2,
        _ => 4,
    };
    to[0] = width as u8;
    match width {
        8 => to[1..].copy_from_slice(&score.to_le_bytes()),
        _ => to[1..=width].copy_from_slice(&whole.to_le_bytes()[..width]),
    }
    (to, width + 1)
}

/// Returns member and score of an entry.
#[inline]
fn decode(entry: &[u8]) -> (&[u8], f64) {
    let (score, member) = entry[1..].split_at(entry[0] as usize);
    let score = match *score {
        [a] => f64::from(a as i8),
        [a, b] => f64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => f64::from(i32::from_le_bytes([a, b, c, d])),
        _ => f64::from_le_bytes(score.try_into().expect("a score has 1, 2, 4 or 8 bytes")),
    };
    (member, score)
}

/// Compares two members by score and then by their bytes.
pub(super) fn compare((member, score): (&[u8], f64), (other, its_score): (&[u8], f64)) -> Ordering {
    score.total_cmp(&its_score).then_with(|| member.cmp(other))
}

impl SmallZset {
    /// Returns a set of these members, which must be in order; [`Full`] if they do not fit.
    pub(super) fn of<'a>(members: impl IntoIterator<Item = (&'a [u8], f64)>) -> Result<Self, Full> {
        let mut packed = Packed::default();
        for (member, score) in members {
            let entry = entry(member, score);
            if !packed.holds_another(encoded_len(entry.len())) {
                return Err(Full);
            }
            let overflown = packed.push_back(&entry, 0);
            debug_assert!(overflown.is_empty());
        }
        Ok(Self { entries: (packed.len() > 0).then(|| Arc::new(packed)) })
    }

    pub(super) fn len(&self) -> u64 {
        self.entries.as_ref().map_or(0, |entries| entries.len() as u64)
    }

    /// Returns the heap bytes held, allocator overhead included.
    pub(super) fn memory_bytes(&self) -> usize {
        self.entries.as_ref().map_or(0, |entries| SHARED_BYTES + entries.bytes())
    }

    /// Returns the score of a member.
    pub(super) fn score(&self, member: &[u8]) -> Option<f64> {
        self.find(member).map(|(_, score)| score)
    }

    fn find(&self, member: &[u8]) -> Option<(usize, f64)> {
        let mut members = self.iter(0..self.len()).enumerate();
        members.find(|(_, (found, _))| *found == member).map(|(at, (_, score))| (at, score))
    }

    /// Sets the score of a member, adding the member if it does not exist. Returns the former score. Returns [`Full`],
    /// and changes nothing, if the member does not fit.
    pub(super) fn insert(&mut self, member: &[u8], score: f64) -> Result<Option<f64>, Full> {
        let old = self.find(member);
        if let Some((_, old)) = old.filter(|(_, old)| *old == score) {
            return Ok(Some(old));
        }
        let entry = entry(member, score);
        let need = encoded_len(entry.len());
        let fits = match (&self.entries, old) {
            (None, _) => need <= LEAF_BYTES,
            (Some(entries), None) => entries.holds_another(need),
            // The new entry replaces the old one, which is shorter by at most this: 7 bytes of score and 2 of lengths.
            (Some(entries), Some(_)) => entries.holds_more(SCORE_BYTES_MAX),
        };
        if !fits {
            return Err(Full);
        }
        let entries = Arc::make_mut(self.entries.get_or_insert_default());
        if let Some((at, _)) = old {
            entries.remove(at..at + 1);
        }
        let at = below(entries, |found| compare(found, (member, score)).is_lt());
        let overflown = entries.insert(at, &entry);
        debug_assert!(overflown.is_empty());
        Ok(old.map(|(_, score)| score))
    }

    /// Removes a member and returns its former score.
    pub(super) fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (at, score) = self.find(member)?;
        self.remove_ranks(at..at + 1);
        Some(score)
    }

    /// Removes the members at these ranks, which must exist.
    pub(super) fn remove_ranks(&mut self, ranks: Range<usize>) {
        let Some(entries) = &mut self.entries else { return };
        if ranks.len() == entries.len() {
            self.entries = None;
        } else {
            Arc::make_mut(entries).remove(ranks);
        }
    }

    /// Returns the number of members for which `is_below` holds; these must be a prefix.
    pub(super) fn count_below(&self, is_below: impl Fn((&[u8], f64)) -> bool) -> u64 {
        self.entries.as_ref().map_or(0, |entries| below(entries, is_below) as u64)
    }

    /// Iterates over members and scores at these ranks, which must exist.
    pub(super) fn iter(&self, ranks: Range<u64>) -> SmallIter<'_> {
        let Some(entries) = &self.entries else { return SmallIter::default() };
        let [front, back] = [ranks.start, ranks.end].map(|rank| entries.seek(rank as usize));
        SmallIter { entries: Some(entries), front, back, left: (ranks.end - ranks.start) as usize }
    }
}

fn entry(member: &[u8], score: f64) -> Vec<u8> {
    let (score, width) = encode(score);
    let mut entry = Vec::with_capacity(width + member.len());
    entry.extend_from_slice(&score[..width]);
    entry.extend_from_slice(member);
    entry
}

fn below(entries: &Packed, is_below: impl Fn((&[u8], f64)) -> bool) -> usize {
    let mut at = entries.seek(0);
    let is_below = |_: &usize| {
        let (entry, next) = entries.read(at);
        at = next;
        is_below(decode(entry))
    };
    (0..entries.len()).take_while(is_below).count()
}

/// Iterator over members and scores, from both ends.
#[derive(Default)]
pub(super) struct SmallIter<'a> {
    entries: Option<&'a Packed>,
    /// Byte position where the next entry begins.
    front: usize,
    /// Byte position where the next entry from the back ends.
    back: usize,
    left: usize,
}

impl<'a> Iterator for SmallIter<'a> {
    type Item = (&'a [u8], f64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let entries = self.entries.filter(|_| self.left > 0)?;
        let (entry, next) = entries.read(self.front);
        (self.front, self.left) = (next, self.left - 1);
        Some(decode(entry))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for SmallIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let entries = self.entries.filter(|_| self.left > 0)?;
        let (entry, begin) = entries.read_back(self.back);
        (self.back, self.left) = (begin, self.left - 1);
        Some(decode(entry))
    }
}

#[cfg(test)]
impl SmallZset {
    /// Returns the bytes that are not shared with another set.
    pub(super) fn bytes_apart_from(&self, other: &Self) -> usize {
        let is_shared =
            self.entries.as_ref().zip(other.entries.as_ref()).is_some_and(|(own, other)| Arc::ptr_eq(own, other));
        if is_shared { 0 } else { self.memory_bytes() }
    }

    /// Panics unless the members are in order and within the limits of a leaf.
    pub(super) fn check(&self) {
        let members: Vec<_> = self.iter(0..self.len()).collect();
        assert!(members.windows(2).all(|pair| compare(pair[0], pair[1]).is_lt()));
        assert!(
            members.len() <= super::packed::LEAF_ELEMENTS
                && self.entries.as_ref().is_none_or(|entries| entries.len() > 0)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_score_comes_back_in_the_fewest_bytes() {
        for (score, width) in [
            (0.0, 1),
            (-128.0, 1),
            (127.0, 1),
            (128.0, 2),
            (-129.0, 2),
            (32_768.0, 4),
            (-2_147_483_648.0, 4),
            (2_147_483_647.0, 4),
            (2_147_483_648.0, 8),
            (0.5, 8),
            (1e300, 8),
            (f64::INFINITY, 8),
            (f64::NEG_INFINITY, 8),
            (f64::MIN_POSITIVE, 8),
        ] {
            let entry = entry(b"member", score);
            assert_eq!(entry.len(), 1 + width + 6, "{score}");
            assert_eq!(decode(&entry), (&b"member"[..], score));
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut set = SmallZset::default();
        assert_eq!(set.insert(&[b'x'; LEAF_BYTES], 1.0), Err(Full));
        let mut members = 0;
        while set.insert(&[[members as u8; 60].as_slice(), b"y"].concat(), f64::from(members) + 0.5).is_ok() {
            members += 1;
        }
        assert_eq!((set.len(), set.insert(b"one more", 1.0)), (members as u64, Ok(None)));
        assert!(set.remove(b"one more").is_some() && set.remove(b"one more").is_none());
        let before: Vec<_> = set.iter(0..set.len()).map(|(member, score)| (member.to_vec(), score)).collect();
        assert_eq!(set.insert(&[b'z'; 80], 1.0), Err(Full));
        assert!(set.iter(0..set.len()).eq(before.iter().map(|(member, score)| (&member[..], *score))));
        set.check();
    }
}
