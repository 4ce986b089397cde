//! The lock guards of the committer. [`WriterGuard`] holds the writer lock: a client's session takes it to add commits
//! to the open group. [`LogsGuard`] holds the writer lock and the logs' lock, so that no group is being written.
//!
//! Lock order: the logs' lock before the writer lock.

use super::committer::Committer;
use super::groups::GroupNumber;
use super::logs::{Logs, Rows};
use super::writer::Writer;
use crate::clock::{self, Moment, Reading, now_micros};
use crate::csn::{CommitTime, Csn, Epoch};
use crate::engine::effects::Effects;
use crate::engine::keyspace::{Changing, Keyspace};
use crate::engine::memory::{Memory, Ops, Scope};
use crate::error::{Error, Result};
use crate::log::oplog::OpLog;
use crate::log::recovery::CutPoint;
use crate::position::Position;
use crate::record::CommitRecord;
use parking_lot::MutexGuard;
use std::sync::Arc;
use std::time::Duration;

/// Sealed groups that may wait for the log thread. At this limit the open group grows instead.
const SEALED_MAX: usize = 2;
/// Commits that the open group must hold to be sealed while another group is being written.
const SEALED_EARLY_MIN: usize = 64;

/// Reason to stop writes when a command ends with an error after it had an effect.
const HALF_WAY: &str = "a command ended after a part of its effects, which are in memory and in no log";

/// Bytes of a group's effects up to which [`Committer::write_soon`] writes the group on the calling thread. Handing a
/// small group to another thread costs more than the write: on two cores, fifty clients that send one command of 100
/// bytes at a time are served up to a fifth faster this way.
const WRITTEN_AT_ONCE_BYTES_MAX: usize = 16 << 10;

impl Committer {
    /// Takes both locks. Groups that are open or queued are written before this returns.
    pub fn lock_logs(&self) -> LogsGuard<'_> {
        let mut logs = self.logs.lock();
        self.write_queued(&mut logs);
        let guard = self.lock_writer();
        // Groups that were queued since the first call. While both locks are held, no group can be queued.
        self.write_queued(&mut logs);
        let mut guard = LogsGuard::new(guard, logs);
        // If the write fails, the clients that wait for replies get the error, and the gate is closed.
        let _ = guard.write();
        guard
    }

    /// Takes the writer lock, to add commits to the open group or to begin one.
    pub fn lock_writer(&self) -> WriterGuard<'_> {
        WriterGuard::new(self)
    }

    /// Writes the open group and the queued groups before it.
    pub fn write_open_group(&self) {
        drop(self.lock_logs());
    }

    /// Arranges that the open group is written. This thread writes a small group. A larger one is handed to the log
    /// thread at once, or stays open while an earlier group is being written; without a log thread, this thread writes
    /// it.
    pub fn write_soon(&self) {
        let mut guard = self.lock_writer();
        guard.writer.forget_settled(&self.groups);
        let is_first = guard.writer.groups_on_their_way(&self.groups) == 0;
        let is_small = is_first && guard.writer.effects.bytes() <= WRITTEN_AT_ONCE_BYTES_MAX;
        let is_handed_over = !is_small && guard.hand_over();
        let is_on_its_way = guard.writer.groups_on_their_way(&self.groups) > 0;
        let open = guard.leave_open();
        // A caller that learns that the earlier group is settled calls this function again.
        if open.is_some() && !is_handed_over && !is_on_its_way {
            self.write_open_group();
        }
    }
}

/// The writer lock is held, for one command or for a pipeline's worth of commands. Commits gather in the open group.
/// [`WriterGuard::leave_open`] releases the lock and leaves the group open for the next holder of the lock. A guard
/// that is dropped with commits in the group, but without that call, stops writes until a restart.
pub struct WriterGuard<'a> {
    pub(super) committer: &'a Committer,
    pub(super) writer: MutexGuard<'a, Writer>,
    /// Whether the open group stays open when the guard is dropped.
    leaves_open: bool,
}

impl<'a> WriterGuard<'a> {
    pub(super) fn new(committer: &'a Committer) -> Self {
        Self { committer, writer: committer.writer.lock(), leaves_open: false }
    }

