//! Streams through sessions: replies in both protocols, trimming, and which requests are a commit.

use crate::command::tests::Node;
use crate::engine::key::StreamId;
use crate::engine::keyspace::Found;

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value|";
const TOO_SMALL: &str = "-ERR The ID specified in XADD is equal or smaller than the target stream top item|";

/// Returns the count and the first id of the stream `s`.
fn shape(node: &Node) -> (u64, StreamId) {
    let mut turn = node.committer().lock_logs();
    let Found::Collection(stream) = turn.keyspace(0).find(b"s").unwrap() else { panic!("s is no stream") };
    (stream.count, stream.first_id)
}

fn id(ms: u64) -> StreamId {
    StreamId { ms, seq: 0 }
}

#[test]
fn entries_are_added_in_order() {
    let mut node = Node::new();
    node.check(&[
        ("XADD s NOMKSTREAM 1 a b", "$-1|"),
        ("EXISTS s", ":0|"),
        ("XADD s 5-1 a 1 b \"\"", "$3|5-1|"),
        ("XADD s 5-* a 1", "$3|5-2|"),
        ("XADD s 5-2 a 1", TOO_SMALL),
        ("XADD s 4 a 1", TOO_SMALL),
        ("XADD s 0-0 a 1", "-ERR The ID specified in XADD must be greater than 0-0|"),
        ("XADD s 7 a 1 b", "-ERR wrong number of arguments for 'xadd' command|"),
        ("XADD s x a 1", "-ERR Invalid stream ID specified as stream command argument|"),
        ("XADD s NOMKSTREAM 7 a 1", "$3|7-0|"),
        ("XLEN s", ":3|"),
        ("XRANGE s - +", "*3|*2|$3|5-1|*4|$1|a|$1|1|$1|b|$0||*2|$3|5-2|*2|$1|a|$1|1|*2|$3|7-0|*2|$1|a|$1|1|"),
        ("XRANGE s (5-1 5", "*1|*2|$3|5-2|*2|$1|a|$1|1|"),
        ("XREVRANGE s + - COUNT 1", "*1|*2|$3|7-0|*2|$1|a|$1|1|"),
        ("XRANGE s - + COUNT 0", "*-1|"),
        ("XRANGE s + -", "*0|"),
        ("XRANGE none - + COUNT 0", "*0|"),
        ("SET t v", "+OK|"),
        ("XADD t * a b", WRONG_TYPE),
        ("XRANGE t - +", WRONG_TYPE),
        ("XLEN t", WRONG_TYPE),
    ]);
    let now_ms = crate::clock::now_millis();
    let added = node.run("XADD s * a 1");
    let ms: u64 = added.split(['|', '-']).nth(1).unwrap().parse().unwrap();
    assert!((now_ms..now_ms + 60_000).contains(&ms), "{added}");
}

#[test]
fn entries_are_read_from_several_streams() {
    let mut node = Node::new();
    node.check(&[("XADD a 1 f v", "$3|1-0|"), ("XADD a 2 f v", "$3|2-0|"), ("XADD b 1 f v", "$3|1-0|")]);
    let entry = |ms: u64| format!("*2|$3|{ms}-0|*2|$1|f|$1|v|");
    let (one, two) = (entry(1), entry(2));
    node.check(&[
        ("XREAD STREAMS a b none 0 0 0", &format!("*2|*2|$1|a|*2|{one}{two}*2|$1|b|*1|{one}")),
        ("XREAD COUNT 1 STREAMS a b 1 1", &format!("*1|*2|$1|a|*1|{two}")),
        ("XREAD STREAMS a b $ $", "*-1|"),
        ("XDEL a 2-0", ":1|"),
        ("XREAD STREAMS a 1", "*-1|"),
        ("XREAD STREAMS a 18446744073709551615-18446744073709551615", "*-1|"),
        ("SET s v", "+OK|"),
        ("XREAD STREAMS s 0", WRONG_TYPE),
    ]);
    node.run("HELLO 3");
    node.check(&[("XREAD STREAMS a b 0 0", &format!("%2|$1|a|*1|{one}$1|b|*1|{one}")), ("XREAD STREAMS a 9", "_|")]);
}

