//! Goal: a list behaves like a plain vector, and clones taken on the way never change.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    PushFront(Vec<u8>),
    PushBack(Vec<u8>),
    PopFront,
    PopBack,
    Set(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    /// Inserts repeatedly at the same place.
    InsertMany(usize, Vec<u8>, usize),
    Remove(usize),
    RemoveRange(usize, usize),
    Keep(usize, usize),
    PushMany(bool, Vec<u8>, usize),
    Cut,
}

/// Returns elements around every size at which a leaf or a varint behaves differently.
fn element() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        8 => 0..12usize,
        4 => 120..140usize,
        6 => 1300..2100usize,
        2 => 4080..4110usize,
        1 => 16_380..16_390usize,
    ];
    (len, any::<u8>()).prop_map(|(len, seed)| (0..len).map(|at| seed.wrapping_add(at as u8)).collect())
}

fn step() -> impl Strategy<Value = Step> {
    let place = any::<prop::sample::Index>().prop_map(|index| index.index(1 << 20));
    prop_oneof![
        4 => element().prop_map(Step::PushFront),
        4 => element().prop_map(Step::PushBack),
        4 => Just(Step::PopFront),
        4 => Just(Step::PopBack),
        4 => (place.clone(), element()).prop_map(|(at, element)| Step::Set(at, element)),
        4 => (place.clone(), element()).prop_map(|(at, element)| Step::Insert(at, element)),
        1 => (place.clone(), element(), 1..90usize).prop_map(|(at, element, n)| Step::InsertMany(at, element, n)),
        6 => place.clone().prop_map(Step::Remove),
        1 => (place.clone(), 0..150usize).prop_map(|(at, len)| Step::RemoveRange(at, len)),
        1 => (place.clone(), place).prop_map(|(start, stop)| Step::Keep(start.min(stop), start.max(stop))),
        1 => (any::<bool>(), element(), 1..300usize).prop_map(|(front, element, n)| Step::PushMany(front, element, n)),
        1 => Just(Step::Cut),
    ]
}

fn take_step(list: &mut List, model: &mut Vec<Vec<u8>>, step: Step) {
    let scaled = |place: usize| (place * (model.len() + 1)) >> 20;
    match step {
        Step::PushFront(element) => {
            list.push_front(&element);
            model.insert(0, element);
        }
        Step::PushBack(element) => {
            list.push_back(&element);
            model.push(element);
        }
        Step::PopFront => assert_eq!(list.pop_front(), (!model.is_empty()).then(|| model.remove(0))),
        Step::PopBack => assert_eq!(list.pop_back(), model.pop()),
        Step::Set(at, element) => {
            let at = scaled(at);
            assert_eq!(list.set(at as u64, &element), at < model.len());
            if let Some(place) = model.get_mut(at) {
                *place = element;
            }
        }
        Step::Insert(at, element) => {
            let at = scaled(at);
            assert!(list.insert(at as u64, &element));
            model.insert(at, element);
        }
        Step::InsertMany(at, element, times) => {
            let at = scaled(at);
            for _ in 0..times {
                assert!(list.insert(at as u64, &element));
                model.insert(at, element.clone());
            }
        }
        Step::Remove(at) => {
            let at = scaled(at);
            let expected = (at < model.len()).then(|| model.remove(at));
            assert_eq!(list.remove(at as u64), expected);
        }
        Step::RemoveRange(at, len) => {
            let start = scaled(at);
            let stop = (start + len).min(model.len());
            list.remove_range(start as u64..stop as u64);
            model.drain(start..stop);
        }
        Step::Keep(start, stop) => {
            let (start, stop) = (scaled(start), scaled(stop));
            list.keep(start as u64..stop as u64);
            model.truncate(stop);
            model.drain(..start);
        }
        Step::PushMany(front, element, times) => {
            for _ in 0..times {
                let at = if front { 0 } else { model.len() };
                if front {
                    list.push_front(&element)
                } else {
                    list.push_back(&element)
                }
                model.insert(at, element.clone());
            }
        }
        Step::Cut => unreachable!("the caller cuts"),
    }
}

