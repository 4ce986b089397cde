//! The clocks: the wall clock, the even clock, which nobody sets, and the commit clock, which is made from both.
//!
//! Commit times follow the even clock. They are drawn towards the wall clock, by a tenth of the time that passes, as
//! long as the two are at most [`STEP_MIN`] apart. A wall clock that was set by more than that is not followed until an
//! operator says that it is right. Guarantee: the commit clock never runs backwards unless it is restarted, which
//! happens for a new epoch only. Expiry does not follow the commit clock but the wall clock alone, as in Redis.

use crate::csn::CommitTime;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Least difference between the wall clock and commit times at which the wall clock counts as set to another time. A
/// smaller difference counts as drift.
pub const STEP_MIN: Duration = Duration::from_secs(60);
/// One part in this many of the time that passes is added or left out to draw commit times towards the wall clock. A
/// clock that was set by 60 s is thus followed within ten minutes, and a duration computed from commit times is wrong
/// by at most a tenth.
const SLEW_DIVISOR: u64 = 10;
/// Longest time between the readings of the two clocks for which they count as read at the same time.
const READING_MAX: Duration = Duration::from_micros(2);
/// Attempts to read both clocks at the same time before a slow reading is accepted.
const READINGS_MAX: usize = 8;

/// Returns the system clock's time in microseconds since the Unix epoch; 0 if that clock shows a time before 1970.
#[must_use]
pub fn now_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

/// Returns the system clock's time in milliseconds since the Unix epoch.
#[must_use]
pub fn now_millis() -> u64 {
    now_micros() / 1000
}

/// Returns the system clock's time at the first call plus the time that has passed evenly since, in microseconds since
/// the Unix epoch. It serves deadlines that other nodes see: setting the system clock must not end them.
#[must_use]
pub fn steady_micros() -> u64 {
    static BEGAN: LazyLock<(u64, Moment)> = LazyLock::new(|| (now_micros(), Moment::now()));
    BEGAN.0 + BEGAN.1.elapsed().as_micros() as u64
}

/// Returns [`steady_micros`] in milliseconds.
#[must_use]
pub fn steady_millis() -> u64 {
    steady_micros() / 1000
}

/// A moment by the even clock: microseconds since the machine's boot. Nobody sets this clock, and it runs on while the
/// machine sleeps. A moment before the boot is negative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Moment(i64);

impl Moment {
    /// Returns the present moment.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Boottime);
        Self(now.tv_sec * 1_000_000 + now.tv_nsec / 1000)
    }

    /// Returns the microseconds since the boot.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Returns the time from `earlier` to this moment; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or_default())
    }

    /// Returns the time from this moment to the present.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Returns the moment that lies `time` before this one.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// Microseconds by which the wall clock was ahead of the even clock at the last careful reading; `i64::MIN` before the
/// first. A pair of readings that agrees with this value was taken without a pause between the two clocks.
static APART_LAST: AtomicI64 = AtomicI64::new(i64::MIN);

/// The wall clock and the even clock, read at the same time. If the two were read at different times, the delay between
/// them would look like a wall clock that was set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading {
    /// The system clock's time in microseconds since the Unix epoch; 0 if that clock shows a time before 1970.
    pub wall_us: u64,
    /// The moment at which the system clock showed that time.
    pub at: Moment,
}

impl Reading {
    /// Reads both clocks.
    #[must_use]
    pub fn now() -> Self {
        let reading = Self { wall_us: now_micros(), at: Moment::now() };
        if reading.apart().abs_diff(APART_LAST.load(Ordering::Relaxed)) <= READING_MAX.as_micros() as u64 {
            return reading;
        }
        let reading = Self::careful();
        APART_LAST.store(reading.apart(), Ordering::Relaxed);
        reading
    }

    /// Reads both clocks until they are read without a pause between them, at most [`READINGS_MAX`] times.
    #[cold]
    fn careful() -> Self {
        let mut before = Moment::now();
        for _ in 0..READINGS_MAX {
            let wall_us = now_micros();
            let at = Moment::now();
            if at.since(before) <= READING_MAX {
                return Self { wall_us, at };
            }
            before = at;
        }
        Self { wall_us: now_micros(), at: before }
    }

