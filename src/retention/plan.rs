//! Finds the objects that each promise needs, and from that the objects to remove.
//!
//! Pure. These objects stay: what any promise needs (as a restore would plan it, with runs preferred to chunks beyond
//! the fine window), what valid pins name, and what is too young to judge. `removals` names the rest, and `check` plans
//! every promise over what would remain. A chunk whose commits all lie in one wider chunk of the same epoch is
//! replaced: it is removed after the grace period even if its commits stay.

use super::material::{Facts, Material};
use super::superseded::superseded;
use super::sweep::{self, Reason, Removal};
use super::timeline::{Piece, Promise, RestorePoint, Timeline, Why};
use crate::archive::layout::{BaseName, ChunkName, RunName};
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing, Stored};
use crate::archive::pins::PinRange;
use crate::archive::thinned::Thinned;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::history::plan::{Plan, Shortfall, SkippedBase, SkippedRun, plan as restore_plan};
use crate::history::reach::{CsnRange, Reach};
use crate::history::route::RouteCosts;
use crate::history::step::Step;
use crate::keep::{Keep, micros};
use std::collections::HashSet;
use std::time::Duration;

/// The plan of a prune: the objects to remove, and the commits that stay restorable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PrunePlan {
    /// The objects to remove, references first.
    pub removals: Vec<Removal>,
    /// The commits that stay restorable.
    pub promises: Vec<Promise>,
    /// How far history is thinned once the plan is carried out.
    pub thinned: Thinned,
    /// Remarks for the operator.
    pub remarks: Vec<String>,
}

/// The objects that stay, collected promise by promise.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) chunks: HashSet<ChunkName>,
    pub(super) bases: HashSet<BaseName>,
    pub(super) runs: HashSet<RunName>,
}

/// Plans a prune.
#[must_use]
pub fn plan(material: &Material, keep: &Keep, grace: Duration) -> PrunePlan {
    let view = View::of(material, grace);
    let timelines = view.timelines();
    let mut promises: Vec<Promise> = timelines
        .iter()
        .flat_map(|timeline| match keep.windows() {
            Some(windows) => timeline.promises(windows, material.now),
            None => timeline.everything(),
        })
        .collect();
    let mut remarks = view.unusable_remarks();
    promises.extend(view.marks(&mut remarks));
    let mut kept = Kept::default();
    for promise in &promises {
        view.keep_promise(promise, &mut kept);
    }
    view.keep_young(keep, &mut kept);
    view.keep_pinned(&mut kept, &mut remarks);
    let mut removals = view.removals(&kept, &mut remarks);
    sweep::sort(&mut removals);
    let mut thinned = material.thinned.clone();
    thinned.keep = keep.to_string();
    if removals.iter().any(|removal| removal.why == Reason::BeyondPolicy) {
        timelines.iter().for_each(|timeline| thin(&mut thinned, timeline, keep, material.now));
    }
    promises.sort();
    promises.dedup();
    PrunePlan { removals, promises, thinned, remarks }
}

/// Records how far a line is thinned once the plan is carried out.
fn thin(thinned: &mut Thinned, timeline: &Timeline, keep: &Keep, now: CommitTime) {
    let Some(windows) = keep.windows() else { return };
    let start = CommitTime(now.0.saturating_sub(micros(windows.fine)));
    let floor = timeline.floor(start).unwrap_or_else(|| timeline.end());
    let newest =
        timeline.restore_points.iter().rfind(|point| point.is_base && timeline.is_newest).map(|point| point.csn);
    let until = newest.map_or(floor, |newest| floor.min(newest));
    if until > timeline.after {
        thinned.raise(&timeline.lineage, timeline.after, until);
    }
}

/// The material with values derived from it.
pub(super) struct View<'m> {
    pub(super) material: &'m Material,
    pub(super) listing: &'m Listing,
    grace_micros: u64,
    /// Bases that cannot be restored from.
    pub(super) skipped: Vec<SkippedBase>,
    /// Runs that cannot be used in a restore.
    pub(super) skipped_runs: Vec<SkippedRun>,
    newest: Option<Lineage>,
    pub(super) replaced: HashSet<ChunkName>,
    /// The listing without the replaced chunks.
    lean: Listing,
    /// `lean` without the chunks before the fine window, to plan restores over runs; `None` if the archive has no
    /// whole run.
    coarse: Option<Listing>,
}

