//! Which requests are one commit and which are none, and what transactions and watchers see.

use super::Node;
use super::rig::words;

#[test]
fn what_changes_nothing_is_no_commit() {
    let mut node = Node::new();
    node.run("SADD s a");
    node.run("HSET h f v");
    node.run("SET k v");
    let before = node.last();
    for request in [
        "DEL missing",
        "SADD s a",
        "SREM s x",
        "HDEL h x",
        "HSETNX h f w",
        "SETNX k w",
        "SET k w NX",
        "PERSIST k",
        "EXPIRE missing 1",
        "SPOP s 0",
        "RENAME k k",
        "RENAMENX k h",
        "SETRANGE k 0 \"\"",
        "GETDEL missing",
        "SPOP missing",
    ] {
        node.run(request);
        assert_eq!(node.last(), before, "{request}");
    }
    node.run("HSET h f v");
    assert_eq!(node.last().since(before), 1);
    node.run("MSET a 1 b 2 c 3");
    assert_eq!(node.last().since(before), 2);
    node.run("FLUSHALL");
    node.run("FLUSHALL");
    assert_eq!(node.last().since(before), 3);
}

/// Goal: the commands of a transaction see the effects of the earlier ones, although nothing is in the database yet.
#[test]
fn a_transaction_sees_its_own_effects() {
    let mut node = Node::new();
    node.check(&[("HSET h old 1 both 1", ":2|"), ("SADD s old", ":1|"), ("SET k v", "+OK|")]);
    let reply = node.transaction(&["HSET h new 2 both 2", "HDEL h old", "HGETALL h", "HLEN h", "SMEMBERS s", "DBSIZE"]);
    assert_eq!(reply, "*6|:1|:1|*4|$4|both|$1|2|$3|new|$1|2|:2|*1|$3|old|:3|");
    let reply = node.transaction(&[
        "DEL h",
        "HSET h a 1",
        "DEL h",
        "HSET h b 2",
        "HGETALL h",
        "SPOP s",
        "SADD s x",
        "SMEMBERS s",
    ]);
    assert_eq!(reply, "*8|:1|:1|:1|:1|*2|$1|b|$1|2|$3|old|:1|*1|$1|x|");
    node.check(&[("HGETALL h", "*2|$1|b|$1|2|"), ("SMEMBERS s", "*1|$1|x|")]);
    let reply =
        node.transaction(&["RENAME h i", "HSET h c 3", "RENAME i h", "HGETALL h", "SET h x", "SADD h2 m", "KEYS *"]);
    assert_eq!(reply, "*7|+OK|:1|+OK|*2|$1|b|$1|2|+OK|:1|*4|$1|s|$2|h2|$1|k|$1|h|");
    let reply = node.transaction(&["FLUSHALL", "KEYS *", "HSET h z 1", "HGETALL h", "SCAN 0", "DBSIZE"]);
    assert_eq!(reply, "*6|+OK|*0|:1|*2|$1|z|$1|1|*2|$1|0|*1|$1|h|:1|");
    node.check(&[("HGETALL h", "*2|$1|z|$1|1|"), ("KEYS *", "*1|$1|h|")]);
    let pipeline = ["SET p 1", "INCR p", "DEL h", "HSET h q 1", "HGETALL h", "DEL h", "HGETALL h"].map(words);
    assert_eq!(node.pipeline(&pipeline), "+OK|:2|:1|:1|*2|$1|q|$1|1|:1|*0|");
}

/// Goal: watchers see each change of a key, including changes that do not touch its metadata.
#[test]
fn watchers_see_every_change() {
    let mut node = Node::new();
    node.change(1, |keys| keys.change_in_memory(b"l", |ops| ops.push_back(b"l", [&b"x"[..]].into_iter())).unwrap());
    node.check(&[("HSET h f v", ":1|"), ("SADD s m", ":1|")]);
    for (key, change) in [
        ("h", "HSET h f w"),
        ("h", "HINCRBY h n 1"),
        ("h", "HINCRBY h n 1"),
        ("h", "EXPIRE h 100"),
        ("k", "SET k v"),
        ("s", "SREM s m"),
        ("m", "RENAME l m"),
        ("m", "RENAME m l"),
        ("i", "RENAME h i"),
        ("k", "FLUSHALL"),
    ] {
        node.run(&format!("WATCH {key}"));
        node.run(change);
        assert_eq!(node.transaction(&["PING"]), "*-1|", "{change}");
    }
}

/// Goal: an EXEC that is refused for lack of room ends its transaction, like any other EXEC.
#[test]
fn a_refused_exec_ends_its_transaction() {
    let mut node = Node::new();
    std::fs::remove_dir_all(node.dir.path().join("oplog")).unwrap();
    let refusal = node.transaction(&["SET a 1"]);
    assert!(refusal.starts_with("-EXECABORT") && refusal.contains("the op-log cannot grow"), "{refusal}");
    node.check(&[("GET a", "$-1|"), ("EXEC", "-ERR EXEC without MULTI|")]);
}