#[test]
fn trimming_keeps_the_newest() {
    let mut node = Node::new();
    for ms in 1..=300 {
        node.run(&format!("XADD s {ms} f v"));
    }
    node.check(&[("XTRIM s MAXLEN ~ 201", ":0|"), ("XTRIM s MAXLEN ~ 200", ":100|"), ("XTRIM s MAXLEN 150", ":50|")]);
    assert_eq!(shape(&node), (150, id(151)));
    node.check(&[
        ("XTRIM s MINID 151", ":0|"),
        ("XTRIM s MINID 160-1", ":10|"),
        ("XTRIM s MINID ~ 900 LIMIT 7", ":7|"),
    ]);
    assert_eq!(shape(&node), (133, id(168)));
    node.check(&[
        ("XADD s MAXLEN 2 301 f v", "$5|301-0|"),
        ("XRANGE s - +", "*2|*2|$5|300-0|*2|$1|f|$1|v|*2|$5|301-0|*2|$1|f|$1|v|"),
        ("XADD s MAXLEN 0 302 f v", "$5|302-0|"),
        ("XLEN s", ":0|"),
        ("TYPE s", "+stream|"),
        ("XRANGE s - +", "*0|"),
        ("XADD s 302 f v", TOO_SMALL),
        ("XADD s MINID 303 303 f v", "$5|303-0|"),
        ("XLEN s", ":1|"),
        ("XTRIM none MAXLEN 0", ":0|"),
    ]);
    assert_eq!(shape(&node), (1, id(303)));
}

#[test]
fn deletion_keeps_track_of_the_first_entry() {
    let mut node = Node::new();
    for ms in 1..=6 {
        node.run(&format!("XADD s {ms} f v"));
    }
    node.check(&[("XDEL s 2-0 2-0 9", ":1|")]);
    assert_eq!(shape(&node), (5, id(1)));
    node.check(&[("XDEL s 3 1", ":2|")]);
    assert_eq!(shape(&node), (3, id(4)));
    node.check(&[
        ("XRANGE s - + COUNT 1", "*1|*2|$3|4-0|*2|$1|f|$1|v|"),
        ("XDEL s x", "-ERR Invalid stream ID specified as stream command argument|"),
        ("XDEL none x", ":0|"),
        ("XDEL s 4 5 6", ":3|"),
        ("XLEN s", ":0|"),
    ]);
    assert_eq!(shape(&node), (0, id(6)));
    node.check(&[("XADD s 9 f v", "$3|9-0|")]);
    assert_eq!(shape(&node), (1, id(9)));
}

#[test]
fn a_transaction_sees_its_own_entries() {
    let mut node = Node::new();
    node.run("XADD s 1 f old");
    let reply =
        node.transaction(&["XADD s MAXLEN 2 2 f a", "XADD s MAXLEN 2 3 f b", "XDEL s 2", "XRANGE s - +", "XLEN s"]);
    assert_eq!(reply, "*5|$3|2-0|$3|3-0|:1|*1|*2|$3|3-0|*2|$1|f|$1|b|:1|");
    let reply = node.transaction(&["DEL s", "XADD s 1 f c", "DEL s", "XADD s 1 f d", "XREAD STREAMS s 0"]);
    assert_eq!(reply, "*5|:1|$3|1-0|:1|$3|1-0|*1|*2|$1|s|*1|*2|$3|1-0|*2|$1|f|$1|d|");
    node.check(&[("RENAME s t", "+OK|"), ("XRANGE t - +", "*1|*2|$3|1-0|*2|$1|f|$1|d|"), ("XADD t 1 f e", TOO_SMALL)]);
}

#[test]
fn what_changes_no_stream_is_no_commit() {
    let mut node = Node::new();
    node.run("XADD s 1 f v");
    let before = node.last();
    for request in [
        "XADD none NOMKSTREAM * f v",
        "XADD s 1 f v",
        "XADD s 0-0 f v",
        "XDEL s 2",
        "XDEL none 1",
        "XTRIM s MAXLEN 1",
        "XTRIM s MINID 1",
        "XTRIM none MAXLEN 0",
    ] {
        node.run(request);
        assert_eq!(node.last(), before, "{request}");
    }
    node.run("XADD s MAXLEN 1 2 f v");
    assert_eq!(node.last().since(before), 1);
}
