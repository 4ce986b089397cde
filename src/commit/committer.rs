//! The committer: one writer at a time turns effects into commits, writes both logs and publishes.
//!
//! Guarantees: csns are dense; a group's frames are in the op-log before its batch is in the WAL; memory engines and
//! RocksDB change under one lock, so that who holds it sees whole commits; after a failed log write nothing is
//! committed any more. What a reply may wait for is in `sync`.

use super::gate::{Gate, Obstacle};
use super::groups::{GroupNumber, Groups};
use super::sync::Syncer;
use crate::clock::CommitClock;
use crate::csn::{CommitTime, Csn, Epoch, WalSeq};
use crate::engine::disk::Disk;
use crate::engine::effects::{Effects, Extent};
use crate::engine::keyspace::{Changing, Keyspace};
use crate::engine::memory::Memory;
use crate::engine::watch::WatchTable;
use crate::error::{Error, Result};
use crate::log::envelope::{self, Position};
use crate::log::index::PositionIndex;
use crate::log::oplog::OpLog;
use crate::log::reader::{LogPosition, LogReader};
use crate::log::recovery::ImagePosition;
use crate::record::CommitRecord;
use crate::watermark::Watermarks;
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Commits one group may hold before it is written.
pub const GROUP_COMMITS_MAX: usize = 512;
/// Bytes of effects one group may hold before it is written (one commit may be larger).
pub const GROUP_BYTES_MAX: usize = 1 << 20;
/// Room in the op-log that is kept ready beyond what a command's arguments ask for.
const OPLOG_SLACK: usize = 64 << 10;

/// Commits written together, in the form in which they travel on.
#[derive(Clone, Debug)]
pub struct Group {
    /// Whole commits in dense csn order; never empty.
    pub commits: Arc<[CommitRecord]>,
    /// End of the WAL before this group.
    pub wal_before: WalSeq,
    /// End of the WAL with this group.
    pub wal_after: WalSeq,
}

impl Group {
    /// Csn of its first commit.
    #[must_use]
    pub fn first(&self) -> Csn {
        self.commits[0].csn
    }

    /// Csn of its last commit.
    #[must_use]
    pub fn last(&self) -> Csn {
        self.commits[self.commits.len() - 1].csn
    }
}

/// What becomes of cached rows that commits change.
#[derive(Clone, Copy)]
enum Rows {
    /// They are kept as they are now: who writes a key here is likely to read it here.
    Store,
    /// They are dropped: on a replica few rows are read.
    Forget,
}

/// Takes each written group, in order, under the writer lock: must not block.
pub trait CommitSink: Send + Sync {
    /// A group was written to both logs and published.
    fn committed(&self, group: Group);
}

/// What a node's parts share about its state.
pub struct Committer {
    writer: Mutex<Writer>,
    disk: Arc<Disk>,
    /// Whether writes are taken.
    pub gate: Arc<Gate>,
    /// How far commits have got.
    pub watermarks: Arc<Watermarks>,
    /// What makes them durable.
    pub syncer: Arc<Syncer>,
    /// Which groups were written.
    pub groups: Groups,
    positions: Mutex<PositionIndex>,
    sink: OnceLock<Arc<dyn CommitSink>>,
    /// Keys in the memory engines, for reads that do not take the lock.
    memory_keys: AtomicUsize,
    /// Bytes the memory engines hold.
    memory_bytes: AtomicUsize,
    /// Time of the last commit.
    committed_time: AtomicU64,
    /// Bytes of the op-log when somebody last asked.
    oplog_bytes: AtomicU64,
}

/// The state under the writer lock.
pub struct Writer {
    /// Lists and sorted sets.
    pub memory: Memory,
    /// Who watches which key.
    pub watches: WatchTable,
    effects: Effects,
    /// Commits of the open group. It may stay open while the lock changes hands: see [`Turn::leave_open`].
    pending: Vec<PendingCommit>,
    /// Number of the open group.
    group: GroupNumber,
    oplog: OpLog,
    position: Position,
    clock: CommitClock,
    wal_seq: WalSeq,
}

