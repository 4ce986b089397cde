//! The kinds of sections in a chunk: one for each log whose effects a chunk holds.

/// The log from which a section's effects come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SectionKind {
    /// RocksDB operations.
    Wal,
    /// List ops.
    List,
    /// Sorted set ops.
    Zset,
}

impl SectionKind {
    /// All kinds, in the order in which their sections lie in a chunk.
    pub const ALL: [Self; 3] = [Self::Wal, Self::List, Self::Zset];

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
            Self::List => "list",
            Self::Zset => "zset",
        }
    }

    pub(super) fn byte(self) -> u8 {
        self as u8 + 1
    }
}
