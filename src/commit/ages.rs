//! Tells how long ago commits were made. Lags are computed from these ages.
//!
//! Ages follow a clock that nobody can set. They are kept as samples of commits and the moments at which they were
//! made, few enough for memory however many commits there are. Guarantees: for commits since the oldest sample, an age
//! is never below the true one, and above it by at most [`RESOLUTION`] or a [`FINENESS`]th part. Commits before the
//! oldest sample are only known to be older, and get the age of that sample.

use crate::clock::Moment;
use crate::csn::{CommitTime, Csn};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

/// Shortest time between two samples.
const RESOLUTION: Duration = Duration::from_millis(10);
/// A sample is not needed if its neighbours lie closer together than their age divided by this number.
const FINENESS: i64 = 32;
/// Limit of samples. With [`FINENESS`] some 1,600 samples cover ten years.
pub const SAMPLES_MAX: usize = 4096;

/// States that the commit `csn`, and each commit after it, was made at the moment `made` or later.
#[derive(Clone, Copy, Debug)]
struct Sample {
    csn: Csn,
    made: Moment,
}

/// Samples of the moments at which commits were made.
#[derive(Debug, Default)]
pub struct Ages {
    /// Ascending by csn.
    samples: Mutex<VecDeque<Sample>>,
}

impl Ages {
    /// Notes the moment at which a commit was made. Ignores a commit at or below the last sample, or made less than
    /// `RESOLUTION` after it.
    pub fn note(&self, csn: Csn, made: Moment) {
        let mut samples = self.samples.lock();
        if samples.back().is_some_and(|last| csn <= last.csn || made.since(last.made) < RESOLUTION) {
            return;
        }
        samples.push_back(Sample { csn, made });
        if samples.len() > SAMPLES_MAX {
            thin(&mut samples, |sample| sample.made.micros());
        }
    }

    /// Notes a commit that an earlier process or another node made at the commit time `time`; `now` is the present by
    /// the same clock. A commit with a time in the future counts as made at the present moment.
    pub fn note_past(&self, csn: Csn, time: CommitTime, now: CommitTime) {
        if csn == Csn::ZERO {
            return;
        }
        let made = Moment::now().before(Duration::from_micros(now.0.saturating_sub(time.0)));
        let mut samples = self.samples.lock();
        let at = samples.partition_point(|sample| sample.csn < csn);
        if samples.get(at).is_none_or(|sample| sample.csn != csn) && samples.len() < SAMPLES_MAX {
            // Commit times are not always in order, but no commit is younger than a commit that follows it.
            let made = samples.get(at).map_or(made, |next| made.min(next.made));
            samples.range_mut(..at).for_each(|before| before.made = before.made.min(made));
            samples.insert(at, Sample { csn, made });
        }
    }

    /// Returns the oldest commit whose moment is known.
    #[must_use]
    pub fn known_from(&self) -> Option<Csn> {
        self.samples.lock().front().map(|sample| sample.csn)
    }

    /// Returns how long ago the commit after `csn` was made; zero if `csn` is at or above `committed`, the last
    /// commit.
    #[must_use]
    pub fn of_next(&self, csn: Csn, committed: Csn) -> Duration {
        if csn >= committed {
            return Duration::ZERO;
        }
        let samples = self.samples.lock();
        let at = samples.partition_point(|sample| sample.csn <= csn.next());
        let sample = samples.get(at.saturating_sub(1));
        sample.map_or(Duration::ZERO, |sample| sample.made.elapsed())
    }
}

