//! Ops: effects on the memory engines as bytes. The primary applies the ops that it encodes; logs, chunks and replicas
//! carry the same bytes.
//!
//! An encoded buffer is a sequence of ops; each op is {tag: u8, fields}. Fields are encoded as follows: integers as
//! varints (LEB128, at most ten bytes), byte strings as {length: varint, bytes}, scores as the eight little-endian
//! bytes of the f64, and sequences as {count: varint, at least 1; items}. An index in a sequence is stored as the
//! difference to the index before it; all differences but the first are positive. The tags and fields of each op are
//! listed in [`list`] and [`zset`].
//!
//! Guarantees: decoding borrows and allocates nothing; a decoded op is valid down to its last item. Arbitrary bytes are
//! an error, never a panic. Applying an op that does not fit the state is an error, too: the state has diverged from
//! its history and must be given up.

pub mod list;
#[cfg(test)]
pub(crate) mod random;
pub mod zset;

pub use list::{ListEncoder, ListOp, ListOps};
pub use zset::{ZsetEncoder, ZsetOp, ZsetOps};

use super::dictionary::Dictionary;
use super::entry::Value;
use super::part::{Hashed, Part};
use crate::error::{Error, Result};
use crate::varint;
use std::marker::PhantomData;

/// The keys that an op changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the tables of the ops have them")]
pub enum Scope<'a> {
    Key(&'a [u8]),
    Rename { from: &'a [u8], to: &'a [u8] },
    All,
}

/// An op of one memory engine.
pub trait Op<'a> {
    /// Type of the values in the engine's dictionary.
    type Value: Value;
    /// Name of the kind of op, for messages.
    const WHAT: &'static str;

    /// Returns the keys that the op changes.
    fn scope(&self) -> Scope<'a>;

    /// Applies an op on one key, in the part to which the key belongs. An op that does not fit the state is an error.
    fn apply_to_key(&self, part: &mut Part<Self::Value>, key: Hashed<'a>) -> Result<()>;

    /// Applies the op. An op that does not fit the state is an error.
    fn apply(&self, keys: &mut Dictionary<Self::Value>) -> Result<()> {
        match self.scope() {
            Scope::Key(key) => {
                let (part, key) = keys.part_of(key);
                self.apply_to_key(part, key)
            }
            Scope::Rename { from, to } => there(Self::WHAT, keys.rename(from, to), from),
            Scope::All => {
                keys.clear();
                Ok(())
            }
        }
    }
}

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

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(varint::take(rest).ok()?).ok()?;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(bytes)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends the tag and the key of an op.
fn put_head(out: &mut Vec<u8>, tag: u8, key: &[u8]) {
    out.push(tag);
    put_bytes(out, key);
}

/// Appends a sequence. Panics if the sequence is empty: such an op has no effect and must not be made.
fn put_sequence<I: ExactSizeIterator>(out: &mut Vec<u8>, items: I, mut put: impl FnMut(&mut Vec<u8>, I::Item)) {
    assert!(items.len() > 0, "an op needs an item");
    varint::put(out, items.len() as u64);
    items.for_each(|item| put(out, item));
}

/// Reads the fields of ops.
#[derive(Clone)]
struct Reader<'a> {
    /// Name of the bytes that are read, for messages.
    what: &'static str,
    all: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(what: &'static str, all: &'a [u8]) -> Self {
        Self { what, all, rest: all }
    }

    fn offset(&self) -> usize {
        self.all.len() - self.rest.len()
    }

    fn error(&self, detail: impl Into<String>) -> Error {
        Error::corrupt(self.what, format!("byte {}", self.offset()), detail)
    }

    /// Returns the tag of the next op; `None` at the end.
    fn tag(&mut self) -> Option<u8> {
        let (tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*tag)
    }

    fn varint(&mut self) -> Result<u64> {
        varint::take(&mut self.rest).map_err(|_| self.error("expected a varint"))
    }

    fn bytes(&mut self) -> Result<&'a [u8]> {
        take_bytes(&mut self.rest).ok_or_else(|| self.error("expected a byte string that ends within the ops"))
    }

    /// Reads a count of at least 1.
    fn amount(&mut self) -> Result<u64> {
        match self.varint()? {
            0 => Err(self.error("expected a count of at least 1")),
            count => Ok(count),
        }
    }

    /// Reads a half-open range of positions, as start and stop.
    fn range(&mut self) -> Result<(u64, u64)> {
        let (start, stop) = (self.varint()?, self.varint()?);
        if start > stop {
            return Err(self.error(format!("expected a range, found {start} to {stop}")));
        }
        Ok((start, stop))
    }

    fn sequence<T: SequenceItem<'a>>(&mut self) -> Result<Sequence<'a, T>> {
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

/// Returns an error unless the key was there; for ops on a key as a whole.
fn there(what: &'static str, there: bool, key: &[u8]) -> Result<()> {
    if there { Ok(()) } else { Err(missing(what, key)) }
}

pub(super) fn missing(what: &'static str, key: &[u8]) -> Error {
    divergence(what, key, "the key does not exist")
}

/// Returns the error for an op that does not fit the state to which it is applied.
fn divergence(what: &'static str, key: &[u8], detail: impl Into<String>) -> Error {
    let key = format!("key \"{}\"", key.escape_ascii());
    Error::corrupt(what, key, format!("the op does not fit the state: {}", detail.into()))
}

#[cfg(test)]
#[path = "op_tests.rs"]
mod tests;
