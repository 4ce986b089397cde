//! The bytes of a chunk's header and of a block's header: the one place that writes and reads them.
//!
//! Guarantees: a header that decodes is consistent in itself (ranges ordered, lengths possible, sections adjacent,
//! reserved bytes zero) and encodes to the same bytes.
//!
//! The bytes after the header are checked by [`super::Chunk::open`].

use super::BLOCK_RAW_BYTES_MAX;
use super::codec::Codec;
use super::kind::SectionKind;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use crate::error::{Error, Result};
use bytes::Bytes;

const MAGIC: [u8; 8] = *b"WFCHUNK\n";
/// Version of the format that this build writes and reads.
const VERSION: u16 = 4;

/// Offsets in the header. Magic and version have the same place in every version of the format.
mod at {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 8;
    pub(super) const FLAGS: usize = 10;
    pub(super) const EPOCH: usize = 12;
    pub(super) const FIRST: usize = 16;
    pub(super) const LAST: usize = 24;
    pub(super) const FIRST_TIME: usize = 32;
    pub(super) const LAST_TIME: usize = 40;
    pub(super) const WAL_FIRST: usize = 48;
    pub(super) const WAL_LAST: usize = 56;
    pub(super) const HASH_BEFORE: usize = 64;
    pub(super) const HASH_AFTER: usize = 72;
    pub(super) const SECTIONS: usize = 80;
    pub(super) const CRC: usize = SECTIONS + super::SectionKind::COUNT * super::in_section::LEN;
    pub(super) const END: usize = CRC + 4;
}

/// Offsets in one entry of the section table.
mod in_section {
    pub(super) const KIND: usize = 0;
    pub(super) const BLOCKS: usize = 4;
    pub(super) const BLOCKS_CRC: usize = 8;
    pub(super) const RAW_LEN: usize = 12;
    pub(super) const STORED_LEN: usize = 20;
    pub(super) const OFFSET: usize = 28;
    pub(super) const LEN: usize = 36;
}

/// Offsets in a block's header.
mod in_block {
    pub(super) const CODEC: usize = 0;
    pub(super) const RAW_LEN: usize = 1;
    pub(super) const STORED_LEN: usize = 5;
    pub(super) const CRC: usize = 9;
    pub(super) const LEN: usize = 13;
}

/// The description of one section in the header. All zero for a section without entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Section {
    /// Number of blocks.
    pub blocks: u32,
    /// CRC32 of the section's block headers, one after the other; 0 without blocks.
    pub blocks_crc: u32,
    /// Bytes before compression.
    pub raw_len: u64,
    /// Bytes in the chunk, block headers included.
    pub stored_len: u64,
}

impl Section {
    /// Returns why the lengths are impossible, whatever the blocks hold; `None` if they are possible.
    fn fault(&self) -> Option<String> {
        let blocks = u64::from(self.blocks);
        if blocks == 0 {
            return (*self != Self::default()).then(|| "has a length but no block".to_owned());
        }
        if self.raw_len < blocks || self.raw_len > blocks * BLOCK_RAW_BYTES_MAX as u64 {
            return Some(format!("cannot hold {} raw bytes in {blocks} blocks", self.raw_len));
        }
        let stored_least = blocks * (in_block::LEN as u64 + 1);
        (self.stored_len < stored_least)
            .then(|| format!("stores {blocks} blocks in {} bytes, which need {stored_least}", self.stored_len))
    }
}

/// The header of a chunk: everything that is known without reading its sections.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkHeader {
    /// The lineage to which the chunk belongs. Its commits may have been made in an older epoch.
    pub epoch: Epoch,
    /// First csn in the chunk; at least 1.
    pub first: Csn,
    /// Last csn in the chunk.
    pub last: Csn,
    /// Commit time of `first`.
    pub first_time: CommitTime,
    /// Commit time of `last`.
    pub last_time: CommitTime,
    /// First RocksDB sequence of the commits; 0 if unknown, as in a merged chunk.
    pub wal_first: WalSeq,
    /// Last RocksDB sequence of the commits; 0 if unknown, as in a merged chunk.
    pub wal_last: WalSeq,
    /// History hash before `first`: the chunk continues only a history with this hash at `first - 1`.
    pub hash_before: HistoryHash,
    /// History hash after `last`.
    pub hash_after: HistoryHash,
    /// The sections in the order of [`SectionKind::ALL`].
    pub sections: [Section; SectionKind::COUNT],
}

impl ChunkHeader {
    /// Bytes of a header; the first section begins at this offset.
    pub const ENCODED_LEN: usize = at::END;

