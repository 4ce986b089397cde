//! Test support: random ops of every kind that fit a state. There are few keys and members, so that ops often meet the
//! same ones.

use super::{ListEncoder, ZsetEncoder};
use crate::engine::memory::Memory;
use rand::RngExt;
use rand::rngs::StdRng;

const KEYS: u8 = 4;
const MEMBERS: u8 = 9;

/// Returns some list ops, which are applied to `memory` one after another.
pub(crate) fn lists(random: &mut StdRng, memory: &mut Memory) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let mut ops = Vec::new();
        list(random, memory, &mut ops);
        memory.apply_lists(&ops).expect("it fits the state");
        all.extend(ops);
    }
    all
}

/// Returns some sorted set ops, which are applied to `memory` one after another.
pub(crate) fn zsets(random: &mut StdRng, memory: &mut Memory) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let mut ops = Vec::new();
        zset(random, memory, &mut ops);
        memory.apply_zsets(&ops).expect("it fits the state");
        all.extend(ops);
    }
    all
}

fn list(random: &mut StdRng, memory: &Memory, ops: &mut Vec<u8>) {
    let mut encoder = ListEncoder::new(ops);
    let key = [b'l', random.random_range(0..KEYS)];
    let len = memory.lists.get(&key).map_or(0, |entry| entry.value.len());
    let elements: Vec<Vec<u8>> =
        (0..random.random_range(1..4)).map(|_| vec![random.random(); random.random_range(0..30)]).collect();
    let elements = elements.iter().map(Vec::as_slice);
    if random.random_range(0..60) == 0 {
        return encoder.clear();
    }
    if len == 0 {
        return encoder.push_back(&key, elements);
    }
    match random.random_range(0..13) {
        0 | 1 => encoder.push_front(&key, elements),
        2 | 3 => encoder.push_back(&key, elements),
        4 => encoder.pop_front(&key, random.random_range(1..=len)),
        5 => encoder.pop_back(&key, random.random_range(1..=len)),
        6 => encoder.set(&key, random.random_range(0..len), b"set"),
        7 => encoder.insert(&key, random.random_range(0..=len), b"inserted"),
        8 => {
            let mut indexes: Vec<u64> = (0..len).filter(|_| random.random_bool(0.4)).collect();
            if indexes.is_empty() {
                indexes.push(0);
            }
            encoder.remove(&key, indexes.into_iter());
        }
        9 => {
            let start = random.random_range(0..=len);
            encoder.keep(&key, start, random.random_range(start..=len));
        }
        10 => encoder.delete(&key),
        11 => encoder.expire(&key, random.random_range(0..3)),
        _ => encoder.rename(&key, &[b'l', random.random_range(0..KEYS)]),
    }
}

fn zset(random: &mut StdRng, memory: &Memory, ops: &mut Vec<u8>) {
    let mut encoder = ZsetEncoder::new(ops);
    let key = [b'z', random.random_range(0..KEYS)];
    let members: Vec<[u8; 1]> = memory.zsets.get(&key).map_or_else(Vec::new, |entry| {
        entry.value.iter_from(0).map(|(member, _)| member.try_into().expect("one byte")).collect()
    });
    let len = members.len() as u64;
    if random.random_range(0..60) == 0 {
        return encoder.clear();
    }
    match random.random_range(0..if len == 0 { 1 } else { 11 }) {
        0..5 => {
            let score = |random: &mut StdRng| [0.0, -0.0, 1.0, 2.5, f64::INFINITY][random.random_range(0..5)];
            let pairs: Vec<([u8; 1], f64)> =
                (0..random.random_range(1..5)).map(|_| ([random.random_range(0..MEMBERS)], score(random))).collect();
            encoder.set(&key, pairs.iter().map(|(member, score)| (&member[..], *score)));
        }
        5 => {
            let mut some: Vec<&[u8]> =
                members.iter().filter(|_| random.random_bool(0.4)).map(|member| &member[..]).collect();
            if some.is_empty() {
                some.push(&members[0]);
            }
            encoder.remove(&key, some.into_iter());
        }
        6 => {
            let start = random.random_range(0..=len);
            encoder.remove_ranks(&key, start, random.random_range(start..=len));
        }
        7 => encoder.delete(&key),
        8 | 9 => encoder.expire(&key, random.random_range(0..3)),
        _ => encoder.rename(&key, &[b'z', random.random_range(0..KEYS)]),
    }
}
