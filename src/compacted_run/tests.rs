//! Tests of compacted runs as files, and of what is refused.

use super::*;
use crate::archive::layout::{ObjectName, Section};
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::store::Archive;
use crate::archive::testing::faults::{Fault, FaultStore, QUICK};
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::engine::batch::{self, Family};
use crate::engine::memory::{Encoder, Memory};
use crate::error::Error;
use crate::grain::Grain;
use crate::io::{Io, StdIo};
use crate::position::Position;
use crate::record::CommitRecord;
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const CLUSTER: ClusterId = ClusterId([7; 16]);

fn commit(csn: u64) -> CommitRecord {
    let (mut disk, mut memory) = (Vec::new(), Vec::new());
    batch::push_put(&mut disk, Family::Sub, format!("key {csn}").as_bytes(), b"value");
    batch::push_delete_range(&mut disk, Family::Stream, b"a", b"b");
    Encoder::new(&mut memory).push_back(b"list", [&csn.to_be_bytes()[..]].into_iter());
    let (disk, memory) = (disk.into(), memory.into());
    let (csn, epoch, time) = (Csn(csn), Epoch(1), CommitTime(1000 + csn));
    CommitRecord { csn, epoch, time, disk_ops: 2, disk, memory, ..CommitRecord::default() }
}

/// Builds a run of csn 5 to 9.
fn local(dir: &Path) -> LocalRun {
    let after = Position { csn: Csn(4), time: CommitTime(1004), epoch: Epoch(1), hash: HistoryHash(4) };
    let mut builder = RunBuilder::begin(dir.join("run"), CLUSTER, Grain::Hour, after).unwrap();
    let state = Memory::new();
    (5..=9).for_each(|csn| builder.push(&commit(csn), &state).unwrap());
    let io: Arc<dyn Io> = Arc::new(StdIo);
    builder.finish(&io, &state).unwrap()
}

#[test]
fn a_manifest_survives_and_any_flipped_bit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let run = local(dir.path());
    let manifest = run.manifest();
    assert_eq!((manifest.first, manifest.last, manifest.puts, manifest.memory_keys), (Csn(5), Csn(9), 5, 1));
    assert_eq!(manifest.ranges.len(), 1, "the same range each time");
    let bytes = manifest.encode();
    assert_eq!(RunManifest::decode(&bytes, "m").unwrap(), *manifest);
    for bit in 0..(bytes.len() - 1) * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(RunManifest::decode(&flipped, "m").is_err(), "bit {bit}");
    }
    let newer = String::from_utf8(bytes).unwrap().replace("\"format\": 3", "\"format\": 1");
    let error = RunManifest::decode(newer.as_bytes(), "m").unwrap_err();
    assert!(matches!(error, Error::Version { found: 1, known: RUN_FORMAT, .. }), "{error}");
    drop(run);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "its files went with it");
}

#[test]
fn a_run_applies_to_the_state_before_it_only() {
    let dir = tempfile::tempdir().unwrap();
    let run = local(dir.path());
    let at = |csn: u64, time: u64| Position {
        csn: Csn(csn),
        time: CommitTime(time),
        epoch: Epoch(1),
        hash: HistoryHash(csn),
    };
    assert!(run.manifest().validate(at(4, 1004)).is_ok());
    for wrong in [at(3, 1003), at(5, 1005), at(9, 1009), at(4, 2000)] {
        assert!(matches!(run.manifest().validate(wrong), Err(Error::Gap { .. })), "{wrong:?}");
    }
}

#[test]
fn a_manifest_that_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = local(dir.path());
    let changes: [fn(&mut RunManifest); 7] = [
        |m| m.first = Csn(0),
        |m| m.first = Csn(10),
        |m| m.first_time = CommitTime(9999),
        |m| m.disk[0].family = "other".to_owned(),
        |m| m.disk[0].name = "../evil".to_owned(),
        |m| m.memory[0].name = m.disk[0].name.clone(),
        |m| m.ranges[0].from = "6".to_owned(),
    ];
    for change in changes {
        let mut manifest = run.manifest().clone();
        change(&mut manifest);
        let error = RunManifest::decode(&crate::archive::digested::encode(&manifest), "m").unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_manifest(bytes: Vec<u8>) {
        prop_assert!(RunManifest::decode(&bytes, "m").is_err());
    }
}

/// Goal: whichever request fails or loses its reply, a manifest exists only if all files exist; the next attempt
/// succeeds.
#[tokio::test]
async fn a_crash_at_any_request_leaves_no_half_run() {
    for fault in [Fault::Fail, Fault::LoseReply, Fault::Vanish, Fault::Truncate] {
        for at in 0..8 {
            let dir = tempfile::tempdir().unwrap();
            let run = local(dir.path());
            let store = FaultStore::default();
            let archive = Archive::over(Arc::new(store.clone()), "faults:///a".to_owned(), "a", None);
            let archive = archive.with_retry_policy(RetryPolicy { attempts: 1, ..QUICK });
            let script = || std::iter::repeat_n(Fault::None, at).chain([fault]);
            store.script_puts(script());
            store.script_gets(script());
            let first = publish(&archive, &run).await;
            store.heal();
            let names: Vec<ObjectName> =
                archive.list(Section::Runs).await.unwrap().objects.into_iter().map(|object| object.name).collect();
            let name = ObjectName::RunManifest(run.manifest().run());
            let is_there = |(object, ..): (ObjectName, u64, blake3::Hash)| names.contains(&object);
            assert!(!names.contains(&name) || run.manifest().objects().all(is_there), "{fault:?} at {at}");
            let content = archive.get(&name).await.unwrap();
            let is_whole = content.is_some_and(|content| content == run.manifest().encode());
            assert!(is_whole || first.is_err(), "{fault:?} at {at}: {first:?}");
            let again = publish(&archive, &run).await.unwrap();
            assert_eq!(again.is_new, !is_whole, "{fault:?} at {at}: {first:?}");
            assert_eq!(archive.get(&name).await.unwrap().unwrap(), run.manifest().encode(), "damage is made good");
        }
    }
}

/// Goal: the second of two builders of one run leaves the first builder's files unchanged.
#[tokio::test]
async fn two_builders_do_not_conflict() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (local(one.path()), local(two.path()));
    let archive = Archive::over(Arc::new(FaultStore::default()), "faults:///a".to_owned(), "a", None);
    let (first, second) = (publish(&archive, &one).await.unwrap(), publish(&archive, &two).await.unwrap());
    assert!(first.is_new && !second.is_new);
    assert_eq!(archive.list(Section::Runs).await.unwrap().objects.len() as u64, first.files + 1);
}
