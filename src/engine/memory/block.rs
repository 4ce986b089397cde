//! A key with a small value, in one allocation.
//!
//! ```text
//! counters of the allocation | head: expiry, touch, length of the key, form, slack | key | body | slack
//! ```
//!
//! Guarantees: a clone costs O(1) and never changes. A change happens in place if no clone shares the block and the new
//! body fits; otherwise the block is copied. `memory_bytes` is what the allocator takes for the block. Non-goal: large
//! keys and large values ([`Block::fits`] tells which).

use std::cell::RefCell;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use triomphe::{Arc, HeaderSliceWithLengthProtected, ThinArc};

/// Largest number of bytes of key and body together.
pub(super) const BLOCK_BYTES_MAX: usize = 4096;
/// Largest number of bytes of a key.
const KEY_BYTES_MAX: usize = 512;
/// Bytes of an allocation before the key: the counter of the `Arc`, the head, and the length of the slice.
const HEAD_BYTES: usize = 8 + size_of::<Head>() + 8;
/// Largest number of unused bytes at the end of a block.
const SLACK_MAX: usize = u8::MAX as usize;

/// How the body of a block is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A string's bytes.
    Text,
    /// A hash's fields and values (see `pairs`).
    Hash,
    /// A set's members (see `pairs`).
    Members,
    /// A set of integers (see `integers`).
    Integers,
}

struct Head {
    /// Milliseconds since the Unix epoch from which on the key is expired; 0: never.
    expire_ms: u64,
    /// State of the access tracker for the key. Readers change it, too.
    touch: AtomicU32,
    key_len: u16,
    form: Form,
    /// Number of unused bytes at the end.
    slack: u8,
}

/// What the allocation of a block holds.
type Content = HeaderSliceWithLengthProtected<Head, u8>;

/// A key, its expiry and its small value.
#[derive(Clone)]
pub struct Block(ThinArc<Head, u8>);

