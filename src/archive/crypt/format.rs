//! The bytes of an encrypted object: its header, and the position of a plain byte among the stored ones.
//!
//! ```text
//! header (88) | segment 0: 65536 bytes, tag (16) | segment 1 | ... | last segment: 1 to 65536 bytes, tag
//! ```
//!
//! Pure. Stored length and plain length determine each other. The last segment is empty only in an empty object.

use super::keys::{FINGERPRINT_BYTES, KEY_ID_BYTES_MAX, KeyId};
use crate::error::{Error, Result};
use std::ops::Range;

/// Magic bytes: "WFCRYPT" and a line feed.
pub(super) const MAGIC: [u8; 8] = *b"WFCRYPT\n";
/// The version that this build writes, and the newest version that it reads.
pub(super) const VERSION: u16 = 1;
/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 88;
/// Plain bytes of every segment but the last.
pub(super) const SEGMENT_BYTES: usize = 64 << 10;
/// Bytes of a segment's tag.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of an object's salt.
pub(super) const SALT_BYTES: usize = 32;

const HEADER: u64 = HEADER_BYTES as u64;
const SEGMENT: u64 = SEGMENT_BYTES as u64;
const TAG: u64 = TAG_BYTES as u64;
const STORED_SEGMENT: u64 = SEGMENT + TAG;

/// Upper bound of an object's stored length: far beyond the limit of any store, and low enough that no sum of lengths
/// overflows.
const STORED_BYTES_MAX: u64 = 1 << 62;

/// The header in front of an encrypted object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ObjectHeader {
    /// Name of the key.
    pub key: KeyId,
    /// Fingerprint of the key: distinguishes another key of the same name from damage.
    pub fingerprint: [u8; FINGERPRINT_BYTES],
    /// Random number of this object, from which its own key is derived.
    pub salt: [u8; SALT_BYTES],
}

impl ObjectHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        let id = self.key.to_string();
        bytes[12..12 + id.len()].copy_from_slice(id.as_bytes());
        bytes[44..52].copy_from_slice(&self.fingerprint);
        bytes[52..84].copy_from_slice(&self.salt);
        let crc = crc32fast::hash(&bytes[..84]);
        bytes[84..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes the header at the beginning of `bytes`, which must begin with [`MAGIC`]; `what` names the object.
    pub(super) fn decode(bytes: &[u8], what: &str) -> Result<Self> {
        let corrupt = |at: &str, detail: &str| Error::corrupt(what, at, detail);
        if !bytes.starts_with(&MAGIC) {
            return Err(corrupt("byte 0", "it does not begin with the magic of an encrypted object"));
        }
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(corrupt("its end", "it ends within the header of an encrypted object"));
        };
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version > VERSION {
            return Err(Error::Version { what: what.to_owned(), found: version.into(), known: VERSION.into() });
        }
        if crc32fast::hash(&bytes[..84]).to_le_bytes() != bytes[84..] {
            return Err(corrupt("byte 84", "the CRC of the encryption header is wrong"));
        }
        let id = &bytes[12..12 + KEY_ID_BYTES_MAX];
        let end = id.iter().position(|byte| *byte == 0).unwrap_or(KEY_ID_BYTES_MAX);
        let is_padded = id[end..].iter().all(|byte| *byte == 0);
        let key = std::str::from_utf8(&id[..end]).ok().and_then(|id| id.parse().ok()).filter(|_| is_padded);
        let key = key.ok_or_else(|| corrupt("byte 12", "the header contains no valid key ID"))?;
        if version == 0 || bytes[10..12] != [0, 0] {
            return Err(corrupt("byte 8", "the header has version 0, or flags that its version does not define"));
        }
        Ok(Self {
            key,
            fingerprint: std::array::from_fn(|nth| bytes[44 + nth]),
            salt: std::array::from_fn(|nth| bytes[52 + nth]),
        })
    }
}

/// Returns the number of segments of an object with so many plain bytes.
pub(super) fn segments(plain: u64) -> u64 {
    plain.div_ceil(SEGMENT).max(1)
}

/// Returns the plain length of an object with so many stored bytes; `None` if no encrypted object has this length.
pub(super) fn plain_len(stored: u64) -> Option<u64> {
    let body = stored.checked_sub(HEADER + TAG).filter(|_| stored <= STORED_BYTES_MAX)?;
    let plain = body - body / STORED_SEGMENT * TAG;
    (stored_len(plain) == stored).then_some(plain)
}

/// Returns the stored length of an object with so many plain bytes.
pub(super) fn stored_len(plain: u64) -> u64 {
    HEADER + plain + segments(plain) * TAG
}

/// Returns the segments that hold these plain bytes. The range must not be empty.
pub(super) fn segments_of(plain: &Range<u64>) -> Range<u64> {
    plain.start / SEGMENT..plain.end.div_ceil(SEGMENT)
}

/// Returns the stored range of these segments. The object may end before the end of this range.
pub(super) fn stored_range(segments: &Range<u64>) -> Range<u64> {
    let at = |segment: u64| segment.saturating_mul(STORED_SEGMENT).saturating_add(HEADER);
    at(segments.start)..at(segments.end)
}

/// Returns the position of a segment's first plain byte.
pub(super) fn plain_start(segment: u64) -> u64 {
    segment * SEGMENT
}