/// A commit of the open group.
struct PendingCommit {
    csn: Csn,
    time: CommitTime,
    from: Extent,
    until: Extent,
}

/// The state a committer starts from.
pub struct Start {
    /// The open database.
    pub disk: Arc<Disk>,
    /// The op-log, recovered.
    pub oplog: OpLog,
    /// The memory engines at `position`.
    pub memory: Memory,
    /// The last commit.
    pub position: Position,
    /// Positions in the logs known so far, ascending; reading can begin at the first.
    pub known: Vec<LogPosition>,
}

impl Committer {
    /// A committer that goes on after `start.position`.
    #[must_use]
    pub fn new(start: Start, gate: Arc<Gate>, syncer: impl FnOnce(&OpLog, &Arc<Watermarks>) -> Arc<Syncer>) -> Self {
        let watermarks = Arc::new(Watermarks::starting_at(start.position.csn));
        let wal_seq = start.disk.wal_seq();
        let mut positions = PositionIndex::default();
        start.known.iter().for_each(|&position| positions.note(position));
        positions.note(LogPosition { csn: start.position.csn, wal_seq });
        let syncer = syncer(&start.oplog, &watermarks);
        let memory_keys = AtomicUsize::new(start.memory.len());
        let memory_bytes = AtomicUsize::new(start.memory.memory_bytes());
        let oplog_bytes = AtomicU64::new(start.oplog.bytes());
        let writer = Writer {
            memory: start.memory,
            watches: WatchTable::default(),
            effects: Effects::default(),
            pending: Vec::new(),
            group: GroupNumber(1),
            oplog: start.oplog,
            position: start.position,
            clock: CommitClock::starting_at(start.position.time),
            wal_seq,
        };
        Self {
            writer: Mutex::new(writer),
            disk: start.disk,
            gate,
            watermarks,
            syncer,
            groups: Groups::default(),
            positions: Mutex::new(positions),
            sink: OnceLock::new(),
            memory_keys,
            memory_bytes,
            committed_time: AtomicU64::new(start.position.time.0),
            oplog_bytes,
        }
    }

    /// Sets who gets each group. Once.
    pub fn attach(&self, sink: Arc<dyn CommitSink>) {
        assert!(self.sink.set(sink).is_ok(), "a committer has one sink");
    }

    /// The database, for reads that take no lock.
    #[must_use]
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Keys in the memory engines, for who does not hold the lock: never 0 while a published key is there.
    #[must_use]
    pub fn memory_keys(&self) -> &AtomicUsize {
        &self.memory_keys
    }

    /// Bytes the memory engines held at the last publication.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// Time of the last commit, for who does not hold the lock; 0 before the first.
    #[must_use]
    pub fn committed_time(&self) -> CommitTime {
        CommitTime(self.committed_time.load(Ordering::Acquire))
    }