impl<'m> View<'m> {
    pub(super) fn of(material: &'m Material, grace: Duration) -> Self {
        let listing = &material.listing;
        let why_not = |facts: Option<&Result<Facts, String>>| match facts {
            Some(Ok(facts)) => missing_file(listing, facts),
            Some(Err(why)) => Some(why.clone()),
            None => Some("its manifest was not read".to_owned()),
        };
        let skipped = listing.base_starts().filter_map(|start| {
            let BaseStart { base, after } = start;
            why_not(material.facts.get(&start)).map(|why| SkippedBase { base, after, why })
        });
        let skipped_runs =
            listing.whole_runs().filter_map(|run| why_not(material.runs.get(&run)).map(|why| SkippedRun { run, why }));
        let mut view = Self {
            material,
            listing,
            grace_micros: micros(grace),
            skipped: skipped.collect(),
            skipped_runs: skipped_runs.collect(),
            newest: Lineage::newest(&listing.epochs),
            replaced: HashSet::new(),
            lean: listing.clone(),
            coarse: None,
        };
        view.replaced = view.find_replaced();
        view.lean.chunks.retain(|chunk, _| !view.replaced.contains(chunk));
        if listing.whole_runs().next().is_some() {
            let mut coarse = view.lean.clone();
            coarse.chunks.retain(|chunk, _| !material.spans.contains_key(chunk));
            view.coarse = Some(coarse);
        }
        view
    }

    /// Reports whether an object is old enough to be removed if nothing refers to it.
    pub(super) fn is_past_grace(&self, stored: &Stored) -> bool {
        stored.time().0.saturating_add(self.grace_micros) < self.material.now.0
    }

    /// Returns the chunks whose place a wider chunk that is past the grace period has taken.
    fn find_replaced(&self) -> HashSet<ChunkName> {
        let counts = |chunk: &ChunkName| self.is_past_grace(&self.listing.chunks[chunk]);
        superseded(self.listing.chunks.keys().copied(), counts).into_iter().flat_map(|found| found.parts).collect()
    }

    /// Reports whether a base can be restored from.
    pub(super) fn is_usable(&self, start: &BaseStart) -> bool {
        !self.skipped.iter().any(|skip| skip.is(*start))
    }

    fn is_run_usable(&self, run: &RunName) -> bool {
        !self.skipped_runs.iter().any(|skip| skip.run == *run)
    }

    /// Returns the usable bases and ends of runs of a line: the restore points that need few or no chunks.
    fn restore_points(&self, lineage: &Lineage) -> Vec<RestorePoint> {
        let reach = self.reach(self.listing, lineage);
        let time =
            |facts: Option<&Result<Facts, String>>| facts.and_then(|facts| facts.as_ref().ok()).map(|it| it.time);
        let starts = self.listing.base_starts().filter(|start| lineage.contains(start.base) && self.is_usable(start));
        let starts = starts.filter(|start| start.is_whole() || reach.contains(start.base.csn));
        let bases = starts.filter_map(|start| {
            let time = time(self.material.facts.get(&start))?;
            Some(RestorePoint { csn: start.base.csn, time, is_base: true })
        });
        let on_line = |run: &RunName| lineage.contains_run(*run) && self.is_run_usable(run) && reach.contains(run.last);
        let runs = self.listing.whole_runs().filter(on_line).filter_map(|run| {
            Some(RestorePoint { csn: run.last, time: time(self.material.runs.get(&run))?, is_base: false })
        });
        let mut points: Vec<RestorePoint> = bases.chain(runs).collect();
        points.sort_by_key(|point| (point.csn, point.is_base));
        points
    }

    /// Returns the newest line, and every other epoch's line with the csn up to which it shares the newest line.
    fn timelines(&self) -> Vec<Timeline> {
        let Some(newest) = &self.newest else { return Vec::new() };
        let epochs = self.listing.epochs.records().map(|record| record.epoch);
        let lines = epochs.filter_map(|epoch| Lineage::of(&self.listing.epochs, epoch)).map(|lineage| {
            let is_newest = lineage.leaf() == newest.leaf();
            let after = if is_newest { Csn::ZERO } else { shared_until(&lineage, newest) };
            self.timeline(lineage, after, is_newest)
        });
        lines.collect()
    }

