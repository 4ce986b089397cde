//! Test support: random ops of every kind that fit a state, and the content of a state in comparable form. There are
//! few keys and elements, so that ops often meet the same ones.

use super::{Change, Encoder, Memory, MemoryCut, Slot, Type};
use crate::csn::Csn;
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// Number of keys that [`ops`] uses.
pub(crate) const KEYS: u8 = 8;
/// Number of elements that the ops on single elements use.
const ELEMENTS: u8 = 12;
/// Number of elements that make a hash or a set large.
const MANY: usize = 90;
/// Bytes that make a string large.
const LONG: usize = 5000;
const APPLIED: Change = Change { csn: Csn(0), hidden: None };

/// Keys with their types, expiries and elements. An element is its name or its bytes, and its value or the bits of its
/// score.
pub(crate) type Content = BTreeMap<Vec<u8>, (Type, u64, Vec<(Vec<u8>, Vec<u8>)>)>;

/// Returns the content of a state, after a check of all its invariants.
pub(crate) fn content(memory: &Memory) -> Content {
    memory.check();
    content_of(&memory.cut())
}

/// Returns the content of a cut.
pub(crate) fn content_of(cut: &MemoryCut) -> Content {
    cut.iter().map(|slot| (slot.key().to_vec(), (slot.value_type(), slot.expire_ms(), elements(slot)))).collect()
}

fn elements(slot: &Slot) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pair = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
    if let Some(hash) = slot.as_hash() {
        return hash.iter_from(0).map(|element| element.with(pair)).collect();
    }
    if let Some(set) = slot.as_set() {
        return set.iter_from(0).map(|element| element.with(pair)).collect();
    }
    if let Some(list) = slot.as_list() {
        list.check();
        return list.iter_from(0).map(|element| (element.to_vec(), Vec::new())).collect();
    }
    if let Some(zset) = slot.as_zset() {
        zset.check();
        return zset.iter_from(0).map(|(member, score)| (member.to_vec(), score.to_le_bytes().to_vec())).collect();
    }
    let mut bytes = Vec::new();
    slot.as_string().expect("there is no other type").read(0..u64::MAX, &mut bytes);
    vec![(bytes, Vec::new())]
}

/// Returns some ops, which are applied to `memory` one after another.
pub(crate) fn ops(random: &mut StdRng, memory: &Memory) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let mut ops = Vec::new();
        op(random, memory, &mut Encoder::new(&mut ops));
        memory.apply(&ops, APPLIED).expect("the op fits the state");
        all.extend(ops);
    }
    all
}

fn key(random: &mut StdRng) -> [u8; 2] {
    [b'k', random.random_range(0..KEYS)]
}

fn op(random: &mut StdRng, memory: &Memory, out: &mut Encoder<'_>) {
    let key = key(random);
    let slot = memory.get(&key).map(|slot| Slot::clone(&slot));
    if random.random_bool(0.01) {
        return out.clear();
    }
    if random.random_bool(0.05) {
        return out.set_string(&key, random.random_range(0..3), &bytes(random));
    }
    let Some(slot) = slot else { return create(random, &key, out) };
    match random.random_range(0..10) {
        0 => out.delete(&key),
        1 => out.expire(&key, random.random_range(0..3)),
        2 => out.rename(&key, &self::key(random)),
        _ => match slot.value_type() {
            Type::String => string(random, &slot, out),
            Type::Hash => hash(random, &slot, out),
            Type::Set => set(random, &slot, out),
            Type::List => list(random, &slot, out),
            Type::Zset => zset(random, &slot, out),
        },
    }
}

/// Returns some bytes, rarely so many that they make a string large.
fn bytes(random: &mut StdRng) -> Vec<u8> {
    let len = if random.random_bool(0.03) { LONG } else { random.random_range(0..30) };
    vec![random.random(); len]
}

/// Returns the name of an element. Some names are integers.
fn name(number: usize) -> Vec<u8> {
    if number.is_multiple_of(3) { format!("name {number}") } else { number.to_string() }.into_bytes()
}

/// Returns the names of some elements, rarely so many that they make a hash or a set large. Many sets of names have
/// only integers.
fn names(random: &mut StdRng) -> Vec<Vec<u8>> {
    let integers = random.random_bool(0.5);
    let name = |number| name(if integers { number * 3 + 1 } else { number });
    if random.random_bool(0.03) {
        return (0..MANY).map(name).collect();
    }
    (0..random.random_range(1..5)).map(|_| name(random.random_range(0..usize::from(ELEMENTS)))).collect()
}

