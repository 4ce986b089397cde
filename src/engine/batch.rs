//! The records inside a RocksDB write batch, built and parsed byte by byte.
//!
//! The `rocksdb` crate's own batch does not serve: it cannot carry LogData at a chosen place, its iterator shows
//! neither LogData nor range deletes, and a malformed batch is detected only after it reached the WAL. The format is
//! that of `db/write_batch.cc` of RocksDB 11.8. Only the record kinds that walferry writes are accepted; every other
//! tag is an error.

use crate::engine::key::CSN_KEY;
use crate::error::{Error, Result};

/// Bytes before the first record of a write batch: sequence u64, count u32, little-endian.
pub const HEADER_LEN: usize = 12;

/// Column families, in the fixed order in which they were created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Family {
    /// Key metadata (a string's value inline) and the system keys.
    Default = 0,
    /// Hash fields and set members.
    Sub = 1,
    /// Stream entries.
    Stream = 2,
}

impl Family {
    /// All families, in the order of their ids.
    pub const ALL: [Self; 3] = [Self::Default, Self::Sub, Self::Stream];

    /// Returns RocksDB's name of the family.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Sub => "sub",
            Self::Stream => "stream",
        }
    }

    fn from_id(id: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }
}

const TAG_DELETE: u8 = 0x0;
const TAG_PUT: u8 = 0x1;
const TAG_LOG_DATA: u8 = 0x3;
const TAG_FAMILY_DELETE: u8 = 0x4;
const TAG_FAMILY_PUT: u8 = 0x5;
const TAG_FAMILY_DELETE_RANGE: u8 = 0xE;
const TAG_DELETE_RANGE: u8 = 0xF;

/// One record of a write batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// Sets a key.
    Put(Family, &'a [u8], &'a [u8]),
    /// Deletes a key.
    Delete(Family, &'a [u8]),
    /// Deletes the keys from the first (inclusive) to the second (exclusive).
    DeleteRange(Family, &'a [u8], &'a [u8]),
    /// Bytes that go to the WAL only.
    LogData(&'a [u8]),
}

/// Where the key and the value of a put or a delete lie in the buffer that the record was appended to.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Offset and length of the key.
    pub key: (usize, usize),
    /// Offset and length of the value; length 0 for a delete.
    pub value: (usize, usize),
}

/// Appends a put.
pub fn push_put(out: &mut Vec<u8>, family: Family, key: &[u8], value: &[u8]) -> Placed {
    push_tag(out, family, TAG_PUT, TAG_FAMILY_PUT);
    let key = push_bytes(out, key);
    let value = push_bytes(out, value);
    Placed { key, value }
}

/// Appends a delete.
pub fn push_delete(out: &mut Vec<u8>, family: Family, key: &[u8]) -> Placed {
    push_tag(out, family, TAG_DELETE, TAG_FAMILY_DELETE);
    let key = push_bytes(out, key);
    Placed { key, value: (out.len(), 0) }
}

/// Appends a range delete; `from` is inclusive, `to` exclusive.
pub fn push_delete_range(out: &mut Vec<u8>, family: Family, from: &[u8], to: &[u8]) {
    push_tag(out, family, TAG_DELETE_RANGE, TAG_FAMILY_DELETE_RANGE);
    push_bytes(out, from);
    push_bytes(out, to);
}

/// Appends bytes that go to the WAL only.
pub fn push_log_data(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(TAG_LOG_DATA);
    push_bytes(out, bytes);
}

fn push_tag(out: &mut Vec<u8>, family: Family, default_tag: u8, family_tag: u8) {
    if family == Family::Default {
        out.push(default_tag);
    } else {
        out.push(family_tag);
        out.push(family as u8);
    }
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) -> (usize, usize) {
    let mut length = u32::try_from(bytes.len()).expect("keys and values are bounded below 4 GiB by the frame limit");
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    let at = out.len();
    out.extend_from_slice(bytes);
    (at, bytes.len())
}

/// Iterator over the records of a batch without its header. The iterator ends after the first error.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Returns the records that start at the first byte of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns the offset of the next record.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    fn corrupt(&self, detail: impl Into<String>) -> Error {
        Error::corrupt("write batch", format!("byte {}", self.at), detail)
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| self.corrupt("ends inside a record"))?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.corrupt("has a length of more than five bytes"))
    }

    fn slice(&mut self) -> Result<&'a [u8]> {
        let length = self.varint()? as usize;
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.corrupt(format!("announces {length} bytes that are missing")))?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn family(&mut self) -> Result<Family> {
        let id = self.varint()?;
        Family::from_id(id).ok_or_else(|| self.corrupt(format!("names column family {id}, which does not exist")))
    }

    fn record(&mut self) -> Result<Record<'a>> {
        Ok(match self.byte()? {
            TAG_PUT => Record::Put(Family::Default, self.slice()?, self.slice()?),
            TAG_DELETE => Record::Delete(Family::Default, self.slice()?),
            TAG_DELETE_RANGE => Record::DeleteRange(Family::Default, self.slice()?, self.slice()?),
            TAG_FAMILY_PUT => Record::Put(self.family()?, self.slice()?, self.slice()?),
            TAG_FAMILY_DELETE => Record::Delete(self.family()?, self.slice()?),
            TAG_FAMILY_DELETE_RANGE => Record::DeleteRange(self.family()?, self.slice()?, self.slice()?),
            TAG_LOG_DATA => Record::LogData(self.slice()?),
            tag => return Err(self.corrupt(format!("has record tag {tag:#04x}, which walferry never writes"))),
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let record = self.record();
        if record.is_err() {
            self.at = self.bytes.len();
        }
        Some(record)
    }
}

