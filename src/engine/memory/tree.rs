//! A counted B+tree with shared nodes: ordered elements, found by position or by key in O(log n).
//!
//! Guarantees: a clone costs O(1) and never changes. While a clone lives, a change copies only the nodes on its path
//! that are shared; other nodes are changed in place. All leaves are equally deep, and no node below the root is empty.
//! Every change keeps `bytes`, the heap bytes of the tree, up to date.
//!
//! Non-goal: a strict minimum fill. A removal merges sparse neighbours where they fit into one node, so the height is
//! bounded by the largest size that the tree has had.

use super::reclaim;
use std::ops::Range;
use std::sync::Arc;

/// Largest number of children of an inner node.
const FANOUT: usize = 32;

/// Bytes that an allocator adds to an allocation, and the two counters of an `Arc`.
const ARC_BYTES: usize = 8 + 16;

/// A leaf of a tree: a sequence of elements, small enough to be copied whole.
pub(super) trait Leaf: Clone + Default + Send + Sync + 'static {
    /// Key by which elements are found; `()` if they only have a position.
    type Key: Clone + Send + Sync;

    /// Returns the number of elements.
    fn len(&self) -> usize;
    /// Returns the heap bytes owned.
    fn bytes(&self) -> usize;
    /// Returns the key of the first element. The leaf must not be empty.
    fn low(&self) -> Self::Key;
    /// Reports whether the leaf should be merged with a neighbour.
    fn is_sparse(&self) -> bool;
    /// Reports whether this leaf and its right neighbour fit into one leaf with room to spare.
    fn fits(&self, right: &Self) -> bool;
    /// Appends the elements of the right neighbour.
    fn append(&mut self, right: Self);
}

/// A leaf whose elements have an order.
pub(super) trait Ordered: Leaf {
    /// Removes the elements at these offsets.
    fn remove(&mut self, range: Range<usize>);
}

/// Result of an edit of a leaf, and the leaves that must follow the leaf because it overflowed. An overflowing leaf,
/// and each leaf that follows it, keeps at least one element.
pub(super) type Edited<L, R> = (R, Vec<L>);

/// A counted B+tree over leaves of type `L`.
#[derive(Clone)]
pub(super) struct Tree<L: Leaf> {
    root: Subtree<L>,
}

#[derive(Clone)]
struct Subtree<L: Leaf> {
    node: Arc<Node<L>>,
    /// Number of elements below.
    count: u64,
    /// Heap bytes of `node` and of all nodes below.
    bytes: usize,
}

#[derive(Clone)]
struct Child<L: Leaf> {
    /// Lower bound: at most the first key of `tree`, and above every key left of `tree`. Not valid in the first child
    /// of a node, because smaller keys may have been inserted there.
    low: L::Key,
    tree: Subtree<L>,
}

#[derive(Clone)]
enum Node<L: Leaf> {
    Leaf(L),
    Inner(Vec<Child<L>>),
}

impl<L: Leaf> Default for Tree<L> {
    fn default() -> Self {
        Self { root: Subtree::leaf(L::default()) }
    }
}

impl<L: Leaf> Tree<L> {
    /// Returns a tree of these leaves, none of which may be empty.
    pub(super) fn of(leaves: impl Iterator<Item = L>) -> Self {
        let mut level: Vec<_> = leaves.map(|leaf| Child { low: leaf.low(), tree: Subtree::leaf(leaf) }).collect();
        while level.len() > 1 {
            let nodes = level.len().div_ceil(FANOUT * 3 / 4);
            let (children, extra) = (level.len() / nodes, level.len() % nodes);
            let mut rest = level.into_iter();
            let inner = |node| {
                let mut own = Vec::with_capacity(FANOUT + 2);
                own.extend(rest.by_ref().take(children + usize::from(node < extra)));
                Child { low: own[0].low.clone(), tree: Subtree::inner(own) }
            };
            level = (0..nodes).map(inner).collect();
        }
        level.pop().map_or_else(Self::default, |only| Self { root: only.tree })
    }

    /// Returns the number of elements.
    pub(super) fn len(&self) -> u64 {
        self.root.count
    }

