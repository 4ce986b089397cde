//! What the writer lock guards: the state that commands change, and the open group that they fill.
//!
//! A group is filled, sealed and then written to the logs, while the next one is filled already. Until it is known to be
//! settled its effects lie over the database's state, because that does not have them yet.

use super::committer::MemorySize;
use super::groups::{GroupNumber, Groups};
use crate::clock::{CommitClock, Moment, Reading};
use crate::csn::{CommitTime, Csn};
use crate::engine::effects::{Effects, Extent, SealedEffects};
use crate::engine::expiry::ExpiryIndex;
use crate::engine::memory::{Memory, Undo};
use crate::engine::watch::WatchTable;
use crate::engine::wear::Wear;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Commits one group may hold before it is written.
pub const GROUP_COMMITS_MAX: usize = 512;
/// Bytes of effects one group may hold before it is written (one commit may be larger).
pub const GROUP_BYTES_MAX: usize = 1 << 20;
/// Room in the op-log kept for each group beyond its effects: what frames add to them.
pub(super) const OPLOG_SLACK: usize = 64 << 10;

/// The state under the writer lock.
pub struct Writer {
    /// Lists and sorted sets, with everything that was executed.
    pub memory: Memory,
    /// Who watches which key.
    pub watches: WatchTable,
    /// The index of the disk keys that expire.
    pub expiries: ExpiryIndex,
    /// What hashes and sets lost.
    pub wear: Wear,
    pub(super) effects: Effects,
    /// Of the commit that is being made.
    pub(super) undo: Undo,
    /// Effects of the groups before the open one that are not known to be settled, oldest first.
    pub(super) sealed: Vec<SealedEffects>,
    /// Bytes that the op-log is to take of each of them.
    pub(super) sealed_frames: VecDeque<usize>,
    /// Bytes that the op-log is to take of the open group.
    open_frames: usize,
    /// Commits of the open group. It may stay open while the lock changes hands: see [`super::turn::WriterGuard::leave_open`].
    pub(super) pending: Vec<PendingCommit>,
    /// Number of the open group, or of the next one.
    pub(super) group: GroupNumber,
    /// The last csn that was given to a commit.
    pub(super) last: Csn,
    pub(super) clock: CommitClock,
    /// When the first commit of the open group was made.
    began: Moment,
}

/// A commit of the open group.
pub(super) struct PendingCommit {
    csn: Csn,
    time: CommitTime,
    from: Extent,
    until: Extent,
}

/// Bytes of effects in a commit's op-log frame: all, if it touches the memory engines, else none.
fn frame_bytes(from: Extent, until: Extent) -> usize {
    let ops = until.lists - from.lists + until.zsets - from.zsets;
    if ops > 0 { ops + until.disk - from.disk } else { 0 }
}

/// A group that takes no more commits, on its way to the logs.
pub(super) struct SealedGroup {
    pub number: GroupNumber,
    /// When its first commit was made.
    pub began: Moment,
    commits: Vec<PendingCommit>,
    disk: Bytes,
    /// Where records of `disk` lie that later ones of it undo.
    pub superseded: Vec<Range<usize>>,
    lists: Bytes,
    zsets: Bytes,
    /// The memory engines after it.
    pub memory: MemorySize,
}

impl SealedGroup {
    /// Its commits in the form in which they travel on. They follow the commit at `before` and carry its epoch.
    pub fn records(self, before: Position) -> Arc<[CommitRecord]> {
        let Self { commits, disk, lists, zsets, .. } = self;
        let mut hash = before.hash;
        let record = |commit: PendingCommit| {
            let mut record = CommitRecord {
                csn: commit.csn,
                epoch: before.epoch,
                time: commit.time,
                hash,
                disk_ops: commit.until.disk_ops - commit.from.disk_ops,
                disk: disk.slice(commit.from.disk..commit.until.disk),
                lists: lists.slice(commit.from.lists..commit.until.lists),
                zsets: zsets.slice(commit.from.zsets..commit.until.zsets),
            };
            record.hash = record.hash_after(hash);
            hash = record.hash;
            record
        };
        commits.into_iter().map(record).collect()
    }
}

