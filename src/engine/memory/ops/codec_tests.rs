//! Tests of the ops as bytes: the bytes are as documented, read back as they were written, and nothing else is decoded.

use crate::csn::Csn;
use crate::engine::memory::keys::{Change, Memory};
use crate::engine::memory::ops::list::tests::{encode, step};
use crate::engine::memory::ops::{ElementsChange, Encoder, ListChange, Op, Ops, StringChange, ValueChange, ZsetChange};
use crate::error::Kind;
use proptest::collection::vec;
use proptest::prelude::*;

const SEEN: Change = Change { csn: Csn(1), hidden: None };

fn encoded(write: impl FnOnce(&mut Encoder<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut Encoder::new(&mut out));
    out
}

fn read(ops: &[u8]) -> Vec<Op<'_>> {
    Ops::new(ops).map(|op| op.expect("valid")).collect()
}

#[test]
fn ops_read_back_as_they_were_written() {
    let out = encoded(|ops| {
        ops.push_front(b"", [&b"a"[..], b""].into_iter());
        ops.remove_elements(b"k", [0, 1, 300, u64::MAX - 1].into_iter());
        ops.keep_elements(b"k", 2, u64::MAX);
        ops.clear();
    });
    let [
        Op::Change { key: b"", change: ValueChange::List(ListChange::PushFront { elements }) },
        Op::Change { key: b"k", change: ValueChange::List(ListChange::Remove { indexes }) },
        keep,
        Op::Clear,
    ] = &read(&out)[..]
    else {
        panic!("{out:?}")
    };
    assert!(elements.iter().eq([&b"a"[..], b""]) && elements.len() == 2);
    assert!(indexes.iter().eq([0, 1, 300, u64::MAX - 1]));
    let change = ValueChange::List(ListChange::Keep { start: 2, stop: u64::MAX });
    assert_eq!(*keep, Op::Change { key: b"k", change });

    let out = encoded(|ops| ops.set_scores(b"z", [(&b"m"[..], -0.5), (b"", f64::INFINITY)].into_iter()));
    let [Op::Change { key: b"z", change: ValueChange::Zset(ZsetChange::Set { pairs }) }] = &read(&out)[..] else {
        panic!("{out:?}")
    };
    assert!(pairs.iter().eq([(&b"m"[..], -0.5), (b"", f64::INFINITY)]));

    let out = encoded(|ops| {
        ops.set_string(b"s", u64::MAX, b"value");
        ops.write(b"s", 70_000, b"");
        ops.put_fields(b"h", [(&b"f"[..], &b"v"[..]), (b"", b"")].into_iter());
        ops.remove_members(b"m", [&b"12"[..], b""].into_iter());
    });
    let [
        set,
        write,
        Op::Change { key: b"h", change: ValueChange::Elements(ElementsChange::PutFields { pairs }) },
        Op::Change { key: b"m", change: ValueChange::Elements(ElementsChange::RemoveMembers { members }) },
    ] = &read(&out)[..]
    else {
        panic!("{out:?}")
    };
    let change = |change| Op::Change { key: b"s", change: ValueChange::String(change) };
    assert_eq!(*set, change(StringChange::Set { expire_ms: u64::MAX, bytes: b"value" }));
    assert_eq!(*write, change(StringChange::Write { position: 70_000, bytes: b"" }));
    assert!(pairs.iter().eq([(&b"f"[..], &b"v"[..]), (b"", b"")]));
    assert!(members.iter().eq([&b"12"[..], b""]));
}

/// Goal: the bytes of each op stay as documented, because logs and archives hold them.
#[test]
fn the_bytes_of_an_op_are_as_documented() {
    let two = || [&b"a"[..], b"bc"].into_iter();
    let cases: [(Vec<u8>, &[u8]); 21] = [
        (encoded(|ops| ops.delete(b"k")), b"\x01\x01k"),
        (encoded(|ops| ops.expire(b"k", 300)), b"\x02\x01k\xac\x02"),
        (encoded(|ops| ops.rename(b"k", b"to")), b"\x03\x01k\x02to"),
        (encoded(|ops| ops.clear()), b"\x04"),
        (encoded(|ops| ops.set_string(b"k", 300, b"ab")), b"\x10\x01k\xac\x02\x02ab"),
        (encoded(|ops| ops.replace_string(b"k", b"ab")), b"\x11\x01k\x02ab"),
        (encoded(|ops| ops.append(b"k", b"ab")), b"\x12\x01k\x02ab"),
        (encoded(|ops| ops.write(b"k", 5, b"ab")), b"\x13\x01k\x05\x02ab"),
        (encoded(|ops| ops.put_fields(b"k", two().zip(two()))), b"\x20\x01k\x02\x01a\x01a\x02bc\x02bc"),
        (encoded(|ops| ops.remove_fields(b"k", two())), b"\x21\x01k\x02\x01a\x02bc"),
        (encoded(|ops| ops.add_members(b"k", two())), b"\x30\x01k\x02\x01a\x02bc"),
        (encoded(|ops| ops.remove_members(b"k", two())), b"\x31\x01k\x02\x01a\x02bc"),
        (encoded(|ops| ops.push_front(b"k", two())), b"\x40\x01k\x02\x01a\x02bc"),
        (encoded(|ops| ops.push_back(b"k", two())), b"\x41\x01k\x02\x01a\x02bc"),
        (encoded(|ops| ops.pop_front(b"k", 3)), b"\x42\x01k\x03"),
        (encoded(|ops| ops.pop_back(b"k", 3)), b"\x43\x01k\x03"),
        (encoded(|ops| ops.set_element(b"k", 3, b"ab")), b"\x44\x01k\x03\x02ab"),
        (encoded(|ops| ops.insert_element(b"k", 3, b"ab")), b"\x45\x01k\x03\x02ab"),
        (encoded(|ops| ops.remove_elements(b"k", [3, 5].into_iter())), b"\x46\x01k\x02\x03\x02"),
        (encoded(|ops| ops.keep_elements(b"k", 3, 5)), b"\x47\x01k\x03\x05"),
        (encoded(|ops| ops.remove_scored(b"k", two())), b"\x51\x01k\x02\x01a\x02bc"),
    ];
    for (encoded, documented) in cases {
        assert_eq!(encoded.escape_ascii().to_string(), documented.escape_ascii().to_string());
    }
    let set = encoded(|ops| ops.set_scores(b"z", [(&b"m"[..], 1.0)].into_iter()));
    assert_eq!(set, b"\x50\x01z\x01\x01m\0\0\0\0\0\0\xf0\x3f");
    assert_eq!(encoded(|ops| ops.remove_ranks(b"z", 3, 5)), b"\x52\x01z\x03\x05");
}

