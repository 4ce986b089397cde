//! Decodes an image into the memory home: one thread unpacks blocks, the caller's thread builds the values.
//!
//! Guarantees: a value is put into memory only when it is complete; input that no writer produces is refused.

use super::unpack::{Source, Unpacked, unpack};
use super::{Counts, HEADER_LEN, decode_header, type_byte, word32, word64};
use crate::engine::memory::{Change, LargeValue, List, Memory, Slot, Type, Zset, ZsetBuilder};
use crate::error::{Error, Result};
use crate::io::{BULK_IN_FLIGHT, BULK_PIECE_BYTES, Io, LogFile, Pending};
use crate::log::recovery::CutPoint;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

/// Largest number of decompressed blocks that wait for the builder.
const BLOCKS_AHEAD_MAX: usize = 4;

/// Largest number of images of one cut that are read at a time, each with two threads.
const IMAGES_READ_MAX: usize = 4;

/// Reads the image at `path`; returns its content and position.
pub fn read_image_file(io: &dyn Io, path: &Path) -> Result<(Memory, CutPoint)> {
    let file = io.open_read(path)?;
    let left = io.len(&file)?;
    let parts = FileParts { io, file, at: 0, left, in_flight: VecDeque::new() };
    read_image(parts, &path.display().to_string())
}

/// Reads an image whose bytes come in `parts` of any size; `what` names the image in errors.
pub fn read_image(parts: impl Iterator<Item = Result<Bytes>> + Send, what: &str) -> Result<(Memory, CutPoint)> {
    let memory = Memory::new();
    let at = read_into(parts, what, &memory)?;
    Ok((memory, at))
}

/// Reads several images of one cut, which have disjoint keys, up to four at a time. `open` returns the bytes of an
/// image, given its number; `what` returns its name for errors.
pub fn read_images<P: Iterator<Item = Result<Bytes>> + Send>(
    count: usize,
    what: impl Fn(usize) -> String + Sync,
    open: impl Fn(usize) -> P + Sync,
) -> Result<(Memory, CutPoint)> {
    assert!(count > 0, "a cut has an image");
    let (memory, next, position) = (Memory::new(), AtomicUsize::new(0), Mutex::new(None));
    let read_one = |nth: usize| {
        let what = what(nth);
        let at = read_into(open(nth), &what, &memory)?;
        let first = *position.lock().get_or_insert(at);
        if first == at {
            return Ok(());
        }
        let detail = format!("cut at csn {}, another image of the base at {}", at.position.csn, first.position.csn);
        Err(Error::corrupt(what, "header", detail))
    };
    let read_some = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= count {
                return Ok(());
            }
            // After a failure no further image is begun.
            read_one(nth).inspect_err(|_| next.store(count, Ordering::Relaxed))?;
        }
    };
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(IMAGES_READ_MAX).min(count);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..readers).map(|_| scope.spawn(read_some)).collect();
        let own = read_some();
        others.into_iter().map(|other| other.join().expect("reading an image does not panic")).fold(own, Result::and)
    })?;
    Ok((memory, position.into_inner().expect("an image was read")))
}

/// Reads an image and puts its values into `memory`.
fn read_into(parts: impl Iterator<Item = Result<Bytes>> + Send, what: &str, memory: &Memory) -> Result<CutPoint> {
    let mut source = Source::new(parts, what);
    let header: [u8; HEADER_LEN] = source.take(HEADER_LEN)?[..].try_into().expect("its length was asked for");
    let (position, crc) = decode_header(&header, what)?;
    let (blocks_out, blocks_in) = sync_channel(BLOCKS_AHEAD_MAX);
    std::thread::scope(|scope| {
        scope.spawn(move || unpack(source, crc, &blocks_out));
        let of = Change { csn: position.position.csn, hidden: None };
        Builder { blocks: Raw::new(blocks_in, what), memory, of, counts: Counts::default() }.build()
    })?;
    Ok(position)
}

/// Reads a file piece by piece, with read-ahead.
struct FileParts<'a> {
    io: &'a dyn Io,
    file: LogFile,
    /// Offset in the file at which the next read begins.
    at: u64,
    /// Bytes that no read was started for yet.
    left: u64,
    in_flight: VecDeque<Pending<BytesMut>>,
}

impl Iterator for FileParts<'_> {
    type Item = Result<Bytes>;

    fn next(&mut self) -> Option<Result<Bytes>> {
        while self.in_flight.len() < BULK_IN_FLIGHT && self.left > 0 {
            let len = (BULK_PIECE_BYTES as u64).min(self.left);
            self.in_flight.push_back(self.io.start_read(&self.file, self.at, BytesMut::zeroed(len as usize)));
            self.at += len;
            self.left -= len;
        }
        self.in_flight.pop_front().map(|piece| piece.wait().map(BytesMut::freeze))
    }
}

/// The raw bytes of all blocks, in order.
struct Raw<'a> {
    blocks: Receiver<Result<Unpacked>>,
    block: Bytes,
    /// Offset of the block in the image.
    block_at: u64,
    /// Offset in the block of the next byte.
    at: usize,
    /// Buffer in which a byte string that lies over several blocks is joined.
    joined: Vec<u8>,
    /// The counts in the footer; `None` before the footer was read.
    end: Option<Counts>,
    what: &'a str,
}

impl<'a> Raw<'a> {
    fn new(blocks: Receiver<Result<Unpacked>>, what: &'a str) -> Self {
        Self { blocks, block: Bytes::new(), block_at: 0, at: 0, joined: Vec::new(), end: None, what }
    }

    fn corrupt(&self, detail: impl Into<String>) -> Error {
        Error::corrupt(self.what, format!("raw byte {} of the block at byte {}", self.at, self.block_at), detail)
    }

