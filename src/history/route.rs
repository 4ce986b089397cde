//! Computes the quickest route from one state to another over chunks and compacted runs.
//!
//! Pure: a shortest-path search. Its points are the two states and the ends of runs. Chunks connect two points if they
//! hold every commit between them; a run connects the states before and after it. Guarantees: the steps of a route
//! carry the state from its first to its last point, in order and without a gap. The costs are estimates; the resulting
//! state is exact whichever route is taken.

use super::step::{ChunkStep, RunStep, Step};
use crate::archive::layout::RunName;
use crate::archive::lineage::{ChunkUse, Coverage, Lineage};
use crate::archive::listing::{BaseStart, Listing};
use crate::csn::Csn;
use std::collections::{BTreeSet, HashMap};

/// Estimated costs, in nanoseconds, by which routes are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteCosts {
    /// Replaying one commit.
    pub commit: u64,
    /// Fetching, checking, decompressing, sorting and writing one stored byte of a chunk.
    pub chunk_byte: u64,
    /// One chunk in addition to its bytes; low because many requests are in flight.
    pub chunk: u64,
    /// Fetching, hashing and writing one byte of a run's files.
    pub run_byte: u64,
    /// One file of a run in addition to its bytes: one request and one ingestion.
    pub run_file: u64,
    /// One run in addition to its files.
    pub run: u64,
}

impl RouteCosts {
    /// Estimates fitted to 48 restores on 2 cores: 12 logs of 10,000 to 1,500,000 commits, from a directory and from an
    /// S3 server with 20 ms of latency, with and without a base. They tell the quicker of the two routes in each case. A
    /// run costs about 6 ms in a directory and 30 ms on S3; the value lies between.
    pub const DEFAULT: Self =
        Self { commit: 700, chunk_byte: 15, chunk: 500_000, run_byte: 2, run_file: 1_500_000, run: 15_000_000 };

    /// Costs by which a route takes every run that it can take, however short the log is.
    #[cfg(test)]
    pub const FREE_RUNS: Self = Self { run_byte: 0, run_file: 0, run: 0, ..Self::DEFAULT };

    fn of_run(&self, step: RunStep) -> u64 {
        self.run + step.files * self.run_file + step.bytes * self.run_byte
    }
}

impl Default for RouteCosts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The two states that a route connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Way {
    /// The route begins with the state after this commit.
    pub from: Csn,
    /// Only chunks may be used up to this csn, because the disk engines already hold the effects of the commits between
    /// `from` and this csn.
    pub chunks_until: Csn,
    /// The route ends with the state after this commit.
    pub target: Csn,
}

impl Way {
    /// Returns the way from the base `start` to `target`.
    #[must_use]
    pub fn from_base(start: BaseStart, target: Csn) -> Self {
        Self { from: start.after, chunks_until: start.base.csn, target }
    }
}

/// A route from one state to another.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Route {
    /// The steps over chunks and runs, in csn order; each begins where the one before it ends.
    pub steps: Vec<Step>,
    /// Estimated duration of the route, in nanoseconds.
    pub cost_ns: u64,
    /// Estimated duration over chunks alone, in nanoseconds; `None` if chunks alone do not reach the target.
    pub chunks_cost_ns: Option<u64>,
}

/// Returns the quickest route over the chunks and the usable runs; `None` if there is none.
pub fn route(
    listing: &Listing,
    lineage: &Lineage,
    way: Way,
    is_usable: impl Fn(&RunName) -> bool,
    costs: &RouteCosts,
) -> Option<Route> {
    let Way { from, chunks_until, target } = way;
    let coverage = lineage.cover(listing.chunks.keys().copied(), from);
    let chunks = Chunks::of(listing, &coverage, costs);
    let is_within = |run: &RunName| run.first > from.max(chunks_until) && run.last <= target;
    let fits = |run: &RunName| is_within(run) && lineage.contains_run(*run) && is_usable(run);
    let runs: Vec<RunStep> = listing.whole_runs().filter(fits).map(|run| step_of(listing, run)).collect();
    let chunks_cost_ns = chunks.cost_ns(from, target);
    let (cost_ns, used) = shortest(&chunks, &runs, costs, from, target)?;
    let mut steps: Vec<Step> = Vec::new();
    let mut after = from;
    for step in used {
        let before = steps_between(listing, &coverage, after, step.run.first.prev());
        steps.extend(before.into_iter().map(Step::Chunk).chain([Step::Run(step)]));
        after = step.run.last;
    }
    steps.extend(steps_between(listing, &coverage, after, target).into_iter().map(Step::Chunk));
    Some(Route { steps, cost_ns, chunks_cost_ns })
}

