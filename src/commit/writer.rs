//! The state under the writer lock: what commands change, and the open group to which they add commits.
//!
//! A group is filled, sealed and written to the logs; the next group is filled while the sealed one is being written.
//! Until a sealed group is settled, its effects overlay the database's state, because the database does not hold them
//! yet.

use super::groups::{GroupNumber, Groups};
use crate::clock::{CommitClock, Moment, Reading};
use crate::csn::{CommitTime, Csn};
use crate::engine::effects::{Effects, Extent, SealedEffects};
use crate::engine::expiry_index::ExpiryIndex;
use crate::engine::memory::Memory;
use crate::engine::watch::WatchTable;
use crate::engine::wear::Wear;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;
use bytes::Bytes;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

/// Commits that one group may hold before it is written.
const GROUP_COMMITS_MAX: usize = 512;
/// Bytes of effects that one group may hold before it is written. One commit may be larger.
const GROUP_BYTES_MAX: usize = 1 << 20;
/// Bytes of the op-log that are reserved for each group beyond its effects: frames take more than the effects alone.
pub(super) const OPLOG_SLACK: usize = 64 << 10;

/// The state under the writer lock.
pub struct Writer {
    /// The keys in memory, after every executed command. Only the holder of the writer lock changes them.
    pub memory: Arc<Memory>,
    /// The keys that clients watch.
    pub watches: WatchTable,
    /// The index of the disk keys that have an expiry time.
    pub expiries: ExpiryIndex,
    /// Counts of the elements that hashes and sets lost.
    pub wear: Wear,
    pub(super) effects: Effects,
    /// Number of the hidden change that the next commit makes in memory, so that it can be taken back; `None`: it cannot.
    pub(super) hidden: Option<NonZeroU64>,
    /// Effects of sealed groups that are not known to be settled, oldest first.
    pub(super) sealed: Vec<SealedEffects>,
    /// For each of `sealed`, the bytes of effects that its op-log frames carry.
    pub(super) sealed_frames: VecDeque<usize>,
    /// Bytes of effects that the op-log frames of the open group carry.
    open_frames: usize,
    /// Commits of the open group. They may stay when the writer lock is released: see
    /// [`super::guards::WriterGuard::leave_open`].
    pub(super) pending: Vec<PendingCommit>,
    /// Number of the open group, or of the next one if none is open.
    pub(super) group: GroupNumber,
    /// The last csn that was given to a commit.
    pub(super) last: Csn,
    pub(super) clock: CommitClock,
    /// Moment at which the first commit of the open group was made.
    began: Moment,
}

/// A commit of the open group: its csn, its time, and the range of its effects in the group's effects.
pub(super) struct PendingCommit {
    csn: Csn,
    time: CommitTime,
    from: Extent,
    until: Extent,
}

/// Returns the bytes of effects in a commit's op-log frame: all if the commit touches keys in memory, else 0.
fn frame_bytes(from: Extent, until: Extent) -> usize {
    let ops = until.memory - from.memory;
    if ops > 0 { ops + until.disk - from.disk } else { 0 }
}

/// A group that takes no more commits and is to be written to the logs.
pub(super) struct SealedGroup {
    pub number: GroupNumber,
    /// Moment at which the group's first commit was made.
    pub began: Moment,
    commits: Vec<PendingCommit>,
    disk: Bytes,
    /// Ranges of the records in `disk` that later records in `disk` undo.
    pub superseded: Vec<Range<usize>>,
    ops: Bytes,
}

impl SealedGroup {
    /// Returns the group's commits as records. They follow the commit at `before` and carry its epoch.
    pub(super) fn records(self, before: Position) -> Arc<[CommitRecord]> {
        let Self { commits, disk, ops, .. } = self;
        let mut hash = before.hash;
        let record = |commit: PendingCommit| {
            let mut record = CommitRecord {
                csn: commit.csn,
                epoch: before.epoch,
                time: commit.time,
                hash,
                disk_ops: commit.until.disk_ops - commit.from.disk_ops,
                disk: disk.slice(commit.from.disk..commit.until.disk),
                memory: ops.slice(commit.from.memory..commit.until.memory),
            };
            record.hash = record.hash_after(hash);
            hash = record.hash;
            record
        };
        commits.into_iter().map(record).collect()
    }
}

impl Writer {
    pub(super) fn new(memory: Arc<Memory>, position: Position) -> Self {
        Self {
            memory,
            watches: WatchTable::default(),
            expiries: ExpiryIndex::default(),
            wear: Wear::default(),
            effects: Effects::default(),
            hidden: None,
            sealed: Vec::new(),
            sealed_frames: VecDeque::new(),
            open_frames: 0,
            pending: Vec::new(),
            group: GroupNumber(1),
            last: position.csn,
            clock: CommitClock::continuing(position.time),
            began: Moment::default(),
        }
    }

