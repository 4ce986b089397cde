//! A leaf of a list: elements packed into one buffer, readable from both ends.
//!
//! An element is {length: varint, bytes, length: the varint's bytes reversed}. Free space is kept at the end that
//! grows, so that pushing and popping at either end move nothing.
//!
//! Guarantees: a leaf holds at most [`LEAF_BYTES`] and [`LEAF_ELEMENTS`]; an element that is larger than that is alone
//! in its leaf. Non-goals: shrinking integers, compression; elements are returned as slices of the buffer.

use super::tree::{Leaf, Ordered};
use std::ops::Range;

/// Largest number of encoded bytes in a leaf, unless a single element is larger.
pub(super) const LEAF_BYTES: usize = 4096;
/// Largest number of elements in a leaf. This bounds the walk to an element.
pub(super) const LEAF_ELEMENTS: usize = 128;

/// Bytes that an allocator adds to an allocation.
const ALLOCATION_BYTES: usize = 8;

/// Elements in list order.
#[derive(Clone, Default)]
pub(super) struct Packed {
    /// Free space up to `start`, then the encoded elements.
    buf: Vec<u8>,
    start: u32,
    count: u32,
}

/// Returns the number of bytes of a varint.
fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Returns the encoded size of an element of `len` bytes.
pub(super) fn encoded_len(len: usize) -> usize {
    len + 2 * varint_len(len)
}

/// Writes an element into `slot`, which has exactly the encoded size of the element.
fn write(slot: &mut [u8], element: &[u8]) {
    let width = varint_len(element.len());
    let end = slot.len() - 1;
    let mut rest = element.len();
    for at in 0..width {
        let more = if at + 1 < width { 0x80 } else { 0 };
        let byte = (rest & 0x7f) as u8 | more;
        slot[at] = byte;
        slot[end - at] = byte;
        rest >>= 7;
    }
    slot[width..width + element.len()].copy_from_slice(element);
}

/// Returns a byte position in its stored form.
fn position(at: usize) -> u32 {
    u32::try_from(at).expect("an element is far below 4 GiB")
}

impl Packed {
    /// Returns the encoded bytes of all elements.
    fn live(&self) -> usize {
        self.buf.len() - self.start as usize
    }

    /// Returns the byte position of the element at offset `index`, or the end of the buffer if `index` is the number of
    /// elements.
    pub(super) fn seek(&self, index: usize) -> usize {
        debug_assert!(index <= self.count as usize);
        if index <= self.count as usize / 2 {
            (0..index).fold(self.start as usize, |at, _| self.read(at).1)
        } else {
            (index..self.count as usize).fold(self.buf.len(), |end, _| self.read_back(end).1)
        }
    }

    /// Returns the element that begins at byte `at`, and the position where the next element begins.
    #[inline]
    pub(super) fn read(&self, at: usize) -> (&[u8], usize) {
        let (mut len, mut width, mut more) = (0, 0, true);
        while more {
            let byte = self.buf[at + width];
            len |= usize::from(byte & 0x7f) << (7 * width);
            (width, more) = (width + 1, byte & 0x80 != 0);
        }
        let from = at + width;
        (&self.buf[from..from + len], from + len + width)
    }

    /// Returns the element that ends before byte `end`, and the position where the element begins.
    #[inline]
    pub(super) fn read_back(&self, end: usize) -> (&[u8], usize) {
        let (mut len, mut width, mut more) = (0, 0, true);
        while more {
            let byte = self.buf[end - 1 - width];
            len |= usize::from(byte & 0x7f) << (7 * width);
            (width, more) = (width + 1, byte & 0x80 != 0);
        }
        let to = end - width;
        (&self.buf[to - len..to], to - len - width)
    }

    /// Returns the element at offset `index`, which must exist.
    pub(super) fn get(&self, index: usize) -> &[u8] {
        self.read(self.seek(index)).0
    }

