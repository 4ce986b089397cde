//! Tests of bases on the local disk.

use super::*;
use crate::config::{AppendFsync, Consistency};
use crate::engine::memory::testing::content;
use crate::engine::memory::{Change, Encoder, LargeValue, Slot, ZsetBuilder};
use crate::io::testing::{FAULTS, each_step};
use crate::snapshot::testing::{CLUSTER, Rig, request, restore};
use bytes::Bytes;

fn fetch(base: &LocalBase) -> impl Fn(&str) -> Bytes + Sync {
    let (ssts, own) = base.files();
    move |name| {
        let file = ssts.iter().chain(&own).find(|file| file.name == name).expect("the file is listed");
        fs::read(&file.path).expect("the file is there").into()
    }
}

/// Asserts that the base equals the state after the commits up to its csn, in every engine.
fn assert_exact(rig: &Rig, base: &LocalBase) {
    let (memory, disk) = restore(base.manifest(), fetch(base));
    let (expected_memory, expected_disk) = rig.expected(base.manifest().csn);
    assert!(content(&memory) == content(&expected_memory), "the keys in memory differ");
    assert!(disk == expected_disk, "the disk engines differ");
}

#[test]
fn a_base_cut_under_load_brings_every_engine_to_one_csn() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 500);
    let mut overtaken = 0;
    for seed in 2..100 {
        let base = rig.cut_under_load(seed);
        let manifest = base.manifest();
        assert_eq!(manifest.cluster, CLUSTER);
        assert_exact(&rig, &base);
        // The system decides whether the writer thread runs between the two cuts.
        let is_overtaken = manifest.disk.csn > manifest.memory.csn;
        assert_eq!(is_overtaken, !manifest.completion.is_empty());
        overtaken += usize::from(is_overtaken);
        if overtaken == 4 {
            return;
        }
    }
    panic!("commits were made between the two cuts of {overtaken} bases only");
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
    assert!(matches!(refused, Error::NotNow { .. }), "{refused}");
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
    rig.committer.gate.close(RefusalReason::Broken, "a log could not be written");
    let refused = rig.cut().unwrap_err();
    assert!(refused.to_string().contains("after a failed log write"), "{refused}");
}

/// Goal: whichever step of cutting a base fails, the cut fails and leaves nothing on the disk, and the next cut is
/// exact.
#[test]
fn a_base_is_exact_or_leaves_nothing_whichever_step_fails() {
    let rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 20);
    let dir = DataDir::new(rig.root.path());
    each_step(&FAULTS, |case| {
        let cut = BaseCutter::new(case.io(), &dir, CLUSTER).cut(&rig.committer, &request(Consistency::Strict));
        assert_eq!(cut.is_err(), case.io.has_struck());
        match cut {
            Ok(base) => assert_exact(&rig, &base),
            Err(_) => assert!(!dir.base().exists()),
        }
    });
}

/// Goal: whichever step of writing the completion fails, it fails as a whole.
#[test]
fn a_completion_fails_with_any_of_its_steps() {
    let rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 20);
    let (logs, until) = rig.committer.log_reader();
    each_step(&FAULTS, |case| {
        let dir = tempfile::tempdir().unwrap();
        let range = (LogCursor::default(), until);
        let written = completion::write(&*case.io, dir.path(), &logs, range, crate::csn::Epoch(1));
        assert_eq!(written.is_err(), case.io.has_struck());
        for file in written.into_iter().flatten() {
            assert_eq!(fs::read(dir.path().join(&file.name)).unwrap().len() as u64, file.bytes);
        }
    });
}
/// Goal: with commits between the cuts, a strict base lies at one csn, and any other base at the two csns in its
/// manifest.
#[test]
fn each_level_is_what_it_says() {
    for consistency in [Consistency::Strict, Consistency::Bounded(Duration::from_secs(60)), Consistency::Eventual] {
        let mut rig = Rig::new(AppendFsync::EverySec);
        rig.write(1, 60);
        let before = rig.committer.watermarks.committed.get();
        let base = rig.cut_around(consistency, 2, 30).unwrap();
        let manifest = base.manifest();
        let cut = &manifest.cut;
        assert_eq!((manifest.memory.csn, cut.skew_commits), (before, manifest.disk.csn.since(before)));
        assert_eq!(cut.skew_us, manifest.disk.time.0 - manifest.memory.time.0);
        let (memory, disk) = restore(manifest, fetch(&base));
        let (_, expected_disk) = rig.expected(manifest.csn);
        let (expected_memory, _) = rig.expected(if consistency == Consistency::Strict { manifest.csn } else { before });
        assert!(content(&memory) == content(&expected_memory), "{consistency}");
        assert!(disk == expected_disk, "{consistency}");
        let is_strict = consistency == Consistency::Strict;
        assert_eq!(manifest.start().after, if is_strict { manifest.csn } else { before });
        assert_eq!(manifest.completion.is_empty(), !is_strict);
    }
}

