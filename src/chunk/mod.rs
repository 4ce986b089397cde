//! The shipped unit: a chunk holds whole commits in dense csn order, in compressed sections by kind of effect (`wal`,
//! `memory`, `list`, `zset`). `FORMAT.md` in this directory gives every byte.
//!
//! Guarantees:
//! - [`Chunk::commits`] yields exactly the commits that [`Encoder::encode`] was given, except that every commit
//!   carries the chunk's epoch (its lineage).
//! - A CRC covers every stored bit: the header's CRC covers the CRC of each section's block headers, which cover the
//!   CRC of each block's stored bytes. [`Chunk::open`] checks all of them before anything is decompressed. So the
//!   header's CRC stands for the whole content, and a chain of header CRCs stands for a history.
//! - Arbitrary bytes give an error, never a panic; memory grows only with bytes that were really decompressed.
//!
//! Not here: the decision where to cut, reading logs, the meaning of payloads, checking one chunk against the next.
//!
//! Memory: the encoder holds one block ([`BLOCK_RAW_BYTES_MAX`]) beside its output, the decoder one block per section
//! beside its input. A payload that lies inside one block is a slice of the block and keeps the block alive (or the
//! whole chunk, if the block is stored raw). Code that keeps parts of a payload for long must copy them. A payload
//! over several blocks is assembled once.

mod codec;
mod commits;
mod decode;
mod encode;
mod entry;
mod header;
mod kind;
#[cfg(test)]
mod tests;

pub use codec::{Profile, ZSTD_LEVEL_DEFAULT};
pub use commits::Commits;
pub use decode::Chunk;
pub use encode::{ChunkLink, Encoder};
pub use header::{ChunkHeader, Section};
pub use kind::SectionKind;

/// Bytes of effects at which a chunk is cut. A single commit may be larger: commits are never split over chunks.
pub const RAW_BYTES_MAX: usize = 4 << 20;

/// Most raw bytes of one block; part of the format. Bounds the memory that one block can make a decoder allocate.
pub const BLOCK_RAW_BYTES_MAX: usize = 1 << 20;
