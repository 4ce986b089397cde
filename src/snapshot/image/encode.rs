//! Encodes a cut of the keys in memory as the bytes of an image.
//!
//! Guarantees: only writing to the file can fail; a value is iterated over, never copied as a whole. Where digests are
//! wanted, the entries are hashed in the same pass.

use super::{BLOCK_HEADER_LEN, BLOCK_RAW_BYTES_MAX, CODEC_RAW, CODEC_ZSTD, FOOTER, FOOTER_LEN, HEADER_LEN};
use super::{Counts, chain, encode_header, type_byte};
use crate::engine::memory::{Element, LargeValue, MemoryCut, Slot, StringRef, Type};
use crate::error::Result;
use crate::io::Io;
use crate::log::recovery::CutPoint;
use crate::snapshot::digest::{EntryHasher, SetDigest};
use bytes::Bytes;
use std::ops::AddAssign;
use std::path::Path;

/// Compression level: low, because images are written often, and most are read only by the next start.
const ZSTD_LEVEL: i32 = 1;
/// Largest size of a compressed block, in percent of its raw bytes; a block that compresses less is stored raw.
const STORED_PERCENT_MAX: usize = 95;
/// Bytes of the longest part of an entry or an element that is never split over two blocks: an integer as text, with
/// its length.
const HEAD_LEN_MAX: usize = 4 + 20;

/// Writes the image of `cut`, made at `at`, to `path`, whole and durable; returns the image's length in bytes.
pub fn write_image(io: &dyn Io, path: &Path, cut: &MemoryCut, at: CutPoint) -> Result<u64> {
    io.write_file(path, &mut image_parts(cut, at).map(Ok))
}

/// Returns the bytes of the image of `cut`, made at `at`, in order. Each part is encoded when it is taken. Computes no
/// digests.
pub fn image_parts(cut: &MemoryCut, at: CutPoint) -> impl Iterator<Item = Bytes> {
    ImageParts::of(Raw::new(pieces(cut, Share::ALL), None), at)
}

/// One image of several that a cut is written to; each image has a disjoint set of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Number of this image, from 0 on.
    pub nth: usize,
    /// Number of images.
    pub of: usize,
}

impl Share {
    /// The only image of a cut.
    pub const ALL: Self = Self { nth: 0, of: 1 };
}

/// Counts and digest of an image's content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// Numbers of keys and elements.
    pub counts: Counts,
    /// Digest of all keys with their expiries and values; zero if no digest was computed.
    pub digest: SetDigest,
}

impl AddAssign for Contents {
    fn add_assign(&mut self, other: Self) {
        self.counts += other.counts;
        self.digest += other.digest;
    }
}

impl Contents {
    /// Computes the counts and the digest of a cut. Takes as long as writing an image without compression.
    #[must_use]
    pub fn of(cut: &MemoryCut) -> Self {
        let mut raw = Raw::new(pieces(cut, Share::ALL), Some(EntryHasher::default()));
        loop {
            raw.fill();
            if raw.bytes.is_empty() {
                return raw.contents;
            }
        }
    }

    fn entry(&mut self, of: Type, hash: Option<blake3::Hash>) {
        self.counts.keys[of as usize] += 1;
        hash.into_iter().for_each(|hash| self.digest.add(hash));
    }
}

