//! Applies as much of a commit's memory ops as fits when commits before it were lost.
//!
//! After a power cut RocksDB may hold a cross-engine commit whose predecessors in the op-log are lost. Some of its ops
//! may then not fit the state, such as a pop from a list whose push was lost. Those ops are left out, both from the
//! state and from the commit in the logs; the other ops are applied.

use crate::engine::memory::{Change, Dictionary, ListOp, ListOps, Memory, Op, Ops, Zset, ZsetChange, ZsetOp, ZsetOps};
use crate::error::Result;
use crate::record::CommitRecord;
use bytes::Bytes;

/// Applies those memory ops of `commit` that fit the state, and removes the other ops from the commit. Returns whether
/// all fitted.
pub(super) fn apply(memory: &mut Memory, commit: &mut CommitRecord) -> Result<bool> {
    // Malformed bytes are an error before any op is applied.
    ListOps::validate(&commit.lists)?;
    ZsetOps::validate(&commit.zsets)?;
    let lists = apply_fitting(&commit.lists, |op: ListOp<'_>| op.apply(&mut memory.lists).is_ok())?;
    let zsets = apply_fitting(&commit.zsets, |op: ZsetOp<'_>| {
        is_whole(&memory.zsets, &op) && op.apply(&mut memory.zsets).is_ok()
    })?;
    let fits = lists.len() == commit.lists.len() && zsets.len() == commit.zsets.len();
    (commit.lists, commit.zsets) = (Bytes::from(lists), Bytes::from(zsets));
    Ok(fits)
}

/// Calls `apply` with each op, and returns the encoded ops for which it returned true.
fn apply_fitting<'a, C: Change<'a>>(encoded: &'a [u8], mut apply: impl FnMut(Op<'a, C>) -> bool) -> Result<Vec<u8>> {
    let mut fitting = Vec::new();
    let mut ops = Ops::new(encoded);
    let mut start = 0;
    while let Some(op) = ops.next().transpose()? {
        if apply(op) {
            fitting.extend_from_slice(&encoded[start..ops.offset()]);
        }
        start = ops.offset();
    }
    Ok(fitting)
}

/// Reports whether a removal finds every member: otherwise it would stop half-way.
fn is_whole(zsets: &Dictionary<Zset>, op: &ZsetOp<'_>) -> bool {
    match op {
        Op::Change { key, change: ZsetChange::Remove { members } } => {
            let entry = zsets.get(key);
            entry.is_some_and(|entry| members.iter().all(|member| entry.value.score(member).is_some()))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::memory::{ListEncoder, ZsetEncoder};

    fn commit(lists: Vec<u8>, zsets: Vec<u8>) -> CommitRecord {
        CommitRecord { lists: lists.into(), zsets: zsets.into(), ..CommitRecord::default() }
    }

    #[test]
    fn what_fits_is_kept_and_applied() {
        let (mut lists, mut zsets) = (Vec::new(), Vec::new());
        ListEncoder::new(&mut lists).push_back(b"l", [&b"e"[..]].into_iter());
        let kept = lists.clone();
        ListEncoder::new(&mut lists).pop_front(b"l", 2);
        ListEncoder::new(&mut lists).delete(b"other");
        ZsetEncoder::new(&mut zsets).remove(b"z", [&b"there"[..], b"gone"].into_iter());
        let mut memory = Memory::new();
        let mut before = Vec::new();
        ZsetEncoder::new(&mut before).set(b"z", [(&b"there"[..], 1.0)].into_iter());
        memory.apply_zsets(&before).unwrap();
        let mut commit = commit(lists, zsets);
        assert!(!apply(&mut memory, &mut commit).unwrap());
        assert_eq!((&commit.lists[..], &commit.zsets[..]), (&kept[..], &[][..]));
        assert_eq!(memory.lists.get(b"l").unwrap().value.len(), 1);
        assert_eq!(memory.zsets.get(b"z").unwrap().value.score(b"there"), Some(1.0));
    }

    #[test]
    fn a_commit_that_fits_stays_as_it_is_and_malformed_ops_are_an_error() {
        let mut lists = Vec::new();
        ListEncoder::new(&mut lists).push_back(b"l", [&b"e"[..]].into_iter());
        let mut whole = commit(lists.clone(), Vec::new());
        let mut memory = Memory::new();
        assert!(apply(&mut memory, &mut whole).unwrap());
        assert_eq!(whole.lists, lists);
        lists.push(99);
        assert!(apply(&mut memory, &mut commit(lists, Vec::new())).is_err());
        assert_eq!(memory.lists.get(b"l").unwrap().value.len(), 1);
    }
}