fn assert_same(list: &List, model: &[Vec<u8>]) {
    list.check();
    assert_eq!(list.len(), model.len() as u64);
    assert!(list.iter_from(0).eq(model.iter().map(Vec::as_slice)));
    assert!(list.iter_back_from(u64::MAX).eq(model.iter().rev().map(Vec::as_slice)));
    for at in [0, model.len() / 3, model.len() / 2, model.len().saturating_sub(1), model.len()] {
        assert_eq!(list.get(at as u64), model.get(at).map(Vec::as_slice));
        assert!(list.iter_from(at as u64).eq(model[at..].iter().map(Vec::as_slice)));
        assert!(list.iter_back_from(at as u64).eq(model.iter().take(at + 1).rev().map(Vec::as_slice)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_list_is_a_vector_and_its_clones_never_change(steps in vec(step(), 1..250)) {
        let (mut list, mut model, mut cuts) = (List::new(), Vec::new(), Vec::new());
        for step in steps {
            if matches!(step, Step::Cut) {
                assert_same(&list, &model);
                cuts.push((list.clone(), model.clone()));
            } else {
                take_step(&mut list, &mut model, step);
                list.check();
            }
        }
        assert_same(&list, &model);
        for (cut, model) in &cuts {
            assert_same(cut, model);
        }
    }
}

#[test]
fn positions_outside_the_list_are_refused() {
    let mut list = List::new();
    assert_eq!((list.pop_front(), list.pop_back(), list.remove(0)), (None, None, None));
    assert_eq!(list.get(0), None);
    assert!(!list.set(0, b"x") && !list.insert(1, b"x"));
    assert_eq!(list.iter_from(7).count() + list.iter_back_from(7).count(), 0);
    assert!(list.is_empty());
}

#[test]
fn small_elements_cost_little_more_than_their_bytes() {
    for front in [false, true] {
        let mut list = List::new();
        for n in 0..100_000 {
            let element = format!("element-{n:04}");
            if front { list.push_front(element.as_bytes()) } else { list.push_back(element.as_bytes()) }
        }
        // A Redis listpack needs two bytes beside each of these elements.
        let listpack: usize = list.iter_from(0).map(|element| element.len() + 2).sum();
        assert!(list.memory_bytes() * 10 < listpack * 13, "{} for {listpack}", list.memory_bytes());
    }
}

#[test]
fn a_short_list_stays_small() {
    let mut list = List::new();
    (0..10).for_each(|_| list.push_back(&[7; 20]));
    let listpack = 7 + 10 * 22 + 40;
    assert!(list.memory_bytes() * 10 < (listpack + 60) * 13, "{}", list.memory_bytes());
}

#[test]
fn a_queue_does_not_grow_with_what_went_through() {
    for back_to_front in [false, true] {
        let mut list = List::new();
        (0..30).for_each(|_| list.push_back(&[1; 100]));
        let before = list.memory_bytes();
        for _ in 0..10_000 {
            if back_to_front {
                list.push_front(&[2; 100]);
                list.pop_back();
            } else {
                list.push_back(&[2; 100]);
                list.pop_front();
            }
        }
        list.check();
        assert!(list.memory_bytes() < before * 2, "{} of {before}", list.memory_bytes());
    }
}

#[test]
fn inserting_at_one_place_leaves_no_trail_of_tiny_leaves() {
    for place in [0, 50, 99] {
        let mut list = List::new();
        (0..100).for_each(|_| list.push_back(&[1; 50]));
        (0..20_000).for_each(|_| assert!(list.insert(place, &[2; 50])));
        list.check();
        assert!(list.memory_bytes() < 20_100 * 52 * 5 / 2, "{}", list.memory_bytes());
    }
}

#[test]
fn trimming_a_long_list_is_a_matter_of_leaves() {
    let mut list = List::new();
    (0..1_000_000u32).for_each(|n| list.push_back(&n.to_le_bytes()));
    let cut = list.clone();
    list.keep(400_000..400_003);
    list.check();
    assert_eq!(list.iter_from(0).next(), Some(&400_000u32.to_le_bytes()[..]));
    assert!(list.len() == 3 && list.memory_bytes() < 8192);
    cut.check();
    assert_eq!(cut.len(), 1_000_000);
}
