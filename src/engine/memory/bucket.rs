//! A leaf of a sorted set's index: members and scores, found by hash.
//!
//! The tree orders members by one half of the hash first; inside a leaf, a small hash table finds members by the other
//! half.
//!
//! Guarantees: members of equal hash lie in one leaf, however many they are. Non-goal: an order inside the leaf.

use super::small_bytes::SmallBytes;
use super::tree::Leaf;
use crate::engine::hash::hash;
use hashbrown::HashTable;

/// Largest number of members in a leaf, unless all have the same hash. A table of 64 places is full at this number.
const BUCKET_MEMBERS: usize = 56;

/// Returns the tree's key for a hash. The halves are swapped, because a leaf's table uses the lowest and the highest
/// bits of the hash.
pub(super) fn place(hash: u64) -> u64 {
    hash.rotate_left(32)
}

/// Members with neighbouring keys of the tree, and their scores.
#[derive(Clone, Default)]
pub(super) struct Bucket {
    table: HashTable<(SmallBytes, f64)>,
}

/// Returns an index near the middle of ascending places that separates no equal places; `None` if all places are equal.
fn cut_between(places: &[u64]) -> Option<usize> {
    let half = places.len() / 2;
    let differs = |at: &usize| places[*at] != places[*at - 1];
    (half..places.len()).find(differs).or_else(|| (1..half).rev().find(differs))
}

fn rehash((member, _): &(SmallBytes, f64)) -> u64 {
    hash(member)
}

impl Bucket {
    /// Returns a leaf of these members with their hashes; no member may occur twice.
    pub(super) fn of(members: impl ExactSizeIterator<Item = (u64, SmallBytes, f64)>) -> Self {
        let mut table = HashTable::with_capacity(members.len());
        for (hash, member, score) in members {
            table.insert_unique(hash, (member, score), rehash);
        }
        Self { table }
    }

    /// Returns the score of a member.
    pub(super) fn get(&self, hash: u64, member: &[u8]) -> Option<f64> {
        self.table.find(hash, |(found, _)| **found == *member).map(|(_, score)| *score)
    }

    /// Returns the score of a member, for changing it.
    pub(super) fn get_mut(&mut self, hash: u64, member: &[u8]) -> Option<&mut f64> {
        self.table.find_mut(hash, |(found, _)| **found == *member).map(|(_, score)| score)
    }

    /// Adds a member that is not in the leaf. Returns the leaf that must follow this one if it overflows.
    pub(super) fn add(&mut self, hash: u64, member: SmallBytes, score: f64) -> Vec<Self> {
        self.table.insert_unique(hash, (member, score), rehash);
        if self.table.len() > BUCKET_MEMBERS { self.split() } else { Vec::new() }
    }

    /// Removes a member and returns its score.
    pub(super) fn take(&mut self, hash: u64, member: &[u8]) -> Option<f64> {
        let found = self.table.find_entry(hash, |(found, _)| **found == *member).ok()?;
        Some(found.remove().0.1)
    }

    #[cfg(test)]
    pub(super) fn members(&self) -> impl Iterator<Item = &(SmallBytes, f64)> + Clone {
        self.table.iter()
    }

    /// Moves the upper half by place to a new leaf, but never separates equal places.
    fn split(&mut self) -> Vec<Self> {
        let mut places: Vec<u64> = self.table.iter().map(|member| place(rehash(member))).collect();
        places.sort_unstable();
        let Some(cut) = cut_between(&places) else { return Vec::new() };
        let mut halves = [cut, places.len() - cut].map(|members| Self { table: HashTable::with_capacity(members) });
        for member in self.table.drain() {
            let hash = rehash(&member);
            halves[usize::from(place(hash) >= places[cut])].table.insert_unique(hash, member, rehash);
        }
        let [left, right] = halves;
        *self = left;
        vec![right]
    }
}

impl Leaf for Bucket {
    type Key = u64;

    fn len(&self) -> usize {
        self.table.len()
    }

    fn bytes(&self) -> usize {
        self.table.allocation_size()
    }

    fn low(&self) -> u64 {
        self.table.iter().map(|member| place(rehash(member))).min().expect("the leaf has a member")
    }

    fn is_sparse(&self) -> bool {
        self.table.len() < BUCKET_MEMBERS / 4
    }

    fn fits(&self, right: &Self) -> bool {
        self.table.len() + right.table.len() <= BUCKET_MEMBERS * 3 / 4
    }

    fn append(&mut self, right: Self) {
        for member in right.table {
            self.table.insert_unique(rehash(&member), member, rehash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_places_are_never_separated() {
        assert_eq!(cut_between(&[1, 2, 3, 4]), Some(2));
        assert_eq!(cut_between(&[1, 2, 2, 3]), Some(3));
        assert_eq!(cut_between(&[1, 2, 2, 2]), Some(1));
        assert_eq!(cut_between(&[2, 2, 2, 2]), None);
    }

    #[test]
    fn an_overflowing_leaf_keeps_the_lower_half() {
        let name = |number: u32| SmallBytes::from(&number.to_le_bytes()[..]);
        let mut left = Bucket::default();
        let right = (0..).map(name).map(|member| left.add(hash(&member), member, 1.0)).find_map(|mut more| more.pop());
        let right = right.expect("a full leaf overflows");
        let last = left.table.iter().map(|member| place(rehash(member))).max();
        assert!(last < Some(right.low()));
        assert_eq!((left.len(), left.len() + right.len()), (BUCKET_MEMBERS / 2, BUCKET_MEMBERS + 1));
        assert!((0..=BUCKET_MEMBERS as u32).map(name).all(|member| {
            let hash = hash(&member);
            let leaf = if place(hash) < right.low() { &left } else { &right };
            leaf.get(hash, &member) == Some(1.0)
        }));
    }
}
