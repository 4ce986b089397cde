//! Computes the quickest route from one state to another over chunks and compacted runs.
//!
//! Pure: a shortest-path search. Its points are the two states and the ends of runs. Chunks connect two points if they
//! hold every commit between them; a run connects the states before and after it. Guarantees: the steps of a route
//! carry the state from its first to its last point, in order and without a gap. The costs are estimates; the resulting
//! state is exact whichever route is taken.

use super::step::{ChunkStep, RunStep};
use crate::archive::layout::RunName;
use crate::archive::lineage::{ChunkUse, Coverage, Lineage};
use crate::archive::listing::{BaseStart, Listing};
use crate::csn::Csn;
use std::collections::{BTreeSet, HashMap};

/// Estimated nanoseconds to replay one commit. All costs are estimates for 2 cores and a local archive and are not
/// fitted to a measurement; `walferry bench compact` measures a restore over chunks and over runs.
const COMMIT_NS: u64 = 1500;
/// Estimated nanoseconds to fetch, check, decompress, sort and write one stored byte of a chunk.
const CHUNK_BYTE_NS: u64 = 10;
/// Estimated nanoseconds for a chunk in addition to its bytes; low because many requests are in flight.
const CHUNK_NS: u64 = 200_000;
/// Estimated nanoseconds to fetch, hash and write one byte of a run's files.
const RUN_BYTE_NS: u64 = 6;
/// Estimated nanoseconds for a file of a run in addition to its bytes: one request and one ingestion. Zero in unit
/// tests, so that routes over the tiny logs of the tests use runs.
const RUN_FILE_NS: u64 = if cfg!(test) { 0 } else { 5_000_000 };
/// Estimated nanoseconds for a run in addition to its files. Zero in unit tests.
const RUN_NS: u64 = if cfg!(test) { 0 } else { 10_000_000 };

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
    /// The steps over chunks, in csn order; a run fills each hole between two steps.
    pub chunks: Vec<ChunkStep>,
    /// The steps over runs, in csn order.
    pub runs: Vec<RunStep>,
    /// Estimated duration of the route, in nanoseconds.
    pub cost_ns: u64,
    /// Estimated duration over chunks alone, in nanoseconds; `None` if chunks alone do not reach the target.
    pub chunks_cost_ns: Option<u64>,
}

/// Returns the quickest route over the chunks and the usable runs; `None` if there is none.
pub fn route(listing: &Listing, lineage: &Lineage, way: Way, is_usable: impl Fn(&RunName) -> bool) -> Option<Route> {
    let Way { from, chunks_until, target } = way;
    let coverage = lineage.cover(listing.chunks.keys().copied(), from);
    let chunks = Chunks::of(listing, &coverage);
    let is_within = |run: &RunName| run.first > from.max(chunks_until) && run.last <= target;
    let fits = |run: &RunName| is_within(run) && lineage.contains_run(*run) && is_usable(run);
    let runs: Vec<RunName> = listing.whole_runs().filter(fits).collect();
    let chunks_cost_ns = chunks.cost_ns(from, target);
    let (cost_ns, legs) = shortest(&chunks, listing, &runs, from, target)?;
    let mut route = Route { cost_ns, chunks_cost_ns, ..Route::default() };
    for leg in legs {
        match leg {
            Leg::Run(run) => route.runs.push(step_of(listing, run)),
            Leg::Chunks(after, until) => route.chunks.extend(steps_between(listing, &coverage, after, until)),
        }
    }
    Some(route)
}

/// A part of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leg {
    /// Chunks with the commits after the first csn up to the second.
    Chunks(Csn, Csn),
    Run(RunName),
}

/// Returns the cheapest legs from `from` to `target` and their cost; `None` if no sequence of legs connects the two.
fn shortest(
    chunks: &Chunks<'_>,
    listing: &Listing,
    runs: &[RunName],
    from: Csn,
    target: Csn,
) -> Option<(u64, Vec<Leg>)> {
    let ends = runs.iter().flat_map(|run| [run.first.prev(), run.last]);
    let points: Vec<Csn> = ends.chain([from, target]).collect::<BTreeSet<_>>().into_iter().collect();
    let place: HashMap<Csn, usize> = points.iter().enumerate().map(|(at, point)| (*point, at)).collect();
    let mut by_end: HashMap<Csn, Vec<RunName>> = HashMap::new();
    runs.iter().for_each(|run| by_end.entry(run.last).or_default().push(*run));
    // The cheapest cost to reach each point, and the last leg of that route.
    let mut best: Vec<Option<(u64, Option<Leg>)>> = vec![None; points.len()];
    best[0] = Some((0, None));
    for at in 1..points.len() {
        let (before, point) = (points[at - 1], points[at]);
        let by_chunks = best[at - 1].zip(chunks.cost_ns(before, point));
        best[at] = by_chunks.map(|((cost, _), more)| (cost + more, Some(Leg::Chunks(before, point))));
        for run in by_end.get(&point).into_iter().flatten() {
            let Some((cost, _)) = best[place[&run.first.prev()]] else { continue };
            let cost = cost + run_cost_ns(listing, *run);
            if best[at].is_none_or(|(cheapest, _)| cost < cheapest) {
                best[at] = Some((cost, Some(Leg::Run(*run))));
            }
        }
    }
    let mut legs: Vec<Leg> = Vec::new();
    let mut at = points.len() - 1;
    let (cost, _) = best[at]?;
    while let Some((_, Some(leg))) = best[at] {
        let begin = match leg {
            Leg::Chunks(after, _) => after,
            Leg::Run(run) => run.first.prev(),
        };
        match (leg, legs.last_mut()) {
            // Legs are collected from the end; two successive legs over chunks become one.
            (Leg::Chunks(after, until), Some(Leg::Chunks(next, _))) if until == *next => *next = after,
            _ => legs.push(leg),
        }
        at = place[&begin];
    }
    legs.reverse();
    Some((cost, legs))
}

fn step_of(listing: &Listing, run: RunName) -> RunStep {
    let files = listing.runs.get(&run).map(|objects| &objects.files);
    let bytes = files.map_or(0, |files| files.values().map(|stored| stored.size).sum());
    RunStep { run, bytes, files: files.map_or(0, |files| files.len() as u64) }
}

fn run_cost_ns(listing: &Listing, run: RunName) -> u64 {
    let step = step_of(listing, run);
    RUN_NS + step.files * RUN_FILE_NS + step.bytes * RUN_BYTE_NS
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
    fn of(listing: &Listing, coverage: &'a Coverage) -> Self {
        let (mut before, mut commit_ns, mut sum) = (Vec::new(), Vec::new(), (0, 0));
        for part in &coverage.uses {
            let bytes = listing.chunks.get(&part.chunk).map_or(0, |stored| stored.size);
            let commits = part.chunk.last.since(part.chunk.first) + 1;
            let each = COMMIT_NS + (bytes * CHUNK_BYTE_NS + CHUNK_NS) / commits;
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
