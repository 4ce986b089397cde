//! Compares the formats of `FORMAT.md` with the bytes of each released version.
//!
//! If `WALFERRY_WRITE_FIXTURES` is set, the fixtures are written first. A released version's fixture is never
//! rewritten.

use super::envelope;
use super::frame;
use super::segment::{HEADER_LEN, Segment, SegmentHeader};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, SegmentId};
use crate::engine::batch::{self, Family, Record, Records};
use crate::engine::key::{self, Generation, StreamId};
use crate::engine::memory::{Encoder, Memory, Ops};
use crate::engine::meta::{self, Collection, DiskType, Meta};
use crate::position::Position;
use crate::record::CommitRecord;
use bytes::Bytes;
use std::path::PathBuf;

const SEGMENT_LEN: usize = 2048;
const TIME: u64 = 1_790_000_000_123_456;
const EXPIRE_MS: u64 = 1_800_000_000_000;

fn fixture_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn fixture(name: &str) -> Bytes {
    std::fs::read(fixture_path(name)).unwrap().into()
}

/// Reads a fixture; writes it first if `WALFERRY_WRITE_FIXTURES` is set.
fn fixture_of(name: &str, written: &[u8]) -> Bytes {
    if std::env::var_os("WALFERRY_WRITE_FIXTURES").is_some() {
        std::fs::write(fixture_path(name), written).unwrap();
    }
    fixture(name)
}

fn commit(csn: u64, memory: Vec<u8>, (disk_ops, disk): (u32, Vec<u8>)) -> CommitRecord {
    CommitRecord {
        csn: Csn(csn),
        epoch: Epoch(3),
        time: CommitTime(TIME + csn),
        hash: HistoryHash(0x1000 + csn),
        disk_ops,
        disk: disk.into(),
        memory: memory.into(),
    }
}

/// Number of ops in [`memory_ops`].
const MEMORY_OPS: usize = 23;

/// Returns every op on keys in memory once, in an order in which each fits the state.
fn memory_ops() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut ops = Encoder::new(&mut bytes);
    let elements: [&[u8]; 3] = [b"a", b"", &[0xFF; 200]];
    ops.push_front(b"list", elements.into_iter());
    ops.push_back(b"list", elements.into_iter());
    ops.pop_front(b"list", 1);
    ops.pop_back(b"list", 1);
    ops.set_element(b"list", 3, b"set");
    ops.insert_element(b"list", 0, b"inserted");
    ops.remove_elements(b"list", [0, 2].into_iter());
    ops.keep_elements(b"list", 0, 2);
    let pairs: [(&[u8], f64); 4] = [(b"one", 1.5), (b"two", -0.0), (b"three", f64::INFINITY), (b"four", 1e300)];
    ops.set_scores(b"zset", pairs.into_iter());
    ops.remove_scored(b"zset", [&b"one"[..]].into_iter());
    ops.remove_ranks(b"zset", 1, 2);
    ops.set_string(b"string", EXPIRE_MS, b"value");
    ops.replace_string(b"string", &[0xFE; 200]);
    ops.append(b"string", b"more");
    ops.write(b"string", 300, b"behind a gap");
    let pairs: [(&[u8], &[u8]); 3] = [(b"field", b"value"), (b"", b""), (b"long", &[0xFD; 200])];
    ops.put_fields(b"hash", pairs.into_iter());
    ops.remove_fields(b"hash", [&b"field"[..], b""].into_iter());
    ops.add_members(b"set", [&b"12"[..], b"-3", b"member"].into_iter());
    ops.remove_members(b"set", [&b"-3"[..]].into_iter());
    ops.expire(b"list", EXPIRE_MS);
    ops.rename(b"list", b"renamed");
    ops.delete(b"renamed");
    ops.clear();
    bytes
}