    /// Returns the microseconds by which the wall clock is ahead of the even clock.
    fn apart(self) -> i64 {
        i64::try_from(self.wall_us).unwrap_or(i64::MAX).saturating_sub(self.at.0)
    }
}

/// A view of the commit clock for threads that do not hold the lock of the clock.
#[derive(Clone, Debug)]
pub struct ClockFace {
    /// Commit time minus [`Moment`] in microseconds; `i64::MIN` while the commit clock is stopped.
    ahead: Arc<AtomicI64>,
}

impl Default for ClockFace {
    fn default() -> Self {
        Self { ahead: Arc::new(AtomicI64::new(i64::MIN)) }
    }
}

impl ClockFace {
    /// Returns the approximate time of a commit made at present. While the commit clock is stopped, this is the wall
    /// clock's time.
    #[must_use]
    pub fn now(&self) -> CommitTime {
        match self.ahead.load(Ordering::Relaxed) {
            i64::MIN => CommitTime(now_micros()),
            ahead => CommitTime(u64::try_from(Moment::now().0.saturating_add(ahead)).unwrap_or_default()),
        }
    }
}

/// A moment and its commit time. Later commit times are counted from it.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: Moment,
    time: CommitTime,
}

/// Gives commit times. The clock is stopped until its first tick, follow or restart.
#[derive(Debug, Default)]
pub struct CommitClock {
    /// The last commit time given.
    last: CommitTime,
    /// The anchor of the next commit times; `None` while the clock is stopped.
    anchor: Option<Anchor>,
    /// The reading of the last tick.
    ticked: Reading,
    face: ClockFace,
}

impl CommitClock {
    /// Makes a stopped clock that continues after a commit made at `last`.
    #[must_use]
    pub fn continuing(last: CommitTime) -> Self {
        Self { last, ..Self::default() }
    }

    /// Returns a view of this clock.
    #[must_use]
    pub fn face(&self) -> ClockFace {
        self.face.clone()
    }

    /// Returns the moment of the last tick.
    #[must_use]
    pub fn ticked(&self) -> Moment {
        self.ticked.at
    }

    /// Returns the time of the next commit, made at `now`. The time is never below that of the commit before. Commits
    /// that share one reading have the same time.
    pub fn tick(&mut self, now: Reading) -> CommitTime {
        if self.anchor.is_some() && self.ticked == now {
            return self.last;
        }
        let at = now.at;
        let time = self.time_at(now).max(self.last);
        // The anchor is renewed at most once a millisecond, because a tenth of a shorter time would be rounded to
        // nothing.
        if self.anchor.is_none_or(|anchor| at.since(anchor.at) >= Duration::from_millis(1)) {
            self.anchor = Some(Anchor { at, time });
            self.face.ahead.store(i64::try_from(time.0).unwrap_or(i64::MAX).saturating_sub(at.0), Ordering::Relaxed);
        }
        self.ticked = now;
        self.last = time;
        time
    }

    /// Returns the time that the clock shows at `now`. While the clock runs, this can be below the last time given.
    fn time_at(&self, now: Reading) -> CommitTime {
        let Reading { wall_us: now_us, at } = now;
        let Some(anchor) = self.anchor else { return self.last.max(CommitTime(now_us)) };
        let passed = at.since(anchor.at).as_micros() as u64;
        let even = anchor.time.0.saturating_add(passed);
        let slew = now_us.abs_diff(even).min(passed / SLEW_DIVISOR);
        if now_us.abs_diff(even) > STEP_MIN.as_micros() as u64 {
            CommitTime(even)
        } else if now_us > even {
            CommitTime(even + slew)
        } else {
            CommitTime(even - slew)
        }
    }

    /// Takes over the time of a commit that was made elsewhere. The clock stops until the next tick, follow or restart.
    pub fn observe(&mut self, time: CommitTime) {
        self.last = time;
        if self.anchor.take().is_some() {
            self.face.ahead.store(i64::MIN, Ordering::Relaxed);
        }
    }

    /// Continues from the wall clock's time, or from the last time given if that is later.
    pub fn follow(&mut self, now: Reading) {
        self.observe(self.last);
        self.tick(now);
    }

    /// Continues from the wall clock's time even if that is earlier than the last time given. Only the first commit of
    /// an epoch allows this.
    pub fn restart(&mut self, now: Reading) {
        self.observe(CommitTime(now.wall_us));
        self.tick(now);
    }

