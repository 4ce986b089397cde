//! A sorted set of any size: a counted tree in its order, and beyond [`UNINDEXED_MEMBERS`] an index, the same tree
//! ordered by the member's hash. A set without one is one leaf, and a member is found by walking it.
//!
//! Guarantees: score, rank, insertion and removal cost O(log n); a clone costs O(1) and never changes.

use super::bucket::{Bucket, place};
use super::compact::Compact;
use super::hash::hash;
use super::run::{Item, RUN_ITEMS, Run};
use super::tree::Tree;
use super::zset_small::compare;
use std::cmp::Ordering;
use std::ops::Range;

/// Members up to which a set does without an index. A set that has one keeps it down to half of this.
pub(super) const UNINDEXED_MEMBERS: u64 = RUN_ITEMS as u64;

/// A member in the order.
#[derive(Clone)]
pub(super) struct Scored {
    pub(super) score: f64,
    /// Accounted for here, although a long one is shared with the index.
    pub(super) member: Compact,
}

impl Scored {
    pub(super) fn cmp(&self, score: f64, member: &[u8]) -> Ordering {
        compare((self.score, &self.member), (score, member))
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
    order: Tree<Run<Scored>>,
    index: Option<Index>,
}

impl LargeZset {
    /// A set of this order; `index` is there if it is beyond [`UNINDEXED_MEMBERS`], and agrees with the order.
    pub fn assembled(order: Tree<Run<Scored>>, index: Option<Index>) -> Self {
        Self { order, index }
    }

    /// Number of members.
    pub fn len(&self) -> u64 {
        self.order.len()
    }

    /// Heap bytes held, allocator overhead included; O(1).
    pub fn memory_bytes(&self) -> usize {
        self.order.bytes() + self.index.as_ref().map_or(0, Tree::bytes)
    }

    /// Score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match &self.index {
            Some(index) => {
                let hash = hash(member);
                index.by(|low| *low <= place(hash)).0.get(hash, member)
            }
            None => self.iter_from(0).find(|(found, _)| *found == member).map(|(_, score)| score),
        }
    }

    /// Gives a member a score, adding it if it is not there; yields the score it had.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        let (shared, old) = match &mut self.index {
            Some(index) => upsert(index, member, score),
            None => match self.score(member) {
                Some(old) => (None, Some(old)),
                None => (Some(Compact::from(member)), None),
            },
        };
        let shared = match (shared, old) {
            (_, Some(old)) if old == score => return Some(old),
            (_, Some(old)) => self.unlink(member, old),
            (Some(shared), None) => shared,
            (None, None) => unreachable!("a member that is not there was added"),
        };
        self.order.edit_by(
            |low| low.cmp(score, member).is_le(),
            |run| {
                let at = run.partition_point(|item| item.cmp(score, member).is_lt());
                ((), run.insert(at, Scored { score, member: shared }))
            },
        );
        if self.index.is_none() && self.len() > UNINDEXED_MEMBERS {
            self.index = Some(self.build_index());
        }
        old
    }

    /// Removes a member; yields the score it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let old = match &mut self.index {
            Some(index) => unindex(index, member)?,
            None => self.score(member)?,
        };
        self.unlink(member, old);
        self.drop_small_index();
        Some(old)
    }

    /// Removes the members at these ranks, which are there.
    pub fn remove_ranks(&mut self, ranks: Range<u64>) {
        let gone = ranks.end - ranks.start;
        if gone < self.len()
            && let Some(mut index) = self.index.take()
        {
            for (member, _) in self.iter_from(ranks.start).take(gone as usize) {
                unindex(&mut index, member).expect("every member is indexed");
            }
            self.index = Some(index);
        }
        self.order.remove_range(ranks);
        self.drop_small_index();
    }

    /// Members and scores from a rank upwards.
    pub fn iter_from(&self, rank: u64) -> LargeIter<'_> {
        LargeIter { order: &self.order, next: rank, items: [].iter() }
    }

    /// So many members and scores from the first on, from the last of them down to the first.
    pub fn iter_back(&self, count: u64) -> LargeIterBack<'_> {
        LargeIterBack { order: &self.order, left: count, items: [].iter() }
    }

    /// Number of members for which `is_below` holds: a prefix.
    pub fn count_below(&self, is_below: impl Fn((f64, &[u8])) -> bool) -> u64 {
        let below = |item: &Scored| is_below((item.score, &item.member));
        let (run, before) = self.order.by(below);
        before + run.partition_point(below) as u64
    }

    /// Takes a member that is there out of the order.
    fn unlink(&mut self, member: &[u8], score: f64) -> Compact {
        self.order.edit_by(
            |low| low.cmp(score, member).is_le(),
            |run| {
                let at = run.partition_point(|item| item.cmp(score, member).is_lt());
                let item = run.take(at);
                assert!(*item.member == *member, "index and order disagree");
                (item.member, Vec::new())
            },
        )
    }

    fn build_index(&self) -> Index {
        let mut index = Index::default();
        for rank in 0..self.len() {
            let (run, at) = self.order.at(rank);
            let Scored { score, member } = run.items()[at].clone();
            let hash = hash(&member);
            index.edit_by(|low| *low <= place(hash), |bucket| ((), bucket.add(hash, member, score)));
        }
        index
    }

    fn drop_small_index(&mut self) {
        if self.len() <= UNINDEXED_MEMBERS / 2
            && let Some(mut index) = self.index.take()
        {
            index.clear();
        }
    }
}

