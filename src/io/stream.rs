//! Bulk transfers over any backend: equal pieces, several under way at a time, bounded memory.

use super::pending::Pending;
use crate::error::Result;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Bytes of one request of a bulk transfer.
pub const BULK_PIECE_BYTES: usize = 256 * 1024;

/// Requests of one bulk transfer that are under way at a time. Bounds its memory to 4 MiB beside the caller's own
/// part.
pub const BULK_IN_FLIGHT: usize = 16;

/// Reads exactly `len` bytes at `offset`. `start` begins to fill a buffer from an offset. The pieces are parts of one
/// buffer, so that joining them copies nothing.
pub(super) fn read(start: impl Fn(u64, BytesMut) -> Pending<BytesMut>, offset: u64, len: usize) -> Result<Bytes> {
    let mut unread = BytesMut::zeroed(len);
    let mut at = offset;
    let mut in_flight: VecDeque<Pending<BytesMut>> = VecDeque::new();
    let mut whole = BytesMut::new();
    loop {
        while in_flight.len() < BULK_IN_FLIGHT && !unread.is_empty() {
            let piece = unread.split_to(BULK_PIECE_BYTES.min(unread.len()));
            let piece_len = piece.len() as u64;
            in_flight.push_back(start(at, piece));
            at += piece_len;
        }
        match in_flight.pop_front() {
            Some(next) => whole.unsplit(next.wait()?),
            None => return Ok(whole.freeze()),
        }
    }
}

/// Writes `parts` one after another from the start of a file. `start` begins to write bytes at an offset. Returns the
/// number of bytes. On success every write has been waited for.
pub(super) fn write(
    start: impl Fn(u64, Bytes) -> Pending<()>,
    parts: &mut dyn Iterator<Item = Result<Bytes>>,
) -> Result<u64> {
    let mut sink = Sink { start, at: 0, in_flight: VecDeque::new() };
    let mut gathered = BytesMut::new();
    for part in parts {
        let mut part = part?;
        while !part.is_empty() {
            if gathered.is_empty() && part.len() >= BULK_PIECE_BYTES {
                sink.push(part.split_to(BULK_PIECE_BYTES))?;
                continue;
            }
            if gathered.is_empty() {
                gathered.reserve(BULK_PIECE_BYTES);
            }
            let room = BULK_PIECE_BYTES - gathered.len();
            gathered.extend_from_slice(&part.split_to(room.min(part.len())));
            if gathered.len() == BULK_PIECE_BYTES {
                sink.push(gathered.split().freeze())?;
            }
        }
    }
    if !gathered.is_empty() {
        sink.push(gathered.freeze())?;
    }
    sink.finish()
}

/// Returns the pieces of `len` zero bytes. All of them share one allocation.
pub(super) fn zeroes(len: u64) -> impl Iterator<Item = Result<Bytes>> {
    let zeroes = Bytes::from(vec![0; BULK_PIECE_BYTES.min(len as usize)]);
    let mut left = len;
    std::iter::from_fn(move || {
        let piece = zeroes.slice(..(zeroes.len() as u64).min(left) as usize);
        left -= piece.len() as u64;
        (!piece.is_empty()).then_some(Ok(piece))
    })
}

/// Writes pieces to the end of a file.
struct Sink<F> {
    /// Begins to write bytes at an offset.
    start: F,
    /// Offset of the next piece, in bytes.
    at: u64,
    /// Writes that have begun and were not waited for, oldest first; at most [`BULK_IN_FLIGHT`].
    in_flight: VecDeque<Pending<()>>,
}

impl<F: Fn(u64, Bytes) -> Pending<()>> Sink<F> {
    fn push(&mut self, piece: Bytes) -> Result<()> {
        if self.in_flight.len() == BULK_IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            oldest.wait()?;
        }
        let len = piece.len() as u64;
        self.in_flight.push_back((self.start)(self.at, piece));
        self.at += len;
        Ok(())
    }

    fn finish(self) -> Result<u64> {
        for pending in self.in_flight {
            pending.wait()?;
        }
        Ok(self.at)
    }
}
