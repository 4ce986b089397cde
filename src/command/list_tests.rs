//! Lists through sessions: the replies, and which requests are a commit.

use crate::command::tests::Node;

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value|";

#[test]
fn elements_are_pushed_and_popped_at_both_ends() {
    let mut node = Node::new();
    node.check(&[
        ("LPUSH l a b c", ":3|"),
        ("RPUSH l d \"\"", ":5|"),
        ("LRANGE l 0 -1", "*5|$1|c|$1|b|$1|a|$1|d|$0||"),
        ("LRANGE l -3 1", "*0|"),
        ("LRANGE l -2 9", "*2|$1|d|$0||"),
        ("LINDEX l -5", "$1|c|"),
        ("LINDEX l 5", "$-1|"),
        ("LPOP l", "$1|c|"),
        ("RPOP l 2", "*2|$0||$1|d|"),
        ("RPOP l 0", "*0|"),
        ("LPOP l 9", "*2|$1|b|$1|a|"),
        ("EXISTS l", ":0|"),
        ("LPOP l", "$-1|"),
        ("LPOP l 0", "*-1|"),
        ("LPOP l -1", "-ERR value is out of range, must be positive|"),
        ("LPOP l 1 1", "-ERR wrong number of arguments for 'lpop' command|"),
        ("LPUSHX l a", ":0|"),
        ("LRANGE l 0 -1", "*0|"),
        ("LLEN l", ":0|"),
    ]);
}

#[test]
fn elements_are_changed_in_place() {
    let mut node = Node::new();
    node.check(&[
        ("RPUSH l a b a c a b", ":6|"),
        ("LREM l -2 a", ":2|"),
        ("LRANGE l 0 -1", "*4|$1|a|$1|b|$1|c|$1|b|"),
        ("LREM l 1 b", ":1|"),
        ("LINSERT l BEFORE c x", ":4|"),
        ("LINSERT l after b y", ":5|"),
        ("LRANGE l 0 -1", "*5|$1|a|$1|x|$1|c|$1|b|$1|y|"),
        ("LINSERT l AFTER none y", ":-1|"),
        ("LINSERT none AFTER a b", ":0|"),
        ("LINSERT l foo a b", "-ERR syntax error|"),
        ("LSET l -1 z", "+OK|"),
        ("LSET l 5 z", "-ERR index out of range|"),
        ("LSET none x z", "-ERR no such key|"),
        ("LTRIM l 1 -2", "+OK|"),
        ("LRANGE l 0 -1", "*3|$1|x|$1|c|$1|b|"),
        ("LREM l 0 x", ":1|"),
        ("LTRIM l 5 9", "+OK|"),
        ("EXISTS l", ":0|"),
        ("LTRIM l 0 0", "+OK|"),
        ("SET s v", "+OK|"),
        ("LPUSH s a", WRONG_TYPE),
        ("LPOP s 0", WRONG_TYPE),
        ("LRANGE s 0 0", WRONG_TYPE),
    ]);
}

#[test]
fn elements_move_between_lists() {
    let mut node = Node::new();
    node.check(&[
        ("RPUSH a 1 2 3", ":3|"),
        ("EXPIRE a 100", ":1|"),
        ("LMOVE a a LEFT RIGHT", "$1|1|"),
        ("LMOVE a a RIGHT RIGHT", "$1|1|"),
        ("RPOPLPUSH a a", "$1|1|"),
        ("LRANGE a 0 -1", "*3|$1|1|$1|2|$1|3|"),
        ("LMOVE a b left left", "$1|1|"),
        ("RPOPLPUSH a b", "$1|3|"),
        ("LRANGE b 0 -1", "*2|$1|3|$1|1|"),
        ("RPOPLPUSH a a", "$1|2|"),
        ("TTL a", ":100|"),
        ("SET s v", "+OK|"),
        ("LMOVE a s LEFT LEFT", WRONG_TYPE),
        ("LMOVE s a LEFT LEFT", WRONG_TYPE),
        ("LMOVE none s LEFT LEFT", "$-1|"),
        ("LMOVE a b LEFT up", "-ERR syntax error|"),
        ("LMOVE a b RIGHT RIGHT", "$1|2|"),
        ("EXISTS a", ":0|"),
        ("LRANGE b 0 -1", "*3|$1|3|$1|1|$1|2|"),
    ]);
}

#[test]
fn what_changes_no_list_is_no_commit() {
    let mut node = Node::new();
    node.run("RPUSH l a b");
    node.run("RPUSH one a");
    let before = node.last();
    for request in [
        "LPOP none",
        "LPOP l 0",
        "LPUSHX none a",
        "LREM l 0 x",
        "LTRIM l 0 -1",
        "LTRIM none 0 0",
        "LINSERT l BEFORE x y",
        "LMOVE l l LEFT LEFT",
        "RPOPLPUSH one one",
        "LMOVE none l LEFT LEFT",
        "LSET l 9 x",
    ] {
        node.run(request);
        assert_eq!(node.last(), before, "{request}");
    }
    node.run("LMOVE l one LEFT LEFT");
    assert_eq!(node.last().since(before), 1);
}

#[test]
fn an_expired_list_is_no_obstacle() {
    let mut node = Node::new();
    let set_up = |node: &mut Node| {
        node.run("FLUSHALL");
        node.change(1, |keys| {
            keys.change_in_memory(b"l", |ops| ops.push_back(b"l", [&b"old"[..]].into_iter())).unwrap();
            let found = keys.find(b"l").unwrap();
            keys.set_expire(b"l", &found, 5).unwrap();
        });
    };
    set_up(&mut node);
    node.check(&[
        ("LPOP l", "$-1|"),
        ("LPUSHX l x", ":0|"),
        ("LMOVE l m LEFT LEFT", "$-1|"),
        ("ZADD z 1 a", ":1|"),
        ("LMOVE l z LEFT LEFT", "$-1|"),
        ("RPUSH l new", ":1|"),
        ("LRANGE l 0 -1", "*1|$3|new|"),
        ("TTL l", ":-1|"),
    ]);
    set_up(&mut node);
    node.check(&[
        ("RPUSH m a", ":1|"),
        ("LMOVE m l LEFT LEFT", "$1|a|"),
        ("LRANGE l 0 -1", "*1|$1|a|"),
        ("TTL l", ":-1|"),
    ]);
    set_up(&mut node);
    node.check(&[("XADD l 1-1 a b", "$3|1-1|"), ("TYPE l", "+stream|")]);
}
