//! Goal: a sorted set behaves like a sorted vector, and clones taken on the way never change.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, f64>;

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, f64),
    /// Inserts many members, with one score or with ascending scores.
    InsertMany(u16, u16, bool),
    Remove(u16),
    RemoveMany(u16, u16),
    RemoveRanks(usize, usize),
    Cut,
}

fn member(number: u16) -> Vec<u8> {
    // Every third member is too long to lie beside its score.
    let width = if number.is_multiple_of(3) { 40 } else { 1 };
    format!("m{number:0width$}").into_bytes()
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (0..8u8).prop_map(f64::from),
        4 => -1e9..1e9,
        1 => prop::sample::select(vec![f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, f64::MIN_POSITIVE, f64::MAX]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let place = any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    prop_oneof![
        12 => (0..400u16, score()).prop_map(|(number, score)| Step::Insert(number, score)),
        2 => (0..9000u16, 1..900u16, any::<bool>()).prop_map(|(from, n, equal)| Step::InsertMany(from, n, equal)),
        8 => (0..400u16).prop_map(Step::Remove),
        1 => (0..9000u16, 1..900u16).prop_map(|(from, n)| Step::RemoveMany(from, n)),
        2 => (place.clone(), place).prop_map(|(start, stop)| Step::RemoveRanks(start, stop)),
        1 => Just(Step::Cut),
    ]
}

fn ordered(model: &Model) -> Vec<(&[u8], f64)> {
    let mut pairs: Vec<_> = model.iter().map(|(member, score)| (member.as_slice(), *score)).collect();
    pairs.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(b.0)));
    pairs
}

fn take_step(zset: &mut Zset, model: &mut Model, step: Step) {
    match step {
        Step::Insert(number, score) => {
            assert_eq!(zset.insert(&member(number), score), model.insert(member(number), score + 0.0));
        }
        Step::InsertMany(from, count, equal) => {
            for number in from..from + count {
                let score = if equal { 3.0 } else { f64::from(number) };
                assert_eq!(zset.insert(&member(number), score), model.insert(member(number), score));
            }
        }
        Step::Remove(number) => assert_eq!(zset.remove(&member(number)), model.remove(&member(number))),
        Step::RemoveMany(from, count) => {
            for number in from..from + count {
                assert_eq!(zset.remove(&member(number)), model.remove(&member(number)));
            }
        }
        Step::RemoveRanks(start, len) => {
            let start = (start * (model.len() + 1)) >> 20;
            let stop = start + ((len * (model.len() + 1)) >> 21);
            let all: Vec<_> = ordered(model).iter().map(|(member, _)| member.to_vec()).collect();
            let gone = &all[start..stop.min(all.len())];
            assert_eq!(zset.remove_ranks(start as u64..stop as u64), gone.len() as u64);
            for member in gone {
                model.remove(member);
            }
        }
        Step::Cut => unreachable!("the caller cuts"),
    }
}

