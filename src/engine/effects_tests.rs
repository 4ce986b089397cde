//! Tests of the effects of a group.

use super::*;

fn whole() -> Range<Vec<u8>> {
    b"a".to_vec()..b"z".to_vec()
}

#[test]
fn a_lookup_sees_the_newest_effect() {
    let mut effects = Effects::default();
    assert_eq!(effects.lookup(Family::Default, b"k"), Overlaid::Untouched);
    effects.put(Family::Default, b"k", b"1");
    effects.put(Family::Default, b"k", b"2");
    effects.put(Family::Sub, b"k", b"other family");
    assert_eq!(effects.lookup(Family::Default, b"k"), Overlaid::Value(b"2"));
    effects.delete(Family::Default, b"k");
    assert_eq!(effects.lookup(Family::Default, b"k"), Overlaid::Deleted);
    let overlay = Overlay { open: &effects, sealed: &[] };
    assert_eq!(overlay.in_range(Family::Default, &whole()), vec![(&b"k"[..], None)]);
    effects.clear();
    assert_eq!(effects.lookup(Family::Sub, b"k"), Overlaid::Deleted);
    effects.put(Family::Sub, b"k", b"after");
    assert_eq!(effects.lookup(Family::Sub, b"k"), Overlaid::Value(b"after"));
    let extent = effects.extent();
    batch::validate(&effects.seal().disk, extent.disk_ops).unwrap();
}

#[test]
fn a_record_is_superseded_by_a_later_one_of_its_key_and_group() {
    let mut effects = Effects::default();
    effects.put(Family::Default, b"a", b"1");
    effects.put(Family::Default, b"b", b"1");
    effects.put(Family::Sub, b"b", b"1");
    effects.delete(Family::Default, b"b");
    effects.put(Family::Default, b"a", b"2");
    effects.put(Family::Default, b"a", b"3");
    effects.put(Family::Default, b"b", b"2");
    effects.clear();
    effects.put(Family::Default, b"a", b"4");
    let sealed = effects.seal();
    let record = |at: &Range<usize>| Records::new(&sealed.disk[at.clone()]).next().unwrap().unwrap();
    let superseded: Vec<_> = sealed.superseded.iter().map(record).collect();
    let put = |key, value| Record::Put(Family::Default, key, value);
    let expected = [put(b"a", b"1"), put(b"b", b"1"), Record::Delete(Family::Default, b"b"), put(b"a", b"2")];
    assert_eq!(superseded, expected, "what a deletion of all keys came after is not asked");
    effects.put(Family::Default, b"a", b"5");
    assert!(effects.seal().superseded.is_empty(), "another group");
}

/// Goal: taking a commit back leaves the group as it was before the commit: bytes, lookups, ranges and superseded
/// records.
#[test]
fn a_commit_is_taken_back_and_the_ones_before_it_stay() {
    let gather = |has_third: bool| {
        let mut effects = Effects::default();
        effects.put(Family::Default, b"a", b"1");
        effects.put(Family::Default, b"b", b"1");
        effects.put(Family::Default, b"a", b"2");
        effects.delete(Family::Default, b"b");
        let first = effects.extent();
        effects.clear();
        effects.put(Family::Default, b"c", b"1");
        effects.put(Family::Sub, b"c", b"2");
        effects.memory.push(1);
        let second = effects.extent();
        if has_third {
            effects.bound(64);
            effects.put(Family::Default, b"a", b"3");
            effects.put(Family::Default, b"c", b"3");
            effects.delete(Family::Sub, b"c");
            effects.memory.extend([2, 2]);
            effects.clear();
            effects.take_back(second).unwrap();
        }
        (effects, first, second)
    };
    let [(mut back, ..), (mut never, first, second)] = [true, false].map(gather);
    for (family, key) in [b"a", b"b", b"c"].into_iter().flat_map(|key| Family::ALL.map(|family| (family, key))) {
        assert_eq!(back.lookup(family, key), never.lookup(family, key), "{family:?} {key:?}");
    }
    assert_eq!(back.extent(), second);
    for effects in [&mut back, &mut never] {
        effects.put(Family::Default, b"c", b"4");
    }
    let [sealed_back, sealed_never] = [back.seal(), never.seal()];
    assert_eq!(sealed_back.disk, sealed_never.disk);
    assert_eq!(sealed_back.superseded, sealed_never.superseded);
    let (mut effects, ..) = gather(false);
    effects.take_back(first).unwrap();
    assert_eq!(effects.lookup(Family::Default, b"a"), Overlaid::Value(b"2"), "nor is the deletion of all keys left");
    assert_eq!(effects.lookup(Family::Sub, b"c"), Overlaid::Untouched);
}

