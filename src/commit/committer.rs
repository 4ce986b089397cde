//! The committer: one writer at a time turns effects into commits; one thread at a time writes both logs and publishes
//! the commits.
//!
//! ```text
//! file    step     what happens                                                lock held
//! turn    execute  keys in memory change, effects gather in the open group     writer lock
//! writer  seal     the open group is closed; its effects overlay the database  writer lock
//! logs    write    op-log, then RocksDB, cached rows, watermarks, sink         logs' lock
//! groups  settle   replies leave, the overlay of the group is removed          none
//! ```
//!
//! The write step runs on the log thread, or on a thread that holds a [`LogsGuard`] or calls
//! [`Committer::write_soon`].
//!
//! Guarantees: csns are dense. Groups are written in the order in which they were sealed. A holder of the writer lock
//! sees whole commits, whether they are written or not, and the replies of that holder wait until those commits are
//! written. After a failed log write no commit is logged until a restart. [`super::sync`] says what replies wait for
//! beyond the write.

use super::ages::Ages;
use super::gate::{Gate, RefusalReason};
use super::groups::Groups;
use super::log_queue::{LogQueue, LogThread};
use super::logs::{Logs, Rows};
use super::sync::Syncer;
use super::writer::{SealedGroup, Writer};
use crate::clock::{ClockFace, now_micros};
use crate::config::{Config, RoutingPolicy};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use crate::engine::disk::Disk;
use crate::engine::memory::Memory;
use crate::engine::routing::Routing;
use crate::error::{Error, Result};
use crate::log::index::PositionIndex;
use crate::log::oplog::{OpLog, SpareSegment};
use crate::log::reader::{LogCursor, LogReader};
use crate::position::Position;
use crate::record::CommitRecord;
use crate::watermark::Watermarks;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The keys in memory may exceed their budget by this part of it while moves to disk are under way.
const EXCESS_PART: usize = 8;

/// Commits that were written together, in the form in which the tail and the other stages take them.
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
    /// Returns the csn of the group's first commit.
    #[must_use]
    pub fn first(&self) -> Csn {
        self.commits[0].csn
    }

    /// Returns the csn of the group's last commit.
    #[must_use]
    pub fn last(&self) -> Csn {
        self.commits[self.commits.len() - 1].csn
    }
}

/// Receives each written group, in csn order. The committer calls the sink under the logs' lock: the sink must not
/// block.
pub trait CommitSink: Send + Sync {
    /// Takes a group that was written to both logs. The committed watermark is raised after this call.
    fn committed(&self, group: Group);
}

/// Turns effects into commits, and holds the state of commits that the parts of a node share.
pub struct Committer {
    /// Always locked before `writer` where both are locked.
    pub(super) logs: Mutex<Logs>,
    pub(super) writer: Mutex<Writer>,
    disk: Arc<Disk>,
    /// Tells whether writes are taken, and if not, why.
    pub gate: Arc<Gate>,
    /// The csns up to which commits are committed, durable and archived.
    pub watermarks: Arc<Watermarks>,
    /// Makes commits durable.
    pub syncer: Arc<Syncer>,
    /// Moments at which commits were made, for lags.
    pub ages: Ages,
    /// Shows the commit clock to readers that do not hold the writer lock.
    pub clock: ClockFace,
    /// Tells which groups were written, for the replies that wait.
    pub groups: Groups,
    pub(super) queue: Arc<LogQueue>,
    pub(super) log_thread: LogThread,
    /// Bytes of frames that fit into the op-log's active segment; updated whenever the logs' lock was used to write or
    /// reserve.
    pub(super) log_room: AtomicUsize,
    positions: Mutex<PositionIndex>,
    sink: OnceLock<Arc<dyn CommitSink>>,
    memory: Arc<Memory>,
    /// The policy that chooses homes, as a number.
    routing: AtomicU8,
    /// Bytes that the keys in memory should take at most.
    memory_bytes_max: AtomicUsize,
    /// Position of the last commit that was published, for threads that do not hold the logs' lock.
    published: Mutex<Position>,
}

/// The recovered state from which a committer starts.
pub struct Start {
    /// The open database.
    pub disk: Arc<Disk>,
    /// The op-log after recovery.
    pub oplog: OpLog,
    /// The keys in memory after the commit at `position`.
    pub memory: Memory,
    /// Position of the last commit.
    pub position: Position,
    /// Known positions in the logs, ascending. Reading can begin at the first of them.
    pub known: Vec<LogCursor>,
}

