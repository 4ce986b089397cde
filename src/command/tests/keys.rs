//! Keys of every type: expiry and renaming.

use super::Node;

#[test]
fn expiry_has_conditions() {
    let mut node = Node::new();
    node.check(&[
        ("EXPIRE k 100", ":0|"),
        ("SET k v", "+OK|"),
        ("TTL k", ":-1|"),
        ("TTL missing", ":-2|"),
        ("EXPIRE k 100 XX", ":0|"),
        ("EXPIRE k 100 GT", ":0|"),
        ("EXPIRE k 100 NX", ":1|"),
        ("EXPIRE k 50 GT", ":0|"),
        ("EXPIRE k 50 LT", ":1|"),
        ("TTL k", ":50|"),
        ("EXPIRE k 50 NX GT", "-ERR NX and XX, GT or LT options at the same time are not compatible|"),
        ("EXPIRE k 50 GT LT", "-ERR GT and LT options at the same time are not compatible|"),
        ("EXPIRE k 50 FOO", "-ERR Unsupported option FOO|"),
        ("EXPIRE k 9223372036854775807", "-ERR invalid expire time in 'expire' command|"),
        ("PEXPIREAT k 4000000000000", ":1|"),
        ("PEXPIRETIME k", ":4000000000000|"),
        ("EXPIRETIME k", ":4000000000|"),
        ("PERSIST k", ":1|"),
        ("PERSIST k", ":0|"),
        ("HSET h f v", ":1|"),
        ("EXPIREAT h 4000000000", ":1|"),
        ("HSET h g v", ":1|"),
        ("EXPIRETIME h", ":4000000000|"),
        ("EXPIRE h -1", ":1|"),
        ("EXISTS h", ":0|"),
        ("EXPIRE k 0", ":1|"),
        ("GET k", "$-1|"),
    ]);
}

/// Goal: an expired key is absent to every command, and does not hinder a key of another type.
#[test]
fn expired_keys_are_not_there() {
    let mut node = Node::new();
    let set_up = |node: &mut Node| {
        node.run("FLUSHALL");
        node.check(&[("HSET h f old", ":1|"), ("SET s old", "+OK|")]);
        node.change(1, |keys| {
            keys.change_in_memory(b"l", |ops| ops.push_back(b"l", [&b"x"[..]].into_iter())).unwrap();
            for key in [&b"h"[..], b"s", b"l"] {
                let found = keys.find(key).unwrap();
                keys.set_expire(key, &found, 5).unwrap();
            }
        });
    };
    set_up(&mut node);
    node.check(&[
        ("EXISTS h s l", ":0|"),
        ("KEYS *", "*0|"),
        ("SCAN 0", "*2|$1|0|*0|"),
        ("HGETALL h", "*0|"),
        ("INCR s", ":1|"),
        ("TTL s", ":-1|"),
        ("SADD h m", ":1|"),
        ("HSET l f new", ":1|"),
        ("HGETALL l", "*2|$1|f|$3|new|"),
        ("KEYS *", "*3|$1|s|$1|l|$1|h|"),
    ]);
    set_up(&mut node);
    let before = node.last();
    node.check(&[("RENAME s t", "-ERR no such key|"), ("RENAMENX l t", "-ERR no such key|"), ("TTL l", ":-2|")]);
    assert_eq!(node.last(), before, "a command that fails has no effect");
    node.check(&[
        ("SET l x KEEPTTL", "+OK|"),
        ("TTL l", ":-1|"),
        ("DEL h s", ":0|"),
        ("HSET h f new", ":1|"),
        ("HLEN h", ":1|"),
    ]);
    assert_eq!(node.last().since(before), 3);
}

#[test]
fn keys_are_renamed_whole() {
    let mut node = Node::new();
    node.change(1, |keys| {
        keys.change_in_memory(b"l", |ops| ops.push_back(b"l", [&b"x"[..]].into_iter())).unwrap();
        keys.change_in_memory(b"z", |ops| ops.set_scores(b"z", [(&b"m"[..], 1.5)].into_iter())).unwrap();
    });
    node.check(&[
        ("HSET h f v g w", ":2|"),
        ("EXPIREAT h 4000000000", ":1|"),
        ("SADD t old", ":1|"),
        ("RENAME h t", "+OK|"),
        ("TYPE h", "+none|"),
        ("HGETALL t", "*4|$1|f|$1|v|$1|g|$1|w|"),
        ("EXPIRETIME t", ":4000000000|"),
        ("RENAMENX t l", ":0|"),
        ("RENAME t l", "+OK|"),
        ("TYPE l", "+hash|"),
        ("HLEN l", ":2|"),
        ("SET s v EX 100", "+OK|"),
        ("RENAME s l", "+OK|"),
        ("TTL l", ":100|"),
        ("RENAME z l", "+OK|"),
        ("TYPE l", "+zset|"),
        ("TTL l", ":-1|"),
        ("EXPIREAT l 4000000000", ":1|"),
        ("RENAMENX l free", ":1|"),
        ("EXPIRETIME free", ":4000000000|"),
        ("RENAME free free", "+OK|"),
        ("RENAME missing x", "-ERR no such key|"),
        ("KEYS *", "*1|$4|free|"),
        ("DBSIZE", ":1|"),
    ]);
}