/// A part of an entry: a few bytes of fixed fields, followed by a byte string of any length.
enum Piece<'a> {
    Key {
        of: Type,
        expire_ms: u64,
        count: u64,
        key: &'a [u8],
    },
    /// A short string, a field, a member of a set, or an element of a list.
    Element(&'a [u8]),
    /// The length of a long string, whose bytes follow.
    Length(u64),
    /// Some bytes of a long string.
    Bytes(&'a [u8]),
    /// The value of the field before.
    Value(&'a [u8]),
    /// A member of a set of integers.
    Integer(i64),
    /// A member of a sorted set.
    Member(f64, &'a [u8]),
}

type Pieces<'a> = Box<dyn Iterator<Item = Piece<'a>> + Send + 'a>;

fn pieces(cut: &MemoryCut, Share { nth, of }: Share) -> Pieces<'_> {
    Box::new(cut.iter_share(nth, of).flat_map(|slot| {
        let (count, values) = values(slot);
        let head = Piece::Key { of: slot.value_type(), expire_ms: slot.expire_ms(), count, key: slot.key() };
        std::iter::once(head).chain(values)
    }))
}

/// Returns the number of elements of a value, and the elements.
fn values(slot: &Slot) -> (u64, Pieces<'_>) {
    if let Some(string) = slot.as_string() {
        return match string {
            StringRef::Small(bytes) => (1, Box::new(std::iter::once(Piece::Element(bytes)))),
            StringRef::Large(text) => {
                let pieces = text.pieces(0..text.len()).map(Piece::Bytes);
                (1, Box::new(std::iter::once(Piece::Length(text.len())).chain(pieces)))
            }
        };
    }
    let element = |element| match element {
        Element::Pair((name, _)) => Piece::Element(name),
        Element::Integer(integer) => Piece::Integer(integer),
    };
    if let Some(hash) = slot.as_hash() {
        let pairs = hash.iter_from(0).flat_map(|pair| match pair {
            Element::Pair((field, value)) => [Piece::Element(field), Piece::Value(value)],
            Element::Integer(_) => unreachable!("a hash has no integers"),
        });
        return (hash.len(), Box::new(pairs));
    }
    if let Some(set) = slot.as_set() {
        return (set.len(), Box::new(set.iter_from(0).map(element)));
    }
    let Slot::Large(large) = slot else { unreachable!("small values are strings, hashes and sets") };
    match large.value() {
        LargeValue::List(list) => (list.len(), Box::new(list.iter_from(0).map(Piece::Element))),
        LargeValue::Zset(zset) => {
            (zset.len(), Box::new(zset.iter_from(0).map(|(member, score)| Piece::Member(score, member))))
        }
        LargeValue::Text(_) | LargeValue::Hash(_) | LargeValue::Set(_) => {
            unreachable!("the other types were asked about")
        }
    }
}

/// Appends the fixed fields of `piece` to `out`; returns the byte string that follows the fields.
fn put_head<'a>(out: &mut Vec<u8>, piece: &Piece<'a>) -> &'a [u8] {
    let bytes = match *piece {
        Piece::Key { of, expire_ms, count, key } => {
            out.push(type_byte(of));
            out.extend_from_slice(&expire_ms.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
            key
        }
        Piece::Element(bytes) | Piece::Value(bytes) => bytes,
        Piece::Bytes(bytes) => return bytes,
        Piece::Length(len) => {
            out.extend_from_slice(&u32::try_from(len).expect("a string is far below 4 GiB").to_le_bytes());
            return &[];
        }
        Piece::Integer(integer) => {
            let mut buffer = itoa::Buffer::new();
            let text = buffer.format(integer).as_bytes();
            out.extend_from_slice(&(text.len() as u32).to_le_bytes());
            out.extend_from_slice(text);
            return &[];
        }
        Piece::Member(score, member) => {
            out.extend_from_slice(&score.to_le_bytes());
            member
        }
    };
    let len = u32::try_from(bytes.len()).expect("a key or an element is far below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    bytes
}

/// Produces the raw bytes of one block at a time, and counts and hashes the entries.
struct Raw<'a> {
    pieces: Pieces<'a>,
    /// The part of the last byte string that did not fit into the previous block.
    rest: &'a [u8],
    /// The raw bytes of the current block.
    bytes: Vec<u8>,
    /// Offset in `bytes` at which the current entry begins, or continues from the previous block.
    entry_at: usize,
    /// Type of the current entry's value; `None` before the first entry and after the last.
    of: Option<Type>,
    /// `None`: the entries are not hashed, and the digest stays zero.
    hasher: Option<EntryHasher>,
    contents: Contents,
}

impl<'a> Raw<'a> {
    fn new(pieces: Pieces<'a>, hasher: Option<EntryHasher>) -> Self {
        Self {
            pieces,
            rest: &[],
            bytes: Vec::with_capacity(BLOCK_RAW_BYTES_MAX),
            entry_at: 0,
            of: None,
            hasher,
            contents: Contents::default(),
        }
    }

    /// Fills the block; leaves it empty if nothing is left.
    fn fill(&mut self) {
        self.bytes.clear();
        self.entry_at = 0;
        self.fill_from_pieces();
        if let Some(hasher) = &mut self.hasher {
            hasher.take(&self.bytes[self.entry_at..]);
        }
    }

    fn fill_from_pieces(&mut self) {
        loop {
            let room = (BLOCK_RAW_BYTES_MAX - self.bytes.len()).min(self.rest.len());
            let (now, later) = self.rest.split_at(room);
            self.bytes.extend_from_slice(now);
            self.rest = later;
            if self.bytes.len() + HEAD_LEN_MAX > BLOCK_RAW_BYTES_MAX {
                return;
            }
            let piece = self.pieces.next();
            match &piece {
                Some(Piece::Element(_) | Piece::Length(_) | Piece::Integer(_) | Piece::Member(..)) => {
                    self.contents.counts.elements += 1
                }
                Some(Piece::Value(_) | Piece::Bytes(_)) => {}
                Some(Piece::Key { of, .. }) => self.end_entry(Some(*of)),
                None => self.end_entry(None),
            }
            let Some(piece) = piece else { return };
            self.rest = put_head(&mut self.bytes, &piece);
        }
    }

    fn end_entry(&mut self, next: Option<Type>) {
        if let Some(of) = std::mem::replace(&mut self.of, next) {
            let hash = self.hasher.as_mut().map(|hasher| hasher.end(&self.bytes[self.entry_at..]));
            self.contents.entry(of, hash);
        }
        self.entry_at = self.bytes.len();
    }
}

/// Iterates over the parts of an image: the header, then the blocks, then the footer.
pub struct ImageParts<'a> {
    /// The header; `None` once it was taken.
    header: Option<[u8; HEADER_LEN]>,
    raw: Raw<'a>,
    /// Output buffer of the compression.
    stored: Vec<u8>,
    zstd: zstd::bulk::Compressor<'static>,
    /// CRC of the previous header or block.
    crc: u32,
    is_over: bool,
}