    /// Returns the header as it is stored, with its CRC at the end.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        put(&mut out, at::MAGIC, MAGIC);
        put(&mut out, at::VERSION, VERSION.to_le_bytes());
        put(&mut out, at::EPOCH, self.epoch.0.to_le_bytes());
        put(&mut out, at::FIRST, self.first.0.to_le_bytes());
        put(&mut out, at::LAST, self.last.0.to_le_bytes());
        put(&mut out, at::FIRST_TIME, self.first_time.0.to_le_bytes());
        put(&mut out, at::LAST_TIME, self.last_time.0.to_le_bytes());
        put(&mut out, at::WAL_FIRST, self.wal_first.0.to_le_bytes());
        put(&mut out, at::WAL_LAST, self.wal_last.0.to_le_bytes());
        put(&mut out, at::HASH_BEFORE, self.hash_before.0.to_le_bytes());
        put(&mut out, at::HASH_AFTER, self.hash_after.0.to_le_bytes());
        for (kind, section) in SectionKind::ALL.into_iter().zip(&self.sections) {
            let entry = at::SECTIONS + kind.index() * in_section::LEN;
            put(&mut out, entry + in_section::KIND, [kind.byte()]);
            put(&mut out, entry + in_section::BLOCKS, section.blocks.to_le_bytes());
            put(&mut out, entry + in_section::BLOCKS_CRC, section.blocks_crc.to_le_bytes());
            put(&mut out, entry + in_section::RAW_LEN, section.raw_len.to_le_bytes());
            put(&mut out, entry + in_section::STORED_LEN, section.stored_len.to_le_bytes());
            put(&mut out, entry + in_section::OFFSET, self.section_offset(kind).to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..at::CRC]);
        put(&mut out, at::CRC, crc.to_le_bytes());
        out
    }

    /// Decodes the header at the start of `bytes`, which may continue after it; `what` names the object in errors.
    ///
    /// # Errors
    /// [`Error::Version`] if the chunk has another version than this build reads, [`Error::Corrupt`] for everything
    /// else that is not a header.
    pub fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let corrupt = |detail: String| Error::corrupt(what, "header", detail);
        let truncated = || corrupt(format!("truncated: {} of {} bytes are present", bytes.len(), Self::ENCODED_LEN));
        if bytes.len() < at::FLAGS {
            return Err(truncated());
        }
        if bytes[..at::VERSION] != MAGIC {
            return Err(corrupt(format!("expected the magic {MAGIC:02x?}, found {:02x?}", &bytes[..at::VERSION])));
        }
        let version = u16::from_le_bytes(get(bytes, at::VERSION));
        if version != VERSION {
            return Err(Error::Version { what: what.to_owned(), found: version.into(), known: VERSION.into() });
        }
        if bytes.len() < Self::ENCODED_LEN {
            return Err(truncated());
        }
        let (expected, found) = (u32_at(bytes, at::CRC), crc32fast::hash(&bytes[..at::CRC]));
        if expected != found {
            return Err(corrupt(format!("the CRC is {found:08x}, expected {expected:08x}")));
        }
        let header = Self::fields(bytes);
        match header.fault() {
            Some(detail) => Err(corrupt(detail)),
            // Checks all fields that have only one valid value: flags, section kinds and offsets, reserved bytes.
            None if header.encode()[..] != bytes[..Self::ENCODED_LEN] => {
                Err(corrupt("flags, section kinds, offsets or reserved bytes are not those of the version".to_owned()))
            }
            None => Ok(header),
        }
    }

    fn fields(bytes: &[u8]) -> Self {
        let section = |kind: SectionKind| {
            let entry = at::SECTIONS + kind.index() * in_section::LEN;
            Section {
                blocks: u32_at(bytes, entry + in_section::BLOCKS),
                blocks_crc: u32_at(bytes, entry + in_section::BLOCKS_CRC),
                raw_len: u64_at(bytes, entry + in_section::RAW_LEN),
                stored_len: u64_at(bytes, entry + in_section::STORED_LEN),
            }
        };
        Self {
            epoch: Epoch(u32_at(bytes, at::EPOCH)),
            first: Csn(u64_at(bytes, at::FIRST)),
            last: Csn(u64_at(bytes, at::LAST)),
            first_time: CommitTime(u64_at(bytes, at::FIRST_TIME)),
            last_time: CommitTime(u64_at(bytes, at::LAST_TIME)),
            wal_first: WalSeq(u64_at(bytes, at::WAL_FIRST)),
            wal_last: WalSeq(u64_at(bytes, at::WAL_LAST)),
            hash_before: HistoryHash(u64_at(bytes, at::HASH_BEFORE)),
            hash_after: HistoryHash(u64_at(bytes, at::HASH_AFTER)),
            sections: SectionKind::ALL.map(section),
        }
    }

    /// Returns what is inconsistent in the fields, or `None`. The encoder asserts the same of its output.
    pub(super) fn fault(&self) -> Option<String> {
        if self.first == Csn::ZERO || self.first > self.last || self.last == Csn(u64::MAX) {
            return Some(format!("{} to {} is not a csn range", self.first, self.last));
        }
        let single = self.first == self.last;
        if self.first_time > self.last_time || (single && self.first_time != self.last_time) {
            return Some(format!("commit times run from {} to {}", self.first_time, self.last_time));
        }
        if self.wal_first > self.wal_last {
            return Some(format!("{} to {} is not a WAL range", self.wal_first, self.wal_last));
        }
        for (kind, section) in SectionKind::ALL.into_iter().zip(&self.sections) {
            if let Some(fault) = section.fault() {
                return Some(format!("{} section {fault}", kind.name()));
            }
        }
        let stored = self.sections.iter().try_fold(Self::ENCODED_LEN as u64, |sum, s| sum.checked_add(s.stored_len));
        stored.is_none().then(|| "the sections' stored lengths add up to more than 64 bits".to_owned())
    }

    /// Returns the number of commits.
    #[must_use]
    pub fn commit_count(&self) -> u64 {
        self.last.since(self.first) + 1
    }

    /// Returns the bytes of the chunk, header included.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        Self::ENCODED_LEN as u64 + self.stored_len()
    }

    /// Reports whether these bytes can be a whole chunk: they begin with a header and have the length that it states.
    #[must_use]
    pub fn is_of(bytes: &Bytes) -> bool {
        Self::decode(bytes, "").is_ok_and(|header| header.total_len() == bytes.len() as u64)
    }

    /// Returns the bytes of the sections before compression.
    #[must_use]
    pub fn raw_len(&self) -> u64 {
        self.sections.iter().map(|s| s.raw_len).sum()
    }

    /// Returns the bytes of the sections in the chunk.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        self.sections.iter().map(|s| s.stored_len).sum()
    }

    /// Returns the section of a kind.
    #[must_use]
    pub fn section(&self, kind: SectionKind) -> &Section {
        &self.sections[kind.index()]
    }

    /// Returns the offset of a section from the chunk's start.
    #[must_use]
    pub fn section_offset(&self, kind: SectionKind) -> u64 {
        let before = &self.sections[..kind.index()];
        Self::ENCODED_LEN as u64 + before.iter().map(|s| s.stored_len).sum::<u64>()
    }
}

