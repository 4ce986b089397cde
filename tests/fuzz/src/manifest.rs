//! Manifests of bases and compacted runs, which come from an archive, or from a primary that sends a base.

use super::Target;
use serde_json::Value;
use walferry::cluster::ClusterId;
use walferry::compacted_run::{RUN_FORMAT, RunFile, RunManifest, RunRange};
use walferry::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use walferry::directory::LastRole;
use walferry::grain::Grain;
use walferry::snapshot::manifest::{
    CutRecord, DbFile, DiskContents, DiskPart, FamilyContents, FileRef, Level, MANIFEST_FORMAT, Manifest, MemoryPart,
    TypeCounts,
};

pub(crate) const TARGET: Target = Target { name: "manifest", decode, check, repair, seeds };

fn decode(data: &[u8]) -> usize {
    drop((Manifest::decode(data, "fuzz"), RunManifest::decode(data, "fuzz")));
    0
}

fn check(data: &[u8]) {
    if let Ok(manifest) = Manifest::decode(data, "fuzz") {
        assert_eq!(Manifest::decode(&manifest.encode(), "again").expect("an encoded manifest"), manifest);
    }
    if let Ok(run) = RunManifest::decode(data, "fuzz") {
        assert_eq!(RunManifest::decode(&run.encode(), "again").expect("an encoded manifest"), run);
    }
}

/// Repairs the digest over all other fields.
fn repair(data: &mut Vec<u8>) {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(data) else { return };
    fields.remove("digest");
    let digest = blake3::hash(&serde_json::to_vec(&fields).expect("JSON")).to_hex().to_string();
    fields.insert("digest".into(), digest.into());
    *data = serde_json::to_vec(&fields).expect("JSON");
}

fn seeds() -> Vec<Vec<u8>> {
    let file = |name: &str| FileRef { name: name.into(), bytes: 16, blake3: blake3::hash(name.as_bytes()) };
    let db = |name: &str, shared| DbFile { name: name.into(), bytes: 9, blake3: blake3::hash(b"x"), shared };
    let manifest = |memory_csn: u64, completion: Vec<FileRef>| Manifest {
        format: MANIFEST_FORMAT,
        cluster: ClusterId([7; 16]),
        epoch: Epoch(3),
        csn: Csn(42),
        time: CommitTime(1_790_000_000_123_456),
        hash: HistoryHash(42),
        level: if memory_csn < 42 && completion.is_empty() { Level::Bounded } else { Level::Strict },
        cut: CutRecord {
            asked: Level::Bounded,
            skew_commits: 42 - memory_csn,
            skew_us: 123_456,
            allowed_us: Some(200_000),
            node: "0123456789abcdef".into(),
            role: LastRole::Primary,
        },
        memory: MemoryPart {
            csn: Csn(memory_csn),
            time: CommitTime(1_790_000_000_000_000),
            hash: HistoryHash(memory_csn),
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
            wal_seq: WalSeq(100),
            contents: DiskContents {
                digest: blake3::hash(b"d"),
                families: vec![FamilyContents { name: "default".into(), entries: 9, deletions: 1, bytes: 99 }],
            },
            files: vec![db("000012.sst", true), db("CURRENT", false)],
        },
        completion,
        bytes_new: 32,
        bytes_shared: 0,
        took_ms: 5,
    };
    let with_completion = manifest(40, vec![file("41-42.chunk")]);
    let run = RunManifest {
        format: RUN_FORMAT,
        cluster: ClusterId([7; 16]),
        epoch: Epoch(3),
        first: Csn(41),
        last: Csn(50),
        first_time: CommitTime(1_790_000_000_000_000),
        last_time: CommitTime(1_790_000_003_600_000),
        hash_before: HistoryHash(40),
        hash_after: HistoryHash(50),
        grain: Grain::Hour,
        raw_bytes: 1000,
        puts: 3,
        deletes: 1,
        memory_keys: 2,
        ranges: vec![RunRange { family: "default".into(), from: "61".into(), to: "7a00".into() }],
        disk: vec![RunFile {
            family: "default".into(),
            name: "default-000000.sst".into(),
            bytes: 9,
            blake3: blake3::hash(b"r"),
        }],
        memory: vec![file("memory-000000.chunk")],
    };
    vec![manifest(42, Vec::new()).encode(), with_completion.encode(), manifest(40, Vec::new()).encode(), run.encode()]
}
