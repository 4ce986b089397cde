//! A leaf of items in ascending order. The order of a large sorted set is a tree of such leaves.
//!
//! Guarantees: items are strictly ascending, and at most [`SORTED_LEAF_ITEMS`]. Non-goal: comparing items; callers find an
//! offset with a predicate and pass it.

use super::tree::{Leaf, Ordered};
use std::ops::Range;

/// Largest number of items in a leaf.
pub(super) const SORTED_LEAF_ITEMS: usize = 64;

/// Bytes that an allocator adds to an allocation.
const ALLOCATION_BYTES: usize = 8;

/// An item of a [`SortedLeaf`].
pub(super) trait Item: Clone + Send + Sync + 'static {
    /// Returns the heap bytes that this item accounts for, beside its own size.
    fn owned_bytes(&self) -> usize;
}

/// Items in ascending order.
#[derive(Clone)]
pub(super) struct SortedLeaf<I> {
    items: Vec<I>,
    /// Sum of the items' owned bytes.
    owned: usize,
}

impl<I> Default for SortedLeaf<I> {
    fn default() -> Self {
        Self { items: Vec::new(), owned: 0 }
    }
}

impl<I: Item> SortedLeaf<I> {
    /// Returns a leaf of these items, which must be ascending and at most [`SORTED_LEAF_ITEMS`].
    pub(super) fn of(items: Vec<I>) -> Self {
        let owned = items.iter().map(Item::owned_bytes).sum();
        Self { items, owned }
    }

    /// Returns the items, ascending.
    pub(super) fn items(&self) -> &[I] {
        &self.items
    }

    /// Returns the number of items for which `below` holds; these must be a prefix of the items.
    pub(super) fn partition_point(&self, below: impl Fn(&I) -> bool) -> usize {
        self.items.partition_point(below)
    }

    /// Adds an item at `offset`. Returns the leaf that must follow this one if it overflows.
    pub(super) fn insert(&mut self, offset: usize, item: I) -> Vec<Self> {
        if self.items.len() < SORTED_LEAF_ITEMS {
            self.owned += item.owned_bytes();
            if self.items.len() == self.items.capacity() {
                let roomy = (self.items.len() + self.items.len() / 4 + 2).min(SORTED_LEAF_ITEMS);
                self.items.reserve_exact(roomy - self.items.len());
            }
            self.items.insert(offset, item);
            return Vec::new();
        }
        // Items that arrive in ascending order leave leaves behind that are almost full; other insertions split a leaf
        // in halves.
        let cut = if offset == SORTED_LEAF_ITEMS { SORTED_LEAF_ITEMS * 7 / 8 } else { SORTED_LEAF_ITEMS / 2 };
        let mut right = Self::of(self.items.split_off(cut));
        self.owned -= right.owned;
        if offset <= cut {
            self.insert(offset, item);
        } else {
            right.insert(offset - cut, item);
        }
        vec![right]
    }

    /// Removes and returns the item at `offset`.
    pub(super) fn take(&mut self, offset: usize) -> I {
        let item = self.items.remove(offset);
        self.owned -= item.owned_bytes();
        item
    }
}

#[cfg(test)]
impl<I: Item> SortedLeaf<I> {
    /// Panics if the sum of owned bytes is wrong; returns the items.
    pub(super) fn check(&self) -> &[I] {
        assert_eq!(self.owned, self.items.iter().map(Item::owned_bytes).sum::<usize>());
        &self.items
    }
}

impl<I: Item> Leaf for SortedLeaf<I> {
    type Key = I;

    fn len(&self) -> usize {
        self.items.len()
    }

    fn bytes(&self) -> usize {
        self.items.capacity() * size_of::<I>() + ALLOCATION_BYTES + self.owned
    }

    fn low(&self) -> I {
        self.items[0].clone()
    }

    fn is_sparse(&self) -> bool {
        self.items.len() < SORTED_LEAF_ITEMS / 4
    }

    fn fits(&self, right: &Self) -> bool {
        self.items.len() + right.items.len() <= SORTED_LEAF_ITEMS * 3 / 4
    }

    fn append(&mut self, mut right: Self) {
        self.items.reserve_exact(right.items.len());
        self.items.append(&mut right.items);
        self.owned += right.owned;
    }
}

impl<I: Item> Ordered for SortedLeaf<I> {
    fn remove(&mut self, range: Range<usize>) {
        self.owned -= self.items.drain(range).map(|item| item.owned_bytes()).sum::<usize>();
    }
}