impl<'a> ImageParts<'a> {
    /// Creates the parts of one image of `cut`, which was made at `at`.
    #[must_use]
    pub fn new(cut: &'a MemoryCut, at: CutPoint, share: Share) -> Self {
        Self::of(Raw::new(pieces(cut, share), Some(EntryHasher::default())), at)
    }

    fn of(raw: Raw<'a>, at: CutPoint) -> Self {
        let header = encode_header(at);
        Self {
            header: Some(header),
            raw,
            stored: vec![0; zstd::zstd_safe::compress_bound(BLOCK_RAW_BYTES_MAX)],
            zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("level 1 exists; only memory can run out"),
            crc: super::word32(&header, HEADER_LEN - 4),
            is_over: false,
        }
    }

    /// Returns the counts and the digest of the image; complete once the last part was taken.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.raw.contents
    }

    fn block(&mut self) -> Bytes {
        let raw = &self.raw.bytes;
        // A block that zstd fails to compress is stored raw.
        let compressed = self.zstd.compress_to_buffer(raw, &mut self.stored).ok();
        let (codec, stored) = match compressed.filter(|len| len * 100 <= raw.len() * STORED_PERCENT_MAX) {
            Some(len) => (CODEC_ZSTD, &self.stored[..len]),
            None => (CODEC_RAW, raw.as_slice()),
        };
        let mut block = Vec::with_capacity(BLOCK_HEADER_LEN + stored.len());
        block.push(codec);
        block.extend_from_slice(&(raw.len() as u32).to_le_bytes());
        block.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        self.crc = chain(self.crc, [&block, stored]);
        block.extend_from_slice(&self.crc.to_le_bytes());
        block.extend_from_slice(stored);
        block.into()
    }

    fn footer(&mut self) -> Bytes {
        self.is_over = true;
        let mut footer = Vec::with_capacity(FOOTER_LEN);
        footer.push(FOOTER);
        self.raw.contents.counts.fields().for_each(|count| footer.extend_from_slice(&count.to_le_bytes()));
        footer.extend_from_slice(&chain(self.crc, [&footer, &[]]).to_le_bytes());
        footer.into()
    }
}

impl Iterator for ImageParts<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if let Some(header) = self.header.take() {
            return Some(Bytes::copy_from_slice(&header));
        }
        if self.is_over {
            return None;
        }
        self.raw.fill();
        Some(if self.raw.bytes.is_empty() { self.footer() } else { self.block() })
    }
}
