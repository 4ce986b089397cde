//! Compares routes with an oracle that tries every route.

use super::*;
use crate::archive::epochs::{EpochRecord, EpochTree};
use crate::archive::layout::BaseName;
use crate::archive::layout::ChunkName;
use crate::archive::listing::{BaseObjects, Stored};
use crate::csn::{CommitTime, Epoch, HistoryHash};
use crate::history::reach::Reach;
use crate::plain_name::PlainName;
use chrono::DateTime;
use proptest::prelude::*;

fn stored(size: u64) -> Stored {
    Stored { size, modified: DateTime::default() }
}

/// A second epoch forks from the first after csn 15. Chunks as (epoch, first, last), runs as (epoch, first, last,
/// bytes).
fn listing(chunks: &[(u32, u64, u64)], runs: &[(u32, u64, u64, u64)]) -> Listing {
    let records = [
        EpochRecord::first(Epoch(1), "n".into(), CommitTime(0)),
        EpochRecord::forked(Epoch(2), Epoch(1), (Csn(15), HistoryHash::ZERO), "n".into(), CommitTime(0)),
    ];
    let chunk = |&(epoch, first, last): &_| ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) };
    let run = |&(epoch, first, last, bytes): &(u32, u64, u64, u64)| {
        let name: PlainName = "sub-000000.sst".parse().unwrap();
        let objects =
            BaseObjects { manifest: Some(stored(1)), files: [(name, stored(bytes))].into(), ..BaseObjects::default() };
        (RunName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) }, objects)
    };
    Listing {
        epochs: EpochTree::from_records(records, "test").expect("a tree"),
        chunks: chunks.iter().map(|name| (chunk(name), stored(100_000))).collect(),
        runs: runs.iter().map(run).collect(),
        ..Listing::default()
    }
}

fn found_by(listing: &Listing, from: u64, target: u64, costs: &RouteCosts) -> Option<Route> {
    let lineage = Lineage::newest(&listing.epochs).unwrap();
    let way = Way { from: Csn(from), target: Csn(target), ..Way::default() };
    route(listing, &lineage, way, |_| true, costs)
}

fn found(listing: &Listing, from: u64, target: u64) -> Option<Route> {
    found_by(listing, from, target, &RouteCosts::DEFAULT)
}

type Steps = (Vec<(u64, u64)>, Vec<(u64, u64)>);

fn steps(route: &Route) -> Steps {
    let chunks = route.steps.iter().filter_map(Step::chunk).map(|step| (step.use_from.0, step.use_until.0));
    let runs = route.steps.iter().filter_map(Step::run).map(|step| (step.run.first.0, step.run.last.0));
    (chunks.collect(), runs.collect())
}

#[test]
fn a_run_is_taken_where_it_is_quicker() {
    let many = [(2, 1, 5_000_000)];
    let cheap = listing(&many, &[(2, 101, 4_000_000, 1_000_000)]);
    let route = found(&cheap, 0, 4_500_000).unwrap();
    assert_eq!(steps(&route), (vec![(1, 100), (4_000_001, 4_500_000)], vec![(101, 4_000_000)]));
    assert!(route.cost_ns < route.chunks_cost_ns.unwrap());
    let dear = listing(&many, &[(2, 101, 4_000_000, 100_000_000_000)]);
    assert_eq!(steps(&found(&dear, 0, 4_500_000).unwrap()), (vec![(1, 4_500_000)], vec![]));
    assert_eq!(steps(&found(&cheap, 101, 4_500_000).unwrap()), (vec![(102, 4_500_000)], vec![]), "it begins too early");
    assert_eq!(steps(&found(&cheap, 0, 3_999_999).unwrap()), (vec![(1, 3_999_999)], vec![]), "it ends too late");
}

#[test]
fn runs_lead_over_chunks_that_are_gone() {
    let listing = listing(&[(1, 1, 4), (1, 9, 12)], &[(1, 1, 4, 9), (1, 5, 8, 9), (1, 5, 6, 9), (1, 13, 14, 9)]);
    let found = |from, target| found_by(&listing, from, target, &RouteCosts::FREE_RUNS);
    assert_eq!(steps(&found(0, 14).unwrap()), (vec![(9, 12)], vec![(1, 4), (5, 8), (13, 14)]));
    assert_eq!(found(0, 14).unwrap().chunks_cost_ns, None);
    assert_eq!(found(0, 7), None);
    assert_eq!(steps(&found(0, 6).unwrap()).1, [(1, 4), (5, 6)]);
    assert_eq!(found(8, 8).unwrap(), Route { chunks_cost_ns: Some(0), ..Route::default() });
}

