//! Bases on the local disk.

use super::*;
use crate::config::AppendFsync;
use crate::snapshot::rig::{CLUSTER, Rig, content, restore};
use bytes::Bytes;

fn fetch(base: &LocalBase) -> impl Fn(&str) -> Bytes + Sync {
    let (ssts, own) = base.files();
    move |name| {
        let file = ssts.iter().chain(&own).find(|file| file.name == name).expect("the file is listed");
        fs::read(&file.path).expect("the file is there").into()
    }
}

/// The base is what the commits up to its csn add up to, in every engine.
fn assert_exact(rig: &Rig, base: &LocalBase) {
    let (memory, disk) = restore(base.manifest(), fetch(base));
    let (expected_memory, expected_disk) = rig.expected(base.manifest().csn);
    assert!(content(&memory) == content(&expected_memory), "the memory engines differ");
    assert!(disk == expected_disk, "the disk engines differ");
}

#[test]
fn a_base_cut_under_load_brings_every_engine_to_one_csn() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 500);
    for seed in 2..6 {
        let base = rig.cut_under_load(seed);
        let manifest = base.manifest();
        assert_eq!(manifest.cluster, CLUSTER);
        assert!(manifest.disk.csn > manifest.memory.csn, "commits were made between the two cuts");
        assert!(!manifest.completion.is_empty());
        assert_exact(&rig, &base);
    }
}

#[test]
fn an_idle_base_needs_no_completion() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 50);
    let base = rig.cut().unwrap();
    assert_eq!(base.manifest().csn, rig.committer.watermarks.committed.get());
    assert!(base.manifest().completion.is_empty());
    assert_exact(&rig, &base);
}

#[test]
fn memory_commits_alone_put_a_base_ahead_of_rocksdb() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write_list(b"before any disk commit");
    let base = rig.cut().unwrap();
    assert_eq!((base.manifest().csn, base.manifest().disk.csn), (Csn(1), Csn::ZERO));
    assert_exact(&rig, &base);
    drop(base);
    rig.write(1, 20);
    rig.write_list(b"after the last disk commit");
    let base = rig.cut().unwrap();
    assert!(base.manifest().disk.csn < base.manifest().csn);
    assert_exact(&rig, &base);
}

#[test]
fn an_empty_node_has_a_base() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    let base = rig.cut().unwrap();
    assert_eq!(base.manifest().csn, Csn::ZERO);
    assert_exact(&rig, &base);
}

#[test]
fn a_base_is_durable_where_replies_are() {
    let mut rig = Rig::new(AppendFsync::Always);
    rig.write(1, 20);
    let base = rig.cut_under_load(2);
    assert!(rig.committer.watermarks.durable.get() >= base.manifest().csn);
}

#[test]
fn one_base_is_there_at_a_time_and_goes_when_it_was_used() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    let dir = DataDir::new(rig.root.path()).base();
    rig.write(1, 20);
    let base = rig.cut().unwrap();
    let refused = rig.cut().unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    assert_exact(&rig, &base);
    drop(base);
    assert!(!dir.exists());
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("left by a crash"), b"x").unwrap();
    let base = rig.cut().unwrap();
    assert!(!dir.join("left by a crash").exists());
    assert_exact(&rig, &base);
}

#[test]
fn nothing_is_cut_after_a_failed_log_write() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 20);
    rig.committer.gate.close(Obstacle::Broken, "a log could not be written");
    let refused = rig.cut().unwrap_err();
    assert!(refused.to_string().contains("after a failed log write"), "{refused}");
}
