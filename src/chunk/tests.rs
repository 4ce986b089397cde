//! Tests of the chunk format as a whole. Byte offsets are written out as FORMAT.md gives them, on purpose: the tests
//! must notice when the code's constants move.

use super::encode::Span;
use super::kind::SectionKind;
use super::*;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use bytes::Bytes;
use proptest::prelude::*;
use std::path::PathBuf;

const HEADER_LEN: usize = 228;
const HEADER_CRC_AT: usize = 224;
const SECTION_TABLE_AT: usize = 80;
const BLOCK_HEADER_LEN: usize = 13;

const LINK: ChunkLink =
    ChunkLink { epoch: Epoch(3), wal_first: WalSeq(100), wal_last: WalSeq(140), hash_before: HistoryHash(0xfeed_beef) };

/// The effects of one commit, without its csn, time and history hash.
#[derive(Clone, Debug, Default)]
struct Effects {
    time_delta: u64,
    disk: Vec<u8>,
    memory: Vec<u8>,
}

/// First bytes of ops in the sections `memory`, `list` and `zset`.
const MEMORY_TAG: u8 = 16;
const LIST_TAG: u8 = 65;
const ZSET_TAG: u8 = 80;

/// Returns `payload` as ops that begin with `tag`; empty if `payload` is.
fn tagged(tag: u8, mut payload: Vec<u8>) -> Vec<u8> {
    payload.iter_mut().take(1).for_each(|first| *first = tag);
    payload
}

/// Returns commits that have this payload in every section.
fn in_every_section(payload: &[u8]) -> Vec<CommitRecord> {
    let memory = |tag| Effects { memory: tagged(tag, payload.to_vec()), ..Effects::default() };
    let both = Effects { disk: payload.to_vec(), ..memory(MEMORY_TAG) };
    commits_from(1, 0, vec![both, memory(LIST_TAG), memory(ZSET_TAG)])
}

fn commits_from(first: u64, first_time: u64, effects: Vec<Effects>) -> Vec<CommitRecord> {
    let mut time = first_time;
    let place = |(i, effects): (usize, Effects)| {
        time += if i == 0 { 0 } else { effects.time_delta };
        CommitRecord {
            csn: Csn(first + i as u64),
            epoch: LINK.epoch,
            time: CommitTime(time),
            hash: HistoryHash::ZERO,
            disk_ops: (effects.disk.len() as u32).min(1 + effects.disk.len() as u32 / 50),
            disk: effects.disk.into(),
            memory: effects.memory.into(),
        }
    };
    let mut commits: Vec<_> = effects.into_iter().enumerate().map(place).collect();
    crate::record::chain(LINK.hash_before, &mut commits);
    commits
}

/// Returns bytes that do not compress; the same seed gives the same bytes.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

fn json(len: usize) -> Vec<u8> {
    (0..).flat_map(|i: u32| format!("{{\"user\":{i},\"name\":\"n{}\"}}", i % 7).into_bytes()).take(len).collect()
}

/// Returns commits of all section combinations, one without effects, and some with equal times.
fn small_commits() -> Vec<CommitRecord> {
    let effects = |nth: u64| Effects {
        time_delta: nth / 2,
        disk: if nth & 1 > 0 { b"set key value ".repeat(3) } else { Vec::new() },
        memory: match nth / 2 {
            0 => Vec::new(),
            1 => tagged(MEMORY_TAG, b"-hset key field value ".repeat(3)),
            2 => tagged(LIST_TAG, b"-push list item ".repeat(3)),
            _ => tagged(ZSET_TAG, b"-zadd 12 member ".repeat(3)),
        },
    };
    commits_from(41, 1_790_000_000_000_000, (0..8).map(effects).collect())
}

fn encode(commits: &[CommitRecord]) -> Chunk {
    Encoder::new(Profile::default()).encode(commits.iter(), LINK)
}

