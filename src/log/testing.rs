//! Test support: commits of each kind, for the tests of the logs and of the committer.

use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::engine::batch::{self, Family};
use crate::engine::key;
use crate::engine::memory::Encoder;
use crate::engine::meta;
use crate::record::CommitRecord;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Makes a commit without effects.
pub(crate) fn no_op(csn: u64) -> CommitRecord {
    CommitRecord { csn: Csn(csn), epoch: Epoch(1), time: CommitTime(1000 + csn), ..CommitRecord::default() }
}

/// Makes a commit that pushes an element to a list.
pub(crate) fn on_list(csn: u64) -> CommitRecord {
    let mut memory = Vec::new();
    Encoder::new(&mut memory).push_back(b"list", [format!("element {csn}").as_bytes()].into_iter());
    CommitRecord { memory: memory.into(), ..no_op(csn) }
}

/// Makes a commit that sets a string.
pub(crate) fn on_disk(csn: u64) -> CommitRecord {
    let mut disk = Vec::new();
    let value = meta::encode_string(format!("value {csn}").as_bytes(), 0);
    batch::push_put(&mut disk, Family::Default, &key::meta(b"string"), &value);
    CommitRecord { disk: disk.into(), disk_ops: 1, ..no_op(csn) }
}

/// For each commit that a test has chained, the history hash before it, by the history hash after it.
static BEFORE: Mutex<BTreeMap<HistoryHash, HistoryHash>> = Mutex::new(BTreeMap::new());

/// Sets the history hash of the commit that follows those in `before`.
pub(crate) fn chain_after(before: &[CommitRecord], commit: &mut CommitRecord) {
    let hash = before.last().map_or(HistoryHash::ZERO, |last| last.hash);
    commit.hash = commit.hash_after(hash);
    BEFORE.lock().insert(commit.hash, hash);
}

/// Returns the history hash before a commit that was chained.
pub(crate) fn hash_before(commit: &CommitRecord) -> HistoryHash {
    BEFORE.lock()[&commit.hash]
}

/// Sets the history hashes of commits that follow each other from the start of a history.
pub(crate) fn chained(commits: impl IntoIterator<Item = CommitRecord>) -> Vec<CommitRecord> {
    let mut chained = Vec::new();
    for mut commit in commits {
        chain_after(&chained, &mut commit);
        chained.push(commit);
    }
    chained
}

/// Makes a cross-engine commit: it sets a string and pushes an element to a list.
pub(crate) fn on_both(csn: u64) -> CommitRecord {
    CommitRecord { memory: on_list(csn).memory, ..on_disk(csn) }
}
