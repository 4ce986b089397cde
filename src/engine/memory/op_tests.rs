//! Goal: what is encoded is decoded and has its effect, and arbitrary bytes are an error.

use super::*;
use crate::engine::memory::Memory;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

type Bytes = Vec<u8>;

/// A list op as the primary makes it.
#[derive(Clone, Debug)]
enum ListStep {
    Push(bool, u8, Vec<Bytes>),
    Pop(bool, u8, u64),
    Set(u8, u64, Bytes),
    Insert(u8, u64, Bytes),
    Remove(u8, Vec<u64>),
    Keep(u8, u64, u64),
    Delete(u8),
    Expire(u8, u64),
    Rename(u8, u8),
    Clear,
}

fn key(number: u8) -> Bytes {
    format!("k{number}").into_bytes()
}

fn list_step() -> impl Strategy<Value = ListStep> {
    let (key, bytes, index) = (0..6u8, vec(any::<u8>(), 0..200), 0..30u64);
    prop_oneof![
        80 => (any::<bool>(), key.clone(), vec(bytes.clone(), 1..40)).prop_map(|(f, k, e)| ListStep::Push(f, k, e)),
        40 => (any::<bool>(), key.clone(), 1..30u64).prop_map(|(f, k, n)| ListStep::Pop(f, k, n)),
        20 => (key.clone(), index.clone(), bytes.clone()).prop_map(|(k, i, b)| ListStep::Set(k, i, b)),
        20 => (key.clone(), index.clone(), bytes).prop_map(|(k, i, b)| ListStep::Insert(k, i, b)),
        20 => (key.clone(), btree_set(index.clone(), 1..10))
            .prop_map(|(k, i)| ListStep::Remove(k, i.into_iter().collect())),
        10 => (key.clone(), index.clone(), index).prop_map(|(k, a, b)| ListStep::Keep(k, a.min(b), a.max(b))),
        10 => key.clone().prop_map(ListStep::Delete),
        10 => (key.clone(), any::<u64>()).prop_map(|(k, at)| ListStep::Expire(k, at)),
        10 => (key.clone(), key).prop_map(|(from, to)| ListStep::Rename(from, to)),
        1 => Just(ListStep::Clear),
    ]
}

fn encode_list(step: &ListStep) -> Bytes {
    let mut out = Vec::new();
    let mut ops = ListEncoder::new(&mut out);
    match step {
        ListStep::Push(true, k, elements) => ops.push_front(&key(*k), elements.iter().map(Vec::as_slice)),
        ListStep::Push(false, k, elements) => ops.push_back(&key(*k), elements.iter().map(Vec::as_slice)),
        ListStep::Pop(true, k, count) => ops.pop_front(&key(*k), *count),
        ListStep::Pop(false, k, count) => ops.pop_back(&key(*k), *count),
        ListStep::Set(k, index, value) => ops.set(&key(*k), *index, value),
        ListStep::Insert(k, index, value) => ops.insert(&key(*k), *index, value),
        ListStep::Remove(k, indexes) => ops.remove(&key(*k), indexes.iter().copied()),
        ListStep::Keep(k, start, stop) => ops.keep(&key(*k), *start, *stop),
        ListStep::Delete(k) => ops.delete(&key(*k)),
        ListStep::Expire(k, at) => ops.expire(&key(*k), *at),
        ListStep::Rename(from, to) => ops.rename(&key(*from), &key(*to)),
        ListStep::Clear => ops.clear(),
    }
    out
}

type ListModel = std::collections::BTreeMap<Bytes, (Vec<Bytes>, u64)>;

/// Applies the op to the model; `None`, and no change, if the op does not fit.
fn model_list(model: &mut ListModel, step: &ListStep) -> Option<()> {
    let touched = match step {
        ListStep::Push(front, k, elements) => {
            let (list, _) = model.entry(key(*k)).or_default();
            for element in elements {
                list.insert(if *front { 0 } else { list.len() }, element.clone());
            }
            *k
        }
        ListStep::Pop(front, k, count) => {
            let (list, _) = model.get_mut(&key(*k))?;
            let rest = list.len().checked_sub(*count as usize)?;
            list.drain(if *front { 0..*count as usize } else { rest..list.len() });
            *k
        }
        ListStep::Set(k, index, value) => {
            *model.get_mut(&key(*k))?.0.get_mut(*index as usize)? = value.clone();
            *k
        }
        ListStep::Insert(k, index, value) => {
            let (list, _) = model.get_mut(&key(*k)).filter(|(list, _)| *index <= list.len() as u64)?;
            list.insert(*index as usize, value.clone());
            *k
        }
        ListStep::Remove(k, indexes) => {
            let last = *indexes.last()?;
            let (list, _) = model.get_mut(&key(*k)).filter(|(list, _)| last < list.len() as u64)?;
            indexes.iter().rev().for_each(|index| drop(list.remove(*index as usize)));
            *k
        }
        ListStep::Keep(k, start, stop) => {
            let (list, _) = model.get_mut(&key(*k)).filter(|(list, _)| *stop <= list.len() as u64)?;
            list.truncate(*stop as usize);
            list.drain(..*start as usize);
            *k
        }
        ListStep::Delete(k) => return model.remove(&key(*k)).map(drop),
        ListStep::Expire(k, at) => return model.get_mut(&key(*k)).map(|entry| entry.1 = *at),
        ListStep::Rename(from, to) => return model.remove(&key(*from)).map(|list| drop(model.insert(key(*to), list))),
        ListStep::Clear => {
            model.clear();
            return Some(());
        }
    };
    if model.get(&key(touched)).is_some_and(|(list, _)| list.is_empty()) {
        model.remove(&key(touched));
    }
    Some(())
}