/// Returns every kind of key and metadata, and every kind of operation.
fn disk_operations() -> (u32, Vec<u8>) {
    let mut out = Vec::new();
    let hash = Collection { count: 1, expire_ms: EXPIRE_MS, ..Collection::new(DiskType::Hash, Generation(7)) };
    let set = Collection { count: 1, ..Collection::new(DiskType::Set, Generation(8)) };
    let last_id = StreamId { ms: TIME / 1000, seq: 5 };
    let stream = Collection { count: 1, last_id, ..Collection::new(DiskType::Stream, Generation(9)) };
    batch::push_put(&mut out, Family::Default, &key::meta(b"string"), &meta::encode_string(b"value", EXPIRE_MS));
    batch::push_put(&mut out, Family::Default, &key::expiry(EXPIRE_MS, b"string"), b"");
    batch::push_put(&mut out, Family::Default, &key::meta(b"hash{tag}"), &hash.encode());
    batch::push_put(&mut out, Family::Sub, &key::sub(b"hash{tag}", hash.generation, b"field"), b"value");
    batch::push_put(&mut out, Family::Default, &key::meta(b"set"), &set.encode());
    batch::push_put(&mut out, Family::Sub, &key::sub(b"set", set.generation, b"member"), b"");
    batch::push_put(&mut out, Family::Default, &key::meta(b"stream"), &stream.encode());
    batch::push_put(&mut out, Family::Stream, &key::stream(b"stream", stream.generation, last_id), &[7; 300]);
    batch::push_delete(&mut out, Family::Default, &key::meta(b"gone"));
    batch::push_delete(&mut out, Family::Sub, &key::sub(b"set", set.generation, b"gone"));
    let range = key::user_range();
    batch::push_delete_range(&mut out, Family::Default, &range.start, &range.end);
    batch::push_delete_range(&mut out, Family::Stream, &range.start, &range.end);
    (12, out)
}

/// Returns commits with memory ops only, cross-engine, and without effects. Csn 10 is left out: it touches the disk
/// only.
fn segment_commits() -> Vec<CommitRecord> {
    let mut disk = Vec::new();
    batch::push_put(&mut disk, Family::Default, &key::meta(b"string"), &meta::encode_string(b"value", 0));
    let mut push = Vec::new();
    Encoder::new(&mut push).push_back(b"list", [&b"element"[..]].into_iter());
    vec![commit(8, memory_ops(), (0, Vec::new())), commit(9, push, (1, disk)), commit(11, Vec::new(), (0, Vec::new()))]
}

fn header() -> SegmentHeader {
    SegmentHeader { id: SegmentId(4), epoch: Epoch(2), previous: Csn(6), durable: Csn(5) }
}

#[test]
fn version_3_of_a_segment_can_be_read() {
    let mut written = header().encode().to_vec();
    let mut previous = header().previous;
    for commit in segment_commits() {
        frame::encode(&mut written, header().id, previous, &commit);
        previous = commit.csn;
    }
    written.resize(SEGMENT_LEN, 0);
    let bytes = fixture_of("oplog-v3.oplog", &written);
    assert_eq!(bytes.len(), SEGMENT_LEN);
    let segment = Segment::parse(bytes.clone(), SegmentId(4), "fixture").unwrap();
    assert_eq!(segment.header, header());
    let frames: Vec<_> = segment.frames().collect();
    assert_eq!(frames.iter().map(|(_, frame)| frame.previous).collect::<Vec<_>>(), [Csn(6), Csn(8), Csn(9)]);
    assert_eq!(frames.into_iter().map(|(_, frame)| frame.commit).collect::<Vec<_>>(), segment_commits());
    assert_eq!(bytes, written, "this build writes what the fixture holds");
}

#[test]
fn version_4_of_a_wal_batch_can_be_read() {
    let commits =
        [commit(20, Vec::new(), disk_operations()), commit(22, memory_ops(), (1, segment_commits()[1].disk.to_vec()))];
    let written = envelope::assemble(&commits, &[]).unwrap();
    let bytes = fixture_of("wal-batch-v4.bin", &written);
    assert_eq!(envelope::operations(&bytes), 14);
    assert_eq!(envelope::disassemble(&bytes).unwrap(), commits);
    assert_eq!(bytes, written, "this build writes what the fixture holds");
}

#[test]
fn version_4_with_a_superseded_operation_can_be_read() {
    let put = |value: &[u8]| {
        let mut out = Vec::new();
        batch::push_put(&mut out, Family::Default, &key::meta(b"string"), &meta::encode_string(value, 0));
        out
    };
    let set = |csn, value| commit(csn, Vec::new(), (1, put(value)));
    let commits = [set(20, b"first"), commit(21, memory_ops(), disk_operations()), set(22, b"last")];
    let written = envelope::assemble(&commits, std::slice::from_ref(&(0..put(b"first").len()))).unwrap();
    let bytes = fixture_of("wal-batch-superseded-v4.bin", &written);
    assert_eq!(envelope::operations(&bytes), 1 + disk_operations().0 + 1);
    assert_eq!(envelope::disassemble(&bytes).unwrap(), commits);
    assert_eq!(bytes, written, "this build writes what the fixture holds");
    assert_eq!(&bytes[12..19], b"\x03\x2aWFCM\x04", "the envelope of a commit that has a superseded operation");
    let superseded = 14 + 42;
    assert_eq!(&bytes[superseded..superseded + 6], &[3, 4 + put(b"first").len() as u8, b'W', b'F', b'S', b'O']);
    assert_eq!(&bytes[superseded + 6..][..put(b"first").len()], put(b"first"));
}

