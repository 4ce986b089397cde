//! List ops: tags, fields, and effects.
//!
//! | tag | op | fields after the tag |
//! |---|---|---|
//! | 1 | push front | key, elements: each is pushed in turn, so the last one ends up first |
//! | 2 | push back | key, elements |
//! | 3 | pop front | key, count |
//! | 4 | pop back | key, count |
//! | 5 | set | key, index, value |
//! | 6 | insert | key, index of the element before which to insert, or the length; value |
//! | 7 | remove | key, indexes, ascending, in the list before the op |
//! | 8 | keep | key, start, stop: elements outside this half-open range are removed |
//! | 9 | delete | key |
//! | 10 | expire | key, milliseconds since the Unix epoch, 0: never |
//! | 11 | rename | from, to: the former list at `to` is removed |
//! | 12 | clear | |
//!
//! A push creates the key if it does not exist; every other op on a key needs the key. A key whose list becomes empty
//! is removed.

use super::{Op, Reader, Scope, Sequence};
use super::{divergence, missing, put_bytes, put_head, put_sequence, there};
use crate::engine::memory::List;
use crate::engine::memory::part::{Hashed, Part};
use crate::error::Result;
use crate::varint;

/// Name of an op in messages.
const OP: &str = "list op";

const PUSH_FRONT: u8 = 1;
const PUSH_BACK: u8 = 2;
const POP_FRONT: u8 = 3;
const POP_BACK: u8 = 4;
const SET: u8 = 5;
const INSERT: u8 = 6;
const REMOVE: u8 = 7;
const KEEP: u8 = 8;
const DELETE: u8 = 9;
const EXPIRE: u8 = 10;
const RENAME: u8 = 11;
const CLEAR: u8 = 12;

/// One effect on the lists. The fields are listed in the table above.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "the table above has them")]
pub enum ListOp<'a> {
    PushFront { key: &'a [u8], elements: Sequence<'a, &'a [u8]> },
    PushBack { key: &'a [u8], elements: Sequence<'a, &'a [u8]> },
    PopFront { key: &'a [u8], count: u64 },
    PopBack { key: &'a [u8], count: u64 },
    Set { key: &'a [u8], index: u64, value: &'a [u8] },
    Insert { key: &'a [u8], index: u64, value: &'a [u8] },
    Remove { key: &'a [u8], indexes: Sequence<'a, u64> },
    Keep { key: &'a [u8], start: u64, stop: u64 },
    Delete { key: &'a [u8] },
    Expire { key: &'a [u8], at_ms: u64 },
    Rename { from: &'a [u8], to: &'a [u8] },
    Clear,
}

/// Appends encoded list ops to a buffer.
pub struct ListEncoder<'o>(pub &'o mut Vec<u8>);

impl ListEncoder<'_> {
    /// Pushes each element in turn to the front. There must be at least one element.
    pub fn push_front<'e>(&mut self, key: &[u8], elements: impl ExactSizeIterator<Item = &'e [u8]>) {
        put_head(self.0, PUSH_FRONT, key);
        put_sequence(self.0, elements, put_bytes);
    }

    /// Pushes each element in turn to the back. There must be at least one element.
    pub fn push_back<'e>(&mut self, key: &[u8], elements: impl ExactSizeIterator<Item = &'e [u8]>) {
        put_head(self.0, PUSH_BACK, key);
        put_sequence(self.0, elements, put_bytes);
    }

    /// Removes the first `count` elements; `count` is at least 1.
    pub fn pop_front(&mut self, key: &[u8], count: u64) {
        self.pop(POP_FRONT, key, count);
    }

    /// Removes the last `count` elements; `count` is at least 1.
    pub fn pop_back(&mut self, key: &[u8], count: u64) {
        self.pop(POP_BACK, key, count);
    }

    /// Replaces the element at `index`.
    pub fn set(&mut self, key: &[u8], index: u64, value: &[u8]) {
        put_head(self.0, SET, key);
        varint::put(self.0, index);
        put_bytes(self.0, value);
    }

    /// Adds an element before the one at `index`, or at the end if `index` is the length.
    pub fn insert(&mut self, key: &[u8], index: u64, value: &[u8]) {
        put_head(self.0, INSERT, key);
        varint::put(self.0, index);
        put_bytes(self.0, value);
    }

    /// Removes the elements at these indexes, which refer to the list before the op. The indexes must be strictly
    /// ascending and at least one.
    pub fn remove(&mut self, key: &[u8], indexes: impl ExactSizeIterator<Item = u64>) {
        put_head(self.0, REMOVE, key);
        let mut last = None;
        put_sequence(self.0, indexes, |out, index| {
            let difference = last.map_or(index, |last| index.saturating_sub(last));
            assert!(last.is_none() || difference > 0, "indexes are strictly ascending");
            varint::put(out, difference);
            last = Some(index);
        });
    }

    /// Removes all elements outside this half-open range.
    pub fn keep(&mut self, key: &[u8], start: u64, stop: u64) {
        assert!(start <= stop, "a range from {start} to {stop}");
        put_head(self.0, KEEP, key);
        varint::put(self.0, start);
        varint::put(self.0, stop);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        put_head(self.0, DELETE, key);
    }

    /// Sets the expiry of a key, in ms since the Unix epoch; 0: never.
    pub fn expire(&mut self, key: &[u8], at_ms: u64) {
        put_head(self.0, EXPIRE, key);
        varint::put(self.0, at_ms);
    }

    /// Moves a list and its expiry to another key.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        put_head(self.0, RENAME, from);
        put_bytes(self.0, to);
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.0.push(CLEAR);
    }

    fn pop(&mut self, tag: u8, key: &[u8], count: u64) {
        assert!(count > 0, "a pop of 0 elements");
        put_head(self.0, tag, key);
        varint::put(self.0, count);
    }
}

/// Decodes ops one by one. The iterator ends after an error.
#[derive(Clone)]
pub struct ListOps<'a>(Reader<'a>);