#[test]
fn between_the_cuts_of_a_base_only_chunks_lead() {
    let listing = listing(&[(1, 1, 8)], &[(1, 5, 6, 0), (1, 7, 8, 0), (1, 9, 12, 0)]);
    let lineage = Lineage::newest(&listing.epochs).unwrap();
    let base = BaseStart { base: BaseName { csn: Csn(6), epoch: Epoch(1) }, after: Csn(4) };
    let route = route(&listing, &lineage, Way::from_base(base, Csn(12)), |_| true, &RouteCosts::FREE_RUNS).unwrap();
    assert_eq!(steps(&route), (vec![(5, 6)], vec![(7, 8), (9, 12)]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_route_exists_exactly_where_something_leads(
        chunks in proptest::collection::vec((1..3u32, 1..28u64, 0..6u64), 0..12),
        runs in proptest::collection::vec((1..3u32, 1..28u64, 0..9u64, 0..3u64), 0..7),
        // Csn of the base, and number of commits between its cuts.
        bases in proptest::collection::vec((5..30u64, 0..4u64), 0..3),
        from in 0..12u64,
    ) {
        let chunks: Vec<_> = chunks.into_iter().map(|(epoch, first, more)| (epoch, first, first + more)).collect();
        let runs: Vec<_> = runs.into_iter().map(|(epoch, first, more, mb)| (epoch, first, first + more, mb << 20)).collect();
        let listing = listing(&chunks, &runs);
        let lineage = Lineage::newest(&listing.epochs).unwrap();
        let counts = |epoch: u32, csn: u64| epoch == 2 || csn <= 15;
        let carried = |csn: u64| chunks.iter().any(|&(epoch, first, last)| first <= csn && csn <= last && counts(epoch, csn));
        let led = |reached: &[bool], csn: u64| {
            runs.iter().any(|&(epoch, first, last, _)| last == csn && counts(epoch, last) && reached[first as usize - 1])
        };
        // Routes that begin with the state `from`.
        let mut reached = vec![false; 41];
        reached[from as usize] = true;
        for csn in from + 1..=40 {
            reached[csn as usize] = (reached[csn as usize - 1] && carried(csn)) || led(&reached, csn);
        }
        for csn in from..=40 {
            let way = Way { from: Csn(from), target: Csn(csn), ..Way::default() };
            let route = route(&listing, &lineage, way, |_| true, &RouteCosts::FREE_RUNS);
            prop_assert_eq!(route.is_some(), reached[csn as usize], "csn {}", csn);
            let Some(route) = route else { continue };
            prop_assert!(route.chunks_cost_ns.is_none_or(|chunks| route.cost_ns <= chunks));
            let range = |step: &Step| match step {
                Step::Chunk(step) => (step.use_from.0, step.use_until.0),
                Step::Run(step) => (step.run.first.0, step.run.last.0),
                Step::Base(_) => panic!("no route leads over a base"),
            };
            let mut next = from + 1;
            for (first, last) in route.steps.iter().map(range) {
                prop_assert_eq!(first, next);
                next = last + 1;
            }
            prop_assert_eq!(next, csn + 1);
        }
        // Routes that begin with the empty state or with a base.
        let mut reached = vec![false; 41];
        reached[0] = true;
        for csn in 1..=40 {
            let by_chunk = reached[csn as usize - 1] && carried(csn);
            let is_base = |&(at, skew): &(u64, u64)| at == csn && (at - skew + 1..=at).all(carried);
            reached[csn as usize] = bases.iter().any(is_base) || by_chunk || led(&reached, csn);
        }
        let start = |&(csn, skew): &(u64, u64)| {
            BaseStart { base: BaseName { csn: Csn(csn), epoch: Epoch(2) }, after: Csn(csn - skew) }
        };
        let on_line = bases.iter().map(start);
        let reach = Reach::of(&listing, &lineage, on_line);
        let first = (1..=40).find(|&csn| reached[csn as usize]).unwrap_or(41);
        for csn in 1..=40 {
            prop_assert_eq!(reach.contains(Csn(csn)), reached[csn as usize], "csn {}", csn);
            let is_over = runs.iter().any(|&(epoch, from, last, _)| {
                counts(epoch, last) && reached[from as usize - 1] && from <= csn && csn <= last
            });
            let is_coarse = csn > first && !reached[csn as usize] && is_over;
            prop_assert_eq!(reach.coarse.iter().any(|range| range.contains(Csn(csn))), is_coarse, "csn {}", csn);
            let is_gap = csn > first && csn <= reach.known_until.0 && !reached[csn as usize] && !is_over;
            prop_assert_eq!(reach.gaps.iter().any(|range| range.contains(Csn(csn))), is_gap, "csn {}", csn);
        }
    }
}
