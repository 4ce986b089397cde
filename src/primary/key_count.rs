//! The number of keys on disk: counted, because a write does not look whether its key was there.
//!
//! Guarantees: one count runs at a time, and whoever asked while it ran shares the next one. Whoever waits gets a count that
//! has everything committed before, unless counting takes so long that an older one has to do.

use crate::command::all_keys::count_on_disk;
use crate::commit::committer::Committer;
use crate::csn::Csn;
use crate::error::Result;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A count that takes longer is used again for a while.
const EXACT_COUNT_TIME_MAX: Duration = Duration::from_secs(5);
/// It may be as old as this many times what it took.
const AGE_FACTOR: u32 = 20;

/// The last count.
#[derive(Clone, Copy)]
struct Counted {
    keys: u64,
    /// It has all commits up to here.
    at: Csn,
    ended: Instant,
    took: Duration,
}

impl Counted {
    fn is_recent(&self) -> bool {
        self.ended.elapsed() < self.took * AGE_FACTOR
    }
}

/// Counts.
#[derive(Default)]
pub struct KeyCounter {
    counting: Mutex<()>,
    last: Mutex<Option<Counted>>,
    /// Somebody asked for the last count since it was made.
    is_wanted: AtomicBool,
}

impl KeyCounter {
    /// Counts the keys on disk, or waits for a count: not on a thread that serves clients.
    pub fn count(&self, committer: &Committer) -> Result<u64> {
        let asked = committer.watermarks.committed.get();
        let _one_at_a_time = self.counting.lock();
        if let Some(last) = *self.last.lock()
            && (last.at >= asked || (last.took > EXACT_COUNT_TIME_MAX && last.is_recent()))
        {
            return Ok(last.keys);
        }
        self.count_now(committer)
    }

    fn count_now(&self, committer: &Committer) -> Result<u64> {
        let (at, started) = (committer.watermarks.committed.get(), Instant::now());
        self.is_wanted.store(false, Ordering::Relaxed);
        let keys = count_on_disk(committer.disk())?;
        *self.last.lock() = Some(Counted { keys, at, ended: Instant::now(), took: started.elapsed() });
        Ok(keys)
    }

    /// The last count, and asks for a newer one; RocksDB's estimate before the first.
    pub fn known(&self, committer: &Committer) -> u64 {
        self.is_wanted.store(true, Ordering::Relaxed);
        self.last.lock().map_or_else(|| committer.disk().estimated_keys(), |last| last.keys)
    }

    /// Whether a count should be started: somebody asked for a newer one than there is, and the last one is old enough for
    /// what another costs.
    pub fn is_due(&self, committer: &Committer) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
            && !self.counting.is_locked()
            && self.last.lock().is_none_or(|last| last.at < committer.watermarks.committed.get() && !last.is_recent())
    }
}