    /// Returns the microseconds by which the wall clock is ahead of commit times at `now`; negative if the wall clock
    /// is behind.
    #[must_use]
    pub fn lag_us(&self, now: Reading) -> i64 {
        let time = self.time_at(now).0;
        let apart = i64::try_from(now.wall_us.abs_diff(time)).unwrap_or(i64::MAX);
        if now.wall_us >= time { apart } else { -apart }
    }
}

/// Reports whether a difference of so many microseconds means that a clock was set, rather than that it drifts.
#[must_use]
pub fn is_step(apart_us: i64) -> bool {
    u128::from(apart_us.unsigned_abs()) > STEP_MIN.as_micros()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const DAY: u64 = 24 * 3600 * SECOND;
    const START: u64 = 1_790_000_000 * SECOND;

    /// Returns a clock that runs since moment 0, at which the wall clock showed [`START`].
    fn running() -> CommitClock {
        let mut clock = CommitClock::continuing(CommitTime(7));
        assert_eq!(clock.tick(reading(START, 0)), CommitTime(START));
        clock
    }

    fn reading(wall_us: u64, at_us: u64) -> Reading {
        Reading { wall_us, at: Moment(at_us as i64) }
    }

    #[test]
    fn times_follow_clocks_that_agree() {
        let mut clock = running();
        for us in [1, 5, 999, 1000, 2500, SECOND, 3600 * SECOND, DAY] {
            assert_eq!(clock.tick(reading(START + us, us)), CommitTime(START + us));
        }
    }

    #[test]
    fn a_clock_that_drifts_is_followed_slowly_and_in_both_directions() {
        for ahead in [30 * SECOND as i64, -30 * SECOND as i64] {
            let mut clock = running();
            let mut last = CommitTime(START);
            for step in 1..=400_000 {
                let us = step * 1000;
                let time = clock.tick(reading((START + us).checked_add_signed(ahead).unwrap(), us));
                assert!(time >= last, "it ran backwards at {us}");
                let passed = time.0 - last.0;
                assert!((900..=1100).contains(&passed), "{passed} us in 1000");
                last = time;
            }
            assert_eq!(last.0.abs_diff((START + 400 * SECOND).checked_add_signed(ahead).unwrap()), 0);
        }
    }

    #[test]
    fn ticks_close_to_each_other_are_drawn_to_the_wall_clock_too() {
        let mut clock = running();
        for us in (0..=20 * SECOND).step_by(7) {
            clock.tick(reading(START + SECOND + us, us));
        }
        assert_eq!(clock.last.0, START + SECOND + 20 * SECOND / 7 * 7);
    }

    #[test]
    fn a_clock_that_is_set_is_not_followed_until_it_is_said_to_be_right() {
        for jump in [DAY as i64, 10 * 365 * DAY as i64, -(DAY as i64)] {
            let mut clock = running();
            let set = |us: u64| (START + us).checked_add_signed(jump).unwrap();
            for us in [10, SECOND, 7200 * SECOND] {
                assert_eq!(clock.tick(reading(set(us), us)), CommitTime(START + us));
            }
            assert!(is_step(jump) && !is_step(59 * SECOND as i64));
            // The wall clock was wrong only for the ticks above and is right from this tick on; the wrong times leave
            // no trace.
            assert_eq!(clock.tick(reading(START + DAY, DAY)), CommitTime(START + DAY));
        }
    }

    #[test]
    fn it_never_runs_backwards_but_by_a_restart() {
        let mut clock = running();
        clock.tick(reading(START + 500, 500));
        // This reading is older than that of the commit before, because this commit waited for the lock after it read
        // the clocks.
        assert!(clock.tick(reading(START + 400, 400)) >= CommitTime(START + 500));
        clock.follow(reading(START - DAY, 700));
        assert!(clock.last >= CommitTime(START + 500));
        clock.follow(reading(START + DAY, 800));
        assert_eq!(clock.last, CommitTime(START + DAY));
        clock.restart(Reading { wall_us: START, at: Moment::now() });
        assert_eq!(clock.last, CommitTime(START));
        assert!(clock.face().now().0.abs_diff(START) < 60 * SECOND, "it runs");
        clock.observe(CommitTime(START + 9));
        assert_eq!(clock.tick(reading(START, 900)), CommitTime(START + 9));
    }
}
