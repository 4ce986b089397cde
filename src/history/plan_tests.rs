//! Cases and properties of planning.

use super::*;
use crate::archive::epochs::{EpochRecord, EpochTree};
use crate::archive::layout::ChunkName;
use crate::archive::listing::{BaseObjects, Stored};
use crate::csn::{CommitTime, HistoryHash};
use chrono::DateTime;
use proptest::prelude::*;
use std::collections::BTreeMap;

const STORED: Stored = Stored { size: 100, modified: DateTime::UNIX_EPOCH };

/// Epochs as (epoch, parent, fork), parent 0 for a root; chunks as (epoch, first, last); bases as (csn, epoch).
fn listing(epochs: &[(u32, u32, u64)], chunks: &[(u32, u64, u64)], bases: &[(u64, u32)]) -> Listing {
    let records = epochs.iter().map(|&(epoch, parent, fork)| match parent {
        0 => EpochRecord::first(Epoch(epoch), "n".into(), CommitTime(0)),
        _ => {
            EpochRecord::forked(Epoch(epoch), Epoch(parent), (Csn(fork), HistoryHash::ZERO), "n".into(), CommitTime(0))
        }
    });
    let stored = STORED;
    let chunk = |&(epoch, first, last): &_| ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) };
    let whole = BaseObjects { manifest: Some(stored), ..BaseObjects::default() };
    Listing {
        epochs: EpochTree::from_records(records, "test").expect("a tree"),
        chunks: chunks.iter().map(|name| (chunk(name), stored)).collect(),
        bases: bases.iter().map(|&(csn, epoch)| (base(csn, epoch), whole.clone())).collect(),
        ..Listing::default()
    }
}

fn base(csn: u64, epoch: u32) -> BaseName {
    BaseName { csn: Csn(csn), epoch: Epoch(epoch) }
}

