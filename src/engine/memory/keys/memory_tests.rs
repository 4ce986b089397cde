//! Tests of the keys in memory: a map under any changes, cuts that stay, hidden changes that nobody sees in part.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

type Map = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

const SEEN: Change = Change { csn: Csn(1), hidden: None };

fn entry(slot: &Slot) -> (Vec<u8>, (u64, Vec<u8>)) {
    let mut bytes = Vec::new();
    slot.as_string().unwrap().read(0..u64::MAX, &mut bytes);
    (slot.key().to_vec(), (slot.expire_ms(), bytes))
}

fn content(cut: &MemoryCut) -> Map {
    cut.iter().map(entry).collect()
}

/// Makes one random change in both.
fn change(random: &mut StdRng, keys: &Memory, map: &mut Map, of: Change) {
    let key = format!("key:{}", random.random_range(0..3000)).into_bytes();
    match random.random_range(0..100) {
        0..60 => {
            let expire_ms = if random.random_bool(0.3) { random.random_range(1..100) } else { 0 };
            let value = vec![b'v'; if random.random_bool(0.02) { 9000 } else { random.random_range(0..90) }];
            keys.insert(Slot::string(&key, expire_ms, &value), of);
            map.insert(key, (expire_ms, value));
        }
        60..75 => {
            let there = keys.update(&key, of, |slot| slot.append(b"more")).is_some();
            assert_eq!(there, map.contains_key(&key));
            map.entry(key).and_modify(|(_, value)| value.extend_from_slice(b"more"));
        }
        75..80 => {
            keys.update(&key, of, |slot| slot.set_expire(7));
            map.entry(key).and_modify(|(expire_ms, _)| *expire_ms = 7);
        }
        80..99 => assert_eq!(keys.delete(&key, of), map.remove(&key).is_some()),
        _ if random.random_bool(0.05) => {
            keys.clear(of);
            map.clear();
        }
        _ => assert_eq!(keys.remove(&key, of).map(|slot| entry(&slot).1), map.remove(&key)),
    }
}

/// Goal: the keys do what a map does; cuts keep their content; a hidden change can be taken back whole, and
/// readers see none of it before it is published.
#[test]
fn the_keys_are_a_map() {
    for seed in 0..12 {
        let mut random = StdRng::seed_from_u64(seed);
        let (keys, mut map) = (Memory::new(), Map::new());
        let mut kept = Vec::new();
        for step in 0..60 {
            for _ in 0..200 {
                change(&mut random, &keys, &mut map, SEEN);
            }
            let before = map.clone();
            let hidden = keys.hide();
            let of = Change { csn: Csn(2), hidden: Some(hidden) };
            for _ in 0..random.random_range(0..60) {
                change(&mut random, &keys, &mut map, of);
            }
            for number in 0..3000 {
                let key = format!("key:{number}").into_bytes();
                let seen = keys.seen(&key).slot.map(|slot| entry(&slot).1);
                assert_eq!(seen.as_ref(), before.get(&key), "seed {seed} step {step} key {number}");
                assert_eq!(keys.get(&key).map(|slot| entry(&slot).1).as_ref(), map.get(&key));
            }
            if random.random_bool(0.5) {
                keys.end_hidden(Csn(2));
                keys.publish_until(Csn(1));
                assert_eq!(keys.seen(b"key:1").slot.map(|slot| entry(&slot).1).as_ref(), before.get(&b"key:1"[..]));
                keys.publish_until(Csn(2));
            } else {
                keys.take_back(hidden, Csn(3));
                map = before;
            }
            keys.check();
            kept.push((keys.cut(), map.clone()));
        }
        for (cut, map) in kept {
            assert_eq!(content(&cut), map);
            assert_eq!(cut.len(), map.len());
        }
        let mut due: Vec<_> = map.iter().filter(|(_, (at, _))| (1..=50).contains(at)).collect();
        due.sort_by_key(|(key, (at, _))| (*at, (*key).clone()));
        let expired = keys.expired(50, 100);
        assert_eq!(expired.len(), due.len().min(100));
        assert!(expired.iter().zip(&due).all(|(found, (key, _))| **found == ***key));
        let (mut cursor, mut scanned) = (0, Vec::new());
        loop {
            let (next, found) = keys.scan(cursor, 10);
            scanned.extend(found.iter().map(|slot| slot.key().to_vec()));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        scanned.sort();
        assert_eq!(scanned, map.keys().cloned().collect::<Vec<_>>());
    }
}

/// Goal: readers on other threads never see a part of a published change, and never one after a newer one.
#[test]
fn readers_see_a_change_whole() {
    let keys = Memory::new();
    let names: Vec<_> = (0..50).map(|number| format!("k{number}").into_bytes()).collect();
    let set =
        |number: u64, of| names.iter().for_each(|name| keys.insert(Slot::string(name, 0, &number.to_le_bytes()), of));
    set(0, SEEN);
    let is_done = AtomicBool::new(false);
    let read = |name: &[u8]| {
        let seen = keys.seen(name);
        let (_, (_, bytes)) = entry(&seen.slot.unwrap());
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while !is_done.load(Ordering::Relaxed) {
                for name in &names {
                    let number = read(name);
                    assert!(number >= last, "saw {number} after {last}");
                    last = number;
                }
            }
        });
        for number in 1..3000 {
            let hidden = keys.hide();
            set(number, Change { csn: Csn(number), hidden: Some(hidden) });
            keys.end_hidden(Csn(number));
            keys.publish_until(Csn(number));
        }
        is_done.store(true, Ordering::Relaxed);
    });
    assert_eq!((read(&names[7]), keys.seen(&names[7]).csn), (2999, Csn(2999)));
}

