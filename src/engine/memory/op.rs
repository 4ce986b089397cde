//! Ops: effects on the memory engines as bytes. The primary applies the ops that it encodes; logs, chunks and replicas
//! carry the same bytes.
//!
//! An encoded buffer is a sequence of ops; each op is {tag: u8, fields}. Fields are encoded as follows: integers as
//! varints (LEB128, at most ten bytes), byte strings as {length: varint, bytes}, scores as the eight little-endian
//! bytes of the f64, and sequences as {count: varint, at least 1; items}. An index in a sequence is stored as the
//! difference to the index before it; all differences but the first are positive. The tags and fields of each op are
//! listed in [`list`] and [`zset`]. An engine's tables begin with its own changes of a value, with tags from 1 on; the
//! four ops on whole keys follow, in the same order for each engine, and are encoded, decoded and applied here.
//!
//! Guarantees: decoding borrows and allocates nothing; a decoded op is valid down to its last item. Arbitrary bytes are
//! an error, never a panic. Applying an op that does not fit the state is an error, too: the state has diverged from
//! its history and must be given up.

pub mod list;
pub mod zset;

pub use list::{ListChange, ListEncoder, ListOp, ListOps};
pub use zset::{ZsetChange, ZsetEncoder, ZsetOp, ZsetOps};

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

/// A change of one value: what one engine's ops do beside the ops on whole keys, which are the same for every engine.
pub trait Change<'a>: Copy {
    /// Type of the values in the engine's dictionary.
    type Value: Value + Default;
    /// Name of an op of the engine, for messages.
    const OP: &'static str;
    /// Name of the engine's encoded ops, for messages.
    const OPS: &'static str;
    /// Number of the kinds of changes. Their tags are 1 to this number; the tags of the ops on whole keys follow.
    const KINDS: u8;

    /// Reads the fields of the change with this tag, which is 1 to [`Change::KINDS`].
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Self>;

    /// Reports whether the change creates its key if the key does not exist. Every other change needs the key.
    fn creates_key(&self) -> bool;

    /// Changes the value. A change that does not fit the value is an error.
    fn apply(self, key: &[u8], value: &mut Self::Value) -> Result<()>;

    /// Reports whether a value is empty, so that its key is removed.
    fn is_empty(value: &Self::Value) -> bool;
}

/// Tag of the op that removes a key, counted from [`Change::KINDS`].
const DELETE: u8 = 1;
/// Tag of the op that sets an expiry, counted in the same way.
const EXPIRE: u8 = 2;
/// Tag of the op that moves a value to another key, counted in the same way.
const RENAME: u8 = 3;
/// Tag of the op that removes all keys, counted in the same way.
const CLEAR: u8 = 4;

/// One effect on the dictionary of an engine, whose changes of values are of the type `C`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op<'a, C> {
    /// Changes the value of a key. A key whose value becomes empty is removed.
    Change {
        /// The key.
        key: &'a [u8],
        /// The change of the key's value.
        change: C,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Sets the expiry of a key.
    Expire {
        /// The key.
        key: &'a [u8],
        /// Milliseconds since the Unix epoch; 0: never.
        at_ms: u64,
    },
    /// Moves a value and its expiry to another key, whose former value is removed.
    Rename {
        /// The key that has the value.
        from: &'a [u8],
        /// The key that gets the value.
        to: &'a [u8],
    },
    /// Removes all keys.
    Clear,
}