/// Csn of the base, 0 for none; chunks as (epoch, from, until).
type Steps = (u64, &'static [(u32, u64, u64)]);

struct Case {
    goal: &'static str,
    epochs: &'static [(u32, u32, u64)],
    chunks: &'static [(u32, u64, u64)],
    bases: &'static [(u64, u32)],
    leaf: u32,
    target: u64,
    /// A part of the expected error message, instead of a plan.
    plan: Result<Steps, &'static str>,
}

const ONE: &[(u32, u32, u64)] = &[(1, 0, 0)];
const FORK: &[(u32, u32, u64)] = &[(1, 0, 0), (2, 1, 10)];
const CASES: &[Case] = &[
    Case {
        goal: "without a base, from the first commit",
        epochs: ONE,
        chunks: &[(1, 1, 5), (1, 6, 9)],
        bases: &[],
        leaf: 1,
        target: 7,
        plan: Ok((0, &[(1, 1, 5), (1, 6, 7)])),
    },
    Case {
        goal: "the newest base at or below the target",
        epochs: ONE,
        chunks: &[(1, 1, 5), (1, 6, 9)],
        bases: &[(3, 1), (6, 1), (8, 1)],
        leaf: 1,
        target: 7,
        plan: Ok((6, &[(1, 7, 7)])),
    },
    Case {
        goal: "a base at the target needs no chunk",
        epochs: ONE,
        chunks: &[],
        bases: &[(8, 1)],
        leaf: 1,
        target: 8,
        plan: Ok((8, &[])),
    },
    Case {
        goal: "before the first base of a pruned history",
        epochs: ONE,
        chunks: &[(1, 6, 9)],
        bases: &[(7, 1)],
        leaf: 1,
        target: 6,
        plan: Err("the chunks up to the target are missing; nearest above 7 to 9"),
    },
    Case {
        goal: "behind the end",
        epochs: ONE,
        chunks: &[(1, 1, 5)],
        bases: &[],
        leaf: 1,
        target: 6,
        plan: Err("ends at csn 5; nearest below 1 to 5"),
    },
    Case {
        goal: "in a gap between restorable ranges",
        epochs: ONE,
        chunks: &[(1, 1, 3), (1, 6, 9)],
        bases: &[(7, 1)],
        leaf: 1,
        target: 6,
        plan: Err("csn 4 to 6 cannot be restored: their chunks are missing; nearest below 1 to 3, above 7 to 9"),
    },
    Case {
        goal: "an empty archive",
        epochs: ONE,
        chunks: &[],
        bases: &[],
        leaf: 1,
        target: 1,
        plan: Err("holds no commit"),
    },
    Case {
        goal: "what a fenced writer archived beyond the fork is not read",
        epochs: FORK,
        chunks: &[(1, 1, 8), (1, 9, 14), (2, 11, 12)],
        bases: &[(12, 1)],
        leaf: 2,
        target: 12,
        plan: Ok((0, &[(1, 1, 8), (1, 9, 10), (2, 11, 12)])),
    },
    Case {
        goal: "the older branch, on demand",
        epochs: FORK,
        chunks: &[(1, 1, 8), (1, 9, 14), (2, 11, 12)],
        bases: &[(12, 1)],
        leaf: 1,
        target: 13,
        plan: Ok((12, &[(1, 13, 13)])),
    },
    Case {
        goal: "commits up to the fork are known to be missing",
        epochs: FORK,
        chunks: &[(1, 1, 8)],
        bases: &[],
        leaf: 2,
        target: 9,
        plan: Err("csn 9 to 10 cannot be restored"),
    },
];

fn planned(listing: &Listing, lineage: &Lineage, target: u64, skipped: &[SkippedBase]) -> Result<Plan, Shortfall> {
    plan(listing, lineage, Csn(target), skipped, &[], &RouteCosts::DEFAULT)
}

#[test]
fn the_table_of_cases() {
    for case in CASES {
        let listing = listing(case.epochs, case.chunks, case.bases);
        let lineage = Lineage::of(&listing.epochs, Epoch(case.leaf)).unwrap();
        match (planned(&listing, &lineage, case.target, &[]), case.plan) {
            (Ok(plan), Ok((base, chunks))) => {
                assert_eq!(plan.base().map_or(0, |base| base.csn.0), base, "{}", case.goal);
                let found: Vec<_> =
                    plan.chunks().map(|step| (step.chunk.epoch.0, step.use_from.0, step.use_until.0)).collect();
                assert_eq!(found, chunks, "{}", case.goal);
                assert_eq!(plan.log_bytes, 100 * chunks.len() as u64, "{}", case.goal);
                assert_eq!(plan.commits(), case.target - base, "{}", case.goal);
            }
            (Err(short), Err(text)) => {
                let side = |name: &str, range: Option<CsnRange>| range.map(|range| format!("{name} {range}"));
                let sides: Vec<_> =
                    [side("below", short.below), side("above", short.above)].into_iter().flatten().collect();
                let told = format!("{}; nearest {}", short.reason, sides.join(", "));
                assert!(told.contains(text), "{}: {told}", case.goal);
            }
            (found, expected) => panic!("{}: expected {expected:?}, found {found:?}", case.goal),
        }
    }
}

#[test]
fn a_base_that_cannot_be_used_is_passed_over_and_named() {
    let listing = listing(ONE, &[(1, 1, 5), (1, 6, 9)], &[(3, 1), (6, 1), (8, 1)]);
    let lineage = Lineage::newest(&listing.epochs).unwrap();
    let skipped = [SkippedBase { base: base(6, 1), after: Csn(6), why: "gone".into() }];
    let plan = planned(&listing, &lineage, 7, &skipped).unwrap();
    assert_eq!(plan.base(), Some(base(3, 1)));
    assert_eq!(plan.skipped, skipped);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["steps"][0]["base"], "bases/00000000000000000003-00000001");
    assert_eq!(json["steps"][1]["use_from"], 4);
}

#[test]
fn a_base_of_two_cuts_is_a_start_for_what_lies_beyond_both() {
    let mut listing = listing(ONE, &[(1, 1, 5), (1, 6, 9), (1, 10, 12)], &[(4, 1)]);
    let open = BaseObjects { cuts: BTreeMap::from([(Csn(7), STORED), (Csn(8), STORED)]), ..BaseObjects::default() };
    listing.bases.insert(base(10, 1), open);
    let lineage = Lineage::newest(&listing.epochs).unwrap();
    let plan_to = |listing: &Listing, target, skipped: &[SkippedBase]| {
        let plan = planned(listing, &lineage, target, skipped).unwrap();
        (plan.base(), plan.after().0, plan.commits(), plan.chunks().next().unwrap().use_from.0)
    };
    assert_eq!(plan_to(&listing, 9, &[]), (Some(base(4, 1)), 4, 5, 5));
    assert_eq!(plan_to(&listing, 10, &[]), (Some(base(10, 1)), 8, 2, 9));
    let skipped = SkippedBase { base: base(10, 1), after: Csn(8), why: "gone".into() };
    assert_eq!(plan_to(&listing, 11, &[skipped]), (Some(base(10, 1)), 7, 4, 8));
    listing.bases.get_mut(&base(10, 1)).unwrap().manifest = Some(STORED);
    assert_eq!(plan_to(&listing, 11, &[]), (Some(base(10, 1)), 10, 1, 11));
}

