//! Tests of images: a written image reads back, and nothing else can be read.

use super::*;
use crate::engine::memory::{Entry, List, Memory, Zset};
use crate::io::StdIo;
use crate::snapshot::testing::content;
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

fn add_list(memory: &mut Memory, key: &[u8], expire_ms: u64, elements: &[&[u8]]) {
    let mut value = List::new();
    elements.iter().for_each(|element| value.push_back(element));
    memory.lists.insert(key, Entry { value, expire_ms });
}

fn add_zset(memory: &mut Memory, key: &[u8], expire_ms: u64, members: &[(&[u8], f64)]) {
    let mut value = Zset::new();
    for &(member, score) in members {
        value.insert(member, score);
    }
    memory.zsets.insert(key, Entry { value, expire_ms });
}

fn sample() -> Memory {
    let mut memory = Memory::new();
    add_list(&mut memory, b"queue", 0, &[b"one", b"", b"three"]);
    add_zset(&mut memory, b"board", 1_800_000_000_000, &[(b"low", f64::NEG_INFINITY), (b"mid", -0.5), (b"top", 1e300)]);
    memory
}

/// A value in a random memory: its key, its expiry, whether it is a list, and element sizes with a seed for the bytes.
type RandomValue = (Vec<u8>, u64, bool, Vec<(usize, u8)>);

fn values() -> impl Strategy<Value = Vec<RandomValue>> {
    let len = prop_oneof![20 => 0..40_usize, 4 => 40..5000_usize, 1 => 1_000_000..2_500_000_usize];
    let elements = prop::collection::vec((len, any::<u8>()), 1..60);
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), any::<u64>(), any::<bool>(), elements), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_written_is_read(values in values(), pieces in prop::collection::vec(1..300_000_usize, 1..8)) {
        let mut memory = Memory::new();
        for (key, expire_ms, is_list, elements) in &values {
            let bytes = |&(len, seed): &(usize, u8)| -> Vec<u8> {
                (0..len).map(|i| (i as u8).wrapping_mul(seed) ^ (i >> 8) as u8).collect()
            };
            let elements: Vec<Vec<u8>> = elements.iter().map(bytes).collect();
            memory.lists.delete(key);
            memory.zsets.delete(key);
            if *is_list {
                let elements: Vec<&[u8]> = elements.iter().map(Vec::as_slice).collect();
                add_list(&mut memory, key, *expire_ms, &elements);
            } else {
                let score = |at: usize| [0.0, -0.0, 1.5, f64::INFINITY, -1e-300][at % 5] * at as f64;
                let members: Vec<(&[u8], f64)> = elements.iter().enumerate()
                    .map(|(at, member)| (member.as_slice(), score(at)))
                    .filter(|(_, score)| !score.is_nan())
                    .collect();
                add_zset(&mut memory, key, *expire_ms, if members.is_empty() { &[(b"m", 1.0)] } else { &members });
            }
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
        read.lists.check();
        read.zsets.check();
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
    let mut memory = Memory::new();
    let noise = |seed: u8| {
        let mut bytes = vec![0; BLOCK_RAW_BYTES_MAX];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    };
    add_list(&mut memory, b"noise", 0, &[&noise(1), &noise(2), &noise(3)]);
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
fn forged(raw: &[u8], counts: [u64; 3]) -> Bytes {
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

fn entry(engine: u8, count: u64, key: &[u8]) -> Vec<u8> {
    let mut raw = vec![engine];
    raw.extend_from_slice(&0_u64.to_le_bytes());
    raw.extend_from_slice(&count.to_le_bytes());
    raw.extend_from_slice(&(key.len() as u32).to_le_bytes());
    raw.extend_from_slice(key);
    raw
}

#[test]
fn content_that_no_writer_makes_is_refused() {
    let element = [&3_u32.to_le_bytes()[..], b"abc"].concat();
    let member = |score: f64| [&score.to_le_bytes()[..], &element].concat();
    let list = [entry(ENGINE_LIST, 1, b"k"), element.clone()].concat();
    assert!(read(forged(&list, [1, 0, 1])).is_ok());
    let zset = [entry(ENGINE_ZSET, 1, b"k"), member(1.0)].concat();
    for (raw, counts, reason) in [
        (list.clone(), [1, 0, 2], "the footer states"),
        ([list.clone(), list.clone()].concat(), [2, 0, 2], "occurs twice"),
        ([list.clone(), zset].concat(), [1, 1, 2], "occurs twice"),
        ([entry(ENGINE_ZSET, 2, b"k"), member(1.0), member(2.0)].concat(), [0, 1, 2], "occurs twice"),
        ([entry(ENGINE_ZSET, 2, b"k"), member(1.0), member(1.0)].concat(), [0, 1, 2], "out of order"),
        ([entry(ENGINE_ZSET, 1, b"k"), member(f64::NAN)].concat(), [0, 1, 1], "out of order"),
        (entry(ENGINE_LIST, 0, b"k"), [1, 0, 0], "is empty"),
        ([entry(9, 1, b"k"), element.clone()].concat(), [1, 0, 1], "engine number 9 does not exist"),
        ([entry(ENGINE_LIST, u64::MAX, b"k"), element].concat(), [1, 0, 1], "ends inside a value"),
        ([&entry(ENGINE_LIST, 1, b"k")[..], &u32::MAX.to_le_bytes()].concat(), [1, 0, 1], "ends inside a byte string"),
        (list[..10].to_vec(), [1, 0, 1], "ends inside a field"),
    ] {
        let error = read(forged(&raw, counts)).err().expect(reason).to_string();
        assert!(error.contains(reason), "{error}, expected {reason}");
    }
}

#[test]
fn another_version_is_named() {
    let mut image = image_of(&sample()).to_vec();
    image[8] = 3;
    let error = read(image.into()).err().expect("another version");
    assert!(matches!(error, Error::Version { found: 3, known: 2, .. }), "{error}");
}

/// Goal: the fixture reads. With `WALFERRY_WRITE_FIXTURES` set, the test writes it first. A released version's fixture
/// is never rewritten.
#[test]
fn the_fixture_of_version_2_is_read() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/image-v2.image");
    if std::env::var_os("WALFERRY_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, image_of(&sample())).unwrap();
    }
    let (memory, at) = read_image_file(&StdIo, &path).unwrap();
    assert_eq!(at, position());
    assert!(content(&memory) == content(&sample()));
}
