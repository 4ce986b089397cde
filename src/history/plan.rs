//! Plans which objects bring a directory to a target: a base, chunks and runs.
//!
//! Pure: computes a plan from a listing, a line of history and a csn. Guarantees: the steps of a plan after its base (or
//! after the empty state) carry every commit up to the target, once, in order and from this line of history only. The plan uses the newest usable base that leads to the target and of which no engine is beyond the
//! target: the newest base leaves the least to replay, and the bases of one data set are about equal in size. From the
//! base on, the plan takes the quickest route (see [`super::route`]). If the target cannot be reached, the answer names
//! the nearest commits that can.

use super::abandoned::Abandoned;
use super::reach::{CsnRange, Reach};
use super::route::{RouteCosts, Way, route, steps_between};
use super::step::{BaseStep, ChunkStep, RunStep, Step};
use crate::archive::layout::{BaseName, RunName, as_text};
use crate::archive::lineage::{Coverage, Lineage};
use crate::archive::listing::{BaseStart, Listing};
use crate::csn::{Csn, Epoch};
use crate::snapshot::manifest::Manifest;
use serde::Serialize;

/// The objects to read, and their order, to get to a csn.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Plan {
    /// The csn of the resulting state.
    pub target: Csn,
    /// The epoch that made the target's commit.
    pub epoch: Epoch,
    /// The epoch whose line of history the plan follows: `epoch` or a descendant of it.
    pub leaf: Epoch,
    /// The steps, in the order in which they are carried out: the base, unless the plan starts from the empty state,
    /// and then chunks and runs in csn order, each beginning where the step before it ends.
    pub steps: Vec<Step>,
    /// Unusable bases between the plan's base and the target, each with the reason.
    pub skipped: Vec<SkippedBase>,
    /// Unusable runs, each with the reason.
    pub skipped_runs: Vec<SkippedRun>,
    /// Number of objects to fetch; includes the SST files only after [`Plan::complete`].
    pub objects: u64,
    /// Bytes of the base, set by [`Plan::complete`]; 0 before that call and without a base.
    pub base_bytes: u64,
    /// Bytes of the chunks.
    pub log_bytes: u64,
    /// Bytes of the runs.
    pub run_bytes: u64,
    /// Estimated milliseconds to get from the base to the target.
    pub estimate_ms: u64,
    /// Estimated milliseconds over chunks alone; `None` if chunks alone do not reach the target.
    pub estimate_chunks_ms: Option<u64>,
    /// Archived commits that do not lie on the archive's newest line, except those of `leaf`.
    pub abandoned: Vec<Abandoned>,
    /// Later commits of this line that cannot be restored because these commits, or commits before them, are missing.
    pub lost: Vec<CsnRange>,
    /// The line of history that the plan follows.
    #[serde(skip)]
    pub lineage: Lineage,
}

/// A run that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SkippedRun {
    /// The run.
    #[serde(serialize_with = "as_text")]
    pub run: RunName,
    /// Why the run cannot be used.
    pub why: String,
}

/// A base that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SkippedBase {
    /// The base.
    #[serde(serialize_with = "as_text")]
    pub base: BaseName,
    /// The base needs the chunks after this commit.
    pub after: Csn,
    /// Why the base cannot be used.
    pub why: String,
}

/// Why a csn cannot be restored, and the nearest csns that can.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    /// The reason.
    pub reason: String,
    /// The nearest restorable commits below the csn.
    pub below: Option<CsnRange>,
    /// The nearest restorable commits above the csn.
    pub above: Option<CsnRange>,
}

impl SkippedBase {
    /// Reports whether this is the base `start`.
    #[must_use]
    pub fn is(&self, start: BaseStart) -> bool {
        (self.base, self.after) == (start.base, start.after)
    }
}

impl Plan {
    /// Adds the figures that only the base's manifest tells.
    pub fn complete(&mut self, manifest: &Manifest) {
        assert_eq!(self.start(), Some(manifest.start()), "the manifest of the plan's own base");
        let own = manifest.memory.files.len() + manifest.completion.len() + manifest.disk.files.len();
        self.objects = self.step_objects() + own as u64 + 1;
        self.base_bytes = manifest.bytes();
    }