    /// Adds an element at the end. An element that does not fit goes to a new leaf, which is returned and must follow
    /// this one. The new leaf has room for as many bytes as this leaf holds, but for at most `spare` bytes unless the
    /// element needs more.
    pub(super) fn push_back(&mut self, element: &[u8], spare: usize) -> Vec<Self> {
        let need = encoded_len(element.len());
        if self.has_room(need) {
            self.extend_back(element, need);
            return Vec::new();
        }
        self.seal();
        let space = spare.min(self.live()).max(need);
        let mut next = Self { buf: Vec::with_capacity(space), start: 0, count: 0 };
        next.extend_back(element, need);
        vec![next]
    }

    /// Adds an element at the front. If the element does not fit, this leaf becomes a new leaf with the element, with
    /// room as in [`Packed::push_back`], and the former content is returned as the leaf that must follow.
    pub(super) fn push_front(&mut self, element: &[u8], spare: usize) -> Vec<Self> {
        let need = encoded_len(element.len());
        if self.has_room(need) {
            self.extend_front(element, need);
            return Vec::new();
        }
        self.seal();
        let space = spare.min(self.live()).max(need);
        let mut first = Self { buf: vec![0; space], start: position(space), count: 0 };
        first.extend_front(element, need);
        vec![std::mem::replace(self, first)]
    }

    /// Adds an element before the one at `index`. Returns the leaves that must follow this one if it overflows.
    pub(super) fn insert(&mut self, index: usize, element: &[u8]) -> Vec<Self> {
        let need = encoded_len(element.len());
        if self.has_room(need) {
            self.insert_at(self.seek(index), element, need);
            return Vec::new();
        }
        // Splitting into halves ensures that repeated insertions at one place leave no trail of tiny leaves.
        let half = self.count as usize / 2;
        let alone = need > LEAF_BYTES / 2;
        let cut = if alone || half == 0 { index } else { half };
        let mut right = self.split_off(cut);
        if index <= cut && self.has_room(need) {
            self.insert_at(self.seek(index), element, need);
        } else if index >= cut && right.has_room(need) {
            right.insert_at(right.seek(index - cut), element, need);
        } else {
            let tail = if index < cut { self.split_off(index) } else { right.split_off(index - cut) };
            let mut own = Self::default();
            own.extend_back(element, need);
            let order = if index < cut { [own, tail, right] } else { [right, own, tail] };
            return self.followed_by(order);
        }
        self.followed_by([right])
    }

    /// Replaces the element at `index`. Returns the leaves that must follow this one if it overflows.
    pub(super) fn replace(&mut self, index: usize, element: &[u8]) -> Vec<Self> {
        let at = self.seek(index);
        let old = self.read(at).0.len();
        if old == element.len() {
            let need = encoded_len(old);
            write(&mut self.buf[at..at + need], element);
            return Vec::new();
        }
        self.remove(index..index + 1);
        self.insert(index, element)
    }

    /// Removes the empty leaves from this leaf and `rest`. The first remaining leaf becomes this one; the others are
    /// returned.
    fn followed_by<const N: usize>(&mut self, rest: [Self; N]) -> Vec<Self> {
        let mut leaves: Vec<Self> = rest.into_iter().filter(|leaf| leaf.count > 0).collect();
        if self.count == 0 && !leaves.is_empty() {
            *self = leaves.remove(0);
        }
        leaves
    }

    fn has_room(&self, need: usize) -> bool {
        self.count == 0 || self.holds_another(need)
    }

    /// Reports whether an element of the encoded size `need` fits within the limits of a leaf.
    pub(super) fn holds_another(&self, need: usize) -> bool {
        self.holds_more(need) && (self.count as usize) < LEAF_ELEMENTS
    }

    /// Reports whether the encoded elements may grow by `need` bytes.
    pub(super) fn holds_more(&self, need: usize) -> bool {
        self.live() + need <= LEAF_BYTES
    }

