//! What a node does beside serving, on one thread: deletes expired keys, prepares op-log segments, writes memory images
//! and asks for bases when they are due.

use super::node::Node;
use crate::command::host::Host;
use crate::engine::expiry;
use crate::engine::keyspace::AccessError;
use crate::error::Result;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between two looks whether the op-log needs a segment.
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

/// Starts the thread; it ends when the node stops.
pub fn start(node: &Arc<Node>) -> JoinHandle<()> {
    let node = Arc::clone(node);
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        let _entered = runtime.enter();
        Chores { node, index_from_ms: 0, rounds: 0, started: Instant::now() }.run();
    };
    std::thread::Builder::new()
        .name("walferry-chores".into())
        .spawn(run)
        .expect("threads can be started while the process comes up")
}

struct Chores {
    node: Arc<Node>,
    /// The expiry index below this was dealt with.
    index_from_ms: u64,
    rounds: u64,
    started: Instant,
}

impl Chores {
    fn run(&mut self) {
        let stopping = self.node.stopping();
        while !*stopping.borrow() {
            let prepared = (0..LOOKS_PER_ROUND).try_for_each(|_| {
                std::thread::sleep(LOOK);
                self.prepare_segment()
            });
            self.rounds += 1;
            if let Err(error) = prepared.and_then(|()| self.round()) {
                tracing::warn!(%error, "a chore failed; it is tried again");
            }
        }
    }

    /// Makes the op-log's next segment, so that the writer need not.
    fn prepare_segment(&self) -> Result<()> {
        let mut turn = self.node.committer.join();
        let spare = turn.writer().oplog().wants_spare();
        // Who left the group open writes it.
        let _ = turn.leave_open();
        spare.map_or(Ok(()), |spare| spare.prepare())
    }

    fn round(&mut self) -> Result<()> {
        let takes_writes = self.node.committer.gate.refusal().is_none();
        if takes_writes {
            self.expire()?;
        }
        self.node.refresh_key_count()?;
        if self.rounds.is_multiple_of(LOG_LOOK_ROUNDS) {
            self.look_at_logs();
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
                turn.reserve(0)?;
                unlocked(expiry::expire(&mut turn.keyspace(now_ms), key))?;
                turn.commit();
            }
            turn.write()?;
        }
        Ok(())
    }

    fn look_at_logs(&self) {
        let node = &self.node;
        let durable = node.committer.watermarks.durable.get();
        {
            let mut turn = node.committer.turn();
            turn.writer().oplog().note_durable(durable);
            turn.writer().watches.sweep();
        }
        let image = node.snapshots.newest_image().position.csn;
        let has_new = node.committer.watermarks.committed.get() > image;
        let limit = node.config().image_log_bytes.0;
        if has_new && !node.snapshots.is_busy() && node.committer.log_bytes() >= limit * 2 {
            let node = Arc::clone(node);
            std::thread::spawn(move || node.snapshots.write_image(&node));
        }
        node.snapshots.look_at_bases(node, self.started);
    }
}

fn unlocked<T>(access: std::result::Result<T, AccessError>) -> Result<T> {
    access.map_err(|error| match error {
        AccessError::Failed(error) => error,
        AccessError::NeedsLock => unreachable!("a turn holds the lock"),
    })
}