    /// Ends a command: its effects become one commit, made at `now`. Returns `None` if there are none.
    pub(super) fn commit(&mut self, now: Reading) -> Option<Csn> {
        let from = self.committed_extent();
        let until = self.effects.extent();
        if from == until {
            return None;
        }
        self.last = self.last.next();
        self.open_frames += frame_bytes(from, until);
        let time = self.tick(now);
        self.pending.push(PendingCommit { csn: self.last, time, from, until });
        Some(self.last)
    }

    /// Returns the time of the next commit.
    fn tick(&mut self, now: Reading) -> CommitTime {
        let time = self.clock.tick(now);
        if self.pending.is_empty() {
            self.began = self.clock.ticked();
        }
        time
    }

    /// Makes a commit whose effect contains the commit's own position. `effect` gets that position, but with the
    /// history hash of the commit before, which is at `before`. Panics if a group is open.
    pub(super) fn commit_with(&mut self, before: Position, effect: impl FnOnce(&mut Effects, Position)) -> Position {
        let from = self.committed_extent();
        assert!(from == self.effects.extent(), "the effects before are another commit");
        assert_eq!(self.last, before.csn, "the effects before are written");
        let position = Position { csn: self.last.next(), time: self.tick(Reading::now()), ..before };
        effect(&mut self.effects, position);
        let until = self.effects.extent();
        assert!(until != from, "a commit has an effect");
        self.last = position.csn;
        self.pending.push(PendingCommit { csn: position.csn, time: position.time, from, until });
        position
    }

    /// Takes back the effects since the last commit. Returns an error if keys in memory were changed and the change was
    /// not hidden.
    pub(super) fn take_back(&mut self, hidden: Option<NonZeroU64>) -> Result<()> {
        let Self { memory, effects, expiries, pending, last, .. } = self;
        // The index may know entries that are taken back here.
        expiries.clear();
        let until = pending.last().map(|commit| commit.until).unwrap_or_default();
        match hidden {
            Some(number) => memory.take_back(number, last.next()),
            None if effects.memory.len() == until.memory => {}
            None => return Err(Error::Defect { reason: "the command had changed keys in memory".into() }),
        }
        effects.take_back(until)
    }

    /// Returns the extent of the effects that belong to commits.
    pub(super) fn committed_extent(&self) -> Extent {
        self.pending.last().map(|commit| commit.until).unwrap_or_default()
    }

    /// Seals the open group. Returns `None` if it is empty.
    pub(super) fn seal(&mut self) -> Option<SealedGroup> {
        if self.pending.is_empty() {
            return None;
        }
        let mut effects = self.effects.seal();
        let sealed = SealedGroup {
            number: self.group,
            began: self.began,
            commits: std::mem::take(&mut self.pending),
            disk: effects.disk.clone(),
            superseded: std::mem::take(&mut effects.superseded),
            ops: effects.memory.clone(),
        };
        self.sealed.push(effects);
        self.sealed_frames.push_back(std::mem::take(&mut self.open_frames));
        self.group = self.group.next();
        Some(sealed)
    }

    /// Drops the effects of settled groups, because the database holds them. After a group has failed, the effects of
    /// unsettled and failed groups stay, so that reads see their commits whole, as the keys in memory show them.
    pub(super) fn forget_settled(&mut self, groups: &Groups) {
        if groups.have_failed() {
            return;
        }
        let settled = self.sealed.len().saturating_sub(self.groups_on_their_way(groups));
        for effects in self.sealed.drain(..settled) {
            self.effects.recycle(effects);
        }
        self.sealed_frames.drain(..settled);
    }

    /// Returns the number of sealed groups that are not settled. `sealed` may hold the effects of more groups: see
    /// [`Writer::forget_settled`].
    pub(super) fn groups_on_their_way(&self, groups: &Groups) -> usize {
        self.group.prev().0.saturating_sub(groups.settled_until().0) as usize
    }

    /// Returns the number of the newest group that is open or not settled, or `None` if there is none.
    pub(super) fn newest_unsettled(&self, groups: &Groups) -> Option<GroupNumber> {
        let newest = if self.pending.is_empty() { self.group.prev() } else { self.group };
        (newest > groups.settled_until()).then_some(newest)
    }

    /// Reports whether the open group should take no more commits.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= GROUP_COMMITS_MAX || self.effects.bytes() >= GROUP_BYTES_MAX
    }

    /// Returns the bytes of effects that an op-log frame of the effects since the last commit would carry.
    pub(super) fn gathered_frame_bytes(&self) -> usize {
        frame_bytes(self.committed_extent(), self.effects.extent())
    }

    /// Returns the most bytes that the op-log may have to take for the commits that are not written, and for a command
    /// whose arguments have `bytes`.
    pub(super) fn log_bytes(&self, bytes: usize) -> usize {
        let sealed: usize = self.sealed_frames.iter().map(|bytes| bytes + OPLOG_SLACK).sum();
        sealed + self.open_frames + 2 * bytes + OPLOG_SLACK
    }
}
