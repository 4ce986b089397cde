//! The committer: one writer at a time turns effects into commits; one thread at a time writes both logs and publishes.
//!
//! ```text
//! turn    execute: memory engines change, effects gather in the open group     writer lock
//! writer  seal: the group takes no more; its effects lie over the database     writer lock
//! logs    write: op-log, then RocksDB, rows, watermarks, sink                  logs' lock; log_thread or a turn
//! groups  settle: replies leave, the effects' overlay goes
//! ```
//!
//! Guarantees: csns are dense; groups are written in the order in which they were sealed; who holds the writer lock sees
//! whole commits, written or not, and its replies wait for them; after a failed log write nothing is committed any more.
//! What a reply may wait for beyond that is in `sync`.

use super::ages::Ages;
use super::gate::{Gate, RefusalReason};
use super::groups::Groups;
use super::log_thread::{LogQueue, LogThread};
use super::logs::{Logs, Rows};
use super::sync::Syncer;
use super::turn::{LogsGuard, WriterGuard};
use super::writer::{SealedGroup, Writer};
use crate::clock::{ClockFace, now_micros};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use crate::engine::disk::Disk;
use crate::engine::memory::Memory;
use crate::error::{Error, Result};
use crate::log::index::PositionIndex;
use crate::log::oplog::{OpLog, SpareSegment};
use crate::log::reader::{LogPosition, LogReader};
use crate::position::Position;
use crate::record::CommitRecord;
use crate::watermark::Watermarks;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Bytes of a group's effects up to which handing it to another thread would cost more than writing it (measured on two
/// cores: fifty clients that send one command of 100 bytes at a time are served up to a fifth faster without).
const WRITTEN_AT_ONCE_BYTES_MAX: usize = 16 << 10;

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

/// Takes each written group, in order, under the writer lock: must not block.
pub trait CommitSink: Send + Sync {
    /// A group was written to both logs and published.
    fn committed(&self, group: Group);
}

/// What a node's parts share about its state.
pub struct Committer {
    /// Taken before `writer` where both are.
    pub(super) logs: Mutex<Logs>,
    pub(super) writer: Mutex<Writer>,
    disk: Arc<Disk>,
    /// Whether writes are taken.
    pub gate: Arc<Gate>,
    /// How far commits have got.
    pub watermarks: Arc<Watermarks>,
    /// What makes them durable.
    pub syncer: Arc<Syncer>,
    /// When commits were made.
    pub ages: Ages,
    /// What the commit clock shows.
    pub clock: ClockFace,
    /// Which groups were written.
    pub groups: Groups,
    pub(super) queue: Arc<LogQueue>,
    pub(super) log_thread: LogThread,
    /// Bytes that the op-log takes without a new segment.
    pub(super) log_room: AtomicUsize,
    positions: Mutex<PositionIndex>,
    sink: OnceLock<Arc<dyn CommitSink>>,
    /// Keys in the memory engines, for reads that do not take the lock.
    memory_keys: AtomicUsize,
    /// Bytes the memory engines hold.
    memory_bytes: AtomicUsize,
    /// Position of the last commit that was published, for threads that do not hold the logs' lock.
    published: Mutex<Position>,
}

/// Size of the memory engines after a commit.
#[derive(Clone, Copy)]
pub(super) struct MemorySize {
    keys: usize,
    bytes: usize,
}

impl MemorySize {
    pub fn of(memory: &Memory) -> Self {
        Self { keys: memory.len(), bytes: memory.memory_bytes() }
    }
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
        let Start { disk, oplog, memory, position, known } = start;
        let watermarks = Arc::new(Watermarks::starting_at(position.csn));
        let wal_seq = disk.wal_seq();
        if wal_seq == WalSeq(0) && disk.sst_bytes() == 0 {
            disk.rows().slots().begin_empty();
        }
        let mut positions = PositionIndex::default();
        known.iter().for_each(|&position| positions.note(position));
        positions.note(LogPosition { csn: position.csn, wal_seq });
        let MemorySize { keys, bytes } = MemorySize::of(&memory);
        let writer = Writer::new(memory, position);
        let ages = Ages::default();
        ages.note_past(position.csn, position.time, CommitTime(now_micros()));
        Self {
            syncer: syncer(&oplog, &watermarks),
            log_room: AtomicUsize::new(oplog.room()),
            logs: Mutex::new(Logs { oplog, position, wal_seq }),
            clock: writer.clock.face(),
            writer: Mutex::new(writer),
            disk,
            gate,
            watermarks,
            ages,
            groups: Groups::default(),
            queue: Arc::default(),
            log_thread: LogThread::default(),
            positions: Mutex::new(positions),
            sink: OnceLock::new(),
            memory_keys: AtomicUsize::new(keys),
            memory_bytes: AtomicUsize::new(bytes),
            published: Mutex::new(position),
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

    /// Returns the time of the last commit that was published, or 0 before the first. Waits for no writer.
    #[must_use]
    pub fn committed_time(&self) -> CommitTime {
        self.position().time
    }

    /// Takes both locks with no group open and none on its way: those that are, are written first.
    pub fn lock_logs(&self) -> LogsGuard<'_> {
        let mut logs = self.logs.lock();
        self.write_queued(&mut logs);
        let guard = self.lock_writer();
        // Under both locks nobody can hand over a group any more.
        self.write_queued(&mut logs);
        let mut turn = LogsGuard::new(guard, logs);
        // If it cannot be written, those who wait for its replies learn it, and the gate is closed.
        let _ = turn.write();
        turn
    }

