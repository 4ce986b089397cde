//! A leaf of items in ascending order: what sorted sets keep.
//!
//! Guarantees: items are strictly ascending; at most [`RUN_ITEMS`]. Non-goal: knowing how items compare; callers bring
//! the offset, found with a predicate.

use super::tree::{Leaf, Ordered};
use std::ops::Range;

/// Items in a leaf, at most.
pub const RUN_ITEMS: usize = 64;

/// What an allocator adds to an allocation.
const ALLOCATION_BYTES: usize = 8;

/// An item of a [`Run`].
pub trait Item: Clone + Send + Sync + 'static {
    /// Heap bytes this item accounts for, beside its own size.
    fn owned_bytes(&self) -> usize;
}

/// Items in ascending order.
#[derive(Clone)]
pub struct Run<I> {
    items: Vec<I>,
    /// Sum of the items' owned bytes.
    owned: usize,
}

impl<I> Default for Run<I> {
    fn default() -> Self {
        Self { items: Vec::new(), owned: 0 }
    }
}

impl<I: Item> Run<I> {
    /// A leaf of these items: ascending, at most [`RUN_ITEMS`].
    pub fn of(items: Vec<I>) -> Self {
        let owned = items.iter().map(Item::owned_bytes).sum();
        Self { items, owned }
    }

    /// The items, ascending.
    pub fn items(&self) -> &[I] {
        &self.items
    }

    /// Number of items for which `below` holds (a prefix).
    pub fn partition_point(&self, below: impl Fn(&I) -> bool) -> usize {
        self.items.partition_point(below)
    }

    /// Adds an item at `offset`; yields the leaf that must follow if it overflows.
    pub fn insert(&mut self, offset: usize, item: I) -> Vec<Self> {
        if self.items.len() < RUN_ITEMS {
            self.owned += item.owned_bytes();
            if self.items.len() == self.items.capacity() {
                let roomy = (self.items.len() + self.items.len() / 4 + 2).min(RUN_ITEMS);
                self.items.reserve_exact(roomy - self.items.len());
            }
            self.items.insert(offset, item);
            return Vec::new();
        }
        // Items that arrive in order leave full leaves behind; others split into halves.
        let cut = if offset == RUN_ITEMS { RUN_ITEMS * 7 / 8 } else { RUN_ITEMS / 2 };
        let mut right = Self::of(self.items.split_off(cut));
        self.owned -= right.owned;
        if offset <= cut {
            self.insert(offset, item);
        } else {
            right.insert(offset - cut, item);
        }
        vec![right]
    }

    /// Takes the item at `offset`.
    pub fn take(&mut self, offset: usize) -> I {
        let item = self.items.remove(offset);
        self.owned -= item.owned_bytes();
        item
    }
}

#[cfg(test)]
impl<I: Item> Run<I> {
    /// Panics unless the sum of owned bytes is right; yields the items.
    pub fn check(&self) -> &[I] {
        assert_eq!(self.owned, self.items.iter().map(Item::owned_bytes).sum::<usize>());
        &self.items
    }
}

impl<I: Item> Leaf for Run<I> {
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
        self.items.len() < RUN_ITEMS / 4
    }

    fn fits(&self, right: &Self) -> bool {
        self.items.len() + right.items.len() <= RUN_ITEMS * 3 / 4
    }

    fn append(&mut self, mut right: Self) {
        self.items.reserve_exact(right.items.len());
        self.items.append(&mut right.items);
        self.owned += right.owned;
    }
}

impl<I: Item> Ordered for Run<I> {
    fn remove(&mut self, range: Range<usize>) {
        self.owned -= self.items.drain(range).map(|item| item.owned_bytes()).sum::<usize>();
    }
}
