//! Compresses and decompresses one block, and decides when compression does not pay.
//!
//! Guarantees: a block is stored compressed only if that saves at least 5 %. Data that does not compress costs one
//! attempt in [`SKIP_BLOCKS`] blocks. Decompression yields exactly the stated length, or an error.

use super::kind::SectionKind;
use bytes::Bytes;

/// Level of zstd for the `wal` and `memory` sections, unless configured otherwise.
pub const ZSTD_LEVEL_DEFAULT: i32 = 1;

/// Largest compressed size of a block, in percent of its raw bytes.
const STORED_PERCENT_MAX: usize = 95;
/// Blocks below this many bytes are stored raw without an attempt.
const COMPRESS_BYTES_MIN: usize = 64;
/// Only blocks of at least this many bytes tell whether the data compresses: small blocks compress badly in any case.
const PROBE_BYTES_MIN: usize = 4 << 10;
/// Number of poor blocks in a row after which attempts stop.
const POOR_BLOCKS_MAX: u32 = 4;
/// Number of blocks that are stored raw before the next attempt.
const SKIP_BLOCKS: u32 = 32;

/// Compression of a block's stored bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Codec {
    /// Not compressed.
    Raw,
    /// One zstd frame.
    Zstd,
    /// Snappy's raw format.
    Snappy,
    /// LZ4's block format without a length prefix.
    Lz4,
}

impl Codec {
    pub(super) fn byte(self) -> u8 {
        self as u8
    }

    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd, Self::Snappy, Self::Lz4].into_iter().find(|codec| codec.byte() == byte)
    }

    /// Returns the most bytes to which `stored` bytes can decompress, by the codec's format.
    pub(super) fn raw_len_max(self, stored: usize) -> usize {
        let per_byte = match self {
            Self::Raw => 1,
            // The densest element is a run of 128 KiB in 4 bytes.
            Self::Zstd => 32 << 10,
            // The densest element is a copy of 64 bytes in 3.
            Self::Snappy => 22,
            // Each byte of a match length adds at most 255.
            Self::Lz4 => 255,
        };
        stored.saturating_mul(per_byte)
    }
}

/// The purpose of a chunk, which decides how it is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Small chunks: zstd for `wal` and `memory`, Snappy for `list`, LZ4 for `zset`.
    Archive {
        /// Level of zstd, usually [`ZSTD_LEVEL_DEFAULT`].
        zstd_level: i32,
    },
    /// Fast chunks, for replication in a local network: LZ4 for every section.
    Link,
}

impl Default for Profile {
    fn default() -> Self {
        Self::Archive { zstd_level: ZSTD_LEVEL_DEFAULT }
    }
}

enum Method {
    Zstd(zstd::bulk::Compressor<'static>),
    Snappy(Box<snap::raw::Encoder>),
    Lz4(lz4_flex::block::CompressTable),
}

impl Method {
    fn codec(&self) -> Codec {
        match self {
            Self::Zstd(_) => Codec::Zstd,
            Self::Snappy(_) => Codec::Snappy,
            Self::Lz4(_) => Codec::Lz4,
        }
    }

    fn stored_len_max(&self, raw_len: usize) -> usize {
        match self {
            Self::Zstd(_) => zstd::zstd_safe::compress_bound(raw_len),
            Self::Snappy(_) => snap::raw::max_compress_len(raw_len),
            Self::Lz4(_) => lz4_flex::block::get_maximum_output_size(raw_len),
        }
    }

