//! Decodes an image into the memory engines: one thread unpacks blocks, the caller's thread builds the values.
//!
//! Guarantees: a value is put into the engines only when it is complete; input that no writer produces is refused.

use super::unpack::{Source, Unpacked, unpack};
use super::{ENGINE_LIST, ENGINE_ZSET, HEADER_LEN, decode_header, word32, word64};
use crate::engine::memory::{Entry, List, Memory, Zset, ZsetBuilder};
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
    let memory = Mutex::default();
    let at = read_into(parts, what, &memory)?;
    Ok((memory.into_inner(), at))
}

/// Reads several images of one cut, which have disjoint keys, up to four at a time. `open` returns the bytes of an
/// image, given its number; `what` returns its name for errors.
pub fn read_images<P: Iterator<Item = Result<Bytes>> + Send>(
    count: usize,
    what: impl Fn(usize) -> String + Sync,
    open: impl Fn(usize) -> P + Sync,
) -> Result<(Memory, CutPoint)> {
    assert!(count > 0, "a cut has an image");
    let (memory, next, position) = (Mutex::default(), AtomicUsize::new(0), Mutex::new(None));
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
    Ok((memory.into_inner(), position.into_inner().expect("an image was read")))
}

/// Reads an image and puts its values into `memory`.
fn read_into(
    parts: impl Iterator<Item = Result<Bytes>> + Send,
    what: &str,
    memory: &Mutex<Memory>,
) -> Result<CutPoint> {
    let mut source = Source::new(parts, what);
    let header: [u8; HEADER_LEN] = source.take(HEADER_LEN)?[..].try_into().expect("its length was asked for");
    let (position, crc) = decode_header(&header, what)?;
    let (blocks_out, blocks_in) = sync_channel(BLOCKS_AHEAD_MAX);
    std::thread::scope(|scope| {
        scope.spawn(move || unpack(source, crc, &blocks_out));
        Builder { blocks: Raw::new(blocks_in, what), memory, counts: [0; 3] }.build()
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
    /// The counts in the footer: lists, sorted sets, elements; `None` before the footer was read.
    end: Option<[u64; 3]>,
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

/// Builds the values and puts them into the engines.
struct Builder<'a> {
    blocks: Raw<'a>,
    /// Locked for one key at a time, because other threads may read images into it too.
    memory: &'a Mutex<Memory>,
    /// Numbers of lists, sorted sets and elements so far.
    counts: [u64; 3],
}

impl Builder<'_> {
    fn build(mut self) -> Result<()> {
        while self.blocks.advance()? {
            self.entry()?;
        }
        let told = self.blocks.end.expect("the end was reached");
        if told != self.counts {
            let detail =
                format!("found {:?} lists, sorted sets and elements, but the footer states {told:?}", self.counts);
            return Err(self.blocks.corrupt(detail));
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<()> {
        let head: [u8; 21] = self.blocks.fields()?;
        let (expire_ms, count) = (word64(&head, 1), word64(&head, 9));
        let key = self.blocks.bytes(word32(&head, 17))?.to_vec();
        let is_new = match head[0] {
            ENGINE_LIST if count > 0 => {
                let value = self.list(count)?;
                self.counts[0] += 1;
                self.insert(&key, |memory| memory.lists.insert(&key, Entry { value, expire_ms }))
            }
            ENGINE_ZSET if count > 0 => {
                let value = self.zset(count)?;
                self.counts[1] += 1;
                self.insert(&key, |memory| memory.zsets.insert(&key, Entry { value, expire_ms }))
            }
            ENGINE_LIST | ENGINE_ZSET => false,
            engine => return Err(self.blocks.corrupt(format!("engine number {engine} does not exist"))),
        };
        if !is_new {
            return Err(self.blocks.corrupt(format!("key \"{}\" is empty or occurs twice", key.escape_ascii())));
        }
        self.counts[2] += count;
        Ok(())
    }

    /// Inserts a value under `key`; returns false if the key exists already.
    fn insert(&self, key: &[u8], insert: impl FnOnce(&mut Memory)) -> bool {
        let mut memory = self.memory.lock();
        let is_new = memory.lists.get(key).is_none() && memory.zsets.get(key).is_none();
        if is_new {
            insert(&mut memory);
        }
        is_new
    }

    fn list(&mut self, count: u64) -> Result<List> {
        let mut list = List::new();
        for _ in 0..count {
            let len = u32::from_le_bytes(self.blocks.fields()?);
            list.push_back(self.blocks.bytes(len)?);
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