fn assert_same(zset: &Zset, model: &Model) {
    zset.check();
    let pairs = ordered(model);
    assert_eq!(zset.len(), pairs.len() as u64);
    let bits = |(member, score): (&[u8], f64)| (member.to_vec(), score.to_bits());
    assert!(zset.iter_from(0).map(bits).eq(pairs.iter().copied().map(bits)));
    assert!(zset.iter_back_from(u64::MAX).map(bits).eq(pairs.iter().rev().copied().map(bits)));
    for (rank, (member, score)) in pairs.iter().enumerate().step_by(1 + pairs.len() / 50) {
        assert_eq!((zset.rank(member), zset.score(member)), (Some(rank as u64), Some(*score)));
        assert_eq!(zset.iter_from(rank as u64).next(), Some((*member, *score)));
        assert_eq!(zset.iter_back_from(rank as u64).next(), Some((*member, *score)));
        for bound in [*score, score - 0.5] {
            let below = pairs.iter().filter(|(_, score)| *score < bound).count();
            let upto = pairs.iter().filter(|(_, score)| *score <= bound).count();
            assert_eq!(zset.rank_of_score(bound, Edge::Before), below as u64);
            assert_eq!(zset.rank_of_score(bound, Edge::After), upto as u64);
        }
    }
    assert_eq!((zset.rank(b"nobody"), zset.score(b"nobody")), (None, None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_zset_is_a_sorted_vector_and_its_clones_never_change(steps in vec(step(), 1..150)) {
        let (mut zset, mut model, mut cuts) = (Zset::new(), Model::new(), Vec::new());
        for step in steps {
            if matches!(step, Step::Cut) {
                assert_same(&zset, &model);
                cuts.push((zset.clone(), model.clone()));
            } else {
                take_step(&mut zset, &mut model, step);
            }
        }
        assert_same(&zset, &model);
        for (cut, model) in &cuts {
            assert_same(cut, model);
        }
    }
}

#[test]
fn ranks_by_bytes_in_sets_of_one_score() {
    for count in [10, 5000u16] {
        let mut zset = Zset::new();
        let mut members: Vec<_> = (0..count).map(member).collect();
        members.iter().for_each(|member| assert_eq!(zset.insert(member, 0.0), None));
        members.sort();
        for (rank, member) in members.iter().enumerate() {
            assert_eq!(zset.rank_of_lex(member, Edge::Before), rank as u64);
            assert_eq!(zset.rank_of_lex(member, Edge::After), rank as u64 + 1);
        }
        assert_eq!(zset.rank_of_lex(b"", Edge::After), 0);
        assert_eq!(zset.rank_of_lex(b"z", Edge::Before), u64::from(count));
    }
}

#[test]
fn negative_zero_is_zero() {
    let mut zset = Zset::new();
    assert_eq!(zset.insert(b"a", -0.0), None);
    assert_eq!(zset.score(b"a").map(f64::to_bits), Some(0));
    zset.insert(b"a", 1.0);
    zset.insert(b"a", -0.0);
    assert_eq!(zset.iter_from(0).next().map(|(_, score)| score.to_bits()), Some(0));
    assert_eq!((zset.rank_of_score(-0.0, Edge::Before), zset.rank_of_score(-0.0, Edge::After)), (0, 1));
}

#[test]
#[should_panic(expected = "NaN")]
fn nan_is_a_defect() {
    Zset::new().insert(b"a", f64::NAN);
}

#[test]
fn a_large_set_is_changed_while_a_clone_lives() {
    let mut zset = Zset::new();
    for number in 0..100_000u32 {
        zset.insert(&number.to_le_bytes(), f64::from(number % 1000));
    }
    let (cut, bytes) = (zset.clone(), zset.memory_bytes());
    for number in (0..100_000u32).step_by(3) {
        zset.remove(&number.to_le_bytes());
    }
    zset.check();
    assert!(zset.memory_bytes() < bytes);
    cut.check();
    assert_eq!((cut.len(), cut.memory_bytes()), (100_000, bytes));
    zset.remove_ranks(0..zset.len());
    zset.check();
    assert!(zset.is_empty() && zset.memory_bytes() < 256);
}

/// Goal: the cost of a cut is in proportion to what is written after it, not to the size of the set.
#[test]
fn writing_beside_a_clone_copies_what_is_touched() {
    /// Largest number of bytes that a write may copy: three paths (out of the order, into the order, the index), each
    /// of a leaf and a few inner nodes.
    const BYTES_PER_WRITE_MAX: usize = 40_000;
    let mut zset = Zset::new();
    for number in 0..300_000_u32 {
        zset.insert(&number.to_le_bytes(), f64::from(number));
    }
    let cut = zset.clone();
    assert_eq!(zset.bytes_apart_from(&cut), 0);
    for writes in 1..=40_usize {
        let number = (writes * 7001) as u32;
        zset.insert(&number.to_le_bytes(), f64::from(300_000 - number) + 0.5);
        let copied = zset.bytes_apart_from(&cut);
        assert!(copied > 0 && copied <= writes * BYTES_PER_WRITE_MAX, "{writes} writes copied {copied} bytes");
    }
    assert!(zset.memory_bytes() > 100 * BYTES_PER_WRITE_MAX, "the set is far larger than what was copied");
    assert_eq!((cut.len(), cut.score(&7001_u32.to_le_bytes())), (300_000, Some(7001.0)));
}
