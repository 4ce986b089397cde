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

use super::{Change, Encoder, Op, Ops, Reader, Sequence};
use super::{divergence, put_bytes, put_sequence};
use crate::engine::memory::List;
use crate::error::Result;
use crate::varint;

const PUSH_FRONT: u8 = 1;
const PUSH_BACK: u8 = 2;
const POP_FRONT: u8 = 3;
const POP_BACK: u8 = 4;
const SET: u8 = 5;
const INSERT: u8 = 6;
const REMOVE: u8 = 7;
const KEEP: u8 = 8;

/// A change of one list. The fields are listed in the table above.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "the table above has them")]
pub enum ListChange<'a> {
    PushFront { elements: Sequence<'a, &'a [u8]> },
    PushBack { elements: Sequence<'a, &'a [u8]> },
    PopFront { count: u64 },
    PopBack { count: u64 },
    Set { index: u64, value: &'a [u8] },
    Insert { index: u64, value: &'a [u8] },
    Remove { indexes: Sequence<'a, u64> },
    Keep { start: u64, stop: u64 },
}

/// One effect on the lists.
pub type ListOp<'a> = Op<'a, ListChange<'a>>;
/// Decodes list ops one by one.
pub type ListOps<'a> = Ops<'a, ListChange<'a>>;
/// Appends encoded list ops to a buffer.
pub type ListEncoder<'o> = Encoder<'o, ListChange<'static>>;

impl ListEncoder<'_> {
    /// Pushes each element in turn to the front. There must be at least one element.
    pub fn push_front<'e>(&mut self, key: &[u8], elements: impl ExactSizeIterator<Item = &'e [u8]>) {
        self.head(PUSH_FRONT, key);
        put_sequence(self.ops, elements, put_bytes);
    }

    /// Pushes each element in turn to the back. There must be at least one element.
    pub fn push_back<'e>(&mut self, key: &[u8], elements: impl ExactSizeIterator<Item = &'e [u8]>) {
        self.head(PUSH_BACK, key);
        put_sequence(self.ops, elements, put_bytes);
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
        self.head(SET, key);
        varint::put(self.ops, index);
        put_bytes(self.ops, value);
    }

    /// Adds an element before the one at `index`, or at the end if `index` is the length.
    pub fn insert(&mut self, key: &[u8], index: u64, value: &[u8]) {
        self.head(INSERT, key);
        varint::put(self.ops, index);
        put_bytes(self.ops, value);
    }

    /// Removes the elements at these indexes, which refer to the list before the op. The indexes must be strictly
    /// ascending and at least one.
    pub fn remove(&mut self, key: &[u8], indexes: impl ExactSizeIterator<Item = u64>) {
        self.head(REMOVE, key);
        let mut last = None;
        put_sequence(self.ops, indexes, |out, index| {
            let difference = last.map_or(index, |last| index.saturating_sub(last));
            assert!(last.is_none() || difference > 0, "indexes are strictly ascending");
            varint::put(out, difference);
            last = Some(index);
        });
    }

    /// Removes all elements outside this half-open range.
    pub fn keep(&mut self, key: &[u8], start: u64, stop: u64) {
        assert!(start <= stop, "a range from {start} to {stop}");
        self.head(KEEP, key);
        varint::put(self.ops, start);
        varint::put(self.ops, stop);
    }

    fn pop(&mut self, tag: u8, key: &[u8], count: u64) {
        assert!(count > 0, "a pop of 0 elements");
        self.head(tag, key);
        varint::put(self.ops, count);
    }
}

impl<'a> Change<'a> for ListChange<'a> {
    type Value = List;
    const OP: &'static str = "list op";
    const OPS: &'static str = "list ops";
    const KINDS: u8 = KEEP;

    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Self> {
        Ok(match tag {
            PUSH_FRONT => Self::PushFront { elements: from.sequence()? },
            PUSH_BACK => Self::PushBack { elements: from.sequence()? },
            POP_FRONT => Self::PopFront { count: from.amount()? },
            POP_BACK => Self::PopBack { count: from.amount()? },
            SET => Self::Set { index: from.varint()?, value: from.bytes()? },
            INSERT => Self::Insert { index: from.varint()?, value: from.bytes()? },
            REMOVE => Self::Remove { indexes: from.sequence()? },
            _ => {
                let (start, stop) = from.range()?;
                Self::Keep { start, stop }
            }
        })
    }

    fn creates_key(&self) -> bool {
        matches!(self, Self::PushFront { .. } | Self::PushBack { .. })
    }

    /// A change that does not fit changes nothing.
    fn apply(self, key: &[u8], list: &mut List) -> Result<()> {
        match self {
            Self::PushFront { elements } => elements.iter().for_each(|element| list.push_front(element)),
            Self::PushBack { elements } => elements.iter().for_each(|element| list.push_back(element)),
            Self::PopFront { count } => {
                fits(count <= list.len(), key, list, || format!("pop {count}"))?;
                list.remove_range(0..count);
            }
            Self::PopBack { count } => {
                fits(count <= list.len(), key, list, || format!("pop {count}"))?;
                list.remove_range(list.len() - count..list.len());
            }
            Self::Set { index, value } => fits(list.set(index, value), key, list, || format!("set index {index}"))?,
            Self::Insert { index, value } => {
                fits(list.insert(index, value), key, list, || format!("insert at {index}"))?;
            }
            Self::Remove { indexes } => remove(list, key, &indexes)?,
            Self::Keep { start, stop } => {
                fits(stop <= list.len(), key, list, || format!("keep {start} to {stop}"))?;
                list.keep(start..stop);
            }
        }
        Ok(())
    }

    fn is_empty(list: &List) -> bool {
        list.is_empty()
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

fn fits(fits: bool, key: &[u8], list: &List, wanted: impl FnOnce() -> String) -> Result<()> {
    if fits {
        return Ok(());
    }
    Err(divergence(ListChange::OP, key, format!("{} of a list of {}", wanted(), list.len())))
}
