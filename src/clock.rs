//! The wall clock and the commit clock made from it.

use crate::csn::CommitTime;
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since the Unix epoch by the system's clock; 0 if that clock stands before 1970.
#[must_use]
pub fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// Milliseconds since the Unix epoch by the system's clock.
#[must_use]
pub fn now_millis() -> u64 {
    now_micros() / 1000
}

/// Gives commit times: the wall clock, held still while it runs backwards.
#[derive(Debug, Default)]
pub struct CommitClock {
    /// The last time given.
    last: CommitTime,
}

impl CommitClock {
    /// Continues after a commit made at `last`.
    #[must_use]
    pub fn starting_at(last: CommitTime) -> Self {
        Self { last }
    }

    /// The time of the next commit, made at `now_us` by the wall clock: never below the one before.
    pub fn tick(&mut self, now_us: u64) -> CommitTime {
        self.last = self.last.max(CommitTime(now_us));
        self.last
    }

    /// Takes over the time of a commit made elsewhere.
    pub fn observe(&mut self, time: CommitTime) {
        self.last = self.last.max(time);
    }
}