fn lists_of<'a>(
    entries: impl Iterator<Item = (&'a [u8], &'a crate::engine::memory::Entry<super::super::List>)>,
) -> ListModel {
    let list = |list: &super::super::List| list.iter_from(0).map(<[u8]>::to_vec).collect();
    entries.map(|(key, entry)| (key.to_vec(), (list(&entry.value), entry.expire_ms))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn list_ops_have_their_effect_or_change_nothing(steps in vec((list_step(), 0..10u8), 1..80)) {
        let (mut memory, mut model, mut history, mut cuts) = (Memory::new(), ListModel::new(), Vec::new(), Vec::new());
        for (step, cut) in &steps {
            let op = encode_list(step);
            let expected = model_list(&mut model, step);
            prop_assert_eq!(memory.apply_lists(&op).is_ok(), expected.is_some(), "{:?}", step);
            if expected.is_some() {
                history.extend(op);
            }
            prop_assert_eq!(&lists_of(memory.lists.iter()), &model);
            if *cut == 0 {
                cuts.push((memory.cut(), model.clone()));
            }
        }
        memory.lists.check();
        for (cut, model) in &cuts {
            prop_assert_eq!(&lists_of(cut.lists.iter()), model);
        }
        let mut replica = Memory::new();
        replica.apply_lists(&history).expect("history fits");
        prop_assert_eq!(lists_of(replica.lists.iter()), model);
    }

    #[test]
    fn arbitrary_bytes_are_decoded_or_refused(bytes in vec(prop_oneof![0..14u8, any::<u8>()], 0..200)) {
        let mut memory = Memory::new();
        let mut push = Vec::new();
        ListEncoder::new(&mut push).push_back(b"\x01", [&b"a"[..], b"b", b"c"].into_iter());
        memory.apply_lists(&push).expect("a push fits");
        let _ = memory.apply_lists(&bytes);
        let _ = memory.apply_zsets(&bytes);
        memory.lists.check();
        memory.zsets.check();
    }

    #[test]
    fn damaged_ops_are_decoded_or_refused(
        steps in vec(list_step(), 1..10), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut ops: Bytes = steps.iter().flat_map(encode_list).collect();
        let at = at.index(ops.len());
        if cut { ops.truncate(at) } else { ops[at] = byte }
        let mut memory = Memory::new();
        let malformed = ListOps::new(&ops).any(|op| op.is_err());
        let outcome = memory.apply_lists(&ops);
        if malformed {
            prop_assert!(outcome.is_err() && memory.is_empty(), "malformed ops had an effect");
        }
        memory.lists.check();
    }

    #[test]
    fn zset_ops_have_their_effect(
        pairs in vec((vec(any::<u8>(), 0..12), -1e6..1e6), 1..200), removed in 0..200usize, start in 0..100u64,
    ) {
        let mut model: std::collections::BTreeMap<Bytes, f64> = pairs.iter().cloned().collect();
        let gone: Vec<Bytes> = model.keys().take(removed).cloned().collect();
        let mut ops = Vec::new();
        let mut encoder = ZsetEncoder::new(&mut ops);
        encoder.set(b"z", pairs.iter().map(|(member, score)| (member.as_slice(), *score)));
        encoder.expire(b"z", 77);
        encoder.rename(b"z", b"y");
        let mut memory = Memory::new();
        memory.apply_zsets(&ops).expect("the ops fit");
        let cut = memory.cut();
        let before = model.len() as u64;
        if !gone.is_empty() {
            let mut ops = Vec::new();
            ZsetEncoder::new(&mut ops).remove(b"y", gone.iter().map(Vec::as_slice));
            memory.apply_zsets(&ops).expect("the members are there");
            model.retain(|member, _| !gone.contains(member));
        }
        let mut ops = Vec::new();
        ZsetEncoder::new(&mut ops).remove_ranks(b"y", start, start + 3);
        prop_assert_eq!(memory.apply_zsets(&ops).is_ok(), start + 3 <= model.len() as u64);
        if start + 3 <= model.len() as u64 {
            let mut order: Vec<_> = model.clone().into_iter().collect();
            order.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            order[start as usize..][..3].iter().for_each(|(member, _)| assert!(model.remove(member).is_some()));
        }
        memory.zsets.check();
        match memory.zsets.get(b"y") {
            Some(entry) => {
                let found: std::collections::BTreeMap<_, _> =
                    entry.value.iter_from(0).map(|(member, score)| (member.to_vec(), score)).collect();
                prop_assert_eq!((found, entry.expire_ms), (model, 77));
            }
            None => prop_assert!(model.is_empty()),
        }
        let (_, entry) = cut.zsets.iter().next().expect("the cut holds the set");
        prop_assert_eq!(entry.value.len(), before);
    }
}

#[test]
fn ops_read_back_as_they_were_written() {
    let mut out = Vec::new();
    let mut ops = ListEncoder::new(&mut out);
    ops.push_front(b"", [&b"a"[..], b""].into_iter());
    ops.remove(b"k", [0, 1, 300, u64::MAX - 1].into_iter());
    ops.keep(b"k", 2, u64::MAX);
    ops.clear();
    let read: Vec<_> = ListOps::new(&out).map(|op| op.expect("valid")).collect();
    let [
        Op::Change { key: b"", change: ListChange::PushFront { elements } },
        Op::Change { key: b"k", change: ListChange::Remove { indexes } },
        keep,
        Op::Clear,
    ] = &read[..]
    else {
        panic!("{read:?}")
    };
    assert!(elements.iter().eq([&b"a"[..], b""]) && elements.len() == 2);
    assert!(indexes.iter().eq([0, 1, 300, u64::MAX - 1]));
    assert_eq!(*keep, Op::Change { key: b"k", change: ListChange::Keep { start: 2, stop: u64::MAX } });

    let mut out = Vec::new();
    ZsetEncoder::new(&mut out).set(b"z", [(&b"m"[..], -0.5), (b"", f64::INFINITY)].into_iter());
    let Some(Ok(Op::Change { key: b"z", change: ZsetChange::Set { pairs } })) = ZsetOps::new(&out).next() else {
        panic!("{out:?}")
    };
    assert!(pairs.iter().eq([(&b"m"[..], -0.5), (b"", f64::INFINITY)]));
}

/// Goal: the bytes of each op stay as documented, because logs and archives hold them.
#[test]
fn the_bytes_of_an_op_are_as_documented() {
    let mut out = Vec::new();
    let mut ops = ListEncoder::new(&mut out);
    ops.push_back(b"k", [&b"ab"[..]].into_iter());
    ops.remove(b"k", [3, 5].into_iter());
    ops.expire(b"k", 300);
    assert_eq!(out, b"\x02\x01k\x01\x02ab\x07\x01k\x02\x03\x02\x0a\x01k\xac\x02");
    let mut out = Vec::new();
    ZsetEncoder::new(&mut out).set(b"z", [(&b"m"[..], 1.0)].into_iter());
    assert_eq!(out, b"\x01\x01z\x01\x01m\0\0\0\0\0\0\xf0\x3f");
}

#[test]
fn what_no_encoder_writes_is_refused() {
    let nan = [&b"\x01\x01z\x01\x01m"[..], &f64::NAN.to_le_bytes()].concat();
    for (ops, why) in [
        (&b"\x00\x01k"[..], "unknown tag"),
        (b"\x02\x01k\x00", "push of nothing"),
        (b"\x02\x01k\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a", "more elements than bytes"),
        (b"\x02\x01k\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "varint beyond 64 bits"),
        (b"\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "key beyond the end"),
        (b"\x03\x01k\x00", "pop of 0 elements"),
        (b"\x07\x01k\x02\x03\x00", "index twice"),
        (b"\x07\x01k\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "index without a next"),
        (b"\x08\x01k\x03\x02", "range backwards"),
    ] {
        let error = Memory::new().apply_lists(ops).expect_err(why);
        assert_eq!(error.kind(), crate::error::Kind::Integrity, "{why}");
        assert!(ListOps::new(ops).next().is_some_and(|op| op.is_err()), "{why}");
    }
    assert!(ZsetOps::new(&nan).next().is_some_and(|op| op.is_err()));
}