    /// Returns the length written to `out`, or `None` if the library failed; then the block is stored raw.
    fn compress(&mut self, raw: &[u8], out: &mut [u8]) -> Option<usize> {
        match self {
            Self::Zstd(context) => context.compress_to_buffer(raw, out).ok(),
            Self::Snappy(encoder) => encoder.compress(raw, out).ok(),
            Self::Lz4(table) => lz4_flex::block::compress_into_with_table(raw, out, table).ok(),
        }
    }
}

/// Decides whether to try to compress the next block, by the results of earlier blocks.
#[derive(Debug, Default)]
struct Payoff {
    /// Poor blocks since the last good one. Stays at the limit while attempts are stopped.
    poor_in_row: u32,
    /// Blocks to store raw before the next attempt.
    skip: u32,
}

impl Payoff {
    fn worth_trying(&mut self, raw_len: usize) -> bool {
        if raw_len < PROBE_BYTES_MIN {
            return raw_len >= COMPRESS_BYTES_MIN;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    fn learn(&mut self, raw_len: usize, good: bool) {
        if raw_len < PROBE_BYTES_MIN {
            return;
        }
        self.poor_in_row = if good { 0 } else { (self.poor_in_row + 1).min(POOR_BLOCKS_MAX) };
        if self.poor_in_row == POOR_BLOCKS_MAX {
            self.skip = SKIP_BLOCKS;
        }
    }
}

/// Compresses the blocks of one section kind, for one chunk after another.
pub(super) struct BlockCompressor {
    method: Method,
    payoff: Payoff,
}

impl BlockCompressor {
    pub(super) fn new(profile: Profile, kind: SectionKind) -> Self {
        let method = match (profile, kind) {
            (Profile::Archive { zstd_level }, SectionKind::Wal | SectionKind::Memory) => Method::Zstd(
                zstd::bulk::Compressor::new(zstd_level).expect("zstd clamps the level; only memory can run out"),
            ),
            (Profile::Archive { .. }, SectionKind::List) => Method::Snappy(Box::new(snap::raw::Encoder::new())),
            (Profile::Archive { .. }, SectionKind::Zset) | (Profile::Link, _) => {
                Method::Lz4(lz4_flex::block::CompressTable::large())
            }
        };
        Self { method, payoff: Payoff::default() }
    }

    /// Returns the bytes to store for `raw`, and their codec. `scratch` is reused from block to block.
    pub(super) fn compress<'b>(&mut self, raw: &'b [u8], scratch: &'b mut Vec<u8>) -> (Codec, &'b [u8]) {
        if !self.payoff.worth_trying(raw.len()) {
            return (Codec::Raw, raw);
        }
        let needed = self.method.stored_len_max(raw.len());
        if scratch.len() < needed {
            scratch.resize(needed, 0);
        }
        let stored_len = self.method.compress(raw, scratch);
        let good = stored_len.filter(|len| len * 100 <= raw.len() * STORED_PERCENT_MAX);
        self.payoff.learn(raw.len(), good.is_some());
        match good {
            Some(len) => (self.method.codec(), &scratch[..len]),
            None => (Codec::Raw, raw),
        }
    }
}

/// Decompresses blocks of any codec.
#[derive(Default)]
pub(super) struct BlockDecompressor {
    /// Created at the first zstd block.
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl BlockDecompressor {
    /// Returns the block's `raw_len` bytes, or an error that says what is wrong with `stored`. A raw block is not
    /// copied.
    pub(super) fn decompress(&mut self, codec: Codec, stored: Bytes, raw_len: usize) -> Result<Bytes, String> {
        if codec == Codec::Raw {
            return Ok(stored);
        }
        let mut raw = vec![0; raw_len];
        let len = match codec {
            Codec::Raw => unreachable!("returned above"),
            Codec::Zstd => self.zstd(&stored, &mut raw),
            Codec::Snappy => snap::raw::Decoder::new().decompress(&stored, &mut raw).map_err(|e| e.to_string()),
            Codec::Lz4 => lz4_flex::block::decompress_into(&stored, &mut raw).map_err(|e| e.to_string()),
        };
        match len {
            Ok(len) if len == raw_len => Ok(Bytes::from(raw)),
            Ok(len) => Err(format!("{codec:?} gave {len} bytes, expected {raw_len}")),
            Err(error) => Err(format!("{codec:?} refused the stored bytes: {error}")),
        }
    }

    fn zstd(&mut self, stored: &[u8], raw: &mut [u8]) -> Result<usize, String> {
        if self.zstd.is_none() {
            self.zstd = Some(zstd::bulk::Decompressor::new().map_err(|e| e.to_string())?);
        }
        let context = self.zstd.as_mut().expect("made above");
        context.decompress_to_buffer(stored, raw).map_err(|e| e.to_string())
    }
}