    /// Returns the state under the lock.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// Returns the keyspace for one command, or for the commands of one EXEC. `now_ms` is the command's clock, in
    /// milliseconds since the Unix epoch.
    pub fn keyspace(&mut self, now_ms: u64) -> Keyspace<'_> {
        let Writer { watches, expiries, wear, effects, hidden, sealed, last, .. } = &mut *self.writer;
        let (routing, csn) = (self.committer.routing(), last.next());
        let changing = Changing { effects, hidden: *hidden, sealed: &*sealed, watches, expiries, wear, routing, csn };
        Keyspace::changing(self.committer.disk(), self.committer.memory(), now_ms, changing)
    }

    /// Limits the effects of the next commit to `bytes_max`. If `can_be_taken_back`, all of its effects can be taken
    /// back; otherwise only its effects on disk can.
    pub fn bound_commit(&mut self, bytes_max: usize, can_be_taken_back: bool) {
        self.writer.effects.bound(bytes_max);
        let hidden = can_be_taken_back.then(|| self.writer.memory.hide());
        self.writer.hidden = hidden;
    }

    /// Ends the limit that [`WriterGuard::bound_commit`] set. If the effects exceed the limit, or if `is_given_up`,
    /// the effects are taken back and false is returned. A client that watches a key counts such a change as a change
    /// of the key.
    pub fn end_bound(&mut self, is_given_up: bool) -> bool {
        let hidden = self.writer.hidden.take();
        if self.writer.effects.end_bound() && !is_given_up {
            if hidden.is_some() {
                self.writer.memory.end_hidden(self.writer.last.next());
            }
            return true;
        }
        if let Err(error) = self.writer.take_back(hidden) {
            self.abandon(&format!("the effects of a refused command could not be taken back: {error}"));
        }
        false
    }

    /// Ends a command or an EXEC: its effects since the last call become one commit. Returns `None` if there are none.
    pub fn commit(&mut self) -> Option<Csn> {
        self.commit_at(Reading::now())
    }

    /// Does the same as [`WriterGuard::commit`], with clocks that the caller read a moment before.
    pub fn commit_at(&mut self, now: Reading) -> Option<Csn> {
        self.writer.commit(now)
    }

    /// Returns by how many microseconds the wall clock is ahead of the commit clock; negative if it is behind.
    #[must_use]
    pub fn clock_lag_us(&self) -> i64 {
        self.writer.clock.lag_us(Reading::now())
    }

    /// Sets the commit clock forward to the wall clock.
    pub fn follow_wall_clock(&mut self) {
        self.writer.clock.follow(Reading::now());
    }

    /// Reports whether there are effects since the last [`WriterGuard::commit`].
    #[must_use]
    pub fn has_effects(&self) -> bool {
        self.writer.committed_extent() != self.writer.effects.extent()
    }

    /// Stops writes until a restart, because effects are in the keys in memory that are in no log and cannot be taken
    /// back.
    pub fn abandon(&mut self, reason: &str) {
        self.committer.fail_stop(&Error::NeedsRestart { reason: reason.to_owned() });
    }

    /// Reports whether the open group is so large that it should be written before commits are added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.writer.is_full()
    }

    /// Returns the number of the open group, or of the next one if none is open.
    #[must_use]
    pub fn group(&self) -> GroupNumber {
        self.writer.group
    }

    /// Hands the open group to the log thread if the queue is short enough. Returns false if the group stays open.
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

    /// Releases the writer lock without writing the open group. Returns the number of the newest unsettled group, for
    /// which the caller's replies must wait because the caller has seen its commits or added to it; `None` if all
    /// groups are settled. The caller must arrange that this group is written.
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

/// Both locks are held, and at the beginning no group is open or queued. Commits are written with
/// [`LogsGuard::write`]. Commits that are left when the guard is dropped, because an error came in between, are
/// written then.
pub struct LogsGuard<'a> {
    pub(super) guard: WriterGuard<'a>,
    pub(super) logs: MutexGuard<'a, Logs>,
    /// Declared last, so that it is dropped after both locks are released.
    _syncs: SyncsSoon<'a>,
}

/// Requests a sync of the written groups when dropped.
struct SyncsSoon<'a>(&'a Committer);

impl Drop for SyncsSoon<'_> {
    fn drop(&mut self) {
        self.0.syncer.sync_soon();
    }
}

impl<'a> LogsGuard<'a> {
    pub(super) fn new(guard: WriterGuard<'a>, logs: MutexGuard<'a, Logs>) -> Self {
        let _syncs = SyncsSoon(guard.committer);
        Self { guard, logs, _syncs }
    }

    /// Returns the state under the writer lock.
    pub fn writer(&mut self) -> &mut Writer {
        self.guard.writer()
    }

