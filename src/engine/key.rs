//! Layout of keys in RocksDB: the one place that formats and parses them.
//!
//! Every user key starts with its Redis Cluster slot as u16 big-endian, so that a slot range is one key range. Slots
//! end at 16383; `0xFFFF` introduces the system keys, which sort last.
//!
//! ```text
//! default   slot u16 | key                                             metadata, a string's value inline
//! sub       slot u16 | key length u32 | key | generation u64 | field   hash field -> value, set member -> nothing
//! stream    slot u16 | key length u32 | key | generation u64 | ms u64 | seq u64
//! default   0xFFFF | "csn"                                             csn, time and epoch of the last commit
//! default   0xFFFF | "x" | expiry ms u64 | key                         expiry index (a hint, checked when it is due)
//! default   0xFFFF | "m" | name                                        a mark: csn, time and epoch of its own commit
//! ```
//!
//! All integers in keys are big-endian, so that byte order is numeric order.

use std::ops::Range;

/// Number of Redis Cluster slots.
pub const SLOTS: u16 = 16384;
/// First two bytes of every system key.
const SYSTEM: [u8; 2] = [0xFF, 0xFF];
/// Key of the last commit's position, written as the last record of every batch.
pub const CSN_KEY: &[u8] = b"\xFF\xFFcsn";
/// First bytes of the keys of the expiry index.
const EXPIRY_PREFIX: &[u8] = b"\xFF\xFFx";
/// First bytes of the keys of marks.
const MARK_PREFIX: &[u8] = b"\xFF\xFFm";

/// CRC16 with tables for 16 bytes at a time, because each command computes a slot once or twice.
static CRC16: crc::Crc<u16, crc::Table<16>> = crc::Crc::<u16, crc::Table<16>>::new(&crc::CRC_16_XMODEM);

/// Generation of a collection: the csn of the commit that created the collection. Elements carry the generation of the
/// creation that they belong to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Generation(pub u64);

/// Id of a stream entry: its position in the stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct StreamId {
    /// Milliseconds part.
    pub ms: u64,
    /// Sequence part.
    pub seq: u64,
}

impl StreamId {
    /// The smallest id.
    pub const MIN: Self = Self { ms: 0, seq: 0 };
    /// The largest id.
    pub const MAX: Self = Self { ms: u64::MAX, seq: u64::MAX };

    /// Returns the next larger id; `None` after `MAX`.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Self { ms: self.ms, seq }),
            None => self.ms.checked_add(1).map(|ms| Self { ms, seq: 0 }),
        }
    }

    /// Returns the next smaller id; `None` before `MIN`.
    #[must_use]
    pub fn prev(self) -> Option<Self> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Self { ms: self.ms, seq }),
            None => self.ms.checked_sub(1).map(|ms| Self { ms, seq: u64::MAX }),
        }
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Returns the Redis Cluster slot of a key: CRC16 of the part between the first `{` and the next `}`, if there is such
/// a part and it is not empty; else CRC16 of the whole key.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|&b| b == b'{').and_then(|open| {
        let length = key[open + 1..].iter().position(|&b| b == b'}')?;
        (length > 0).then(|| &key[open + 1..open + 1 + length])
    });
    CRC16.checksum(tag.unwrap_or(key)) % SLOTS
}

/// Returns the key of a user key's metadata.
#[must_use]
pub fn meta(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + key.len());
    out.extend_from_slice(&slot(key).to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Returns the user key in a metadata key; `None` for a system key.
#[must_use]
pub fn user_key(meta: &[u8]) -> Option<&[u8]> {
    (meta.len() >= 2 && meta[..2] != SYSTEM).then(|| &meta[2..])
}

/// Returns the slot in a metadata key; `None` for a system key.
#[must_use]
pub fn slot_of_meta(meta: &[u8]) -> Option<u16> {
    meta.first_chunk().map(|slot| u16::from_be_bytes(*slot)).filter(|&slot| slot < SLOTS)
}

/// Returns the common prefix of the keys of all elements of one creation of a collection.
#[must_use]
pub fn element_prefix(key: &[u8], generation: Generation) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + 4 + key.len() + 8 + 24);
    out.extend_from_slice(&slot(key).to_be_bytes());
    out.extend_from_slice(&u32::try_from(key.len()).expect("keys are bounded by the frame limit").to_be_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&generation.0.to_be_bytes());
    out
}

/// Returns the key of a hash field or a set member.
#[must_use]
pub fn sub(key: &[u8], generation: Generation, field: &[u8]) -> Vec<u8> {
    let mut out = element_prefix(key, generation);
    out.extend_from_slice(field);
    out
}

/// Returns the key of a stream entry.
#[must_use]
pub fn stream(key: &[u8], generation: Generation, id: StreamId) -> Vec<u8> {
    let mut out = element_prefix(key, generation);
    out.extend_from_slice(&id.ms.to_be_bytes());
    out.extend_from_slice(&id.seq.to_be_bytes());
    out
}

