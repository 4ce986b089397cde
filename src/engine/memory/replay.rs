//! Applies a log's commits on several threads: each thread sees all ops and changes the keys in its own parts.
//!
//! Guarantees: the outcome is the same as that of applying the commits one by one. If an op does not fit the state, the
//! first such op is returned as an error, and the keys must be given up.

use super::keys::{Change, Hashed, Memory, PARTS};
use super::ops::{Op, Ops, Scope, missing};
use super::slot::Slot;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use crate::threads::join;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// Number of batches that may wait for a thread.
const BATCHES_QUEUED_MAX: usize = 2;

/// An op that does not fit the state.
#[derive(Debug)]
pub struct Misfit<B> {
    /// The batch that contains the op.
    pub batch: B,
    /// The csn of the op's commit.
    pub csn: Csn,
    /// The error of the op.
    pub error: Error,
}

/// Applies the memory ops of all commits, in order.
pub fn replay<B>(memory: &Memory, batches: impl Iterator<Item = B>) -> Result<(), Box<Misfit<B>>>
where
    B: AsRef<[CommitRecord]> + Clone + Send,
{
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(PARTS);
    replay_on(threads, memory, batches)
}

fn replay_on<B>(threads: usize, memory: &Memory, batches: impl Iterator<Item = B>) -> Result<(), Box<Misfit<B>>>
where
    B: AsRef<[CommitRecord]> + Clone + Send,
{
    let handover = Handover::default();
    thread::scope(|scope| {
        let start = |nth| {
            let (sender, queued) = sync_channel(BATCHES_QUEUED_MAX);
            let worker = Worker { memory, nth, threads, handover: &handover, renames: 0, is_done: false };
            (sender, scope.spawn(move || worker.run(&queued)))
        };
        let (senders, workers): (Vec<_>, Vec<_>) = (0..threads).map(start).unzip();
        for batch in batches {
            let taken = senders.iter().filter(|sender| sender.send(batch.clone()).is_ok()).count();
            if taken < senders.len() {
                break;
            }
        }
        drop(senders);
        let misfits = workers.into_iter().filter_map(join);
        misfits.min_by_key(|misfit| misfit.csn).map_or(Ok(()), |misfit| Err(Box::new(misfit)))
    })
}

/// One thread of a replay, which changes the parts whose numbers leave the remainder `nth` when divided by `threads`.
struct Worker<'m> {
    memory: &'m Memory,
    nth: usize,
    threads: usize,
    handover: &'m Handover,
    /// Number of renames applied so far. As each thread sees all ops, a rename has the same number on all threads.
    renames: u64,
    /// Whether the whole log was applied.
    is_done: bool,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.handover.end(self.renames);
        }
    }
}

/// Why a worker ends before the end of the log.
enum Stop {
    /// An op does not fit the state.
    Misfit(Error),
    /// Another thread ended before it handed a slot over.
    Abandoned,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Misfit(error)
    }
}

impl Worker<'_> {
    /// Applies this worker's share of all batches. Ends early at an op that does not fit, in its own share or in that
    /// of another worker.
    fn run<B: AsRef<[CommitRecord]> + Clone>(mut self, batches: &Receiver<B>) -> Option<Misfit<B>> {
        for batch in batches {
            for commit in batch.as_ref() {
                let of = Change { csn: commit.csn, hidden: None };
                match Ops::new(&commit.memory).try_for_each(|op| self.apply(&op?, of)) {
                    Ok(()) => {}
                    Err(Stop::Misfit(error)) => return Some(Misfit { batch: batch.clone(), csn: commit.csn, error }),
                    Err(Stop::Abandoned) => return None,
                }
            }
        }
        self.is_done = true;
        None
    }

    fn owns(&self, part: usize) -> bool {
        part % self.threads == self.nth
    }

    /// Applies the op to the keys in this thread's parts.
    fn apply(&mut self, op: &Op<'_>, of: Change) -> Result<(), Stop> {
        match op.scope() {
            Scope::Key(key) => {
                let key = Hashed::of(key);
                if self.owns(Memory::part_number(key)) {
                    op.apply_to_key(self.memory.part_of(key), key, of)?;
                }
                Ok(())
            }
            Scope::Rename { from, to } => self.rename(Hashed::of(from), Hashed::of(to), of),
            Scope::All => {
                (0..PARTS).filter(|part| self.owns(*part)).for_each(|part| self.memory.clear_part(part, of));
                Ok(())
            }
        }
    }

    fn rename(&mut self, from: Hashed<'_>, to: Hashed<'_>, of: Change) -> Result<(), Stop> {
        let number = self.renames + 1;
        let has_target = self.owns(Memory::part_number(to));
        if self.owns(Memory::part_number(from)) {
            let slot = self.memory.part_of(from).remove(from, of).ok_or_else(|| missing(from.key()))?;
            if has_target {
                self.memory.part_of(to).insert(to, slot.renamed(to.key()), of);
            } else {
                self.handover.give(number, slot);
            }
        } else if has_target {
            let slot = self.handover.take(number).ok_or(Stop::Abandoned)?;
            self.memory.part_of(to).insert(to, slot.renamed(to.key()), of);
        }
        self.renames = number;
        Ok(())
    }
}

/// Slots on their way from one thread's parts to another's. They are few, because all belong to queued batches.
struct Handover {
    given: Mutex<Given>,
    changed: Condvar,
}

struct Given {
    /// The slots, by number of the rename.
    slots: BTreeMap<u64, Slot>,
    /// Every thread that ended early had applied at least this many renames.
    until: u64,
}

impl Default for Handover {
    fn default() -> Self {
        Self { given: Mutex::new(Given { slots: BTreeMap::new(), until: u64::MAX }), changed: Condvar::new() }
    }
}

impl Handover {
    fn give(&self, rename: u64, slot: Slot) {
        self.given.lock().slots.insert(rename, slot);
        self.changed.notify_all();
    }

    /// Waits for the slot of a rename; `None` if the thread that would give the slot may have ended.
    fn take(&self, rename: u64) -> Option<Slot> {
        let mut given = self.given.lock();
        loop {
            if let Some(slot) = given.slots.remove(&rename) {
                return Some(slot);
            }
            if rename > given.until {
                return None;
            }
            self.changed.wait(&mut given);
        }
    }

    /// Notes that a thread ends early, after `renames` renames.
    fn end(&self, renames: u64) {
        let mut given = self.given.lock();
        given.until = given.until.min(renames);
        self.changed.notify_all();
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