    /// Returns the base and the commit after which it needs chunks; `None` without a base.
    #[must_use]
    pub fn start(&self) -> Option<BaseStart> {
        self.steps.first().and_then(Step::base).map(BaseStep::start)
    }

    /// Returns the base; `None` if the plan starts from the empty state.
    #[must_use]
    pub fn base(&self) -> Option<BaseName> {
        self.start().map(|start| start.base)
    }

    /// Returns the commit after which the first chunk or run begins; 0 without a base.
    #[must_use]
    pub fn after(&self) -> Csn {
        self.start().map_or(Csn::ZERO, |start| start.after)
    }

    /// Returns the steps after the base.
    #[must_use]
    pub fn after_base(&self) -> &[Step] {
        &self.steps[usize::from(self.start().is_some())..]
    }

    /// Returns the steps over chunks, in csn order.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkStep> {
        self.steps.iter().filter_map(Step::chunk)
    }

    /// Returns the steps over runs, in csn order.
    pub fn runs(&self) -> impl Iterator<Item = RunStep> {
        self.steps.iter().filter_map(Step::run)
    }

    /// Returns the number of objects of the chunks and runs.
    fn step_objects(&self) -> u64 {
        self.chunks().count() as u64 + self.runs().map(|step| step.files + 1).sum::<u64>()
    }

    /// Returns the number of bytes to fetch.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.base_bytes + self.log_bytes + self.run_bytes
    }

    /// Returns the number of commits from the base to the target.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.target.since(self.after())
    }
}

/// Plans the route to `target` on `lineage` that is quickest by `costs`, without the unusable bases in `skipped` and the
/// unusable runs in `skipped_runs`.
pub fn plan(
    listing: &Listing,
    lineage: &Lineage,
    target: Csn,
    skipped: &[SkippedBase],
    skipped_runs: &[SkippedRun],
    costs: &RouteCosts,
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
            route(listing, lineage, way, run_usable, costs).map(|route| (start, route))
        })
        .expect("each restorable commit is reached from a base or from the first commit");
    let after = start.map_or(Csn::ZERO, |start| start.after);
    let base_objects = start.map_or(0, |start| listing.bases[&start.base].files.len() as u64 + 1);
    let mut plan = Plan {
        target,
        epoch: lineage.epoch_at(target),
        leaf: lineage.leaf(),
        steps: start.map(|start| Step::Base(start.into())).into_iter().chain(route.steps).collect(),
        skipped: skipped.iter().filter(|skip| skip.base.csn > after && skip.base.csn <= target).cloned().collect(),
        skipped_runs: skipped_runs.to_vec(),
        objects: 0,
        base_bytes: 0,
        log_bytes: 0,
        run_bytes: 0,
        estimate_ms: route.cost_ns / 1_000_000,
        estimate_chunks_ms: route.chunks_cost_ns.map(|cost| cost / 1_000_000),
        abandoned: Abandoned::all(listing).into_iter().filter(|left| left.epoch != lineage.leaf()).collect(),
        lost: reach.gaps.iter().copied().filter(|gap| gap.until > target).collect(),
        lineage: lineage.clone(),
    };
    plan.log_bytes = plan.chunks().map(|step| step.bytes).sum();
    plan.run_bytes = plan.runs().map(|step| step.bytes).sum();
    plan.objects = plan.step_objects() + base_objects;
    Ok(plan)
}

/// Returns the uses up to `target` as steps with the sizes from the listing. Stops at the first gap.
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
            (Some(gap), _) => format!("csn {gap} cannot be restored: their chunks are missing"),
            (None, Some(coarse)) => {
                format!("csn {coarse} cannot be restored one by one, because a compacted run replaces their chunks")
            }
            (None, None) => "the chunks up to the target are missing".to_owned(),
        },
    };
    Shortfall { reason, below, above }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
