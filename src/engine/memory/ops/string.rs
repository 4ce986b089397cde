//! Changes of a string.
//!
//! | tag | change | fields after the key |
//! |---|---|---|
//! | 16 | set | milliseconds since the Unix epoch from which on the key is expired, 0: never; bytes |
//! | 17 | replace | bytes: the expiry stays |
//! | 18 | append | bytes |
//! | 19 | write | position, bytes: a gap behind the end is filled with zeros; the string has at most 2 GiB |
//!
//! Set gives the key this value whatever it held before. The other changes need the key.

use super::codec::{Reader, put_bytes};
use super::{Change, Encoder, divergence, wrong_type};
use crate::engine::memory::slot::{Slot, Type};
use crate::error::Result;
use crate::varint;

const SET: u8 = 16;
const REPLACE: u8 = 17;
const APPEND: u8 = 18;
const WRITE: u8 = 19;

/// Largest number of bytes of a string that a write may make, so that a few bytes cannot make the state much larger
/// than any command can.
const STRING_BYTES_MAX: u64 = 2 << 30;

/// A change of one string. The fields are listed in the table above.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "the table above has them")]
pub enum StringChange<'a> {
    Set { expire_ms: u64, bytes: &'a [u8] },
    Replace { bytes: &'a [u8] },
    Append { bytes: &'a [u8] },
    Write { position: u64, bytes: &'a [u8] },
}

impl Encoder<'_> {
    /// Makes a key a string, whatever the key held before. `expire_ms` is in ms since the Unix epoch; 0: never.
    pub fn set_string(&mut self, key: &[u8], expire_ms: u64, bytes: &[u8]) {
        self.head(SET, key);
        varint::put(self.ops, expire_ms);
        put_bytes(self.ops, bytes);
    }

    /// Replaces the bytes of a string; its expiry stays.
    pub fn replace_string(&mut self, key: &[u8], bytes: &[u8]) {
        self.head(REPLACE, key);
        put_bytes(self.ops, bytes);
    }

    /// Appends bytes to a string.
    pub fn append(&mut self, key: &[u8], bytes: &[u8]) {
        self.head(APPEND, key);
        put_bytes(self.ops, bytes);
    }

    /// Writes bytes at a position of a string.
    pub fn write(&mut self, key: &[u8], position: u64, bytes: &[u8]) {
        self.head(WRITE, key);
        varint::put(self.ops, position);
        put_bytes(self.ops, bytes);
    }
}

impl<'a> Change<'a> for StringChange<'a> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Option<Self>> {
        Ok(Some(match tag {
            SET => Self::Set { expire_ms: from.varint()?, bytes: from.bytes()? },
            REPLACE => Self::Replace { bytes: from.bytes()? },
            APPEND => Self::Append { bytes: from.bytes()? },
            WRITE => {
                let (position, bytes) = (from.varint()?, from.bytes()?);
                let end = position.checked_add(bytes.len() as u64).filter(|end| *end <= STRING_BYTES_MAX);
                end.ok_or_else(|| from.error(format!("a string would be longer than {STRING_BYTES_MAX} bytes")))?;
                Self::Write { position, bytes }
            }
            _ => return Ok(None),
        }))
    }

    fn create(self, key: &[u8]) -> Option<Slot> {
        match self {
            Self::Set { expire_ms, bytes } => Some(Slot::string(key, expire_ms, bytes)),
            _ => None,
        }
    }

    fn apply(self, slot: &mut Slot) -> Result<()> {
        if let Self::Set { expire_ms, bytes } = self {
            if slot.value_type() == Type::String {
                slot.set_bytes(bytes);
                if slot.expire_ms() != expire_ms {
                    slot.set_expire(expire_ms);
                }
            } else {
                slot.replace(Slot::string(slot.key(), expire_ms, bytes));
            }
            return Ok(());
        }
        if slot.value_type() != Type::String {
            return Err(wrong_type(slot, Type::String));
        }
        match self {
            Self::Set { .. } => {}
            Self::Replace { bytes } => slot.set_bytes(bytes),
            Self::Append { bytes } => {
                let len = slot.as_string().map_or(0, |string| string.len());
                if len + bytes.len() as u64 > STRING_BYTES_MAX {
                    return Err(divergence(
                        slot.key(),
                        format!("a string of {len} bytes cannot grow by {}", bytes.len()),
                    ));
                }
                slot.append(bytes);
            }
            Self::Write { position, bytes } => slot.write(position, bytes),
        }
        Ok(())
    }
}
