//! The elements of a large hash or set, in the byte order of their names: a counted tree whose leaves are packed
//! elements.
//!
//! Guarantees: finding, changing, adding and removing an element, and reaching the element of a rank, cost O(log n); a
//! clone costs O(1) and never changes. Non-goal: small collections; those fit into a block.

use super::pairs::{self, Kind, Pair, Pairs};
use super::small_bytes::SmallBytes;
use super::tree::{Leaf, Ordered, Tree};
use std::marker::PhantomData;
use std::ops::Range;

/// Largest number of bytes in a leaf, unless a single element is larger.
const LEAF_BYTES: usize = 2048;
/// Largest number of elements in a leaf. This bounds the walk to an element.
const LEAF_ELEMENTS: usize = 32;
/// Bytes that an allocator adds to an allocation.
const ALLOCATION_BYTES: usize = 8;

/// A leaf: packed elements.
#[derive(Clone, Default)]
struct PairsLeaf<K> {
    packed: Vec<u8>,
    count: u32,
    kind: PhantomData<K>,
}

impl<K: Kind> PairsLeaf<K> {
    fn new(packed: Vec<u8>, count: usize) -> Self {
        Self { packed, count: count as u32, kind: PhantomData }
    }

    fn is_overfull(&self) -> bool {
        self.count > 1 && (self.packed.len() > LEAF_BYTES || self.len() > LEAF_ELEMENTS)
    }

    /// Moves the upper elements to leaves of their own until no leaf is overfull. Returns the leaves that must follow.
    fn split(&mut self) -> Vec<Self> {
        let mut after = Vec::new();
        while self.is_overfull() {
            let (rank, at) = self.middle();
            let right = Self::new(self.packed[at..].to_vec(), self.len() - rank);
            self.packed.truncate(at);
            self.count = rank as u32;
            if self.packed.capacity() - at > at / 4 {
                self.packed.shrink_to_fit();
            }
            let mut right = right;
            let mut more = right.split();
            more.insert(0, right);
            more.append(&mut after);
            after = more;
        }
        after
    }

    /// Returns rank and byte position of the element before which a leaf is split: the first one that begins in the
    /// second half of the bytes, but neither the first nor behind the last.
    fn middle(&self) -> (usize, usize) {
        let mut pairs = Pairs::<K>::new(&self.packed);
        for rank in 0..self.len() {
            let at = pairs.position();
            if rank > 0 && (at >= self.packed.len() / 2 || rank + 1 == self.len()) {
                return (rank, at);
            }
            pairs.next();
        }
        unreachable!("a leaf of one element is never split")
    }
}

impl<K: Kind> Leaf for PairsLeaf<K> {
    type Key = SmallBytes;

    fn len(&self) -> usize {
        self.count as usize
    }

    fn bytes(&self) -> usize {
        self.packed.capacity() + ALLOCATION_BYTES
    }

    fn low(&self) -> SmallBytes {
        let (name, _) = Pairs::<K>::new(&self.packed).next().expect("the leaf has an element");
        SmallBytes::from(name)
    }

    fn is_sparse(&self) -> bool {
        self.packed.len() < LEAF_BYTES / 4 && self.len() < LEAF_ELEMENTS / 4
    }

    fn fits(&self, right: &Self) -> bool {
        self.packed.len() + right.packed.len() <= LEAF_BYTES * 3 / 4
            && self.len() + right.len() <= LEAF_ELEMENTS * 3 / 4
    }

    fn append(&mut self, right: Self) {
        self.packed.reserve_exact(right.packed.len());
        self.packed.extend_from_slice(&right.packed);
        self.count += right.count;
    }
}

impl<K: Kind> Ordered for PairsLeaf<K> {
    fn remove(&mut self, range: Range<usize>) {
        let [from, to] = [range.start, range.end].map(|rank| pairs::seek::<K>(&self.packed, rank));
        self.packed.drain(from..to);
        self.count -= range.len() as u32;
    }
}

/// Elements in the byte order of their names.
#[derive(Clone)]
pub struct PairsTree<K: Kind> {
    tree: Tree<PairsLeaf<K>>,
}

impl<K: Kind> Default for PairsTree<K> {
    fn default() -> Self {
        Self { tree: Tree::default() }
    }
}

impl<K: Kind> PairsTree<K> {
    /// Returns a tree of packed elements.
    #[must_use]
    pub fn of(packed: &[u8]) -> Self {
        let (mut leaves, mut leaf) = (Vec::new(), PairsLeaf::<K>::default());
        for pair in Pairs::<K>::new(packed) {
            pairs::put::<K>(&mut leaf.packed, pair);
            leaf.count += 1;
            if leaf.packed.len() >= LEAF_BYTES * 3 / 4 || leaf.len() >= LEAF_ELEMENTS * 3 / 4 {
                leaf.packed.shrink_to_fit();
                leaves.push(std::mem::take(&mut leaf));
            }
        }
        if leaf.count > 0 {
            leaves.push(leaf);
        }
        Self { tree: Tree::of(leaves.into_iter()) }
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.tree.len()
    }

