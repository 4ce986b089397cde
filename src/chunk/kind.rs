//! The kinds of sections in a chunk.

use std::ops::Range;

/// The kind of effects in a section. The ops of a commit on keys in memory are all in one section, which the first of
/// the ops decides: so most data of one type is compressed together, by the codec that suits it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// RocksDB operations.
    Wal,
    /// Ops on keys in memory that begin with neither a list op nor a sorted set op.
    Memory,
    /// Ops on keys in memory that begin with a list op.
    List,
    /// Ops on keys in memory that begin with a sorted set op.
    Zset,
}

/// Tags of the list ops.
const LIST_TAGS: Range<u8> = 64..80;
/// Tags of the sorted set ops.
const ZSET_TAGS: Range<u8> = 80..96;

impl SectionKind {
    /// All kinds, in the order in which their sections lie in a chunk.
    pub const ALL: [Self; Self::COUNT] = [Self::Wal, Self::Memory, Self::List, Self::Zset];
    /// Number of kinds.
    pub const COUNT: usize = 4;

    /// Returns the kind of section for a commit's ops on keys in memory; `None` if there are no ops.
    #[must_use]
    pub fn of_memory_ops(ops: &[u8]) -> Option<Self> {
        Some(match ops.first()? {
            tag if LIST_TAGS.contains(tag) => Self::List,
            tag if ZSET_TAGS.contains(tag) => Self::Zset,
            _ => Self::Memory,
        })
    }

    /// Returns the index in [`Self::ALL`] and in `ChunkHeader::sections`.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Memory => "memory",
            Self::List => "list",
            Self::Zset => "zset",
        }
    }

    pub(super) fn byte(self) -> u8 {
        self as u8 + 1
    }
}
