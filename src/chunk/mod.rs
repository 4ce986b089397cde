//! The shipped unit: a chunk holds whole commits in dense csn order, one compressed section per log kind (`wal`,
//! `list`, `zset`). `FORMAT.md` beside this file gives every byte.
//!
//! Guarantees: what [`Chunk::commits`] yields is exactly what [`Encoder::encode`] was given, except that every commit
//! carries the chunk's epoch (its lineage). Every stored bit is covered by a CRC that is checked by [`Chunk::open`],
//! before anything is decompressed: header CRC, over it the CRC of each section's block headers, over those the CRC of
//! each block's stored bytes. So the header's CRC stands for the whole content, and a chain of header CRCs for a
//! history. Arbitrary bytes give an error, never a panic; memory grows only with bytes that were really decompressed.
//!
//! Does not: decide where to cut, read logs, look into payloads, or check one chunk against the next.
//!
//! Memory: the encoder holds one block ([`BLOCK_RAW_BYTES_MAX`]) beside its output, the decoder one block per section
//! beside its input. A payload that lies inside one block is a slice of it and keeps that block (or, where a block is
//! stored raw, the chunk) alive; whoever stores parts of it for long copies them. A payload over several blocks is
//! assembled once.

mod codec;
mod commits;
mod decode;
mod encode;
mod entry;
mod header;
#[cfg(test)]
mod tests;

pub use codec::{Profile, ZSTD_LEVEL_DEFAULT};
pub use commits::Commits;
pub use decode::Chunk;
pub use encode::{ChunkLink, Encoder};
pub use header::{ChunkHeader, Section, SectionKind};

/// Bytes of effects at which a chunk is cut. A single commit may be larger: commits are never split over chunks.
pub const RAW_BYTES_MAX: usize = 4 << 20;

/// Most raw bytes of one block; part of the format. It bounds what one block can make a decoder allocate.
pub const BLOCK_RAW_BYTES_MAX: usize = 1 << 20;