    /// Reports whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the heap bytes held, allocator overhead included; O(1).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.tree.bytes()
    }

    /// Returns the value of an element; for a set's member an empty value.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let (leaf, _) = self.tree.by(|low| **low <= *name);
        pairs::get::<K>(&leaf.packed, name)
    }

    /// Sets the value of an element, adding the element if it does not exist. Reports whether the element is new.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) -> bool {
        self.tree.edit_by(
            |low| **low <= *name,
            |leaf| {
                let place = pairs::find::<K>(&leaf.packed, name);
                let (bytes, is_new) = (place.bytes, place.value.is_none());
                let mut element = Vec::with_capacity(name.len() + value.len() + 4);
                pairs::put::<K>(&mut element, (name, value));
                leaf.packed.splice(bytes, element);
                leaf.count += u32::from(is_new);
                (is_new, leaf.split())
            },
        )
    }

    /// Removes an element; false if there is no such element.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        self.tree.edit_by(
            |low| **low <= *name,
            |leaf| {
                let place = pairs::find::<K>(&leaf.packed, name);
                let (bytes, is_there) = (place.bytes, place.value.is_some());
                leaf.packed.drain(bytes);
                leaf.count -= u32::from(is_there);
                (is_there, Vec::new())
            },
        )
    }

    /// Returns the element at a rank in byte order.
    #[must_use]
    pub fn at(&self, rank: u64) -> Option<Pair<'_>> {
        (rank < self.len()).then(|| {
            let (leaf, offset) = self.tree.at(rank);
            Pairs::<K>::new(&leaf.packed).nth(offset).expect("the leaf has the rank")
        })
    }

    /// Returns the number of elements whose names are below `name`.
    #[must_use]
    pub fn rank(&self, name: &[u8]) -> u64 {
        let (leaf, before) = self.tree.by(|low| **low <= *name);
        before + pairs::find::<K>(&leaf.packed, name).rank as u64
    }

    /// Iterates over the elements from a rank on, in the byte order of their names.
    #[must_use]
    pub fn iter_from(&self, rank: u64) -> TreeIter<'_, K> {
        TreeIter { tree: &self.tree, next: rank, leaf: Pairs::new(&[]) }
    }
}

/// Iterator over elements in the byte order of their names.
pub struct TreeIter<'a, K: Kind> {
    tree: &'a Tree<PairsLeaf<K>>,
    /// Rank of the next element.
    next: u64,
    /// What remains of the leaf of the next element; empty if the leaf must be looked up.
    leaf: Pairs<'a, K>,
}

impl<'a, K: Kind> Iterator for TreeIter<'a, K> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        if self.next >= self.tree.len() {
            return None;
        }
        let pair = self.leaf.next().or_else(|| {
            let (leaf, offset) = self.tree.at(self.next);
            self.leaf = Pairs::new(&leaf.packed);
            self.leaf.nth(offset)
        });
        self.next += 1;
        pair
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.tree.len().saturating_sub(self.next) as usize;
        (left, Some(left))
    }
}

impl<K: Kind> ExactSizeIterator for TreeIter<'_, K> {}

#[cfg(test)]
mod tests {
    use super::super::pairs::{Bare, Valued};
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeMap;

    fn content<K: Kind>(tree: &PairsTree<K>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let leaves = tree.tree.check();
        assert!(leaves.iter().all(|leaf| Pairs::<K>::new(&leaf.packed).count() == leaf.len()));
        let all: Vec<_> = tree.iter_from(0).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        assert!(all.is_sorted() && all.len() as u64 == tree.len());
        all.into_iter().collect()
    }

    /// Goal: a tree does what a map does, for elements of all sizes, and a clone keeps its content.
    fn is_a_map<K: Kind>(seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut tree, mut map) = (PairsTree::<K>::default(), BTreeMap::<Vec<u8>, Vec<u8>>::new());
        let mut kept = Vec::new();
        for step in 0..4000 {
            let name = format!("f{}", random.random_range(0..900)).repeat(1 + step % 3).into_bytes();
            let len = if random.random_bool(0.01) { 5000 } else { random.random_range(0..60) };
            let value = if K::VALUED { vec![b'v'; len] } else { Vec::new() };
            if random.random_bool(if step < 2500 { 0.75 } else { 0.3 }) {
                assert_eq!(tree.insert(&name, &value), map.insert(name.clone(), value.clone()).is_none());
                assert_eq!(tree.get(&name), Some(&value[..]));
            } else {
                assert_eq!(tree.remove(&name), map.remove(&name).is_some());
                assert_eq!(tree.get(&name), None);
            }
            assert_eq!(tree.rank(&name), map.range(..name).count() as u64);
            if step % 500 == 0 {
                kept.push((tree.clone(), map.clone()));
            }
        }
        assert_eq!(content(&tree), map);
        for (rank, (name, value)) in map.iter().enumerate() {
            assert_eq!(tree.at(rank as u64), Some((&name[..], &value[..])));
        }
        assert_eq!(tree.at(map.len() as u64), None);
        kept.iter().for_each(|(tree, map)| assert_eq!(content(tree), *map));
        let mut packed = Vec::new();
        map.iter().for_each(|(name, value)| pairs::put::<K>(&mut packed, (name, value)));
        assert_eq!(content(&PairsTree::<K>::of(&packed)), map);
    }

    #[test]
    fn a_tree_of_pairs_is_a_map() {
        (0..4).for_each(is_a_map::<Valued>);
        (0..4).for_each(is_a_map::<Bare>);
    }
}