/// Goal: cuts that are further apart than allowed give an error that states the distance, and leave no files.
#[test]
fn a_bound_that_is_not_kept_is_refused() {
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 60);
    let dir = DataDir::new(rig.root.path()).base();
    let bound = Consistency::Bounded(Duration::ZERO);
    let refused = rig.cut_around(bound, 2, 30).unwrap_err();
    let Error::InconsistentTiming { found, allowed } = refused else { panic!("{refused}") };
    assert!(found > allowed && allowed == Duration::ZERO && !dir.exists());
    let base = rig.cut_around(bound, 3, 0).unwrap();
    assert_eq!((base.manifest().level, base.manifest().cut.asked), (Level::Strict, Level::Bounded));
    assert_exact(&rig, &base);
}

/// Goal: a cut beside a large sorted set that is being written delays writers by microseconds only, and is freed on
/// the snapshot's thread.
#[test]
fn a_cut_beside_a_large_sorted_set_is_short() {
    const MEMBERS: u64 = 500_000;
    let rig = Rig::new(AppendFsync::No);
    let mut large = ZsetBuilder::default();
    assert!((0..MEMBERS).all(|number| large.push(format!("member:{number:09}").as_bytes(), number as f64)));
    let slot = Slot::large(b"large", 0, LargeValue::Zset(large.finish().unwrap()));
    rig.committer.memory().insert(slot, Change { csn: Csn(0), hidden: None });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..MEMBERS).cycle().step_by(7919) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let member = format!("member:{number:09}");
                let mut turn = rig.committer.lock_logs();
                turn.reserve(1 << 12).unwrap();
                let score = |ops: &mut Encoder<'_>| {
                    ops.set_scores(b"large", [(member.as_bytes(), number as f64 + 0.5)].into_iter());
                };
                turn.keyspace(0).change_in_memory(b"large", score).unwrap();
                turn.commit().unwrap();
                turn.write().unwrap();
            }
        });
        let mut pauses: Vec<Duration> = (0..25)
            .map(|_| {
                let moment = MemorySnapshot::take(&rig.committer).unwrap();
                // Held while the writer continues, as an image that is being written holds its cut.
                let zset = moment.cut.get(b"large").and_then(Slot::as_zset).unwrap();
                assert_eq!((zset.iter_from(0).count(), moment.cut.len()), (MEMBERS as usize, 1));
                moment.pause
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        pauses.sort_unstable();
        assert!(pauses[12] < Duration::from_millis(1), "{pauses:?}");
    });
}

/// Goal: a large memory is written to several images in parallel, and reading them in parallel restores all of it.
#[test]
fn a_large_memory_goes_into_several_images() {
    if std::thread::available_parallelism().map_or(1, usize::from) == 1 {
        eprintln!("one core: one image");
        return;
    }
    let mut rig = Rig::new(AppendFsync::EverySec);
    rig.write(1, 800);
    let base = rig.cut().unwrap();
    let names: Vec<_> = base.manifest().memory.files.iter().map(|file| file.name.clone()).collect();
    assert!(names.len() > 1 && names.len() <= IMAGES_MAX && names[0] == "memory-0.image", "{names:?}");
    assert_exact(&rig, &base);
}