    /// Returns the buffer size for `total` bytes that are likely to grow: a quarter more, but at most `bound` unless
    /// `total` is more.
    fn roomy(total: usize, bound: usize) -> usize {
        total.max((total + total / 4 + 8).min(bound))
    }

    fn extend_back(&mut self, element: &[u8], need: usize) {
        if self.buf.capacity() - self.buf.len() < need {
            // A leaf whose front was popped is used as a queue. Free space beyond a full leaf saves such a leaf a move
            // for each push.
            let bound = if self.start > 0 { LEAF_BYTES * 5 / 4 } else { LEAF_BYTES };
            self.buf.drain(..self.start as usize);
            self.start = 0;
            let roomy = Self::roomy(self.buf.len() + need, bound);
            self.buf.reserve_exact(roomy - self.buf.len());
        }
        let at = self.buf.len();
        self.buf.resize(at + need, 0);
        write(&mut self.buf[at..], element);
        self.count += 1;
    }

    fn extend_front(&mut self, element: &[u8], need: usize) {
        if (self.start as usize) < need {
            let bound = if self.buf.len() < self.buf.capacity() { LEAF_BYTES * 5 / 4 } else { LEAF_BYTES };
            let live = self.live();
            let mut buf = vec![0; Self::roomy(live + need, bound)];
            let start = buf.len() - live;
            buf[start..].copy_from_slice(&self.buf[self.start as usize..]);
            (self.buf, self.start) = (buf, position(start));
        }
        let at = self.start as usize - need;
        write(&mut self.buf[at..at + need], element);
        self.start = position(at);
        self.count += 1;
    }

    fn insert_at(&mut self, at: usize, element: &[u8], need: usize) {
        let end = self.buf.len();
        if self.buf.capacity() - end < need {
            self.buf.reserve_exact(Self::roomy(self.live() + need, LEAF_BYTES).saturating_sub(self.live()).max(need));
        }
        self.buf.resize(end + need, 0);
        self.buf.copy_within(at..end, at + need);
        write(&mut self.buf[at..at + need], element);
        self.count += 1;
    }

    /// Removes the elements from `index` on and returns them as a leaf.
    fn split_off(&mut self, index: usize) -> Self {
        let at = self.seek(index);
        let right = Self { buf: self.buf[at..].to_vec(), start: 0, count: self.count - index as u32 };
        self.buf.truncate(at);
        self.count = index as u32;
        self.seal();
        right
    }

    /// Frees unused space if that is worth a copy: this leaf has stopped growing.
    fn seal(&mut self) {
        let live = self.live();
        if self.buf.capacity() - live > live / 8 {
            self.buf = self.buf[self.start as usize..].to_vec();
            self.start = 0;
        }
    }
}

impl Leaf for Packed {
    type Key = ();

    fn len(&self) -> usize {
        self.count as usize
    }

    fn bytes(&self) -> usize {
        self.buf.capacity() + ALLOCATION_BYTES
    }

    fn low(&self) {}

    fn is_sparse(&self) -> bool {
        self.live() < LEAF_BYTES / 4 && (self.count as usize) < LEAF_ELEMENTS / 4
    }

    fn fits(&self, right: &Self) -> bool {
        self.live() + right.live() <= LEAF_BYTES * 3 / 4 && self.len() + right.len() <= LEAF_ELEMENTS * 3 / 4
    }

    fn append(&mut self, right: Self) {
        self.seal();
        self.buf.reserve_exact(right.live());
        self.buf.extend_from_slice(&right.buf[right.start as usize..]);
        self.count += right.count;
    }
}

impl Ordered for Packed {
    fn remove(&mut self, range: Range<usize>) {
        let gone = range.len() as u32;
        if gone == self.count {
            *self = Self::default();
            return;
        }
        let (from, to) = (self.seek(range.start), self.seek(range.end));
        if range.start == 0 {
            self.start = position(to);
        } else {
            self.buf.drain(from..to);
        }
        self.count -= gone;
    }
}
