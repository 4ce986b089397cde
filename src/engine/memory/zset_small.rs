//! A sorted set of few members, packed into one buffer in its order: what a leaf of a list is, with scores.
//!
//! An entry is {width: 1 byte, score: width bytes, member}. A score that is a whole number takes 1, 2 or 4 bytes (two's
//! complement, little endian) if it fits, any other one 8 (IEEE 754).
//!
//! Guarantees: everything costs a walk over [`LEAF_ELEMENTS`](super::packed::LEAF_ELEMENTS) entries at most, in [`LEAF_BYTES`]; a clone costs O(1) and
//! never changes. Non-goal: holding a set that does not fit.

use super::packed::{LEAF_BYTES, Packed, encoded_len};
use super::tree::{Leaf, Ordered};
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// What an `Arc` adds to the leaf, and an allocator to that.
const SHARED_BYTES: usize = 16 + size_of::<Packed>() + 8;
/// Bytes of the widest score and its width.
const SCORE_BYTES_MAX: usize = 9;

/// Members with scores, ordered by score and then by the member's bytes.
#[derive(Clone, Default)]
pub(super) struct SmallZset {
    /// None: no members.
    entries: Option<Arc<Packed>>,
}

/// It does not fit: the set must take another form first.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A score as it is stored: width, then so many bytes.
fn encode(score: f64) -> ([u8; SCORE_BYTES_MAX], usize) {
    let mut to = [0; SCORE_BYTES_MAX];
    // Saturating, so that only what comes back as it was fits.
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

/// Member and score of an entry.
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

/// How two members are ordered.
pub(super) fn compare((member, score): (&[u8], f64), (other, its_score): (&[u8], f64)) -> Ordering {
    score.total_cmp(&its_score).then_with(|| member.cmp(other))
}

impl SmallZset {
    /// A set of these members, which come in order; [`Full`] if there are too many.
    pub fn of<'a>(members: impl IntoIterator<Item = (&'a [u8], f64)>) -> Result<Self, Full> {
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

    pub fn len(&self) -> u64 {
        self.entries.as_ref().map_or(0, |entries| entries.len() as u64)
    }

    /// Heap bytes held, allocator overhead included.
    pub fn memory_bytes(&self) -> usize {
        self.entries.as_ref().map_or(0, |entries| SHARED_BYTES + entries.bytes())
    }

    /// Score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.find(member).map(|(_, score)| score)
    }

    fn find(&self, member: &[u8]) -> Option<(usize, f64)> {
        let mut members = self.iter(0..self.len()).enumerate();
        members.find(|(_, (found, _))| *found == member).map(|(at, (_, score))| (at, score))
    }

    /// Gives a member a score, adding it if it is not there; yields the score it had. If it does not fit, nothing changes.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Result<Option<f64>, Full> {
        let old = self.find(member);
        if let Some((_, old)) = old.filter(|(_, old)| *old == score) {
            return Ok(Some(old));
        }
        let entry = entry(member, score);
        let need = encoded_len(entry.len());
        let fits = match (&self.entries, old) {
            (None, _) => need <= LEAF_BYTES,
            (Some(entries), None) => entries.holds_another(need),
            // In place of the old one, which was shorter by so much at most.
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

    /// Removes a member; yields the score it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (at, score) = self.find(member)?;
        self.remove_ranks(at..at + 1);
        Some(score)
    }

    /// Removes the members at these ranks, which are there.
    pub fn remove_ranks(&mut self, ranks: Range<usize>) {
        let Some(entries) = &mut self.entries else { return };
        if ranks.len() == entries.len() {
            self.entries = None;
        } else {
            Arc::make_mut(entries).remove(ranks);
        }
    }

    /// Number of members for which `is_below` holds: a prefix.
    pub fn count_below(&self, is_below: impl Fn((&[u8], f64)) -> bool) -> u64 {
        self.entries.as_ref().map_or(0, |entries| below(entries, is_below) as u64)
    }

    /// Members and scores at these ranks, which are there.
    pub fn iter(&self, ranks: Range<u64>) -> SmallIter<'_> {
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

/// Members and scores, from both ends.
#[derive(Default)]
pub(super) struct SmallIter<'a> {
    entries: Option<&'a Packed>,
    /// Where the next entry begins.
    front: usize,
    /// Where the next one from the back ends.
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
    /// Bytes that are not shared with another set.
    pub fn bytes_apart_from(&self, other: &Self) -> usize {
        let is_shared =
            self.entries.as_ref().zip(other.entries.as_ref()).is_some_and(|(own, other)| Arc::ptr_eq(own, other));
        if is_shared { 0 } else { self.memory_bytes() }
    }

    /// Panics unless its members are in order.
    pub fn check(&self) {
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