/// Returns some of these names, at least one.
fn some(random: &mut StdRng, names: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let first = names[0].clone();
    let some: Vec<_> = names.into_iter().filter(|_| random.random_bool(0.4)).collect();
    if some.is_empty() { vec![first] } else { some }
}

fn create(random: &mut StdRng, key: &[u8], out: &mut Encoder<'_>) {
    match random.random_range(0..5) {
        0 => out.set_string(key, random.random_range(0..3), &bytes(random)),
        1 => put_fields(random, key, out),
        2 => out.add_members(key, names(random).iter().map(Vec::as_slice)),
        3 => out.push_back(key, [bytes(random), bytes(random)].iter().map(Vec::as_slice)),
        _ => set_scores(random, key, out),
    }
}

fn put_fields(random: &mut StdRng, key: &[u8], out: &mut Encoder<'_>) {
    let value = bytes(random);
    out.put_fields(key, names(random).iter().map(|field| (&field[..], &value[..])));
}

fn set_scores(random: &mut StdRng, key: &[u8], out: &mut Encoder<'_>) {
    let pairs: Vec<_> = names(random)
        .into_iter()
        .map(|member| (member, [0.0, -0.0, 1.0, 2.5, f64::INFINITY][random.random_range(0..5)]))
        .collect();
    out.set_scores(key, pairs.iter().map(|(member, score)| (&member[..], *score)));
}

fn string(random: &mut StdRng, slot: &Slot, out: &mut Encoder<'_>) {
    let (key, len) = (slot.key(), slot.as_string().expect("it is a string").len());
    match random.random_range(0..4) {
        0 => out.replace_string(key, &bytes(random)),
        1 | 2 => out.append(key, &bytes(random)),
        _ => {
            let end = if random.random_bool(0.1) { len + LONG as u64 } else { len + 9 };
            out.write(key, random.random_range(0..end), &bytes(random));
        }
    }
}

fn hash(random: &mut StdRng, slot: &Slot, out: &mut Encoder<'_>) {
    let hash = slot.as_hash().expect("it is a hash");
    if random.random_bool(0.6) {
        return put_fields(random, slot.key(), out);
    }
    let fields = hash.iter_from(0).map(|element| element.with(|(field, _)| field.to_vec())).collect();
    out.remove_fields(slot.key(), some(random, fields).iter().map(Vec::as_slice));
}

fn set(random: &mut StdRng, slot: &Slot, out: &mut Encoder<'_>) {
    let set = slot.as_set().expect("it is a set");
    if random.random_bool(0.6) {
        return out.add_members(slot.key(), names(random).iter().map(Vec::as_slice));
    }
    let members = set.iter_from(0).map(|element| element.with(|(member, _)| member.to_vec())).collect();
    out.remove_members(slot.key(), some(random, members).iter().map(Vec::as_slice));
}

fn list(random: &mut StdRng, slot: &Slot, out: &mut Encoder<'_>) {
    let (key, len) = (slot.key(), slot.as_list().expect("it is a list").len());
    let elements: Vec<_> = (0..random.random_range(1..4)).map(|_| bytes(random)).collect();
    let elements = elements.iter().map(Vec::as_slice);
    match random.random_range(0..10) {
        0 | 1 => out.push_front(key, elements),
        2 | 3 => out.push_back(key, elements),
        4 => out.pop_front(key, random.random_range(1..=len)),
        5 => out.pop_back(key, random.random_range(1..=len)),
        6 => out.set_element(key, random.random_range(0..len), b"set"),
        7 => out.insert_element(key, random.random_range(0..=len), b"inserted"),
        8 => {
            let mut indexes: Vec<u64> = (0..len).filter(|_| random.random_bool(0.4)).collect();
            if indexes.is_empty() {
                indexes.push(0);
            }
            out.remove_elements(key, indexes.into_iter());
        }
        _ => {
            let start = random.random_range(0..=len);
            out.keep_elements(key, start, random.random_range(start..=len));
        }
    }
}

fn zset(random: &mut StdRng, slot: &Slot, out: &mut Encoder<'_>) {
    let (key, zset) = (slot.key(), slot.as_zset().expect("it is a sorted set"));
    match random.random_range(0..7) {
        0..5 => set_scores(random, key, out),
        5 => {
            let members = zset.iter_from(0).map(|(member, _)| member.to_vec()).collect();
            out.remove_scored(key, some(random, members).iter().map(Vec::as_slice));
        }
        _ => {
            let start = random.random_range(0..=zset.len());
            out.remove_ranks(key, start, random.random_range(start..=zset.len()));
        }
    }
}
