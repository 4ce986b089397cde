//! Goal: what the row cache returns is what the database holds, and it returns nothing that is not known.

use super::super::batch::{HEADER_LEN, push_delete, push_delete_range, push_put};
use super::super::disk::{Disk, DiskOptions};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn key(name: &[u8]) -> Vec<u8> {
    key::meta(name)
}

fn row(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes.to_vec())
}

fn plain(value: Result<Option<Value>>) -> Option<Vec<u8>> {
    value.unwrap().map(|value| value.to_vec())
}

fn cached(cache: &RowCache, name: &[u8]) -> Option<Option<Vec<u8>>> {
    if !cache.publications.load(Ordering::Relaxed).is_multiple_of(2) {
        return None;
    }
    let key = key(name);
    let kind = Kind::Row(Family::Default);
    cache.get(row_hash(Family::Default, &key), kind, &key).map(|found| found.map(|value| value.to_vec()))
}

#[test]
fn a_row_is_what_the_last_publication_left() {
    let cache = RowCache::new(1 << 20);
    assert_eq!(plain(cache.read(Family::Default, &key(b"a"), RowAccess::Unlocked, || Ok(row(b"1")))), row(b"1"));
    assert_eq!(cached(&cache, b"a"), Some(row(b"1")));
    let mut records = Vec::new();
    push_put(&mut records, Family::Default, &key(b"a"), b"2");
    push_put(&mut records, Family::Default, &key(b"large"), &[0; ROW_BYTES_MAX + 1]);
    push_put(&mut records, Family::Default, &key(b"b"), b"3");
    push_delete(&mut records, Family::Default, &key(b"b"));
    cache.publish().store(Csn(1), &records).unwrap();
    assert_eq!(cached(&cache, b"a"), Some(row(b"2")));
    assert_eq!(cached(&cache, b"b"), Some(None));
    assert_eq!(cached(&cache, b"large"), None);
    cache.publish().forget(&records).unwrap();
    assert_eq!(cached(&cache, b"a"), None);
}

#[test]
fn a_read_that_a_publication_overtakes_is_not_kept() {
    let cache = RowCache::new(1 << 20);
    let mut records = Vec::new();
    push_put(&mut records, Family::Default, &key(b"a"), b"new");
    let read = cache.read(Family::Default, &key(b"a"), RowAccess::Unlocked, || {
        cache.publish().store(Csn(1), &records).unwrap();
        Ok(row(b"old"))
    });
    assert_eq!(plain(read), row(b"old"), "it was so when it was read");
    assert_eq!(cached(&cache, b"a"), Some(row(b"new")));
    let publication = cache.publish();
    assert_eq!(cached(&cache, b"a"), None, "while rows change one by one, the database is asked");
    drop(publication);
    assert_eq!(cached(&cache, b"a"), Some(row(b"new")));
}

#[test]
fn bytes_are_bounded_and_rows_that_are_read_stay() {
    let bytes_max = SHARDS * 32 * 256;
    let cache = RowCache::new(bytes_max);
    let name = |n: u32| format!("key:{n}").into_bytes();
    for n in 0..100_000 {
        let read = plain(cache.read(Family::Default, &key(&name(n)), RowAccess::Unlocked, || Ok(row(&[7; 100]))));
        assert_eq!(read, row(&[7; 100]));
        assert!(cached(&cache, &name(0)).is_some(), "key 0 is read all the time, {n}");
    }
    assert!(cache.bytes() <= bytes_max && cache.bytes() > bytes_max / 2, "{}", cache.bytes());
    for n in (0..100_000).filter(|&n| cached(&cache, &name(n)).is_some()) {
        let mut records = Vec::new();
        push_delete(&mut records, Family::Default, &key(&name(n)));
        cache.publish().forget(&records).unwrap();
        assert!(cached(&cache, &name(n)).is_none());
    }
    assert_eq!(cache.bytes(), 0);
}

