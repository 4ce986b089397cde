//! Computes which commits of a line of history an archive can restore.
//!
//! Pure. A commit can be restored in three cases: a base is at the commit; or chunks lead without a gap to the commit
//! from a restorable commit or from the empty state before csn 1; or a compacted run leads to it from a restorable
//! commit or from the empty state. So the restorable commits are ranges and, where runs replaced chunks, single
//! commits. A base whose engines were cut at different commits also needs the chunks between these commits.

use crate::archive::layout::RunName;
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing};
use crate::csn::Csn;
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;

/// Commits from one csn to another, both included.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct CsnRange {
    /// The first commit.
    pub from: Csn,
    /// The last commit; never before the first.
    pub until: Csn,
}

impl CsnRange {
    /// Reports whether the range contains the commit.
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

/// The commits that can be restored and those that cannot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Restorable commits; ascending ranges that do not touch each other.
    pub ranges: Vec<CsnRange>,
    /// Commits that exist only as part of a run, so that they cannot be restored one by one; ascending.
    pub coarse: Vec<CsnRange>,
    /// Commits above the first restorable one that are known to exist but are missing; ascending.
    pub gaps: Vec<CsnRange>,
    /// The last commit that is known to exist; 0 if there is none.
    pub known_until: Csn,
}

impl Reach {
    /// Computes what the given usable bases and the listed chunks and runs can restore. `bases` must lie on the line. A
    /// listed base that is not among `bases` cannot be used, but proves that its commit exists.
    pub fn of(listing: &Listing, lineage: &Lineage, bases: impl Iterator<Item = BaseStart>) -> Self {
        Self::with_runs(listing, lineage, bases, |_| true)
    }

    /// Does the same as [`Reach::of`], but uses only the runs for which `is_usable` returns true.
    pub fn with_runs(
        listing: &Listing,
        lineage: &Lineage,
        bases: impl Iterator<Item = BaseStart>,
        is_usable: impl Fn(&RunName) -> bool,
    ) -> Self {
        let stretches = stretches(listing, lineage);
        let on_line: Vec<RunName> = listing.whole_runs().filter(|run| lineage.contains_run(*run)).collect();
        let mut starts: BTreeSet<Csn> =
            bases.filter(|start| leads(&stretches, *start)).map(|start| start.base.csn).collect();
        let bases_on_line = listing.base_starts().filter(|start| lineage.contains(start.base));
        let newest_base = bases_on_line.map(|start| start.base.csn).chain(starts.last().copied()).max();
        let fork = lineage.branches().last().map_or(Csn::ZERO, |leaf| leaf.from_exclusive);
        let newest_run = on_line.iter().map(|run| run.last).max().unwrap_or_default();
        let newest_chunk = stretches.last().map_or(Csn::ZERO, |stretch| stretch.until);
        let known_until = newest_chunk.max(newest_base.unwrap_or_default()).max(newest_run).max(fork);
        let runs: Vec<RunName> = on_line.into_iter().filter(is_usable).collect();
        // The empty state before csn 1 needs no base: chunks and runs that begin with csn 1 lead on from it.
        starts.extend(stretches.first().filter(|stretch| stretch.from == Csn(1)).map(|stretch| stretch.from));
        starts.extend(runs.iter().filter(|run| run.first == Csn(1)).map(|run| run.last));
        let mut ranges: Vec<CsnRange> = Vec::new();
        while let Some(from) = starts.pop_first() {
            if ranges.last().is_some_and(|range| range.contains(from)) {
                continue;
            }
            let leads_on = |stretch: &&CsnRange| stretch.contains(from.next()) || stretch.contains(from);
            let until = stretches.iter().find(leads_on).map_or(from, |stretch| stretch.until.max(from));
            match ranges.last_mut() {
                Some(range) if range.until.next() == from => range.until = until,
                _ => ranges.push(CsnRange { from, until }),
            }
            let here = CsnRange { from, until };
            starts.extend(runs.iter().filter(|run| here.contains(run.first.prev())).map(|run| run.last));
        }
        let starts_somewhere =
            |run: &&RunName| run.first == Csn(1) || ranges.iter().any(|range| range.contains(run.first.prev()));
        let led_over = runs.iter().filter(starts_somewhere).map(|run| CsnRange { from: run.first, until: run.last });
        let (coarse, gaps) = split(&holes(&ranges, known_until), &merged(led_over.collect()));
        Self { ranges, coarse, gaps, known_until }
    }

