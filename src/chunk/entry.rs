//! The head of each entry in a section's raw bytes: the one place that writes and reads it.
//!
//! Guarantees: csn and time are stored relative to the entry before, so that no section can name a csn twice or go
//! back.

use super::kind::SectionKind;
use crate::varint;

/// The head of an entry; the payload follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EntryHead {
    /// Number of csns skipped since the entry before, or since the chunk's first csn.
    pub csn_skip: u64,
    /// Microseconds since the entry before, or since the chunk's first commit time.
    pub time_delta: u64,
    /// Number of RocksDB operations in the payload. Stored in the `wal` section only; 0 elsewhere.
    pub disk_ops: u32,
    /// Bytes of the payload.
    pub payload_len: u64,
}

impl EntryHead {
    /// No head is longer.
    pub(super) const ENCODED_LEN_MAX: usize = 4 * varint::BYTES_MAX;

    pub(super) fn encode(&self, kind: SectionKind, out: &mut Vec<u8>) {
        varint::put(out, self.csn_skip);
        varint::put(out, self.time_delta);
        if kind == SectionKind::Wal {
            varint::put(out, self.disk_ops.into());
        }
        varint::put(out, self.payload_len);
    }

    /// Decodes the head at the start of `bytes`, and returns it with its length; `None` if `bytes` ends inside the
    /// head. The error says what is wrong with the head.
    pub(super) fn decode(kind: SectionKind, bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let mut rest = bytes;
        let Some(csn_skip) = take(&mut rest)? else { return Ok(None) };
        let Some(time_delta) = take(&mut rest)? else { return Ok(None) };
        let Some(disk_ops) = (if kind == SectionKind::Wal { take(&mut rest)? } else { Some(0) }) else {
            return Ok(None);
        };
        let Some(payload_len) = take(&mut rest)? else { return Ok(None) };
        let disk_ops = u32::try_from(disk_ops).map_err(|_| format!("{disk_ops} operations in one entry"))?;
        match (kind, disk_ops, payload_len) {
            (SectionKind::Wal, 0, 0) => {}
            (SectionKind::Wal, 0, _) | (_, _, 0) => {
                return Err(format!("an entry with {disk_ops} operations has {payload_len} bytes"));
            }
            _ => {}
        }
        Ok(Some((Self { csn_skip, time_delta, disk_ops, payload_len }, bytes.len() - rest.len())))
    }
}

/// Takes a number off `bytes`; `None` if the number does not end there.
fn take(bytes: &mut &[u8]) -> Result<Option<u64>, String> {
    match varint::take(bytes) {
        Ok(value) => Ok(Some(value)),
        Err(varint::Fault::Unfinished) => Ok(None),
        Err(varint::Fault::Malformed) => {
            let begin = &bytes[..bytes.len().min(varint::BYTES_MAX)];
            Err(format!("{begin:02x?} does not begin with a varint of 64 bits in its shortest form"))
        }
    }
}