    /// Returns the heap bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.root.bytes
    }

    /// Returns the leaf that holds `position`, and the offset in the leaf. A position behind the last element is in the
    /// last leaf.
    pub(super) fn at(&self, position: u64) -> (&L, usize) {
        let mut offset = position;
        let leaf = self.root.descend(|children| pick_at(children, &mut offset));
        (leaf, offset as usize)
    }

    /// Returns the leaf that contains the end of the keys for which `upto` holds, and the number of elements left of
    /// that leaf. The keys for which `upto` holds must be a prefix of all keys.
    pub(super) fn by(&self, upto: impl Fn(&L::Key) -> bool) -> (&L, u64) {
        let mut before = 0;
        let leaf = self.root.descend(|children| {
            let at = pick_by(children, &upto);
            before += children[..at].iter().map(|child| child.tree.count).sum::<u64>();
            at
        });
        (leaf, before)
    }

    /// Changes the first leaf.
    pub(super) fn edit_first<R>(&mut self, change: impl FnOnce(&mut L) -> Edited<L, R>) -> R {
        self.edit(|_| 0, change)
    }

    /// Changes the last leaf.
    pub(super) fn edit_last<R>(&mut self, change: impl FnOnce(&mut L) -> Edited<L, R>) -> R {
        self.edit(|children| children.len() - 1, change)
    }

    /// Changes the leaf that [`Tree::by`] returns.
    pub(super) fn edit_by<R>(
        &mut self,
        upto: impl Fn(&L::Key) -> bool,
        change: impl FnOnce(&mut L) -> Edited<L, R>,
    ) -> R {
        self.edit(|children| pick_by(children, &upto), change)
    }

    /// Changes the leaf that [`Tree::at`] returns; `change` gets the offset in the leaf.
    pub(super) fn edit_at<R>(&mut self, position: u64, change: impl FnOnce(&mut L, usize) -> Edited<L, R>) -> R {
        let offset = std::cell::Cell::new(position);
        let pick = |children: &[Child<L>]| {
            let mut left = offset.get();
            let picked = pick_at(children, &mut left);
            offset.set(left);
            picked
        };
        self.edit(pick, |leaf| change(leaf, offset.get() as usize))
    }

    /// Removes all elements.
    pub(super) fn clear(&mut self) {
        let bytes = self.bytes();
        reclaim::dispose(std::mem::take(self), bytes);
    }

    /// Removes the elements at these positions, which must exist. Whole subtrees are removed in one piece.
    pub(super) fn remove_range(&mut self, range: Range<u64>)
    where
        L: Ordered,
    {
        assert!(range.start <= range.end && range.end <= self.len(), "positions {range:?} of {}", self.len());
        if range.is_empty() {
            return;
        }
        if range == (0..self.len()) {
            return self.clear();
        }
        let mut removed = Vec::new();
        self.root.remove_range(range, &mut removed);
        let bytes = removed.iter().map(|child| child.tree.bytes).sum();
        reclaim::dispose(removed, bytes);
        self.collapse();
    }

    fn edit<R>(
        &mut self,
        mut pick: impl FnMut(&[Child<L>]) -> usize,
        change: impl FnOnce(&mut L) -> Edited<L, R>,
    ) -> R {
        let before = self.root.count;
        let (result, more) = self.root.edit(&mut pick, change);
        if !more.is_empty() {
            let low = self.root.low();
            let left = std::mem::replace(&mut self.root, Subtree::leaf(L::default()));
            let mut children = Vec::with_capacity(FANOUT + 2);
            children.push(Child { low, tree: left });
            children.extend(more);
            self.root = Subtree::inner(children);
        } else if self.root.count < before {
            self.collapse();
        }
        result
    }

    /// Removes inner nodes with at most one child from the top of the tree.
    fn collapse(&mut self) {
        while let Node::Inner(children) = &*self.root.node {
            match children.as_slice() {
                [] => self.root = Subtree::leaf(L::default()),
                [only] => self.root = only.tree.clone(),
                _ => return,
            }
        }
    }
}

fn pick_at<L: Leaf>(children: &[Child<L>], position: &mut u64) -> usize {
    let last = children.len() - 1;
    for (at, child) in children[..last].iter().enumerate() {
        if *position < child.tree.count {
            return at;
        }
        *position -= child.tree.count;
    }
    last
}

fn pick_by<L: Leaf>(children: &[Child<L>], upto: &impl Fn(&L::Key) -> bool) -> usize {
    children[1..].partition_point(|child| upto(&child.low))
}

impl<L: Leaf> Subtree<L> {
    const NODE_BYTES: usize = ARC_BYTES + size_of::<Node<L>>();
    const CHILD_BYTES: usize = size_of::<Child<L>>();

    fn leaf(leaf: L) -> Self {
        let (count, bytes) = (leaf.len() as u64, Self::NODE_BYTES + leaf.bytes());
        Self { node: Arc::new(Node::Leaf(leaf)), count, bytes }
    }