    /// Returns the keyspace for one command; see [`WriterGuard::keyspace`].
    pub fn keyspace(&mut self, now_ms: u64) -> Keyspace<'_> {
        self.guard.keyspace(now_ms)
    }

    /// Makes one commit of the effects since the last commit; see [`WriterGuard::commit`].
    pub fn commit(&mut self) -> Option<Csn> {
        self.guard.commit()
    }

    /// Returns the op-log.
    pub fn oplog(&mut self) -> &mut OpLog {
        &mut self.logs.oplog
    }

    /// Returns the position of the last commit written.
    #[must_use]
    pub fn position(&self) -> Position {
        self.logs.position
    }

    /// Returns the position in history of a memory image that is cut during this guard. Panics if a group is open.
    #[must_use]
    pub fn cut_point(&self) -> CutPoint {
        assert!(self.guard.writer.pending.is_empty(), "an image is cut between groups");
        CutPoint { position: self.logs.position, wal_seq: self.logs.wal_seq }
    }

    /// Sets the epoch that all later commits carry. Panics if a group is open.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        assert!(self.guard.writer.pending.is_empty(), "an epoch starts between groups");
        self.logs.position.epoch = epoch;
        self.guard.committer.publish_epoch(epoch);
        self.logs.oplog.set_epoch(epoch);
    }

    /// Starts the commit clock of a node that begins to make commits. Panics if a group is open. If `is_new_epoch` and
    /// the last commit lies more than [`clock::STEP_MIN`] in the future, commit times begin again at the present time,
    /// so that the first commit time of the new epoch is below the last of the epoch before.
    pub fn start_clock(&mut self, is_new_epoch: bool) {
        assert!(self.guard.writer.pending.is_empty(), "the clock starts between groups");
        let (now, clock) = (Reading::now(), &mut self.guard.writer.clock);
        let apart = clock.lag_us(now);
        if is_new_epoch && apart < 0 && clock::is_step(apart) {
            let (last, wall) = (self.logs.position.time, CommitTime(now.wall_us));
            tracing::warn!(%last, now = %wall, "the last commit lies in the future: commit times start over at the \
                                                present time");
            clock.restart(now);
        } else {
            clock.follow(now);
        }
    }

    /// Makes a commit whose effect contains the commit's own position. `effect` gets that position, but with the
    /// history hash of the commit before: the hash of the commit itself covers the effect.
    pub fn commit_with(&mut self, effect: impl FnOnce(&mut Effects, Position)) -> Position {
        self.guard.writer.commit_with(self.logs.position, effect)
    }

    /// Writes the open group's commits to both logs and publishes them. Returns the last csn, or `None` if there are
    /// none.
    pub fn write(&mut self) -> Result<Option<Csn>> {
        let WriterGuard { committer, writer, .. } = &mut self.guard;
        let written = writer.seal().map(|sealed| committer.write_sealed(&mut self.logs, sealed)).transpose();
        writer.forget_settled(&committer.groups);
        written
    }

    /// Applies commits that were made elsewhere (by the primary, or read from the archive) to all engines and both
    /// logs. The commits must follow the last commit without a gap. If there is no room for them, they are refused
    /// before they have any effect. Panics if a group is open.
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
            Ops::validate(&commit.memory)?;
            expected = expected.next();
        }
        self.require_room(OpLog::frame_bytes(&commits))?;
        let Self { guard: WriterGuard { committer, writer, .. }, logs, .. } = self;
        if let Some(first) = commits.first() {
            let age = now_micros().saturating_sub(first.time.0);
            committer.ages.note(first.csn, Moment::now().before(Duration::from_micros(age)));
        }
        for commit in &*commits {
            writer.memory.apply_commit(commit).inspect_err(|error| committer.fail_stop(error))?;
            note_arrivals(&writer.memory, commit)?;
            writer.clock.observe(commit.time);
            writer.last = commit.csn;
        }
        writer.watches.touch_all();
        writer.expiries.reset();
        committer.log_and_publish(logs, commits, &[], Rows::Forget)
    }
}

/// Notes the keys that a commit may have moved to memory: a move has effects in both homes.
fn note_arrivals(memory: &Memory, commit: &CommitRecord) -> Result<()> {
    if !commit.is_cross_engine() {
        return Ok(());
    }
    Ops::new(&commit.memory).try_for_each(|op| {
        match op?.scope() {
            Scope::Key(key) | Scope::Rename { to: key, .. } => memory.arrivals().note(key),
            Scope::All => {}
        }
        Ok(())
    })
}

impl Drop for LogsGuard<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let ended_half_way = self.guard.has_effects();
            // If the write fails, the gate is closed.
            let _ = self.write();
            if ended_half_way {
                self.guard.abandon(HALF_WAY);
            }
        }
        self.guard.committer.note_room(&self.logs);
    }
}