    /// Takes the writer lock to add to the open group, if there is one.
    pub fn lock_writer(&self) -> WriterGuard<'_> {
        WriterGuard::new(self)
    }

    /// Writes the groups that are open or on their way.
    pub fn write_open_group(&self) {
        drop(self.lock_logs());
    }

    /// Sees to it that the open group is written: a small one at once, a larger one by the thread that writes the logs,
    /// now or when it has written the one before.
    pub fn write_soon(&self) {
        let mut guard = self.lock_writer();
        guard.writer.forget_settled(&self.groups);
        let is_first = guard.writer.groups_on_their_way(&self.groups) == 0;
        let is_small = is_first && guard.writer.effects.bytes() <= WRITTEN_AT_ONCE_BYTES_MAX;
        let is_handed_over = !is_small && guard.hand_over();
        let is_on_its_way = guard.writer.groups_on_their_way(&self.groups) > 0;
        let open = guard.leave_open();
        // Whoever learns that the group before was settled calls again.
        if open.is_some() && !is_handed_over && !is_on_its_way {
            self.write_open_group();
        }
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

    /// Returns the position of the last commit that was published. Waits for no writer.
    #[must_use]
    pub fn position(&self) -> Position {
        *self.published.lock()
    }

    /// Tells threads that do not hold the logs' lock that later commits belong to `epoch`.
    pub(super) fn publish_epoch(&self, epoch: Epoch) {
        self.published.lock().epoch = epoch;
    }

    /// History hash after a commit; none if the logs hold neither it nor their own end is there. May read a part of the
    /// logs.
    pub fn history_hash(&self, csn: Csn) -> Result<Option<HistoryHash>> {
        let position = self.position();
        if csn == Csn::ZERO || csn == position.csn {
            return Ok(Some(if csn == Csn::ZERO { HistoryHash::ZERO } else { position.hash }));
        }
        self.first_after(csn.prev()).map(|commit| commit.map(|commit| commit.hash))
    }

    /// The commit that follows `after`, from the logs; none if they do not hold it.
    pub fn first_after(&self, after: Csn) -> Result<Option<CommitRecord>> {
        let from = LogPosition { csn: after, ..self.log_position(after)? };
        let (reader, end) = self.log_reader();
        if after >= end.csn {
            return Ok(None);
        }
        let next = reader
            .commits(from, LogPosition { csn: after.next(), ..end })
            .and_then(|mut found| found.next().transpose());
        match next {
            Err(Error::Gap { .. }) => Ok(None),
            found => found,
        }
    }

    /// A reader of both logs, and the position up to which they can be read now.
    pub fn log_reader(&self) -> (LogReader, LogPosition) {
        let logs = self.logs.lock();
        let until = LogPosition { csn: logs.position.csn, wal_seq: logs.wal_seq };
        (LogReader::new(Arc::clone(&self.disk), logs.oplog.reader()), until)
    }

    /// Removes op-log segments, WAL files and positions that hold nothing above `keep`.
    pub fn purge_logs(&self, keep: LogPosition) -> Result<u64> {
        self.positions.lock().purge_until(keep.csn);
        let freed = self.logs.lock().oplog.purge_until(keep.csn)?;
        Ok(freed + crate::log::wal::purge(self.disk.wal_dir(), keep.wal_seq)?)
    }

    /// Bytes of both logs on disk.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.logs.lock().oplog.bytes() + crate::log::wal::bytes(self.disk.wal_dir())
    }

    /// The op-log's next segment, if it is time to prepare it.
    #[must_use]
    pub fn wanted_segment(&self) -> Option<SpareSegment> {
        self.logs.lock().oplog.wants_spare()
    }

    /// Takes over the durable watermark, for the op-log's next segment.
    pub fn note_durable(&self) {
        self.logs.lock().oplog.note_durable(self.watermarks.durable.get());
    }

    /// An error once nothing may be logged any more.
    pub(super) fn require_sound(&self) -> Result<()> {
        self.gate.reason(RefusalReason::Broken).map_or(Ok(()), |reason| Err(Error::Refused { reason }))
    }

    /// Stops taking writes until a restart. The first reason is the one to tell.
    pub(super) fn fail_stop(&self, error: &Error) {
        if self.gate.stands(RefusalReason::Broken) {
            return;
        }
        tracing::error!(%error, "a log write failed: writes are refused until a restart");
        let space = if error.is_want_of_space() { " once there is space again" } else { "" };
        self.gate.close(
            RefusalReason::Broken,
            format!(
                "writes are refused until a restart, because a log could not be written: {error}. Restart walferry{space}; \
                 nothing that was acknowledged is lost"
            ),
        );
    }

    pub(super) fn note_room(&self, logs: &Logs) {
        self.log_room.store(logs.oplog.room(), Ordering::Release);
    }

    /// Writes the oldest group that was handed over, if there is one.
    pub(super) fn write_queued_group(&self) {
        let mut logs = self.logs.lock();
        if let Some(sealed) = self.queue.pop() {
            // Whoever waits for it learns how it went.
            let _ = self.write_sealed(&mut logs, sealed);
        }
        drop(logs);
        // By another thread: this one has the next group to write meanwhile.
        self.syncer.hand_over();
    }

    /// Writes all groups that were handed over.
    pub(super) fn write_queued(&self, logs: &mut Logs) {
        while let Some(sealed) = self.queue.pop() {
            let _ = self.write_sealed(logs, sealed);
        }
    }

    /// Writes a group's commits to both logs and publishes them; returns the last csn.
    pub(super) fn write_sealed(&self, logs: &mut Logs, mut sealed: SealedGroup) -> Result<Csn> {
        let (number, memory) = (sealed.number, sealed.memory);
        let superseded = std::mem::take(&mut sealed.superseded);
        let written = self.require_sound().and_then(|()| {
            let began = sealed.began;
            let commits = sealed.records(logs.position);
            self.ages.note(commits[0].csn, began);
            self.log_and_publish(logs, commits, &superseded, Rows::Store, memory)
        });
        match &written {
            Ok(_) => self.groups.written(number),
            Err(error) => {
                // What its clients are to do about it.
                let reason = self.gate.reason(RefusalReason::Broken).unwrap_or_else(|| error.to_string());
                self.groups.failed(number, &Error::Refused { reason });
            }
        }
        written
    }

    pub(super) fn log_and_publish(
        &self,
        logs: &mut Logs,
        commits: Arc<[CommitRecord]>,
        superseded: &[Range<usize>],
        rows: Rows,
        memory: MemorySize,
    ) -> Result<Csn> {
        // Raised before the disk engines change and lowered after: a reader that misses a key on disk while it moves
        // between the engines must know that it may be in memory.
        self.memory_keys.fetch_max(memory.keys, Ordering::AcqRel);
        let wal_before = logs.wal_seq;
        let logged = logs.write(&self.disk, &commits, superseded, rows).inspect_err(|error| self.fail_stop(error))?;
        self.note_room(logs);
        let (position, wal_after) = (logs.position, logs.wal_seq);
        self.memory_keys.store(memory.keys, Ordering::Release);
        self.memory_bytes.store(memory.bytes, Ordering::Relaxed);
        self.positions.lock().note(LogPosition { csn: position.csn, wal_seq: wal_after });
        if let Some(sink) = self.sink.get() {
            sink.committed(Group { commits, wal_before, wal_after });
        }
        *self.published.lock() = position;
        // Whoever this wakes finds everything in its place.
        self.watermarks.committed.raise(position.csn);
        let oplog = logs.oplog.active_file().filter(|_| logged.oplog_bytes > 0);
        self.syncer.written(position, oplog, logged.oplog_bytes, logged.wal);
        Ok(position.csn)
    }
}

#[cfg(test)]
#[path = "fault_tests.rs"]
mod fault_tests;
#[cfg(test)]
#[path = "committer_tests.rs"]
pub(super) mod tests;
