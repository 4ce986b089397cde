//! Tests of manifests: an encoded manifest decodes to itself, and nothing else decodes.

use super::*;
use crate::error::Error;
use proptest::prelude::*;

fn file(name: &str) -> FileRef {
    FileRef { name: name.to_owned(), bytes: 7, blake3: blake3::hash(name.as_bytes()) }
}

fn sample() -> Manifest {
    let db = |name: &str, shared| DbFile { name: name.to_owned(), bytes: 9, blake3: blake3::hash(b"x"), shared };
    Manifest {
        format: MANIFEST_FORMAT,
        cluster: ClusterId([7; 16]),
        epoch: Epoch(3),
        csn: Csn(42),
        time: CommitTime(1_790_000_000_123_456),
        hash: HistoryHash(42),
        level: Level::Strict,
        cut: CutRecord {
            asked: Level::Eventual,
            skew_commits: 2,
            skew_us: 123_456,
            allowed_us: None,
            node: "n1".to_owned(),
            role: LastRole::Replica,
        },
        memory: MemoryPart {
            csn: Csn(40),
            time: CommitTime(1_790_000_000_000_000),
            hash: HistoryHash(40),
            keys: TypeCounts { strings: 5, hashes: 4, sets: 3, lists: 2, zsets: 1 },
            elements: 27,
            digest: blake3::hash(b"m"),
            files: vec![file("memory.image")],
        },
        disk: DiskPart {
            csn: Csn(42),
            time: CommitTime(1_790_000_000_123_456),
            epoch: Epoch(3),
            hash: HistoryHash(42),
            wal_seq: WalSeq(u64::MAX),
            contents: DiskContents {
                digest: blake3::hash(b"d"),
                families: vec![FamilyContents { name: "default".to_owned(), entries: 9, deletions: 1, bytes: 99 }],
            },
            files: vec![db("000012.sst", true), db("CURRENT", false)],
        },
        completion: vec![file("41-42.chunk")],
        bytes_new: 32,
        bytes_shared: 0,
        took_ms: 5,
    }
}

#[test]
fn a_manifest_survives_and_any_flipped_bit_is_found() {
    let bytes = sample().encode();
    assert_eq!(Manifest::decode(&bytes, "m").unwrap(), sample());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Only the line feed after the JSON object is not part of the manifest.
        if bit / 8 + 1 < bytes.len() {
            assert!(Manifest::decode(&flipped, "m").is_err(), "bit {bit}");
        }
    }
    for end in 0..bytes.len() - 1 {
        assert!(Manifest::decode(&bytes[..end], "m").is_err(), "cut at {end}");
    }
}

#[test]
fn another_format_is_named() {
    let text = String::from_utf8(sample().encode()).unwrap().replace("\"format\": 4", "\"format\": 2");
    let error = Manifest::decode(text.as_bytes(), "m").unwrap_err();
    assert!(matches!(error, Error::Version { found: 2, known: MANIFEST_FORMAT, .. }), "{error}");
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let changes: [fn(&mut Manifest); 11] = [
        |m| m.csn = Csn(43),
        |m| m.completion.clear(),
        |m| m.memory.csn = Csn(42),
        |m| m.memory.files.clear(),
        |m| m.disk.files[0].name = "../evil.sst".to_owned(),
        |m| m.disk.files[1].name = "memory.image".to_owned(),
        |m| m.disk.files[1].shared = true,
        |m| m.disk.hash = HistoryHash(7),
        |m| m.level = Level::Eventual,
        |m| (m.level, m.memory.csn) = (Level::Bounded, Csn(42)),
        |m| (m.level, m.memory.csn, m.completion) = (Level::Eventual, Csn(42), Vec::new()),
    ];
    for change in changes {
        let mut manifest = sample();
        change(&mut manifest);
        let error = Manifest::decode(&digested::encode(&manifest), "m").unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}

#[test]
fn files_are_found_under_their_objects() {
    let manifest = sample();
    let name = |object: ObjectName| object.to_string();
    let dir = "bases/00000000000000000042-00000003";
    let hash = blake3::hash(b"memory.image").to_hex();
    let image = format!("{dir}/memory.image-{}", &hash[..16]);
    assert_eq!(name(manifest.memory.files[0].object(manifest.base())), image);
    let hash = blake3::hash(b"x");
    let current = format!("{dir}/CURRENT-{}", &hash.to_hex()[..16]);
    assert_eq!(name(manifest.disk.files[1].object(manifest.base())), current);
    assert_eq!(name(manifest.disk.files[0].object(manifest.base())), format!("sst/{hash}.sst"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_an_error(bytes: Vec<u8>) {
        prop_assert!(Manifest::decode(&bytes, "m").is_err());
    }
}

/// Goal: the fixture decodes. With `WALFERRY_WRITE_FIXTURES` set, the test writes the fixture first.
#[test]
fn the_fixture_is_read() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifest-v4.json");
    if std::env::var_os("WALFERRY_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, sample().encode()).unwrap();
    }
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(Manifest::decode(&bytes, "manifest-v4.json").unwrap(), sample());
    assert_eq!(sample().encode(), bytes);
}

/// Goal: a base whose engines are at different csns starts at the lower csn, and is strict once it is completed.
#[test]
fn an_eventual_base_is_completed() {
    let mut open = sample();
    (open.level, open.completion) = (Level::Eventual, Vec::new());
    assert_eq!(Manifest::decode(&open.encode(), "m").unwrap(), open);
    assert_eq!(open.start(), BaseStart { base: open.base(), after: Csn(40) });
    assert_eq!(
        open.start().manifest().to_string(),
        format!("{}/manifest-after-{}.json", open.base(), Csn(40).padded())
    );
    let completed = open.clone().completed(vec![file("41-42.chunk")]);
    assert_eq!(completed.start(), BaseStart::whole(open.base()));
    assert_eq!(Manifest::decode(&completed.encode(), "m").unwrap(), completed);
}
