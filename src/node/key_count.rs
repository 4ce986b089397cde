//! The number of keys on disk. The keys must be counted, because a write does not check whether its key existed.
//!
//! Guarantees: one count runs at a time, and all callers that ask during a count share the next one. A waiting caller
//! receives a count that includes every commit before the call, unless counting takes so long that an older count must
//! do.

use crate::command::all_keys::{count_few, count_on_disk};
use crate::commit::committer::Committer;
use crate::csn::Csn;
use crate::engine::keyspace::Keyspace;
use crate::error::Result;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A count that takes longer than this is reused for a while.
const EXACT_COUNT_TIME_MAX: Duration = Duration::from_secs(5);
/// A reused count may be as old as its own duration multiplied by this factor.
const AGE_FACTOR: u32 = 20;

/// The last count.
#[derive(Clone, Copy)]
struct Counted {
    keys: u64,
    /// The count includes every commit up to this csn.
    at: Csn,
    ended: Instant,
    took: Duration,
}

impl Counted {
    fn is_recent(&self) -> bool {
        self.ended.elapsed() < self.took * AGE_FACTOR
    }
}

/// Counts the keys on disk and remembers the last count.
pub(super) struct KeyCounter {
    committer: Arc<Committer>,
    counting: Mutex<()>,
    last: Mutex<Option<Counted>>,
    /// Whether a newer count was requested since the last count began.
    is_wanted: AtomicBool,
}

impl KeyCounter {
    /// Creates a counter that has counted nothing.
    pub(super) fn new(committer: Arc<Committer>) -> Arc<Self> {
        let (counting, last, is_wanted) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { committer, counting, last, is_wanted })
    }

    /// Counts the keys on disk, or waits for a running count. Blocks, so it must not be called on a thread that serves
    /// clients.
    pub(super) fn count(&self) -> Result<u64> {
        let asked = self.committer.watermarks.committed.get();
        let _one_at_a_time = self.counting.lock();
        if let Some(last) = *self.last.lock()
            && (last.at >= asked || (last.took > EXACT_COUNT_TIME_MAX && last.is_recent()))
        {
            return Ok(last.keys);
        }
        self.count_now()
    }

    fn count_now(&self) -> Result<u64> {
        let (at, started) = (self.committer.watermarks.committed.get(), Instant::now());
        self.is_wanted.store(false, Ordering::Relaxed);
        let keys = count_on_disk(self.committer.disk())?;
        *self.last.lock() = Some(Counted { keys, at, ended: Instant::now(), took: started.elapsed() });
        Ok(keys)
    }

    /// Returns the last count, or RocksDB's estimate before the first count, and requests a newer count.
    pub(super) fn known(&self) -> u64 {
        self.is_wanted.store(true, Ordering::Relaxed);
        self.last.lock().map_or_else(|| self.committer.disk().estimated_keys(), |last| last.keys)
    }

    /// Reports whether a count is to be started: a newer count was requested, commits were made since the last one, and
    /// the last count is old enough in relation to its cost.
    pub(super) fn is_due(&self) -> bool {
        let committed = self.committer.watermarks.committed.get();
        self.is_wanted.load(Ordering::Relaxed)
            && !self.counting.is_locked()
            && self.last.lock().is_none_or(|last| last.at < committed && !last.is_recent())
    }

    /// Returns the number of keys of all engines for INFO. If there are many keys on disk, returns their last count,
    /// because INFO must neither wait nor delay clients.
    pub(super) fn told(&self) -> u64 {
        let committer = &self.committer;
        let now_ms = crate::clock::now_millis();
        let keys = Keyspace::reading(committer.disk(), committer.memory(), now_ms, &committer.watermarks.committed);
        let on_disk = count_few(&keys).ok().flatten().unwrap_or_else(|| self.known());
        on_disk + self.in_memory()
    }

    /// Returns the number of keys in memory.
    pub(super) fn in_memory(&self) -> u64 {
        self.committer.memory().len() as u64
    }
}
