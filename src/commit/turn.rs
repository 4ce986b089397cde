//! The writer lock, held: by a client's session that adds to the open group, or by who needs both logs at rest as well.
//!
//! Lock order: the logs before the writer.

use super::committer::{Committer, MemorySize};
use super::groups::GroupNumber;
use super::logs::{Logs, Rows};
use super::writer::Writer;
use crate::clock::{self, Moment, Reading, now_micros};
use crate::csn::{CommitTime, Csn, Epoch};
use crate::engine::effects::Effects;
use crate::engine::keyspace::{Changing, Keyspace};
use crate::engine::memory::Undo;
use crate::error::{Error, Result};
use crate::log::oplog::OpLog;
use crate::log::recovery::ImagePosition;
use crate::position::Position;
use crate::record::CommitRecord;
use parking_lot::MutexGuard;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

/// Sealed groups that may wait for the logs; beyond them the open group grows.
const SEALED_MAX: usize = 2;
/// Commits of the open group from which on it is worth sealing while another is being written.
const SEALED_EARLY_MIN: usize = 64;

/// Why a command that ended with an error after it had an effect stops writes.
const HALF_WAY: &str = "a command ended half-way: what it did is in memory and in no log";

/// The writer lock, held: for one command or for a pipeline's worth of them. Commits are collected in the open group,
/// which is handed on with [`WriterGuard::leave_open`].
pub struct WriterGuard<'a> {
    pub(super) committer: &'a Committer,
    pub(super) writer: MutexGuard<'a, Writer>,
    /// Whether the group is handed on when the turn ends.
    leaves_open: bool,
}

impl<'a> WriterGuard<'a> {
    pub(super) fn new(committer: &'a Committer) -> Self {
        Self { committer, writer: committer.writer.lock(), leaves_open: false }
    }

    /// The state under the lock.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The keyspace for one command, or for the commands of one EXEC. `now_ms` is the command's clock.
    pub fn keyspace(&mut self, now_ms: u64) -> Keyspace<'_> {
        let Writer { memory, watches, expiries, wear, effects, undo, sealed, last, .. } = &mut *self.writer;
        let csn = last.next();
        let changing = Changing { memory, effects, undo, sealed: &*sealed, watches, expiries, wear, csn };
        Keyspace::changing(self.committer.disk(), now_ms, changing)
    }

    /// Bounds the effects of the next commit. `can_be_taken_back`: whatever it does; else only what it does on disk.
    pub fn bound_commit(&mut self, bytes_max: usize, can_be_taken_back: bool) {
        self.writer.effects.bound(bytes_max);
        self.writer.undo = if can_be_taken_back { Undo::Armed } else { Undo::Off };
    }

    /// Ends the bound of [`WriterGuard::bound_commit`]. If the effects went beyond it, or `is_given_up`, they are taken back,
    /// and false is returned. Watchers of what was changed for a moment take it for a change.
    pub fn end_bound(&mut self, is_given_up: bool) -> bool {
        let undo = std::mem::take(&mut self.writer.undo);
        if self.writer.effects.end_bound() && !is_given_up {
            return true;
        }
        if let Err(error) = self.writer.take_back(&undo) {
            self.abandon(&format!("what a command that was refused had done could not be taken back: {error}"));
        }
        false
    }

    /// Ends a command or an EXEC: what it did since the last call becomes one commit. `None` if it did nothing.
    pub fn commit(&mut self) -> Option<Csn> {
        self.commit_at(Reading::now())
    }

    /// The same, by clocks that were read a moment ago.
    pub fn commit_at(&mut self, now: Reading) -> Option<Csn> {
        self.writer.commit(now)
    }

    /// By how many microseconds the wall clock is ahead of the commit clock; negative if it is behind.
    #[must_use]
    pub fn clock_lag_us(&self) -> i64 {
        self.writer.clock.lag_us(Reading::now())
    }

    /// Sets the commit clock forward to the wall clock.
    pub fn follow_wall_clock(&mut self) {
        self.writer.clock.follow(Reading::now());
    }

    /// Whether something was done since the last [`WriterGuard::commit`].
    #[must_use]
    pub fn has_effects(&self) -> bool {
        self.writer.committed_extent() != self.writer.effects.extent()
    }

    /// Gives the open group up: its effects are in the memory engines and cannot be taken back, so nothing is written
    /// until a restart.
    pub fn abandon(&mut self, reason: &str) {
        self.committer.fail_stop(&Error::Refused { reason: reason.to_owned() });
    }

    /// Whether the open group is so large that it should be written before more is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.writer.is_full()
    }

    /// Number of the open group, or of the next one.
    #[must_use]
    pub fn group(&self) -> GroupNumber {
        self.writer.group
    }

    /// Hands the open group to the thread that writes the logs, if that is worth it now; false if it stays open.
    pub fn hand_over(&mut self) -> bool {
        let Self { committer, writer, .. } = self;
        writer.forget_settled(&committer.groups);
        let is_worth_it = match writer.groups_on_their_way(&committer.groups) {
            0 => true,
            sealed => sealed < SEALED_MAX && writer.pending.len() >= SEALED_EARLY_MIN,
        };
        if !is_worth_it || !committer.queue.has_thread() {
            return false;
        }
        if let Some(sealed) = writer.seal() {
            committer.queue.push(sealed);
        }
        true
    }

    /// Ends the turn without writing. The number of the newest group that its replies must wait for, because they have
    /// seen it or added to it: somebody has to see to its being written. `None` if there is none.
    #[must_use]
    pub fn leave_open(mut self) -> Option<GroupNumber> {
        self.leaves_open = true;
        self.writer.forget_settled(&self.committer.groups);
        self.writer.newest_unsettled(&self.committer.groups)
    }
}

