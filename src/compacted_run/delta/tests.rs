//! Tests of deltas against the replay of every op.

use super::*;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::engine::batch::{self, Family};
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::memory::testing::{self, content};
use crate::engine::memory::{Change, Encoder};
use crate::engine::sorted::{self, delete_ranges};
use crate::snapshot::testing::disk_content;
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

/// Makes a commit with these memory ops.
fn with_ops(csn: u64, encode: impl FnOnce(&mut Encoder<'_>)) -> CommitRecord {
    let mut ops = Vec::new();
    encode(&mut Encoder::new(&mut ops));
    CommitRecord { memory: ops.into(), ..commit(csn) }
}

fn parts(delta: &MemoryDelta, state: &Memory) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    delta
        .write(state, &mut |ops| {
            parts.push(ops.to_vec());
            Ok(())
        })
        .unwrap();
    parts
}

fn written(delta: &MemoryDelta, state: &Memory) -> Vec<u8> {
    parts(delta, state).concat()
}

fn apply(memory: &Memory, ops: &[u8]) {
    memory.apply(ops, Change { csn: Csn(0), hidden: None }).unwrap();
}

/// Returns random commits from csn 1 on.
fn history(seed: u64, count: u64) -> Vec<CommitRecord> {
    let mut random = StdRng::seed_from_u64(seed);
    let memory = Memory::new();
    let step = |csn| CommitRecord { memory: testing::ops(&mut random, &memory).into(), ..commit(csn) };
    (1..=count).map(step).collect()
}

fn state_after(commits: &[CommitRecord]) -> Memory {
    let memory = Memory::new();
    commits.iter().for_each(|commit| memory.apply_commit(commit).unwrap());
    memory
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_state_and_its_delta_are_the_replay_of_all_ops(seed: u64, begin in 0..40_usize, count in 1..40_usize) {
        let commits = history(seed, (begin + count) as u64);
        let state = state_after(&commits[..begin]);
        let mut delta = MemoryDelta::begin(position(begin as u64));
        for commit in &commits[begin..] {
            delta.push(commit, &state).unwrap();
        }
        let expected = content(&state_after(&commits));
        prop_assert!(content(&state) == expected, "gathering brings the state forward");
        let applied = state_after(&commits[..begin]);
        apply(&applied, &written(&delta, &state));
        prop_assert!(content(&applied) == expected);
        prop_assert_eq!(delta.span().commits(), count as u64);
        prop_assert!(delta.keys() <= u64::from(testing::KEYS));
    }
}

/// Goal: many changes of one member collapse into one, and a member that ends with its first score costs nothing.
#[test]
fn changes_of_one_member_are_one() {
    let state = Memory::new();
    let set = |csn: u64, member: &[u8], score: f64| {
        with_ops(csn, |ops| ops.set_scores(b"board", [(member, score)].into_iter()))
    };
    let mut setup = MemoryDelta::begin(position(0));
    for csn in 1..=100 {
        setup.push(&set(csn, format!("player {csn}").as_bytes(), 0.0), &state).unwrap();
    }
    let mut delta = MemoryDelta::begin(position(100));
    for csn in 101..=10_100 {
        delta.push(&set(csn, b"player 7", csn as f64), &state).unwrap();
        delta.push(&set(csn, b"player 8", 0.0), &state).expect_err("csns are dense");
    }
    let ops = written(&delta, &state);
    assert!(ops.len() < 40, "{} bytes for one member", ops.len());
    assert_eq!((delta.keys(), delta.span().commits()), (1, 10_000));
    delta.push(&set(10_101, b"player 7", 0.0), &state).unwrap();
    assert!(written(&delta, &state).is_empty());
}

