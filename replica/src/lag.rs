//! How far a replica is behind its primary, as far as the replica can know.
//!
//! A heartbeat states the primary's last commit, and a time by the clock of its commit times: every later commit was
//! made after that time. Guarantees: the lag is below the truth only by the time that the newest heartbeat was under
//! way. The lag is zero only if every commit is applied that a fresh heartbeat mentioned. While no heartbeat arrives,
//! the lag grows.

use std::collections::VecDeque;
use std::time::Duration;
use walferry::clock::Moment;
use walferry::commit::ages::{SAMPLES_MAX, thin};
use walferry::csn::{CommitTime, Csn};

/// Largest age of a heartbeat that describes the current state. A primary sends ten heartbeats per second.
const FRESH: Duration = Duration::from_secs(1);

/// The statement of a heartbeat: no commit above `committed` was made before `time`.
#[derive(Clone, Copy, Debug)]
struct Statement {
    committed: Csn,
    time: CommitTime,
}

/// Measures how far a replica is behind, from the primary's heartbeats.
#[derive(Debug)]
pub(crate) struct Lag {
    /// The statements of the current connection's heartbeats, in csn order.
    statements: VecDeque<Statement>,
    /// Whether the next heartbeat is the first of a connection.
    is_new_connection: bool,
    /// When the newest heartbeat arrived; `None` before the first.
    heard: Option<Moment>,
    /// The last moment at which no commit was missing; before the first heartbeat, the moment at which the link began.
    caught_up: Moment,
}

impl Lag {
    /// Creates the lag of a link that begins at this moment.
    pub(crate) fn new() -> Self {
        Self { statements: VecDeque::new(), is_new_connection: true, heard: None, caught_up: Moment::now() }
    }

    /// Begins a connection. Earlier heartbeats count until the first heartbeat of this connection.
    pub(crate) fn begin_connection(&mut self) {
        self.is_new_connection = true;
    }

    /// Takes a heartbeat that arrived at `now`; `applied` is the last commit applied then.
    pub(crate) fn take_heartbeat(&mut self, committed: Csn, time: CommitTime, applied: Csn, now: Moment) {
        if std::mem::take(&mut self.is_new_connection) {
            self.statements.clear();
        }
        self.heard = Some(now);
        if applied >= committed {
            self.caught_up = now;
        }
        match self.statements.back_mut() {
            Some(last) if last.committed >= committed => last.time = time.max(last.time),
            _ => self.statements.push_back(Statement { committed, time }),
        }
        if self.statements.len() > SAMPLES_MAX {
            thin(&mut self.statements, |statement| statement.time.0 as i64);
        }
        // Of the heartbeats whose commits are all applied only the last one is needed.
        while self.statements.get(1).is_some_and(|second| second.committed <= applied) {
            self.statements.pop_front();
        }
    }

    /// Returns when the newest heartbeat arrived; `None` before the first.
    pub(crate) fn heard(&self) -> Option<Moment> {
        self.heard
    }

    /// Returns the age of the oldest commit that may be missing here. `applied` is the last applied commit with its
    /// time; `wall` is the system's time.
    pub(crate) fn at(&self, now: Moment, applied: (Csn, CommitTime), is_connected: bool, wall: CommitTime) -> Duration {
        let micros = |later: CommitTime, earlier: CommitTime| Duration::from_micros(later.0.saturating_sub(earlier.0));
        let (Some(heard), Some(newest)) = (self.heard, self.statements.back()) else {
            // No commit is missing that was made before the last applied commit.
            let since_last = if applied.0 > Csn::ZERO { micros(wall, applied.1) } else { Duration::ZERO };
            return now.since(self.caught_up).max(since_last);
        };
        let silent = now.since(heard);
        if applied.0 >= newest.committed {
            return if is_connected && silent <= FRESH { Duration::ZERO } else { silent };
        }
        let known =
            self.statements.iter().rfind(|statement| statement.committed <= applied.0).map(|statement| statement.time);
        match known.max(Some(applied.1)) {
            Some(since) if since <= newest.time => micros(newest.time, since) + silent,
            // The primary's commits continue from an earlier time, under a new epoch.
            _ => now.since(self.caught_up),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_790_000_000_000_000;

    fn time(seconds: u64) -> CommitTime {
        CommitTime(START + seconds * 1_000_000)
    }

    /// Makes moments that are a number of seconds after one origin.
    struct Clock(Moment);

    impl Clock {
        fn at(&self, seconds: u64) -> Moment {
            self.0.before(Duration::from_secs(100_000 - seconds))
        }
    }

    fn clock() -> Clock {
        Clock(Moment::now())
    }

    #[test]
    fn an_idle_link_lags_nothing_and_a_silent_one_more_and_more() {
        let (mut lag, clock) = (Lag::new(), clock());
        lag.begin_connection();
        lag.take_heartbeat(Csn(5), time(100), Csn(5), clock.at(100));
        let applied = (Csn(5), time(1));
        assert_eq!(lag.at(clock.at(101), applied, true, time(0)), Duration::ZERO);
        assert_eq!(lag.at(clock.at(160), applied, true, time(0)).as_secs(), 60);
        assert_eq!(lag.at(clock.at(101), applied, false, time(0)).as_secs(), 1);
    }

    #[test]
    fn the_oldest_missing_commit_counts_and_not_the_pause_before_it() {
        let (mut lag, clock) = (Lag::new(), clock());
        for seconds in 0..3600 {
            lag.take_heartbeat(Csn(5), time(seconds), Csn(5), clock.at(seconds));
        }
        // From here on, one commit per second is made and not applied.
        for seconds in 3600..3700 {
            lag.take_heartbeat(Csn(6 + seconds - 3600), time(seconds), Csn(5), clock.at(seconds));
        }
        let behind = |csn, made| lag.at(clock.at(3699), (Csn(csn), time(made)), true, time(0)).as_secs();
        assert_eq!([behind(5, 7), behind(6, 3600), behind(104, 3698), behind(105, 3699)], [100, 99, 1, 0]);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_rounded_up() {
        let (mut lag, clock) = (Lag::new(), clock());
        for seconds in 0..50_000 {
            lag.take_heartbeat(Csn(6 + seconds), time(seconds), Csn(5), clock.at(seconds));
        }
        assert!(lag.statements.len() <= SAMPLES_MAX);
        for csn in (6..50_000).step_by(501) {
            let told = lag.at(clock.at(49_999), (Csn(csn), time(0)), true, time(0)).as_secs();
            let truth = 49_999 - (csn - 6) - 1;
            assert!(told >= truth && told <= truth + truth / 32 + 2, "csn {csn}: {told} of {truth}");
        }
    }

    #[test]
    fn before_the_first_heartbeat_and_after_a_new_epoch_the_lag_is_bounded_by_what_is_known() {
        let (mut lag, clock) = (Lag::new(), clock());
        let applied = (Csn(5), time(1000));
        assert_eq!(lag.at(Moment::now(), applied, false, time(1030)).as_secs(), 30);
        lag.caught_up = clock.at(500);
        lag.take_heartbeat(Csn(9), time(0), Csn(5), clock.at(600));
        assert_eq!(lag.at(clock.at(700), applied, true, time(0)).as_secs(), 200, "since it had caught up");
    }
}
