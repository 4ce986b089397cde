//! Resolves a target to a csn and a plan with as few reads as possible: the manifests of the plan's base and runs, and
//! for a time the reads that [`super::times`] needs.

use super::line::{History, is_unusable};
use super::plan::{Plan, SkippedBase, SkippedRun, plan};
use super::reach::CsnRange;
use super::step::Step;
use super::target::Target;
use super::times::Times;
use crate::archive::layout::RunName;
use crate::archive::listing::BaseStart;
use crate::archive::marks;
use crate::compacted_run::RunManifest;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::plain_name::PlainName;
use crate::snapshot::manifest::Manifest;
use futures::stream::{self, StreamExt};
use std::collections::BTreeMap;

/// Limit on the number of run manifests that are read at the same time.
const MANIFESTS_IN_FLIGHT_MAX: usize = 8;

/// The manifests of runs, by run.
pub type RunManifests = BTreeMap<RunName, RunManifest>;

/// A plan and the manifests that it needs.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The base, chunks and runs that lead to the target.
    pub plan: Plan,
    /// The base's manifest; `None` if the plan has no base.
    pub manifest: Option<Manifest>,
    /// The manifests of the plan's runs.
    pub runs: RunManifests,
}

impl History {
    /// Returns the plan for a target. Skips a base or a run whose manifest is damaged or of an unknown version.
    pub async fn plan(&self, target: &Target) -> Result<Planned> {
        let mut times = Times::of(self);
        let asked = match target {
            Target::Latest => None,
            Target::At(csn) => Some(*csn),
            Target::Before(time) => Some(times.find(*time).await?),
            Target::Mark(name) => Some(self.find_mark(name).await?),
        };
        let (mut skipped, mut skipped_runs): (Vec<SkippedBase>, Vec<SkippedRun>) = (Vec::new(), Vec::new());
        loop {
            let csn = asked.or_else(|| self.latest(&skipped, &skipped_runs)).unwrap_or_default();
            let planned = plan(&self.listing, &self.lineage, csn, &skipped, &skipped_runs, &self.costs);
            let mut plan = match planned {
                Ok(plan) => plan,
                Err(shortfall) => return Err(times.unreachable(target, csn, shortfall, &skipped).await),
            };
            if let (Target::Latest, Some(lost)) = (target, plan.lost.first()) {
                return Err(latest_is_lost(lost, csn));
            }
            let Some(runs) = self.run_manifests(&plan.steps, &mut skipped_runs).await? else { continue };
            let Some(start) = plan.start() else { return Ok(Planned { plan, manifest: None, runs }) };
            match self.manifest(start).await {
                Ok(manifest) => {
                    plan.complete(&manifest);
                    return Ok(Planned { plan, manifest: Some(manifest), runs });
                }
                Err(error) if is_unusable(&error) => {
                    let BaseStart { base, after } = start;
                    tracing::warn!(%base, %error, "a base cannot be used; the base before it is tried");
                    skipped.push(SkippedBase { base, after, why: error.to_string() });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the manifests of the runs among `steps`. Returns `None` if a manifest is unusable, and then adds its run to `skipped`.
    pub(crate) async fn run_manifests(
        &self,
        steps: &[Step],
        skipped: &mut Vec<SkippedRun>,
    ) -> Result<Option<RunManifests>> {
        let runs = steps.iter().filter_map(Step::run);
        let reads = runs.map(|step| async move { (step.run, self.run_manifest(step.run).await) });
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffered(MANIFESTS_IN_FLIGHT_MAX);
        let mut manifests = RunManifests::new();
        let mut are_all_usable = true;
        while let Some((run, outcome)) = reads.next().await {
            match outcome {
                Ok(manifest) => drop(manifests.insert(run, manifest)),
                Err(error) if is_unusable(&error) => {
                    tracing::warn!(%run, %error, "a compacted run cannot be used; its chunks are used if the archive \
                                                  has them");
                    skipped.push(SkippedRun { run, why: error.to_string() });
                    are_all_usable = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(are_all_usable.then_some(manifests))
    }

    /// Returns the last commit that can be restored without the skipped bases and runs.
    fn latest(&self, skipped: &[SkippedBase], skipped_runs: &[SkippedRun]) -> Option<Csn> {
        let is_usable = |start: &BaseStart| skipped.iter().all(|skip| !skip.is(*start));
        let is_run_usable = |run: &RunName| skipped_runs.iter().all(|skip| skip.run != *run);
        self.reach_with(is_usable, is_run_usable).latest()
    }
}

impl History {
    /// Returns the commit of a mark, which must lie on this line.
    async fn find_mark(&self, name: &PlainName) -> Result<Csn> {
        let target = Target::Mark(name.clone()).to_string();
        let Some(mark) = marks::read(&self.archive, name).await? else {
            let known: Vec<_> = self.listing.marks.keys().map(PlainName::as_str).collect();
            return Err(Error::Unreachable {
                target,
                reason: format!("{} has no mark of this name", self.archive.url()),
                nearest: if known.is_empty() { "no mark".to_owned() } else { format!("marks {}", known.join(", ")) },
            });
        };
        if mark.is_on(&self.lineage) {
            return Ok(mark.csn);
        }
        Err(Error::Unreachable {
            target,
            reason: format!(
                "the mark is csn {} of epoch {}, which does not lie on the history of epoch {}: a later epoch \
                 abandoned it",
                mark.csn,
                mark.epoch,
                self.lineage.leaf()
            ),
            nearest: format!("the mark itself, with --epoch {}", mark.epoch),
        })
    }
}

/// Builds the error for commits that are missing before the newest one: "latest" must not silently mean "the last
/// commit before the missing ones".
fn latest_is_lost(lost: &CsnRange, reachable: Csn) -> Error {
    Error::Unreachable {
        target: Target::Latest.to_string(),
        reason: format!(
            "commits {} to {} are known to exist, but these commits or commits before them are missing from the \
             archive",
            lost.from, lost.until
        ),
        nearest: format!(
            "csn:{reachable}, the last commit before the missing ones. Name this csn as the target to restore it"
        ),
    }
}