    /// Moves to the next block when the current one is used up; returns false at the end of the image.
    fn advance(&mut self) -> Result<bool> {
        while self.at == self.block.len() && self.end.is_none() {
            let next = self.blocks.recv().unwrap_or_else(|_| Err(self.corrupt("the image ends without a footer")))?;
            self.at = 0;
            match next {
                Unpacked::Block(at, raw) => (self.block_at, self.block) = (at, raw),
                Unpacked::End(at, counts) => {
                    (self.block_at, self.block, self.end) = (at, Bytes::new(), Some(counts));
                }
            }
        }
        Ok(self.end.is_none())
    }

    /// Reads fixed fields, which never lie over two blocks.
    fn fields<const N: usize>(&mut self) -> Result<[u8; N]> {
        if self.at == self.block.len() && !self.advance()? {
            return Err(self.corrupt("the image ends inside a value"));
        }
        let Some(fields) = self.block.get(self.at..self.at + N) else {
            return Err(self.corrupt("the block ends inside a field"));
        };
        let fields = fields.try_into().expect("its length was asked for");
        self.at += N;
        Ok(fields)
    }

    /// Reads a byte string of `len` bytes.
    fn bytes(&mut self, len: u32) -> Result<&[u8]> {
        let len = len as usize;
        if self.block.len() - self.at >= len {
            self.at += len;
            return Ok(&self.block[self.at - len..self.at]);
        }
        self.joined.clear();
        while self.joined.len() < len {
            if !self.advance()? {
                return Err(self.corrupt("the image ends inside a byte string"));
            }
            let until = self.block.len().min(self.at + len - self.joined.len());
            self.joined.extend_from_slice(&self.block[self.at..until]);
            self.at = until;
        }
        Ok(&self.joined)
    }
}

/// Builds the values and puts them into memory.
struct Builder<'a> {
    blocks: Raw<'a>,
    /// Other threads may read other images into it at the same time.
    memory: &'a Memory,
    of: Change,
    /// Counts of the entries so far.
    counts: Counts,
}

impl Builder<'_> {
    fn build(mut self) -> Result<()> {
        while self.blocks.advance()? {
            self.entry()?;
        }
        let told = self.blocks.end.expect("the end was reached");
        if told != self.counts {
            let detail = format!("found {:?}, but the footer states {told:?}", self.counts);
            return Err(self.blocks.corrupt(detail));
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<()> {
        let head: [u8; 21] = self.blocks.fields()?;
        let Some(of) = Type::ALL.into_iter().find(|of| type_byte(*of) == head[0]) else {
            return Err(self.blocks.corrupt(format!("type {} does not exist", head[0])));
        };
        let (expire_ms, count) = (word64(&head, 1), word64(&head, 9));
        let key = self.blocks.bytes(word32(&head, 17))?.to_vec();
        let has_valid_count = count > 0 && (of != Type::String || count == 1);
        if !has_valid_count {
            let detail = format!("key \"{}\" has {count} elements", key.escape_ascii());
            return Err(self.blocks.corrupt(detail));
        }
        let slot = match of {
            Type::String => self.string(&key, expire_ms)?,
            Type::Hash => self.hash(&key, expire_ms, count)?,
            Type::Set => self.set(&key, expire_ms, count)?,
            Type::List => Slot::large(&key, expire_ms, LargeValue::List(self.list(count)?)),
            Type::Zset => Slot::large(&key, expire_ms, LargeValue::Zset(self.zset(count)?)),
        };
        if !self.memory.insert_new(slot, self.of) {
            return Err(self.blocks.corrupt(format!("key \"{}\" occurs twice", key.escape_ascii())));
        }
        self.counts.keys[of as usize] += 1;
        self.counts.elements += count;
        Ok(())
    }

    /// Reads a byte string with its length before it.
    fn bytes(&mut self) -> Result<&[u8]> {
        let len = u32::from_le_bytes(self.blocks.fields()?);
        self.blocks.bytes(len)
    }

    fn string(&mut self, key: &[u8], expire_ms: u64) -> Result<Slot> {
        Ok(Slot::string(key, expire_ms, self.bytes()?))
    }

    fn hash(&mut self, key: &[u8], expire_ms: u64, count: u64) -> Result<Slot> {
        let mut field = self.bytes()?.to_vec();
        let mut slot = Slot::hash(key, expire_ms, &field, self.bytes()?);
        for _ in 1..count {
            let next = self.bytes()?.to_vec();
            if next <= field {
                return Err(self.blocks.corrupt("a field is out of order"));
            }
            field = next;
            slot.set_field(&field, self.bytes()?);
        }
        Ok(slot)
    }

    fn set(&mut self, key: &[u8], expire_ms: u64, count: u64) -> Result<Slot> {
        let mut member = self.bytes()?.to_vec();
        let mut slot = Slot::set(key, expire_ms, &member);
        for _ in 1..count {
            let next = self.bytes()?.to_vec();
            if next <= member {
                return Err(self.blocks.corrupt("a member is out of order"));
            }
            member = next;
            slot.add_member(&member);
        }
        Ok(slot)
    }

    fn list(&mut self, count: u64) -> Result<List> {
        let mut list = List::new();
        for _ in 0..count {
            list.push_back(self.bytes()?);
        }
        Ok(list)
    }

    fn zset(&mut self, count: u64) -> Result<Zset> {
        let mut zset = ZsetBuilder::default();
        for _ in 0..count {
            let head: [u8; 12] = self.blocks.fields()?;
            let score = f64::from_bits(word64(&head, 0));
            if !zset.push(self.blocks.bytes(word32(&head, 8))?, score) {
                return Err(self.blocks.corrupt("a member is out of order"));
            }
        }
        zset.finish().ok_or_else(|| self.blocks.corrupt("a member occurs twice"))
    }
}