#[test]
fn what_no_encoder_writes_is_refused() {
    let nan = [&b"\x50\x01z\x01\x01m"[..], &f64::NAN.to_le_bytes()].concat();
    for (ops, why) in [
        (&b"\x00\x01k"[..], "unknown tag"),
        (b"\x05\x01k", "unknown tag"),
        (b"\x14\x01k", "unknown tag of a string"),
        (b"\x22\x01k\x01\x01f", "unknown tag of a hash"),
        (b"\x32\x01k\x01\x01m", "unknown tag of a set"),
        (b"\x48\x01k\x01\x01e", "unknown tag of a list"),
        (b"\x53\x01k\x01\x01m", "unknown tag of a sorted set"),
        (b"\xff\x01k", "unknown tag"),
        (b"\x10\x01k\x00", "string without a value"),
        (b"\x20\x01k\x01\x01f", "field without a value"),
        (b"\x20\x01k\x00", "no field is put"),
        (b"\x31\x01k\x00", "no member is removed"),
        (b"\x41\x01k\x00", "push of nothing"),
        (b"\x41\x01k\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a", "more elements than bytes"),
        (b"\x41\x01k\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "varint beyond 64 bits"),
        (b"\x41\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "key beyond the end"),
        (b"\x42\x01k\x00", "pop of 0 elements"),
        (b"\x46\x01k\x02\x03\x00", "index twice"),
        (b"\x46\x01k\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "index without a next"),
        (b"\x47\x01k\x03\x02", "range backwards"),
        (b"\x52\x01k\x03\x02", "range backwards"),
        (&nan, "NaN as a score"),
    ] {
        let error = Memory::new().apply(ops, SEEN).expect_err(why);
        assert_eq!(error.kind(), Kind::Integrity, "{why}");
        assert!(Ops::new(ops).next().is_some_and(|op| op.is_err()), "{why}");
    }
}

/// Goal: a position far behind the end of a string is an error. No few bytes make the state large.
#[test]
fn a_write_far_behind_the_end_of_a_string_is_refused() {
    for position in [u64::MAX, 1 << 50] {
        let memory = Memory::new();
        memory.apply(&encoded(|ops| ops.set_string(b"k", 0, b"value")), SEEN).unwrap();
        memory.apply(&encoded(|ops| ops.write(b"k", position, b"x")), SEEN).unwrap_err();
        memory.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_have_an_effect_or_are_refused(
        // A write can make a string as long as its position says, so its tag, 19, is not among the frequent bytes.
        bytes in vec(prop_oneof![0..19u8, 32..34u8, 48..50u8, 64..72u8, 80..83u8, any::<u8>()], 0..200),
    ) {
        let memory = Memory::new();
        let values = encoded(|ops| {
            ops.push_back(b"\x01", [&b"a"[..], b"b", b"c"].into_iter());
            ops.set_string(b"\x02", 0, b"value");
            ops.put_fields(b"\x03", [(&b"\x01"[..], &b"v"[..])].into_iter());
            ops.add_members(b"\x04", [&b"\x01"[..]].into_iter());
            ops.set_scores(b"\x05", [(&b"\x01"[..], 1.0)].into_iter());
        });
        memory.apply(&values, SEEN).expect("the ops fit");
        let _ = memory.apply(&bytes, SEEN);
        memory.check();
    }

    #[test]
    fn damaged_ops_are_decoded_or_refused(
        steps in vec(step(), 1..10), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut ops: Vec<u8> = steps.iter().flat_map(encode).collect();
        let at = at.index(ops.len());
        if cut { ops.truncate(at) } else { ops[at] = byte }
        let memory = Memory::new();
        let is_malformed = Ops::new(&ops).any(|op| op.is_err());
        prop_assert_eq!(Ops::validate(&ops).is_err(), is_malformed);
        let outcome = memory.apply(&ops, SEEN);
        if is_malformed {
            prop_assert!(outcome.is_err() && memory.is_empty(), "malformed ops had an effect");
        }
        memory.check();
    }
}
