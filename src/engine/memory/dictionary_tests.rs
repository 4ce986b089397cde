//! Goal: a dictionary behaves like a B-tree map, and cuts taken on the way never change.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;

impl Value for Vec<u8> {
    fn memory_bytes(&self) -> usize {
        self.len()
    }
}

type Model = BTreeMap<Vec<u8>, Entry<Vec<u8>>>;

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, usize, u64),
    Update(u16, usize),
    UpdateOrDefault(u16, usize),
    Remove(u16),
    Delete(u16),
    Expire(u16, u64),
    Rename(u16, u16),
    Clear,
    Expired(u64, usize),
    Scan(usize),
    Cut,
}

fn name(number: u16) -> Vec<u8> {
    // Every third key is too long to lie beside its value.
    let width = if number.is_multiple_of(3) { 40 } else { 1 };
    format!("key:{number:0width$}").into_bytes()
}

fn step() -> impl Strategy<Value = Step> {
    let (key, size, expire) = (0..300u16, 0..2000usize, prop_oneof![Just(0), 0..50u64]);
    prop_oneof![
        100 => (key.clone(), size.clone(), expire.clone()).prop_map(|(key, size, at)| Step::Insert(key, size, at)),
        40 => (key.clone(), size.clone()).prop_map(|(key, size)| Step::Update(key, size)),
        80 => (key.clone(), size).prop_map(|(key, size)| Step::UpdateOrDefault(key, size)),
        30 => key.clone().prop_map(Step::Remove),
        30 => key.clone().prop_map(Step::Delete),
        40 => (key.clone(), expire).prop_map(|(key, at)| Step::Expire(key, at)),
        40 => (key.clone(), key).prop_map(|(from, to)| Step::Rename(from, to)),
        10 => (0..60u64, 0..20usize).prop_map(|(now, limit)| Step::Expired(now, limit)),
        10 => (0..100usize).prop_map(Step::Scan),
        20 => Just(Step::Cut),
        1 => Just(Step::Clear),
    ]
}

fn scan_all(dictionary: &Dictionary<Vec<u8>>, count: usize) -> Vec<Vec<u8>> {
    let (mut cursor, mut keys) = (0, Vec::new());
    loop {
        let (next, found) = dictionary.scan(cursor, count);
        keys.extend(found.iter().map(|key| key.to_vec()));
        if next == 0 {
            return keys;
        }
        assert!(next > cursor);
        cursor = next;
    }
}

fn take_step(dictionary: &mut Dictionary<Vec<u8>>, model: &mut Model, step: Step) {
    match step {
        Step::Insert(key, size, expire_ms) => {
            let entry = Entry { value: vec![1; size], expire_ms };
            dictionary.insert(&name(key), entry.clone());
            model.insert(name(key), entry);
        }
        Step::Update(key, size) => {
            let expected = model.get_mut(&name(key)).map(|entry| entry.value.resize(size, 2));
            assert_eq!(dictionary.update(&name(key), |value| value.resize(size, 2)), expected);
        }
        Step::UpdateOrDefault(key, size) => {
            dictionary.update_or_default(&name(key), |value| value.resize(size, 3));
            let entry = model.entry(name(key)).or_insert(Entry { value: Vec::new(), expire_ms: 0 });
            entry.value.resize(size, 3);
        }
        Step::Remove(key) => assert_eq!(dictionary.remove(&name(key)), model.remove(&name(key))),
        Step::Delete(key) => assert_eq!(dictionary.delete(&name(key)), model.remove(&name(key)).is_some()),
        Step::Expire(key, at) => {
            let expected = model.get_mut(&name(key)).map(|entry| entry.expire_ms = at);
            assert_eq!(dictionary.set_expire(&name(key), at), expected.is_some());
        }
        Step::Rename(from, to) => {
            let moved = model.remove(&name(from));
            assert_eq!(dictionary.rename(&name(from), &name(to)), moved.is_some());
            model.extend(moved.map(|entry| (name(to), entry)));
        }
        Step::Clear => {
            dictionary.clear();
            model.clear();
        }
        Step::Expired(now, limit) => {
            let mut due: Vec<_> =
                model.values().map(|entry| entry.expire_ms).filter(|at| (1..=now).contains(at)).collect();
            due.sort_unstable();
            due.truncate(limit);
            let found = dictionary.expired(now, limit);
            assert!(found.iter().map(|key| model[&**key].expire_ms).eq(due));
        }
        Step::Scan(count) => {
            let mut keys = scan_all(dictionary, count);
            keys.sort();
            assert!(keys.iter().eq(model.keys()));
        }
        Step::Cut => unreachable!("the caller cuts"),
    }
}

