//! The keys that moved from disk to memory lately, for iterations that have passed the keys in memory already.
//!
//! SCAN visits the keys in memory, then those on disk. A key that moves to disk meanwhile is visited there, if it was
//! not visited before. A key that moves to memory may be missed by both visits; the iteration visits it at its end.
//!
//! Guarantees: the number of remembered keys is bounded. While an iteration goes on, moves to memory wait rather than
//! push out a key that the iteration has not visited, unless its client has been silent for [`SILENCE`].

use super::memory::SmallBytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Number of keys that are remembered.
const KEYS_MAX: usize = 1 << 16;
/// Time without a step after which moves no longer wait for an iteration.
const SILENCE: Duration = Duration::from_secs(10);

/// The remembered keys. Each arrival has a number, from 1 on.
#[derive(Default)]
pub struct Arrivals(Mutex<State>);

#[derive(Default)]
struct State {
    /// Number of the newest arrival.
    newest: u64,
    keys: VecDeque<SmallBytes>,
    /// The iteration that went on last: the number of the last arrival before it began, and when it made a step.
    iteration: Option<(u64, Instant)>,
}

impl State {
    /// Returns the number of the last arrival that is not remembered any more.
    fn forgotten(&self) -> u64 {
        self.newest - self.keys.len() as u64
    }
}

impl Arrivals {
    /// Notes that a key moved to memory.
    pub fn note(&self, key: &[u8]) {
        let mut state = self.0.lock();
        state.newest += 1;
        if state.keys.len() == KEYS_MAX {
            state.keys.pop_front();
        }
        state.keys.push_back(SmallBytes::from(key));
    }

    /// Returns the number of the newest arrival.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.0.lock().newest
    }

    /// Notes that an iteration that began after the arrival `after` made a step.
    pub fn note_step(&self, after: u64) {
        let (mut state, now) = (self.0.lock(), Instant::now());
        let oldest = state.iteration.filter(|(_, at)| now - *at < SILENCE).map_or(after, |(other, _)| other.min(after));
        state.iteration = Some((oldest, now));
    }

    /// Reports whether another key may move to memory without an iteration missing an earlier one.
    #[must_use]
    pub fn have_room(&self) -> bool {
        let state = self.0.lock();
        let is_waited_for = |(after, at): (u64, Instant)| at.elapsed() < SILENCE && after <= state.forgotten();
        state.keys.len() < KEYS_MAX || !state.iteration.is_some_and(is_waited_for)
    }

    /// Returns up to `limit` keys that arrived after the arrival `after`; `None` if some of them are forgotten.
    #[must_use]
    pub fn since(&self, after: u64, limit: usize) -> Option<Vec<SmallBytes>> {
        let state = self.0.lock();
        let passed = after.checked_sub(state.forgotten())?;
        Some(state.keys.iter().skip(passed as usize).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_iteration_finds_what_arrived_since_it_began() {
        let arrivals = Arrivals::default();
        arrivals.note(b"before");
        let began = arrivals.newest();
        arrivals.note(b"a");
        arrivals.note(b"b");
        let names = |after, limit| arrivals.since(after, limit).map(|keys| keys.iter().map(|k| k.to_vec()).collect());
        assert_eq!(names(began, 1), Some(vec![b"a".to_vec()]));
        assert_eq!(names(began + 1, 9), Some(vec![b"b".to_vec()]));
        assert_eq!(names(began + 2, 9), Some(Vec::<Vec<u8>>::new()));
    }

    #[test]
    fn moves_wait_for_an_iteration_that_goes_on() {
        let arrivals = Arrivals::default();
        (0..KEYS_MAX as u64 + 5).for_each(|key| arrivals.note(&key.to_le_bytes()));
        assert!(arrivals.have_room(), "there is no iteration");
        assert!(arrivals.since(4, 1).is_none() && arrivals.since(5, 1).is_some());
        let began = arrivals.newest();
        arrivals.note_step(began);
        (0..KEYS_MAX as u64 - 1).for_each(|key| arrivals.note(&key.to_le_bytes()));
        assert!(arrivals.have_room());
        arrivals.note(b"last");
        assert!(!arrivals.have_room());
        assert_eq!(arrivals.since(began, usize::MAX).unwrap().len(), KEYS_MAX);
        arrivals.note_step(began + KEYS_MAX as u64);
        assert!(!arrivals.have_room(), "an older iteration may go on");
    }
}
