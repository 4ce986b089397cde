//! Tests of the disk engines.

use super::super::batch::{HEADER_LEN, push_delete, push_put};
use super::super::key::Generation;
use super::super::meta::{Collection, DiskType};
use super::*;

fn write(disk: &Disk, fill: impl FnOnce(&mut Vec<u8>) -> u32) {
    let mut batch = vec![0; HEADER_LEN];
    let count = fill(&mut batch);
    batch[8..12].copy_from_slice(&count.to_le_bytes());
    disk.write(&batch, true).unwrap();
}

#[test]
fn compaction_drops_elements_of_deleted_and_recreated_collections_only() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(&dir.path().join("db"), &dir.path().join("wal"), DiskOptions::default()).unwrap();
    let element = |name: &[u8], generation| key::sub(name, Generation(generation), b"field");
    write(&disk, |batch| {
        for (name, generation) in [(b"gone", 1), (b"anew", 2), (b"kept", 3), (b"text", 4)] {
            push_put(
                batch,
                Family::Default,
                &key::meta(name),
                &Collection::new(DiskType::Hash, Generation(generation)).encode(),
            );
            push_put(batch, Family::Sub, &element(name, generation), b"v");
        }
        8
    });
    write(&disk, |batch| {
        push_delete(batch, Family::Default, &key::meta(b"gone"));
        push_put(batch, Family::Default, &key::meta(b"anew"), &Collection::new(DiskType::Hash, Generation(9)).encode());
        push_put(batch, Family::Sub, &element(b"anew", 9), b"v");
        push_put(batch, Family::Default, &key::meta(b"text"), &super::super::meta::encode_string(b"s", 0));
        4
    });
    disk.flush().unwrap();
    disk.db().compact_range_cf(disk.family(Family::Sub), None::<&[u8]>, None::<&[u8]>);
    for (name, generation, lives) in
        [(b"gone", 1, false), (b"anew", 2, false), (b"anew", 9, true), (b"kept", 3, true), (b"text", 4, false)]
    {
        assert_eq!(
            disk.get(Family::Sub, &element(name, generation)).unwrap().is_some(),
            lives,
            "{name:?} {generation}"
        );
    }
}
