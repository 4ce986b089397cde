//! List and sorted set ops, which chunks and logs carry, applied to a state.

use super::{Target, nothing_to_repair};
use walferry::engine::memory::{self, ListEncoder, Memory, ZsetEncoder};

pub(crate) const TARGET: Target = Target { name: "memory_ops", decode, check, repair: nothing_to_repair, seeds };

/// Splits the input into list ops and sorted set ops; the first byte is the length of the list ops.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((&len, ops)) = data.split_first() else { return (&[], &[]) };
    ops.split_at(usize::from(len).min(ops.len()))
}

fn state() -> Memory {
    let mut memory = Memory::new();
    for (key, len) in [(b"a", 1_u32), (b"b", 20), (b"c", 150)] {
        let elements: Vec<[u8; 4]> = (0..len).map(u32::to_be_bytes).collect();
        memory.lists.update_or_default(key, |list| elements.iter().for_each(|element| list.push_back(element)));
        memory.zsets.update_or_default(key, |zset| {
            for member in &elements {
                zset.insert(member, f64::from(u32::from_be_bytes(*member)));
            }
        });
    }
    memory
}

fn decode(data: &[u8]) -> usize {
    let (lists, zsets) = split(data);
    let _ = memory::validate(lists, zsets);
    0
}

fn check(data: &[u8]) {
    let (lists, zsets) = split(data);
    let mut memory = state();
    let before = (memory.len(), memory.memory_bytes());
    let is_valid = memory::validate(lists, &[]).is_ok();
    let applied = memory.apply_lists(lists);
    assert!(is_valid || applied.is_err(), "malformed list ops were applied");
    if !is_valid {
        assert_eq!((memory.len(), memory.memory_bytes()), before, "malformed list ops had an effect");
    }
    let before = (memory.len(), memory.memory_bytes());
    let is_valid = memory::validate(&[], zsets).is_ok();
    let applied = memory.apply_zsets(zsets);
    assert!(is_valid || applied.is_err(), "malformed sorted set ops were applied");
    if !is_valid {
        assert_eq!((memory.len(), memory.memory_bytes()), before, "malformed sorted set ops had an effect");
    }
    for (key, entry) in memory.cut().lists.iter() {
        assert!(!entry.value.is_empty(), "an empty list under {}", key.escape_ascii());
        assert_eq!(entry.value.iter_from(0).count() as u64, entry.value.len());
    }
    for (key, entry) in memory.cut().zsets.iter() {
        assert!(!entry.value.is_empty(), "an empty sorted set under {}", key.escape_ascii());
        let members: Vec<(&[u8], f64)> = entry.value.iter_from(0).collect();
        assert_eq!(members.len() as u64, entry.value.len());
        assert!(members.windows(2).all(|pair| (pair[0].1, pair[0].0) < (pair[1].1, pair[1].0)), "out of order");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let (mut lists, mut zsets) = (Vec::new(), Vec::new());
    let mut ops = ListEncoder::new(&mut lists);
    ops.push_front(b"a", [&b"x"[..], b"y"].into_iter());
    ops.push_back(b"new", [&b"z"[..]].into_iter());
    ops.pop_front(b"b", 3);
    ops.pop_back(b"b", 2);
    ops.set(b"c", 100, b"changed");
    ops.insert(b"c", 5, b"inserted");
    ops.remove(b"c", [1, 2, 140].into_iter());
    ops.keep(b"c", 10, 120);
    ops.expire(b"a", 1_800_000_000_000);
    ops.rename(b"a", b"d");
    ops.delete(b"b");
    let mut ops = ZsetEncoder::new(&mut zsets);
    ops.set(b"a", [(&b"m"[..], 1.5), (b"n", f64::INFINITY), (b"m", -2.0)].into_iter());
    ops.remove(b"b", [&[0, 0, 0, 1][..], &[0, 0, 0, 19]].into_iter());
    ops.remove_ranks(b"c", 0, 130);
    ops.expire(b"c", 5);
    ops.rename(b"c", b"a");
    ops.delete(b"b");
    let both = |lists: &[u8], zsets: &[u8]| [&[lists.len() as u8], lists, zsets].concat();
    let mut clear = Vec::new();
    ListEncoder::new(&mut clear).clear();
    vec![both(&lists, &zsets), both(&lists, &[]), both(&[], &zsets), both(&clear, &[])]
}
