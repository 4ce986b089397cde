//! A sorted set of any size: a counted tree in the set's order, and an index, which is a counted tree ordered by the
//! member's hash.
//!
//! Guarantees: score, rank, insertion and removal cost O(log n); a clone costs O(1) and never changes.

use super::bucket::{Bucket, place};
use super::small_bytes::SmallBytes;
use super::sorted_leaf::{Item, SortedLeaf};
use super::tree::Tree;
use super::zset_small::compare;
use crate::engine::hash::hash;
use std::cmp::Ordering;
use std::ops::Range;

/// A member and its score, as an item of the order.
#[derive(Clone)]
pub(super) struct Scored {
    pub(super) score: f64,
    /// The member. Its heap bytes are accounted for here, although a long member is shared with the index.
    pub(super) member: SmallBytes,
}

impl Scored {
    fn pair(&self) -> (&[u8], f64) {
        (&self.member, self.score)
    }

    pub(super) fn cmp(&self, score: f64, member: &[u8]) -> Ordering {
        compare((&self.member, self.score), (member, score))
    }
}

impl Item for Scored {
    fn owned_bytes(&self) -> usize {
        self.member.memory_bytes()
    }
}

pub(super) type Index = Tree<Bucket>;

/// A sorted set in its large form.
#[derive(Clone, Default)]
pub(super) struct LargeZset {
    order: Tree<SortedLeaf<Scored>>,
    index: Index,
}

impl LargeZset {
    /// Returns a set of this order and this index, which must agree with each other.
    pub(super) fn assembled(order: Tree<SortedLeaf<Scored>>, index: Index) -> Self {
        Self { order, index }
    }

    /// Returns the number of members.
    pub(super) fn len(&self) -> u64 {
        self.order.len()
    }

    /// Returns the heap bytes held, allocator overhead included; O(1).
    pub(super) fn memory_bytes(&self) -> usize {
        self.order.bytes() + self.index.bytes()
    }

    /// Returns the score of a member.
    pub(super) fn score(&self, member: &[u8]) -> Option<f64> {
        let hash = hash(member);
        self.index.by(|low| *low <= place(hash)).0.get(hash, member)
    }

    /// Sets the score of a member, adding the member if it does not exist. Returns the former score.
    pub(super) fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        let (shared, old) = match upsert(&mut self.index, member, score) {
            Upserted::Added(shared) => (shared, None),
            Upserted::Had(old) if old == score => return Some(old),
            Upserted::Had(old) => (self.unlink(member, old), Some(old)),
        };
        self.order.edit_by(
            |low| low.cmp(score, member).is_le(),
            |leaf| {
                let at = leaf.partition_point(|item| item.cmp(score, member).is_lt());
                ((), leaf.insert(at, Scored { score, member: shared }))
            },
        );
        old
    }

    /// Removes a member and returns its former score.
    pub(super) fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let old = unindex(&mut self.index, member)?;
        self.unlink(member, old);
        Some(old)
    }

    /// Removes the members at these ranks, which must exist.
    pub(super) fn remove_ranks(&mut self, ranks: Range<u64>) {
        if ranks == (0..self.len()) {
            self.index.clear();
        } else {
            let mut index = std::mem::take(&mut self.index);
            for (member, _) in self.iter(ranks.clone()) {
                unindex(&mut index, member).expect("every member is indexed");
            }
            self.index = index;
        }
        self.order.remove_range(ranks);
    }

    /// Iterates over members and scores at these ranks, which must exist.
    pub(super) fn iter(&self, ranks: Range<u64>) -> LargeIter<'_> {
        LargeIter { order: &self.order, ranks, front: [].iter(), back: [].iter() }
    }

    /// Returns the number of members for which `is_below` holds; these must be a prefix.
    pub(super) fn count_below(&self, is_below: impl Fn((&[u8], f64)) -> bool) -> u64 {
        let below = |item: &Scored| is_below((&item.member, item.score));
        let (leaf, before) = self.order.by(below);
        before + leaf.partition_point(below) as u64
    }

    /// Removes a member, which must exist, from the order.
    fn unlink(&mut self, member: &[u8], score: f64) -> SmallBytes {
        self.order.edit_by(
            |low| low.cmp(score, member).is_le(),
            |leaf| {
                let at = leaf.partition_point(|item| item.cmp(score, member).is_lt());
                let item = leaf.take(at);
                assert!(*item.member == *member, "index and order disagree");
                (item.member, Vec::new())
            },
        )
    }
}

/// Outcome of an [`upsert`] of a member.
enum Upserted {
    /// The member was added; the index shares these bytes with the order.
    Added(SmallBytes),
    /// The member existed, and this was its former score.
    Had(f64),
}

/// Sets the score of a member in the index, adding the member if it does not exist.
fn upsert(index: &mut Index, member: &[u8], score: f64) -> Upserted {
    let hash = hash(member);
    index.edit_by(
        |low| *low <= place(hash),
        |bucket| {
            if let Some(there) = bucket.get_mut(hash, member) {
                return (Upserted::Had(std::mem::replace(there, score)), Vec::new());
            }
            let member = SmallBytes::from(member);
            let more = bucket.add(hash, member.clone(), score);
            (Upserted::Added(member), more)
        },
    )
}

/// Removes a member from the index and returns its score.
fn unindex(index: &mut Index, member: &[u8]) -> Option<f64> {
    let hash = hash(member);
    index.edit_by(|low| *low <= place(hash), |bucket| (bucket.take(hash, member), Vec::new()))
}

/// Iterator over members and scores, from both ends.
pub(super) struct LargeIter<'a> {
    order: &'a Tree<SortedLeaf<Scored>>,
    /// The ranks that remain.
    ranks: Range<u64>,
    /// Remaining items in the leaf of the next member; empty if the leaf must be looked up.
    front: std::slice::Iter<'a, Scored>,
    /// Remaining items in the leaf of the next member from the back; empty if the leaf must be looked up.
    back: std::slice::Iter<'a, Scored>,
}

impl<'a> Iterator for LargeIter<'a> {
    type Item = (&'a [u8], f64);

    fn next(&mut self) -> Option<Self::Item> {
        let rank = self.ranks.next()?;
        if self.front.len() == 0 {
            let (leaf, at) = self.order.at(rank);
            self.front = leaf.items()[at..].iter();
        }
        self.front.next().map(Scored::pair)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ranks.size_hint()
    }
}

impl DoubleEndedIterator for LargeIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let rank = self.ranks.next_back()?;
        if self.back.len() == 0 {
            let (leaf, at) = self.order.at(rank);
            self.back = leaf.items()[..=at].iter();
        }
        self.back.next_back().map(Scored::pair)
    }
}

#[cfg(test)]
impl LargeZset {
    /// Returns the bytes that are not shared with another set.
    pub(super) fn bytes_apart_from(&self, other: &Self) -> usize {
        self.order.bytes_apart_from(&other.order) + self.index.bytes_apart_from(&other.index)
    }

    /// Panics unless order and index agree and the invariants of both trees hold.
    pub(super) fn check(&self) {
        let ordered: Vec<_> = self.order.check().into_iter().flat_map(SortedLeaf::check).collect();
        assert!(ordered.windows(2).all(|pair| pair[0].cmp(pair[1].score, &pair[1].member).is_lt()));
        let indexed = self.index.check().into_iter().flat_map(Bucket::members);
        assert_eq!(indexed.clone().count(), ordered.len());
        assert!(indexed.clone().all(|(member, score)| self.score(member) == Some(*score)));
        assert!(ordered.iter().all(|item| self.score(&item.member) == Some(item.score)));
    }
}