    /// Takes the writer lock with no group open: one that was left open is written first.
    pub fn turn(&self) -> Turn<'_> {
        let mut turn = self.join();
        // If it cannot be, those who wait for its replies learn it, and the gate is closed.
        let _ = turn.write();
        turn
    }

    /// Takes the writer lock to add to the open group, if there is one.
    pub fn join(&self) -> Turn<'_> {
        Turn { committer: self, writer: self.writer.lock(), leaves_open: false }
    }

    /// Writes the open group, if there is one.
    pub fn write_open_group(&self) {
        drop(self.turn());
    }

    /// A position at or below `csn` from which the logs can be read. Below what is indexed it is the oldest one there is;
    /// whether the logs really hold what follows `csn` shows in reading: [`Error::Gap`].
    pub fn log_position(&self, csn: Csn) -> Result<LogPosition> {
        if let Some(known) = self.positions.lock().at_or_below(csn) {
            return Ok(known);
        }
        let oldest = crate::log::wal::before_oldest(self.disk.wal_dir())?;
        Ok(LogPosition { csn, wal_seq: oldest.unwrap_or_else(|| self.disk.wal_seq()) })
    }

    /// A reader of both logs, and the position up to which they can be read now.
    pub fn log_reader(&self) -> (LogReader, LogPosition) {
        let turn = self.turn();
        let until = LogPosition { csn: turn.writer.position.csn, wal_seq: turn.writer.wal_seq };
        (LogReader::new(Arc::clone(&self.disk), turn.writer.oplog.reader()), until)
    }

    /// Removes op-log segments, WAL files and positions that hold nothing above `keep`.
    pub fn purge_logs(&self, keep: LogPosition) -> Result<u64> {
        self.positions.lock().purge_until(keep.csn);
        let freed = self.turn().writer.oplog.purge_until(keep.csn)?;
        Ok(freed + crate::log::wal::purge(self.disk.wal_dir(), keep.wal_seq)?)
    }

    /// Bytes of both logs on disk. Never waits for the writer lock, which the caller may hold: the op-log's part may be as
    /// old as the last call that found it free.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        if let Some(writer) = self.writer.try_lock() {
            self.oplog_bytes.store(writer.oplog.bytes(), Ordering::Relaxed);
        }
        self.oplog_bytes.load(Ordering::Relaxed) + crate::log::wal::bytes(self.disk.wal_dir())
    }

    /// Why nothing may be logged any more; `None` if it may.
    fn broken(&self) -> Option<String> {
        let refusal = self.gate.refusal()?;
        refusal
            .as_ref()
            .as_ref()
            .filter(|(obstacle, _)| *obstacle == Obstacle::Broken)
            .map(|(_, reason)| reason.clone())
    }

    /// Stops taking writes until a restart.
    fn fail_stop(&self, error: &Error) {
        tracing::error!(%error, "a log write failed: writes are refused until a restart");
        self.gate.close(
            Obstacle::Broken,
            format!("writes are refused until a restart, because a log could not be written: {error}"),
        );
    }
}

/// The writer lock, held: for one command or for a pipeline's worth of them.
///
/// Commits are collected in a group, which must be written with [`Turn::write`] before the turn ends, or handed on with
/// [`Turn::leave_open`].
pub struct Turn<'a> {
    committer: &'a Committer,
    writer: MutexGuard<'a, Writer>,
    /// Whether the group is handed on when the turn ends.
    leaves_open: bool,
}

impl<'a> Turn<'a> {
    /// The state under the lock.
    pub fn writer(&mut self) -> &mut Writer {
        &mut self.writer
    }

