//! Bulk transfers over any [`Io`]: equal pieces, several under way at a time, bounded memory.

use super::{BULK_IN_FLIGHT, BULK_PIECE_BYTES, Io, LogFile, Pending};
use crate::error::Result;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Reads exactly `len` bytes at `offset`. The pieces are parts of one buffer, so that joining them copies nothing.
pub(super) fn read<I: Io + ?Sized>(io: &I, file: &LogFile, offset: u64, len: usize) -> Result<Bytes> {
    let mut unread = BytesMut::zeroed(len);
    let mut at = offset;
    let mut in_flight: VecDeque<Pending<BytesMut>> = VecDeque::new();
    let mut whole = BytesMut::new();
    loop {
        while in_flight.len() < BULK_IN_FLIGHT && !unread.is_empty() {
            let piece = unread.split_to(BULK_PIECE_BYTES.min(unread.len()));
            let piece_len = piece.len() as u64;
            in_flight.push_back(io.start_read(file, at, piece));
            at += piece_len;
        }
        match in_flight.pop_front() {
            Some(next) => whole.unsplit(next.wait()?),
            None => return Ok(whole.freeze()),
        }
    }
}

/// Writes `parts` one after another from the start of `file`. Returns the number of bytes. On success every write has
/// been waited for.
pub(super) fn write<I: Io + ?Sized>(
    io: &I,
    file: &LogFile,
    parts: &mut dyn Iterator<Item = Result<Bytes>>,
) -> Result<u64> {
    let mut sink = Sink { io, file, at: 0, in_flight: VecDeque::new() };
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
struct Sink<'a, I: ?Sized> {
    io: &'a I,
    file: &'a LogFile,
    /// Offset of the next piece, in bytes.
    at: u64,
    /// Writes that have begun and were not waited for, oldest first; at most [`BULK_IN_FLIGHT`].
    in_flight: VecDeque<Pending<()>>,
}

impl<I: Io + ?Sized> Sink<'_, I> {
    fn push(&mut self, piece: Bytes) -> Result<()> {
        if self.in_flight.len() == BULK_IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            oldest.wait()?;
        }
        let len = piece.len() as u64;
        self.in_flight.push_back(self.io.start_write(self.file, self.at, piece));
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
