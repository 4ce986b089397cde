//! Opens a chunk: turns bytes into blocks that are known to be undamaged.
//!
//! Guarantees: [`Chunk::open`] checks every length and every CRC. It decompresses nothing: reading the commits does that.

use super::codec::Codec;
use super::header::{BlockHeader, ChunkHeader, Section};
use super::kind::SectionKind;
use crate::csn::Csn;
use crate::error::{Error, Result};
use bytes::Bytes;
use std::ops::Range;

/// A chunk whose bytes are known to be undamaged.
#[derive(Clone, Debug)]
pub struct Chunk {
    bytes: Bytes,
    header: ChunkHeader,
    /// Blocks of each section, by [`SectionKind::index`].
    blocks: [Vec<Block>; SectionKind::COUNT],
    /// Name of the object in errors.
    what: String,
}

/// One block inside a chunk.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub codec: Codec,
    pub raw_len: usize,
    /// Range of the stored bytes, from the chunk's start.
    pub stored: Range<usize>,
}

impl Chunk {
    /// Checks the header, the lengths and every CRC of a whole chunk; `what` names the object in errors.
    ///
    /// # Errors
    /// [`Error::Version`] if the chunk has another version than this build reads; [`Error::Corrupt`] with the place
    /// for everything else.
    pub fn open(bytes: Bytes, what: &str) -> Result<Self> {
        let header = ChunkHeader::decode(&bytes, what)?;
        let (expected, found) = (header.total_len(), bytes.len() as u64);
        if found < expected {
            let detail = format!("truncated: {found} of {expected} bytes are present");
            return Err(Error::corrupt(what, format_args!("byte {found}"), detail));
        }
        if found > expected {
            let detail = format!("{} bytes follow the last section", found - expected);
            return Err(Error::corrupt(what, format_args!("byte {expected}"), detail));
        }
        let mut blocks = [const { Vec::new() }; SectionKind::COUNT];
        for kind in SectionKind::ALL {
            let begin = header.section_offset(kind) as usize;
            let section = header.section(kind);
            let stored = &bytes[begin..begin + section.stored_len as usize];
            blocks[kind.index()] = check_section(stored, begin, section, kind, what)?;
        }
        Ok(Self { bytes, header, blocks, what: what.to_owned() })
    }

    /// Makes a chunk of the encoder's output. Errors name it by its epoch and range.
    pub(super) fn encoded(bytes: Bytes, header: ChunkHeader, blocks: [Vec<Block>; SectionKind::COUNT]) -> Self {
        let what = format!("chunk {}-{} of epoch {}", header.first, header.last, header.epoch);
        Self { bytes, header, blocks, what }
    }

    pub(super) fn blocks(&self, kind: SectionKind) -> &[Block] {
        &self.blocks[kind.index()]
    }

    pub(super) fn what(&self) -> &str {
        &self.what
    }

    /// Returns the header.
    #[must_use]
    pub fn header(&self) -> &ChunkHeader {
        &self.header
    }

    /// Returns the bytes of the chunk, as they are stored and sent.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) fn corrupt(&self, position: impl ToString, detail: impl Into<String>) -> Error {
        Error::corrupt(&*self.what, position, detail)
    }

    pub(super) fn corrupt_at(&self, csn: Csn, detail: impl Into<String>) -> Error {
        self.corrupt(format_args!("csn {csn}"), detail)
    }
}

/// Returns the name of a block in errors.
pub(super) fn position(kind: SectionKind, block: usize) -> String {
    format!("{} section, block {block}", kind.name())
}

/// Finds the section's blocks and checks lengths and CRCs. `begin` is the section's offset in the chunk.
fn check_section(bytes: &[u8], begin: usize, section: &Section, kind: SectionKind, what: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut crc = crc32fast::Hasher::new();
    let mut raw_len = 0;
    let mut at = 0;
    while at < bytes.len() {
        let corrupt = |detail: String| Error::corrupt(what, position(kind, blocks.len()), detail);
        let left = &bytes[at..];
        let Some((head, left)) = left.split_at_checked(BlockHeader::ENCODED_LEN) else {
            return Err(corrupt(format!("{} bytes are left, too few for a block header", left.len())));
        };
        let header = BlockHeader::decode(head).map_err(corrupt)?;
        let Some(stored) = left.get(..header.stored_len as usize) else {
            return Err(corrupt(format!("{} stored bytes, but {} are left", header.stored_len, left.len())));
        };
        let found = crc32fast::hash(stored);
        if found != header.crc {
            return Err(corrupt(format!("the CRC of the stored bytes is {found:08x}, expected {:08x}", header.crc)));
        }
        crc.update(head);
        raw_len += u64::from(header.raw_len);
        at += head.len();
        let stored = begin + at..begin + at + stored.len();
        at += stored.len();
        blocks.push(Block { codec: header.codec, raw_len: header.raw_len as usize, stored });
    }
    let found =
        Section { blocks: blocks.len() as u32, blocks_crc: crc.finalize(), raw_len, stored_len: bytes.len() as u64 };
    if found != *section {
        let detail = format!("the header states {section:?}, but the blocks contain {found:?}");
        return Err(Error::corrupt(what, format_args!("{} section", kind.name()), detail));
    }
    Ok(blocks)
}
