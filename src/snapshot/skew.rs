//! How far apart the engines of a base were cut, and the level that follows from the distance. Pure.

use super::manifest::{CutRecord, DiskPart, Level};
use crate::config::Consistency;
use crate::directory::LastRole;
use crate::error::{Error, Result};
use crate::position::Position;
use std::time::Duration;

/// The distance between the cut of the keys in memory and RocksDB's checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Skew {
    /// Number of commits between the cuts.
    pub commits: u64,
    /// Commit time between the cuts, in microseconds.
    pub us: u64,
}

impl Skew {
    /// Returns the skew between keys in memory cut at `memory` and a checkpoint made after that cut.
    #[must_use]
    pub(super) fn between(memory: Position, disk: &DiskPart) -> Self {
        // A checkpoint at a lower csn lacks nothing: all later commits touched the keys in memory only.
        let commits = disk.csn.0.saturating_sub(memory.csn.0);
        // An epoch that began between the cuts may begin at an earlier commit time. The true skew is then unknown, and
        // the absolute difference serves as an estimate.
        let us = if commits == 0 { 0 } else { disk.time.0.abs_diff(memory.time.0) };
        Self { commits, us }
    }

    /// Checks the skew against the requested consistency; [`Error::InconsistentTiming`] if a bound is exceeded.
    pub(super) fn check(self, consistency: Consistency) -> Result<()> {
        match consistency {
            Consistency::Bounded(allowed) if Duration::from_micros(self.us) > allowed => {
                Err(Error::InconsistentTiming { found: Duration::from_micros(self.us), allowed })
            }
            _ => Ok(()),
        }
    }

    /// Returns the level of a base with this skew: strict if there are no commits between the cuts, else the requested
    /// level.
    #[must_use]
    pub(super) fn level(self, consistency: Consistency) -> Level {
        if self.commits == 0 { Level::Strict } else { level_asked(consistency) }
    }

    /// Returns the skew, the requested consistency and the node that cut the base in the form that a manifest stores.
    #[must_use]
    pub(super) fn record(self, consistency: Consistency, node: &str, role: LastRole) -> CutRecord {
        CutRecord {
            asked: level_asked(consistency),
            skew_commits: self.commits,
            skew_us: self.us,
            allowed_us: match consistency {
                Consistency::Bounded(allowed) => Some(allowed.as_micros() as u64),
                Consistency::Strict | Consistency::Eventual => None,
            },
            node: node.to_owned(),
            role,
        }
    }
}

fn level_asked(consistency: Consistency) -> Level {
    match consistency {
        Consistency::Strict => Level::Strict,
        Consistency::Bounded(_) => Level::Bounded,
        Consistency::Eventual => Level::Eventual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
    use crate::snapshot::manifest::DiskContents;

    fn skew(memory: (u64, u64), disk: (u64, u64)) -> Skew {
        let memory =
            Position { csn: Csn(memory.0), time: CommitTime(memory.1), epoch: Epoch(1), hash: HistoryHash::ZERO };
        let (csn, time) = (Csn(disk.0), CommitTime(disk.1));
        let contents = DiskContents { digest: blake3::hash(b""), families: Vec::new() };
        let hash = HistoryHash::ZERO;
        let disk = DiskPart { csn, time, epoch: Epoch(1), hash, wal_seq: WalSeq(0), contents, files: Vec::new() };
        Skew::between(memory, &disk)
    }

    #[test]
    fn the_skew_is_what_lies_between_the_cuts() {
        assert_eq!(skew((10, 500), (15, 1500)), Skew { commits: 5, us: 1000 });
        assert_eq!(skew((10, 500), (10, 500)), Skew::default());
        assert_eq!(skew((10, 500), (7, 300)), Skew::default(), "only memory commits since");
    }

    #[test]
    fn a_bound_includes_its_end_and_nothing_beyond() {
        let bound = Consistency::Bounded(Duration::from_millis(1));
        for (us, fits) in [(0, true), (1000, true), (1001, false)] {
            assert_eq!(Skew { commits: 1, us }.check(bound).is_ok(), fits, "{us} us");
            assert!(Skew { commits: 1, us }.check(Consistency::Strict).is_ok());
            assert!(Skew { commits: 1, us }.check(Consistency::Eventual).is_ok());
        }
        let error = Skew { commits: 1, us: 12_500 }.check(bound).unwrap_err().to_string();
        assert!(error.contains("12.5 ms") && error.contains("1 ms are allowed"), "{error}");
    }

    #[test]
    fn without_skew_every_level_is_strict() {
        let bound = Consistency::Bounded(Duration::ZERO);
        for (asked, level) in
            [(Consistency::Strict, Level::Strict), (bound, Level::Bounded), (Consistency::Eventual, Level::Eventual)]
        {
            assert_eq!(Skew { commits: 1, us: 0 }.level(asked), level);
            assert_eq!(Skew::default().level(asked), Level::Strict);
        }
    }
}
