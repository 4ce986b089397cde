//! Cases and properties of [`Lineage`].

use super::super::epochs::EpochRecord;
use super::*;
use crate::csn::{CommitTime, HistoryHash};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Builds a tree from (epoch, parent, fork); parent 0 for a root.
fn tree(epochs: &[(u32, u32, u64)]) -> EpochTree {
    let records = epochs.iter().map(|&(epoch, parent, fork)| match parent {
        0 => EpochRecord::first(Epoch(epoch), "n".into(), CommitTime(0)),
        _ => {
            EpochRecord::forked(Epoch(epoch), Epoch(parent), (Csn(fork), HistoryHash::ZERO), "n".into(), CommitTime(0))
        }
    });
    EpochTree::from_records(records, "test").expect("a tree")
}

fn chunk(&(epoch, first, last): &(u32, u64, u64)) -> ChunkName {
    ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) }
}

/// Returns the uses as (epoch, first csn of the chunk, from, until).
type Use = (u32, u64, u64, u64);

struct Case {
    goal: &'static str,
    epochs: &'static [(u32, u32, u64)],
    leaf: u32,
    after: u64,
    chunks: &'static [(u32, u64, u64)],
    uses: &'static [Use],
    gaps: &'static [(u64, u64)],
}

const CASES: &[Case] = &[
    Case {
        goal: "nothing archived, nothing known",
        epochs: &[(1, 0, 0)],
        leaf: 1,
        after: 0,
        chunks: &[],
        uses: &[],
        gaps: &[],
    },
    Case {
        goal: "one epoch, neighbours",
        epochs: &[(1, 0, 0)],
        leaf: 1,
        after: 0,
        chunks: &[(1, 1, 5), (1, 6, 9)],
        uses: &[(1, 1, 1, 5), (1, 6, 6, 9)],
        gaps: &[],
    },
    Case {
        goal: "after a base inside a chunk",
        epochs: &[(1, 0, 0)],
        leaf: 1,
        after: 7,
        chunks: &[(1, 1, 5), (1, 6, 9), (1, 10, 10)],
        uses: &[(1, 6, 8, 9), (1, 10, 10, 10)],
        gaps: &[],
    },
    Case {
        goal: "re-cut after a restart: the chunk that reaches furthest",
        epochs: &[(1, 0, 0)],
        leaf: 1,
        after: 0,
        chunks: &[(1, 1, 5), (1, 1, 8), (1, 3, 12), (1, 6, 9), (1, 13, 13)],
        uses: &[(1, 1, 1, 8), (1, 3, 9, 12), (1, 13, 13, 13)],
        gaps: &[],
    },
    Case {
        goal: "gaps at the start and in the middle",
        epochs: &[(1, 0, 0)],
        leaf: 1,
        after: 0,
        chunks: &[(1, 3, 5), (1, 8, 9)],
        uses: &[(1, 3, 3, 5), (1, 8, 8, 9)],
        gaps: &[(0, 3), (5, 8)],
    },
    Case {
        goal: "a chunk that straddles the fork is used up to it, one beyond it is dead",
        epochs: &[(1, 0, 0), (2, 1, 7)],
        leaf: 2,
        after: 0,
        chunks: &[(1, 1, 5), (1, 6, 12), (1, 13, 20), (2, 8, 30)],
        uses: &[(1, 1, 1, 5), (1, 6, 6, 7), (2, 8, 8, 30)],
        gaps: &[],
    },
    Case {
        goal: "the new primary archives again what the old one had not",
        epochs: &[(1, 0, 0), (2, 1, 7)],
        leaf: 2,
        after: 0,
        chunks: &[(1, 1, 5), (2, 4, 9)],
        uses: &[(1, 1, 1, 5), (2, 4, 6, 9)],
        gaps: &[],
    },
    Case {
        goal: "commits up to the fork are known to be missing even if nothing follows",
        epochs: &[(1, 0, 0), (2, 1, 7)],
        leaf: 2,
        after: 0,
        chunks: &[(1, 1, 5), (1, 8, 9)],
        uses: &[(1, 1, 1, 5)],
        gaps: &[(5, 8)],
    },
    Case {
        goal: "a fork before the parent's own fork goes back to the grandparent",
        epochs: &[(1, 0, 0), (2, 1, 10), (3, 2, 4)],
        leaf: 3,
        after: 0,
        chunks: &[(1, 1, 10), (2, 11, 20), (3, 5, 6)],
        uses: &[(1, 1, 1, 4), (3, 5, 5, 6)],
        gaps: &[],
    },
    Case {
        goal: "a sibling's chunks are on no branch of this line",
        epochs: &[(1, 0, 0), (2, 1, 5), (3, 1, 5)],
        leaf: 3,
        after: 0,
        chunks: &[(1, 1, 5), (2, 6, 9), (3, 8, 9)],
        uses: &[(1, 1, 1, 5), (3, 8, 8, 9)],
        gaps: &[(5, 8)],
    },
    Case {
        goal: "an older branch by choice",
        epochs: &[(1, 0, 0), (2, 1, 5)],
        leaf: 1,
        after: 0,
        chunks: &[(1, 1, 9), (2, 6, 20)],
        uses: &[(1, 1, 1, 9)],
        gaps: &[],
    },
];

