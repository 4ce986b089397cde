//! The memory image: all keys in memory at one csn, as a file. `../FORMAT.md` documents every byte.
//!
//! Guarantees: an image that can be read is the image that was written, as a whole. A chain of CRCs runs from the
//! header over every block to the footer, so that a flipped bit, a lost or moved block and a missing end are detected.
//! Arbitrary bytes give an error, never a panic, and memory grows only with elements that are present in the input.
//! Writing holds one block in memory beside the cut. Reading holds, beside the values it builds, a few blocks, the
//! current element, and 40 bytes for each member of the current sorted set. Non-goals: deciding when to cut, and
//! naming files; see `local` and `base`.

mod decode;
mod encode;
#[cfg(test)]
mod tests;
mod unpack;

pub use decode::{read_image, read_image_file, read_images};
pub use encode::{Contents, ImageParts, Share, image_parts, write_image};

use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use crate::engine::memory::Type;
use crate::error::{Error, Result};
use crate::log::recovery::CutPoint;
use crate::position::Position;
use std::ops::AddAssign;

/// Version of the image format that this build writes, and the only one that it reads.
const IMAGE_VERSION: u16 = 3;

/// Largest number of raw bytes in one block; part of the format. Bounds what one block can make a reader allocate.
pub const BLOCK_RAW_BYTES_MAX: usize = 1 << 20;

const MAGIC: [u8; 8] = *b"WFIMAGE\n";
const HEADER_LEN: usize = 52;
/// Bytes of a block header: codec, raw length, stored length, CRC.
const BLOCK_HEADER_LEN: usize = 13;
/// Bytes of the footer: marker, counts, CRC.
const FOOTER_LEN: usize = 1 + 8 * Counts::FIELDS + 4;

/// The first byte of a block says how the block is stored; [`FOOTER`] in its place says that no block follows.
const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const FOOTER: u8 = 0xff;

/// Returns the first byte of an entry whose value has this type.
fn type_byte(of: Type) -> u8 {
    of as u8 + 1
}

/// Counts of an image's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Numbers of keys, by type.
    pub keys: [u64; Type::COUNT],
    /// Number of fields, members and elements; a string counts as one.
    pub elements: u64,
}

impl Counts {
    /// Number of fields in the footer.
    const FIELDS: usize = Type::COUNT + 1;

    /// Returns the number of keys of all types.
    #[must_use]
    pub fn all_keys(&self) -> u64 {
        self.keys.iter().sum()
    }

    fn fields(&self) -> impl Iterator<Item = u64> {
        self.keys.into_iter().chain([self.elements])
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.keys.iter_mut().zip(other.keys).for_each(|(sum, more)| *sum += more);
        self.elements += other.elements;
    }
}

/// Encodes the header of an image cut at `at`.
fn encode_header(at: CutPoint) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    out[..8].copy_from_slice(&MAGIC);
    out[8..10].copy_from_slice(&IMAGE_VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&at.position.epoch.0.to_le_bytes());
    out[16..24].copy_from_slice(&at.position.csn.0.to_le_bytes());
    out[24..32].copy_from_slice(&at.position.time.0.to_le_bytes());
    out[32..40].copy_from_slice(&at.wal_seq.0.to_le_bytes());
    out[40..48].copy_from_slice(&at.position.hash.0.to_le_bytes());
    let crc = crc32fast::hash(&out[..HEADER_LEN - 4]);
    out[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Decodes a header; returns the position of the cut and the header's CRC, with which the chain begins.
fn decode_header(bytes: &[u8; HEADER_LEN], what: &str) -> Result<(CutPoint, u32)> {
    let corrupt = |detail: String| Error::corrupt(what, "byte 0", detail);
    if bytes[..8] != MAGIC {
        return Err(corrupt(format!("not a memory image: it begins with \"{}\"", bytes[..8].escape_ascii())));
    }
    let version = u16::from_le_bytes([bytes[8], bytes[9]]);
    if version != IMAGE_VERSION {
        return Err(Error::Version { what: what.to_owned(), found: version.into(), known: IMAGE_VERSION.into() });
    }
    let told = word32(bytes, HEADER_LEN - 4);
    let crc = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
    if crc != told {
        return Err(corrupt(format!("the CRC of the header is {crc:08x}, but the header states {told:08x}")));
    }
    if bytes[10..12] != [0, 0] {
        return Err(corrupt(format!("flags {:02x?}", &bytes[10..12])));
    }
    let (csn, time) = (Csn(word64(bytes, 16)), CommitTime(word64(bytes, 24)));
    let position = Position { csn, time, epoch: Epoch(word32(bytes, 12)), hash: HistoryHash(word64(bytes, 40)) };
    Ok((CutPoint { position, wal_seq: WalSeq(word64(bytes, 32)) }, crc))
}

/// Returns the CRC of `parts`, continued from the previous CRC of the chain.
fn chain(previous: u32, parts: [&[u8]; 2]) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(previous);
    parts.into_iter().for_each(|part| crc.update(part));
    crc.finalize()
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
