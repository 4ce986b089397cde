//! Sorted sets through sessions: replies in both protocols, and which requests are a commit.

use crate::command::tests::Node;

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value|";
const NOT_A_NUMBER: &str = "-ERR resulting score is not a number (NaN)|";

#[test]
fn members_are_added_under_conditions() {
    let mut node = Node::new();
    node.check(&[
        ("ZADD z 1 a 2 b 3 c", ":3|"),
        ("ZADD z CH 1 a 5 b 4 d", ":2|"),
        ("ZADD z NX 9 a 9 e", ":1|"),
        ("ZADD z XX CH 10 e 1 f", ":1|"),
        ("ZADD z GT CH 1 b 6 c 0.5 g", ":2|"),
        ("ZADD z INCR 1.5 a", "$3|2.5|"),
        ("ZADD z NX INCR 1 a", "$-1|"),
        ("ZADD z GT INCR -1 a", "$-1|"),
        ("ZADD none XX INCR 1 a", "$-1|"),
        ("ZADD none XX 1 a 2 b", ":0|"),
        ("EXISTS none", ":0|"),
        ("ZADD z CH 1 twice 2 twice 2 twice", ":2|"),
        ("ZADD z NX 3 once 4 once", ":1|"),
        ("ZSCORE z once", "$1|3|"),
        ("ZSCORE z twice", "$1|2|"),
        ("ZADD z inf i -inf j -0 n", ":3|"),
        ("ZSCORE z n", "$1|0|"),
        ("ZINCRBY z -inf i", NOT_A_NUMBER),
        ("ZINCRBY z 1 i", "$3|inf|"),
        ("ZINCRBY new 2.25 a", "$4|2.25|"),
        ("ZADD z nan a", "-ERR value is not a valid float|"),
        ("ZADD z 1 a x b", "-ERR value is not a valid float|"),
        ("SET s v", "+OK|"),
        ("ZADD s x a", "-ERR value is not a valid float|"),
        ("ZADD s XX 1 a", WRONG_TYPE),
        ("ZINCRBY s 1 a", WRONG_TYPE),
        ("ZCARD z", ":11|"),
    ]);
}

#[test]
fn ranges_go_by_rank_score_and_bytes() {
    let mut node = Node::new();
    node.check(&[
        ("ZADD z 1 a 2 b 3 c 4.5 d", ":4|"),
        ("ZRANGE z 0 1 WITHSCORES", "*4|$1|a|$1|1|$1|b|$1|2|"),
        ("ZRANGE z 0 1 REV", "*2|$1|d|$1|c|"),
        ("ZREVRANGE z -1 -1 WITHSCORES", "*2|$1|a|$1|1|"),
        ("ZRANGE z (1 +inf BYSCORE LIMIT 1 9", "*2|$1|c|$1|d|"),
        ("ZRANGE z +inf (1 BYSCORE REV LIMIT 1 1", "*1|$1|c|"),
        ("ZRANGEBYSCORE z 2 (4.5 WITHSCORES", "*4|$1|b|$1|2|$1|c|$1|3|"),
        ("ZREVRANGEBYSCORE z (3 -inf", "*2|$1|b|$1|a|"),
        ("ZRANGEBYSCORE z 3 2", "*0|"),
        (
            "ZRANGE z 0 -1 LIMIT 0 1",
            "-ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX|",
        ),
        ("ZCOUNT z (1 3", ":2|"),
        ("ZCOUNT none 1 3", ":0|"),
        ("ZCOUNT z 1 x", "-ERR min or max is not a float|"),
        ("ZRANK z c", ":2|"),
        ("ZREVRANK z c", ":1|"),
        ("ZRANK z x", "$-1|"),
        ("ZADD l 0 a 0 b 0 c", ":3|"),
        ("ZRANGEBYLEX l (a +", "*2|$1|b|$1|c|"),
        ("ZRANGE l [b - BYLEX REV LIMIT 1 1", "*1|$1|a|"),
        ("ZRANGEBYLEX l a +", "-ERR min or max not valid string range item|"),
    ]);
    node.run("HELLO 3");
    node.check(&[
        ("ZRANGE z 2 3 WITHSCORES", "*2|*2|$1|c|,3|*2|$1|d|,4.5|"),
        ("ZRANGE z 2 3", "*2|$1|c|$1|d|"),
        ("ZSCORE z d", ",4.5|"),
        ("ZSCORE z x", "_|"),
        ("ZADD z INCR 1 d", ",5.5|"),
    ]);
}

#[test]
fn members_are_removed_by_name_rank_and_score() {
    let mut node = Node::new();
    node.check(&[
        ("ZADD z 1 a 2 b 3 c 4 d 5 e 6 f 7 g", ":7|"),
        ("ZREM z a a x", ":1|"),
        ("ZREM z x", ":0|"),
        ("ZREM z b", ":1|"),
        ("ZREMRANGEBYRANK z -1 -1", ":1|"),
        ("ZREMRANGEBYRANK z 5 9", ":0|"),
        ("ZREMRANGEBYSCORE z (3 4", ":1|"),
        ("ZRANGE z 0 -1", "*3|$1|c|$1|e|$1|f|"),
        ("ZPOPMIN z", "*2|$1|c|$1|3|"),
        ("ZPOPMAX z 0", "*0|"),
        ("ZPOPMAX z 9", "*4|$1|f|$1|6|$1|e|$1|5|"),
        ("EXISTS z", ":0|"),
        ("ZPOPMIN z", "*0|"),
        ("ZPOPMIN z -1", "-ERR value is out of range, must be positive|"),
        ("ZPOPMIN z 1 2", "-ERR syntax error|"),
        ("SET s v", "+OK|"),
        ("ZPOPMIN s 0", WRONG_TYPE),
        ("ZREM s a", WRONG_TYPE),
    ]);
    node.run("HELLO 3");
    node.check(&[("ZADD z 1 a 2 b 3 c", ":3|"), ("ZPOPMIN z", "*2|$1|a|,1|"), ("ZPOPMAX z 1", "*1|*2|$1|c|,3|")]);
}

#[test]
fn what_changes_no_set_is_no_commit() {
    let mut node = Node::new();
    node.run("ZADD z 1 a 2 b");
    let before = node.last();
    for request in [
        "ZADD z 1 a",
        "ZADD z 1 a 2 b",
        "ZADD z NX 5 a",
        "ZADD none XX 1 a",
        "ZINCRBY z 0 a",
        "ZREM z x y",
        "ZREMRANGEBYRANK z 5 9",
        "ZREMRANGEBYSCORE z 5 9",
        "ZPOPMIN z 0",
        "ZPOPMIN none",
    ] {
        node.run(request);
        assert_eq!(node.last(), before, "{request}");
    }
    node.run("ZADD z 1 a 3 b 4 c");
    assert_eq!(node.last().since(before), 1);
}
