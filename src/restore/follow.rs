//! Brings the engines from the base to the target with the plan's chunks and runs, and routes around unusable objects.
//!
//! Guarantees: a run whose files contradict its manifest, and a chunk that is damaged or has vanished (merged or pruned
//! after the listing), is passed over if another route leads on from the engines' position. The report names every
//! object that was passed over. The limits of [`Engines::apply`] and [`ChunkFetch`] bound the memory.

use super::apply::{Applied, Arrival, Ended, Engines};
use super::options::Options;
use super::progress::{Meter, Phase};
use super::runs::RunFetch;
use crate::archive::layout::{ChunkName, ObjectName, RunName};
use crate::error::{Error, Kind, Result};
use crate::history::fetch::ChunkFetch;
use crate::history::line::{History, full_name};
use crate::history::plan::SkippedRun;
use crate::history::resolve::{Planned, RunManifests};
use crate::history::route::{Way, route};
use crate::history::step::{ChunkStep, RunStep, Step, take_chunks};
use crate::history::unpack::Unpacker;
use crate::threads::blocking;
use serde::Serialize;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Limit on the chunks that wait between fetching and unpacking, in addition to the chunks in flight.
const ARRIVALS_MAX: usize = 1;

/// The chunks and runs that were applied after the base.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub(super) struct Followed {
    /// The commits that were applied from chunks.
    pub applied: Applied,
    /// Number of runs.
    pub runs: u64,
    /// Number of commits that these runs cover.
    pub run_commits: u64,
    /// Number of files of these runs.
    pub run_files: u64,
    /// Objects that were passed over, with reasons.
    pub remarks: Vec<String>,
}

/// Objects that cannot be used.
#[derive(Default)]
struct Bad {
    chunks: HashSet<ChunkName>,
    runs: Vec<SkippedRun>,
}

/// The object that cannot be used.
enum Culprit {
    Chunk(ChunkName),
    Run(RunName),
}

/// Brings the engines from their position to the plan's target.
pub(super) async fn follow(
    history: &History,
    planned: &Planned,
    mut engines: Engines,
    options: &Options,
) -> Result<(Engines, Followed)> {
    let total = planned.plan.log_bytes + planned.plan.run_bytes;
    let meter = Arc::new(Meter::begin(&options.progress, Phase::Log, total));
    let mut followed = Followed::default();
    let mut bad = Bad { runs: planned.plan.skipped_runs.clone(), ..Bad::default() };
    let mut steps: VecDeque<Step> = planned.plan.after_base().iter().copied().collect();
    let mut manifests = planned.runs.clone();
    let mut fetching: Option<RunFetch> = None;
    while let Some(step) = steps.front().copied() {
        // Fetches the next run while the steps before it are applied.
        let begin = |run: RunName| {
            let manifest = manifests[&run].clone();
            RunFetch::begin(&history.archive, &options.io, &engines.scratch, manifest, Arc::clone(&meter))
        };
        let (culprit, error) = match step {
            Step::Base(_) => unreachable!("only the first step of a plan is a base"),
            Step::Chunk(_) => {
                let chunks = take_chunks(&mut steps);
                fetching = fetching.or_else(|| next_run(&steps).map(begin));
                let ended;
                (engines, ended) = apply_chunks(history, chunks, engines, &meter, &mut followed.applied).await?;
                let Some((chunk, error)) = ended else { continue };
                (Culprit::Chunk(chunk), error)
            }
            Step::Run(RunStep { run: name, .. }) => {
                steps.pop_front();
                let mut run = fetching.take().unwrap_or_else(|| begin(name));
                assert_eq!(run.manifest().run(), name, "runs are fetched in order");
                match run.arrived().await {
                    Ok(()) => {
                        fetching = next_run(&steps).map(begin);
                        engines = apply_run(run, engines, options, &mut followed).await?;
                        continue;
                    }
                    Err(error) => (Culprit::Run(name), error),
                }
            }
        };
        if error.kind() != Kind::Integrity {
            return Err(error);
        }
        fetching = None;
        let way = Way { from: engines.position.csn, chunks_until: engines.disk_at, target: planned.plan.target };
        let Some(around) = bad.way_around(history, &culprit, &error, way).await? else {
            return Err(error);
        };
        tracing::warn!(csn = engines.position.csn.0, %error, "an object cannot be used; another route replaces it");
        followed.remarks.push(format!("skipped: {error}"));
        (steps, manifests) = around;
    }
    Ok((engines, followed))
}

