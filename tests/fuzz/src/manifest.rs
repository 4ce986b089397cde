//! Manifests of bases: from an archive, from a primary that sends a base.

use super::Target;
use serde_json::Value;
use walferry::cluster::ClusterId;
use walferry::csn::{CommitTime, Csn, Epoch, WalSeq};
use walferry::snapshot::manifest::{DbFile, DiskPart, FileRef, Level, MANIFEST_FORMAT, Manifest, MemoryPart};

pub const TARGET: Target = Target { name: "manifest", decode, check, repair, seeds };

fn decode(data: &[u8]) -> usize {
    drop(Manifest::decode(data, "fuzz"));
    0
}

fn check(data: &[u8]) {
    let Ok(manifest) = Manifest::decode(data, "fuzz") else { return };
    let again = Manifest::decode(&manifest.encode(), "again").expect("an encoded manifest");
    assert_eq!(again, manifest);
}

/// The digest over all other fields.
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
        level: Level::Strict,
        memory: MemoryPart {
            csn: Csn(memory_csn),
            time: CommitTime(1_790_000_000_000_000),
            lists: 2,
            zsets: 1,
            files: vec![file("memory.image")],
        },
        disk: DiskPart {
            csn: Csn(42),
            time: CommitTime(1_790_000_000_123_456),
            epoch: Epoch(3),
            wal_seq: WalSeq(100),
            files: vec![db("000012.sst", true), db("CURRENT", false)],
        },
        completion,
        bytes_new: 32,
        bytes_shared: 0,
        took_ms: 5,
    };
    vec![manifest(42, Vec::new()).encode(), manifest(40, vec![file("41-42.chunk")]).encode()]
}
