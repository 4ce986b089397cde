//! Ops: effects on the keys in memory as bytes. The primary applies the ops that it encodes; logs, chunks and replicas
//! carry the same bytes.
//!
//! An encoded buffer is a sequence of ops; each op is {tag: u8, key, fields}. The fields are encoded as in [`codec`].
//!
//! | tag | op | fields after the tag |
//! |---|---|---|
//! | 1 | delete | key |
//! | 2 | expire | key, milliseconds since the Unix epoch, 0: never |
//! | 3 | rename | from, to: the former value at `to` is removed |
//! | 4 | clear | |
//! | 16 to 19 | change a string | see [`string`] |
//! | 32, 33 | change a hash | see [`elements`] |
//! | 48, 49 | change a set | see [`elements`] |
//! | 64 to 71 | change a list | see [`list`] |
//! | 80 to 82 | change a sorted set | see [`zset`] |
//!
//! A key whose value becomes empty is removed; an empty string is a value.
//!
//! Guarantees: decoding borrows and allocates nothing; a decoded op is valid down to its last item. Arbitrary bytes are
//! an error, never a panic. Applying an op that does not fit the state is an error, too: the state has diverged from
//! its history and must be given up.

pub mod codec;
pub mod elements;
pub mod list;
pub mod string;
pub mod zset;

pub use codec::{Reader, Sequence};
pub use elements::ElementsChange;
pub use list::ListChange;
pub use string::StringChange;
pub use zset::ZsetChange;

use super::keys::{Change as Commit, Hashed, Memory, Part};
use super::slot::{Slot, Type};
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use crate::varint;
use codec::put_bytes;

const DELETE: u8 = 1;
const EXPIRE: u8 = 2;
const RENAME: u8 = 3;
const CLEAR: u8 = 4;

/// The keys that an op changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the table of the ops has them")]
pub enum Scope<'a> {
    Key(&'a [u8]),
    Rename { from: &'a [u8], to: &'a [u8] },
    All,
}

/// A change of one value of one type.
pub trait Change<'a>: Copy {
    /// Reads the fields of the change with this tag; `None` if the tag is that of no change of this type.
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Option<Self>>;

    /// Returns the slot that the change makes of a key that does not exist; `None` if the change needs the key.
    fn create(self, key: &[u8]) -> Option<Slot>;

    /// Changes a slot. A change that does not fit the slot is an error.
    fn apply(self, slot: &mut Slot) -> Result<()>;
}

/// A change of one value of any type.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ValueChange<'a> {
    String(StringChange<'a>),
    Elements(ElementsChange<'a>),
    List(ListChange<'a>),
    Zset(ZsetChange<'a>),
}

impl<'a> Change<'a> for ValueChange<'a> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Option<Self>> {
        Ok(match tag {
            ..32 => StringChange::read(tag, from)?.map(Self::String),
            32..64 => ElementsChange::read(tag, from)?.map(Self::Elements),
            64..80 => ListChange::read(tag, from)?.map(Self::List),
            80.. => ZsetChange::read(tag, from)?.map(Self::Zset),
        })
    }

    fn create(self, key: &[u8]) -> Option<Slot> {
        match self {
            Self::String(change) => change.create(key),
            Self::Elements(change) => change.create(key),
            Self::List(change) => change.create(key),
            Self::Zset(change) => change.create(key),
        }
    }

    fn apply(self, slot: &mut Slot) -> Result<()> {
        match self {
            Self::String(change) => change.apply(slot),
            Self::Elements(change) => change.apply(slot),
            Self::List(change) => change.apply(slot),
            Self::Zset(change) => change.apply(slot),
        }
    }
}

/// One effect on the keys in memory.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Op<'a> {
    /// Changes the value of a key. A key whose value becomes empty is removed.
    Change {
        /// The key.
        key: &'a [u8],
        /// What changes.
        change: ValueChange<'a>,
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

impl<'a> Op<'a> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Self> {
        if tag == CLEAR {
            return Ok(Self::Clear);
        }
        let key = from.bytes()?;
        Ok(match tag {
            DELETE => Self::Delete { key },
            EXPIRE => Self::Expire { key, at_ms: from.varint()? },
            RENAME => Self::Rename { from: key, to: from.bytes()? },
            _ => match ValueChange::read(tag, from)? {
                Some(change) => Self::Change { key, change },
                None => return Err(from.error(format!("unknown op {tag}"))),
            },
        })
    }

    /// Returns the keys that the op changes.
    #[must_use]
    pub fn scope(&self) -> Scope<'a> {
        match *self {
            Self::Change { key, .. } | Self::Delete { key } | Self::Expire { key, .. } => Scope::Key(key),
            Self::Rename { from, to } => Scope::Rename { from, to },
            Self::Clear => Scope::All,
        }
    }

    /// Applies the op. An op that does not fit the state is an error.
    pub fn apply(&self, keys: &Memory, of: Commit) -> Result<()> {
        match self.scope() {
            Scope::Key(key) => {
                let key = keys.touched(key, of);
                self.apply_to_key(keys.part_of(key), key, of)
            }
            Scope::Rename { from, to } => {
                let slot = keys.remove(from, of).ok_or_else(|| missing(from))?;
                keys.insert(slot.renamed(to), of);
                Ok(())
            }
            Scope::All => {
                keys.clear(of);
                Ok(())
            }
        }
    }

    /// Applies an op on one key, in the part to which the key belongs. An op that does not fit the state is an error.
    pub fn apply_to_key(&self, part: &Part, at: Hashed<'_>, of: Commit) -> Result<()> {
        let is_there = match *self {
            Self::Change { change, .. } => {
                match part.update(at, of, |slot| change.apply(slot).map(|()| slot.is_empty_collection())) {
                    Some(is_empty) => {
                        if is_empty? {
                            part.delete(at, of);
                        }
                        true
                    }
                    None => change.create(at.key()).map(|slot| part.insert(at, slot, of)).is_some(),
                }
            }
            Self::Delete { .. } => part.delete(at, of),
            Self::Expire { at_ms, .. } => part.update(at, of, |slot| slot.set_expire(at_ms)).is_some(),
            Self::Rename { .. } | Self::Clear => unreachable!("the op is not about one key"),
        };
        if is_there { Ok(()) } else { Err(missing(at.key())) }
    }
}

