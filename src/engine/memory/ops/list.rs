//! Changes of a list.
//!
//! | tag | change | fields after the key |
//! |---|---|---|
//! | 64 | push front | elements: each is pushed in turn, so the last one ends up first |
//! | 65 | push back | elements |
//! | 66 | pop front | count |
//! | 67 | pop back | count |
//! | 68 | set | index, value |
//! | 69 | insert | index of the element before which to insert, or the length; value |
//! | 70 | remove | indexes, ascending, in the list before the op |
//! | 71 | keep | start, stop: elements outside this half-open range are removed |
//!
//! A push creates the key if it does not exist; every other change needs the key.

use super::codec::{Reader, Sequence, put_bytes, put_sequence};
use super::{Change, Encoder, divergence, wrong_type};
use crate::engine::memory::List;
use crate::engine::memory::slot::{LargeValue, Slot, Type};
use crate::error::Result;
use crate::varint;
use std::sync::Arc;

const PUSH_FRONT: u8 = 64;
const PUSH_BACK: u8 = 65;
const POP_FRONT: u8 = 66;
const POP_BACK: u8 = 67;
const SET: u8 = 68;
const INSERT: u8 = 69;
const REMOVE: u8 = 70;
const KEEP: u8 = 71;

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

impl Encoder<'_> {
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
    pub fn set_element(&mut self, key: &[u8], index: u64, value: &[u8]) {
        self.head(SET, key);
        varint::put(self.ops, index);
        put_bytes(self.ops, value);
    }

    /// Adds an element before the one at `index`, or at the end if `index` is the length.
    pub fn insert_element(&mut self, key: &[u8], index: u64, value: &[u8]) {
        self.head(INSERT, key);
        varint::put(self.ops, index);
        put_bytes(self.ops, value);
    }

    /// Removes the elements at these indexes, which refer to the list before the op. The indexes must be strictly
    /// ascending and at least one.
    pub fn remove_elements(&mut self, key: &[u8], indexes: impl ExactSizeIterator<Item = u64>) {
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
    pub fn keep_elements(&mut self, key: &[u8], start: u64, stop: u64) {
        assert!(start <= stop, "a range from {start} to {stop}");
        self.head(KEEP, key);
        varint::put(self.ops, start);
        varint::put(self.ops, stop);
    }

    fn pop(&mut self, tag: u8, key: &[u8], count: u64) {
        assert!(count > 0, "a pop of nothing");
        self.head(tag, key);
        varint::put(self.ops, count);
    }
}

impl<'a> Change<'a> for ListChange<'a> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Option<Self>> {
        Ok(Some(match tag {
            PUSH_FRONT => Self::PushFront { elements: from.sequence()? },
            PUSH_BACK => Self::PushBack { elements: from.sequence()? },
            POP_FRONT => Self::PopFront { count: from.amount()? },
            POP_BACK => Self::PopBack { count: from.amount()? },
            SET => Self::Set { index: from.varint()?, value: from.bytes()? },
            INSERT => Self::Insert { index: from.varint()?, value: from.bytes()? },
            REMOVE => Self::Remove { indexes: from.sequence()? },
            KEEP => {
                let (start, stop) = from.range()?;
                Self::Keep { start, stop }
            }
            _ => return Ok(None),
        }))
    }

    fn create(self, key: &[u8]) -> Option<Slot> {
        let mut list = List::new();
        match self {
            Self::PushFront { .. } | Self::PushBack { .. } => self.change(key, &mut list).expect("a push always fits"),
            _ => return None,
        }
        Some(Slot::large(key, 0, LargeValue::List(list)))
    }

    /// A change that does not fit changes nothing.
    fn apply(self, slot: &mut Slot) -> Result<()> {
        let Slot::Large(large) = slot else { return Err(wrong_type(slot, Type::List)) };
        let (key, value) = Arc::make_mut(large).key_and_value();
        match value {
            LargeValue::List(list) => self.change(key, list),
            _ => Err(wrong_type(slot, Type::List)),
        }
    }
}

impl ListChange<'_> {
    fn change(self, key: &[u8], list: &mut List) -> Result<()> {
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
    Err(divergence(key, format!("{} of a list of {}", wanted(), list.len())))
}

#[cfg(test)]
#[path = "list_tests.rs"]
pub(super) mod tests;