    fn inner(children: Vec<Child<L>>) -> Self {
        let (count, bytes) = Self::totals(&children);
        Self { node: Arc::new(Node::Inner(children)), count, bytes }
    }

    fn totals(children: &[Child<L>]) -> (u64, usize) {
        let empty = (0, Self::NODE_BYTES + children.len() * Self::CHILD_BYTES);
        children.iter().fold(empty, |(count, bytes), child| (count + child.tree.count, bytes + child.tree.bytes))
    }

    fn low(&self) -> L::Key {
        match &*self.node {
            Node::Leaf(leaf) => leaf.low(),
            Node::Inner(children) => children[0].low.clone(),
        }
    }

    fn descend(&self, mut pick: impl FnMut(&[Child<L>]) -> usize) -> &L {
        let mut node = &*self.node;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf,
                Node::Inner(children) => node = &*children[pick(children)].tree.node,
            }
        }
    }

    /// Changes one leaf and updates counts and shape. Returns the siblings that must follow this subtree.
    fn edit<R>(
        &mut self,
        pick: &mut impl FnMut(&[Child<L>]) -> usize,
        change: impl FnOnce(&mut L) -> Edited<L, R>,
    ) -> (R, Vec<Child<L>>) {
        match Arc::make_mut(&mut self.node) {
            Node::Leaf(leaf) => {
                let (result, more) = change(leaf);
                self.count = leaf.len() as u64;
                self.bytes = Self::NODE_BYTES + leaf.bytes();
                (result, more.into_iter().map(|leaf| Child { low: leaf.low(), tree: Self::leaf(leaf) }).collect())
            }
            Node::Inner(children) => {
                let at = pick(children);
                let child = &mut children[at].tree;
                let (count, bytes) = (child.count, child.bytes);
                let (result, more) = child.edit(pick, change);
                if !more.is_empty() {
                    children.splice(at + 1..at + 1, more);
                    let split = split_overfull(children);
                    (self.count, self.bytes) = Self::totals(children);
                    return (result, split.into_iter().collect());
                }
                let shrunk = child.count < count;
                self.count = self.count + child.count - count;
                self.bytes = self.bytes + child.bytes - bytes;
                if shrunk && settle(children, at) {
                    (self.count, self.bytes) = Self::totals(children);
                }
                (result, Vec::new())
            }
        }
    }

    /// Removes some of the elements, never all. Children that are removed whole are moved to `removed`.
    fn remove_range(&mut self, range: Range<u64>, removed: &mut Vec<Child<L>>)
    where
        L: Ordered,
    {
        match Arc::make_mut(&mut self.node) {
            Node::Leaf(leaf) => {
                leaf.remove(range.start as usize..range.end as usize);
                self.count = leaf.len() as u64;
                self.bytes = Self::NODE_BYTES + leaf.bytes();
            }
            Node::Inner(children) => {
                let mut start = range.start;
                let first = pick_at(children, &mut start);
                let (mut at, mut left) = (first, range.end - range.start);
                let mut whole = at..at;
                while left > 0 {
                    let child = &mut children[at].tree;
                    let taken = left.min(child.count - start);
                    self.bytes -= child.bytes;
                    if taken < child.count {
                        child.remove_range(start..start + taken, removed);
                        self.bytes += child.bytes;
                    } else if whole.is_empty() {
                        whole = at..at + 1;
                    } else {
                        whole.end = at + 1;
                    }
                    (start, left, at) = (0, left - taken, at + 1);
                }
                self.count -= range.end - range.start;
                self.bytes -= whole.len() * Self::CHILD_BYTES;
                removed.extend(children.drain(whole));
                let settled_right = settle(children, first + 1);
                if settle(children, first) || settled_right {
                    (self.count, self.bytes) = Self::totals(children);
                }
            }
        }
    }

    fn is_sparse(&self) -> bool {
        match &*self.node {
            Node::Leaf(leaf) => leaf.is_sparse(),
            Node::Inner(children) => children.len() < FANOUT / 4,
        }
    }

    fn fits(&self, right: &Self) -> bool {
        match (&*self.node, &*right.node) {
            (Node::Leaf(left), Node::Leaf(right)) => left.fits(right),
            (Node::Inner(left), Node::Inner(right)) => left.len() + right.len() <= FANOUT * 3 / 4,
            _ => false,
        }
    }

    /// Appends the right neighbour, which must be equally deep.
    fn append(&mut self, right: Child<L>) {
        match (Arc::make_mut(&mut self.node), Arc::unwrap_or_clone(right.tree.node)) {
            (Node::Leaf(left), Node::Leaf(leaf)) => {
                left.append(leaf);
                self.count = left.len() as u64;
                self.bytes = Self::NODE_BYTES + left.bytes();
            }
            (Node::Inner(left), Node::Inner(mut children)) => {
                // The first child is no longer the first of its node, so its lower bound must be valid.
                if let Some(first) = children.first_mut() {
                    first.low = right.low;
                }
                left.append(&mut children);
                (self.count, self.bytes) = Self::totals(left);
            }
            _ => unreachable!("neighbours are equally deep"),
        }
    }
}

