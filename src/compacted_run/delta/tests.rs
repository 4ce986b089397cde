//! Tests of deltas against the replay of every op.

use super::*;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::engine::batch::{self, Family};
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::memory::testing as random_ops;
use crate::engine::memory::{ListEncoder, ZsetEncoder};
use crate::engine::sorted::{self, delete_ranges};
use crate::snapshot::testing::{content, disk_content};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

fn position(csn: u64) -> Position {
    Position { csn: Csn(csn), time: CommitTime(100 + csn), epoch: Epoch(1), hash: HistoryHash::ZERO }
}

fn commit(csn: u64) -> CommitRecord {
    let Position { csn, time, epoch, .. } = position(csn);
    CommitRecord { csn, time, epoch, ..CommitRecord::default() }
}

fn written(delta: &dyn Fn(&Memory, &mut OpSink<'_>) -> Result<()>, state: &Memory) -> Vec<u8> {
    let mut all = Vec::new();
    delta(state, &mut |ops| {
        all.extend_from_slice(ops);
        Ok(())
    })
    .unwrap();
    all
}

/// Returns random commits from csn 1 on.
fn history(seed: u64, count: u64) -> Vec<CommitRecord> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut memory = Memory::new();
    let step = |csn| CommitRecord {
        lists: random_ops::lists(&mut random, &mut memory).into(),
        zsets: random_ops::zsets(&mut random, &mut memory).into(),
        ..commit(csn)
    };
    (1..=count).map(step).collect()
}

fn state_after(commits: &[CommitRecord]) -> Memory {
    let mut memory = Memory::new();
    for commit in commits {
        memory.apply_lists(&commit.lists).unwrap();
        memory.apply_zsets(&commit.zsets).unwrap();
    }
    memory
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_state_and_its_delta_are_the_replay_of_all_ops(seed: u64, begin in 0..40_usize, count in 1..40_usize) {
        let commits = history(seed, (begin + count) as u64);
        let mut state = state_after(&commits[..begin]);
        let after = position(begin as u64);
        let (mut lists, mut zsets) = (ListDelta::begin(after), ZsetDelta::begin(after));
        for commit in &commits[begin..] {
            lists.push(commit, &mut state).unwrap();
            zsets.push(commit, &mut state).unwrap();
        }
        let expected = content(&state_after(&commits));
        prop_assert!(content(&state) == expected, "gathering brings the state forward");
        let mut applied = state_after(&commits[..begin]);
        applied.apply_lists(&written(&|state, sink| lists.write(state, sink), &state)).unwrap();
        applied.apply_zsets(&written(&|state, sink| zsets.write(state, sink), &state)).unwrap();
        prop_assert!(content(&applied) == expected);
        for delta in [&lists as &dyn EngineDelta, &zsets] {
            prop_assert_eq!(delta.span().commits(), count as u64);
            prop_assert!(delta.keys() <= 4);
        }
    }
}

/// Goal: many changes of one member collapse into one, and a member that ends with its first score costs nothing.
#[test]
fn changes_of_one_member_are_one() {
    let mut state = Memory::new();
    let set = |csn: u64, member: &[u8], score: f64| {
        let mut zsets = Vec::new();
        ZsetEncoder::new(&mut zsets).set(b"board", [(member, score)].into_iter());
        CommitRecord { zsets: zsets.into(), ..commit(csn) }
    };
    let mut setup = ZsetDelta::begin(position(0));
    for csn in 1..=100 {
        setup.push(&set(csn, format!("player {csn}").as_bytes(), 0.0), &mut state).unwrap();
    }
    let mut delta = ZsetDelta::begin(position(100));
    for csn in 101..=10_100 {
        delta.push(&set(csn, b"player 7", csn as f64), &mut state).unwrap();
        delta.push(&set(csn, b"player 8", 0.0), &mut state).expect_err("csns are dense");
    }
    let ops = written(&|state, sink| delta.write(state, sink), &state);
    assert!(ops.len() < 40, "{} bytes for one member", ops.len());
    assert_eq!((delta.keys(), delta.span().commits()), (1, 10_000));
    delta.push(&set(10_101, b"player 7", 0.0), &mut state).unwrap();
    assert!(written(&|state, sink| delta.write(state, sink), &state).is_empty());
}

