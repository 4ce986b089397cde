//! The result of looking up a key: its kind and expiry, a string's value, or a walk over the elements of a collection.
//!
//! Guarantees: a walk shows elements in byte order of their names, wherever they lie.

use super::key;
use super::meta::{Collection, DiskType};
use super::row_shard::Value;
use super::scan::Scan;
use super::whole;
use crate::error::{Error, Result};
use std::ops::Deref;

/// A stored string: its metadata and its value. Dereferences to the value.
pub struct StringValue {
    pub(super) stored: Value,
    pub(super) value_at: usize,
    /// When the string expires, in ms since the Unix epoch; 0: never.
    pub expire_ms: u64,
}

impl Deref for StringValue {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.stored[self.value_at..]
    }
}

/// The value of a key, by its type.
pub enum Found {
    /// Nothing.
    Absent,
    /// A string.
    String(StringValue),
    /// A hash, set or stream.
    Collection(Collection),
    /// A list that expires at this time (ms since the Unix epoch; 0: never). [`super::keyspace::Keyspace::list`] returns the list.
    List(u64),
    /// A sorted set that expires at this time (ms since the Unix epoch; 0: never). [`super::keyspace::Keyspace::zset`] returns the set.
    Zset(u64),
}

impl Found {
    /// Reports whether the key is absent.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Returns when the key expires, in ms since the Unix epoch; 0: never.
    #[must_use]
    pub fn expire_ms(&self) -> u64 {
        match self {
            Self::Absent => 0,
            Self::String(value) => value.expire_ms,
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

/// Elements of a collection, in byte order of their names.
pub enum Elements<'a> {
    /// Elements read from the database, with the effects of groups laid over them.
    Scanned(Scan<'a>),
    /// Elements in one buffer of the row cache, and the offset of the next element in the buffer.
    Whole(Value, usize),
}

impl Elements<'_> {
    /// Returns name and value of the next element; `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "the returned value borrows from the walk")]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        match self {
            Self::Scanned(scan) => {
                let Some((stored, value)) = scan.next()? else { return Ok(None) };
                let element = key::parse_element(stored);
                let element = element.ok_or_else(|| Error::corrupt("element key", "start", "does not parse"))?;
                Ok(Some((element.rest, value)))
            }
            Self::Whole(elements, at) => Ok(whole::element_at(elements, *at).map(|(name, value, end)| {
                *at = end;
                (name, value)
            })),
        }
    }
}