    fn timeline(&self, lineage: Lineage, after: Csn, is_newest: bool) -> Timeline {
        let mut fine = false;
        let uses = lineage.cover(self.lean.chunks.keys().copied(), Csn::ZERO).uses;
        let pieces = uses.into_iter().map(|part| {
            // Commit times never decrease: after the first chunk in the fine window, all chunks are in it.
            fine |= !self.material.spans.contains_key(&part.chunk);
            let span = self.material.spans.get(&part.chunk).copied().filter(|_| !fine);
            Piece { chunk: part.chunk, from: part.use_from, until: part.use_until, span }
        });
        let pieces = pieces.collect();
        let restore_points = self.restore_points(&lineage);
        let thinned = self.material.thinned.until(&lineage);
        let mut timeline = Timeline { lineage, after, is_newest, has_own: true, pieces, restore_points };
        timeline.has_own = is_newest || timeline.end() > after || thinned > after;
        timeline
    }

    pub(super) fn reach(&self, listing: &Listing, lineage: &Lineage) -> Reach {
        let starts = listing.base_starts().filter(|start| lineage.contains(start.base) && self.is_usable(start));
        Reach::with_runs(listing, lineage, starts, |run| self.is_run_usable(run))
    }

    pub(super) fn lineage(&self, leaf: Epoch) -> Lineage {
        Lineage::of(&self.listing.epochs, leaf).expect("a promise names an epoch that has a record")
    }

    /// Returns a promise for each mark whose line is known. Adds a remark for each mark that cannot be restored.
    fn marks(&self, remarks: &mut Vec<String>) -> Vec<Promise> {
        let mut promises = Vec::new();
        for (name, mark) in &self.material.marks {
            let mark = match mark {
                Ok(mark) => mark,
                Err(why) => {
                    remarks.push(format!("mark {name} cannot be read, so the mark keeps nothing: {why}"));
                    continue;
                }
            };
            let Some(lineage) = Lineage::of(&self.listing.epochs, mark.epoch) else {
                remarks.push(format!(
                    "mark {name} belongs to epoch {}, which has no record, so the mark keeps nothing",
                    mark.epoch
                ));
                continue;
            };
            if !self.reach(self.listing, &lineage).contains(mark.csn) {
                remarks.push(format!("mark {name} at csn {} cannot be restored, so the mark keeps nothing", mark.csn));
            }
            let commits = CsnRange { from: mark.csn, until: mark.csn };
            promises.push(Promise { leaf: mark.epoch, commits, why: Why::Mark(name.clone()) });
        }
        promises
    }

    /// Keeps the objects that a promise needs.
    fn keep_promise(&self, promise: &Promise, kept: &mut Kept) {
        let lineage = self.lineage(promise.leaf);
        let CsnRange { from, until } = promise.commits;
        if from == until {
            self.keep_point(&lineage, from, kept);
            return;
        }
        let reach = self.reach(self.listing, &lineage);
        // The range may fall into several restorable stretches. The objects that lead to the first commit of each are
        // kept.
        let mut after = from.prev();
        for range in reach.ranges.iter().filter(|range| range.until >= from && range.from <= until) {
            let first = range.from.max(from);
            if !self.keep_point(&lineage, first, kept) && first == from {
                after = from;
            }
        }
        self.keep_range(&lineage, CsnRange { from: after, until }, false, kept);
    }

    /// Keeps the objects that a restore to `csn` reads. Returns whether these include the chunk that holds that
    /// commit.
    fn keep_point(&self, lineage: &Lineage, csn: Csn, kept: &mut Kept) -> bool {
        let is_at = |start: &BaseStart| {
            start.is_whole() && start.base.csn == csn && lineage.contains(start.base) && self.is_usable(start)
        };
        if let Some(start) = self.listing.base_starts().rev().find(is_at) {
            kept.bases.insert(start.base);
            return false;
        }
        let over_runs = self.coarse.as_ref().and_then(|coarse| self.plan_to(coarse, lineage, csn).ok());
        let Some(plan) = over_runs.or_else(|| self.plan_to(&self.lean, lineage, csn).ok()) else { return false };
        for step in &plan.steps {
            match step {
                Step::Base(step) => _ = kept.bases.insert(step.base),
                Step::Run(step) => _ = kept.runs.insert(step.run),
                Step::Chunk(step) => _ = kept.chunks.insert(step.chunk),
            }
        }
        plan.chunks().last().is_some_and(|step| step.use_until == csn)
    }

    /// Plans a restore to `csn` over a listing.
    pub(super) fn plan_to(&self, listing: &Listing, lineage: &Lineage, csn: Csn) -> Result<Plan, Shortfall> {
        restore_plan(&listing.up_to(csn), lineage, csn, &self.skipped, &self.skipped_runs, &RouteCosts::DEFAULT)
    }