/// Goal: many changes of one field, member or counter collapse into the last one.
#[test]
fn changes_of_one_field_and_of_one_string_are_one() {
    let state = Memory::new();
    let mut setup = MemoryDelta::begin(position(0));
    let names: Vec<_> = (0..100).map(|number| format!("name {number}")).collect();
    let names = || names.iter().map(String::as_bytes);
    let values = with_ops(1, |ops| {
        ops.put_fields(b"hash", names().map(|field| (field, &b"value"[..])));
        ops.add_members(b"set", names());
        ops.set_string(b"counter", 0, b"0");
    });
    setup.push(&values, &state).unwrap();
    let mut delta = MemoryDelta::begin(position(1));
    for csn in 2..=10_001 {
        let value = csn.to_string();
        let change = with_ops(csn, |ops| {
            ops.put_fields(b"hash", [(&b"name 7"[..], value.as_bytes())].into_iter());
            ops.remove_members(b"set", [&b"name 7"[..]].into_iter());
            ops.add_members(b"set", [&b"name 7"[..]].into_iter());
            ops.replace_string(b"counter", value.as_bytes());
        });
        delta.push(&change, &state).unwrap();
    }
    let ops = written(&delta, &state);
    assert!(ops.len() < 60, "{} bytes for one field and one string", ops.len());
    assert_eq!(delta.keys(), 3);
    let applied = Memory::new();
    apply(&applied, &values.memory);
    apply(&applied, &ops);
    assert!(content(&applied) == content(&state));
}

/// Goal: a queue costs its content, a long list its changes, and a long list that is written whole is split into
/// parts.
#[test]
fn a_list_costs_the_smaller_of_ops_and_content() {
    let state = Memory::new();
    let mut csn = 0;
    let mut setup = MemoryDelta::begin(position(0));
    let element = [7; 100];
    for key in [&b"long"[..], b"queue"] {
        csn += 1;
        let push = with_ops(csn, |ops| ops.push_back(key, std::iter::repeat_n(&element[..], 3000)));
        setup.push(&push, &state).unwrap();
    }
    let before = content(&state);
    let mut delta = MemoryDelta::begin(position(csn));
    for _ in 0..10 {
        csn += 1;
        delta.push(&with_ops(csn, |ops| ops.push_front(b"long", [&element[..]].into_iter())), &state).unwrap();
    }
    for _ in 0..6000 {
        csn += 2;
        delta.push(&with_ops(csn - 1, |ops| ops.push_back(b"queue", [&element[..]].into_iter())), &state).unwrap();
        delta.push(&with_ops(csn, |ops| ops.pop_front(b"queue", 1)), &state).unwrap();
    }
    let parts = parts(&delta, &state);
    let bytes: usize = parts.iter().map(Vec::len).sum();
    assert!(bytes > 300_000 && bytes < 320_000, "{bytes}: the queue's content and the ten pushes");
    assert!(parts.iter().all(|part| part.len() < 2 * OP_BYTES));
    let applied = Memory::new();
    setup_again(&applied, &element);
    assert!(content(&applied) == before);
    parts.iter().for_each(|part| apply(&applied, part));
    assert!(content(&applied) == content(&state));
}

fn setup_again(memory: &Memory, element: &[u8]) {
    for key in [&b"long"[..], b"queue"] {
        apply(memory, &with_ops(0, |ops| ops.push_back(key, std::iter::repeat_n(element, 3000))).memory);
    }
}

/// Goal: a long string costs its changes, or its content in parts once the changes are larger.
#[test]
fn a_string_costs_the_smaller_of_ops_and_content() {
    let state = Memory::new();
    let values = with_ops(1, |ops| {
        ops.set_string(b"appended", 5, &[7; 300_000]);
        ops.set_string(b"written", 5, &[7; 300_000]);
    });
    MemoryDelta::begin(position(0)).push(&values, &state).unwrap();
    let mut delta = MemoryDelta::begin(position(1));
    for csn in 2..=500 {
        let change = with_ops(csn, |ops| {
            if csn <= 10 {
                ops.append(b"appended", b"more");
            }
            ops.write(b"written", 20 * csn, &[8; 1000]);
        });
        delta.push(&change, &state).unwrap();
    }
    let parts = parts(&delta, &state);
    let bytes: usize = parts.iter().map(Vec::len).sum();
    assert!(bytes > 300_000 && bytes < 310_000, "{bytes}: one string's content and nine appends");
    assert!(parts.iter().all(|part| part.len() < 2 * OP_BYTES));
    let applied = Memory::new();
    apply(&applied, &values.memory);
    parts.iter().for_each(|part| apply(&applied, part));
    assert!(content(&applied) == content(&state));
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
            delta.push(&commit, &Memory::new()).unwrap();
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