/// Goal: a queue costs its content, a long list its changes, and a long list that is written whole is split into
/// parts.
#[test]
fn a_list_costs_the_smaller_of_ops_and_content() {
    let mut state = Memory::new();
    let op = |csn: u64, write: &dyn Fn(&mut ListEncoder<'_>)| {
        let mut lists = Vec::new();
        write(&mut ListEncoder::new(&mut lists));
        CommitRecord { lists: lists.into(), ..commit(csn) }
    };
    let mut csn = 0;
    let mut setup = ListDelta::begin(position(0));
    let element = [7; 100];
    for key in [&b"long"[..], b"queue"] {
        csn += 1;
        setup.push(&op(csn, &|ops| ops.push_back(key, std::iter::repeat_n(&element[..], 3000))), &mut state).unwrap();
    }
    let before = content(&state);
    let mut delta = ListDelta::begin(position(csn));
    for _ in 0..10 {
        csn += 1;
        delta.push(&op(csn, &|ops| ops.push_front(b"long", [&element[..]].into_iter())), &mut state).unwrap();
    }
    for _ in 0..6000 {
        csn += 2;
        delta.push(&op(csn - 1, &|ops| ops.push_back(b"queue", [&element[..]].into_iter())), &mut state).unwrap();
        delta.push(&op(csn, &|ops| ops.pop_front(b"queue", 1)), &mut state).unwrap();
    }
    let mut parts = Vec::new();
    delta
        .write(&state, &mut |ops| {
            parts.push(ops.to_vec());
            Ok(())
        })
        .unwrap();
    let bytes: usize = parts.iter().map(Vec::len).sum();
    assert!(bytes > 300_000 && bytes < 320_000, "{bytes}: the queue's content and the ten pushes");
    assert!(parts.iter().all(|part| part.len() < 2 * OP_BYTES));
    let mut applied = Memory::new();
    setup_again(&mut applied, &element);
    assert!(content(&applied) == before);
    parts.iter().for_each(|part| applied.apply_lists(part).unwrap());
    assert!(content(&applied) == content(&state));
}

fn setup_again(memory: &mut Memory, element: &[u8]) {
    for key in [&b"long"[..], b"queue"] {
        let mut lists = Vec::new();
        ListEncoder::new(&mut lists).push_back(key, std::iter::repeat_n(element, 3000));
        memory.apply_lists(&lists).unwrap();
    }
}

fn open(dir: &std::path::Path) -> Disk {
    Disk::open(&dir.join("db"), &dir.join("wal"), DiskOptions { compaction: false, ..DiskOptions::default() }).unwrap()
}

fn write(disk: &Disk, commit: &CommitRecord) {
    let mut batch = vec![0; batch::HEADER_LEN];
    batch[8..].copy_from_slice(&commit.disk_ops.to_le_bytes());
    batch.extend_from_slice(&commit.disk);
    disk.write(&batch, true).unwrap();
}

fn disk_commit(random: &mut StdRng, csn: u64) -> CommitRecord {
    let mut disk = Vec::new();
    let count = random.random_range(1..4);
    for _ in 0..count {
        let family = Family::ALL[random.random_range(0..3)];
        let mut key = || vec![random.random_range(0..3u8), random.random_range(0..20u8)];
        let (key, other) = (key(), key());
        match random.random_range(0..30) {
            0 => batch::push_delete_range(&mut disk, family, (&key).min(&other), (&key).max(&other)),
            1..8 => drop(batch::push_delete(&mut disk, family, &key)),
            _ => drop(batch::push_put(&mut disk, family, &key, &csn.to_be_bytes())),
        }
    }
    CommitRecord { disk_ops: count, disk: disk.into(), ..commit(csn) }
}

/// Goal: the disk engines' delta leads to the same state as single writes, with one sorted batch and with many.
/// So small that a delta of some commits takes several sorted batches and several files.
const SMALL: Bounds = Bounds { batch: sorted::Bounds { bytes_max: 400, parallel_min: 4 }, file_bytes_max: 300 };

#[test]
fn a_disk_delta_leads_where_single_writes_lead() {
    for (seed, count) in [(1, 3), (2, 8), (3, 60), (4, 200), (5, 400)] {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let root = tempfile::tempdir().unwrap();
        let (plain, other) = (open(&root.path().join("plain")), open(&root.path().join("other")));
        for csn in 1..=50 {
            let commit = disk_commit(&mut random, csn);
            write(&plain, &commit);
            write(&other, &commit);
        }
        let mut delta = DiskDelta::begin(position(50), root.path().join("scratch"), SMALL);
        for csn in 51..=50 + count {
            let commit = disk_commit(&mut random, csn);
            write(&plain, &commit);
            delta.push(&commit, &mut Memory::new()).unwrap();
        }
        let operations = delta.keys();
        let dir = root.path().join("files");
        std::fs::create_dir(&dir).unwrap();
        let written = delta.write(&dir).unwrap();
        assert!(!root.path().join("scratch").exists());
        let rows: u64 = written.files.iter().map(|file| file.puts + file.deletes).sum();
        assert!(rows <= operations && rows <= 3 * 60, "each key once");
        for range in &written.ranges {
            let mut records = Vec::new();
            batch::push_delete_range(&mut records, range.family, &range.from, &range.to);
            delete_ranges(&other, &records, 1).unwrap();
        }
        for family in Family::ALL {
            let files = written.files.iter().filter(|file| file.family == family);
            let files: Vec<_> = files.map(|file| file.path.clone()).collect();
            if !files.is_empty() {
                other.ingest(family, files).unwrap();
            }
        }
        assert!(disk_content(&other) == disk_content(&plain), "seed {seed}");
    }
}
