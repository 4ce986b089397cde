//! A sorted set: members with scores, ordered by score and then by the member's bytes.
//!
//! ```text
//! small  few members, packed into one buffer                      (zset_small)
//! large  a tree in the set's order, and an index by member        (zset_large)
//! ```
//!
//! A set is small until it no longer fits into one buffer. A large set becomes small once it has shrunk well below that
//! size.
//!
//! Guarantees: score, rank, insertion and removal cost O(log n), or a walk over a small set. A clone costs O(1) and
//! never changes. -0.0 is stored as 0.0. Passing a NaN score is a defect of the caller.

use super::zset_large::{LargeIter, LargeZset};
use super::zset_small::{Full, SmallIter, SmallZset, compare};
use std::ops::Range;

/// Number of members at which a large set becomes small, if it fits.
const SMALL_AGAIN_MEMBERS: u64 = 32;

/// Side of a bound on which members equal to the bound lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// Members equal to the bound lie above it.
    Before,
    /// Members equal to the bound lie below it.
    After,
}

/// A Redis sorted set.
#[derive(Clone)]
pub struct Zset(Form);

#[derive(Clone)]
enum Form {
    Small(SmallZset),
    Large(LargeZset),
}

impl Default for Zset {
    fn default() -> Self {
        Self(Form::Small(SmallZset::default()))
    }
}

impl Zset {
    /// Returns an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn small(small: SmallZset) -> Self {
        Self(Form::Small(small))
    }

    pub(super) fn large(large: LargeZset) -> Self {
        Self(Form::Large(large))
    }

    /// Returns the number of members.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Form::Small(small) => small.len(),
            Form::Large(large) => large.len(),
        }
    }

    /// Reports whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the heap bytes held, allocator overhead included; O(1).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        match &self.0 {
            Form::Small(small) => small.memory_bytes(),
            Form::Large(large) => large.memory_bytes(),
        }
    }

    /// Returns the score of a member.
    #[must_use]
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match &self.0 {
            Form::Small(small) => small.score(member),
            Form::Large(large) => large.score(member),
        }
    }

    /// Sets the score of a member, adding the member if it does not exist. Returns the former score. Panics if `score`
    /// is NaN.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        assert!(!score.is_nan(), "NaN is no score");
        let score = score + 0.0;
        if let Form::Small(small) = &mut self.0 {
            match small.insert(member, score) {
                Ok(old) => return old,
                Err(Full) => self.grow(),
            }
        }
        let Form::Large(large) = &mut self.0 else { unreachable!("it has just been made large") };
        large.insert(member, score)
    }

    fn grow(&mut self) {
        let mut large = LargeZset::default();
        for (member, score) in self.iter_from(0) {
            large.insert(member, score);
        }
        self.0 = Form::Large(large);
    }

    /// Makes a large set small if it has shrunk enough.
    fn settle(&mut self) {
        if let Form::Large(large) = &self.0
            && large.len() <= SMALL_AGAIN_MEMBERS
            && let Ok(small) = SmallZset::of(large.iter(0..large.len()))
        {
            self.0 = Form::Small(small);
        }
    }

    /// Removes a member and returns its former score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match &mut self.0 {
            Form::Small(small) => small.remove(member),
            Form::Large(large) => {
                let old = large.remove(member);
                self.settle();
                old
            }
        }
    }

    /// Returns the number of members before this one in the order; `None` if the member does not exist.
    #[must_use]
    pub fn rank(&self, member: &[u8]) -> Option<u64> {
        let score = self.score(member)?;
        Some(self.count_below(|found| compare(found, (member, score)).is_lt()))
    }

    /// Returns the number of members with a score below the bound.
    #[must_use]
    pub fn rank_of_score(&self, score: f64, edge: Edge) -> u64 {
        match edge {
            Edge::Before => self.count_below(|(_, found)| found < score),
            Edge::After => self.count_below(|(_, found)| found <= score),
        }
    }

    /// Returns the number of members whose bytes are below the bound. All scores of the set must be equal.
    #[must_use]
    pub fn rank_of_lex(&self, member: &[u8], edge: Edge) -> u64 {
        match edge {
            Edge::Before => self.count_below(|(found, _)| found < member),
            Edge::After => self.count_below(|(found, _)| found <= member),
        }
    }

    fn count_below(&self, is_below: impl Fn((&[u8], f64)) -> bool) -> u64 {
        match &self.0 {
            Form::Small(small) => small.count_below(is_below),
            Form::Large(large) => large.count_below(is_below),
        }
    }

    /// Removes the members at these ranks and returns their number. The range may reach beyond the last rank.
    pub fn remove_ranks(&mut self, ranks: Range<u64>) -> u64 {
        let ranks = ranks.start.min(self.len())..ranks.end.min(self.len());
        if ranks.is_empty() {
            return 0;
        }
        let gone = ranks.end - ranks.start;
        match &mut self.0 {
            Form::Small(small) => small.remove_ranks(ranks.start as usize..ranks.end as usize),
            Form::Large(large) => {
                large.remove_ranks(ranks);
                self.settle();
            }
        }
        gone
    }

    /// Iterates over members and scores from a rank upwards.
    #[must_use]
    pub fn iter_from(&self, rank: u64) -> impl ExactSizeIterator<Item = (&[u8], f64)> + Send {
        self.iter(rank.min(self.len())..self.len())
    }

    /// Iterates over members and scores from a rank down to the first. A rank behind the last means the last.
    #[must_use]
    pub fn iter_back_from(&self, rank: u64) -> impl ExactSizeIterator<Item = (&[u8], f64)> + Send {
        self.iter(0..rank.saturating_add(1).min(self.len())).rev()
    }

    fn iter(&self, ranks: Range<u64>) -> Either<SmallIter<'_>, LargeIter<'_>> {
        match &self.0 {
            Form::Small(small) => Either::Small(small.iter(ranks)),
            Form::Large(large) => Either::Large(large.iter(ranks)),
        }
    }
}

/// Iterator over a set of either form.
enum Either<S, L> {
    Small(S),
    Large(L),
}

impl<I, S: Iterator<Item = I>, L: Iterator<Item = I>> Iterator for Either<S, L> {
    type Item = I;

    #[inline]
    fn next(&mut self) -> Option<I> {
        match self {
            Self::Small(small) => small.next(),
            Self::Large(large) => large.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Small(small) => small.size_hint(),
            Self::Large(large) => large.size_hint(),
        }
    }
}

impl<I, S: DoubleEndedIterator<Item = I>, L: DoubleEndedIterator<Item = I>> DoubleEndedIterator for Either<S, L> {
    fn next_back(&mut self) -> Option<I> {
        match self {
            Self::Small(small) => small.next_back(),
            Self::Large(large) => large.next_back(),
        }
    }
}

impl<I, S: Iterator<Item = I>, L: Iterator<Item = I>> ExactSizeIterator for Either<S, L> {}

#[cfg(test)]
impl Zset {
    /// Returns the bytes that are not shared with another set.
    pub fn bytes_apart_from(&self, other: &Self) -> usize {
        match (&self.0, &other.0) {
            (Form::Small(own), Form::Small(other)) => own.bytes_apart_from(other),
            (Form::Large(own), Form::Large(other)) => own.bytes_apart_from(other),
            _ => self.memory_bytes(),
        }
    }

    /// Panics if an invariant of the set's form is violated.
    pub fn check(&self) {
        match &self.0 {
            Form::Small(small) => small.check(),
            Form::Large(large) => large.check(),
        }
    }
}

#[cfg(test)]
#[path = "zset_tests.rs"]
mod tests;