    /// The keyspace for one command, or for the commands of one EXEC. `now_ms` is the command's clock.
    pub fn keyspace(&mut self, now_ms: u64) -> Keyspace<'_> {
        let Writer { memory, watches, effects, position, pending, .. } = &mut *self.writer;
        let csn = pending.last().map_or(position.csn, |commit| commit.csn).next();
        Keyspace::changing(&self.committer.disk, now_ms, Changing { memory, effects, watches, csn })
    }

    /// Makes sure the op-log can take a command whose arguments have `bytes`, before it has any effect.
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        let wanted = self.writer.effects.bytes() + 2 * bytes + OPLOG_SLACK;
        let reserved = self.writer.oplog.reserve(wanted);
        match &reserved {
            Ok(()) => self.committer.gate.open(Obstacle::DiskFull),
            Err(error) if self.writer.oplog.is_broken() => self.committer.fail_stop(error),
            Err(error) => self.committer.gate.close(
                Obstacle::DiskFull,
                format!("the op-log cannot grow: {error}. Free space; writes are taken again then"),
            ),
        }
        reserved
    }

    /// Ends a command or an EXEC: what it did since the last call becomes one commit. `None` if it did nothing.
    pub fn commit(&mut self) -> Option<Csn> {
        let writer = &mut *self.writer;
        let from = writer.pending.last().map(|commit| commit.until).unwrap_or_default();
        let until = writer.effects.extent();
        if from == until {
            return None;
        }
        let csn = writer.pending.last().map_or(writer.position.csn, |commit| commit.csn).next();
        writer.pending.push(PendingCommit { csn, time: writer.clock.tick(), from, until });
        Some(csn)
    }

    /// Makes an effect that tells of its own commit: `effect` gets the position that the commit will have.
    pub fn commit_with(&mut self, effect: impl FnOnce(&mut Effects, Position)) -> Position {
        assert!(!self.has_effects(), "what was done before is another commit");
        let writer = &mut *self.writer;
        let before = writer.pending.last();
        let csn = before.map_or(writer.position.csn, |commit| commit.csn).next();
        let from = before.map(|commit| commit.until).unwrap_or_default();
        let position = Position { csn, time: writer.clock.tick(), epoch: writer.position.epoch };
        effect(&mut writer.effects, position);
        let until = writer.effects.extent();
        assert!(until != from, "a commit has an effect");
        writer.pending.push(PendingCommit { csn, time: position.time, from, until });
        position
    }

    /// Whether something was done since the last [`Turn::commit`].
    #[must_use]
    pub fn has_effects(&self) -> bool {
        let from = self.writer.pending.last().map(|commit| commit.until).unwrap_or_default();
        from != self.writer.effects.extent()
    }

    /// Gives the open group up: its effects are in the memory engines and cannot be taken back, so nothing is written
    /// until a restart.
    pub fn abandon(&mut self, reason: &str) {
        self.committer.fail_stop(&Error::Refused { reason: reason.to_owned() });
    }

    /// Whether the open group is so large that it should be written before more is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.writer.pending.len() >= GROUP_COMMITS_MAX || self.writer.effects.bytes() >= GROUP_BYTES_MAX
    }

    /// Number of the open group, or of the next one.
    #[must_use]
    pub fn group(&self) -> GroupNumber {
        self.writer.group
    }

    /// Position of the last commit written.
    #[must_use]
    pub fn position(&self) -> Position {
        self.writer.position
    }

    /// Where a memory image cut now stands in history. No group may be open.
    #[must_use]
    pub fn image_position(&self) -> ImagePosition {
        assert!(self.writer.pending.is_empty(), "an image is cut between groups");
        ImagePosition { position: self.writer.position, wal_seq: self.writer.wal_seq }
    }

    /// From here on, commits carry this generation.
    pub fn set_epoch(&mut self, epoch: Epoch) {
        assert!(self.writer.pending.is_empty(), "an epoch starts between groups");
        self.writer.position.epoch = epoch;
        self.writer.oplog.set_epoch(epoch);
    }

    /// Ends the turn without writing. The number of the group that its replies must wait for: somebody has to call
    /// [`Committer::write_open_group`]. `None` if no group is open.
    #[must_use]
    pub fn leave_open(mut self) -> Option<GroupNumber> {
        self.leaves_open = true;
        (!self.writer.pending.is_empty()).then_some(self.writer.group)
    }

    /// Writes the group's commits to both logs and publishes them; returns the last csn, `None` if there are none.
    pub fn write(&mut self) -> Result<Option<Csn>> {
        if self.writer.pending.is_empty() {
            return Ok(None);
        }
        let group = self.writer.group;
        self.writer.group = GroupNumber(group.0 + 1);
        let written = self.write_group();
        match &written {
            Ok(_) => self.committer.groups.written(group),
            Err(error) => self.committer.groups.failed(group, error),
        }
        written.map(Some)
    }

    fn write_group(&mut self) -> Result<Csn> {
        let writer = &mut *self.writer;
        if let Some(reason) = self.committer.broken() {
            writer.pending.clear();
            writer.effects.take();
            return Err(Error::Refused { reason });
        }
        let epoch = writer.position.epoch;
        let (disk, lists, zsets) = writer.effects.take();
        let (disk, lists, zsets) = (Bytes::from(disk), Bytes::from(lists), Bytes::from(zsets));
        let record = |commit: PendingCommit| CommitRecord {
            csn: commit.csn,
            epoch,
            time: commit.time,
            disk_ops: commit.until.disk_ops - commit.from.disk_ops,
            disk: disk.slice(commit.from.disk..commit.until.disk),
            lists: lists.slice(commit.from.lists..commit.until.lists),
            zsets: zsets.slice(commit.from.zsets..commit.until.zsets),
        };
        let commits: Arc<[CommitRecord]> = writer.pending.drain(..).map(record).collect();
        self.log_and_publish(commits, Rows::Store)
    }

    /// Applies commits made elsewhere (by the primary, or read from the archive): all engines, both logs. They must
    /// follow the last commit without a gap.
    pub fn apply(&mut self, commits: Arc<[CommitRecord]>) -> Result<Csn> {
        if let Some(reason) = self.committer.broken() {
            return Err(Error::Refused { reason });
        }
        let writer = &mut *self.writer;
        assert!(writer.pending.is_empty(), "commits are applied between groups");
        let mut expected = writer.position.csn.next();
        for commit in &*commits {
            if commit.csn != expected {
                return Err(Error::Gap { what: "applied commits".into(), expected, found: commit.csn.to_string() });
            }
            crate::engine::batch::validate(&commit.disk, commit.disk_ops)?;
            expected = expected.next();
        }
        for commit in &*commits {
            let applied =
                writer.memory.apply_lists(&commit.lists).and_then(|()| writer.memory.apply_zsets(&commit.zsets));
            applied.inspect_err(|error| self.committer.fail_stop(error))?;
            writer.clock.observe(commit.time);
        }
        writer.watches.touch_all();
        self.log_and_publish(commits, Rows::Forget)
    }

    fn log_and_publish(&mut self, commits: Arc<[CommitRecord]>, rows: Rows) -> Result<Csn> {
        let committer = self.committer;
        let writer = &mut *self.writer;
        let last = commits.last().expect("a group is never empty");
        let position = Position { csn: last.csn, time: last.time, epoch: last.epoch };
        // Raised before the disk engines change and lowered after: a reader that misses a key on disk while it moves
        // between the engines must know that it may be in memory.
        committer.memory_keys.fetch_max(writer.memory.len(), Ordering::AcqRel);
        let (oplog_bytes, wrote_batch) =
            writer.log(&committer.disk, &commits, rows).inspect_err(|error| committer.fail_stop(error))?;
        let wal_before = writer.wal_seq;
        writer.wal_seq = committer.disk.wal_seq();
        writer.position = position;
        committer.memory_keys.store(writer.memory.len(), Ordering::Release);
        committer.memory_bytes.store(writer.memory.memory_bytes(), Ordering::Relaxed);
        committer.positions.lock().note(LogPosition { csn: position.csn, wal_seq: writer.wal_seq });
        if let Some(sink) = committer.sink.get() {
            sink.committed(Group { commits, wal_before, wal_after: writer.wal_seq });
        }
        committer.committed_time.store(position.time.0, Ordering::Release);
        // Who is woken by it finds everything in its place.
        committer.watermarks.committed.raise(position.csn);
        let oplog = writer.oplog.active_file().filter(|_| oplog_bytes > 0);
        committer.syncer.written(position, oplog, oplog_bytes, wrote_batch);
        Ok(position.csn)
    }
}

