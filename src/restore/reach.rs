//! Which commits of a line of history an archive can restore.
//!
//! Pure. A commit can be restored if a base lies at it, or if chunks lead to it without a gap from a base or from the
//! very first commit. A base whose engines were cut at different commits also needs the chunks between these.

use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing};
use crate::csn::Csn;
use serde::Serialize;
use std::fmt;

/// Commits from one csn to another, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct CsnRange {
    /// The first.
    pub from: Csn,
    /// The last, at least the first.
    pub until: Csn,
}

impl CsnRange {
    /// Whether the commit is one of them.
    #[must_use]
    pub fn contains(&self, csn: Csn) -> bool {
        self.from <= csn && csn <= self.until
    }
}

impl fmt::Display for CsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.until { write!(f, "{}", self.from) } else { write!(f, "{} to {}", self.from, self.until) }
    }
}

/// What can be restored and what cannot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Restorable commits, ascending, not touching each other.
    pub ranges: Vec<CsnRange>,
    /// Commits above the first restorable one that are known to exist but cannot be restored, ascending.
    pub gaps: Vec<CsnRange>,
    /// The last commit known to exist; 0 if none is.
    pub known_until: Csn,
}

impl Reach {
    /// What `bases` and the listed chunks can restore. The bases must lie on the line; those that are listed and not
    /// among them cannot be used, and still tell that their commits exist.
    pub fn of(listing: &Listing, lineage: &Lineage, bases: impl Iterator<Item = BaseStart>) -> Self {
        let runs = runs(listing, lineage);
        let mut starts: Vec<Csn> =
            bases.filter(|start| leads(&runs, *start, start.base.csn)).map(|start| start.base.csn).collect();
        let on_line = listing.base_starts().filter(|start| lineage.contains(start.base));
        let newest_base = on_line.map(|start| start.base.csn).max().unwrap_or_default();
        let fork = lineage.branches().last().map_or(Csn::ZERO, |leaf| leaf.from_exclusive);
        let known_until = runs.last().map_or(Csn::ZERO, |run| run.until).max(newest_base).max(fork);
        // History itself starts at nothing: from there, the chunks lead on.
        starts.extend(runs.first().filter(|run| run.from == Csn(1)).map(|run| run.from));
        starts.sort_unstable();
        let mut ranges: Vec<CsnRange> = Vec::new();
        for from in starts {
            if ranges.last().is_some_and(|range| range.contains(from)) {
                continue;
            }
            let run = runs.iter().find(|run| run.contains(from.next()) || run.contains(from));
            let until = run.map_or(from, |run| run.until.max(from));
            match ranges.last_mut() {
                Some(range) if range.until.next() == from => range.until = until,
                _ => ranges.push(CsnRange { from, until }),
            }
        }
        let gaps = gaps(&ranges, known_until);
        Self { ranges, gaps, known_until }
    }

    /// Whether the commit can be restored.
    #[must_use]
    pub fn contains(&self, csn: Csn) -> bool {
        self.ranges.iter().any(|range| range.contains(csn))
    }

    /// The last commit that can be restored.
    #[must_use]
    pub fn latest(&self) -> Option<Csn> {
        self.ranges.last().map(|range| range.until)
    }

    /// The restorable commits nearest to a csn that is not: below and above.
    #[must_use]
    pub fn around(&self, csn: Csn) -> (Option<CsnRange>, Option<CsnRange>) {
        let below = self.ranges.iter().rfind(|range| range.until < csn).copied();
        (below, self.ranges.iter().find(|range| range.from > csn).copied())
    }
}

/// Whether chunks, in these runs, lead from a base to a commit at or above it.
pub(super) fn leads(runs: &[CsnRange], start: BaseStart, target: Csn) -> bool {
    start.after >= target || runs.iter().any(|run| run.contains(start.after.next()) && run.contains(target))
}

/// The commits that chunks carry, in runs without a gap.
pub(super) fn runs(listing: &Listing, lineage: &Lineage) -> Vec<CsnRange> {
    let mut runs: Vec<CsnRange> = Vec::new();
    for part in lineage.cover(listing.chunks.keys().copied(), Csn::ZERO).uses {
        match runs.last_mut() {
            Some(run) if run.until.next() == part.use_from => run.until = part.use_until,
            _ => runs.push(CsnRange { from: part.use_from, until: part.use_until }),
        }
    }
    runs
}

/// What lies between the ranges and behind the last one.
fn gaps(ranges: &[CsnRange], known_until: Csn) -> Vec<CsnRange> {
    let starts = ranges.iter().skip(1).map(|range| range.from).chain([known_until.next()]);
    let holes =
        ranges.iter().zip(starts).map(|(range, next)| CsnRange { from: range.until.next(), until: next.prev() });
    holes.filter(|hole| hole.from <= hole.until).collect()
}
