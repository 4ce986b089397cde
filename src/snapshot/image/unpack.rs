//! Unpacks the bytes of an image into the raw bytes of its blocks.
//!
//! Guarantees: the CRC of a block is checked before the block is decompressed; bytes after the footer are an error.

use super::{BLOCK_HEADER_LEN, BLOCK_RAW_BYTES_MAX, CODEC_RAW, CODEC_ZSTD, FOOTER, FOOTER_LEN};
use super::{Counts, chain, word32, word64};
use crate::error::{Error, Result};
use bytes::{Bytes, BytesMut};
use std::sync::mpsc::SyncSender;

/// Reads the bytes of an image in order.
pub(super) struct Source<'a, P> {
    parts: P,
    /// The unread rest of the last part.
    part: Bytes,
    /// Offset of the next byte in the image.
    at: u64,
    what: &'a str,
}

impl<'a, P: Iterator<Item = Result<Bytes>>> Source<'a, P> {
    /// Creates a source over the bytes of `parts`; `what` names the image in errors.
    pub(super) fn new(parts: P, what: &'a str) -> Self {
        Self { parts, part: Bytes::new(), at: 0, what }
    }

    fn corrupt(&self, detail: impl Into<String>) -> Error {
        Error::corrupt(self.what, format!("byte {}", self.at), detail)
    }

    /// Takes the next part if `part` is empty; leaves `part` empty at the end of the image.
    fn refill(&mut self) -> Result<()> {
        while self.part.is_empty() {
            let Some(next) = self.parts.next() else { return Ok(()) };
            self.part = next?;
        }
        Ok(())
    }

    /// Returns the next `len` bytes; `len` is at most the length of a block.
    pub(super) fn take(&mut self, len: usize) -> Result<Bytes> {
        self.refill()?;
        let taken = if self.part.len() >= len {
            self.part.split_to(len)
        } else {
            let mut joined = BytesMut::with_capacity(len);
            while joined.len() < len {
                self.refill()?;
                let room = (len - joined.len()).min(self.part.len());
                if room == 0 {
                    return Err(
                        self.corrupt(format!("the image ends, {} more bytes were expected", len - joined.len()))
                    );
                }
                joined.extend_from_slice(&self.part.split_to(room));
            }
            joined.freeze()
        };
        self.at += len as u64;
        Ok(taken)
    }
}

/// One result of unpacking.
pub(super) enum Unpacked {
    /// Offset and raw bytes of a block.
    Block(u64, Bytes),
    /// Offset of the footer and the counts in it.
    End(u64, Counts),
}

/// Checks and decompresses block after block, up to the footer or the first error. Ends early if the receiver is
/// dropped.
pub(super) fn unpack<P: Iterator<Item = Result<Bytes>>>(
    mut source: Source<'_, P>,
    mut crc: u32,
    out: &SyncSender<Result<Unpacked>>,
) {
    let mut zstd = None;
    loop {
        let next = next_block(&mut source, &mut crc, &mut zstd);
        let is_over = !matches!(next, Ok(Unpacked::Block(..)));
        if out.send(next).is_err() || is_over {
            return;
        }
    }
}

fn next_block<P: Iterator<Item = Result<Bytes>>>(
    source: &mut Source<'_, P>,
    crc: &mut u32,
    zstd: &mut Option<zstd::bulk::Decompressor<'static>>,
) -> Result<Unpacked> {
    let at = source.at;
    let codec = source.take(1)?[0];
    if codec == FOOTER {
        return footer(source, *crc);
    }
    let header = source.take(BLOCK_HEADER_LEN - 1)?;
    let (raw_len, stored_len, told) = (word32(&header, 0) as usize, word32(&header, 4) as usize, word32(&header, 8));
    let fits = match codec {
        CODEC_RAW => stored_len == raw_len,
        CODEC_ZSTD => stored_len < raw_len,
        _ => false,
    };
    if !fits || raw_len == 0 || raw_len > BLOCK_RAW_BYTES_MAX {
        return Err(source.corrupt(format!("block with codec {codec}, {raw_len} bytes stored as {stored_len}")));
    }
    let stored = source.take(stored_len)?;
    let mut head = [codec; 9];
    head[1..].copy_from_slice(&header[..8]);
    *crc = chain(*crc, [&head, &stored]);
    let corrupt = |detail: String| Error::corrupt(source.what, format!("the block at byte {at}"), detail);
    if *crc != told {
        return Err(corrupt(format!("the CRC is {crc:08x}, but the block states {told:08x}")));
    }
    if codec == CODEC_RAW {
        return Ok(Unpacked::Block(at, stored));
    }
    let context = match zstd {
        Some(context) => context,
        None => zstd.insert(zstd::bulk::Decompressor::new().map_err(|error| corrupt(error.to_string()))?),
    };
    let mut raw = vec![0; raw_len];
    match context.decompress_to_buffer(&stored, &mut raw) {
        Ok(len) if len == raw_len => Ok(Unpacked::Block(at, raw.into())),
        Ok(len) => Err(corrupt(format!("the block holds {len} bytes, but states {raw_len}"))),
        Err(error) => Err(corrupt(format!("zstd cannot decompress the block: {error}"))),
    }
}

fn footer<P: Iterator<Item = Result<Bytes>>>(source: &mut Source<'_, P>, crc: u32) -> Result<Unpacked> {
    let at = source.at - 1;
    let body = source.take(FOOTER_LEN - 1)?;
    let mut counted = [FOOTER; FOOTER_LEN - 4];
    counted[1..].copy_from_slice(&body[..FOOTER_LEN - 5]);
    let (crc, told) = (chain(crc, [&counted, &[]]), word32(&body, FOOTER_LEN - 5));
    if crc != told {
        return Err(source.corrupt(format!("the CRC of the footer is {crc:08x}, but the footer states {told:08x}")));
    }
    source.refill()?;
    if !source.part.is_empty() {
        return Err(source.corrupt("bytes follow the footer"));
    }
    let counts = Counts {
        keys: std::array::from_fn(|nth| word64(&body, 8 * nth)),
        elements: word64(&body, 8 * (Counts::FIELDS - 1)),
    };
    Ok(Unpacked::End(at, counts))
}
