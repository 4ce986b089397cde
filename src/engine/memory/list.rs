//! A list: byte strings by position, in packed leaves of a counted tree.
//!
//! Guarantees: reaching, pushing, inserting or removing an element costs O(log n); a clone costs O(1) and never
//! changes. A list that fits into one leaf consists of that leaf. Non-goal: finding an element by its bytes; that needs
//! a walk.

use super::packed::{LEAF_BYTES, Packed};
use super::tree::{Leaf, Ordered, Tree};
use std::ops::Range;

/// A Redis list.
#[derive(Clone, Default)]
pub struct List {
    tree: Tree<Packed>,
}

impl List {
    /// Returns an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
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

    /// Adds an element at the front.
    pub fn push_front(&mut self, element: &[u8]) {
        let spare = self.spare_bytes();
        self.tree.edit_first(|leaf| ((), leaf.push_front(element, spare)));
    }

    /// Adds an element at the back.
    pub fn push_back(&mut self, element: &[u8]) {
        let spare = self.spare_bytes();
        self.tree.edit_last(|leaf| ((), leaf.push_back(element, spare)));
    }

    /// Removes and returns the first element.
    pub fn pop_front(&mut self) -> Option<Vec<u8>> {
        self.remove(0)
    }

    /// Removes and returns the last element.
    pub fn pop_back(&mut self) -> Option<Vec<u8>> {
        self.remove(self.len().checked_sub(1)?)
    }

    /// Returns the element at `index`.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<&[u8]> {
        (index < self.len()).then(|| {
            let (leaf, offset) = self.tree.at(index);
            leaf.get(offset)
        })
    }

    /// Replaces the element at `index`; false if there is no such element.
    pub fn set(&mut self, index: u64, element: &[u8]) -> bool {
        let there = index < self.len();
        if there {
            self.tree.edit_at(index, |leaf, offset| ((), leaf.replace(offset, element)));
        }
        there
    }

    /// Adds an element before the one at `index`, or at the end if `index` is the length; false if `index` is larger.
    pub fn insert(&mut self, index: u64, element: &[u8]) -> bool {
        match index {
            0 => self.push_front(element),
            index if index == self.len() => self.push_back(element),
            index if index > self.len() => return false,
            index => self.tree.edit_at(index, |leaf, offset| ((), leaf.insert(offset, element))),
        }
        true
    }

    /// Removes and returns the element at `index`.
    pub fn remove(&mut self, index: u64) -> Option<Vec<u8>> {
        (index < self.len()).then(|| {
            self.tree.edit_at(index, |leaf, offset| {
                let element = leaf.get(offset).to_vec();
                leaf.remove(offset..offset + 1);
                (element, Vec::new())
            })
        })
    }

    /// Removes the elements at these positions, which must exist. Leaves that are removed whole are not read.
    pub fn remove_range(&mut self, range: Range<u64>) {
        self.tree.remove_range(range);
    }

    /// Removes all elements except those at these positions, which must exist.
    pub fn keep(&mut self, range: Range<u64>) {
        assert!(range.start <= range.end && range.end <= self.len(), "positions {range:?} of {}", self.len());
        self.tree.remove_range(range.end..self.len());
        self.tree.remove_range(0..range.start);
    }

    /// Iterates over the elements from `index` to the end.
    #[must_use]
    pub fn iter_from(&self, index: u64) -> Iter<'_> {
        Iter { tree: &self.tree, next: index.min(self.len()), leaf: None }
    }

    /// Iterates over the elements from `index` down to the first. An index behind the last element means the last
    /// element.
    #[must_use]
    pub fn iter_back_from(&self, index: u64) -> IterBack<'_> {
        IterBack { tree: &self.tree, left: index.saturating_add(1).min(self.len()), leaf: None }
    }

    /// Returns the bytes of room for a new leaf at an end of the list: a full leaf in a long list, little in a short
    /// one.
    fn spare_bytes(&self) -> usize {
        (self.tree.bytes() / 8).clamp(64, LEAF_BYTES)
    }
}

/// Iterator over elements in list order.
pub struct Iter<'a> {
    tree: &'a Tree<Packed>,
    /// Position of the next element.
    next: u64,
    /// The leaf of the next element, the element's byte position in the leaf, and the number of elements of the leaf
    /// from there on. `None`: the leaf must be looked up.
    leaf: Option<(&'a Packed, usize, usize)>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.next == self.tree.len() {
            return None;
        }
        let (leaf, at, left) = self.leaf.unwrap_or_else(|| {
            let (leaf, offset) = self.tree.at(self.next);
            (leaf, leaf.seek(offset), leaf.len() - offset)
        });
        let (element, at) = leaf.read(at);
        self.next += 1;
        self.leaf = (left > 1).then_some((leaf, at, left - 1));
        Some(element)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.tree.len() - self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// Iterator over elements in reverse list order.
pub struct IterBack<'a> {
    tree: &'a Tree<Packed>,
    /// Number of remaining elements.
    left: u64,
    /// The leaf of the next element, the byte position of the element's end in the leaf, and the number of elements of
    /// the leaf up to there. `None`: the leaf must be looked up.
    leaf: Option<(&'a Packed, usize, usize)>,
}

impl<'a> Iterator for IterBack<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (leaf, end, left) = self.leaf.unwrap_or_else(|| {
            let (leaf, offset) = self.tree.at(self.left);
            (leaf, leaf.seek(offset + 1), offset + 1)
        });
        let (element, end) = leaf.read_back(end);
        self.leaf = (left > 1).then_some((leaf, end, left - 1));
        Some(element)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for IterBack<'_> {}

#[cfg(test)]
impl List {
    /// Panics if an invariant of the tree is violated.
    pub fn check(&self) {
        self.tree.check();
    }
}

#[cfg(test)]
#[path = "list_tests.rs"]
mod tests;
