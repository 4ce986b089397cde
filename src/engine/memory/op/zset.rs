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

use super::{Change, Encoder, Op, Ops, Reader, Sequence};
use super::{divergence, put_bytes, put_sequence};
use crate::engine::memory::Zset;
use crate::error::Result;
use crate::varint;

const SET: u8 = 1;
const REMOVE: u8 = 2;
const REMOVE_RANKS: u8 = 3;

/// A change of one sorted set. The fields are listed in the table above.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "the table above has them")]
pub enum ZsetChange<'a> {
    Set { pairs: Sequence<'a, (&'a [u8], f64)> },
    Remove { members: Sequence<'a, &'a [u8]> },
    RemoveRanks { start: u64, stop: u64 },
}

/// One effect on the sorted sets.
pub type ZsetOp<'a> = Op<'a, ZsetChange<'a>>;
/// Decodes sorted set ops one by one.
pub type ZsetOps<'a> = Ops<'a, ZsetChange<'a>>;
/// Appends encoded sorted set ops to a buffer.
pub type ZsetEncoder<'o> = Encoder<'o, ZsetChange<'static>>;

impl ZsetEncoder<'_> {
    /// Gives each member its score. There must be at least one member; no score may be NaN.
    pub fn set<'e>(&mut self, key: &[u8], pairs: impl ExactSizeIterator<Item = (&'e [u8], f64)>) {
        self.head(SET, key);
        put_sequence(self.ops, pairs, |out, (member, score)| {
            assert!(!score.is_nan(), "NaN is no score");
            put_bytes(out, member);
            out.extend_from_slice(&score.to_le_bytes());
        });
    }

    /// Removes these members. There must be at least one; all must exist, and none may be named twice.
    pub fn remove<'e>(&mut self, key: &[u8], members: impl ExactSizeIterator<Item = &'e [u8]>) {
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
    type Value = Zset;
    const OP: &'static str = "zset op";
    const OPS: &'static str = "zset ops";
    const KINDS: u8 = REMOVE_RANKS;

    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Self> {
        Ok(match tag {
            SET => Self::Set { pairs: from.sequence()? },
            REMOVE => Self::Remove { members: from.sequence()? },
            _ => {
                let (start, stop) = from.range()?;
                Self::RemoveRanks { start, stop }
            }
        })
    }

    fn creates_key(&self) -> bool {
        matches!(self, Self::Set { .. })
    }

    fn apply(self, key: &[u8], zset: &mut Zset) -> Result<()> {
        match self {
            Self::Set { pairs } => {
                pairs.iter().for_each(|(member, score)| {
                    zset.insert(member, score);
                });
            }
            Self::Remove { members } => {
                let mut gone = members.iter().map(|member| (member, zset.remove(member)));
                if let Some((member, _)) = gone.find(|(_, score)| score.is_none()) {
                    let detail = format!("member \"{}\" does not exist", member.escape_ascii());
                    return Err(divergence(Self::OP, key, detail));
                }
            }
            Self::RemoveRanks { start, stop } => {
                if stop > zset.len() {
                    let detail = format!("remove ranks {start} to {stop} of a set of {}", zset.len());
                    return Err(divergence(Self::OP, key, detail));
                }
                zset.remove_ranks(start..stop);
            }
        }
        Ok(())
    }

    fn is_empty(zset: &Zset) -> bool {
        zset.is_empty()
    }
}