#[test]
fn cases() {
    for case in CASES {
        let lineage = Lineage::of(&tree(case.epochs), Epoch(case.leaf)).expect(case.goal);
        let coverage = lineage.cover(case.chunks.iter().map(chunk), Csn(case.after));
        let uses: Vec<Use> =
            coverage.uses.iter().map(|u| (u.chunk.epoch.0, u.chunk.first.0, u.use_from.0, u.use_until.0)).collect();
        let gaps: Vec<(u64, u64)> = coverage.gaps.iter().map(|gap| (gap.after.0, gap.before.0)).collect();
        assert_eq!(uses, case.uses, "{}", case.goal);
        assert_eq!(gaps, case.gaps, "{}", case.goal);
    }
}

#[test]
fn the_end_of_the_number_range_is_covered() {
    let lineage = Lineage::newest(&tree(&[(1, 0, 0)])).expect("lineage");
    let coverage = lineage.cover([chunk(&(1, 1, u64::MAX))], Csn::ZERO);
    assert_eq!(coverage.reachable(Csn::ZERO), Csn(u64::MAX));
    assert_eq!(lineage.cover([chunk(&(1, 1, u64::MAX))], Csn(u64::MAX)), Coverage::default());
}

#[test]
fn bases_and_csns_are_placed_on_the_line() {
    let tree = tree(&[(1, 0, 0), (2, 1, 7), (3, 1, 9)]);
    let lineage = Lineage::of(&tree, Epoch(2)).expect("lineage");
    let base = |csn, epoch| BaseName { csn: Csn(csn), epoch: Epoch(epoch) };
    assert!(lineage.contains(base(7, 1)));
    assert!(!lineage.contains(base(8, 1)));
    assert!(lineage.contains(base(900, 2)));
    assert!(!lineage.contains(base(5, 3)));
    assert_eq!(lineage.epoch_at(Csn(7)), Epoch(1));
    assert_eq!(lineage.epoch_at(Csn(8)), Epoch(2));
}

/// Generates a path of up to 4 epochs with dead side branches; the numbers are small so that chunks meet.
fn any_tree() -> impl Strategy<Value = EpochTree> {
    prop::collection::vec((0..4u32, 0..30u64), 0..5).prop_map(|forks| {
        let mut epochs = vec![(1, 0, 0)];
        for (i, (parent, fork)) in forks.into_iter().enumerate() {
            let epoch = i as u32 + 2;
            epochs.push((epoch, 1 + parent % (epoch - 1), fork));
        }
        tree(&epochs)
    })
}

fn any_chunks() -> impl Strategy<Value = Vec<ChunkName>> {
    let one = (1..7u32, 1..40u64, 0..12u64).prop_map(|(epoch, first, more)| chunk(&(epoch, first, first + more)));
    prop::collection::vec(one, 0..20)
}

proptest! {
    /// Goal: every csn is given exactly once: by a chunk that may give it, or as missing because no chunk may.
    #[test]
    fn coverage_is_exact(tree in any_tree(), chunks in any_chunks(), after in 0..20u64) {
        let lineage = Lineage::newest(&tree).expect("lineage");
        let after = Csn(after);
        let may_give = |chunk: &ChunkName, csn: u64| {
            chunk.first.0 <= csn && csn <= chunk.last.0 && lineage.until(chunk.epoch).is_some_and(|until| csn <= until.0)
        };
        let coverage = lineage.cover(chunks.iter().copied(), after);

        let mut given = BTreeMap::new();
        for part in &coverage.uses {
            prop_assert!(chunks.contains(&part.chunk));
            prop_assert!(part.use_from <= part.use_until);
            for csn in part.use_from.0..=part.use_until.0 {
                prop_assert!(may_give(&part.chunk, csn), "{part:?} gives {csn}");
                prop_assert_eq!(given.insert(csn, true), None);
            }
        }
        for gap in &coverage.gaps {
            prop_assert!(gap.missing() > 0);
            for csn in gap.after.0 + 1..gap.before.0 {
                prop_assert!(!chunks.iter().any(|chunk| may_give(chunk, csn)), "{csn} is not missing");
                prop_assert_eq!(given.insert(csn, false), None);
            }
        }
        let leaf_fork = lineage.branches().last().expect("leaf").from_exclusive.0;
        let last = (1..60).filter(|&csn| chunks.iter().any(|chunk| may_give(chunk, csn))).max().unwrap_or(0);
        let expected: Vec<u64> = (after.0 + 1..=last.max(leaf_fork)).collect();
        prop_assert_eq!(given.keys().copied().collect::<Vec<_>>(), expected);
        let reachable = given.iter().take_while(|(_, there)| **there).last().map_or(after.0, |(csn, _)| *csn);
        prop_assert_eq!(coverage.reachable(after).0, reachable);
    }

    /// Goal: no cover with fewer chunks exists: each use ends where no other usable chunk reaches further.
    #[test]
    fn coverage_is_greedy(tree in any_tree(), chunks in any_chunks()) {
        let lineage = Lineage::newest(&tree).expect("lineage");
        for part in lineage.cover(chunks.iter().copied(), Csn::ZERO).uses {
            for other in &chunks {
                let until = lineage.until(other.epoch).map_or(0, |until| until.0.min(other.last.0));
                prop_assert!(other.first > part.use_from || until < part.use_from.0 || until <= part.use_until.0);
            }
        }
    }
}