/// Goal: a cut stays as it is for a reader on another thread while all keys are changed and removed. Without keys no
/// memory is counted.
#[test]
fn a_cut_is_read_while_the_writer_goes_on() {
    let keys = Memory::new();
    let name = |number: u64| format!("key:{number}").into_bytes();
    for number in 0..20_000 {
        keys.insert(Slot::string(&name(number), 0, &[0; 8]), SEEN);
    }
    let cut = keys.cut();
    let reader = std::thread::spawn(move || {
        let is_intact = |slot: &Slot| entry(slot).1 == (0, vec![0; 8]);
        (0..5).all(|_| cut.iter().count() == cut.len() && cut.iter().all(is_intact))
    });
    for round in 0..3 {
        for number in 0..20_000 {
            keys.update(&name(number), SEEN, |slot| {
                slot.set_bytes(&[9; 8]);
                slot.set_expire(1);
            });
            if number % 3 == round {
                keys.delete(&name(number), SEEN);
            }
        }
    }
    assert!(reader.join().expect("the reader does not panic"), "the cut changed");
    assert!(keys.is_empty());
    assert_eq!(keys.memory_bytes(), 0);
}

#[test]
fn keys_that_stay_are_seen_by_a_scan_while_others_come_and_go() {
    let keys = Memory::new();
    let name = |number: u64| format!("key:{number}").into_bytes();
    for number in 0..2000 {
        keys.insert(Slot::string(&name(number), 0, b""), SEEN);
    }
    let (mut cursor, mut seen, mut at) = (0, BTreeSet::new(), 1000);
    loop {
        let (next, slots) = keys.scan(cursor, 10);
        seen.extend(slots.iter().map(|slot| slot.key().to_vec()));
        if next == 0 {
            break;
        }
        assert!(next > cursor);
        cursor = next;
        at += 1;
        keys.delete(&name(at), SEEN);
        keys.insert(Slot::string(&name(at + 20_000), 0, b""), SEEN);
    }
    assert!((0..=1000).all(|number| seen.contains(&name(number))));
    for behind in [u64::MAX, SHARDS as u64] {
        let (next, slots) = keys.scan(behind, 10);
        assert_eq!((next, slots.len()), (0, 0));
    }
}