impl Writer {
    /// The op-log first: while it fails nothing has reached RocksDB, whose write cannot be undone.
    /// Tells how many bytes the op-log got, and whether RocksDB's WAL got a batch.
    fn log(&mut self, disk: &Disk, commits: &[CommitRecord], rows: Rows) -> Result<(usize, bool)> {
        let oplog_bytes = self.oplog.append(commits)?;
        let Some(batch) = envelope::assemble(commits) else { return Ok((oplog_bytes, false)) };
        let publication = disk.rows().publish();
        disk.write(&batch, true)?;
        for commit in commits {
            match rows {
                Rows::Store => publication.store(&commit.disk)?,
                Rows::Forget => publication.forget(&commit.disk)?,
            }
        }
        drop(publication);
        let expected = self.wal_seq.0 + u64::from(envelope::operations(&batch));
        assert_eq!(disk.wal_seq().0, expected, "nothing but the committer may write to RocksDB");
        Ok((oplog_bytes, true))
    }

    /// The op-log, for the syncer's chores under the lock.
    pub fn oplog(&mut self) -> &mut OpLog {
        &mut self.oplog
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.leaves_open && !self.writer.pending.is_empty() && !std::thread::panicking() {
            let error = Error::Refused { reason: "a group was abandoned before it was written".into() };
            self.committer.fail_stop(&error);
        }
    }
}

#[cfg(test)]
#[path = "committer_tests.rs"]
pub(super) mod tests;
