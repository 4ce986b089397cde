//! What the tests of the logs and of the committer share: commits of each kind.

use crate::csn::{CommitTime, Csn, Epoch};
use crate::engine::batch::{self, Family};
use crate::engine::key;
use crate::engine::memory::ListEncoder;
use crate::engine::meta;
use crate::record::CommitRecord;

/// A commit without effects.
pub(crate) fn no_op(csn: u64) -> CommitRecord {
    CommitRecord { csn: Csn(csn), epoch: Epoch(1), time: CommitTime(1000 + csn), ..CommitRecord::default() }
}

/// Pushes an element to a list.
pub(crate) fn on_list(csn: u64) -> CommitRecord {
    let mut lists = Vec::new();
    ListEncoder(&mut lists).push_back(b"list", [format!("element {csn}").as_bytes()].into_iter());
    CommitRecord { lists: lists.into(), ..no_op(csn) }
}

/// Sets a string.
pub(crate) fn on_disk(csn: u64) -> CommitRecord {
    let mut disk = Vec::new();
    let value = meta::encode_string(format!("value {csn}").as_bytes(), 0);
    batch::push_put(&mut disk, Family::Default, &key::meta(b"string"), &value);
    CommitRecord { disk: disk.into(), disk_ops: 1, ..no_op(csn) }
}

/// Does both.
pub(crate) fn on_both(csn: u64) -> CommitRecord {
    CommitRecord { lists: on_list(csn).lists, ..on_disk(csn) }
}