/// Returns the prefix of a collection. Collection 0 keeps its generation; each commit creates collections 1 and 2 anew.
fn prefix(collection: u8, csn: u64) -> Vec<u8> {
    key::element_prefix(&[b'a' + collection], Generation(if collection == 0 { 0 } else { csn }))
}

fn element_key(prefix: &[u8], field: u8) -> Vec<u8> {
    [prefix, &[field]].concat()
}

/// Reports whether the cache knows that an element does not exist.
fn is_known_absent(cache: &RowCache, prefix: &[u8], field: u8) -> bool {
    let mut was_read = false;
    let read = || {
        was_read = true;
        Ok(None::<Vec<u8>>)
    };
    let found = cache.read(Family::Sub, &element_key(prefix, field), RowAccess::Changing, read).unwrap();
    assert!(found.is_none());
    !was_read
}

#[test]
fn of_a_collection_that_outgrew_its_buffer_absent_elements_are_known_until_a_row_goes() {
    let cache = RowCache::new(64 << 20);
    let prefix = prefix(1, 1);
    let store = |csn: u64, fields: &[(u8, usize)]| {
        let mut records = Vec::new();
        for &(field, length) in fields {
            push_put(&mut records, Family::Sub, &element_key(&prefix, field), &vec![7; length]);
        }
        cache.publish().store(Csn(csn), &records).unwrap();
    };
    store(1, &[(1, 900), (2, 900)]);
    assert!(cache.whole(&prefix, RowAccess::Changing).flatten().is_some());
    store(2, &[(3, 900)]);
    assert_eq!(cache.whole(&prefix, RowAccess::Changing).map(|whole| whole.is_some()), Some(false));
    let row = |field| {
        cache.get(
            row_hash(Family::Sub, &element_key(&prefix, field)),
            Kind::Row(Family::Sub),
            &element_key(&prefix, field),
        )
    };
    assert!([1, 2, 3].into_iter().all(|field| row(field).flatten().is_some_and(|value| value.len() == 900)));
    assert!(is_known_absent(&cache, &prefix, 4));
    let publication = cache.publish();
    let mut was_read = false;
    let read = || {
        was_read = true;
        Ok(None::<Vec<u8>>)
    };
    cache.read(Family::Sub, &element_key(&prefix, 5), RowAccess::Unlocked, read).unwrap();
    assert!(was_read, "rows change one by one");
    drop(publication);
    // A row that is too large for the cache.
    store(3, &[(6, ROW_BYTES_MAX)]);
    assert!(!is_known_absent(&cache, &prefix, 7));
}

