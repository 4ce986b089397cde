//! Changes of a sorted set.
//!
//! | tag | change | fields after the key |
//! |---|---|---|
//! | 80 | set | pairs of member and score: adds or changes each member; no score is NaN |
//! | 81 | remove | members |
//! | 82 | remove ranks | start, stop: members in this half-open range are removed |
//!
//! Setting scores creates the key if it does not exist; the other changes need the key.

use super::codec::{Reader, Sequence, put_bytes, put_sequence};
use super::{Change, Encoder, divergence, wrong_type};
use crate::engine::memory::Zset;
use crate::engine::memory::slot::{LargeValue, Slot, Type};
use crate::error::Result;
use crate::varint;
use std::sync::Arc;

const SET: u8 = 80;
const REMOVE: u8 = 81;
const REMOVE_RANKS: u8 = 82;

/// A change of one sorted set. The fields are listed in the table above.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "the table above has them")]
pub enum ZsetChange<'a> {
    Set { pairs: Sequence<'a, (&'a [u8], f64)> },
    Remove { members: Sequence<'a, &'a [u8]> },
    RemoveRanks { start: u64, stop: u64 },
}

impl Encoder<'_> {
    /// Gives each member its score. There must be at least one member; no score may be NaN.
    pub fn set_scores<'e>(&mut self, key: &[u8], pairs: impl ExactSizeIterator<Item = (&'e [u8], f64)>) {
        self.head(SET, key);
        put_sequence(self.ops, pairs, |out, (member, score)| {
            assert!(!score.is_nan(), "NaN is no score");
            put_bytes(out, member);
            out.extend_from_slice(&score.to_le_bytes());
        });
    }

    /// Removes these members. There must be at least one; all must exist, and none may be named twice.
    pub fn remove_scored<'e>(&mut self, key: &[u8], members: impl ExactSizeIterator<Item = &'e [u8]>) {
        self.head(REMOVE, key);
        put_sequence(self.ops, members, put_bytes);
    }

    /// Removes the members in this half-open range of ranks.
    pub fn remove_ranks(&mut self, key: &[u8], start: u64, stop: u64) {
        assert!(start <= stop, "a range from {start} to {stop}");
        self.head(REMOVE_RANKS, key);
        varint::put(self.ops, start);
        varint::put(self.ops, stop);
    }
}

impl<'a> Change<'a> for ZsetChange<'a> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Option<Self>> {
        Ok(Some(match tag {
            SET => Self::Set { pairs: from.sequence()? },
            REMOVE => Self::Remove { members: from.sequence()? },
            REMOVE_RANKS => {
                let (start, stop) = from.range()?;
                Self::RemoveRanks { start, stop }
            }
            _ => return Ok(None),
        }))
    }

    fn create(self, key: &[u8]) -> Option<Slot> {
        let mut zset = Zset::new();
        match self {
            Self::Set { .. } => self.change(key, &mut zset).expect("setting scores always fits"),
            _ => return None,
        }
        Some(Slot::large(key, 0, LargeValue::Zset(zset)))
    }

    fn apply(self, slot: &mut Slot) -> Result<()> {
        let Slot::Large(large) = slot else { return Err(wrong_type(slot, Type::Zset)) };
        let (key, value) = Arc::make_mut(large).key_and_value();
        match value {
            LargeValue::Zset(zset) => self.change(key, zset),
            _ => Err(wrong_type(slot, Type::Zset)),
        }
    }
}

impl ZsetChange<'_> {
    fn change(self, key: &[u8], zset: &mut Zset) -> Result<()> {
        match self {
            Self::Set { pairs } => {
                pairs.iter().for_each(|(member, score)| {
                    zset.insert(member, score);
                });
            }
            Self::Remove { members } => {
                let mut gone = members.iter().map(|member| (member, zset.remove(member)));
                if let Some((member, _)) = gone.find(|(_, score)| score.is_none()) {
                    let detail = format!("there is no member \"{}\"", member.escape_ascii());
                    return Err(divergence(key, detail));
                }
            }
            Self::RemoveRanks { start, stop } => {
                if stop > zset.len() {
                    let detail = format!("remove ranks {start} to {stop} of a set of {}", zset.len());
                    return Err(divergence(key, detail));
                }
                zset.remove_ranks(start..stop);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "zset_tests.rs"]
mod tests;