/// Returns the cost of the cheapest route from `from` to `target` and the runs on it, in csn order; chunks lead where no
/// run does. `None` if there is no route.
fn shortest(
    chunks: &Chunks<'_>,
    runs: &[RunStep],
    costs: &RouteCosts,
    from: Csn,
    target: Csn,
) -> Option<(u64, Vec<RunStep>)> {
    let ends = runs.iter().flat_map(|step| [step.run.first.prev(), step.run.last]);
    let points: Vec<Csn> = ends.chain([from, target]).collect::<BTreeSet<_>>().into_iter().collect();
    let place: HashMap<Csn, usize> = points.iter().enumerate().map(|(at, point)| (*point, at)).collect();
    let mut by_end: HashMap<Csn, Vec<RunStep>> = HashMap::new();
    runs.iter().for_each(|step| by_end.entry(step.run.last).or_default().push(*step));
    // The cheapest cost to reach each point, and the run that ends there on the cheapest route; `None` if chunks lead
    // there from the point before.
    let mut best: Vec<Option<(u64, Option<RunStep>)>> = vec![None; points.len()];
    best[0] = Some((0, None));
    for at in 1..points.len() {
        let (before, point) = (points[at - 1], points[at]);
        let by_chunks = best[at - 1].zip(chunks.cost_ns(before, point));
        best[at] = by_chunks.map(|((cost, _), more)| (cost + more, None));
        for step in by_end.get(&point).into_iter().flatten() {
            let Some((cost, _)) = best[place[&step.run.first.prev()]] else { continue };
            let cost = cost + costs.of_run(*step);
            if best[at].is_none_or(|(cheapest, _)| cost < cheapest) {
                best[at] = Some((cost, Some(*step)));
            }
        }
    }
    let mut at = points.len() - 1;
    let (cost, _) = best[at]?;
    let mut used = Vec::new();
    while at > 0 {
        let (_, step) = best[at].expect("the route leads over this point");
        at = step.map_or(at - 1, |step| place[&step.run.first.prev()]);
        used.extend(step);
    }
    used.reverse();
    Some((cost, used))
}

fn step_of(listing: &Listing, run: RunName) -> RunStep {
    let files = listing.runs.get(&run).map(|objects| &objects.files);
    let bytes = files.map_or(0, |files| files.values().map(|stored| stored.size).sum());
    RunStep { run, bytes, files: files.map_or(0, |files| files.len() as u64) }
}

/// The commits that chunks cover, and the cost of replaying them up to any csn.
struct Chunks<'a> {
    uses: &'a [ChunkUse],
    /// For each use: number of csns covered before it, and their cost.
    before: Vec<(u64, u64)>,
    /// Cost of one commit of each use, including its share of the chunk's bytes.
    commit_ns: Vec<u64>,
}

impl<'a> Chunks<'a> {
    fn of(listing: &Listing, coverage: &'a Coverage, costs: &RouteCosts) -> Self {
        let (mut before, mut commit_ns, mut sum) = (Vec::new(), Vec::new(), (0, 0));
        for part in &coverage.uses {
            let bytes = listing.chunks.get(&part.chunk).map_or(0, |stored| stored.size);
            let commits = part.chunk.last.since(part.chunk.first) + 1;
            let each = costs.commit + (bytes * costs.chunk_byte + costs.chunk) / commits;
            before.push(sum);
            commit_ns.push(each);
            let used = part.use_until.since(part.use_from) + 1;
            sum = (sum.0 + used, sum.1 + used * each);
        }
        Self { uses: &coverage.uses, before, commit_ns }
    }

    /// Returns the number of csns covered up to `csn` and their cost.
    fn until(&self, csn: Csn) -> (u64, u64) {
        let Some(at) = self.uses.partition_point(|part| part.use_from <= csn).checked_sub(1) else { return (0, 0) };
        let part = &self.uses[at];
        let used = csn.min(part.use_until).since(part.use_from) + 1;
        (self.before[at].0 + used, self.before[at].1 + used * self.commit_ns[at])
    }

    /// Returns the cost of the commits after `after` up to `until`; `None` if chunks do not cover all of them.
    fn cost_ns(&self, after: Csn, until: Csn) -> Option<u64> {
        let (begin, end) = (self.until(after), self.until(until));
        (end.0 - begin.0 == until.since(after)).then(|| end.1 - begin.1)
    }
}

/// Returns the uses after `after` up to `until` as steps with the sizes from the listing. Stops at the first gap.
pub(crate) fn steps_between(listing: &Listing, coverage: &Coverage, after: Csn, until: Csn) -> Vec<ChunkStep> {
    let mut steps: Vec<ChunkStep> = Vec::new();
    let mut next = after.next();
    for &ChunkUse { chunk, use_from, use_until } in &coverage.uses {
        if use_until < next {
            continue;
        }
        let use_from = use_from.max(after.next());
        if use_from > until || use_from != next {
            break;
        }
        let bytes = listing.chunks.get(&chunk).map_or(0, |stored| stored.size);
        let use_until = use_until.min(until);
        steps.push(ChunkStep { chunk, use_from, use_until, bytes });
        next = use_until.next();
    }
    steps
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
