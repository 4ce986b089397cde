//! Tests of the ops: what is encoded is what happens, and arbitrary bytes are an error.

use super::*;
use crate::csn::Csn;
use crate::engine::memory::keys::MemoryCut;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const SEEN: Commit = Commit { csn: Csn(1), hidden: None };

#[derive(Clone, PartialEq, Debug)]
enum Model {
    String(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    List(VecDeque<Vec<u8>>),
    Zset(BTreeMap<Vec<u8>, i64>),
}

type Map = BTreeMap<Vec<u8>, (u64, Model)>;

fn model(slot: &Slot) -> (u64, Model) {
    use crate::engine::memory::slot::LargeValue;
    let value = if let Some(string) = slot.as_string() {
        let mut bytes = Vec::new();
        string.read(0..u64::MAX, &mut bytes);
        Model::String(bytes)
    } else if let Some(hash) = slot.as_hash() {
        Model::Hash(
            hash.iter_from(0).map(|pair| pair.with(|(field, value)| (field.to_vec(), value.to_vec()))).collect(),
        )
    } else if let Some(set) = slot.as_set() {
        Model::Set(set.iter_from(0).map(|pair| pair.with(|(member, _)| member.to_vec())).collect())
    } else {
        let Slot::Large(large) = slot else { unreachable!("small values are strings, hashes and sets") };
        match large.value() {
            LargeValue::List(list) => Model::List(list.iter_from(0).map(<[u8]>::to_vec).collect()),
            LargeValue::Zset(zset) => {
                Model::Zset(zset.iter_from(0).map(|(member, score)| (member.to_vec(), score as i64)).collect())
            }
            _ => unreachable!("the other types were asked about"),
        }
    };
    (slot.expire_ms(), value)
}

fn content(cut: &MemoryCut) -> Map {
    cut.iter().map(|slot| (slot.key().to_vec(), model(slot))).collect()
}

/// Encodes one random op that fits the model, and makes the same change in the model.
fn op(random: &mut StdRng, map: &mut Map, out: &mut Encoder<'_>) {
    let key = format!("key:{}", random.random_range(0..40)).into_bytes();
    let name = |random: &mut StdRng| {
        let number = random.random_range(0..200);
        if number % 3 == 0 { format!("name:{number}") } else { number.to_string() }.into_bytes()
    };
    let (one, two) = (name(random), name(random));
    match random.random_range(0..100) {
        0 if random.random_bool(0.1) => {
            out.clear();
            return map.clear();
        }
        0..4 if map.contains_key(&key) => {
            out.delete(&key);
            map.remove(&key);
            return;
        }
        4..8 if map.contains_key(&key) => {
            let at_ms = random.random_range(0..5);
            out.expire(&key, at_ms);
            map.get_mut(&key).unwrap().0 = at_ms;
            return;
        }
        8..11 if map.contains_key(&key) => {
            let to = [&b"renamed:"[..], &vec![b'x'; random.random_range(0..700)]].concat();
            out.rename(&key, &to);
            let value = map.remove(&key).unwrap();
            map.insert(to, value);
            return;
        }
        11..15 => {
            out.set_string(&key, 3, &one);
            map.insert(key, (3, Model::String(one)));
            return;
        }
        _ => {}
    }
    let kind = random.random_range(0..4);
    let value = map.entry(key.clone()).or_insert_with(|| {
        let empty = match kind {
            0 => Model::Hash(BTreeMap::new()),
            1 => Model::Set(BTreeSet::new()),
            2 => Model::List(VecDeque::new()),
            _ => Model::Zset(BTreeMap::new()),
        };
        (0, empty)
    });
    let shrinks = random.random_bool(0.35);
    match &mut value.1 {
        Model::String(bytes) => match random.random_range(0..3) {
            0 => {
                out.append(&key, &one);
                bytes.extend_from_slice(&one);
            }
            1 => {
                out.replace_string(&key, &one);
                *bytes = one;
            }
            _ => {
                let at = random.random_range(0..5000);
                out.write(&key, at as u64, &one);
                bytes.resize(bytes.len().max(at + one.len()), 0);
                bytes[at..at + one.len()].copy_from_slice(&one);
            }
        },
        Model::Hash(hash) => match hash.keys().next().cloned().filter(|_| shrinks) {
            Some(field) => {
                out.remove_fields(&key, [&field[..]].into_iter());
                hash.remove(&field);
            }
            None => {
                out.put_fields(&key, [(&one[..], &two[..]), (&two[..], &one[..])].into_iter());
                hash.insert(one.clone(), two.clone());
                hash.insert(two, one);
            }
        },
        Model::Set(set) => match set.iter().next().cloned().filter(|_| shrinks) {
            Some(member) => {
                out.remove_members(&key, [&member[..]].into_iter());
                set.remove(&member);
            }
            None => {
                out.add_members(&key, [&one[..], &two[..]].into_iter());
                set.extend([one, two]);
            }
        },
        Model::List(list) if shrinks && !list.is_empty() => {
            out.pop_front(&key, 1);
            list.pop_front();
        }
        Model::List(list) => {
            out.push_back(&key, [&one[..]].into_iter());
            list.push_back(one);
        }
        Model::Zset(zset) => match zset.keys().next().cloned().filter(|_| shrinks) {
            Some(member) => {
                out.remove_scored(&key, [&member[..]].into_iter());
                zset.remove(&member);
            }
            None => {
                out.set_scores(&key, [(&one[..], 7.0)].into_iter());
                zset.insert(one, 7);
            }
        },
    }
    let is_empty = match &map[&key].1 {
        Model::String(_) => false,
        Model::Hash(hash) => hash.is_empty(),
        Model::Set(set) => set.is_empty(),
        Model::List(list) => list.is_empty(),
        Model::Zset(zset) => zset.is_empty(),
    };
    if is_empty {
        map.remove(&key);
    }
}

/// Goal: ops of all types on the same keys have the effect that a model has, in one home.
#[test]
fn ops_do_what_a_model_does() {
    for seed in 0..40 {
        let mut random = StdRng::seed_from_u64(seed);
        let (keys, mut map) = (Memory::new(), Map::new());
        for _ in 0..30 {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                op(&mut random, &mut map, &mut Encoder::new(&mut bytes));
            }
            Ops::validate(&bytes).unwrap();
            for op in Ops::new(&bytes) {
                op.unwrap().apply(&keys, SEEN).unwrap();
            }
            assert_eq!(content(&keys.cut()), map, "seed {seed}");
            keys.check();
        }
    }
}

proptest! {
    /// Goal: arbitrary bytes are decoded or refused, and what is decoded is applied or refused.
    #[test]
    fn arbitrary_bytes_are_decoded_or_refused(bytes: Vec<u8>, at: usize, with: u8) {
        let _ = Ops::validate(&bytes);
        let (mut ops, mut map) = (Vec::new(), Map::new());
        let mut random = StdRng::seed_from_u64(u64::from(with));
        (0..20).for_each(|_| op(&mut random, &mut map, &mut Encoder::new(&mut ops)));
        let at = at % ops.len();
        ops[at] = with;
        let keys = Memory::new();
        let _ = Ops::new(&ops).try_for_each(|op| op?.apply(&keys, SEEN));
        keys.check();
    }
}
