//! Hashes and sets.

use super::super::reply::Protocol;
use super::Node;
use crate::engine::keyspace::Found;

#[test]
fn hashes() {
    let mut node = Node::new();
    node.check(&[
        ("HSET h b 2 a 1 b 3", ":2|"),
        ("HLEN h", ":2|"),
        ("HGETALL h", "*4|$1|a|$1|1|$1|b|$1|3|"),
        ("HSET h a", "-ERR wrong number of arguments for 'hset' command|"),
        ("HMSET h c 4 a 5", "+OK|"),
        ("HLEN h", ":3|"),
        ("HSETNX h a 9", ":0|"),
        ("HSETNX h d 9", ":1|"),
        ("HMGET h a x d", "*3|$1|5|$-1|$1|9|"),
        ("HMGET missing a b", "*2|$-1|$-1|"),
        ("HKEYS h", "*4|$1|a|$1|b|$1|c|$1|d|"),
        ("HVALS h", "*4|$1|5|$1|3|$1|4|$1|9|"),
        ("HEXISTS h a", ":1|"),
        ("HEXISTS h x", ":0|"),
        ("HINCRBY h a 5", ":10|"),
        ("HINCRBY h n -1", ":-1|"),
        ("HINCRBYFLOAT h a 0.5", "$4|10.5|"),
        ("HINCRBY h a 5", "-ERR hash value is not an integer|"),
        ("HINCRBYFLOAT h a nan", "-ERR value is not a valid float|"),
        ("HINCRBYFLOAT h a inf", "-ERR value is NaN or Infinity|"),
        ("HDEL h a a x", ":1|"),
        ("HDEL h b c d n", ":4|"),
        ("EXISTS h", ":0|"),
        ("HDEL h b", ":0|"),
        ("HGETALL h", "*0|"),
    ]);
    node.client.protocol = Protocol::Resp3;
    node.check(&[("HGETALL h", "%0|"), ("HSET h a 1", ":1|"), ("HGETALL h", "%1|$1|a|$1|1|"), ("HGET h x", "_|")]);
}

#[test]
fn sets() {
    let mut node = Node::new();
    node.check(&[
        ("SADD s b a b", ":2|"),
        ("SADD s a", ":0|"),
        ("SCARD s", ":2|"),
        ("SISMEMBER s a", ":1|"),
        ("SISMEMBER s x", ":0|"),
        ("SMEMBERS s", "*2|$1|a|$1|b|"),
        ("SREM s a a x", ":1|"),
        ("SPOP s", "$1|b|"),
        ("EXISTS s", ":0|"),
        ("SPOP s", "$-1|"),
        ("SPOP s 3", "*0|"),
        ("SPOP s -1", "-ERR value is out of range, must be positive|"),
        ("SPOP s 1 1", "-ERR syntax error|"),
        ("SADD s a b c", ":3|"),
        ("SPOP s 0", "*0|"),
        ("SPOP s 9", "*3|$1|a|$1|b|$1|c|"),
        ("TYPE s", "+none|"),
    ]);
    node.client.protocol = Protocol::Resp3;
    node.check(&[("SADD s a", ":1|"), ("SMEMBERS s", "~1|$1|a|"), ("SPOP s 1", "~1|$1|a|"), ("SMEMBERS s", "~0|")]);
}

/// Goal: popping a large set in steps that go around returns each member once.
#[test]
fn a_large_set_is_popped_empty() {
    let mut node = Node::new();
    let members: Vec<String> = (0..2000).map(|member| format!("member:{member:05}")).collect();
    node.run(&format!("SADD s {}", members.join(" ")));
    let mut popped = Vec::new();
    for round in 0.. {
        let reply = if round % 3 == 0 { node.run("SPOP s 17") } else { node.run("SPOP s") };
        let found: Vec<String> =
            reply.split('|').filter(|part| part.starts_with("member")).map(str::to_owned).collect();
        if found.is_empty() {
            break;
        }
        popped.extend(found);
    }
    popped.sort();
    assert_eq!(popped, members);
    node.check(&[("EXISTS s", ":0|")]);
}

/// Goal: a hash or set that lost many times more elements than it has is written anew under another generation, and
/// reads the same, also within one EXEC and after the EXEC that created it.
#[test]
fn what_lost_most_of_its_elements_is_written_anew() {
    let mut node = Node::new();
    let generation = |node: &Node| {
        let mut turn = node.committer().lock_logs();
        match turn.keyspace(0).find(b"h").unwrap() {
            Found::Collection(collection) => (collection.generation, collection.count),
            _ => panic!("h is a hash"),
        }
    };
    let value = "v".repeat(100);
    for kept in 0..50 {
        node.run(&format!("HSET h kept:{kept:02} {value}"));
    }
    node.run("EXPIREAT h 4000000000");
    let (first, _) = generation(&node);
    let all = node.run("HGETALL h");
    for gone in 0..300 {
        node.run(&format!("HSET h gone:{gone} x"));
        assert_eq!(node.run(&format!("HDEL h gone:{gone} missing")), ":1|");
    }
    let (second, count) = generation(&node);
    assert!(second > first, "it was written anew");
    assert_eq!((count, node.run("HGETALL h"), node.run("EXPIRETIME h")), (50, all, ":4000000000|".into()));

    let fields: Vec<String> = (0..400).map(|field| format!("f{field}")).collect();
    let fields = fields.join(" ");
    let made = format!("SADD s stays {fields}");
    let lost = format!("SREM s {fields}");
    let requests = [made.as_str(), lost.as_str(), "SMEMBERS s", made.as_str(), lost.as_str(), "SPOP s"];
    let reply = node.transaction(&requests);
    assert_eq!(reply, "*6|:401|:400|*1|$5|stays|:400|:400|$5|stays|");
    node.check(&[("EXISTS s", ":0|"), ("SADD s new", ":1|"), ("SMEMBERS s", "*1|$3|new|")]);
    node.run(&made);
    let reply = node.transaction(&[
        lost.as_str(),
        "SMEMBERS s",
        made.as_str(),
        lost.as_str(),
        "DEL s",
        "SADD s last",
        "SMEMBERS s",
    ]);
    assert_eq!(reply, "*7|:400|*2|$3|new|$5|stays|:400|:400|:1|:1|*1|$4|last|");
    assert_eq!(node.run("SMEMBERS s"), "*1|$4|last|");
}
