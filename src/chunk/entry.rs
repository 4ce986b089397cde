//! What stands before each payload inside a section's raw bytes: the one place that writes and reads it.
//!
//! Guarantees: positions are stored relative to the entry before, so that no section can name a csn twice or go back.

use super::header::SectionKind;

/// Bytes of the longest varint of 64 bits.
const VARINT_LEN_MAX: usize = 10;

/// One entry's head; its payload follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EntryHead {
    /// Csns passed over since the entry before (or since the chunk's first csn).
    pub csn_skip: u64,
    /// Microseconds since the entry before (or since the chunk's first commit time).
    pub time_delta: u64,
    /// Number of RocksDB operations in the payload. Stored in the `wal` section only, 0 elsewhere.
    pub disk_ops: u32,
    /// Bytes of the payload.
    pub payload_len: u64,
}

impl EntryHead {
    /// No head is longer.
    pub const ENCODED_LEN_MAX: usize = 4 * VARINT_LEN_MAX;

    pub fn encode(&self, kind: SectionKind, out: &mut Vec<u8>) {
        put_varint(out, self.csn_skip);
        put_varint(out, self.time_delta);
        if kind == SectionKind::Wal {
            put_varint(out, self.disk_ops.into());
        }
        put_varint(out, self.payload_len);
    }

    /// The head at the start of `bytes` and its length; `None` if `bytes` ends inside it; else what is wrong with it.
    pub fn decode(kind: SectionKind, bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let mut rest = bytes;
        let Some(csn_skip) = get_varint(&mut rest)? else { return Ok(None) };
        let Some(time_delta) = get_varint(&mut rest)? else { return Ok(None) };
        let Some(disk_ops) = (if kind == SectionKind::Wal { get_varint(&mut rest)? } else { Some(0) }) else {
            return Ok(None);
        };
        let Some(payload_len) = get_varint(&mut rest)? else { return Ok(None) };
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

/// LEB128: seven bits a byte, lowest first, the high bit set on all but the last.
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint off `bytes`; `None` if it does not end there. Only the shortest form is accepted.
fn get_varint(bytes: &mut &[u8]) -> Result<Option<u64>, String> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().enumerate().take(VARINT_LEN_MAX) {
        let overflow = i + 1 == VARINT_LEN_MAX && byte > 1;
        if overflow || (byte == 0 && i > 0) {
            return Err(format!("{:02x?} is not a varint of 64 bits in its shortest form", &bytes[..=i]));
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Ok(Some(value));
        }
    }
    Ok(None)
}