/// Reports whether a chunk of the line carries a commit.
fn is_carried(listing: &Listing, lineage: &Lineage, csn: Csn) -> bool {
    listing.chunks.keys().any(|chunk| {
        chunk.first <= csn && csn <= chunk.last && lineage.until(chunk.epoch).is_some_and(|until| csn <= until)
    })
}

/// Reports whether a restore can start at the base and continue to a commit.
fn is_start_for(listing: &Listing, lineage: &Lineage, start: BaseStart, target: u64) -> bool {
    let all_carried = (start.after.0 + 1..=target).all(|csn| is_carried(listing, lineage, Csn(csn)));
    start.base.csn <= Csn(target) && lineage.contains(start.base) && all_carried
}

/// Returns the commits that can be restored, computed by trying every start and every chunk.
fn restorable(listing: &Listing, lineage: &Lineage, until: u64) -> Vec<bool> {
    let carried = |csn: Csn| is_carried(listing, lineage, csn);
    let is_base = |csn: Csn| {
        listing.base_starts().any(|start| start.base.csn == csn && is_start_for(listing, lineage, start, csn.0))
    };
    let mut reached = true;
    (0..=until)
        .map(|csn| {
            reached = csn == 0 || is_base(Csn(csn)) || (reached && carried(Csn(csn)));
            reached && csn > 0
        })
        .collect()
}

proptest! {
    #[test]
    fn a_plan_exists_exactly_for_what_can_be_restored(
        chunks in proptest::collection::vec((1..4u32, 1..30u64, 0..12u64), 0..14),
        bases in proptest::collection::vec((1..32u64, 1..4u32), 0..4),
        cuts in proptest::collection::vec((1..32u64, 1..4u32, 1..8u64), 0..4),
        forks in (0..30u64, 0..30u64, 1..3u32),
        leaf in 1..4u32,
    ) {
        let chunks: Vec<_> = chunks.into_iter().map(|(epoch, first, more)| (epoch, first, first + more)).collect();
        let mut listing = listing(&[(1, 0, 0), (2, 1, forks.0), (3, forks.2, forks.1)], &chunks, &bases);
        for (csn, epoch, back) in cuts {
            let objects = listing.bases.entry(base(csn, epoch)).or_default();
            objects.cuts.insert(Csn(csn.saturating_sub(back)), STORED);
        }
        let listing = listing;
        let lineage = Lineage::of(&listing.epochs, Epoch(leaf)).unwrap();
        let oracle = restorable(&listing, &lineage, 45);
        let on_line = listing.base_starts().filter(|start| lineage.contains(start.base));
        let reach = Reach::of(&listing, &lineage, on_line);
        for csn in 1..=45 {
            prop_assert_eq!(reach.contains(Csn(csn)), oracle[csn as usize], "csn {}", csn);
            let in_gap = reach.gaps.iter().any(|gap| gap.contains(Csn(csn)));
            prop_assert!(!(in_gap && oracle[csn as usize]));
            match planned(&listing, &lineage, csn, &[]) {
                Ok(plan) => {
                    prop_assert!(oracle[csn as usize]);
                    let mut starts = listing.base_starts();
                    let newest = starts.rfind(|start| is_start_for(&listing, &lineage, *start, csn));
                    prop_assert_eq!(plan.start(), newest);
                    let mut next = plan.after().next();
                    for step in plan.chunks() {
                        prop_assert_eq!(step.use_from, next);
                        prop_assert!(step.chunk.first <= step.use_from && step.use_until <= step.chunk.last);
                        prop_assert!(lineage.until(step.chunk.epoch).is_some_and(|until| step.use_until <= until));
                        next = step.use_until.next();
                    }
                    prop_assert_eq!(next, Csn(csn + 1));
                    prop_assert_eq!(plan.epoch, lineage.epoch_at(Csn(csn)));
                }
                Err(short) => {
                    prop_assert!(!oracle[csn as usize]);
                    let below = (1..csn).rev().find(|&at| oracle[at as usize]);
                    prop_assert_eq!(short.below.map(|range| range.until.0), below);
                    let above = (csn..=45).find(|&at| oracle[at as usize]);
                    prop_assert_eq!(short.above.map(|range| range.from.0), above);
                }
            }
        }
    }
}
