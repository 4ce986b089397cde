//! Which objects bring a directory to a target: the base, the chunks, and what cannot be had.
//!
//! Pure: from a listing, a line of history and a csn to a plan. Guarantees: a plan's chunks and runs carry every commit
//! after its base (or after nothing) up to the target, once and in order, from this line of history only; among the
//! usable bases the newest one that leads to the target is taken, because the least is left to do from it, and bases of
//! one data set are about equal in size; none of which an engine is beyond the target. From there the quickest way is
//! taken (see [`super::route`]). What cannot be planned is answered with the nearest commits that can.

use super::abandoned::Abandoned;
use super::reach::{CsnRange, Reach};
use super::route::{Way, route, steps_between};
use crate::archive::layout::{BaseName, ChunkName, RunName};
use crate::archive::lineage::{Coverage, Lineage};
use crate::archive::listing::{BaseStart, Listing};
use crate::csn::{Csn, Epoch};
use crate::snapshot::manifest::Manifest;
use serde::{Serialize, Serializer};
use std::fmt;

/// What to read, and in which order, to get to a csn.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Plan {
    /// The commit to end at.
    pub target: Csn,
    /// The generation that made the target's commit.
    pub epoch: Epoch,
    /// The generation whose line of history is followed; `epoch` or a descendant of it.
    pub leaf: Epoch,
    /// What to start from; none: from nothing.
    #[serde(serialize_with = "as_text_or_null")]
    pub base: Option<BaseName>,
    /// The commit after which the chunks begin: the base's, or, if its engines were cut at different commits, the lowest
    /// of theirs; 0 without a base.
    pub after: Csn,
    /// Bases nearer to the target that could not be used, and why.
    pub skipped: Vec<SkippedBase>,
    /// Runs that cannot be used, and why.
    pub skipped_runs: Vec<SkippedRun>,
    /// In csn order, touching each other but where a run lies between.
    pub chunks: Vec<ChunkStep>,
    /// In csn order.
    pub runs: Vec<RunStep>,
    /// Objects to fetch. SSTs are among them once [`Plan::complete`] knows them.
    pub objects: u64,
    /// Bytes of the base, known once [`Plan::complete`] was told; 0 before and without a base.
    pub base_bytes: u64,
    /// Bytes of the chunks.
    pub log_bytes: u64,
    /// Bytes of the runs.
    pub run_bytes: u64,
    /// Estimated milliseconds from the base to the target.
    pub estimate_ms: u64,
    /// What chunks alone are estimated to take; none: they do not lead there.
    pub estimate_chunks_ms: Option<u64>,
    /// Commits of other lines than this one that no newer line continues.
    pub abandoned: Vec<Abandoned>,
    /// Later commits of this line of history that cannot be restored because something before them is missing.
    pub lost: Vec<CsnRange>,
    /// The line of history.
    #[serde(skip)]
    pub lineage: Lineage,
}

/// What to take from one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ChunkStep {
    /// The chunk.
    #[serde(serialize_with = "as_text")]
    pub chunk: ChunkName,
    /// First csn to take from it.
    pub use_from: Csn,
    /// Last csn to take from it.
    pub use_until: Csn,
    /// Its length.
    pub bytes: u64,
}

/// A run to take over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RunStep {
    /// The run.
    #[serde(serialize_with = "as_text")]
    pub run: RunName,
    /// Bytes of its files.
    pub bytes: u64,
    /// Number of its files, without the manifest.
    pub files: u64,
}

/// A run that was passed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SkippedRun {
    /// The run.
    #[serde(serialize_with = "as_text")]
    pub run: RunName,
    /// What is wrong with it.
    pub why: String,
}

/// A base that was passed over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SkippedBase {
    /// The base.
    #[serde(serialize_with = "as_text")]
    pub base: BaseName,
    /// The commit after which it needs chunks.
    pub after: Csn,
    /// What is wrong with it.
    pub why: String,
}

/// Why a csn cannot be had, and what can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    /// What stands in the way.
    pub reason: String,
    /// The nearest restorable commits below.
    pub below: Option<CsnRange>,
    /// The nearest restorable commits above.
    pub above: Option<CsnRange>,
}

/// A name in its text form.
pub(crate) fn as_text<T: fmt::Display, S: Serializer>(name: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(name)
}

fn as_text_or_null<T: fmt::Display, S: Serializer>(name: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => to.collect_str(name),
        None => to.serialize_none(),
    }
}

impl SkippedBase {
    /// Whether it is this one.
    #[must_use]
    pub fn is(&self, start: BaseStart) -> bool {
        (self.base, self.after) == (start.base, start.after)
    }
}