impl Writer {
    pub(super) fn new(memory: Memory, position: Position) -> Self {
        Self {
            memory,
            watches: WatchTable::default(),
            expiries: ExpiryIndex::default(),
            wear: Wear::default(),
            effects: Effects::default(),
            undo: Undo::Off,
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

    /// Ends a command: what it did becomes one commit, made at `now`. `None` if it did nothing.
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

    /// The time of the next commit.
    fn tick(&mut self, now: Reading) -> CommitTime {
        let time = self.clock.tick(now);
        if self.pending.is_empty() {
            self.began = self.clock.ticked();
        }
        time
    }

    /// Makes an effect that tells of its own commit: `effect` gets the position that the commit will have, but with the
    /// history hash of the commit before it, which is at `before`.
    pub(super) fn commit_with(&mut self, before: Position, effect: impl FnOnce(&mut Effects, Position)) -> Position {
        let from = self.committed_extent();
        assert!(from == self.effects.extent(), "what was done before is another commit");
        assert_eq!(self.last, before.csn, "what was done before is written");
        let position = Position { csn: self.last.next(), time: self.tick(Reading::now()), ..before };
        effect(&mut self.effects, position);
        let until = self.effects.extent();
        assert!(until != from, "a commit has an effect");
        self.last = position.csn;
        self.pending.push(PendingCommit { csn: position.csn, time: position.time, from, until });
        position
    }

    /// Takes back what was done since the last commit.
    pub(super) fn take_back(&mut self, undo: &Undo) -> Result<()> {
        let Self { memory, effects, expiries, pending, .. } = self;
        // What is known of entries may be of those taken back.
        expiries.clear();
        let until = pending.last().map(|commit| commit.until).unwrap_or_default();
        let (lists, zsets) = (&effects.lists[until.lists..], &effects.zsets[until.zsets..]);
        match undo {
            Undo::Cut(cut) => memory.take_back(cut, lists, zsets)?,
            Undo::Off | Undo::Armed if lists.is_empty() && zsets.is_empty() => {}
            Undo::Off | Undo::Armed => {
                return Err(Error::Refused { reason: "it had changed lists or sorted sets".into() });
            }
        }
        effects.take_back(until)
    }

    /// How far the effects reach that belong to commits.
    pub(super) fn committed_extent(&self) -> Extent {
        self.pending.last().map(|commit| commit.until).unwrap_or_default()
    }

    /// Closes the open group; `None` if it is empty.
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
            lists: effects.lists.clone(),
            zsets: effects.zsets.clone(),
            memory: MemorySize::of(&self.memory),
        };
        self.sealed.push(effects);
        self.sealed_frames.push_back(std::mem::take(&mut self.open_frames));
        self.group = self.group.next();
        Some(sealed)
    }

    /// Lets go of the effects of written groups: the database has them. Those of a group that failed stay, so that reads
    /// go on seeing its commits whole, as the memory engines show them.
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

    /// Groups before the open one that are not settled. Those whose effects are kept may be more: see
    /// [`Writer::forget_settled`].
    pub(super) fn groups_on_their_way(&self, groups: &Groups) -> usize {
        self.group.prev().0.saturating_sub(groups.settled_until().0) as usize
    }

    /// Number of the newest group that is open or not known to be settled.
    pub(super) fn newest_unsettled(&self, groups: &Groups) -> Option<GroupNumber> {
        let newest = if self.pending.is_empty() { self.group.prev() } else { self.group };
        (newest > groups.settled_until()).then_some(newest)
    }

    /// Whether the open group should take no more.
    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= GROUP_COMMITS_MAX || self.effects.bytes() >= GROUP_BYTES_MAX
    }

    /// Bytes of effects in the op-log frame of what was done since the last commit.
    pub(super) fn gathered_frame_bytes(&self) -> usize {
        frame_bytes(self.committed_extent(), self.effects.extent())
    }

    /// Bytes the op-log may be asked to take for what was executed and not written, and for a command whose arguments
    /// have `bytes`.
    pub(super) fn log_bytes(&self, bytes: usize) -> usize {
        let sealed: usize = self.sealed_frames.iter().map(|bytes| bytes + OPLOG_SLACK).sum();
        sealed + self.open_frames + 2 * bytes + OPLOG_SLACK
    }
}