impl Committer {
    /// Makes a committer whose next commit follows `start.position`.
    #[must_use]
    pub fn new(start: Start, gate: Arc<Gate>, syncer: impl FnOnce(&OpLog, &Arc<Watermarks>) -> Arc<Syncer>) -> Self {
        let Start { disk, oplog, memory, position, known } = start;
        let watermarks = Arc::new(Watermarks::starting_at(position.csn));
        let wal_seq = disk.wal_seq();
        if !disk.has_keys() {
            disk.rows().slots().begin_empty();
        }
        let mut positions = PositionIndex::default();
        known.iter().for_each(|&position| positions.note(position));
        positions.note(LogCursor { csn: position.csn, wal_seq });
        let memory = Arc::new(memory);
        let writer = Writer::new(Arc::clone(&memory), position);
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
            memory,
            routing: AtomicU8::new(RoutingPolicy::Type as u8),
            memory_bytes_max: AtomicUsize::new(usize::MAX),
            published: Mutex::new(position),
        }
    }

    /// Sets the sink that receives each group. Panics if a sink was set before.
    pub fn attach(&self, sink: Arc<dyn CommitSink>) {
        assert!(self.sink.set(sink).is_ok(), "a committer has one sink");
    }

    /// Returns the database, for reads that take no lock.
    #[must_use]
    pub fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// Returns the keys in memory. Only the holder of the writer lock changes them.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Takes the settings of routing over.
    pub fn configure_routing(&self, config: &Config) {
        let bytes_max = match config.maxmemory.0 {
            0 => usize::MAX,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        };
        self.memory_bytes_max.store(bytes_max, Ordering::Relaxed);
        self.routing.store(config.routing as u8, Ordering::Relaxed);
    }

    /// Reports whether writes that grow memory must be refused: the keys in memory exceed their budget. Where moves to
    /// disk make room, they may exceed it by a part, so that clients do not wait for each move.
    #[must_use]
    pub fn is_memory_full(&self) -> bool {
        let budget = self.memory_bytes_max();
        let excess = match self.routing().policy {
            RoutingPolicy::Type => 0,
            RoutingPolicy::Access => budget / EXCESS_PART,
        };
        self.memory.memory_bytes() >= budget.saturating_add(excess)
    }

    /// Returns how homes are chosen now.
    #[must_use]
    pub fn routing(&self) -> Routing {
        let policy = RoutingPolicy::of_number(self.routing.load(Ordering::Relaxed));
        Routing { policy, memory_bytes: self.memory.memory_bytes(), memory_bytes_max: self.memory_bytes_max() }
    }

    /// Returns the bytes that the keys in memory should take at most.
    #[must_use]
    pub fn memory_bytes_max(&self) -> usize {
        self.memory_bytes_max.load(Ordering::Relaxed)
    }

    /// Returns the time of the last commit that was published, or 0 before the first. Waits for no writer.
    #[must_use]
    pub fn committed_time(&self) -> CommitTime {
        self.position().time
    }

    /// Returns a position at or below `csn` from which the logs can be read. Below the indexed positions this is the
    /// oldest position of the WAL. Whether the logs really hold what follows `csn` shows only when they are read:
    /// [`Error::Gap`].
    pub fn log_cursor(&self, csn: Csn) -> Result<LogCursor> {
        if let Some(known) = self.positions.lock().at_or_below(csn) {
            return Ok(known);
        }
        let oldest = crate::log::wal::before_oldest(self.disk.wal_dir())?;
        Ok(LogCursor { csn, wal_seq: oldest.unwrap_or_else(|| self.disk.wal_seq()) })
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

    /// Returns the history hash after the commit `csn`, or `None` if `csn` is not the last commit and the logs do not
    /// hold it. May read a part of the logs.
    pub fn history_hash(&self, csn: Csn) -> Result<Option<HistoryHash>> {
        let position = self.position();
        if csn == Csn::ZERO || csn == position.csn {
            return Ok(Some(if csn == Csn::ZERO { HistoryHash::ZERO } else { position.hash }));
        }
        self.first_after(csn.prev()).map(|commit| commit.map(|commit| commit.hash))
    }

    /// Reads the commit that follows `after` from the logs. Returns `None` if the logs do not hold it.
    pub fn first_after(&self, after: Csn) -> Result<Option<CommitRecord>> {
        let from = LogCursor { csn: after, ..self.log_cursor(after)? };
        let (reader, end) = self.log_reader();
        if after >= end.csn {
            return Ok(None);
        }
        let next =
            reader.commits(from, LogCursor { csn: after.next(), ..end }).and_then(|mut found| found.next().transpose());
        match next {
            Err(Error::Gap { .. }) => Ok(None),
            found => found,
        }
    }

    /// Returns a reader of both logs, and the position up to which both can be read at the time of the call.
    pub fn log_reader(&self) -> (LogReader, LogCursor) {
        let logs = self.logs.lock();
        let until = LogCursor { csn: logs.position.csn, wal_seq: logs.wal_seq };
        (LogReader::new(Arc::clone(&self.disk), logs.oplog.reader()), until)
    }

    /// Removes op-log segments, WAL files and indexed positions that hold nothing above `keep`. Returns the bytes
    /// freed.
    pub fn purge_logs(&self, keep: LogCursor) -> Result<u64> {
        self.positions.lock().purge_until(keep.csn);
        let freed = self.logs.lock().oplog.purge_until(keep.csn)?;
        Ok(freed + crate::log::wal::purge(self.disk.wal_dir(), keep.wal_seq)?)
    }

    /// Returns the bytes of both logs on disk.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        self.logs.lock().oplog.bytes() + crate::log::wal::bytes(self.disk.wal_dir())
    }

    /// Returns the op-log's next segment if the segment should be prepared.
    #[must_use]
    pub fn wanted_segment(&self) -> Option<SpareSegment> {
        self.logs.lock().oplog.wants_spare()
    }

    /// Tells the op-log the durable watermark, which the header of the next segment records.
    pub fn note_durable(&self) {
        self.logs.lock().oplog.note_durable(self.watermarks.durable.get());
    }

    /// Returns an error if a log failed, so that nothing may be logged until a restart.
    pub(super) fn require_sound(&self) -> Result<()> {
        self.gate.require_open(RefusalReason::Broken)
    }

    /// Closes the gate until a restart. Later calls have no effect: operators are told the first reason.
    pub(super) fn fail_stop(&self, error: &Error) {
        if self.gate.stands(RefusalReason::Broken) {
            return;
        }
        tracing::error!(%error, "the logs cannot be continued; writes are refused until a restart");
        let space = if error.is_want_of_space() { " after you have freed space" } else { "" };
        self.gate.close(
            RefusalReason::Broken,
            format!(
                "writes are refused until a restart, because the logs cannot be continued: {error}. Restart \
                 walferry{space}. No acknowledged write is lost"
            ),
        );
    }

    pub(super) fn note_room(&self, logs: &Logs) {
        self.log_room.store(logs.oplog.room(), Ordering::Release);
    }

    /// Writes the oldest queued group, if there is one.
    pub(super) fn write_queued_group(&self) {
        let mut logs = self.logs.lock();
        if let Some(sealed) = self.queue.pop() {
            // The clients that wait for this group learn the outcome from `groups`.
            let _ = self.write_sealed(&mut logs, sealed);
        }
        drop(logs);
        // The sync thread does the sync, so that this thread can write the next group.
        self.syncer.hand_over();
    }

    /// Writes all queued groups.
    pub(super) fn write_queued(&self, logs: &mut Logs) {
        while let Some(sealed) = self.queue.pop() {
            let _ = self.write_sealed(logs, sealed);
        }
    }

    /// Writes a group's commits to both logs, publishes them and settles the group. Returns the last csn.
    pub(super) fn write_sealed(&self, logs: &mut Logs, mut sealed: SealedGroup) -> Result<Csn> {
        let number = sealed.number;
        let superseded = std::mem::take(&mut sealed.superseded);
        let written = self.require_sound().and_then(|()| {
            let began = sealed.began;
            let commits = sealed.records(logs.position);
            self.ages.note(commits[0].csn, began);
            self.log_and_publish(logs, commits, &superseded, Rows::Store)
        });
        match &written {
            Ok(_) => self.groups.written(number),
            Err(error) => {
                // The gate's reason tells clients what to do.
                let reason = self.gate.reason(RefusalReason::Broken).unwrap_or_else(|| error.to_string());
                self.groups.failed(number, reason);
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
    ) -> Result<Csn> {
        let wal_before = logs.wal_seq;
        let logged = logs.write(&self.disk, &commits, superseded, rows).inspect_err(|error| self.fail_stop(error))?;
        self.note_room(logs);
        let (position, wal_after) = (logs.position, logs.wal_seq);
        self.positions.lock().note(LogCursor { csn: position.csn, wal_seq: wal_after });
        if let Some(sink) = self.sink.get() {
            sink.committed(Group { commits, wal_before, wal_after });
        }
        *self.published.lock() = position;
        // Before the watermark: a reader that knows of a written commit sees it.
        self.memory.publish_until(position.csn);
        // The watermark is raised last, so that a thread that it wakes finds the sink, the index and the counts up to
        // date.
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