#[test]
fn a_collection_is_complete_no_longer_than_its_rows_are_there() {
    let outgrown = |cache: &RowCache| {
        let mut records = Vec::new();
        for field in 0..40 {
            push_put(&mut records, Family::Sub, &element_key(&prefix(1, 1), field), &[7; 100]);
        }
        cache.publish().store(Csn(1), &records).unwrap();
        records
    };
    let cache = RowCache::new(64 << 20);
    let records = outgrown(&cache);
    assert!(is_known_absent(&cache, &prefix(1, 1), 50));
    cache.publish().forget(&records[..records.len() / 40]).unwrap();
    assert!(!is_known_absent(&cache, &prefix(1, 1), 51), "a row was forgotten");

    let cache = RowCache::new(64 << 20);
    outgrown(&cache);
    let mut all = Vec::new();
    push_delete_range(&mut all, Family::Sub, b"", b"\xff");
    cache.publish().store(Csn(2), &all).unwrap();
    assert!(!is_known_absent(&cache, &prefix(1, 1), 50), "all rows went");

    let cache = RowCache::new(SHARDS * 4096);
    outgrown(&cache);
    assert!(is_known_absent(&cache, &prefix(1, 1), 50));
    for n in 0..200_000_u32 {
        let name = n.to_be_bytes();
        cache.read(Family::Default, &key(&name), RowAccess::Unlocked, || Ok(row(&[7; 100]))).unwrap();
    }
    assert!(!is_known_absent(&cache, &prefix(1, 1), 51), "rows made room");

    let cache = RowCache::new(64 << 20);
    outgrown(&cache);
    let walked = cache.read_whole(&prefix(1, 1), RowAccess::Changing, || Ok(None)).unwrap();
    assert!(walked.is_none() && is_known_absent(&cache, &prefix(1, 1), 50), "it is too large for a buffer");
    let mut records = Vec::new();
    for field in 1..40 {
        push_delete(&mut records, Family::Sub, &element_key(&prefix(1, 1), field));
    }
    cache.publish().store(Csn(2), &records).unwrap();
    let mut left = Vec::new();
    assert!(whole::push(&mut left, &[0], &[7; 100]));
    cache.read_whole(&prefix(1, 1), RowAccess::Changing, || Ok(Some(left))).unwrap();
    assert!(!is_known_absent(&cache, &prefix(1, 1), 51), "its buffer is asked now");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Goal: what the cache returns for a collection is what the database holds, whether the collection is known from
    /// its creation on, was walked, got too large, became small after that, or had to make room.
    #[test]
    fn the_elements_told_are_those_in_the_database(
        // Each commit is a list of changes (collection, field, length of the value or `None` for a delete) and a bit
        // set of the collections that are looked at.
        commits in prop::collection::vec(
            (prop::collection::vec((0..3u8, 0..6u8, prop::option::of(0..2000u16)), 1..12), any::<u8>()), 1..40),
        row_cache_bytes in prop::sample::select(vec![1 << 20, 16 << 20]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let options = DiskOptions { row_cache_bytes, ..DiskOptions::default() };
        let disk = Disk::open(&dir.path().join("db"), &dir.path().join("wal"), options).unwrap();
        let mut model = BTreeMap::new();
        for (csn, (changes, looks)) in (1..).zip(&commits) {
            let mut batch = vec![0; HEADER_LEN];
            for &(collection, field, value) in changes {
                let stored_key = element_key(&prefix(collection, csn), field);
                match value.map(|length| vec![b'v'; length.into()]) {
                    Some(value) => {
                        push_put(&mut batch, Family::Sub, &stored_key, &value);
                        model.insert(stored_key, value);
                    }
                    None => {
                        push_delete(&mut batch, Family::Sub, &stored_key);
                        model.remove(&stored_key);
                    }
                }
            }
            batch[8..HEADER_LEN].copy_from_slice(&(changes.len() as u32).to_le_bytes());
            let publication = disk.rows().publish();
            disk.write(&batch, true).unwrap();
            publication.store(Csn(csn), &batch[HEADER_LEN..]).unwrap();
            drop(publication);
            for collection in (0..3).filter(|collection| looks & (1 << collection) != 0) {
                let prefix = prefix(collection, csn);
                let of_it = model.range(prefix.clone()..key::prefix_range(prefix.clone()).end);
                let mut expected = Some(Vec::new());
                for (stored_key, value) in of_it {
                    expected = expected.and_then(|mut elements| {
                        whole::push(&mut elements, &stored_key[prefix.len()..], value).then_some(elements)
                    });
                }
                // The cache may report a collection as too large when it no longer is.
                if looks & 0x80 != 0
                    && let Some(told) = disk.whole(&prefix, RowAccess::Unlocked).unwrap()
                {
                    prop_assert_eq!(Some(told.to_vec()), expected);
                }
                for field in 0..6 {
                    let stored_key = element_key(&prefix, field);
                    let kept = disk.rows().whole(&prefix, RowAccess::Unlocked).flatten();
                    let value = match kept {
                        Some(elements) => elements.element(&[field]),
                        None => disk.row(Family::Sub, &stored_key, RowAccess::Unlocked).unwrap(),
                    };
                    prop_assert_eq!(value.as_deref(), model.get(&stored_key).map(Vec::as_slice));
                }
            }
        }
    }
}