/// Decodes ops one by one. The iterator ends after an error.
#[derive(Clone)]
pub struct Ops<'a>(Reader<'a>);

impl<'a> Ops<'a> {
    /// Returns an iterator that begins at the first op.
    #[must_use]
    pub fn new(ops: &'a [u8]) -> Self {
        Self(Reader::new("memory ops", ops))
    }

    /// Checks encoded ops down to their last item.
    pub fn validate(ops: &'a [u8]) -> Result<()> {
        Self::new(ops).try_for_each(|op| op.map(drop))
    }

    /// Returns the offset of the next op.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.0.offset()
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<Op<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.0.tag()?;
        let op = Op::read(tag, &mut self.0);
        if op.is_err() {
            self.0.end();
        }
        Some(op)
    }
}

/// Appends encoded ops to a buffer.
pub struct Encoder<'o> {
    ops: &'o mut Vec<u8>,
}

impl<'o> Encoder<'o> {
    /// Returns an encoder that appends to `ops`.
    pub fn new(ops: &'o mut Vec<u8>) -> Self {
        Self { ops }
    }

    /// Appends the tag and the key of an op.
    fn head(&mut self, tag: u8, key: &[u8]) {
        self.ops.push(tag);
        put_bytes(self.ops, key);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.head(DELETE, key);
    }

    /// Sets the expiry of a key, in ms since the Unix epoch; 0: never.
    pub fn expire(&mut self, key: &[u8], at_ms: u64) {
        self.head(EXPIRE, key);
        varint::put(self.ops, at_ms);
    }

    /// Moves a value and its expiry to another key.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        self.head(RENAME, from);
        put_bytes(self.ops, to);
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.ops.push(CLEAR);
    }
}

impl Memory {
    /// Applies encoded ops. Malformed bytes are an error and change nothing. An op that does not fit the state is an
    /// error, too, and the ops before it stay applied: the state has diverged from its history and must be given up.
    pub fn apply(&self, ops: &[u8], of: Commit) -> Result<()> {
        Ops::validate(ops)?;
        Ops::new(ops).try_for_each(|op| op?.apply(self, of))
    }

    /// Applies the ops of a commit, with the same errors as [`Memory::apply`].
    pub fn apply_commit(&self, commit: &CommitRecord) -> Result<()> {
        self.apply(&commit.memory, Commit { csn: commit.csn, hidden: None })
    }
}

pub(super) fn missing(key: &[u8]) -> Error {
    divergence(key, "there is no such key")
}

fn wrong_type(slot: &Slot, wanted: Type) -> Error {
    divergence(slot.key(), format!("expected a {wanted:?}, found a {:?}", slot.value_type()))
}

/// Returns the error for an op that does not fit the state to which it is applied.
fn divergence(key: &[u8], detail: impl Into<String>) -> Error {
    let key = format!("key \"{}\"", key.escape_ascii());
    Error::corrupt("memory op", key, format!("the op does not fit the state: {}", detail.into()))
}

#[cfg(test)]
#[path = "ops_tests.rs"]
mod tests;
