//! Applies a log's commits on several threads: each thread sees all ops and changes the keys in its own parts.
//!
//! Guarantees: the outcome is the same as that of applying the commits one by one. If an op does not fit the state, the
//! first such op is returned as an error, and the engines must be given up.

use super::dictionary::Dictionary;
use super::entry::{Entry, Value};
use super::op::{Change, ListOps, Op, Scope, ZsetOps, missing};
use super::part::{Hashed, PARTS, Part};
use super::{List, Memory, Zset};
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

/// Applies the list and sorted set ops of all commits, in order.
pub fn replay<B>(memory: &mut Memory, batches: impl Iterator<Item = B>) -> Result<(), Box<Misfit<B>>>
where
    B: AsRef<[CommitRecord]> + Clone + Send,
{
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(PARTS);
    replay_on(threads, memory, batches)
}

fn replay_on<B>(threads: usize, memory: &mut Memory, batches: impl Iterator<Item = B>) -> Result<(), Box<Misfit<B>>>
where
    B: AsRef<[CommitRecord]> + Clone + Send,
{
    let (lists, zsets) = (Handover::default(), Handover::default());
    let shares = Share::all(threads, &mut memory.lists, &lists).zip(Share::all(threads, &mut memory.zsets, &zsets));
    thread::scope(|scope| {
        let start = |(lists, zsets)| {
            let (sender, queued) = sync_channel(BATCHES_QUEUED_MAX);
            (sender, scope.spawn(move || Worker { lists, zsets, is_done: false }.run(&queued)))
        };
        let (senders, workers): (Vec<_>, Vec<_>) = shares.map(start).unzip();
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

/// The parts that one thread changes.
struct Worker<'m> {
    lists: Share<'m, List>,
    zsets: Share<'m, Zset>,
    /// Whether the whole log was applied.
    is_done: bool,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.lists.handover.end(self.lists.renames);
            self.zsets.handover.end(self.zsets.renames);
        }
    }
}

impl Worker<'_> {
    /// Applies this worker's share of all batches. Ends early at an op that does not fit, in its own share or in that
    /// of another worker.
    fn run<B: AsRef<[CommitRecord]> + Clone>(mut self, batches: &Receiver<B>) -> Option<Misfit<B>> {
        for batch in batches {
            for commit in batch.as_ref() {
                let lists = ListOps::new(&commit.lists).try_for_each(|op| self.lists.apply(&op?));
                let applied =
                    lists.and_then(|()| ZsetOps::new(&commit.zsets).try_for_each(|op| self.zsets.apply(&op?)));
                match applied {
                    Ok(()) => {}
                    Err(Stop::Misfit(error)) => return Some(Misfit { batch: batch.clone(), csn: commit.csn, error }),
                    Err(Stop::Abandoned) => return None,
                }
            }
        }
        self.is_done = true;
        None
    }
}

/// Why a worker ends before the end of the log.
enum Stop {
    /// An op does not fit the state.
    Misfit(Error),
    /// Another thread ended before it handed an entry over.
    Abandoned,
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Misfit(error)
    }
}

/// The parts of one engine that one thread changes.
struct Share<'m, V: Value> {
    /// The parts by number; `None`: the part belongs to another thread.
    parts: [Option<&'m mut Part<V>>; PARTS],
    handover: &'m Handover<V>,
    /// Number of renames applied so far. As each thread sees all ops, a rename has the same number on all threads.
    renames: u64,
}

impl<'m, V: Value> Share<'m, V> {
    /// Returns the shares of all threads.
    fn all(threads: usize, keys: &'m mut Dictionary<V>, handover: &'m Handover<V>) -> impl Iterator<Item = Self> {
        let mut parts = keys.parts_mut().each_mut().map(Some);
        (0..threads).map(move |own| Self {
            parts: std::array::from_fn(|part| parts[part].take_if(|_| part % threads == own)),
            handover,
            renames: 0,
        })
    }

    /// Applies the op to the keys in this thread's parts.
    fn apply<'a, C: Change<'a, Value = V>>(&mut self, op: &Op<'a, C>) -> Result<(), Stop> {
        match op.scope() {
            Scope::Key(key) => {
                let key = Hashed::of(key);
                if let Some(part) = &mut self.parts[key.part()] {
                    op.apply_to_key(part, key)?;
                }
                Ok(())
            }
            Scope::Rename { from, to } => self.rename(C::OP, Hashed::of(from), Hashed::of(to)),
            Scope::All => {
                self.parts.iter_mut().flatten().for_each(|part| part.clear());
                Ok(())
            }
        }
    }

    fn rename(&mut self, what: &'static str, from: Hashed<'_>, to: Hashed<'_>) -> Result<(), Stop> {
        let number = self.renames + 1;
        let moved = match &mut self.parts[from.part()] {
            Some(part) => Some(part.remove(from).ok_or_else(|| missing(what, from.key()))?),
            None => None,
        };
        match (moved, &mut self.parts[to.part()]) {
            (Some(entry), Some(part)) => part.insert(to, entry),
            (Some(entry), None) => self.handover.give(number, entry),
            (None, Some(part)) => part.insert(to, self.handover.take(number).ok_or(Stop::Abandoned)?),
            (None, None) => {}
        }
        self.renames = number;
        Ok(())
    }
}

/// Entries on their way from one thread's parts to another's. They are few, because all belong to queued batches.
struct Handover<V> {
    given: Mutex<Given<V>>,
    changed: Condvar,
}

struct Given<V> {
    /// The entries, by number of the rename.
    entries: BTreeMap<u64, Entry<V>>,
    /// Every thread that ended early had applied at least this many renames.
    until: u64,
}

impl<V> Default for Handover<V> {
    fn default() -> Self {
        Self { given: Mutex::new(Given { entries: BTreeMap::new(), until: u64::MAX }), changed: Condvar::new() }
    }
}

impl<V> Handover<V> {
    fn give(&self, rename: u64, entry: Entry<V>) {
        self.given.lock().entries.insert(rename, entry);
        self.changed.notify_all();
    }

    /// Waits for the entry of a rename; `None` if the thread that would give the entry may have ended.
    fn take(&self, rename: u64) -> Option<Entry<V>> {
        let mut given = self.given.lock();
        loop {
            if let Some(entry) = given.entries.remove(&rename) {
                return Some(entry);
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