#[test]
fn a_bounded_commit_gathers_no_more_than_its_bound() {
    let mut effects = Effects::default();
    effects.put(Family::Default, b"before", &[0; 100]);
    effects.bound(100);
    assert!(effects.has_room(100) && !effects.has_room(101));
    effects.put(Family::Default, b"fits", &[0; 50]);
    let before = effects.extent();
    effects.put(Family::Default, b"does not", &[0; 50]);
    effects.put(Family::Default, b"nor what follows", b"");
    effects.delete(Family::Default, b"fits");
    effects.memory.push(1);
    assert!(!effects.takes_ops(before) && effects.memory.is_empty());
    assert_eq!(effects.extent(), before);
    assert!(!effects.end_bound());
    effects.bound(100);
    effects.put(Family::Default, b"the next one", &[0; 50]);
    assert!(effects.end_bound());
    effects.put(Family::Default, b"one without a bound", &[0; 200]);
    assert!(effects.end_bound());
}

#[test]
fn sealed_groups_lie_below_the_open_one_and_hide_each_other() {
    let mut effects = Effects::default();
    effects.put(Family::Default, b"a", b"first");
    effects.put(Family::Default, b"b", b"first");
    effects.put(Family::Default, b"c", b"first");
    let first = effects.seal();
    effects.put(Family::Default, b"b", b"second");
    effects.delete(Family::Default, b"c");
    let sealed = [first, effects.seal()];
    effects.put(Family::Default, b"d", b"open");
    let overlay = Overlay { open: &effects, sealed: &sealed };
    let lookup = |key: &[u8]| overlay.lookup(Family::Default, key);
    assert_eq!(lookup(b"a"), Overlaid::Value(b"first"));
    assert_eq!(lookup(b"b"), Overlaid::Value(b"second"));
    assert_eq!(lookup(b"c"), Overlaid::Deleted);
    assert_eq!(lookup(b"d"), Overlaid::Value(b"open"));
    assert_eq!(lookup(b"e"), Overlaid::Untouched);
    let all: [(&[u8], Option<&[u8]>); 4] =
        [(b"a", Some(b"first")), (b"b", Some(b"second")), (b"c", None), (b"d", Some(b"open"))];
    assert_eq!(overlay.in_range(Family::Default, &whole()), all);

    effects.clear();
    effects.put(Family::Default, b"f", b"kept");
    let sealed = [effects.seal()];
    effects.put(Family::Default, b"g", b"open");
    let overlay = Overlay { open: &effects, sealed: &sealed };
    assert!(overlay.is_cleared());
    assert_eq!(overlay.lookup(Family::Default, b"a"), Overlaid::Deleted);
    let all: [(&[u8], Option<&[u8]>); 2] = [(b"f", Some(b"kept")), (b"g", Some(b"open"))];
    assert_eq!(overlay.in_range(Family::Default, &whole()), all);
    let [sealed] = sealed;
    effects.recycle(sealed);
    let _ = effects.seal();
    assert_eq!(effects.lookup(Family::Default, b"f"), Overlaid::Untouched, "a used index is empty");
}
