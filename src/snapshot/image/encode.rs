//! From a cut of the memory engines to an image's bytes.
//!
//! Guarantees: writing cannot fail but for the file; a value is walked, never copied as a whole.

use super::{BLOCK_HEADER_LEN, BLOCK_RAW_BYTES_MAX, CODEC_RAW, CODEC_ZSTD, FOOTER, FOOTER_LEN};
use super::{ENGINE_LIST, ENGINE_ZSET, chain, encode_header};
use crate::engine::memory::MemoryCut;
use crate::error::Result;
use crate::io::Io;
use crate::log::recovery::ImagePosition;
use bytes::Bytes;
use std::path::Path;

/// Images are written often and mostly read by the next start.
const ZSTD_LEVEL: i32 = 1;
/// A compressed block must not exceed this share of its raw bytes.
const STORED_PERCENT_MAX: usize = 95;
/// Longest fixed-size part of an entry or an element; it is never split over blocks.
const HEAD_LEN_MAX: usize = 21;

/// Writes the image of `cut`, cut at `at`, whole and durable, to `path`; returns its length.
pub fn write_image(io: &dyn Io, path: &Path, cut: &MemoryCut, at: ImagePosition) -> Result<u64> {
    io.write_file(path, &mut image_parts(cut, at).map(Ok))
}

/// The bytes of the image of `cut`, cut at `at`, in order, made as they are taken.
pub fn image_parts(cut: &MemoryCut, at: ImagePosition) -> impl Iterator<Item = Bytes> {
    let header = encode_header(at);
    let crc = super::word32(&header, header.len() - 4);
    let blocks = Blocks {
        pieces: pieces(cut),
        rest: &[],
        raw: Vec::with_capacity(BLOCK_RAW_BYTES_MAX),
        stored: vec![0; zstd::zstd_safe::compress_bound(BLOCK_RAW_BYTES_MAX)],
        zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("level 1 exists; only memory can run out"),
        crc,
        footer: Some([cut.lists.len() as u64, cut.zsets.len() as u64, 0]),
    };
    std::iter::once(Bytes::copy_from_slice(&header)).chain(blocks)
}

/// A part of an entry: a few bytes of fixed fields, then a byte string of any length.
enum Piece<'a> {
    Key { engine: u8, expire_ms: u64, count: u64, key: &'a [u8] },
    Element(&'a [u8]),
    Member(f64, &'a [u8]),
}

fn pieces(cut: &MemoryCut) -> impl Iterator<Item = Piece<'_>> {
    let lists = cut.lists.iter().flat_map(|(key, entry)| {
        let list = &entry.value;
        let head = Piece::Key { engine: ENGINE_LIST, expire_ms: entry.expire_ms, count: list.len(), key };
        std::iter::once(head).chain(list.iter_from(0).map(Piece::Element))
    });
    let zsets = cut.zsets.iter().flat_map(|(key, entry)| {
        let zset = &entry.value;
        let head = Piece::Key { engine: ENGINE_ZSET, expire_ms: entry.expire_ms, count: zset.len(), key };
        std::iter::once(head).chain(zset.iter_from(0).map(|(member, score)| Piece::Member(score, member)))
    });
    lists.chain(zsets)
}

/// Appends the fixed fields; returns the byte string that follows them.
fn put_head<'a>(out: &mut Vec<u8>, piece: &Piece<'a>) -> &'a [u8] {
    let bytes = match *piece {
        Piece::Key { engine, expire_ms, count, key } => {
            out.push(engine);
            out.extend_from_slice(&expire_ms.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
            key
        }
        Piece::Element(element) => element,
        Piece::Member(score, member) => {
            out.extend_from_slice(&score.to_le_bytes());
            member
        }
    };
    let len = u32::try_from(bytes.len()).expect("a key or an element is far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    bytes
}

/// Blocks and footer, one at a time.
struct Blocks<'a, P> {
    pieces: P,
    /// What is left of a byte string that did not fit the block before.
    rest: &'a [u8],
    /// Raw bytes of the block being filled.
    raw: Vec<u8>,
    /// Where blocks are compressed to.
    stored: Vec<u8>,
    zstd: zstd::bulk::Compressor<'static>,
    /// CRC of the header or block before.
    crc: u32,
    /// Numbers of lists, sorted sets and elements so far; `None` once written.
    footer: Option<[u64; 3]>,
}

impl<'a, P: Iterator<Item = Piece<'a>>> Blocks<'a, P> {
    /// Fills `raw`, as far as there is anything left.
    fn fill(&mut self) {
        self.raw.clear();
        loop {
            let room = (BLOCK_RAW_BYTES_MAX - self.raw.len()).min(self.rest.len());
            let (now, later) = self.rest.split_at(room);
            self.raw.extend_from_slice(now);
            self.rest = later;
            if self.raw.len() + HEAD_LEN_MAX > BLOCK_RAW_BYTES_MAX {
                return;
            }
            let Some(piece) = self.pieces.next() else { return };
            if let (Some(counts), Piece::Element(_) | Piece::Member(..)) = (&mut self.footer, &piece) {
                counts[2] += 1;
            }
            self.rest = put_head(&mut self.raw, &piece);
        }
    }

    fn block(&mut self) -> Bytes {
        // A block that zstd cannot compress is stored raw.
        let compressed = self.zstd.compress_to_buffer(&self.raw, &mut self.stored).ok();
        let (codec, stored) = match compressed.filter(|len| len * 100 <= self.raw.len() * STORED_PERCENT_MAX) {
            Some(len) => (CODEC_ZSTD, &self.stored[..len]),
            None => (CODEC_RAW, self.raw.as_slice()),
        };
        let mut block = Vec::with_capacity(BLOCK_HEADER_LEN + stored.len());
        block.push(codec);
        block.extend_from_slice(&(self.raw.len() as u32).to_le_bytes());
        block.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        self.crc = chain(self.crc, [&block, stored]);
        block.extend_from_slice(&self.crc.to_le_bytes());
        block.extend_from_slice(stored);
        block.into()
    }

    fn footer(&mut self) -> Option<Bytes> {
        let counts = self.footer.take()?;
        let mut footer = Vec::with_capacity(FOOTER_LEN);
        footer.push(FOOTER);
        counts.iter().for_each(|count| footer.extend_from_slice(&count.to_le_bytes()));
        footer.extend_from_slice(&chain(self.crc, [&footer, &[]]).to_le_bytes());
        Some(footer.into())
    }
}

impl<'a, P: Iterator<Item = Piece<'a>>> Iterator for Blocks<'a, P> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.footer?;
        self.fill();
        if self.raw.is_empty() { self.footer() } else { Some(self.block()) }
    }
}