fn next_run(steps: &VecDeque<Step>) -> Option<RunName> {
    steps.iter().find_map(Step::run).map(|step| step.run)
}

async fn apply_run(run: RunFetch, mut engines: Engines, options: &Options, followed: &mut Followed) -> Result<Engines> {
    let manifest = run.manifest();
    followed.runs += 1;
    followed.run_commits += manifest.last.since(manifest.first) + 1;
    followed.run_files += manifest.files();
    let io = Arc::clone(&options.io);
    blocking(move || run.apply(&*io, &mut engines).map(|()| engines)).await
}

/// Fetches and applies chunks. Ends before the first chunk that cannot be fetched or read, and returns that chunk.
async fn apply_chunks(
    history: &History,
    steps: Vec<ChunkStep>,
    mut engines: Engines,
    meter: &Arc<Meter>,
    applied: &mut Applied,
) -> Result<(Engines, Option<(ChunkName, Error)>)> {
    let mut unpacker = Unpacker::new(history.lineage.clone(), engines.position);
    let (arrivals, mut arrived) = mpsc::channel::<(ChunkStep, Result<Arrival>)>(ARRIVALS_MAX);
    let meter = Arc::clone(meter);
    let applier = blocking(move || {
        let next = || arrived.blocking_recv();
        let ended = engines.apply(&mut unpacker, next, &|bytes| meter.add(bytes))?;
        Ok((engines, ended))
    });
    let feeder = async {
        let mut fetch = ChunkFetch::new(&history.archive, steps);
        while let Some((step, fetched)) = fetch.next().await {
            let failed = fetched.is_err();
            let arrival =
                fetched.map(|bytes| (step, full_name(&history.archive, &ObjectName::Chunk(step.chunk)), bytes));
            // The channel closes only if the applier failed; the applier returns its error below.
            if arrivals.send((step, arrival)).await.is_err() || failed {
                break;
            }
        }
        drop(arrivals);
    };
    let ((), outcome) = futures::future::join(feeder, applier).await;
    let (engines, Ended { applied: more, failed }) = outcome?;
    applied.add(more);
    Ok((engines, failed.map(|(step, error)| (step.chunk, error))))
}

impl Bad {
    /// Lists the archive again and returns steps that avoid all unusable objects, and the manifests of the runs among
    /// them; `None` if there is no such route.
    async fn way_around(
        &mut self,
        history: &History,
        culprit: &Culprit,
        error: &Error,
        way: Way,
    ) -> Result<Option<(VecDeque<Step>, RunManifests)>> {
        match culprit {
            Culprit::Chunk(chunk) => drop(self.chunks.insert(*chunk)),
            Culprit::Run(run) => self.runs.push(SkippedRun { run: *run, why: error.to_string() }),
        }
        let mut now = History::read(&history.archive, Some(history.lineage.leaf())).await?;
        now.listing.chunks.retain(|chunk, _| !self.chunks.contains(chunk));
        loop {
            let is_usable = |run: &RunName| self.runs.iter().all(|skip| skip.run != *run);
            let Some(route) = route(&now.listing, &history.lineage, way, is_usable, &history.costs) else {
                return Ok(None);
            };
            if let Some(manifests) = now.run_manifests(&route.steps, &mut self.runs).await? {
                return Ok(Some((route.steps.into(), manifests)));
            }
        }
    }
}