fn decode(bytes: impl Into<Bytes>) -> Result<Vec<CommitRecord>> {
    Chunk::open(bytes.into(), "test.chunk")?.commits().collect()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn table_entry(kind: SectionKind) -> usize {
    SECTION_TABLE_AT + kind.index() * 36
}

/// Returns the codec bytes of a section's blocks.
fn codecs(bytes: &[u8], kind: SectionKind) -> Vec<u8> {
    let mut at = u64_at(bytes, table_entry(kind) + 28) as usize;
    let end = at + u64_at(bytes, table_entry(kind) + 20) as usize;
    let mut found = Vec::new();
    while at < end {
        found.push(bytes[at]);
        at += BLOCK_HEADER_LEN + u32_at(bytes, at + 5) as usize;
    }
    found
}

/// Computes every CRC and section offset anew, as far as the lengths lead to the blocks.
fn refit_crcs(bytes: &mut [u8]) {
    if bytes.len() < HEADER_LEN {
        return;
    }
    let mut begin = HEADER_LEN;
    for kind in SectionKind::ALL {
        let stored_len = u64_at(bytes, table_entry(kind) + 20) as usize;
        let end = begin.saturating_add(stored_len).min(bytes.len());
        let mut crc = crc32fast::Hasher::new();
        let mut at = begin.min(end);
        while at + BLOCK_HEADER_LEN <= end {
            let stored = at + BLOCK_HEADER_LEN;
            let stored_end = stored.saturating_add(u32_at(bytes, at + 5) as usize).min(end);
            let block_crc = crc32fast::hash(&bytes[stored..stored_end]);
            bytes[at + 9..at + 13].copy_from_slice(&block_crc.to_le_bytes());
            crc.update(&bytes[at..at + BLOCK_HEADER_LEN]);
            at = stored_end;
        }
        bytes[table_entry(kind) + 28..][..8].copy_from_slice(&(begin as u64).to_le_bytes());
        bytes[table_entry(kind) + 8..][..4].copy_from_slice(&crc.finalize().to_le_bytes());
        begin = begin.saturating_add(stored_len);
    }
    let crc = crc32fast::hash(&bytes[..HEADER_CRC_AT]);
    bytes[HEADER_CRC_AT..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// Makes a chunk of csns 1 to `last` at times 10 to `last_time`. All lengths and CRCs are valid; `sections` gives the
/// raw bytes of the sections, block by block.
fn forge(last: u64, last_time: u64, sections: [&[&[u8]]; SectionKind::COUNT]) -> Vec<u8> {
    let mut encoder = Encoder::new(Profile::default());
    let span = Span {
        first: Csn(1),
        last: Csn(last),
        first_time: CommitTime(10),
        last_time: CommitTime(last_time),
        hash_after: HistoryHash::ZERO,
        effect_bytes: 0,
    };
    let mut out = vec![0; HEADER_LEN];
    let sections = SectionKind::ALL.map(|kind| {
        let mut writer = encoder.begin_section(kind, &mut out, &span);
        for block in sections[kind.index()] {
            writer.push_bytes(block);
            writer.end_block();
        }
        writer.finish().0
    });
    let header = ChunkHeader {
        epoch: LINK.epoch,
        first: span.first,
        last: span.last,
        first_time: span.first_time,
        last_time: span.last_time,
        wal_first: WalSeq::ZERO,
        wal_last: WalSeq::ZERO,
        hash_before: HistoryHash::ZERO,
        hash_after: HistoryHash::ZERO,
        sections,
    };
    out[..HEADER_LEN].copy_from_slice(&header.encode());
    let chunk = Chunk::open(Bytes::from(out.clone()), "forged").ok();
    // The error of the last commit names the hash that the header must have.
    let error = chunk.and_then(|chunk| chunk.commits().find_map(Result::err)).map(|error| error.to_string());
    if let Some((_, found)) = error.as_deref().and_then(|error| error.split_once("hash of its commits is ")) {
        let header = ChunkHeader { hash_after: found[..16].parse().unwrap(), ..header };
        out[..HEADER_LEN].copy_from_slice(&header.encode());
    }
    out
}

fn refusal(bytes: Vec<u8>) -> String {
    decode(bytes).expect_err("must be refused").to_string()
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(Vec::new()),
        2 => prop::collection::vec(any::<u8>(), 1..200),
        2 => (any::<u8>(), 1..3000_usize).prop_map(|(byte, len)| vec![byte; len]),
        1 => (1..9000_usize, any::<u64>()).prop_map(|(len, seed)| noise(len, seed)),
    ]
}

fn effects() -> impl Strategy<Value = Effects> {
    let time_delta = prop_oneof![Just(0), 1..5000_u64, 1_000_000..90_000_000_000_u64];
    let tag = prop_oneof![Just(MEMORY_TAG), Just(LIST_TAG), Just(ZSET_TAG), any::<u8>()];
    (time_delta, payload(), tag, payload()).prop_map(|(time_delta, disk, tag, memory)| Effects {
        time_delta,
        disk,
        memory: tagged(tag, memory),
    })
}

fn profile() -> impl Strategy<Value = Profile> {
    prop_oneof![Just(Profile::default()), Just(Profile::Archive { zstd_level: 3 }), Just(Profile::Link)]
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(
        first in 1..u64::MAX / 2,
        first_time in 0..u64::MAX / 2,
        effects in prop::collection::vec(effects(), 1..60),
        profile in profile(),
    ) {
        let commits = commits_from(first, first_time, effects);
        let chunk = Encoder::new(profile).encode(commits.iter(), LINK);
        let header = chunk.header();
        prop_assert_eq!(header.total_len(), chunk.bytes().len() as u64);
        prop_assert_eq!(header.commit_count(), commits.len() as u64);
        prop_assert_eq!(&ChunkHeader::decode(chunk.bytes(), "test").unwrap(), header);
        prop_assert_eq!(decode(chunk.bytes().clone()).unwrap(), commits.clone());
        prop_assert_eq!(chunk.commits().collect::<Result<Vec<_>>>().unwrap(), commits);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(decode(bytes.clone()).is_err());
        let mut with_magic = bytes;
        with_magic.splice(0..0, *b"WFCHUNK\n\x04\0\0\0");
        refit_crcs(&mut with_magic);
        prop_assert!(decode(with_magic).is_err());
    }

    #[test]
    fn mutations_under_valid_crcs_never_panic(
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        compressible in any::<bool>(),
    ) {
        let mut commits = small_commits();
        if compressible {
            let body = |tag| Effects { disk: json(700), memory: tagged(tag, json(600)), time_delta: 3 };
            commits = commits_from(1, 0, vec![body(LIST_TAG), Effects::default(), body(MEMORY_TAG), body(ZSET_TAG)]);
        }
        let mut bytes = encode(&commits).bytes().to_vec();
        for (index, byte) in mutations {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        refit_crcs(&mut bytes);
        let _ = decode(bytes);
    }

    #[test]
    fn arbitrary_section_bytes_never_panic(
        last in 1..6_u64,
        wal in prop::collection::vec(prop::collection::vec(0..9_u8, 1..20), 0..4),
        memory in prop::collection::vec(prop::collection::vec(0..9_u8, 1..20), 0..4),
        list in prop::collection::vec(
            prop::collection::vec(prop_oneof![0..9_u8, Just(LIST_TAG)], 1..20), 0..4),
        zset in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..2),
    ) {
        let [wal, memory, list, zset] =
            [&wal, &memory, &list, &zset].map(|s| s.iter().map(Vec::as_slice).collect::<Vec<_>>());
        if let Ok(commits) = decode(forge(last, 10, [&wal, &memory, &list, &zset])) {
            prop_assert_eq!(commits.len() as u64, last);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn payloads_around_and_beyond_the_block_size_come_back(
        shapes in prop::collection::vec((0..5_usize, 0..4_usize, 0..90_usize, any::<bool>()), 1..5),
        profile in profile(),
    ) {
        let effects = |(size, section, extra, compressible): (usize, usize, usize, bool)| {
            let len = [0, 300 << 10, BLOCK_RAW_BYTES_MAX - 60, 2 * BLOCK_RAW_BYTES_MAX, 5 << 20][size] + extra;
            let body = if compressible { json(len) } else { noise(len, len as u64) };
            let (disk, memory) = if section == 0 { (body, json(extra / 2)) } else { (json(extra), body) };
            let tag = [MEMORY_TAG, MEMORY_TAG, LIST_TAG, ZSET_TAG][section];
            Effects { time_delta: 1, disk, memory: tagged(tag, memory) }
        };
        let commits = commits_from(1, 0, shapes.into_iter().map(effects).collect());
        let chunk = Encoder::new(profile).encode(commits.iter(), LINK);
        prop_assert!(decode(chunk.bytes().clone()).unwrap() == commits);
    }
}

#[test]
fn every_flipped_bit_is_found_on_opening() {
    let bytes = encode(&small_commits()).bytes().to_vec();
    assert_eq!(decode(bytes.clone()).unwrap(), small_commits());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Chunk::open(flipped.into(), "test").is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_says_so_and_trailing_bytes_are_refused() {
    let bytes = encode(&small_commits()).bytes().to_vec();
    for len in 0..bytes.len() {
        let message = refusal(bytes[..len].to_vec());
        assert!(message.contains("truncated"), "{len} bytes: {message}");
    }
    let message = refusal([&bytes[..], b"x"].concat());
    assert!(message.contains("1 bytes follow the last section"), "{message}");
}

#[test]
fn commits_take_the_epoch_of_the_chunk() {
    let mut commits = small_commits();
    commits[0].epoch = Epoch(1);
    let decoded = decode(encode(&commits).bytes().clone()).unwrap();
    assert!(decoded.iter().all(|commit| commit.epoch == LINK.epoch));
}

#[test]
fn payloads_of_one_block_share_its_buffer() {
    let effects = Effects { disk: json(500), ..Effects::default() };
    let commits = commits_from(1, 0, vec![effects; 10]);
    for profile in [Profile::default(), Profile::Link] {
        let decoded = decode(Encoder::new(profile).encode(commits.iter(), LINK).bytes().clone()).unwrap();
        let starts: Vec<usize> = decoded.iter().map(|commit| commit.disk.as_ptr() as usize).collect();
        let gaps: Vec<usize> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps, vec![505; 9], "500 bytes of payload and a head of 5");
    }
}

#[test]
fn a_reused_encoder_writes_what_a_new_one_writes() {
    let memory = tagged(LIST_TAG, json(9000));
    let big = commits_from(1, 0, vec![Effects { disk: json(3 << 20), memory, ..Effects::default() }]);
    let mut encoder = Encoder::new(Profile::default());
    for commits in [&big, &small_commits(), &big] {
        assert_eq!(encoder.encode(commits.iter(), LINK).bytes(), encode(commits).bytes());
    }
}

#[test]
fn encoders_and_chunks_move_between_threads() {
    fn is_send<T: Send>() {}
    is_send::<Encoder>();
    is_send::<Chunk>();
    is_send::<Commits<'_>>();
}

#[test]
#[should_panic(expected = "csns in a chunk are dense")]
fn a_gap_is_not_encoded() {
    let mut commits = small_commits();
    commits.remove(2);
    encode(&commits);
}

#[test]
fn another_version_is_named_as_such() {
    let mut bytes = encode(&small_commits()).bytes().to_vec();
    bytes[8..10].copy_from_slice(&5_u16.to_le_bytes());
    refit_crcs(&mut bytes);
    let found = decode(bytes.clone()).unwrap_err();
    assert!(matches!(found, Error::Version { found: 5, known: 4, .. }), "{found}");
    bytes.truncate(20);
    assert!(matches!(decode(bytes), Err(Error::Version { .. })), "another header may be shorter");
}

#[test]
fn flags_and_reserved_bytes_must_be_zero() {
    for at in [10, 11, 81, 82, 83] {
        let mut bytes = encode(&small_commits()).bytes().to_vec();
        bytes[at] = 1;
        refit_crcs(&mut bytes);
        let message = refusal(bytes);
        assert!(message.contains("not those of the version"), "byte {at}: {message}");
    }
}

#[test]
fn sections_that_contradict_each_other_are_refused() {
    // Entries in wal: skip, time, ops, length, payload. Entries in the other sections: skip, time, length, payload.
    let wal: &[u8] = &[0, 0, 1, 1, b'w', 0, 5, 1, 1, b'w'];
    let one: &[u8] = &[0, 0, 1, 1, b'w'];
    let (m, l, z) = (MEMORY_TAG, LIST_TAG, ZSET_TAG);
    assert_eq!(decode(forge(2, 15, [&[wal], &[], &[&[1, 5, 1, l]], &[]])).unwrap().len(), 2);
    let cases: [(&str, [&[&[u8]]; SectionKind::COUNT]); 15] = [
        ("one section states", [&[wal], &[], &[&[1, 4, 1, l]], &[]]),
        ("one section states", [&[wal], &[&[1, 4, 1, m]], &[], &[]]),
        ("gap: expected csn 1, found csn 2", [&[&[1, 5, 1, 1, b'w']], &[], &[&[1, 5, 1, l]], &[]]),
        ("gap: expected csn 2, found the end", [&[one], &[], &[], &[]]),
        ("lies outside the chunk's range", [&[wal, one], &[], &[], &[]]),
        ("yet it has memory ops", [&[&[0, 0, 0, 0, 0, 5, 0, 0]], &[], &[], &[&[0, 0, 1, z]]]),
        ("does not follow", [&[&[0, 5, 1, 1, b'w']], &[], &[&[1, 0, 1, l]], &[]]),
        ("the header states", [&[&[0, 0, 1, 1, b'w', 0, 4, 1, 1, b'w']], &[], &[], &[]]),
        ("0 operations has 1 bytes", [&[&[0, 0, 0, 1, b'w']], &[], &[], &[]]),
        ("the memory section has ops that belong", [&[wal], &[&[1, 5, 1, l]], &[], &[]]),
        ("an entry with 0 operations has 0 bytes", [&[wal], &[&[1, 5, 0]], &[], &[]]),
        ("the list section has ops that belong", [&[wal], &[], &[&[1, 5, 1, z]], &[]]),
        ("the zset section has ops that belong", [&[wal], &[], &[], &[&[1, 5, 1, m]]]),
        ("the list section has ops that belong", [&[wal], &[&[1, 5, 1, m]], &[&[1, 5, 1, l]], &[]]),
        ("the zset section has ops that belong", [&[wal], &[], &[&[1, 5, 1, l]], &[&[1, 5, 1, z]]]),
    ];
    for (expected, sections) in cases {
        let message = refusal(forge(2, 15, sections));
        assert!(message.contains(expected), "expected '{expected}' in: {message}");
    }
}

#[test]
fn an_entry_may_be_cut_anywhere() {
    let wal: &[u8] = &[0, 0, 1, 3, b'a', b'b', b'c', 0, 5, 1, 1, b'w'];
    let expected = decode(forge(2, 15, [&[wal], &[], &[], &[]])).unwrap();
    let single: Vec<&[u8]> = wal.chunks(1).collect();
    assert_eq!(decode(forge(2, 15, [&single, &[], &[], &[]])).unwrap(), expected);
    for cut in 1..wal.len() {
        let (a, b) = wal.split_at(cut);
        assert_eq!(decode(forge(2, 15, [&[a, b], &[], &[], &[]])).unwrap(), expected, "cut at {cut}");
        let message = refusal(forge(2, 15, [&[a], &[], &[], &[]]));
        assert!(message.contains("left in the section") || message.contains("ends inside") || message.contains("gap"));
    }
}

#[test]
fn a_claimed_length_allocates_nothing() {
    // Allocating any of these lengths would abort the test.
    let huge_payload: &[u8] = &[0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, b'w'];
    let message = refusal(forge(1, 10, [&[huge_payload], &[], &[], &[]]));
    assert!(message.contains("but 1 are left in the section"), "{message}");

    for (at, expected) in [(4, "cannot hold"), (12, "cannot hold"), (20, "truncated")] {
        let mut bytes = encode(&small_commits()).bytes().to_vec();
        bytes[SECTION_TABLE_AT + at + 3] = 0x7f;
        refit_crcs(&mut bytes);
        let message = refusal(bytes);
        assert!(message.contains(expected), "byte {at} of the table entry: {message}");
    }
    let mut bytes = encode(&small_commits()).bytes().to_vec();
    bytes[HEADER_LEN + 1..][..4].copy_from_slice(&(BLOCK_RAW_BYTES_MAX as u32 + 1).to_le_bytes());
    refit_crcs(&mut bytes);
    assert!(refusal(bytes).contains("cannot hold 1048577 raw bytes"));
}

#[test]
fn a_bomb_is_decompressed_block_by_block_and_no_further_than_it_makes_sense() {
    // As wal entries, zeroes are commits without effects. The second one is beyond the header's only csn.
    let zeroes: &[u8] = &[0; BLOCK_RAW_BYTES_MAX];
    let bomb = forge(1, 10, [&[zeroes; 64], &[], &[], &[]]);
    assert!(bomb.len() < 16 << 10);
    let message = refusal(bomb);
    assert!(message.contains("wal section, block 0"), "{message}");
}

#[test]
fn a_block_whose_raw_length_lies_is_refused() {
    let commits = in_every_section(&json(9000));
    let bytes = encode(&commits).bytes().to_vec();
    for kind in SectionKind::ALL {
        for raw_len in [8900_u32, 9100] {
            let mut bytes = bytes.clone();
            let block = u64_at(&bytes, table_entry(kind) + 28) as usize;
            bytes[block + 1..][..4].copy_from_slice(&raw_len.to_le_bytes());
            bytes[table_entry(kind) + 12..][..4].copy_from_slice(&raw_len.to_le_bytes());
            refit_crcs(&mut bytes);
            let message = refusal(bytes);
            let expected = if raw_len == 8900 { "refused the stored bytes" } else { "bytes, expected 9100" };
            assert!(message.contains(&format!("{} section, block 0", kind.name())), "{message}");
            assert!(message.contains(expected), "{message}");
        }
    }
}

#[test]
fn attempts_stop_on_noise_and_resume_after_a_good_probe() {
    let block = BLOCK_RAW_BYTES_MAX - 100;
    let mut encoder = Encoder::new(Profile::default());
    let mut wal_codec = |disk: Vec<u8>| {
        let commits = commits_from(1, 0, vec![Effects { disk, ..Effects::default() }]);
        let chunk = encoder.encode(commits.iter(), LINK);
        assert_eq!(decode(chunk.bytes().clone()).unwrap(), commits);
        codecs(chunk.bytes(), SectionKind::Wal)
    };
    assert_eq!(wal_codec(json(block)), [1]);
    for seed in 0..4 {
        assert_eq!(wal_codec(noise(block, seed)), [0]);
    }
    assert_eq!(wal_codec(json(1000)), [1], "small blocks are always tried");
    for _ in 0..32 {
        assert_eq!(wal_codec(json(block)), [0], "not tried");
    }
    assert_eq!(wal_codec(json(block)), [1], "the probe is good");
    assert_eq!(wal_codec(noise(block, 1)), [0]);
    assert_eq!(wal_codec(json(block)), [1], "one poor block changes nothing");
}

#[test]
fn each_section_has_its_codec() {
    let commits = in_every_section(&json(9000));
    let found = |profile| {
        let chunk = Encoder::new(profile).encode(commits.iter(), LINK);
        SectionKind::ALL.map(|kind| codecs(chunk.bytes(), kind)).concat()
    };
    assert_eq!(found(Profile::default()), [1, 1, 2, 3]);
    assert_eq!(found(Profile::Link), [3; 4]);
}

#[test]
fn the_densest_blocks_pass_the_ratio_check() {
    let commits = in_every_section(&vec![0; 3 << 20]);
    assert!(decode(encode(&commits).bytes().clone()).unwrap() == commits);
}

#[test]
fn the_header_lies_where_the_format_says() {
    let chunk = encode(&small_commits());
    let bytes = chunk.bytes();
    assert_eq!(ChunkHeader::ENCODED_LEN, HEADER_LEN);
    assert_eq!(&bytes[..12], b"WFCHUNK\n\x04\0\0\0");
    assert_eq!(u32_at(bytes, 12), 3);
    assert_eq!([16, 24].map(|at| u64_at(bytes, at)), [41, 48]);
    let first_time = 1_790_000_000_000_000;
    assert_eq!([32, 40].map(|at| u64_at(bytes, at)), [first_time, first_time + 12]);
    assert_eq!([48, 56].map(|at| u64_at(bytes, at)), [100, 140]);
    let hashes = [64, 72].map(|at| u64_at(bytes, at));
    assert_eq!(hashes, [0xfeed_beef, small_commits().last().unwrap().hash.0]);
    assert_eq!(SectionKind::ALL.map(|kind| bytes[table_entry(kind)]), [1, 2, 3, 4]);
    assert_eq!(u64_at(bytes, table_entry(SectionKind::Wal) + 28), HEADER_LEN as u64);
    assert_eq!(u32_at(bytes, HEADER_CRC_AT), crc32fast::hash(&bytes[..HEADER_CRC_AT]));
}

fn fixture_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chunk-v4.chunk")
}

/// Returns the commits of the fixture: every section combination that matters, every codec, a payload over two blocks.
fn fixture_commits() -> Vec<CommitRecord> {
    let wide = vec![0; BLOCK_RAW_BYTES_MAX + 40];
    let both = |time_delta, disk, memory| Effects { time_delta, disk, memory };
    let effects = vec![
        both(0, json(300), json(200)),
        Effects { time_delta: 1, ..Effects::default() },
        both(250, Vec::new(), tagged(LIST_TAG, json(200))),
        both(1_000_000, wide, tagged(MEMORY_TAG, b"-memory".to_vec())),
        both(0, Vec::new(), tagged(ZSET_TAG, json(250))),
    ];
    commits_from(7, 1_790_000_000_123_456, effects)
}

/// If `WALFERRY_WRITE_FIXTURES` is set, the fixture is written first. A released version's fixture is never rewritten.
#[test]
fn version_4_can_be_read() {
    if std::env::var_os("WALFERRY_WRITE_FIXTURES").is_some() {
        std::fs::write(fixture_path(), encode(&fixture_commits()).bytes()).unwrap();
    }
    let bytes = Bytes::from(std::fs::read(fixture_path()).unwrap());
    assert_eq!(SectionKind::ALL.map(|kind| codecs(&bytes, kind)), [vec![1, 1, 0], vec![1], vec![2], vec![3]]);
    let chunk = Chunk::open(bytes, "fixture").unwrap();
    let header = chunk.header();
    assert_eq!((header.epoch, header.first, header.last), (Epoch(3), Csn(7), Csn(11)));
    assert_eq!(
        (header.wal_first, header.wal_last, header.hash_before),
        (WalSeq(100), WalSeq(140), HistoryHash(0xfeed_beef))
    );
    assert!(chunk.commits().collect::<Result<Vec<_>>>().unwrap() == fixture_commits());
}

/// Goal: a chunk whose commits do not match the hashes in its header is refused.
#[test]
fn a_chunk_of_other_commits_than_its_header_tells_is_refused() {
    let chunk = encode(&small_commits());
    for at in [64, 72] {
        let mut bytes = chunk.bytes().to_vec();
        bytes[at] ^= 1;
        refit_crcs(&mut bytes);
        assert!(refusal(bytes).contains("the history hash of its commits"), "byte {at}");
    }
}
