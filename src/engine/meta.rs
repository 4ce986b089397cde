//! Value of a metadata key: type, expiry, and further fields by type; a string's value is stored inline.
//!
//! ```text
//! type u8 (0 string, 1 hash, 2 set, 3 stream; bit 7: an expiry follows) | [expiry ms u64]
//! string: value      hash, set: generation u64 | count u64
//! stream: generation u64 | count u64 | last id: ms u64, seq u64 | first id: ms u64, seq u64
//! ```
//! All integers are little-endian.

use super::key::{Generation, StreamId};
use crate::error::{Error, Result};

/// Type of a key that lives on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DiskType {
    /// A string.
    String = 0,
    /// A hash.
    Hash = 1,
    /// A set.
    Set = 2,
    /// A stream.
    Stream = 3,
}

const EXPIRES: u8 = 0x80;

/// Where a key's value lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// In memory, with an op-log.
    Memory,
    /// In RocksDB.
    Disk,
}

impl Home {
    /// Returns the name in commands and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }
}

/// What is known of a hash, a set or a stream without its elements; on disk, the metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Collection {
    /// Where the elements live.
    pub home: Home,
    /// Hash, set or stream.
    pub kind: DiskType,
    /// When the collection expires, in ms since the Unix epoch; 0: never.
    pub expire_ms: u64,
    /// Generation of the collection's current creation. On disk only.
    pub generation: Generation,
    /// Number of elements.
    pub count: u64,
    /// Last id given out. Streams only.
    pub last_id: StreamId,
    /// Lower bound of the ids of all entries: the first entry's id if there is an entry. Streams only. Reading starts
    /// here, so that it does not pass the tombstones of entries that were trimmed.
    pub first_id: StreamId,
}

impl Collection {
    /// Returns an empty collection on disk without expiry.
    #[must_use]
    pub fn new(kind: DiskType, generation: Generation) -> Self {
        let (home, none) = (Home::Disk, StreamId::MIN);
        Self { home, kind, expire_ms: 0, generation, count: 0, last_id: none, first_id: none }
    }

    /// Returns a hash or a set in memory.
    #[must_use]
    pub fn in_memory(kind: DiskType, expire_ms: u64, count: u64) -> Self {
        Self { home: Home::Memory, expire_ms, count, ..Self::new(kind, Generation(0)) }
    }

    /// Returns the stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(57);
        push_head(&mut out, self.kind, self.expire_ms);
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        if self.kind == DiskType::Stream {
            for id in [self.last_id, self.first_id] {
                out.extend_from_slice(&id.ms.to_le_bytes());
                out.extend_from_slice(&id.seq.to_le_bytes());
            }
        }
        out
    }
}

fn push_head(out: &mut Vec<u8>, kind: DiskType, expire_ms: u64) {
    if expire_ms == 0 {
        out.push(kind as u8);
    } else {
        out.push(kind as u8 | EXPIRES);
        out.extend_from_slice(&expire_ms.to_le_bytes());
    }
}

/// Returns the stored form of a string.
#[must_use]
pub fn encode_string(value: &[u8], expire_ms: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + value.len());
    push_head(&mut out, DiskType::String, expire_ms);
    out.extend_from_slice(value);
    out
}

/// A metadata value, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meta {
    /// A string whose value starts at this offset of the stored bytes.
    String {
        /// Offset of the value.
        value_at: usize,
        /// When the string expires, in ms since the Unix epoch; 0: never.
        expire_ms: u64,
    },
    /// A collection.
    Collection(Collection),
}

impl Meta {
    /// Decodes a stored metadata value; arbitrary bytes are an error.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        decode(bytes)
            .ok_or_else(|| Error::corrupt("key metadata", "value", format!("{} bytes that do not decode", bytes.len())))
    }

    /// Returns when the key expires, in ms since the Unix epoch; 0: never.
    #[must_use]
    pub fn expire_ms(&self) -> u64 {
        match self {
            Self::String { expire_ms, .. } => *expire_ms,
            Self::Collection(collection) => collection.expire_ms,
        }
    }
}

fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(u64::from_le_bytes(*head))
}

fn decode(bytes: &[u8]) -> Option<Meta> {
    let (&head, mut rest) = bytes.split_first()?;
    let expire_ms = if head & EXPIRES == 0 { 0 } else { take_u64(&mut rest)? };
    let kind = match head & !EXPIRES {
        0 => return Some(Meta::String { value_at: bytes.len() - rest.len(), expire_ms }),
        1 => DiskType::Hash,
        2 => DiskType::Set,
        3 => DiskType::Stream,
        _ => return None,
    };
    let mut collection = Collection::new(kind, Generation(take_u64(&mut rest)?));
    collection.expire_ms = expire_ms;
    collection.count = take_u64(&mut rest)?;
    if kind == DiskType::Stream {
        collection.last_id = StreamId { ms: take_u64(&mut rest)?, seq: take_u64(&mut rest)? };
        collection.first_id = StreamId { ms: take_u64(&mut rest)?, seq: take_u64(&mut rest)? };
    }
    rest.is_empty().then_some(Meta::Collection(collection))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Meta::decode(&bytes);
        }

        #[test]
        fn metadata_survives_a_round_trip(kind in 1u8..4, expire_ms: u64, generation: u64, count: u64, ms: u64, seq: u64) {
            let kind = [DiskType::String, DiskType::Hash, DiskType::Set, DiskType::Stream][kind as usize];
            let mut collection = Collection { expire_ms, count, ..Collection::new(kind, Generation(generation)) };
            if kind == DiskType::Stream {
                collection.last_id = StreamId { ms, seq };
                collection.first_id = StreamId { ms: seq, seq: ms };
            }
            prop_assert_eq!(Meta::decode(&collection.encode()).unwrap(), Meta::Collection(collection));
        }
    }

    #[test]
    fn a_string_keeps_its_value_and_expiry() {
        let stored = encode_string(b"value", 77);
        let Meta::String { value_at, expire_ms } = Meta::decode(&stored).unwrap() else { panic!("not a string") };
        assert_eq!((&stored[value_at..], expire_ms), (&b"value"[..], 77));
    }
}