/// The header before each block's stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BlockHeader {
    /// Compression of the stored bytes.
    pub codec: Codec,
    /// Bytes after decompression: 1 to [`BLOCK_RAW_BYTES_MAX`].
    pub raw_len: u32,
    /// Bytes that follow: equal to `raw_len` for [`Codec::Raw`], otherwise less.
    pub stored_len: u32,
    /// CRC32 of the stored bytes.
    pub crc: u32,
}

impl BlockHeader {
    pub(super) const ENCODED_LEN: usize = in_block::LEN;

    pub(super) fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        put(&mut out, in_block::CODEC, [self.codec.byte()]);
        put(&mut out, in_block::RAW_LEN, self.raw_len.to_le_bytes());
        put(&mut out, in_block::STORED_LEN, self.stored_len.to_le_bytes());
        put(&mut out, in_block::CRC, self.crc.to_le_bytes());
        out
    }

    /// Decodes the header from exactly [`Self::ENCODED_LEN`] bytes. The error says what is wrong with the header.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let byte = bytes[in_block::CODEC];
        let header = Self {
            codec: Codec::from_byte(byte).ok_or_else(|| format!("codec {byte} is unknown"))?,
            raw_len: u32_at(bytes, in_block::RAW_LEN),
            stored_len: u32_at(bytes, in_block::STORED_LEN),
            crc: u32_at(bytes, in_block::CRC),
        };
        let (raw, stored) = (header.raw_len as usize, header.stored_len as usize);
        let possible = match header.codec {
            Codec::Raw => stored == raw,
            codec => stored < raw && raw <= codec.raw_len_max(stored),
        };
        if stored == 0 || raw > BLOCK_RAW_BYTES_MAX || !possible {
            return Err(format!("{:?} cannot hold {raw} raw bytes in {stored} stored bytes", header.codec));
        }
        Ok(header)
    }
}

fn put<const N: usize>(out: &mut [u8], at: usize, value: [u8; N]) {
    out[at..at + N].copy_from_slice(&value);
}

/// Returns `N` bytes at an offset. The caller has checked the length of `bytes`.
fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes is an array of N bytes")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(bytes, at))
}