/// Sets the score of a member, or adds it: the added member, or the score it had.
fn upsert(index: &mut Index, member: &[u8], score: f64) -> (Option<Compact>, Option<f64>) {
    let hash = hash(member);
    index.edit_by(
        |low| *low <= place(hash),
        |bucket| {
            if let Some(there) = bucket.get_mut(hash, member) {
                return ((None, Some(std::mem::replace(there, score))), Vec::new());
            }
            let member = Compact::from(member);
            let more = bucket.add(hash, member.clone(), score);
            ((Some(member), None), more)
        },
    )
}

/// Takes a member out of the index; yields its score.
fn unindex(index: &mut Index, member: &[u8]) -> Option<f64> {
    let hash = hash(member);
    index.edit_by(|low| *low <= place(hash), |bucket| (bucket.take(hash, member), Vec::new()))
}

/// Members and scores, ascending.
pub(super) struct LargeIter<'a> {
    order: &'a Tree<Run<Scored>>,
    /// Rank of the next member.
    next: u64,
    /// What is left of the leaf it lies in; empty if the leaf is still to be found.
    items: std::slice::Iter<'a, Scored>,
}

impl<'a> Iterator for LargeIter<'a> {
    type Item = (&'a [u8], f64);

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.order.len() {
            return None;
        }
        if self.items.len() == 0 {
            let (run, at) = self.order.at(self.next);
            self.items = run.items()[at..].iter();
        }
        self.next += 1;
        self.items.next().map(|item| (&*item.member, item.score))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.order.len() - self.next) as usize;
        (left, Some(left))
    }
}

/// Members and scores, descending.
pub(super) struct LargeIterBack<'a> {
    order: &'a Tree<Run<Scored>>,
    /// Number of members still to come.
    left: u64,
    /// What is left of the leaf the next one lies in; empty if the leaf is still to be found.
    items: std::slice::Iter<'a, Scored>,
}

impl<'a> Iterator for LargeIterBack<'a> {
    type Item = (&'a [u8], f64);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        if self.items.len() == 0 {
            let (run, at) = self.order.at(self.left);
            self.items = run.items()[..=at].iter();
        }
        self.items.next_back().map(|item| (&*item.member, item.score))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

#[cfg(test)]
impl LargeZset {
    /// Bytes that are not shared with another set.
    pub fn bytes_apart_from(&self, other: &Self) -> usize {
        let index = self.index.as_ref().zip(other.index.as_ref());
        self.order.bytes_apart_from(&other.order) + index.map_or(0, |(own, other)| own.bytes_apart_from(other))
    }

    /// Panics unless order and index agree and the inner structure holds.
    pub fn check(&self) {
        let ordered: Vec<_> = self.order.check().into_iter().flat_map(Run::check).collect();
        assert!(ordered.windows(2).all(|pair| pair[0].cmp(pair[1].score, &pair[1].member).is_lt()));
        if let Some(index) = &self.index {
            let indexed = index.check().into_iter().flat_map(Bucket::members);
            assert_eq!(indexed.clone().count(), ordered.len());
            assert!(indexed.clone().all(|(member, score)| self.score(member) == Some(*score)));
            assert!(ordered.iter().all(|item| self.score(&item.member) == Some(item.score)));
        }
        let indexed = self.index.is_some();
        assert!(if indexed { self.len() > UNINDEXED_MEMBERS / 2 } else { self.len() <= UNINDEXED_MEMBERS });
    }
}
