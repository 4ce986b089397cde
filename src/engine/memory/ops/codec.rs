//! The fields of ops as bytes.
//!
//! Integers are varints (LEB128, at most ten bytes), byte strings {length: varint, bytes}, scores the eight little-endian
//! bytes of the f64, and sequences {count: varint, at least 1; items}. An index in a sequence is stored as the difference
//! to the index before it; all differences but the first are positive.
//!
//! Guarantees: decoding borrows and allocates nothing. Arbitrary bytes are an error, never a panic.

use crate::error::{Error, Result};
use crate::varint;
use std::marker::PhantomData;

/// An item of a [`Sequence`].
pub trait SequenceItem<'a>: Sized {
    /// Takes an item from the front of `rest`; `None` if the item is malformed. `last` starts at 0 in each sequence; an
    /// item may store a value in it for the next item.
    fn take(rest: &mut &'a [u8], last: &mut u64) -> Option<Self>;
}

impl<'a> SequenceItem<'a> for &'a [u8] {
    fn take(rest: &mut &'a [u8], _: &mut u64) -> Option<Self> {
        take_bytes(rest)
    }
}

impl<'a> SequenceItem<'a> for (&'a [u8], &'a [u8]) {
    fn take(rest: &mut &'a [u8], _: &mut u64) -> Option<Self> {
        Some((take_bytes(rest)?, take_bytes(rest)?))
    }
}

impl<'a> SequenceItem<'a> for (&'a [u8], f64) {
    fn take(rest: &mut &'a [u8], _: &mut u64) -> Option<Self> {
        let member = take_bytes(rest)?;
        let (score, after) = rest.split_first_chunk()?;
        *rest = after;
        let score = f64::from_le_bytes(*score);
        (!score.is_nan()).then_some((member, score))
    }
}

/// An index is at most `u64::MAX - 1`, so that every index has a successor. `last` holds the previous index plus 1.
impl<'a> SequenceItem<'a> for u64 {
    fn take(rest: &mut &'a [u8], last: &mut u64) -> Option<Self> {
        let difference = varint::take(rest).ok()?;
        let index =
            if *last == 0 { difference } else { (*last - 1).checked_add(difference).filter(|_| difference > 0)? };
        *last = index.checked_add(1)?;
        Some(index)
    }
}

/// Items of an op, encoded and known to be valid; at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence<'a, T> {
    count: u64,
    bytes: &'a [u8],
    items: PhantomData<T>,
}

impl<'a, T: SequenceItem<'a>> Sequence<'a, T> {
    /// Returns the number of items.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a sequence is never empty")]
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Iterates over the items, in order.
    #[must_use]
    pub fn iter(&self) -> SequenceIter<'a, T> {
        SequenceIter { rest: self.bytes, last: 0, items: PhantomData }
    }
}

/// Iterator over the items of a [`Sequence`].
#[derive(Clone)]
pub struct SequenceIter<'a, T> {
    rest: &'a [u8],
    /// The state that [`SequenceItem::take`] passes from item to item.
    last: u64,
    items: PhantomData<T>,
}

impl<'a, T: SequenceItem<'a>> Iterator for SequenceIter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        T::take(&mut self.rest, &mut self.last)
    }
}

pub(super) fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::take(rest).ok()?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a sequence. Panics if the sequence is empty: such an op has no effect and must not be made.
pub(super) fn put_sequence<I: ExactSizeIterator>(
    out: &mut Vec<u8>,
    items: I,
    mut put: impl FnMut(&mut Vec<u8>, I::Item),
) {
    assert!(items.len() > 0, "an op needs an item");
    varint::put(out, items.len() as u64);
    items.for_each(|item| put(out, item));
}

/// Reads the fields of ops.
#[derive(Clone)]
pub struct Reader<'a> {
    /// Name of the bytes that are read, for messages.
    what: &'static str,
    all: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, all: &'a [u8]) -> Self {
        Self { what, all, rest: all }
    }

    pub(super) fn offset(&self) -> usize {
        self.all.len() - self.rest.len()
    }

    pub(super) fn error(&self, detail: impl Into<String>) -> Error {
        Error::corrupt(self.what, format!("byte {}", self.offset()), detail)
    }

    /// Ends the reading.
    pub(super) fn end(&mut self) {
        self.rest = &[];
    }

    /// Returns the tag of the next op; `None` at the end.
    pub(super) fn tag(&mut self) -> Option<u8> {
        let (tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*tag)
    }

    pub(super) fn varint(&mut self) -> Result<u64> {
        varint::take(&mut self.rest).map_err(|_| self.error("expected a varint"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8]> {
        take_bytes(&mut self.rest).ok_or_else(|| self.error("expected a byte string that ends within the ops"))
    }

    /// Reads a count of at least 1.
    pub(super) fn amount(&mut self) -> Result<u64> {
        match self.varint()? {
            0 => Err(self.error("expected a count of at least 1")),
            count => Ok(count),
        }
    }

    /// Reads a half-open range of positions, as start and stop.
    pub(super) fn range(&mut self) -> Result<(u64, u64)> {
        let (start, stop) = (self.varint()?, self.varint()?);
        if start > stop {
            return Err(self.error(format!("expected a range, found {start} to {stop}")));
        }
        Ok((start, stop))
    }

    pub(super) fn sequence<T: SequenceItem<'a>>(&mut self) -> Result<Sequence<'a, T>> {
        let count = self.amount()?;
        let (from, mut last) = (self.rest, 0);
        // Every item takes at least one byte, so the loop ends with the input whatever the count is.
        for at in 0..count {
            if T::take(&mut self.rest, &mut last).is_none() {
                return Err(self.error(format!("item {at} of {count} is malformed or missing")));
            }
        }
        Ok(Sequence { count, bytes: &from[..from.len() - self.rest.len()], items: PhantomData })
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