impl<'a, C: Change<'a>> Op<'a, C> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Self> {
        let own = tag.checked_sub(C::KINDS);
        if own == Some(CLEAR) {
            return Ok(Self::Clear);
        }
        let key = from.bytes()?;
        Ok(match own {
            None | Some(0) if tag > 0 => Self::Change { key, change: C::read(tag, from)? },
            Some(DELETE) => Self::Delete { key },
            Some(EXPIRE) => Self::Expire { key, at_ms: from.varint()? },
            Some(RENAME) => Self::Rename { from: key, to: from.bytes()? },
            _ => return Err(from.error(format!("unknown {} {tag}", C::OP))),
        })
    }

    /// Returns the keys that the op changes.
    pub fn scope(&self) -> Scope<'a> {
        match *self {
            Self::Change { key, .. } | Self::Delete { key } | Self::Expire { key, .. } => Scope::Key(key),
            Self::Rename { from, to } => Scope::Rename { from, to },
            Self::Clear => Scope::All,
        }
    }

    /// Returns the key that the op changes or removes; empty for an op that removes all keys.
    pub fn key(&self) -> &'a [u8] {
        match self.scope() {
            Scope::Key(key) | Scope::Rename { from: key, .. } => key,
            Scope::All => &[],
        }
    }

    /// Applies the op. An op that does not fit the state is an error.
    pub fn apply(&self, keys: &mut Dictionary<C::Value>) -> Result<()> {
        match self.scope() {
            Scope::Key(key) => {
                let (part, key) = keys.part_of(key);
                self.apply_to_key(part, key)
            }
            Scope::Rename { from, to } => there(C::OP, keys.rename(from, to), from),
            Scope::All => {
                keys.clear();
                Ok(())
            }
        }
    }

    /// Applies an op on one key, in the part to which the key belongs. An op that does not fit the state is an error.
    pub(super) fn apply_to_key(&self, part: &mut Part<C::Value>, at: Hashed<'a>) -> Result<()> {
        match *self {
            Self::Change { key, change } if change.creates_key() => {
                part.update_or_default(at, |value| change.apply(key, value))
            }
            Self::Change { key, change } => {
                let changed = part.update(at, |value| change.apply(key, value).map(|()| C::is_empty(value)));
                if changed.ok_or_else(|| missing(C::OP, key))?? {
                    part.delete(at);
                }
                Ok(())
            }
            Self::Delete { key } => there(C::OP, part.delete(at), key),
            Self::Expire { key, at_ms } => there(C::OP, part.set_expire(at, at_ms), key),
            Self::Rename { .. } | Self::Clear => unreachable!("the op changes more than one key"),
        }
    }
}

/// Decodes ops one by one. The iterator ends after an error.
#[derive(Clone)]
pub struct Ops<'a, C> {
    reader: Reader<'a>,
    changes: PhantomData<C>,
}

impl<'a, C: Change<'a>> Ops<'a, C> {
    /// Returns an iterator that begins at the first op.
    #[must_use]
    pub fn new(ops: &'a [u8]) -> Self {
        Self { reader: Reader::new(C::OPS, ops), changes: PhantomData }
    }

    /// Checks encoded ops down to their last item.
    pub fn validate(ops: &'a [u8]) -> Result<()> {
        Self::new(ops).try_for_each(|op| op.map(drop))
    }

    /// Returns the offset of the next op.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.reader.offset()
    }
}

impl<'a, C: Change<'a>> Iterator for Ops<'a, C> {
    type Item = Result<Op<'a, C>>;

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.reader.tag()?;
        let op = Op::read(tag, &mut self.reader);
        if op.is_err() {
            self.reader.rest = &[];
        }
        Some(op)
    }
}

/// Appends encoded ops to a buffer.
pub struct Encoder<'o, C> {
    ops: &'o mut Vec<u8>,
    changes: PhantomData<C>,
}

impl<'o, C: Change<'static>> Encoder<'o, C> {
    /// Returns an encoder that appends to `ops`.
    pub fn new(ops: &'o mut Vec<u8>) -> Self {
        Self { ops, changes: PhantomData }
    }

    /// Appends the tag and the key of an op.
    fn head(&mut self, tag: u8, key: &[u8]) {
        self.ops.push(tag);
        put_bytes(self.ops, key);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.head(C::KINDS + DELETE, key);
    }

    /// Sets the expiry of a key, in ms since the Unix epoch; 0: never.
    pub fn expire(&mut self, key: &[u8], at_ms: u64) {
        self.head(C::KINDS + EXPIRE, key);
        varint::put(self.ops, at_ms);
    }

    /// Moves a value and its expiry to another key.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        self.head(C::KINDS + RENAME, from);
        put_bytes(self.ops, to);
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.ops.push(C::KINDS + CLEAR);
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

/// Appends a sequence. Panics if the sequence is empty: such an op has no effect and must not be made.
fn put_sequence<I: ExactSizeIterator>(out: &mut Vec<u8>, items: I, mut put: impl FnMut(&mut Vec<u8>, I::Item)) {
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