/// Removes samples that tell little more than their neighbours: those whose neighbours lie close together compared
/// with their distance from the last sample. At most [`SAMPLES_MAX`] stay, among them the first and the last. `micros`
/// returns a sample's moment in microseconds; samples are in ascending order.
pub fn thin<T: Copy>(samples: &mut VecDeque<T>, micros: impl Fn(&T) -> i64) {
    let Some(last) = samples.back().map(&micros) else { return };
    let mut kept: VecDeque<T> = VecDeque::with_capacity(samples.len());
    for (nth, sample) in samples.iter().enumerate() {
        let tells_little = match (kept.back(), samples.get(nth + 1)) {
            (Some(before), Some(after)) => {
                let (before, after) = (micros(before), micros(after));
                after.saturating_sub(before).saturating_mul(FINENESS) < last.saturating_sub(after)
            }
            _ => false,
        };
        if !tells_little {
            kept.push_back(*sample);
        }
    }
    // Needed only if the moments were computed from the clock of another node and that clock was wrong. A removed
    // sample is replaced by the one before it, which is older, so that no age falls below the true one.
    while kept.len() > SAMPLES_MAX {
        kept.remove(1);
    }
    *samples = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000_000);

    /// Returns the moment `time` after moment 0, where `NOW` after moment 0 is the present.
    fn at(time: Duration) -> Moment {
        Moment::now().before(NOW - time)
    }

    /// Goal: in whatever rhythm commits come, years of them fit into the samples, and no age is below the true one or
    /// far above it.
    #[test]
    fn ages_are_never_below_the_truth_and_little_above_it() {
        let ages = Ages::default();
        let mut made = Vec::new();
        let mut time = Duration::ZERO;
        // Bursts and pauses that get shorter towards the present.
        let mut pause = Duration::from_secs(3600);
        while time + pause < NOW {
            for nth in 0..4 {
                made.push(time + Duration::from_micros(nth * 300));
            }
            time += pause;
            pause = ((NOW - time) / 5000).max(Duration::from_micros(1500));
            if made.len() > 400_000 {
                break;
            }
        }
        let moments: Vec<Moment> = made.iter().map(|time| at(*time)).collect();
        for (nth, moment) in moments.iter().enumerate() {
            ages.note(Csn(nth as u64 + 1), *moment);
        }
        assert!(ages.samples.lock().len() <= SAMPLES_MAX);
        let last = Csn(made.len() as u64);
        for nth in (0..made.len()).step_by(97) {
            let told = ages.of_next(Csn(nth as u64), last);
            let truth = moments[nth].elapsed();
            assert!(told + Duration::from_millis(1) >= truth, "csn {nth}: {told:?} of {truth:?}");
            let limit = truth + truth / FINENESS as u32 + 2 * RESOLUTION + Duration::from_millis(500);
            assert!(told <= limit, "csn {nth}: {told:?} of {truth:?}");
        }
        assert_eq!(ages.of_next(last, last), Duration::ZERO);
    }

    #[test]
    fn a_commit_after_a_pause_has_its_own_age() {
        let ages = Ages::default();
        ages.note(Csn(1), at(NOW - Duration::from_secs(3600)));
        ages.note(Csn(2), at(NOW - Duration::from_secs(5)));
        let age = |csn| ages.of_next(Csn(csn), Csn(2)).as_secs();
        assert_eq!((age(0), age(1), age(2)), (3600, 5, 0));
    }

    #[test]
    fn what_is_older_than_all_that_is_known_is_as_old_as_that() {
        let ages = Ages::default();
        assert_eq!(ages.of_next(Csn(5), Csn(9)), Duration::ZERO, "nothing is known");
        let now = CommitTime(1_000_000_000);
        ages.note_past(Csn(20), CommitTime(now.0 - 3_000_000), now);
        ages.note_past(Csn(10), CommitTime(now.0 - 60_000_000), now);
        ages.note_past(Csn(30), CommitTime(now.0 + 60_000_000), now);
        ages.note_past(Csn(15), CommitTime(now.0 + 60_000_000), now);
        ages.note_past(Csn(0), CommitTime(0), now);
        ages.note(Csn(31), Moment::now());
        let age = |csn| ages.of_next(Csn(csn), Csn(31)).as_secs();
        assert_eq!([0, 9, 13, 14, 18, 19, 28, 29, 30].map(age), [60, 60, 60, 3, 3, 3, 3, 0, 0]);
        assert_eq!(ages.known_from(), Some(Csn(10)));
    }
}
