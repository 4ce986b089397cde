//! Goal: sorted batches lead to the same state as the same operations written one by one.

use super::*;
use crate::engine::batch::{push_delete, push_delete_range, push_put};
use crate::engine::disk::DiskOptions;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rocksdb::IteratorMode;

fn open(dir: &Path) -> Disk {
    Disk::open(&dir.join("db"), &dir.join("wal"), DiskOptions { compaction: false, ..DiskOptions::default() }).unwrap()
}

/// So small that a batch of a few operations is sorted by several threads.
const SMALL: Bounds = Bounds { bytes_max: 400, parallel_min: 4 };

type Rows = Vec<(Box<[u8]>, Box<[u8]>)>;

fn rows(disk: &Disk) -> [Rows; 3] {
    Family::ALL
        .map(|family| disk.db().iterator_cf(disk.family(family), IteratorMode::Start).map(Result::unwrap).collect())
}

/// Returns a random key of 2 to 19 bytes, around the 16 bytes of a prefix, some with zeros at the end. Keys are few, so
/// that they are overwritten often.
fn key(random: &mut StdRng) -> Vec<u8> {
    let mut key = vec![0, random.random_range(0..3u8)];
    key.resize(random.random_range(2..20), random.random_range(0..2u8));
    key
}

fn operation(random: &mut StdRng, out: &mut Vec<u8>, value: u64) {
    let family = Family::ALL[random.random_range(0..3)];
    match random.random_range(0..40) {
        0 => {
            let (from, to) = (key(random), key(random));
            push_delete_range(out, family, (&from).min(&to), (&from).max(&to));
        }
        1..10 => drop(push_delete(out, family, &key(random))),
        _ => drop(push_put(out, family, &key(random), &value.to_be_bytes())),
    }
}

fn write(disk: &Disk, operations: &[u8], count: u32, wal: bool) {
    let mut batch = vec![0; HEADER_LEN];
    batch[8..].copy_from_slice(&count.to_le_bytes());
    batch.extend_from_slice(operations);
    disk.write(&batch, wal).unwrap();
}

/// Goal: batches, with ordinary writes before and between them and with reopening, always lead to the state that single
/// writes lead to.
#[test]
fn batches_lead_where_single_writes_lead() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (plain_dir, batch_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (plain, mut disk) = (open(plain_dir.path()), open(batch_dir.path()));
        for nth in 0..10 {
            let mut batch = SortedBatch::within(SMALL);
            for value in 0..random.random_range(1..60) {
                let mut operations = Vec::new();
                let count = random.random_range(1..4);
                (0..count).for_each(|_| operation(&mut random, &mut operations, value));
                write(&plain, &operations, count, true);
                batch.push(&operations, count).unwrap();
            }
            batch.ingest(&disk, batch_dir.path(), nth).unwrap();
            assert!(rows(&disk) == rows(&plain), "batch {nth}");
            let before = disk.wal_seq();
            let mut operations = Vec::new();
            operation(&mut random, &mut operations, 1000 + nth);
            write(&plain, &operations, 1, true);
            write(&disk, &operations, 1, true);
            assert!(disk.wal_seq() > before);
            assert!(rows(&disk) == rows(&plain), "after batch {nth}");
            if random.random_bool(0.3) {
                let seq = disk.wal_seq();
                drop(disk);
                disk = open(batch_dir.path());
                assert_eq!(disk.wal_seq(), seq);
                assert!(rows(&disk) == rows(&plain), "reopened after batch {nth}");
            }
        }
        for family in Family::ALL {
            disk.db().compact_range_cf(disk.family(family), None::<&[u8]>, None::<&[u8]>);
        }
        let rest: Vec<_> =
            std::fs::read_dir(batch_dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(rest.len(), 2, "only the database and its log are left: {rest:?}");
    }
}

/// Goal: malformed operations are refused before RocksDB logs them.
#[test]
fn malformed_operations_are_refused() {
    let mut operations = Vec::new();
    push_put(&mut operations, Family::Sub, b"key", b"value");
    let pushed = |operations: &[u8], count| SortedBatch::default().push(operations, count);
    pushed(&operations, 1).unwrap();
    assert!(pushed(&operations, 2).is_err());
    assert!(pushed(&operations, 0).is_err());
    assert!(pushed(&operations[..operations.len() - 1], 1).is_err());
}
