//! Tests of images: a written image reads back, and nothing else can be read.

use super::*;
use crate::engine::memory::testing::content;
use crate::engine::memory::{Change, Encoder, Memory};
use crate::io::StdIo;
use bytes::Bytes;
use proptest::prelude::*;
use std::path::PathBuf;

fn position() -> CutPoint {
    let position = Position {
        csn: Csn(42),
        time: CommitTime(1_790_000_000_123_456),
        epoch: Epoch(3),
        hash: HistoryHash(0x1122_3344_5566_7788),
    };
    CutPoint { position, wal_seq: WalSeq(99) }
}

fn image_of(memory: &Memory) -> Bytes {
    image_parts(&memory.cut(), position()).flatten().collect()
}

fn read(bytes: Bytes) -> Result<(Memory, CutPoint)> {
    read_image(std::iter::once(Ok(bytes)), "image")
}

fn change(memory: &Memory, encode: impl FnOnce(&mut Encoder<'_>)) {
    let mut ops = Vec::new();
    encode(&mut Encoder::new(&mut ops));
    memory.apply(&ops, Change { csn: Csn(1), hidden: None }).unwrap();
}

/// Returns keys of every type: small values and a long string.
fn sample() -> Memory {
    let memory = Memory::new();
    change(&memory, |ops| {
        ops.set_string(b"text", 1_800_000_000_001, b"hello");
        ops.set_string(b"empty", 0, b"");
        ops.set_string(b"long", 0, &[b'x'; 5000]);
        ops.put_fields(b"user", [(&b"name"[..], &b"Ada"[..]), (b"", b""), (b"age", b"36")].into_iter());
        ops.expire(b"user", 1_800_000_000_002);
        ops.add_members(b"numbers", [&b"12"[..], b"-3", b"7"].into_iter());
        ops.add_members(b"names", [&b"two"[..], b"", b"one"].into_iter());
        ops.push_back(b"queue", [&b"one"[..], b"", b"three"].into_iter());
        ops.set_scores(
            b"board",
            [(&b"low"[..], f64::NEG_INFINITY), (&b"mid"[..], -0.5), (&b"top"[..], 1e300)].into_iter(),
        );
        ops.expire(b"board", 1_800_000_000_000);
    });
    memory
}

/// A value in a random memory: its key, its expiry, its type, and element sizes with a seed for the bytes.
type RandomValue = (Vec<u8>, u64, usize, Vec<(usize, u8)>);

fn values() -> impl Strategy<Value = Vec<RandomValue>> {
    let len = prop_oneof![20 => 0..40_usize, 4 => 40..5000_usize, 1 => 1_000_000..2_500_000_usize];
    let elements = prop::collection::vec((len, any::<u8>()), 1..60);
    let of = 0..Type::COUNT;
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), any::<u64>(), of, elements), 0..12)
}