thread_local! {
    /// Where the bytes of a new block are put together.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Returns the number of bytes that the allocator takes for an allocation of `bytes` bytes: multiples of 16 up to 128,
/// then four sizes for each doubling.
fn size_class(bytes: usize) -> usize {
    let spacing = if bytes <= 128 { 16 } else { 1 << ((bytes - 1).ilog2() - 2) };
    bytes.next_multiple_of(spacing)
}

impl Block {
    /// Reports whether a key and a body of these lengths fit into a block.
    #[must_use]
    pub fn fits(key_len: usize, body_len: usize) -> bool {
        key_len <= KEY_BYTES_MAX && key_len + body_len <= BLOCK_BYTES_MAX
    }

    /// Returns a block. Key and body must fit.
    #[must_use]
    pub fn new(key: &[u8], form: Form, expire_ms: u64, body: &[u8]) -> Self {
        Self::of(key, form, expire_ms, 0, [body])
    }

    /// Returns a block whose body is the concatenation of `body`.
    fn of<const N: usize>(key: &[u8], form: Form, expire_ms: u64, touch: u32, body: [&[u8]; N]) -> Self {
        let body_len: usize = body.iter().map(|part| part.len()).sum();
        assert!(Self::fits(key.len(), body_len), "a key of {} and a body of {body_len} bytes", key.len());
        let used = key.len() + body_len;
        let slack = (size_class(HEAD_BYTES + used) - HEAD_BYTES - used).min(SLACK_MAX);
        let head =
            Head { expire_ms, touch: AtomicU32::new(touch), key_len: key.len() as u16, form, slack: slack as u8 };
        SCRATCH.with_borrow_mut(|bytes| {
            bytes.clear();
            bytes.extend_from_slice(key);
            body.iter().for_each(|part| bytes.extend_from_slice(part));
            bytes.resize(used + slack, 0);
            Self(ThinArc::from_header_and_slice(head, bytes))
        })
    }

    /// Returns the same value under another key, with which it must fit.
    #[must_use]
    pub fn renamed(&self, key: &[u8]) -> Self {
        let head = self.head();
        Self::of(key, head.form, head.expire_ms, head.touch.load(Ordering::Relaxed), [self.body()])
    }

    fn head(&self) -> &Head {
        &self.0.header.header
    }

    /// Returns the key.
    #[must_use]
    #[inline]
    pub fn key(&self) -> &[u8] {
        &self.0.slice[..usize::from(self.head().key_len)]
    }

    /// Returns the encoding of the body.
    #[must_use]
    pub fn form(&self) -> Form {
        self.head().form
    }

    /// Returns the encoded value.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &[u8] {
        let head = self.head();
        &self.0.slice[usize::from(head.key_len)..self.0.slice.len() - usize::from(head.slack)]
    }

    /// Returns the milliseconds since the Unix epoch from which on the key is expired; 0: never.
    #[must_use]
    pub fn expire_ms(&self) -> u64 {
        self.head().expire_ms
    }

    /// Sets the expiry.
    pub fn set_expire(&mut self, expire_ms: u64) {
        self.change(|content| content.header_mut().expire_ms = expire_ms);
    }

    /// Returns the state of the access tracker for the key.
    #[must_use]
    pub fn touch(&self) -> &AtomicU32 {
        &self.head().touch
    }

    /// Returns the bytes that the allocator takes for the block.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_class(HEAD_BYTES + self.0.slice.len())
    }

    /// Reports whether the body can grow or shrink to `body_len` bytes and remain in a block.
    #[must_use]
    pub fn can_hold(&self, body_len: usize) -> bool {
        Self::fits(usize::from(self.head().key_len), body_len)
    }

    /// Changes the bytes of the body without changing their number. `change` gets the body.
    pub fn overwrite(&mut self, change: impl FnOnce(&mut [u8])) {
        let (from, to) = (self.key().len(), self.key().len() + self.body().len());
        self.change(|content| change(&mut content.slice_mut()[from..to]));
    }

    /// Replaces a range of the body. The result must fit into a block.
    pub fn splice(&mut self, range: Range<usize>, with: &[u8]) {
        let body_len = self.body().len();
        let key_len = usize::from(self.head().key_len);
        let new_len = body_len - range.len() + with.len();
        let room = self.0.slice.len();
        let used = key_len + new_len;
        let in_place = |arc: &mut Arc<Content>| {
            let Some(content) = Arc::get_mut(arc) else { return false };
            let bytes = content.slice_mut();
            let (from, to) = (key_len + range.start, key_len + range.end);
            bytes.copy_within(to..key_len + body_len, from + with.len());
            bytes[from..from + with.len()].copy_from_slice(with);
            content.header_mut().slack = (room - used) as u8;
            true
        };
        let stays = used <= room && room - used <= SLACK_MAX.min(used / 4 + 16);
        if !(stays && self.0.with_arc_mut(in_place)) {
            let (head, body) = (self.head(), self.body());
            let parts = [&body[..range.start], with, &body[range.end..]];
            let touch = head.touch.load(Ordering::Relaxed);
            *self = Self::of(self.key(), head.form, head.expire_ms, touch, parts);
        }
    }

    /// Changes the block in place, after a copy if the block is shared.
    fn change(&mut self, change: impl FnOnce(&mut Content)) {
        if self.0.with_arc_mut(|arc| Arc::get_mut(arc).is_none()) {
            let head = self.head();
            let touch = head.touch.load(Ordering::Relaxed);
            *self = Self::of(self.key(), head.form, head.expire_ms, touch, [self.body()]);
        }
        self.0.with_arc_mut(|arc| change(Arc::get_mut(arc).expect("nothing shares the block")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_body_come_back_through_all_changes() {
        let mut block = Block::new(b"key", Form::Text, 7, b"0123456789");
        assert_eq!((block.key(), block.body(), block.expire_ms()), (&b"key"[..], &b"0123456789"[..], 7));
        let old = block.clone();
        block.splice(2..4, b"abcde");
        block.set_expire(0);
        assert_eq!((block.key(), block.body(), block.expire_ms()), (&b"key"[..], &b"01abcde456789"[..], 0));
        assert_eq!((old.body(), old.expire_ms()), (&b"0123456789"[..], 7));
        block.splice(0..13, b"");
        assert_eq!((block.key(), block.body()), (&b"key"[..], &b""[..]));
        for _ in 0..4093 {
            let end = block.body().len();
            block.splice(end..end, b"x");
        }
        assert_eq!(block.body(), [b'x'; 4093]);
        block.overwrite(|body| body[1] = b'y');
        assert!(block.body().starts_with(b"xyx") && !block.can_hold(4094));
    }

    #[test]
    fn a_block_is_as_large_as_the_allocator_makes_it() {
        assert_eq!(
            [1, 16, 17, 128, 129, 160, 161, 256, 257, 2048, 2049].map(size_class),
            [16, 16, 32, 128, 160, 160, 192, 256, 320, 2048, 2560]
        );
        assert_eq!(HEAD_BYTES, 32);
        assert_eq!(Block::new(&[b'k'; 16], Form::Text, 0, &[b'v'; 16]).memory_bytes(), 64);
        assert_eq!(Block::new(&[b'k'; 16], Form::Text, 0, &[b'v'; 100]).memory_bytes(), 160);
    }
}
