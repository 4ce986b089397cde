//! Ops on keys in memory, which chunks and logs carry, applied to a state.

use super::{Target, nothing_to_repair};
use walferry::csn::Csn;
use walferry::engine::memory::{Change, Encoder, Memory, Ops, Slot};

pub(crate) const TARGET: Target = Target { name: "memory_ops", decode, check, repair: nothing_to_repair, seeds };

const APPLIED: Change = Change { csn: Csn(1), hidden: None };

fn encoded(write: impl FnOnce(&mut Encoder<'_>)) -> Vec<u8> {
    let mut ops = Vec::new();
    write(&mut Encoder::new(&mut ops));
    ops
}

fn state() -> Memory {
    let ops = encoded(|ops| {
        for (nth, count) in [(b'a', 1_u32), (b'b', 20), (b'c', 150)] {
            let elements: Vec<[u8; 4]> = (0..count).map(u32::to_be_bytes).collect();
            let elements = elements.iter().map(|element| &element[..]);
            let numbers: Vec<_> = (0..count).map(|number| number.to_string().into_bytes()).collect();
            ops.set_string(&[b's', nth], 0, &vec![nth; 60 * count as usize]);
            ops.put_fields(&[b'h', nth], elements.clone().zip(elements.clone()));
            ops.add_members(&[b'm', nth], elements.clone());
            ops.add_members(&[b'n', nth], numbers.iter().map(Vec::as_slice));
            ops.push_back(&[b'l', nth], elements.clone());
            ops.set_scores(&[b'z', nth], elements.enumerate().map(|(score, member)| (member, score as f64)));
        }
    });
    let memory = Memory::new();
    memory.apply(&ops, APPLIED).expect("the ops fit");
    memory
}

fn decode(data: &[u8]) -> usize {
    let _ = Ops::validate(data);
    0
}

fn check(data: &[u8]) {
    let memory = state();
    let before = (memory.len(), memory.memory_bytes());
    let is_valid = Ops::validate(data).is_ok();
    let applied = memory.apply(data, APPLIED);
    assert!(is_valid || applied.is_err(), "malformed ops were applied");
    if !is_valid {
        assert_eq!((memory.len(), memory.memory_bytes()), before, "malformed ops had an effect");
    }
    let cut = memory.cut();
    assert_eq!(cut.iter().count(), memory.len());
    for slot in cut.iter() {
        let elements = super::elements(slot);
        let key = slot.key().escape_ascii();
        // An op that does not fit may stop after it has removed the last element; the state is then given up.
        assert!(applied.is_err() || !slot.is_empty_collection(), "an empty {} under {key}", slot.value_type().name());
        assert_eq!(elements.len() as u64, count(slot), "the elements of {key}");
        if let Some(zset) = slot.as_zset() {
            let members: Vec<(&[u8], f64)> = zset.iter_from(0).collect();
            assert!(members.windows(2).all(|pair| (pair[0].1, pair[0].0) < (pair[1].1, pair[1].0)), "out of order");
        } else if slot.as_list().is_none() {
            assert!(elements.windows(2).all(|pair| pair[0].0 < pair[1].0), "the elements of {key} are out of order");
        }
    }
}

/// Returns the number of elements that a value states; a string counts as one.
fn count(slot: &Slot) -> u64 {
    let collections = [
        slot.as_hash().map(|hash| hash.len()),
        slot.as_set().map(|set| set.len()),
        slot.as_list().map(|list| list.len()),
        slot.as_zset().map(|zset| zset.len()),
    ];
    collections.into_iter().flatten().next().unwrap_or(1)
}

fn seeds() -> Vec<Vec<u8>> {
    let lists = encoded(|ops| {
        ops.push_front(b"la", [&b"x"[..], b"y"].into_iter());
        ops.push_back(b"new", [&b"z"[..]].into_iter());
        ops.pop_front(b"lb", 3);
        ops.pop_back(b"lb", 2);
        ops.set_element(b"lc", 100, b"changed");
        ops.insert_element(b"lc", 5, b"inserted");
        ops.remove_elements(b"lc", [1, 2, 140].into_iter());
        ops.keep_elements(b"lc", 10, 120);
        ops.expire(b"la", 1_800_000_000_000);
        ops.rename(b"la", b"d");
        ops.delete(b"lb");
    });
    let zsets = encoded(|ops| {
        ops.set_scores(b"za", [(&b"m"[..], 1.5), (b"n", f64::INFINITY), (b"m", -2.0)].into_iter());
        ops.remove_scored(b"zb", [&[0, 0, 0, 1][..], &[0, 0, 0, 19]].into_iter());
        ops.remove_ranks(b"zc", 0, 130);
        ops.expire(b"zc", 5);
        ops.rename(b"zc", b"za");
        ops.delete(b"zb");
    });
    let strings = encoded(|ops| {
        ops.set_string(b"sa", 5, b"value");
        ops.set_string(b"lc", 0, b"a list before");
        ops.replace_string(b"sb", b"replaced");
        ops.append(b"sc", b"appended");
        ops.write(b"sa", 9, b"behind a gap");
        ops.write(b"sc", 8190, b"inside");
        ops.rename(b"sb", b"zb");
    });
    let elements = encoded(|ops| {
        ops.put_fields(b"ha", [(&b"f"[..], &b"v"[..]), (b"f", b"other"), (b"", b"")].into_iter());
        ops.put_fields(b"new", [(&b"f"[..], &b"v"[..])].into_iter());
        ops.remove_fields(b"hc", [&[0, 0, 0, 7][..], &[0, 0, 0, 149]].into_iter());
        ops.add_members(b"ma", [&b"m"[..], b"12"].into_iter());
        ops.add_members(b"na", [&b"-7"[..], b"70000"].into_iter());
        ops.add_members(b"nc", [&b"no number"[..]].into_iter());
        ops.remove_members(b"nb", [&b"19"[..], b"0"].into_iter());
        ops.remove_members(b"na", [&b"0"[..]].into_iter());
        ops.rename(b"hb", b"mb");
        ops.expire(b"mb", 7);
    });
    let clear = encoded(|ops| ops.clear());
    let all = [&lists[..], &zsets, &elements, &strings].concat();
    vec![all, lists, zsets, strings, elements, clear]
}
