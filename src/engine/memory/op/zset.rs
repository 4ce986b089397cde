//! Sorted set ops: tags, fields, and effects.
//!
//! | tag | op | fields after the tag |
//! |---|---|---|
//! | 1 | set | key, pairs of member and score: adds or changes each member; no score is NaN |
//! | 2 | remove | key, members |
//! | 3 | remove ranks | key, start, stop: members in this half-open range are removed |
//! | 4 | delete | key |
//! | 5 | expire | key, milliseconds since the Unix epoch, 0: never |
//! | 6 | rename | from, to: the former set at `to` is removed |
//! | 7 | clear | |
//!
//! A set op creates the key if it does not exist; every other op on a key needs the key. A key whose set becomes empty
//! is removed.

use super::{Op, Reader, Scope, Sequence};
use super::{divergence, missing, put_bytes, put_head, put_sequence, there};
use crate::engine::memory::Zset;
use crate::engine::memory::part::{Hashed, Part};
use crate::error::{Error, Result};
use crate::varint;

/// Name of an op in messages.
const OP: &str = "zset op";

const SET: u8 = 1;
const REMOVE: u8 = 2;
const REMOVE_RANKS: u8 = 3;
const DELETE: u8 = 4;
const EXPIRE: u8 = 5;
const RENAME: u8 = 6;
const CLEAR: u8 = 7;

/// One effect on the sorted sets. The fields are listed in the table above.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "the table above has them")]
pub enum ZsetOp<'a> {
    Set { key: &'a [u8], pairs: Sequence<'a, (&'a [u8], f64)> },
    Remove { key: &'a [u8], members: Sequence<'a, &'a [u8]> },
    RemoveRanks { key: &'a [u8], start: u64, stop: u64 },
    Delete { key: &'a [u8] },
    Expire { key: &'a [u8], at_ms: u64 },
    Rename { from: &'a [u8], to: &'a [u8] },
    Clear,
}

/// Appends encoded sorted set ops to a buffer.
pub struct ZsetEncoder<'o>(pub &'o mut Vec<u8>);

impl ZsetEncoder<'_> {
    /// Gives each member its score. There must be at least one member; no score may be NaN.
    pub fn set<'e>(&mut self, key: &[u8], pairs: impl ExactSizeIterator<Item = (&'e [u8], f64)>) {
        put_head(self.0, SET, key);
        put_sequence(self.0, pairs, |out, (member, score)| {
            assert!(!score.is_nan(), "NaN is no score");
            put_bytes(out, member);
            out.extend_from_slice(&score.to_le_bytes());
        });
    }

    /// Removes these members. There must be at least one; all must exist, and none may be named twice.
    pub fn remove<'e>(&mut self, key: &[u8], members: impl ExactSizeIterator<Item = &'e [u8]>) {
        put_head(self.0, REMOVE, key);
        put_sequence(self.0, members, put_bytes);
    }

    /// Removes the members in this half-open range of ranks.
    pub fn remove_ranks(&mut self, key: &[u8], start: u64, stop: u64) {
        assert!(start <= stop, "a range from {start} to {stop}");
        put_head(self.0, REMOVE_RANKS, key);
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

    /// Moves a set and its expiry to another key.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        put_head(self.0, RENAME, from);
        put_bytes(self.0, to);
    }

    /// Removes all keys.
    pub fn clear(&mut self) {
        self.0.push(CLEAR);
    }
}

/// Decodes ops one by one. The iterator ends after an error.
#[derive(Clone)]
pub struct ZsetOps<'a>(Reader<'a>);

impl<'a> ZsetOps<'a> {
    /// Returns an iterator that begins at the first op.
    #[must_use]
    pub fn new(ops: &'a [u8]) -> Self {
        Self(Reader::new("zset ops", ops))
    }

    /// Returns the offset of the next op.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.0.offset()
    }
}

impl<'a> Iterator for ZsetOps<'a> {
    type Item = Result<ZsetOp<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.0.tag()?;
        let op = ZsetOp::read(tag, &mut self.0);
        if op.is_err() {
            self.0.rest = &[];
        }
        Some(op)
    }
}

impl<'a> ZsetOp<'a> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Self> {
        if tag == CLEAR {
            return Ok(Self::Clear);
        }
        let key = from.bytes()?;
        Ok(match tag {
            SET => Self::Set { key, pairs: from.sequence()? },
            REMOVE => Self::Remove { key, members: from.sequence()? },
            REMOVE_RANKS => {
                let (start, stop) = from.range()?;
                Self::RemoveRanks { key, start, stop }
            }
            DELETE => Self::Delete { key },
            EXPIRE => Self::Expire { key, at_ms: from.varint()? },
            RENAME => Self::Rename { from: key, to: from.bytes()? },
            other => return Err(from.error(format!("unknown zset op {other}"))),
        })
    }
}

impl<'a> Op<'a> for ZsetOp<'a> {
    type Value = Zset;
    const WHAT: &'static str = OP;

    fn scope(&self) -> Scope<'a> {
        match *self {
            Self::Set { key, .. }
            | Self::Remove { key, .. }
            | Self::RemoveRanks { key, .. }
            | Self::Delete { key }
            | Self::Expire { key, .. } => Scope::Key(key),
            Self::Rename { from, to } => Scope::Rename { from, to },
            Self::Clear => Scope::All,
        }
    }

    fn apply_to_key(&self, part: &mut Part<Zset>, at: Hashed<'a>) -> Result<()> {
        match *self {
            Self::Set { pairs, .. } => {
                part.update_or_default(at, |zset| {
                    pairs.iter().for_each(|(member, score)| {
                        zset.insert(member, score);
                    });
                });
                Ok(())
            }
            Self::Remove { key, members } => change(part, at, |zset| {
                let mut gone = members.iter().map(|member| (member, zset.remove(member)));
                match gone.find(|(_, score)| score.is_none()) {
                    Some((member, _)) => Err(no_member(key, member)),
                    None => Ok(()),
                }
            }),
            Self::RemoveRanks { key, start, stop } => change(part, at, |zset| {
                if stop > zset.len() {
                    let detail = format!("remove ranks {start} to {stop} of a set of {}", zset.len());
                    return Err(divergence(OP, key, detail));
                }
                zset.remove_ranks(start..stop);
                Ok(())
            }),
            Self::Delete { key } => there(OP, part.delete(at), key),
            Self::Expire { key, at_ms } => there(OP, part.set_expire(at, at_ms), key),
            Self::Rename { .. } | Self::Clear => unreachable!("{self:?} changes more than one key"),
        }
    }
}

/// Changes a set, which must exist, and removes its key if the set is empty afterwards.
fn change(part: &mut Part<Zset>, key: Hashed<'_>, change: impl FnOnce(&mut Zset) -> Result<()>) -> Result<()> {
    let outcome = part.update(key, |zset| change(zset).map(|()| zset.is_empty()));
    if outcome.ok_or_else(|| missing(OP, key.key()))?? {
        part.delete(key);
    }
    Ok(())
}

fn no_member(key: &[u8], member: &[u8]) -> Error {
    divergence(OP, key, format!("member \"{}\" does not exist", member.escape_ascii()))
}
