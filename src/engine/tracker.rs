//! The access tracker: how often keys were read or written lately, in either home.
//!
//! Counts fade: time is divided into periods, and a count is halved when a period ends. A key in memory has its count
//! in its slot. Keys on disk share a sketch of a fixed size, whose estimates are never too low and seldom too high. So
//! the counts of both homes compare with each other.
//!
//! Guarantees: noting an access takes no lock, except for a disk key that becomes a candidate for a move; the number of
//! candidates is bounded.

use super::hash::hash;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Time after which counts are halved.
pub const PERIOD: Duration = Duration::from_secs(60);
/// Number of accesses of a disk key within about a period from which on the key is a candidate for memory.
const CANDIDATE_ACCESSES: u8 = 3;
/// Largest number of candidates that wait.
const CANDIDATES_MAX: usize = 4096;
/// Bits of a slot's state that hold the count; the period is in the bits above.
const COUNT_BITS: u32 = 8;
const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;

/// Number of counters of hits, among which threads are spread so that they do not share one.
const HIT_COUNTERS: usize = 16;

/// Accesses of keys in memory and on disk by some threads, alone in a line of the CPU's caches.
#[derive(Default)]
#[repr(align(64))]
struct Hits([AtomicU64; 2]);

thread_local! {
    /// The counter of this thread.
    static COUNTER: usize = NEXT_COUNTER.fetch_add(1, Ordering::Relaxed) as usize % HIT_COUNTERS;
}

static NEXT_COUNTER: AtomicU32 = AtomicU32::new(0);

/// Counts accesses of all keys.
#[derive(Default)]
pub struct Tracker {
    /// Number of the present period.
    period: AtomicU32,
    /// Counts of the keys on disk; made at the first access of one.
    sketch: OnceLock<Sketch>,
    candidates: Mutex<VecDeque<Box<[u8]>>>,
    hits: [Hits; HIT_COUNTERS],
    moves: [AtomicU64; 2],
}

impl Tracker {
    /// Notes an access of a key in memory whose slot has this state.
    #[inline]
    pub fn note_in_memory(&self, state: &AtomicU32) {
        self.count_hit(0);
        let before = state.load(Ordering::Relaxed);
        let period = self.period.load(Ordering::Relaxed);
        let after = with_count(period, (faded(before, period) + 1).min(COUNT_MAX));
        if after != before {
            state.store(after, Ordering::Relaxed);
        }
    }

    /// Returns the number of accesses of a key in memory lately.
    #[must_use]
    pub fn count_in_memory(&self, state: &AtomicU32) -> u32 {
        faded(state.load(Ordering::Relaxed), self.period.load(Ordering::Relaxed))
    }

    /// Returns the state of a slot whose key had this many accesses lately.
    #[must_use]
    pub fn state_of(&self, count: u32) -> u32 {
        with_count(self.period.load(Ordering::Relaxed), count.min(COUNT_MAX))
    }

    /// Notes an access of a key on disk. A key that was accessed several times becomes a candidate for memory.
    pub fn note_on_disk(&self, key: &[u8]) {
        self.count_hit(1);
        let count = self.sketch.get_or_init(Sketch::default).note(hash(key));
        // Doubling steps, so that a key that stays on disk is not a candidate at each access.
        if count >= CANDIDATE_ACCESSES && count.is_multiple_of(CANDIDATE_ACCESSES) {
            let mut candidates = self.candidates.lock();
            if candidates.len() < CANDIDATES_MAX {
                candidates.push_back(key.into());
            }
        }
    }

    /// Returns the number of accesses of a key on disk lately.
    #[must_use]
    pub fn count_on_disk(&self, key: &[u8]) -> u32 {
        self.sketch.get().map_or(0, |sketch| sketch.count(hash(key)).into())
    }

    /// Takes the oldest candidate for a move to memory.
    #[must_use]
    pub fn take_candidate(&self) -> Option<Box<[u8]>> {
        self.candidates.lock().pop_front()
    }

    /// Begins the next period: all counts are halved.
    pub fn begin_period(&self) {
        self.period.fetch_add(1, Ordering::Relaxed);
        if let Some(sketch) = self.sketch.get() {
            sketch.halve();
        }
    }

    #[inline]
    fn count_hit(&self, home: usize) {
        COUNTER.with(|counter| self.hits[*counter].0[home].fetch_add(1, Ordering::Relaxed));
    }

    /// Returns how many accesses found their key in memory and on disk.
    #[must_use]
    pub fn hits(&self) -> (u64, u64) {
        let sum = |home: usize| self.hits.iter().map(|hits| hits.0[home].load(Ordering::Relaxed)).sum();
        (sum(0), sum(1))
    }

