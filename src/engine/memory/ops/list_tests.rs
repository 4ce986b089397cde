//! Tests of the ops on lists against a model.

use super::*;
use crate::csn::Csn;
use crate::engine::memory::Memory;
use crate::engine::memory::keys::Change as Commit;
use crate::engine::memory::testing::{Content, content, content_of};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SEEN: Commit = Commit { csn: Csn(1), hidden: None };

type Bytes = Vec<u8>;

/// An op on lists as the primary makes it.
#[derive(Clone, Debug)]
pub(in crate::engine::memory::ops) enum Step {
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

pub(in crate::engine::memory::ops) fn step() -> impl Strategy<Value = Step> {
    let (key, bytes, index) = (0..6u8, vec(any::<u8>(), 0..200), 0..30u64);
    prop_oneof![
        80 => (any::<bool>(), key.clone(), vec(bytes.clone(), 1..40)).prop_map(|(f, k, e)| Step::Push(f, k, e)),
        40 => (any::<bool>(), key.clone(), 1..30u64).prop_map(|(f, k, n)| Step::Pop(f, k, n)),
        20 => (key.clone(), index.clone(), bytes.clone()).prop_map(|(k, i, b)| Step::Set(k, i, b)),
        20 => (key.clone(), index.clone(), bytes).prop_map(|(k, i, b)| Step::Insert(k, i, b)),
        20 => (key.clone(), btree_set(index.clone(), 1..10))
            .prop_map(|(k, i)| Step::Remove(k, i.into_iter().collect())),
        10 => (key.clone(), index.clone(), index).prop_map(|(k, a, b)| Step::Keep(k, a.min(b), a.max(b))),
        10 => key.clone().prop_map(Step::Delete),
        10 => (key.clone(), any::<u64>()).prop_map(|(k, at)| Step::Expire(k, at)),
        10 => (key.clone(), key).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => Just(Step::Clear),
    ]
}

pub(in crate::engine::memory::ops) fn encode(step: &Step) -> Bytes {
    let mut out = Vec::new();
    let mut ops = Encoder::new(&mut out);
    match step {
        Step::Push(true, k, elements) => ops.push_front(&key(*k), elements.iter().map(Vec::as_slice)),
        Step::Push(false, k, elements) => ops.push_back(&key(*k), elements.iter().map(Vec::as_slice)),
        Step::Pop(true, k, count) => ops.pop_front(&key(*k), *count),
        Step::Pop(false, k, count) => ops.pop_back(&key(*k), *count),
        Step::Set(k, index, value) => ops.set_element(&key(*k), *index, value),
        Step::Insert(k, index, value) => ops.insert_element(&key(*k), *index, value),
        Step::Remove(k, indexes) => ops.remove_elements(&key(*k), indexes.iter().copied()),
        Step::Keep(k, start, stop) => ops.keep_elements(&key(*k), *start, *stop),
        Step::Delete(k) => ops.delete(&key(*k)),
        Step::Expire(k, at) => ops.expire(&key(*k), *at),
        Step::Rename(from, to) => ops.rename(&key(*from), &key(*to)),
        Step::Clear => ops.clear(),
    }
    out
}

/// Elements and expiries by key.
type Model = BTreeMap<Bytes, (Vec<Bytes>, u64)>;

/// Applies the op to the model; `None`, and no change, if the op does not fit.
fn apply(model: &mut Model, step: &Step) -> Option<()> {
    let touched = match step {
        Step::Push(front, k, elements) => {
            let (list, _) = model.entry(key(*k)).or_default();
            for element in elements {
                list.insert(if *front { 0 } else { list.len() }, element.clone());
            }
            *k
        }
        Step::Pop(front, k, count) => {
            let (list, _) = model.get_mut(&key(*k))?;
            let rest = list.len().checked_sub(*count as usize)?;
            list.drain(if *front { 0..*count as usize } else { rest..list.len() });
            *k
        }
        Step::Set(k, index, value) => {
            *model.get_mut(&key(*k))?.0.get_mut(*index as usize)? = value.clone();
            *k
        }
        Step::Insert(k, index, value) => {
            let (list, _) = model.get_mut(&key(*k)).filter(|(list, _)| *index <= list.len() as u64)?;
            list.insert(*index as usize, value.clone());
            *k
        }
        Step::Remove(k, indexes) => {
            let last = *indexes.last()?;
            let (list, _) = model.get_mut(&key(*k)).filter(|(list, _)| last < list.len() as u64)?;
            indexes.iter().rev().for_each(|index| drop(list.remove(*index as usize)));
            *k
        }
        Step::Keep(k, start, stop) => {
            let (list, _) = model.get_mut(&key(*k)).filter(|(list, _)| *stop <= list.len() as u64)?;
            list.truncate(*stop as usize);
            list.drain(..*start as usize);
            *k
        }
        Step::Delete(k) => return model.remove(&key(*k)).map(drop),
        Step::Expire(k, at) => return model.get_mut(&key(*k)).map(|entry| entry.1 = *at),
        Step::Rename(from, to) => return model.remove(&key(*from)).map(|list| drop(model.insert(key(*to), list))),
        Step::Clear => {
            model.clear();
            return Some(());
        }
    };
    if model.get(&key(touched)).is_some_and(|(list, _)| list.is_empty()) {
        model.remove(&key(touched));
    }
    Some(())
}

fn content_of_model(model: &Model) -> Content {
    let elements = |list: &[Bytes]| list.iter().map(|element| (element.clone(), Vec::new())).collect();
    model.iter().map(|(key, (list, expire_ms))| (key.clone(), (Type::List, *expire_ms, elements(list)))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn list_ops_have_their_effect_or_change_nothing(steps in vec((step(), 0..10u8), 1..80)) {
        let (memory, mut model, mut history, mut cuts) = (Memory::new(), Model::new(), Vec::new(), Vec::new());
        for (step, cut) in &steps {
            let op = encode(step);
            let expected = apply(&mut model, step);
            prop_assert_eq!(memory.apply(&op, SEEN).is_ok(), expected.is_some(), "{:?}", step);
            if expected.is_some() {
                history.extend(op);
            }
            prop_assert_eq!(&content(&memory), &content_of_model(&model));
            if *cut == 0 {
                cuts.push((memory.cut(), model.clone()));
            }
        }
        for (cut, model) in &cuts {
            prop_assert_eq!(&content_of(cut), &content_of_model(model));
        }
        let replica = Memory::new();
        replica.apply(&history, SEEN).expect("history fits");
        prop_assert_eq!(content(&replica), content_of_model(&model));
    }
}
