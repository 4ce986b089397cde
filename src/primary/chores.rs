//! What a node does beside serving. One thread deletes expired keys, prepares op-log segments, writes memory images, asks
//! for bases when they are due and looks whether the clock was set; another, which must never wait for any of that, looks for room on the disk.

use super::clock::ClockWatch;
use super::node::Node;
use super::reclaiming::Reclaiming;
use crate::command::host::Host;
use crate::commit::gate::Obstacle;
use crate::engine::expiry;
use crate::engine::keyspace::AccessError;
use crate::error::Result;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two looks whether the op-log needs a segment, and between two whether there is room on the disk.
const LOOK: Duration = Duration::from_millis(20);
/// Looks of one round.
const LOOKS_PER_ROUND: u32 = 5;
/// Expired keys deleted in one turn of the writer lock.
const EXPIRED_PER_TURN: usize = 64;
/// Turns of one round, at most: the rest waits for the next.
const EXPIRY_TURNS_MAX: usize = 50;
/// How far back the expiry index is looked at again: the clock may have been set back a little.
const INDEX_MARGIN_MS: u64 = 10_000;
/// Rounds between two looks at the size of the logs.
const LOG_LOOK_ROUNDS: u64 = 10;

/// Starts the threads; they end when the node stops.
pub fn start(node: &Arc<Node>) -> [JoinHandle<()>; 2] {
    // Before the first client is served.
    look_for_room(node);
    let runtime = tokio::runtime::Handle::current();
    let (chores, room) = (Arc::clone(node), Arc::clone(node));
    let do_chores = move || {
        let _entered = runtime.enter();
        let mut chores = Chores {
            node: chores,
            index_from_ms: 0,
            rounds: 0,
            started: Instant::now(),
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
    [spawn("walferry-chores", do_chores), spawn("walferry-room", look)]
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(run);
    thread.expect("threads can be started while the process comes up")
}

fn look_for_room(node: &Node) {
    node.committer.look_for_room(node.dir.root(), node.config().min_free_bytes.0);
}

struct Chores {
    node: Arc<Node>,
    /// The expiry index below this was dealt with.
    index_from_ms: u64,
    rounds: u64,
    started: Instant,
    /// What failed last, so that it is told once; empty if nothing fails.
    last_error: String,
    reclaiming: Reclaiming,
    clock: ClockWatch,
}

impl Chores {
    fn run(&mut self) {
        let stopping = self.node.stopping();
        while !*stopping.borrow() {
            let mut done = Ok(());
            for _ in 0..LOOKS_PER_ROUND {
                std::thread::sleep(LOOK);
                done = done.and_then(|()| self.prepare_segment());
            }
            self.rounds += 1;
            let done = self.round().and(done);
            self.note(done);
        }
    }

    fn note(&mut self, done: Result<()>) {
        let error = done.err().map_or_else(String::new, |error| error.to_string());
        if !error.is_empty() && error != self.last_error {
            tracing::warn!(error, "a chore failed; it is tried again");
        }
        self.last_error = error;
    }

    /// Makes the op-log's next segment, so that the writer need not.
    fn prepare_segment(&self) -> Result<()> {
        if self.node.committer.gate.stands(Obstacle::DiskFull) {
            return Ok(());
        }
        self.node.committer.wanted_segment().map_or(Ok(()), |spare| spare.prepare())
    }

    fn round(&mut self) -> Result<()> {
        let takes_writes = self.node.committer.gate.refusal_to_free().is_none();
        if takes_writes {
            self.expire()?;
        }
        self.node.refresh_key_count()?;
        if self.rounds.is_multiple_of(LOG_LOOK_ROUNDS) {
            self.look_at_logs();
            self.clock.look(&self.node);
        }
        Ok(())
    }

    /// Deletes what has expired, each key as a commit of its own.
    fn expire(&mut self) -> Result<()> {
        let now_ms = crate::clock::now_millis();
        for _ in 0..EXPIRY_TURNS_MAX {
            let mut turn = self.node.committer.turn();
            let due = unlocked(expiry::due(&turn.keyspace(now_ms), self.index_from_ms, EXPIRED_PER_TURN))?;
            if due.is_empty() {
                self.index_from_ms = now_ms.saturating_sub(INDEX_MARGIN_MS);
                break;
            }
            for key in &due {
                // Those before it are written in any case.
                turn.reserve(key.key().len())?;
                unlocked(expiry::expire(&mut turn.keyspace(now_ms), key))?;
                turn.commit();
            }
            turn.write()?;
        }
        Ok(())
    }

    fn look_at_logs(&mut self) {
        let node = &self.node;
        node.committer.note_durable();
        {
            let mut joined = node.committer.join();
            joined.writer().watches.sweep();
            // Who left the group open writes it.
            let _ = joined.leave_open();
        }
        if node.snapshots.is_image_due(node) {
            let node = Arc::clone(node);
            std::thread::spawn(move || node.snapshots.write_image(&node));
        }
        node.snapshots.look_at_bases(node, self.started);
        self.reclaiming.look(node);
    }
}

fn unlocked<T>(access: std::result::Result<T, AccessError>) -> Result<T> {
    access.map_err(|error| match error {
        AccessError::Failed(error) => error,
        AccessError::NeedsLock | AccessError::TooLarge => unreachable!("a turn holds the lock and bounds nothing"),
    })
}
