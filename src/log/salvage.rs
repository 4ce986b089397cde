//! Applies as much of a commit's memory ops as fits when commits before it were lost.
//!
//! After a power cut RocksDB may hold a cross-engine commit whose predecessors in the op-log are lost. Some of its ops
//! may then not fit the state, such as a pop from a list whose push was lost. Those ops are left out, both from the
//! state and from the commit in the logs; the other ops are applied.

use crate::engine::memory::ops::{ElementsChange, ValueChange, ZsetChange};
use crate::engine::memory::{Change, Memory, Op, Ops};
use crate::error::Result;
use crate::record::CommitRecord;
use std::collections::HashSet;

/// Applies those memory ops of `commit` that fit the state, and removes the other ops from the commit. Returns whether
/// all fitted.
pub(super) fn apply(memory: &Memory, commit: &mut CommitRecord) -> Result<bool> {
    // Malformed bytes are an error before any op is applied.
    Ops::validate(&commit.memory)?;
    let of = Change { csn: commit.csn, hidden: None };
    let mut fitting = Vec::new();
    let mut ops = Ops::new(&commit.memory);
    let mut start = 0;
    while let Some(op) = ops.next().transpose()? {
        if is_whole(memory, &op) && op.apply(memory, of).is_ok() {
            fitting.extend_from_slice(&commit.memory[start..ops.offset()]);
        }
        start = ops.offset();
    }
    let fits = fitting.len() == commit.memory.len();
    commit.memory = fitting.into();
    Ok(fits)
}

/// Reports whether a removal finds every element that it names, each once: otherwise it would stop half-way.
fn is_whole(memory: &Memory, op: &Op<'_>) -> bool {
    let Op::Change { key, change } = *op else { return true };
    let Some(slot) = memory.get(key) else { return true };
    match change {
        ValueChange::Zset(ZsetChange::Remove { members }) => {
            slot.as_zset().is_some_and(|zset| each_once(members.iter(), |member| zset.score(member).is_some()))
        }
        ValueChange::Elements(ElementsChange::RemoveFields { fields }) => {
            slot.as_hash().is_some_and(|hash| each_once(fields.iter(), |field| hash.get(field).is_some()))
        }
        ValueChange::Elements(ElementsChange::RemoveMembers { members }) => {
            slot.as_set().is_some_and(|set| each_once(members.iter(), |member| set.get(member).is_some()))
        }
        _ => true,
    }
}

/// Reports whether all names are there, and none comes twice.
fn each_once<'n>(mut names: impl Iterator<Item = &'n [u8]>, is_there: impl Fn(&[u8]) -> bool) -> bool {
    let mut seen = HashSet::new();
    names.all(|name| is_there(name) && seen.insert(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::Encoder;

    fn encoded(encode: impl FnOnce(&mut Encoder<'_>)) -> Vec<u8> {
        let mut ops = Vec::new();
        encode(&mut Encoder::new(&mut ops));
        ops
    }

    fn commit(memory: Vec<u8>) -> CommitRecord {
        CommitRecord { memory: memory.into(), ..CommitRecord::default() }
    }

    #[test]
    fn what_fits_is_kept_and_applied() {
        let kept = encoded(|ops| ops.push_back(b"l", [&b"e"[..]].into_iter()));
        let lost = encoded(|ops| {
            ops.pop_front(b"l", 2);
            ops.delete(b"other");
            ops.remove_scored(b"z", [&b"there"[..], b"gone"].into_iter());
            ops.remove_fields(b"h", [&b"there"[..], b"gone"].into_iter());
            ops.remove_members(b"s", [&b"there"[..], b"gone"].into_iter());
        });
        let before = encoded(|ops| {
            ops.set_scores(b"z", [(&b"there"[..], 1.0)].into_iter());
            ops.put_fields(b"h", [(&b"there"[..], &b"v"[..])].into_iter());
            ops.add_members(b"s", [&b"there"[..]].into_iter());
        });
        let memory = Memory::new();
        memory.apply_commit(&commit(before)).unwrap();
        let mut commit = commit([&kept[..], &lost].concat());
        assert!(!apply(&memory, &mut commit).unwrap());
        assert_eq!(commit.memory, kept);
        assert_eq!(memory.get(b"l").unwrap().as_list().unwrap().len(), 1);
        assert_eq!(memory.get(b"z").unwrap().as_zset().unwrap().score(b"there"), Some(1.0));
        assert_eq!(memory.get(b"h").unwrap().as_hash().unwrap().get(b"there"), Some(&b"v"[..]));
        assert_eq!(memory.get(b"s").unwrap().as_set().unwrap().len(), 1);
    }

    #[test]
    fn a_commit_that_fits_stays_as_it_is_and_malformed_ops_are_an_error() {
        let mut ops = encoded(|ops| ops.push_back(b"l", [&b"e"[..]].into_iter()));
        let mut whole = commit(ops.clone());
        let memory = Memory::new();
        assert!(apply(&memory, &mut whole).unwrap());
        assert_eq!(whole.memory, ops);
        ops.push(99);
        assert!(apply(&memory, &mut commit(ops)).is_err());
        assert_eq!(memory.get(b"l").unwrap().as_list().unwrap().len(), 1);
    }
}