    /// Keeps the bases of a range, and the chunks with commits above the range's first csn.
    fn keep_range(&self, lineage: &Lineage, range: CsnRange, with_replaced: bool, kept: &mut Kept) {
        let on_line = |base: &BaseName| range.contains(base.csn) && lineage.contains(*base);
        kept.bases.extend(self.listing.base_starts().map(|start| start.base).filter(on_line));
        let is_needed = |chunk: &ChunkName| {
            let until = lineage.until(chunk.epoch).unwrap_or_default().min(chunk.last);
            until > range.from && chunk.first <= until && chunk.first <= range.until
        };
        let chunks = self.listing.chunks.keys().filter(|chunk| is_needed(chunk));
        kept.chunks.extend(chunks.filter(|chunk| with_replaced || !self.replaced.contains(chunk)));
    }

    /// Keeps the bases and runs of the fine window on all lines, because they make restores faster. Without a policy,
    /// keeps all bases, runs and chunks that are not replaced.
    fn keep_young(&self, keep: &Keep, kept: &mut Kept) {
        let Some(windows) = keep.windows() else {
            kept.bases.extend(self.listing.base_starts().map(|start| start.base));
            kept.runs.extend(self.listing.whole_runs());
            kept.chunks.extend(self.lean.chunks.keys());
            return;
        };
        let start = self.material.now.0.saturating_sub(micros(windows.fine));
        let is_fine = |facts: Option<&Result<Facts, String>>| {
            facts.and_then(|facts| facts.as_ref().ok()).is_some_and(|facts| facts.time.0 >= start)
        };
        let starts = self.listing.base_starts().filter(|start| is_fine(self.material.facts.get(start)));
        kept.bases.extend(starts.map(|start| start.base));
        kept.runs.extend(self.listing.whole_runs().filter(|run| is_fine(self.material.runs.get(run))));
    }

    fn keep_pinned(&self, kept: &mut Kept, remarks: &mut Vec<String>) {
        for pin in &self.material.pins {
            let range = match &pin.record {
                Ok(record) if record.holds(&pin.stored, self.material.now) => record.range,
                Ok(_) => continue,
                Err(_) if self.is_past_grace(&pin.stored) => continue,
                Err(why) => {
                    remarks.push(format!("pin {} cannot be read, so everything is kept: {why}", pin.name));
                    PinRange::ALL
                }
            };
            let lines: Vec<Lineage> = match range.epoch {
                Some(epoch) => Lineage::of(&self.listing.epochs, epoch).into_iter().collect(),
                None => {
                    let epochs = self.listing.epochs.records().map(|record| record.epoch);
                    epochs.filter_map(|epoch| Lineage::of(&self.listing.epochs, epoch)).collect()
                }
            };
            for lineage in lines.iter().filter(|_| range.until > range.from || range.from > Csn::ZERO) {
                self.keep_range(lineage, CsnRange { from: range.from, until: range.until }, true, kept);
                let is_within = |run: &RunName| run.last > range.from && run.first <= range.until;
                kept.runs.extend(self.listing.whole_runs().filter(|run| is_within(run) && lineage.contains_run(*run)));
            }
        }
    }

    fn unusable_remarks(&self) -> Vec<String> {
        let bases = self.skipped.iter().map(|skip| (skip.base.to_string(), &skip.why));
        let runs = self.skipped_runs.iter().map(|skip| (skip.run.to_string(), &skip.why));
        bases.chain(runs).map(|(name, why)| format!("{name} cannot be restored from: {why}")).collect()
    }
}

/// Returns the last csn that two lines have in common.
fn shared_until(lineage: &Lineage, other: &Lineage) -> Csn {
    let in_common = lineage.branches().iter().zip(other.branches()).take_while(|(a, b)| a.epoch == b.epoch);
    let until = |branch: &crate::archive::epochs::Branch| branch.until_inclusive.unwrap_or(Csn(u64::MAX));
    in_common.last().map_or(Csn::ZERO, |(a, b)| until(a).min(until(b)))
}

/// Describes the first file that a manifest names and the listing lacks, or has with another length.
pub(super) fn missing_file(listing: &Listing, facts: &Facts) -> Option<String> {
    facts.files.iter().find_map(|(object, bytes)| match listing.stored(object) {
        None => Some(format!("{object} is missing")),
        Some(stored) if stored.size != *bytes => Some(format!("{object} has {} bytes instead of {bytes}", stored.size)),
        Some(_) => None,
    })
}
