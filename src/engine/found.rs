//! The result of looking up a key: its type, home and expiry, and a string's value.

use super::memory::{List, Slot, StringRef, Type, Zset};
use super::meta::{Collection, DiskType, Home};
use super::row_shard::Value;
use parking_lot::MappedRwLockReadGuard;
use std::borrow::Cow;
use std::ops::{Deref, Range};

/// A string: its value, expiry and home.
pub enum StringValue {
    /// A string on disk.
    Disk {
        /// The stored metadata, with the value behind it.
        stored: Value,
        /// Offset of the value.
        value_at: usize,
        /// When the string expires, in ms since the Unix epoch; 0: never.
        expire_ms: u64,
    },
    /// A string in memory.
    Memory(Slot),
}

impl StringValue {
    fn text(slot: &Slot) -> StringRef<'_> {
        slot.as_string().expect("the slot was found to be a string")
    }

    /// Returns when the string expires, in ms since the Unix epoch; 0: never.
    #[must_use]
    pub fn expire_ms(&self) -> u64 {
        match self {
            Self::Disk { expire_ms, .. } => *expire_ms,
            Self::Memory(slot) => slot.expire_ms(),
        }
    }

    /// Returns where the string lives.
    #[must_use]
    pub fn home(&self) -> Home {
        match self {
            Self::Disk { .. } => Home::Disk,
            Self::Memory(_) => Home::Memory,
        }
    }

    /// Returns the number of bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nothing asks whether a string is empty")]
    pub fn len(&self) -> usize {
        match self {
            Self::Disk { stored, value_at, .. } => stored.len() - value_at,
            Self::Memory(slot) => Self::text(slot).len() as usize,
        }
    }

    /// Returns the bytes at these positions, all of which must exist. Only a range of a long string in memory is copied.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        let text = match self {
            Self::Disk { stored, value_at, .. } => return Cow::Borrowed(&stored[*value_at..][range]),
            Self::Memory(slot) => Self::text(slot),
        };
        match text {
            StringRef::Small(bytes) => Cow::Borrowed(&bytes[range]),
            StringRef::Large(text) => {
                let mut bytes = Vec::with_capacity(range.len());
                let pieces = text.pieces(range.start as u64..range.end as u64);
                pieces.for_each(|piece| bytes.extend_from_slice(piece));
                Cow::Owned(bytes)
            }
        }
    }

    /// Returns all bytes. Only a long string in memory is copied.
    #[must_use]
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        self.slice(0..self.len())
    }
}

/// The value of a key, by its type.
pub enum Found {
    /// Nothing.
    Absent,
    /// A string.
    String(StringValue),
    /// A hash or a set in either home, or a stream.
    Collection(Collection),
    /// A list that expires at this time (ms since the Unix epoch; 0: never). [`super::keyspace::Keyspace::list`] returns the list.
    List(u64),
    /// A sorted set that expires at this time (ms since the Unix epoch; 0: never). [`super::keyspace::Keyspace::zset`] returns the set.
    Zset(u64),
}

impl Found {
    /// Returns what a key in memory holds.
    pub(super) fn in_memory(slot: &Slot) -> Self {
        let collection = |kind, count| Self::Collection(Collection::in_memory(kind, slot.expire_ms(), count));
        match slot.value_type() {
            Type::String => Self::String(StringValue::Memory(slot.clone())),
            Type::Hash => collection(DiskType::Hash, slot.as_hash().map_or(0, |hash| hash.len())),
            Type::Set => collection(DiskType::Set, slot.as_set().map_or(0, |set| set.len())),
            Type::List => Self::List(slot.expire_ms()),
            Type::Zset => Self::Zset(slot.expire_ms()),
        }
    }

    /// Reports whether the key is absent.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns where the key lives; `None` if the key is absent.
    #[must_use]
    pub fn home(&self) -> Option<Home> {
        match self {
            Self::Absent => None,
            Self::String(value) => Some(value.home()),
            Self::Collection(collection) => Some(collection.home),
            Self::List(_) | Self::Zset(_) => Some(Home::Memory),
        }
    }

    /// Returns when the key expires, in ms since the Unix epoch; 0: never.
    #[must_use]
    pub fn expire_ms(&self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::String(value) => value.expire_ms(),
            Self::Collection(collection) => collection.expire_ms,
            Self::List(expire_ms) | Self::Zset(expire_ms) => *expire_ms,
        }
    }

    /// Returns Redis' name of the type.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Absent => "none",
            Self::String(_) => "string",
            Self::List(_) => "list",
            Self::Zset(_) => "zset",
            Self::Collection(collection) => match collection.kind {
                DiskType::Set => "set",
                DiskType::Stream => "stream",
                DiskType::Hash | DiskType::String => "hash",
            },
        }
    }
}

/// A value in memory that is being read. Dereferences to the value.
pub enum ValueRef<'k, T> {
    /// The value, which does not change while it is held. Only the holder of the writer lock reads in this way.
    Held(MappedRwLockReadGuard<'k, T>),
    /// The slot of the value as it was when it was found, and how the value is read from it. No writer waits for it.
    Kept(Slot, fn(&Slot) -> Option<&T>),
}

/// A list that is being read.
pub type ListRef<'k> = ValueRef<'k, List>;
/// A sorted set that is being read.
pub type ZsetRef<'k> = ValueRef<'k, Zset>;

impl<T> Deref for ValueRef<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Held(value) => value,
            Self::Kept(slot, read) => read(slot).expect("the slot was found to have this type"),
        }
    }
}