/// Removes the child at `at` if it is empty, or merges it with a neighbour if it is sparse and both fit into one node.
/// Reports whether it did either; then the totals of the node are out of date.
fn settle<L: Leaf>(children: &mut Vec<Child<L>>, at: usize) -> bool {
    let Some(child) = children.get(at) else { return false };
    if child.tree.count == 0 {
        children.remove(at);
        return true;
    }
    if !child.tree.is_sparse() {
        return false;
    }
    let fits = |left: usize| children.get(left + 1).is_some_and(|right| children[left].tree.fits(&right.tree));
    let left = if fits(at) { at } else { at.saturating_sub(1) };
    if !fits(left) {
        return false;
    }
    let right = children.remove(left + 1);
    children[left].tree.append(right);
    true
}

/// Splits a node that has too many children and returns its right half.
fn split_overfull<L: Leaf>(children: &mut Vec<Child<L>>) -> Option<Child<L>> {
    if children.len() <= FANOUT {
        return None;
    }
    let mut right = Vec::with_capacity(FANOUT + 2);
    right.extend(children.drain(children.len() / 2..));
    Some(Child { low: right[0].low.clone(), tree: Subtree::inner(right) })
}

#[cfg(test)]
impl<L: Leaf> Tree<L> {
    /// Returns the bytes of the nodes that are not shared with another tree.
    pub(super) fn bytes_apart_from(&self, other: &Self) -> usize {
        let (mut own, mut shared) = (Vec::new(), Vec::new());
        self.root.nodes(&mut own);
        other.root.nodes(&mut shared);
        let shared: std::collections::HashSet<_> = shared.into_iter().map(|(at, _)| at).collect();
        own.into_iter().filter(|(at, _)| !shared.contains(at)).map(|(_, bytes)| bytes).sum()
    }

    /// Panics unless counts, bytes, depth and fill are right; returns the leaves in order.
    pub(super) fn check(&self) -> Vec<&L> {
        let mut leaves = Vec::new();
        let (count, bytes, _) = self.root.check(&mut leaves);
        assert_eq!((self.len(), self.bytes()), (count, bytes));
        assert!(leaves.len() == 1 || leaves.iter().all(|leaf| leaf.len() > 0), "an empty leaf stayed");
        leaves
    }
}

#[cfg(test)]
impl<L: Leaf> Subtree<L> {
    /// Collects the address of each node and the node's own bytes.
    fn nodes(&self, found: &mut Vec<(*const Node<L>, usize)>) {
        let own = match &*self.node {
            Node::Leaf(leaf) => leaf.bytes(),
            Node::Inner(children) => {
                children.iter().for_each(|child| child.tree.nodes(found));
                children.len() * Self::CHILD_BYTES
            }
        };
        found.push((Arc::as_ptr(&self.node), Self::NODE_BYTES + own));
    }

    fn check<'a>(&'a self, leaves: &mut Vec<&'a L>) -> (u64, usize, usize) {
        let found = match &*self.node {
            Node::Leaf(leaf) => {
                leaves.push(leaf);
                (leaf.len() as u64, Self::NODE_BYTES + leaf.bytes(), 0)
            }
            Node::Inner(children) => {
                assert!(!children.is_empty() && children.len() <= FANOUT);
                let below: Vec<_> = children.iter().map(|child| child.tree.check(leaves)).collect();
                assert!(below.iter().all(|(.., depth)| *depth == below[0].2), "leaves are not equally deep");
                let count = below.iter().map(|(count, ..)| count).sum();
                let bytes: usize = below.iter().map(|(_, bytes, _)| bytes + Self::CHILD_BYTES).sum();
                (count, bytes + Self::NODE_BYTES, below[0].2 + 1)
            }
        };
        assert_eq!((self.count, self.bytes), (found.0, found.1));
        found
    }
}
