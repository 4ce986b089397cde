//! The background work of a node. One thread deletes expired keys, prepares op-log segments, writes memory images and
//! checks the wall clock. Another thread, which must never wait for that work, checks the free disk space. A third one
//! moves keys between memory and disk.

use super::clock::ClockWatch;
use super::core::Core;
use super::key_count::KeyCounter;
use super::reclaiming::Reclaiming;
use super::snapshots::Snapshots;
use crate::commit::gate::RefusalReason;
use crate::commit::mover::Mover;
use crate::commit::sweep::Sweeper;
use crate::engine::tracker;
use crate::error::Result;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Pause between two checks for expired keys and for the next op-log segment, and between two checks of the free disk
/// space.
const LOOK: Duration = Duration::from_millis(20);
/// Number of these checks in one round.
const LOOKS_PER_ROUND: u32 = 5;
/// Number of rounds between two checks of the logs, the wall clock and the deletions in RocksDB.
const LOG_LOOK_ROUNDS: u64 = 10;
/// Minimum pause between two compactions that drop deletions, as a multiple of the duration of the first.
const COMPACTION_PAUSE_FACTOR: u32 = 4;

/// Starts the threads, which end when the node stops.
pub(super) fn start(
    core: &Arc<Core>,
    snapshots: &Arc<Snapshots>,
    key_counter: &Arc<KeyCounter>,
) -> [JoinHandle<()>; 3] {
    // The first check runs before the first client is served.
    look_for_room(core);
    let (core, room, moving) = (Arc::clone(core), Arc::clone(core), Arc::clone(core));
    let (snapshots, key_counter) = (Arc::clone(snapshots), Arc::clone(key_counter));
    let do_chores = move || {
        let mut chores = Chores {
            sweeper: Sweeper::new(Arc::clone(&core.committer)),
            core,
            snapshots,
            key_counter,
            rounds: 0,
            compaction: None,
            compacted: None,
            last_error: String::new(),
            reclaiming: Reclaiming::default(),
            clock: ClockWatch::default(),
        };
        chores.run();
    };
    let look = move || {
        let stopping = room.stopping();
        while !*stopping.borrow() {
            std::thread::sleep(LOOK);
            look_for_room(&room);
        }
    };
    let move_keys = move || {
        let mut moves = Moves::new(moving);
        moves.run();
    };
    [spawn("walferry-chores", do_chores), spawn("walferry-room", look), spawn("walferry-moves", move_keys)]
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.expect("threads can be started while the process comes up")
}

fn look_for_room(core: &Core) {
    core.committer.look_for_room(core.dir.root(), core.config().min_free_bytes.0);
}

/// The moves of keys between memory and disk.
struct Moves {
    core: Arc<Core>,
    mover: Mover,
    /// Start of the present period of the tracker.
    period: Instant,
    last_error: String,
}

impl Moves {
    fn new(core: Arc<Core>) -> Self {
        let mover = Mover::new(Arc::clone(&core.committer));
        Self { core, mover, period: Instant::now(), last_error: String::new() }
    }

    fn run(&mut self) {
        let stopping = self.core.stopping();
        while !*stopping.borrow() {
            std::thread::sleep(LOOK);
            let committer = &self.core.committer;
            if self.period.elapsed() >= tracker::PERIOD {
                self.period = Instant::now();
                committer.memory().tracker().begin_period();
            }
            if committer.gate.refusal_to_free().is_some() {
                continue;
            }
            let moved = self.mover.look(crate::clock::now_millis(), self.core.config().move_bandwidth.0);
            note(&mut self.last_error, moved);
        }
    }
}

/// Logs an error of a periodic task, unless it is the same as the last one.
fn note(last: &mut String, done: Result<()>) {
    let error = done.err().map_or_else(String::new, |error| error.to_string());
    if !error.is_empty() && error != *last {
        tracing::warn!(error, "a periodic task failed; it is retried");
    }
    *last = error;
}

struct Chores {
    core: Arc<Core>,
    snapshots: Arc<Snapshots>,
    key_counter: Arc<KeyCounter>,
    sweeper: Sweeper,
    rounds: u64,
    /// A running compaction that drops deletions; returns its end and its duration.
    compaction: Option<JoinHandle<(Instant, Duration)>>,
    /// End and duration of the last finished compaction.
    compacted: Option<(Instant, Duration)>,
    /// The last error, so that the same error is logged once; empty if no chore fails.
    last_error: String,
    reclaiming: Reclaiming,
    clock: ClockWatch,
}

impl Chores {
    fn run(&mut self) {
        let stopping = self.core.stopping();
        while !*stopping.borrow() {
            let mut done = Ok(());
            for _ in 0..LOOKS_PER_ROUND {
                std::thread::sleep(LOOK);
                let (expired, prepared) = (self.expire(), self.prepare_segment());
                done = done.and(expired).and(prepared);
            }
            self.rounds += 1;
            let done = self.round().and(done);
            note(&mut self.last_error, done);
        }
    }

    /// Prepares the op-log's next segment, so that the writer need not create it.
    fn prepare_segment(&self) -> Result<()> {
        if self.core.committer.gate.stands(RefusalReason::DiskFull) {
            return Ok(());
        }
        self.core.committer.wanted_segment().map_or(Ok(()), |spare| spare.prepare())
    }

    fn round(&mut self) -> Result<()> {
        if self.key_counter.is_due() {
            let key_counter = Arc::clone(&self.key_counter);
            std::thread::spawn(move || key_counter.count());
        }
        if self.rounds.is_multiple_of(LOG_LOOK_ROUNDS) {
            self.look_at_logs();
            self.clock.look(&self.core);
            self.look_at_deletions()?;
        }
        Ok(())
    }

    /// Starts to drop deletions from column families that hold too many, unless the disk is full or the node is broken.
    fn look_at_deletions(&mut self) -> Result<()> {
        let may_compact = self.compaction.as_ref().is_none_or(JoinHandle::is_finished)
            && self.compacted.is_none_or(|(ended, took)| ended.elapsed() > took * COMPACTION_PAUSE_FACTOR);
        let committer = &self.core.committer;
        if !may_compact
            || committer.gate.stands(RefusalReason::DiskFull)
            || committer.gate.stands(RefusalReason::Broken)
        {
            return Ok(());
        }
        if let Some(compaction) = self.compaction.take() {
            self.compacted = compaction.join().ok();
            return Ok(());
        }
        let worn = committer.disk().worn_families()?;
        if !worn.is_empty() {
            let disk = Arc::clone(committer.disk());
            self.compaction = Some(spawn("walferry-compact", move || {
                let started = Instant::now();
                worn.into_iter().for_each(|family| disk.drop_deletions(family));
                (Instant::now(), started.elapsed())
            }));
        }
        Ok(())
    }

    fn expire(&mut self) -> Result<()> {
        let takes_writes = self.core.committer.gate.refusal_to_free().is_none();
        if takes_writes { self.sweeper.look(crate::clock::now_millis()) } else { Ok(()) }
    }

    fn look_at_logs(&mut self) {
        let core = &self.core;
        core.committer.note_durable();
        {
            let mut guard = core.committer.lock_writer();
            guard.writer().watches.sweep();
            // The thread that left the group open writes it.
            let _ = guard.leave_open();
        }
        if self.snapshots.is_image_due() {
            let snapshots = Arc::clone(&self.snapshots);
            std::thread::spawn(move || snapshots.write_image());
        }
        self.reclaiming.look(core, &self.snapshots);
    }
}