fn assert_same<'a>(found: impl Iterator<Item = (&'a [u8], &'a Entry<Vec<u8>>)>, model: &Model) {
    let found: BTreeMap<_, _> = found.collect();
    assert!(found.iter().map(|(key, entry)| (*key, *entry)).eq(model.iter().map(|(key, entry)| (&**key, entry))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dictionary_is_a_map_and_its_cuts_never_change(steps in vec(step(), 1..300)) {
        let (mut dictionary, mut model, mut cuts) = (Dictionary::new(), Model::new(), Vec::new());
        for step in steps {
            if matches!(step, Step::Cut) {
                dictionary.check();
                cuts.push((dictionary.cut(), model.clone()));
            } else {
                take_step(&mut dictionary, &mut model, step);
            }
            assert_eq!(dictionary.len(), model.len());
        }
        dictionary.check();
        assert_same(dictionary.iter(), &model);
        assert!(model.iter().all(|(key, entry)| dictionary.get(key) == Some(entry)));
        for (cut, model) in &cuts {
            assert_eq!(cut.len(), model.len());
            assert_same(cut.iter(), model);
        }
    }
}

#[test]
fn a_cut_is_read_while_the_writer_goes_on() {
    let mut dictionary = Dictionary::new();
    for number in 0..20_000 {
        dictionary.insert(&name(number), Entry { value: vec![0; 8], expire_ms: 0 });
    }
    let cut = dictionary.cut();
    let reader = thread::spawn(move || {
        let intact = |(_, entry): (&[u8], &Entry<Vec<u8>>)| entry.value == [0; 8] && entry.expire_ms == 0;
        (0..5).all(|_| cut.iter().count() == cut.len() && cut.iter().all(intact))
    });
    for round in 0..3 {
        for number in 0..20_000 {
            dictionary.update(&name(number), |value| value.fill(9));
            dictionary.set_expire(&name(number), 1);
            if number % 3 == round {
                dictionary.delete(&name(number));
            }
        }
    }
    assert!(reader.join().expect("the reader does not panic"), "the cut changed");
    assert!(dictionary.is_empty());
    assert_eq!(dictionary.memory_bytes(), 0);
}

#[test]
fn keys_that_stay_are_seen_by_a_scan_while_others_come_and_go() {
    let mut dictionary = Dictionary::new();
    for number in 0..2000 {
        dictionary.insert(&name(number), Entry { value: Vec::new(), expire_ms: 0 });
    }
    let (mut cursor, mut seen, mut at) = (0, BTreeSet::new(), 1000);
    loop {
        let (next, keys) = dictionary.scan(cursor, 10);
        seen.extend(keys.iter().map(|key| key.to_vec()));
        if next == 0 {
            break;
        }
        cursor = next;
        at += 1;
        dictionary.delete(&name(at));
        dictionary.insert(&name(at + 20_000), Entry { value: Vec::new(), expire_ms: 0 });
    }
    assert!((0..=1000).all(|number| seen.contains(&name(number))));
    assert_eq!(dictionary.scan(u64::MAX, 10), (0, Vec::new()));
    assert_eq!(dictionary.scan(SHARDS as u64, 10), (0, Vec::new()));
}
