//! How long ago commits were made, by a clock that nobody sets: what lags are told from.
//!
//! Samples of commits and their moments, few enough to stay in memory however many commits there are. Guarantees: an age is
//! never below the truth for commits since the oldest sample; it is above by at most [`RESOLUTION`] or a part in
//! [`FINENESS`]. Of commits before the oldest sample nothing is known but that they are older: their age is that of the
//! sample.

use crate::clock::Moment;
use crate::csn::{CommitTime, Csn};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

/// Time between two samples, at least.
const RESOLUTION: Duration = Duration::from_millis(10);
/// Between two samples of commits that are so many times older there need not be another.
const FINENESS: i64 = 32;
/// Samples kept: [`FINENESS`] lets some 1,600 suffice for ten years.
pub const SAMPLES_MAX: usize = 4096;

/// Says: this commit, and each one after it, was made at this moment or later.
#[derive(Clone, Copy, Debug)]
struct Sample {
    csn: Csn,
    made: Moment,
}

/// When commits were made.
#[derive(Debug, Default)]
pub struct Ages {
    /// By csn.
    samples: Mutex<VecDeque<Sample>>,
}

impl Ages {
    /// Notes when a commit was made, the next one of those noted.
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

    /// Notes when a commit was made that an earlier process or another node made: at `time`, if it is `now`. One of the
    /// future was made at this moment, as far as that can be known.
    pub fn note_past(&self, csn: Csn, time: CommitTime, now: CommitTime) {
        if csn == Csn::ZERO {
            return;
        }
        let made = Moment::now().before(Duration::from_micros(now.0.saturating_sub(time.0)));
        let mut samples = self.samples.lock();
        let at = samples.partition_point(|sample| sample.csn < csn);
        if samples.get(at).is_none_or(|sample| sample.csn != csn) && samples.len() < SAMPLES_MAX {
            // Times are not always in order, but no commit is younger than one that follows it.
            let made = samples.get(at).map_or(made, |next| made.min(next.made));
            samples.range_mut(..at).for_each(|before| before.made = before.made.min(made));
            samples.insert(at, Sample { csn, made });
        }
    }

    /// The oldest commit whose moment is known.
    #[must_use]
    pub fn known_from(&self) -> Option<Csn> {
        self.samples.lock().front().map(|sample| sample.csn)
    }

    /// How long ago the commit after `csn` was made; zero if `committed` is the last one and not beyond it.
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

/// Removes samples of moments, in order, that tell little more than the one before them, given how long before the last they
/// lie. At most [`SAMPLES_MAX`] stay, among them the first and the last. `micros` gives a sample's time.
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
    // Only where the clock of another node, from which moments were reckoned, went astray. What goes is told from the
    // sample before it, which is older.
    while kept.len() > SAMPLES_MAX {
        kept.remove(1);
    }
    *samples = kept;
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000_000);

    /// The moment so long after moment 0 that `NOW` is the present.
    fn at(time: Duration) -> Moment {
        Moment::now().before(NOW - time)
    }

    /// Goal: whatever the rhythm of commits, years of them fit into the samples, and no age is below the truth or far
    /// above it.
    #[test]
    fn ages_are_never_below_the_truth_and_little_above_it() {
        let ages = Ages::default();
        let mut made = Vec::new();
        let mut time = Duration::ZERO;
        // Bursts and pauses, ever denser towards now.
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