    /// Splits the gaps at a csn: returns the missing commits up to `csn` and those above it.
    #[must_use]
    pub fn gaps_until(&self, csn: Csn) -> (Vec<CsnRange>, Vec<CsnRange>) {
        let below = self.gaps.iter().map(|gap| CsnRange { until: gap.until.min(csn), ..*gap });
        let above = self.gaps.iter().map(|gap| CsnRange { from: gap.from.max(csn.next()), ..*gap });
        let is_any = |gap: &CsnRange| gap.from <= gap.until;
        (below.filter(is_any).collect(), above.filter(is_any).collect())
    }

    /// Reports whether the commit can be restored.
    #[must_use]
    pub fn contains(&self, csn: Csn) -> bool {
        self.ranges.iter().any(|range| range.contains(csn))
    }

    /// Returns the last commit that can be restored.
    #[must_use]
    pub fn latest(&self) -> Option<Csn> {
        self.ranges.last().map(|range| range.until)
    }

    /// Returns the restorable ranges nearest to a csn that cannot be restored: below and above.
    #[must_use]
    pub fn around(&self, csn: Csn) -> (Option<CsnRange>, Option<CsnRange>) {
        let below = self.ranges.iter().rfind(|range| range.until < csn).copied();
        (below, self.ranges.iter().find(|range| range.from > csn).copied())
    }
}

/// Reports whether a restore can start from a base: it is whole, or the stretches contain all commits between its cuts.
pub(crate) fn leads(stretches: &[CsnRange], start: BaseStart) -> bool {
    let BaseStart { base, after } = start;
    after >= base.csn || stretches.iter().any(|stretch| stretch.contains(after.next()) && stretch.contains(base.csn))
}

/// Returns the commits that chunks carry, as ranges without a gap.
pub(crate) fn stretches(listing: &Listing, lineage: &Lineage) -> Vec<CsnRange> {
    let mut stretches: Vec<CsnRange> = Vec::new();
    for part in lineage.cover(listing.chunks.keys().copied(), Csn::ZERO).uses {
        match stretches.last_mut() {
            Some(stretch) if stretch.until.next() == part.use_from => stretch.until = part.use_until,
            _ => stretches.push(CsnRange { from: part.use_from, until: part.use_until }),
        }
    }
    stretches
}

/// Returns the commits between the ranges and after the last range up to `known_until`.
fn holes(ranges: &[CsnRange], known_until: Csn) -> Vec<CsnRange> {
    let starts = ranges.iter().skip(1).map(|range| range.from).chain([known_until.next()]);
    let holes =
        ranges.iter().zip(starts).map(|(range, next)| CsnRange { from: range.until.next(), until: next.prev() });
    holes.filter(|hole| hole.from <= hole.until).collect()
}

/// Merges ranges that overlap or touch; the result covers the same commits in ascending order.
fn merged(mut ranges: Vec<CsnRange>) -> Vec<CsnRange> {
    ranges.sort_unstable();
    let mut merged: Vec<CsnRange> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.from <= last.until.next() => last.until = last.until.max(range.until),
            _ => merged.push(range),
        }
    }
    merged
}

/// Splits the holes into the parts that `covered` contains and the parts that it does not. Both inputs must be
/// ascending and must not overlap.
fn split(holes: &[CsnRange], covered: &[CsnRange]) -> (Vec<CsnRange>, Vec<CsnRange>) {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for hole in holes {
        let mut next = hole.from;
        for cover in covered.iter().filter(|cover| cover.until >= hole.from && cover.from <= hole.until) {
            let (from, until) = (cover.from.max(hole.from), cover.until.min(hole.until));
            if next < from {
                outside.push(CsnRange { from: next, until: from.prev() });
            }
            inside.push(CsnRange { from, until });
            next = until.next();
        }
        if next <= hole.until {
            outside.push(CsnRange { from: next, until: hole.until });
        }
    }
    (inside, outside)
}