/// Returns the range of all keys that start with `prefix`.
#[must_use]
pub fn prefix_range(prefix: Vec<u8>) -> Range<Vec<u8>> {
    let mut end = prefix.clone();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            break;
        }
    }
    prefix..end
}

/// Returns the range of all user keys of a family.
#[must_use]
pub fn user_range() -> Range<Vec<u8>> {
    vec![0, 0]..SYSTEM.to_vec()
}

/// The parts of an element key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Element<'a> {
    /// The two bytes of the slot. Slot and user key together are the metadata key.
    pub slot: [u8; 2],
    /// The user key.
    pub key: &'a [u8],
    /// Generation of the creation that the element belongs to.
    pub generation: Generation,
    /// All bytes before `rest`: the common prefix of the elements of that creation.
    pub prefix: &'a [u8],
    /// Field, member, or the 16 bytes of a stream id.
    pub rest: &'a [u8],
}

/// Parses an element key; `None` if the bytes are no element key.
#[must_use]
pub fn parse_element(bytes: &[u8]) -> Option<Element<'_>> {
    let (slot, rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (generation, rest) = rest.split_first_chunk::<8>()?;
    let prefix = &bytes[..bytes.len() - rest.len()];
    Some(Element { slot: *slot, key, generation: Generation(u64::from_be_bytes(*generation)), prefix, rest })
}

/// Returns the stream id in `rest` of a stream entry's key; `None` if `rest` is not 16 bytes long.
#[must_use]
pub fn parse_stream_id(rest: &[u8]) -> Option<StreamId> {
    let (ms, seq) = rest.split_first_chunk::<8>()?;
    Some(StreamId { ms: u64::from_be_bytes(*ms), seq: u64::from_be_bytes(seq.try_into().ok()?) })
}

/// Returns the key of an entry of the expiry index.
#[must_use]
pub fn expiry(at_ms: u64, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(EXPIRY_PREFIX.len() + 8 + key.len());
    out.extend_from_slice(EXPIRY_PREFIX);
    out.extend_from_slice(&at_ms.to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Returns the range of the expiry index from `from_ms` up to and including `until_ms`.
#[must_use]
pub fn expiry_range(from_ms: u64, until_ms: u64) -> Range<Vec<u8>> {
    expiry(from_ms, b"")..expiry(until_ms.saturating_add(1), b"")
}

/// Returns time and user key of an entry of the expiry index; `None` if the bytes are no such entry.
#[must_use]
pub fn parse_expiry(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (at, key) = bytes.strip_prefix(EXPIRY_PREFIX)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*at), key))
}

/// Returns the key of a mark.
#[must_use]
pub fn mark(name: &str) -> Vec<u8> {
    [MARK_PREFIX, name.as_bytes()].concat()
}

/// Returns the range of all marks.
#[must_use]
pub fn mark_range() -> Range<Vec<u8>> {
    prefix_range(MARK_PREFIX.to_vec())
}

/// Returns the name in the key of a mark; `None` if the bytes are no key of a mark.
#[must_use]
pub fn parse_mark(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes.strip_prefix(MARK_PREFIX)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(slot(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_eq!(slot(b"foo{}bar"), CRC16.checksum(b"foo{}bar") % SLOTS);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }

    #[test]
    fn elements_of_a_key_are_one_range_apart_from_others() {
        let range = prefix_range(element_prefix(b"k", Generation(7)));
        assert!(range.contains(&sub(b"k", Generation(7), b"\xFF\xFF\xFF")));
        assert!(!range.contains(&sub(b"k", Generation(8), b"")));
        let key = stream(b"some", Generation(9), StreamId { ms: 5, seq: 6 });
        let element = parse_element(&key).unwrap();
        assert_eq!((element.key, element.generation), (&b"some"[..], Generation(9)));
        assert_eq!(parse_stream_id(element.rest), Some(StreamId { ms: 5, seq: 6 }));
        assert_eq!(parse_element(&key[..5]), None);
    }

    #[test]
    fn a_prefix_of_all_ones_has_an_end() {
        assert_eq!(prefix_range(vec![1, 0xFF]).end, vec![2]);
    }

    #[test]
    fn expiry_entries_sort_by_time() {
        assert!(expiry(9, b"z") < expiry(10, b"a"));
        assert_eq!(parse_expiry(&expiry(10, b"a")), Some((10, &b"a"[..])));
        assert_eq!(user_key(CSN_KEY), None);
    }

    #[test]
    fn marks_are_neither_keys_nor_expiry_entries() {
        let key = mark("before-upgrade");
        assert_eq!(parse_mark(&key), Some("before-upgrade"));
        assert!(mark_range().contains(&key) && !mark_range().contains(&CSN_KEY.to_vec()));
        assert!(!user_range().contains(&key) && !expiry_range(0, u64::MAX).contains(&key), "what FLUSHALL clears");
        assert_eq!(user_key(&key), None);
        assert_eq!(parse_mark(&expiry(1, b"k")), None);
    }
}