impl<'a> ListOps<'a> {
    /// Returns an iterator that begins at the first op.
    #[must_use]
    pub fn new(ops: &'a [u8]) -> Self {
        Self(Reader::new("list ops", ops))
    }

    /// Returns the offset of the next op.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.0.offset()
    }
}

impl<'a> Iterator for ListOps<'a> {
    type Item = Result<ListOp<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.0.tag()?;
        let op = ListOp::read(tag, &mut self.0);
        if op.is_err() {
            self.0.rest = &[];
        }
        Some(op)
    }
}

impl<'a> ListOp<'a> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Self> {
        if tag == CLEAR {
            return Ok(Self::Clear);
        }
        let key = from.bytes()?;
        Ok(match tag {
            PUSH_FRONT => Self::PushFront { key, elements: from.sequence()? },
            PUSH_BACK => Self::PushBack { key, elements: from.sequence()? },
            POP_FRONT => Self::PopFront { key, count: from.amount()? },
            POP_BACK => Self::PopBack { key, count: from.amount()? },
            SET => Self::Set { key, index: from.varint()?, value: from.bytes()? },
            INSERT => Self::Insert { key, index: from.varint()?, value: from.bytes()? },
            REMOVE => Self::Remove { key, indexes: from.sequence()? },
            KEEP => {
                let (start, stop) = from.range()?;
                Self::Keep { key, start, stop }
            }
            DELETE => Self::Delete { key },
            EXPIRE => Self::Expire { key, at_ms: from.varint()? },
            RENAME => Self::Rename { from: key, to: from.bytes()? },
            other => return Err(from.error(format!("unknown list op {other}"))),
        })
    }
}

impl<'a> Op<'a> for ListOp<'a> {
    type Value = List;
    const WHAT: &'static str = OP;

    fn scope(&self) -> Scope<'a> {
        match *self {
            Self::PushFront { key, .. }
            | Self::PushBack { key, .. }
            | Self::PopFront { key, .. }
            | Self::PopBack { key, .. }
            | Self::Set { key, .. }
            | Self::Insert { key, .. }
            | Self::Remove { key, .. }
            | Self::Keep { key, .. }
            | Self::Delete { key }
            | Self::Expire { key, .. } => Scope::Key(key),
            Self::Rename { from, to } => Scope::Rename { from, to },
            Self::Clear => Scope::All,
        }
    }

    /// An op that does not fit changes nothing.
    fn apply_to_key(&self, part: &mut Part<List>, at: Hashed<'a>) -> Result<()> {
        match *self {
            Self::PushFront { elements, .. } => {
                part.update_or_default(at, |list| elements.iter().for_each(|element| list.push_front(element)));
                Ok(())
            }
            Self::PushBack { elements, .. } => {
                part.update_or_default(at, |list| elements.iter().for_each(|element| list.push_back(element)));
                Ok(())
            }
            Self::PopFront { key, count } => change(part, at, |list| {
                fits(count <= list.len(), key, list, || format!("pop {count}"))?;
                list.remove_range(0..count);
                Ok(())
            }),
            Self::PopBack { key, count } => change(part, at, |list| {
                fits(count <= list.len(), key, list, || format!("pop {count}"))?;
                list.remove_range(list.len() - count..list.len());
                Ok(())
            }),
            Self::Set { key, index, value } => {
                change(part, at, |list| fits(list.set(index, value), key, list, || format!("set index {index}")))
            }
            Self::Insert { key, index, value } => {
                change(part, at, |list| fits(list.insert(index, value), key, list, || format!("insert at {index}")))
            }
            Self::Remove { key, indexes } => change(part, at, |list| remove(list, key, &indexes)),
            Self::Keep { key, start, stop } => change(part, at, |list| {
                fits(stop <= list.len(), key, list, || format!("keep {start} to {stop}"))?;
                list.keep(start..stop);
                Ok(())
            }),
            Self::Delete { key } => there(OP, part.delete(at), key),
            Self::Expire { key, at_ms } => there(OP, part.set_expire(at, at_ms), key),
            Self::Rename { .. } | Self::Clear => unreachable!("{self:?} changes more than one key"),
        }
    }
}

fn remove(list: &mut List, key: &[u8], indexes: &Sequence<'_, u64>) -> Result<()> {
    let last = indexes.iter().last().unwrap_or_default();
    fits(last < list.len(), key, list, || format!("remove index {last}"))?;
    for (removed, index) in indexes.iter().enumerate() {
        let now = index - removed as u64;
        list.remove_range(now..now + 1);
    }
    Ok(())
}

/// Changes a list, which must exist, and removes its key if the list is empty afterwards.
fn change(part: &mut Part<List>, key: Hashed<'_>, change: impl FnOnce(&mut List) -> Result<()>) -> Result<()> {
    let outcome = part.update(key, |list| change(list).map(|()| list.is_empty()));
    if outcome.ok_or_else(|| missing(OP, key.key()))?? {
        part.delete(key);
    }
    Ok(())
}

fn fits(fits: bool, key: &[u8], list: &List, wanted: impl FnOnce() -> String) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(divergence(OP, key, format!("{} of a list of {}", wanted(), list.len())))
}