fn add(memory: &Memory, key: &[u8], of: Type, elements: &[Vec<u8>]) {
    let slices = elements.iter().map(Vec::as_slice);
    memory.delete(key, Change { csn: Csn(1), hidden: None });
    change(memory, |ops| match of {
        Type::String => ops.set_string(key, 0, &elements[0]),
        Type::Hash => ops.put_fields(key, slices.clone().zip(slices.rev())),
        Type::Set => ops.add_members(key, slices),
        Type::List => ops.push_back(key, slices),
        Type::Zset => {
            let score = |at: usize| [0.0, -0.0, 1.5, f64::INFINITY, -1e-300][at % 5] * at as f64;
            let members: Vec<_> =
                slices.enumerate().map(|(at, member)| (member, score(at))).filter(|(_, at)| !at.is_nan()).collect();
            ops.set_scores(key, if members.is_empty() { vec![(&b"m"[..], 1.0)] } else { members }.into_iter());
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read(values in values(), pieces in prop::collection::vec(1..300_000_usize, 1..8)) {
        let memory = Memory::new();
        for (key, expire_ms, of, elements) in &values {
            let bytes = |&(len, seed): &(usize, u8)| -> Vec<u8> {
                (0..len).map(|i| (i as u8).wrapping_mul(seed) ^ (i >> 8) as u8).collect()
            };
            add(&memory, key, Type::ALL[*of], &elements.iter().map(bytes).collect::<Vec<_>>());
            change(&memory, |ops| ops.expire(key, *expire_ms));
        }
        let image = image_of(&memory);
        let mut left = image.clone();
        let mut sizes = pieces.into_iter().cycle();
        let parts = std::iter::from_fn(|| {
            let size = sizes.next()?.min(left.len());
            (size > 0).then(|| Ok(left.split_to(size)))
        });
        let (read, at) = read_image(parts, "image").unwrap();
        prop_assert_eq!(at, position());
        prop_assert!(content(&read) == content(&memory));
        prop_assert_eq!(Contents::of(&read.cut()), Contents::of(&memory.cut()));
    }

    #[test]
    fn arbitrary_bytes_are_an_error(tail: Vec<u8>) {
        prop_assert!(read(tail.clone().into()).is_err());
        let behind_header = [&encode_header(position())[..], &tail].concat();
        prop_assert!(read(behind_header.into()).is_err());
    }
}

#[test]
fn any_flipped_bit_and_any_cut_is_found() {
    let image = image_of(&sample());
    assert!(content(&read(image.clone()).unwrap().0) == content(&sample()));
    for bit in 0..image.len() * 8 {
        let mut flipped = image.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(read(flipped.into()).is_err(), "bit {bit}");
    }
    for end in 0..image.len() {
        assert!(read(image.slice(..end)).is_err(), "cut at {end}");
    }
    let longer = [&image[..], b"\0"].concat();
    assert!(read(longer.into()).is_err());
}

#[test]
fn a_lost_or_moved_block_is_found() {
    let memory = Memory::new();
    let noise = |seed: u8| {
        let mut bytes = vec![0; BLOCK_RAW_BYTES_MAX];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    };
    add(&memory, b"noise", Type::List, &[noise(1), noise(2), noise(3)]);
    let parts: Vec<Bytes> = image_parts(&memory.cut(), position()).collect();
    assert_eq!(parts.len(), 6, "header, four blocks, footer");
    assert!(read_image(parts.iter().cloned().map(Ok), "image").is_ok());
    let lost = parts.iter().enumerate().filter(|(nth, _)| *nth != 2).map(|(_, part)| Ok(part.clone()));
    assert!(read_image(lost, "image").is_err());
    let mut moved = parts.clone();
    moved.swap(1, 2);
    assert!(read_image(moved.into_iter().map(Ok), "image").is_err());
}

/// Returns an image of one raw block, with correct CRCs.
fn forged(raw: &[u8], counts: [u64; Counts::FIELDS]) -> Bytes {
    let mut image = encode_header(position()).to_vec();
    let mut crc = word32(&image, HEADER_LEN - 4);
    let mut head = vec![CODEC_RAW];
    head.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    head.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    crc = chain(crc, [&head, raw]);
    image.extend_from_slice(&head);
    image.extend_from_slice(&crc.to_le_bytes());
    image.extend_from_slice(raw);
    let mut footer = vec![FOOTER];
    counts.iter().for_each(|count| footer.extend_from_slice(&count.to_le_bytes()));
    footer.extend_from_slice(&chain(crc, [&footer, &[]]).to_le_bytes());
    image.extend_from_slice(&footer);
    image.into()
}

fn entry(of: Type, count: u64, key: &[u8]) -> Vec<u8> {
    let mut raw = vec![type_byte(of)];
    raw.extend_from_slice(&0_u64.to_le_bytes());
    raw.extend_from_slice(&count.to_le_bytes());
    raw.extend_from_slice(&(key.len() as u32).to_le_bytes());
    raw.extend_from_slice(key);
    raw
}

#[test]
fn content_that_no_writer_makes_is_refused() {
    let bytes = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat();
    let element = bytes(b"abc");
    let member = |score: f64| [&score.to_le_bytes()[..], &element].concat();
    let [string, hash, set, list, zset] = Type::ALL.map(|of| move |count| entry(of, count, b"k"));
    let one = |head: Vec<u8>| [head, element.clone()].concat();
    let pair = |first: &[u8], second: &[u8]| [bytes(first), bytes(second)].concat();
    assert!(read(forged(&one(list(1)), [0, 0, 0, 1, 0, 1])).is_ok());
    assert!(read(forged(&one(string(1)), [1, 0, 0, 0, 0, 1])).is_ok());
    assert!(read(forged(&[hash(1), pair(b"f", b"v")].concat(), [0, 1, 0, 0, 0, 1])).is_ok());
    assert!(read(forged(&[set(2), pair(b"a", b"b")].concat(), [0, 0, 1, 0, 0, 2])).is_ok());
    let mut unknown = one(list(1));
    unknown[0] = 9;
    for (raw, counts, reason) in [
        (one(list(1)), [0, 0, 0, 1, 0, 2], "the footer states"),
        (one(list(1)), [0, 0, 1, 0, 0, 1], "the footer states"),
        ([one(list(1)), one(list(1))].concat(), [0, 0, 0, 2, 0, 2], "occurs twice"),
        ([one(list(1)), zset(1), member(1.0)].concat(), [0, 0, 0, 1, 1, 2], "occurs twice"),
        ([one(string(1)), one(set(1))].concat(), [1, 0, 1, 0, 0, 2], "occurs twice"),
        ([zset(2), member(1.0), member(2.0)].concat(), [0, 0, 0, 0, 1, 2], "occurs twice"),
        ([zset(2), member(1.0), member(1.0)].concat(), [0, 0, 0, 0, 1, 2], "out of order"),
        ([zset(1), member(f64::NAN)].concat(), [0, 0, 0, 0, 1, 1], "out of order"),
        ([hash(2), pair(b"b", b""), pair(b"a", b"")].concat(), [0, 1, 0, 0, 0, 2], "a field is out of order"),
        ([hash(2), pair(b"a", b""), pair(b"a", b"")].concat(), [0, 1, 0, 0, 0, 2], "a field is out of order"),
        ([set(2), pair(b"b", b"a")].concat(), [0, 0, 1, 0, 0, 2], "a member is out of order"),
        ([set(2), pair(b"7", b"12")].concat(), [0, 0, 1, 0, 0, 2], "a member is out of order"),
        ([set(2), pair(b"a", b"a")].concat(), [0, 0, 1, 0, 0, 2], "a member is out of order"),
        (list(0), [0, 0, 0, 1, 0, 0], "has 0 elements"),
        (string(0), [1, 0, 0, 0, 0, 0], "has 0 elements"),
        ([string(2), pair(b"a", b"b")].concat(), [1, 0, 0, 0, 0, 2], "has 2 elements"),
        (unknown, [0, 0, 0, 1, 0, 1], "type 9 does not exist"),
        (one(list(u64::MAX)), [0, 0, 0, 1, 0, 1], "ends inside a value"),
        (one(hash(1)), [0, 1, 0, 0, 0, 1], "ends inside a value"),
        ([list(1), u32::MAX.to_le_bytes().to_vec()].concat(), [0, 0, 0, 1, 0, 1], "ends inside a byte string"),
        (one(list(1))[..10].to_vec(), [0, 0, 0, 1, 0, 1], "ends inside a field"),
    ] {
        let error = read(forged(&raw, counts)).err().expect(reason).to_string();
        assert!(error.contains(reason), "{error}, expected {reason}");
    }
}

#[test]
fn another_version_is_named() {
    let mut image = image_of(&sample()).to_vec();
    image[8] = 4;
    let error = read(image.into()).err().expect("another version");
    assert!(matches!(error, Error::Version { found: 4, known: 3, .. }), "{error}");
}

/// Goal: the fixture reads. With `WALFERRY_WRITE_FIXTURES` set, the test writes it first. A released version's fixture
/// is never rewritten.
#[test]
fn the_fixture_of_version_3_is_read() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/image-v3.image");
    if std::env::var_os("WALFERRY_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, image_of(&sample())).unwrap();
    }
    let (memory, at) = read_image_file(&StdIo, &path).unwrap();
    assert_eq!(at, position());
    assert!(content(&memory) == content(&sample()));
}