    /// Counts keys that were moved.
    pub fn note_moves(&self, to_memory: u64, to_disk: u64) {
        self.moves[0].fetch_add(to_memory, Ordering::Relaxed);
        self.moves[1].fetch_add(to_disk, Ordering::Relaxed);
    }

    /// Returns how many keys were moved to memory and to disk.
    #[must_use]
    pub fn moves(&self) -> (u64, u64) {
        (self.moves[0].load(Ordering::Relaxed), self.moves[1].load(Ordering::Relaxed))
    }
}

fn with_count(period: u32, count: u32) -> u32 {
    period << COUNT_BITS | count
}

/// Returns the count in a slot's state, halved for each period that has ended since.
fn faded(state: u32, period: u32) -> u32 {
    let ended = (period << COUNT_BITS).wrapping_sub(state & !COUNT_MAX) >> COUNT_BITS;
    (state & COUNT_MAX) >> ended.min(COUNT_BITS)
}

/// Number of counters in a row of the sketch.
const ROW_COUNTERS: usize = 1 << 20;
/// Number of rows, each with another hash of the same key.
const ROWS: usize = 4;

/// A count-min sketch: each key has a counter in each row, and its count is the least of them.
struct Sketch(Vec<AtomicU8>);

impl Default for Sketch {
    fn default() -> Self {
        Self((0..ROWS * ROW_COUNTERS).map(|_| AtomicU8::new(0)).collect())
    }
}

impl Sketch {
    fn counters(&self, hash: u64) -> [&AtomicU8; ROWS] {
        // An odd step gives each row another place.
        let step = (hash >> 32) | 1;
        std::array::from_fn(|row| {
            let place = hash.wrapping_add(step.wrapping_mul(row as u64)) as usize % ROW_COUNTERS;
            &self.0[row * ROW_COUNTERS + place]
        })
    }

    fn count(&self, hash: u64) -> u8 {
        self.counters(hash).map(|counter| counter.load(Ordering::Relaxed)).into_iter().min().unwrap_or_default()
    }

    /// Counts an access and returns the count.
    fn note(&self, hash: u64) -> u8 {
        let count = self.count(hash);
        let next = count.saturating_add(1);
        for counter in self.counters(hash) {
            // Only the least counters are raised, so that keys that share a counter count less for each other.
            let _ = counter.compare_exchange(count, next, Ordering::Relaxed, Ordering::Relaxed);
        }
        next
    }

    fn halve(&self) {
        for counter in &self.0 {
            counter.store(counter.load(Ordering::Relaxed) / 2, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fade_in_both_homes() {
        let (tracker, state) = (Tracker::default(), AtomicU32::new(0));
        for _ in 0..12 {
            tracker.note_in_memory(&state);
            tracker.note_on_disk(b"key");
        }
        assert_eq!((tracker.count_in_memory(&state), tracker.count_on_disk(b"key")), (12, 12));
        tracker.begin_period();
        assert_eq!((tracker.count_in_memory(&state), tracker.count_on_disk(b"key")), (6, 6));
        tracker.note_in_memory(&state);
        assert_eq!(tracker.count_in_memory(&state), 7);
        (0..40).for_each(|_| tracker.begin_period());
        assert_eq!((tracker.count_in_memory(&state), tracker.count_on_disk(b"key")), (0, 0));
        (0..1000).for_each(|_| tracker.note_in_memory(&state));
        assert_eq!(tracker.count_in_memory(&state), COUNT_MAX);
        assert_eq!(tracker.count_on_disk(b"other"), 0);
        assert_eq!(tracker.hits(), (1013, 12));
    }

    #[test]
    fn a_key_that_is_read_again_and_again_is_a_candidate_and_one_that_is_read_once_is_not() {
        let tracker = Tracker::default();
        for key in 0..100_000u32 {
            tracker.note_on_disk(&key.to_le_bytes());
        }
        assert_eq!(tracker.take_candidate(), None, "a scan makes no candidates");
        (0..4).for_each(|_| tracker.note_on_disk(b"hot"));
        assert_eq!(tracker.take_candidate().as_deref(), Some(&b"hot"[..]));
        assert_eq!(tracker.take_candidate(), None);
    }

    #[test]
    fn candidates_are_bounded() {
        let tracker = Tracker::default();
        for key in 0..2 * CANDIDATES_MAX as u32 {
            (0..3).for_each(|_| tracker.note_on_disk(&key.to_le_bytes()));
        }
        assert_eq!(std::iter::from_fn(|| tracker.take_candidate()).count(), CANDIDATES_MAX);
    }
}
