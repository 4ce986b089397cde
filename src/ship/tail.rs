//! The tail: the newest commits, in a bounded ring in memory.
//!
//! Guarantees: groups are in csn order without a gap. When the ring is full, the oldest groups are dropped, and a
//! reader that needs them is told that the ring does not reach back so far.

use crate::commit::committer::{CommitSink, Group};
use crate::csn::{Csn, WalSeq};
use crate::record::CommitRecord;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Bytes that a commit counts in the ring beside its effects.
const COMMIT_OVERHEAD_BYTES: usize = 128;

/// Commits that were read for shipping, with the WAL range from which they came.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// Whole commits in dense csn order, with times that never decrease.
    pub commits: Vec<CommitRecord>,
    /// End of the WAL before the first of the commits, or a lower sequence.
    pub wal_before: WalSeq,
    /// A WAL sequence from which reading misses no commit after the slice. It may be lower than the sequences of the
    /// slice's last commits.
    pub wal_after: WalSeq,
}

impl Slice {
    /// Returns the csn of the last commit, or `None` if there is none.
    #[must_use]
    pub fn last(&self) -> Option<Csn> {
        self.commits.last().map(|commit| commit.csn)
    }

    /// Returns the bytes of all effects.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.commits.iter().map(CommitRecord::effect_bytes).sum()
    }
}

struct Ring {
    groups: VecDeque<(Group, usize)>,
    bytes: usize,
    /// Bytes pushed since the start.
    total: u64,
    /// Value of `total` at which the waiting cutter must be woken.
    wake_at: u64,
}

/// The ring of the newest commits.
pub struct Tail {
    ring: Mutex<Ring>,
    grown: Condvar,
    bytes_max: usize,
}

impl Tail {
    /// Makes an empty ring of at most `bytes_max`. A single group is kept even if it is larger.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let ring = Ring { groups: VecDeque::new(), bytes: 0, total: 0, wake_at: u64::MAX };
        Self { ring: Mutex::new(ring), grown: Condvar::new(), bytes_max }
    }

    /// Returns the bytes pushed since the start, as [`Tail::wait`] counts them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ring.lock().total
    }

    /// Waits until `total` bytes were pushed since the start, or until the time is over. Returns the bytes pushed.
    pub fn wait(&self, total: u64, at_most: Duration) -> u64 {
        let deadline = Instant::now() + at_most;
        let mut ring = self.ring.lock();
        ring.wake_at = total;
        while ring.total < total && !self.grown.wait_until(&mut ring, deadline).timed_out() {}
        ring.wake_at = u64::MAX;
        ring.total
    }

    /// Wakes the waiting thread.
    pub fn wake(&self) {
        self.grown.notify_all();
    }

    /// Reads commits above `after`, up to `until`. Ends when they have `bytes_max`, or before a commit with an earlier
    /// time than the one before it; returns at least one commit if there is one. Returns `None` if the ring does not
    /// reach back to `after`.
    #[must_use]
    pub fn read(&self, after: Csn, until: Csn, bytes_max: usize) -> Option<Slice> {
        let ring = self.ring.lock();
        let covers = ring.groups.front().is_some_and(|(group, _)| group.first() <= after.next());
        if !covers {
            return (after >= until).then(Slice::default);
        }
        let start = ring.groups.partition_point(|(group, _)| group.last() <= after);
        let mut slice = Slice::default();
        let mut bytes = 0;
        for (group, _) in ring.groups.range(start..) {
            if slice.commits.is_empty() {
                (slice.wal_before, slice.wal_after) = (group.wal_before, group.wal_before);
            }
            for commit in group.commits.iter().filter(|commit| commit.csn > after) {
                let is_over = slice.commits.last().is_some_and(|last| bytes >= bytes_max || commit.time < last.time);
                if commit.csn > until || is_over {
                    return Some(slice);
                }
                bytes += commit.effect_bytes() + COMMIT_OVERHEAD_BYTES;
                slice.commits.push(commit.clone());
            }
            slice.wal_after = group.wal_after;
        }
        Some(slice)
    }
}

impl CommitSink for Tail {
    fn committed(&self, group: Group) {
        let bytes = group.commits.iter().map(|commit| commit.effect_bytes() + COMMIT_OVERHEAD_BYTES).sum();
        let mut ring = self.ring.lock();
        ring.bytes += bytes;
        ring.total += bytes as u64;
        ring.groups.push_back((group, bytes));
        while ring.bytes > self.bytes_max && ring.groups.len() > 1 {
            let (_, freed) = ring.groups.pop_front().expect("the loop condition demands two");
            ring.bytes -= freed;
        }
        if ring.total >= ring.wake_at {
            self.grown.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csn::CommitTime;
    use bytes::Bytes;

    fn group(csns: std::ops::RangeInclusive<u64>) -> Group {
        let commit = |csn| CommitRecord { csn: Csn(csn), memory: Bytes::from(vec![0; 100]), ..CommitRecord::default() };
        let (first, last) = (*csns.start(), *csns.end());
        Group { commits: csns.map(commit).collect(), wal_before: WalSeq(first * 10), wal_after: WalSeq(last * 10 + 9) }
    }

    #[test]
    fn a_reader_gets_what_follows_or_learns_that_it_is_behind() {
        let tail = Tail::new(10 * (100 + COMMIT_OVERHEAD_BYTES));
        assert!(tail.read(Csn(0), Csn(0), 1).is_some_and(|slice| slice.commits.is_empty()));
        for start in (1..20).step_by(5) {
            tail.committed(group(start..=start + 4));
        }
        assert!(tail.read(Csn(9), Csn(20), usize::MAX).is_none(), "csn 10 fell out");
        let slice = tail.read(Csn(12), Csn(18), usize::MAX).unwrap();
        assert_eq!(slice.commits.iter().map(|c| c.csn.0).collect::<Vec<_>>(), [13, 14, 15, 16, 17, 18]);
        assert_eq!((slice.wal_before, slice.wal_after), (WalSeq(110), WalSeq(159)));
        let small = tail.read(Csn(12), Csn(18), 1).unwrap();
        assert_eq!(small.last(), Some(Csn(13)));
        assert!(tail.read(Csn(20), Csn(20), 1).unwrap().commits.is_empty());
    }

    #[test]
    fn a_slice_ends_where_an_epoch_began_at_an_earlier_time() {
        let tail = Tail::new(usize::MAX);
        let at = |csns, time| {
            let Group { commits, wal_before, wal_after } = group(csns);
            let commits =
                commits.iter().map(|commit| CommitRecord { time: CommitTime(time), ..commit.clone() }).collect();
            Group { commits, wal_before, wal_after }
        };
        [at(1..=3, 5), at(4..=6, 9), at(7..=8, 2)].into_iter().for_each(|group| tail.committed(group));
        let last = |after| tail.read(Csn(after), Csn(8), usize::MAX).unwrap().last();
        assert_eq!([last(0), last(5), last(6)], [6, 6, 8].map(|csn| Some(Csn(csn))));
    }
}