impl Drop for WriterGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if self.has_effects() {
            self.abandon(HALF_WAY);
        } else if !self.leaves_open && !self.writer.pending.is_empty() {
            self.abandon("a group was abandoned before it was written");
        }
    }
}

/// Both locks, held: no group is on its way when it begins. Commits that are not written with [`LogsGuard::write`] before it
/// ends, because an error came between, are written then.
pub struct LogsGuard<'a> {
    pub(super) guard: WriterGuard<'a>,
    pub(super) logs: MutexGuard<'a, Logs>,
    /// Dropped after the locks.
    _syncs: SyncsSoon<'a>,
}

/// Has what was written synced, once the locks are free.
struct SyncsSoon<'a>(&'a Committer);

impl Drop for SyncsSoon<'_> {
    fn drop(&mut self) {
        self.0.syncer.sync_soon();
    }
}

impl<'a> Deref for LogsGuard<'a> {
    type Target = WriterGuard<'a>;

    fn deref(&self) -> &WriterGuard<'a> {
        &self.guard
    }
}

impl DerefMut for LogsGuard<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.guard
    }
}

impl<'a> LogsGuard<'a> {
    pub(super) fn new(guard: WriterGuard<'a>, logs: MutexGuard<'a, Logs>) -> Self {
        let _syncs = SyncsSoon(guard.committer);
        Self { guard, logs, _syncs }
    }

    /// The op-log.
    pub fn oplog(&mut self) -> &mut OpLog {
        &mut self.logs.oplog
    }

    /// Position of the last commit written.
    #[must_use]
    pub fn position(&self) -> Position {
        self.logs.position
    }

    /// Where a memory image cut now stands in history. No group may be open.
    #[must_use]
    pub fn image_position(&self) -> ImagePosition {
        assert!(self.guard.writer.pending.is_empty(), "an image is cut between groups");
        ImagePosition { position: self.logs.position, wal_seq: self.logs.wal_seq }
    }

    /// From here on, commits carry this generation.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        assert!(self.guard.writer.pending.is_empty(), "an epoch starts between groups");
        self.logs.position.epoch = epoch;
        self.guard.committer.publish_epoch(epoch);
        self.logs.oplog.set_epoch(epoch);
    }

    /// Starts the commit clock: from here on this node makes commits. The first time of a new epoch may be below the last one
    /// of the epoch before, if that lies more than [`clock::STEP_MIN`] in the future.
    pub fn start_clock(&mut self, is_new_epoch: bool) {
        assert!(self.guard.writer.pending.is_empty(), "the clock starts between groups");
        let (now, clock) = (Reading::now(), &mut self.guard.writer.clock);
        let apart = clock.lag_us(now);
        if is_new_epoch && apart < 0 && clock::is_step(apart) {
            let (last, wall) = (self.logs.position.time, CommitTime(now.wall_us));
            tracing::warn!(%last, now = %wall, "the last commit lies in the future: commit times begin anew at the present time");
            clock.restart(now);
        } else {
            clock.follow(now);
        }
    }

    /// Makes an effect that tells of its own commit: `effect` gets the position that the commit will have, but with the
    /// history hash of the commit before it: its own covers the effect.
    pub fn commit_with(&mut self, effect: impl FnOnce(&mut Effects, Position)) -> Position {
        self.guard.writer.commit_with(self.logs.position, effect)
    }

    /// Writes the group's commits to both logs and publishes them; returns the last csn, `None` if there are none.
    pub fn write(&mut self) -> Result<Option<Csn>> {
        let WriterGuard { committer, writer, .. } = &mut self.guard;
        let written = writer.seal().map(|sealed| committer.write_sealed(&mut self.logs, sealed)).transpose();
        writer.forget_settled(&committer.groups);
        written
    }

    /// Applies commits made elsewhere (by the primary, or read from the archive): all engines, both logs. They must
    /// follow the last commit without a gap. Without room for them they are refused before they have any effect.
    pub fn apply(&mut self, commits: Arc<[CommitRecord]>) -> Result<Csn> {
        self.guard.committer.require_sound()?;
        assert!(self.guard.writer.pending.is_empty(), "commits are applied between groups");
        let (mut expected, mut hash) = (self.logs.position.csn.next(), self.logs.position.hash);
        for commit in &*commits {
            if commit.csn != expected {
                return Err(Error::Gap { what: "applied commits".into(), expected, found: commit.csn.to_string() });
            }
            commit.require_continues(hash, "applied commits")?;
            hash = commit.hash;
            crate::engine::batch::validate(&commit.disk, commit.disk_ops)?;
            crate::engine::memory::validate(&commit.lists, &commit.zsets)?;
            expected = expected.next();
        }
        self.require_room(OpLog::frame_bytes(&commits))?;
        let Self { guard: WriterGuard { committer, writer, .. }, logs, .. } = self;
        if let Some(first) = commits.first() {
            let age = now_micros().saturating_sub(first.time.0);
            committer.ages.note(first.csn, Moment::now().before(Duration::from_micros(age)));
        }
        for commit in &*commits {
            writer.memory.apply(commit).inspect_err(|error| committer.fail_stop(error))?;
            writer.clock.observe(commit.time);
            writer.last = commit.csn;
        }
        writer.watches.touch_all();
        writer.expiries.reset();
        committer.log_and_publish(logs, commits, &[], Rows::Forget, MemorySize::of(&writer.memory))
    }
}

impl Drop for LogsGuard<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let ended_half_way = self.has_effects();
            // If it fails, no more writes are taken.
            let _ = self.write();
            if ended_half_way {
                self.abandon(HALF_WAY);
            }
        }
        self.guard.committer.note_room(&self.logs);
    }
}
