//! Applies as much of a commit's memory ops as fits when commits before it were lost.
//!
//! After a power cut RocksDB may hold a cross-engine commit whose predecessors in the op-log are lost. Some of its ops
//! may then not fit the state, such as a pop from a list whose push was lost. Those ops are left out, both from the
//! state and from the commit in the logs; the other ops are applied.

use crate::engine::memory::{ListOps, Memory, Op, ZsetOp, ZsetOps};
use crate::error::Result;
use crate::record::CommitRecord;
use bytes::Bytes;

/// Applies those memory ops of `commit` that fit the state, and removes the other ops from the commit. Returns whether
/// all fitted.
pub(super) fn apply(memory: &mut Memory, commit: &mut CommitRecord) -> Result<bool> {
    // Malformed bytes are an error before any op is applied.
    ListOps::new(&commit.lists).try_for_each(|op| op.map(drop))?;
    ZsetOps::new(&commit.zsets).try_for_each(|op| op.map(drop))?;
    let mut lists = Vec::new();
    let mut ops = ListOps::new(&commit.lists);
    let mut start = 0;
    while let Some(op) = ops.next().transpose()? {
        if op.apply(&mut memory.lists).is_ok() {
            lists.extend_from_slice(&commit.lists[start..ops.offset()]);
        }
        start = ops.offset();
    }
    let mut zsets = Vec::new();
    let mut ops = ZsetOps::new(&commit.zsets);
    let mut start = 0;
    while let Some(op) = ops.next().transpose()? {
        if is_whole(memory, &op) && op.apply(&mut memory.zsets).is_ok() {
            zsets.extend_from_slice(&commit.zsets[start..ops.offset()]);
        }
        start = ops.offset();
    }
    let fits = lists.len() == commit.lists.len() && zsets.len() == commit.zsets.len();
    (commit.lists, commit.zsets) = (Bytes::from(lists), Bytes::from(zsets));
    Ok(fits)
}

/// Reports whether a removal finds every member: otherwise it would stop half-way.
fn is_whole(memory: &Memory, op: &ZsetOp<'_>) -> bool {
    match op {
        ZsetOp::Remove { key, members } => {
            let entry = memory.zsets.get(key);
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
        ListEncoder(&mut lists).push_back(b"l", [&b"e"[..]].into_iter());
        let kept = lists.clone();
        ListEncoder(&mut lists).pop_front(b"l", 2);
        ListEncoder(&mut lists).delete(b"other");
        ZsetEncoder(&mut zsets).remove(b"z", [&b"there"[..], b"gone"].into_iter());
        let mut memory = Memory::new();
        let mut before = Vec::new();
        ZsetEncoder(&mut before).set(b"z", [(&b"there"[..], 1.0)].into_iter());
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
        ListEncoder(&mut lists).push_back(b"l", [&b"e"[..]].into_iter());
        let mut whole = commit(lists.clone(), Vec::new());
        let mut memory = Memory::new();
        assert!(apply(&mut memory, &mut whole).unwrap());
        assert_eq!(whole.lists, lists);
        lists.push(99);
        assert!(apply(&mut memory, &mut commit(lists, Vec::new())).is_err());
        assert_eq!(memory.lists.get(b"l").unwrap().value.len(), 1);
    }
}