impl Plan {
    /// Adds what only the base's manifest tells.
    pub fn complete(&mut self, manifest: &Manifest) {
        assert_eq!(self.start(), Some(manifest.start()), "the manifest of the plan's own base");
        let own = manifest.memory.files.len() + manifest.completion.len() + manifest.disk.files.len();
        self.objects = self.step_objects() + own as u64 + 1;
        self.base_bytes = manifest.bytes();
    }

    /// The base and how it starts.
    #[must_use]
    pub fn start(&self) -> Option<BaseStart> {
        self.base.map(|base| BaseStart { base, after: self.after })
    }

    /// Objects of chunks and runs.
    fn step_objects(&self) -> u64 {
        self.chunks.len() as u64 + self.runs.iter().map(|step| step.files + 1).sum::<u64>()
    }

    /// Bytes to fetch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.base_bytes + self.log_bytes + self.run_bytes
    }

    /// Commits from the base to the target.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.target.since(self.after)
    }
}

/// Plans the way to `target` on `lineage`. `skipped` are bases that turned out to be unusable.
pub fn plan(listing: &Listing, lineage: &Lineage, target: Csn, skipped: &[SkippedBase]) -> Result<Plan, Shortfall> {
    plan_without(listing, lineage, target, skipped, &[])
}

/// The same without runs that turned out to be unusable.
pub fn plan_without(
    listing: &Listing,
    lineage: &Lineage,
    target: Csn,
    skipped: &[SkippedBase],
    skipped_runs: &[SkippedRun],
) -> Result<Plan, Shortfall> {
    let usable = |start: &BaseStart| lineage.contains(start.base) && !skipped.iter().any(|skip| skip.is(*start));
    let run_usable = |run: &RunName| !skipped_runs.iter().any(|skip| skip.run == *run);
    let reach = Reach::with_runs(listing, lineage, listing.base_starts().filter(usable), run_usable);
    if !reach.contains(target) {
        return Err(shortfall(&reach, lineage, target));
    }
    let starts = listing.base_starts().rev().filter(usable).filter(|start| start.base.csn <= target).map(Some);
    let (start, route) = starts
        .chain([None])
        .find_map(|start| {
            let way = start.map_or(Way { target, ..Way::default() }, |start| Way::from_base(start, target));
            route(listing, lineage, way, run_usable).map(|route| (start, route))
        })
        .expect("what is in reach is reached from a base or from nothing");
    let (base, after) = (start.map(|start| start.base), start.map_or(Csn::ZERO, |start| start.after));
    let base_objects = base.map_or(0, |base| listing.bases[&base].files.len() as u64 + 1);
    let mut plan = Plan {
        target,
        epoch: lineage.epoch_at(target),
        leaf: lineage.leaf(),
        base,
        after,
        skipped: skipped.iter().filter(|skip| skip.base.csn > after && skip.base.csn <= target).cloned().collect(),
        skipped_runs: skipped_runs.to_vec(),
        objects: 0,
        base_bytes: 0,
        log_bytes: route.chunks.iter().map(|step| step.bytes).sum(),
        run_bytes: route.runs.iter().map(|step| step.bytes).sum(),
        estimate_ms: route.cost_ns / 1_000_000,
        estimate_chunks_ms: route.chunks_cost_ns.map(|cost| cost / 1_000_000),
        abandoned: Abandoned::all(listing).into_iter().filter(|left| left.epoch != lineage.leaf()).collect(),
        lost: reach.gaps.iter().copied().filter(|gap| gap.until > target).collect(),
        chunks: route.chunks,
        runs: route.runs,
        lineage: lineage.clone(),
    };
    plan.objects = plan.step_objects() + base_objects;
    Ok(plan)
}

/// The uses up to `target`, with what the listing knows about their chunks. Stops at the first gap.
pub(crate) fn steps(listing: &Listing, coverage: &Coverage, target: Csn) -> Vec<ChunkStep> {
    let after = coverage.uses.first().map_or(target, |part| part.use_from.prev());
    steps_between(listing, coverage, after, coverage.reachable(target).min(target))
}

fn shortfall(reach: &Reach, lineage: &Lineage, target: Csn) -> Shortfall {
    let (below, above) = reach.around(target);
    let epoch = lineage.leaf();
    let reason = match reach.known_until {
        Csn::ZERO => format!("the archive holds no commit of epoch {epoch}'s history"),
        until if target > until => format!("the history of epoch {epoch} ends at csn {until}"),
        _ => match (
            reach.gaps.iter().find(|gap| gap.contains(target)),
            reach.coarse.iter().find(|coarse| coarse.contains(target)),
        ) {
            (Some(gap), _) => format!("csn {gap} cannot be restored: chunks are missing there"),
            (None, Some(coarse)) => {
                format!("csn {coarse} cannot be restored one by one: a run has taken the place of their chunks")
            }
            (None, None) => "the chunks up to it are no longer there".to_owned(),
        },
    };
    Shortfall { reason, below, above }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