/// Iterator over the disk effects of one commit, which checks them: they parse to the end, are exactly as many
/// operations as announced, and contain neither LogData nor the csn key, which belong to the envelope. The iterator
/// ends after the first error.
pub struct Operations<'a> {
    records: Records<'a>,
    announced: u32,
    found: u32,
}

impl<'a> Operations<'a> {
    /// Returns the operations in `records`; there must be exactly `count`.
    #[must_use]
    pub fn new(records: &'a [u8], count: u32) -> Self {
        Self { records: Records::new(records), announced: count, found: 0 }
    }

    /// Returns the offset of the next operation.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.records.offset()
    }

    fn operation(&mut self) -> Result<Option<Record<'a>>> {
        let (announced, found) = (self.announced, self.found);
        let Some(record) = self.records.next().transpose()? else {
            let detail = || format!("announces {announced} operations, but holds {found}");
            return if found == announced { Ok(None) } else { Err(Error::corrupt("write batch", "header", detail())) };
        };
        let key = match record {
            Record::Put(_, key, _) | Record::Delete(_, key) | Record::DeleteRange(_, key, _) => key,
            Record::LogData(_) => return Err(Error::corrupt("write batch", "record", "log data within a commit")),
        };
        if key == CSN_KEY {
            return Err(Error::corrupt("write batch", "record", "a commit that changes the csn key"));
        }
        self.found += 1;
        Ok(Some(record))
    }
}

impl<'a> Iterator for Operations<'a> {
    type Item = Result<Record<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let operation = self.operation();
        if operation.is_err() {
            *self = Self::new(&[], 0);
        }
        operation.transpose()
    }
}

/// Checks that `records` are the disk effects of one commit of `count` operations.
pub fn validate(records: &[u8], count: u32) -> Result<()> {
    Operations::new(records, count).try_for_each(|operation| operation.map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = validate(&bytes, 1);
        }

        #[test]
        fn records_survive_a_round_trip(key in proptest::collection::vec(any::<u8>(), 0..300), value in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = Vec::new();
            for family in Family::ALL {
                let placed = push_put(&mut bytes, family, &key, &value);
                prop_assert_eq!(&bytes[placed.key.0..placed.key.0 + placed.key.1], &key[..]);
                prop_assert_eq!(&bytes[placed.value.0..placed.value.0 + placed.value.1], &value[..]);
                push_delete(&mut bytes, family, &key);
                push_delete_range(&mut bytes, family, &key, &value);
            }
            validate(&bytes, 9).unwrap();
            prop_assert!(validate(&bytes, 8).is_err());
            let records: Vec<_> = Records::new(&bytes).map(Result::unwrap).collect();
            prop_assert_eq!(records[3], Record::Put(Family::Sub, &key, &value));
        }
    }

    #[test]
    fn a_commit_holds_nothing_of_its_envelope() {
        for family in Family::ALL {
            let mut bytes = Vec::new();
            push_put(&mut bytes, family, CSN_KEY, b"v");
            assert!(validate(&bytes, 1).unwrap_err().to_string().contains("csn key"));
        }
        let mut bytes = Vec::new();
        push_delete(&mut bytes, Family::Default, CSN_KEY);
        assert!(validate(&bytes, 1).is_err());
        bytes.clear();
        push_log_data(&mut bytes, b"envelope");
        assert!(validate(&bytes, 0).unwrap_err().to_string().contains("log data"));
    }

    #[test]
    fn rocksdb_reads_what_was_built() {
        let mut bytes = vec![0; HEADER_LEN];
        push_log_data(&mut bytes, b"envelope");
        push_put(&mut bytes, Family::Default, b"k", b"v");
        push_delete(&mut bytes, Family::Default, b"gone");
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        let dir = tempfile::tempdir().unwrap();
        let db = rocksdb::DB::open_default(dir.path()).unwrap();
        db.put(b"gone", b"x").unwrap();
        db.write(rocksdb::WriteBatch::from_data(&bytes)).unwrap();
        assert_eq!(db.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
        assert_eq!(db.get(b"gone").unwrap(), None);
    }
}