#[test]
fn fields_lie_where_the_format_says() {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let long = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let segment = fixture("oplog-v3.oplog");
    assert_eq!(&segment[..12], b"WFOPLOG\x1A\x03\0\0\0");
    assert_eq!((word(&segment, 12), word(&segment, 16), long(&segment, 24), long(&segment, 32)), (4, 2, 6, 5));
    assert_eq!(word(&segment, 60), crc32fast::hash(&segment[..60]));
    let frame = &segment[HEADER_LEN..];
    let memory = memory_ops().len();
    assert_eq!(word(frame, 0) as usize, 52 + memory);
    assert_eq!(word(frame, 4), crc32fast::hash(&frame[8..60 + memory]));
    assert_eq!((word(frame, 8), word(frame, 12), long(frame, 16), long(frame, 24)), (4, 3, 8, TIME + 8));
    assert_eq!((long(frame, 32), long(frame, 40), word(frame, 48)), (0x1008, 6, 0));
    assert_eq!((word(frame, 52) as usize, word(frame, 56)), (memory, 0));
    assert_eq!(&frame[60..60 + 7], b"\x40\x04list\x03");

    let batch = fixture("wal-batch-v4.bin");
    assert_eq!(&batch[12..14], &[3, 42], "LogData of an envelope without ops");
    let envelope = &batch[14..];
    assert_eq!(&envelope[..6], b"WFCM\x04\0");
    assert_eq!((word(envelope, 6), long(envelope, 10), long(envelope, 18)), (3, 20, TIME + 20));
    assert_eq!((long(envelope, 26), word(envelope, 34), word(envelope, 38)), (0x1014, 12, 0));
    let position = &batch[batch.len() - 28..];
    assert_eq!(&batch[batch.len() - 36..batch.len() - 28], b"\x01\x05\xFF\xFFcsn\x1c");
    assert_eq!(
        (long(position, 0), long(position, 8), word(position, 16), long(position, 20)),
        (22, TIME + 22, 3, 0x1016)
    );
    let expected = Position { csn: Csn(22), time: CommitTime(TIME + 22), epoch: Epoch(3), hash: HistoryHash(0x1016) };
    assert_eq!(Position::decode(position).unwrap(), expected);
}

#[test]
fn keys_and_metadata_lie_where_the_format_says() {
    let (_, operations) = disk_operations();
    let puts: Vec<_> = Records::new(&operations)
        .filter_map(|record| match record.unwrap() {
            Record::Put(family, key, value) => Some((family, key, value)),
            _ => None,
        })
        .collect();
    let (_, key, value) = puts[0];
    assert_eq!(key, [&key::slot(b"string").to_be_bytes()[..], b"string"].concat());
    assert_eq!(value, [&[0x80][..], &EXPIRE_MS.to_le_bytes(), b"value"].concat());
    assert_eq!(puts[1].1, [&b"\xFF\xFFx"[..], &EXPIRE_MS.to_be_bytes(), b"string"].concat());
    let (_, _, hash) = puts[2];
    let numbers = [EXPIRE_MS, 7, 1].map(u64::to_le_bytes).concat();
    assert_eq!(hash, [&[0x81][..], &numbers].concat());
    assert!(matches!(Meta::decode(hash).unwrap(), Meta::Collection(hash) if hash.generation == Generation(7)));
    let (family, field, _) = puts[3];
    let prefix =
        [&key::slot(b"tag").to_be_bytes()[..], &9u32.to_be_bytes(), b"hash{tag}", &7u64.to_be_bytes()].concat();
    assert_eq!((family, field), (Family::Sub, &[&prefix[..], b"field"].concat()[..]));
    let (_, _, stream) = puts[6];
    assert_eq!(stream, [&[3][..], &[9, 1, TIME / 1000, 5, 0, 0].map(u64::to_le_bytes).concat()].concat());
    let (family, entry, _) = puts[7];
    assert_eq!(
        (family, &entry[entry.len() - 16..]),
        (Family::Stream, &[TIME / 1000, 5].map(u64::to_be_bytes).concat()[..])
    );
}

#[test]
fn the_ops_of_the_fixtures_fit_the_state() {
    let first = &segment_commits()[0];
    assert_eq!(Ops::new(&first.memory).count(), MEMORY_OPS);
    let memory = Memory::new();
    memory.apply_commit(first).unwrap();
    assert!(memory.is_empty());
}
