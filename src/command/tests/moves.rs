//! Keys that move between memory and disk: no client can tell.

use super::Node;
use super::rig::words;
use crate::config::{Config, RoutingPolicy};
use crate::engine::meta::Home;
use crate::io::StdIo;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::sync::Arc;

fn node(routing: RoutingPolicy) -> Node {
    let config = Config { routing, ..Config::default() };
    let node = Node::with(Arc::new(StdIo), config.clone());
    node.committer().configure_routing(&config);
    node
}

/// Returns a random request on one of few keys.
fn request(random: &mut StdRng) -> String {
    let key = format!("k{}", random.random_range(0..6));
    let other = format!("k{}", random.random_range(0..6));
    let name = |random: &mut StdRng| match random.random_range(0..3) {
        0 => random.random_range(-9..30i64).to_string(),
        1 => format!("f{}", random.random_range(0..9)),
        _ => "x".repeat(random.random_range(1..200)),
    };
    let (one, two) = (name(random), name(random));
    let number = random.random_range(-5..60i64);
    match random.random_range(0..47) {
        0..3 => format!("SET {key} {one}"),
        3 => format!("SET {key} {}", "v".repeat(random.random_range(1..9000))),
        4 => format!("SET {key} {one} PXAT 4000000000000"),
        5 => format!("SET {key} {one} KEEPTTL"),
        6 => format!("SET {key} {one} XX GET"),
        7 => format!("SETNX {key} {one}"),
        8 => format!("GETSET {key} {one}"),
        9 => format!("APPEND {key} {one}"),
        10 => format!("SETRANGE {key} {} {one}", number.max(0) * 97),
        11 => format!("INCRBY {key} {number}"),
        12 => format!("INCRBYFLOAT {key} {number}"),
        13 => format!("GETDEL {key}"),
        14 => format!("MSET {key} {one} {other} {two}"),
        15..18 => format!("HSET {key} {one} {two} {two} {number}"),
        18 => format!("HDEL {key} {one} {two}"),
        19 => format!("HINCRBY {key} {one} {number}"),
        20 => format!("HSETNX {key} {one} {two}"),
        21..25 => format!("SADD {key} {one} {two} {number}"),
        25 => format!("SREM {key} {one} {number}"),
        26 => format!("LPUSH {key} {one}"),
        27 => format!("ZADD {key} {number} {one}"),
        28 => format!("DEL {key}"),
        29 => format!("RENAME {key} {other}"),
        30 => format!("RENAMENX {key} {other}"),
        31 => format!("PEXPIREAT {key} {}", 4_000_000_000_000u64 + random.random_range(0..9)),
        32 => format!("PERSIST {key}"),
        33 => format!("PEXPIRETIME {key}"),
        34 => format!("GET {key}"),
        35 => format!("GETRANGE {key} {number} -2"),
        36 => format!("STRLEN {key}"),
        37 => format!("HGETALL {key}"),
        38 => format!("HMGET {key} {one} {two} {number}"),
        39 => format!("SMEMBERS {key}"),
        40 => format!("SISMEMBER {key} {number}"),
        41 => format!("SCARD {key}"),
        42 => format!("TYPE {key}"),
        43 => format!("MGET {key} {other}"),
        44 => format!("HLEN {key}"),
        45 => "DBSIZE".to_owned(),
        _ => format!("EXISTS {key} {other}"),
    }
}

/// Goal: replies do not depend on where keys live, nor on moves between any two commands; each key is in one home.
#[test]
fn replies_do_not_depend_on_homes() {
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut still, mut moving) = (node(RoutingPolicy::Type), node(RoutingPolicy::Access));
        for step in 0..1500 {
            if random.random_bool(0.4) {
                let key = format!("k{}", random.random_range(0..6));
                let to = if random.random_bool(0.5) { Home::Disk } else { Home::Memory };
                moving.committer().move_key(key.as_bytes(), to, crate::clock::now_millis()).unwrap();
            }
            let request = request(&mut random);
            let (expected, found) = (still.run(&request), moving.run(&request));
            assert_eq!(found, expected, "seed {seed}, step {step}: {request}");
        }
        let committer = moving.committer();
        committer.memory().check();
        for key in 0..6 {
            let key = format!("k{key}");
            let row =
                committer.disk().get(crate::engine::batch::Family::Default, &crate::engine::key::meta(key.as_bytes()));
            let is_on_disk = row.unwrap().is_some();
            assert!(
                !(is_on_disk && committer.memory().get(key.as_bytes()).is_some()),
                "seed {seed}: {key} is in two homes"
            );
        }
    }
}

/// Goal: watchers, values and expiries stay as they are when a key moves.
#[test]
fn a_move_is_no_change_to_a_watcher() {
    let mut node = node(RoutingPolicy::Access);
    node.check(&[("SET k v PXAT 4000000000000", "+OK|"), ("WATCH k", "+OK|")]);
    for to in [Home::Disk, Home::Memory, Home::Disk] {
        assert!(node.committer().move_key(b"k", to, 0).unwrap());
        assert!(!node.committer().move_key(b"k", to, 0).unwrap(), "it is there already");
    }
    assert_eq!(node.transaction(&["GET k", "PEXPIRETIME k"]), "*2|$1|v|:4000000000000|");
    assert!(!node.committer().move_key(b"missing", Home::Disk, 0).unwrap());
}

/// Goal: SCAN returns a key that exists during the whole iteration, wherever it moves meanwhile.
#[test]
fn scan_misses_no_key_that_moves() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut node = node(RoutingPolicy::Access);
        let keys: Vec<String> = (0..600).map(|key| format!("key:{key}")).collect();
        for key in &keys {
            node.run(&format!("SET {key} v"));
        }
        let (mut cursor, mut seen) = ("0".to_owned(), BTreeSet::new());
        loop {
            for _ in 0..20 {
                let key = &keys[random.random_range(0..keys.len())];
                let to = if random.random_bool(0.5) { Home::Disk } else { Home::Memory };
                node.committer().move_key(key.as_bytes(), to, 0).unwrap();
            }
            let reply = node.run(&format!("SCAN {cursor} COUNT 30"));
            let parts: Vec<&str> = reply.split('|').collect();
            cursor = parts[2].to_owned();
            seen.extend(parts[4..].iter().skip(1).step_by(2).map(|key| (*key).to_owned()));
            if cursor == "0" {
                break;
            }
        }
        assert!(keys.iter().all(|key| seen.contains(key)), "seed {seed}: {} of {} keys", seen.len(), keys.len());
    }
}

/// Goal: a move that is refused or meets an expired key changes nothing.
#[test]
fn what_cannot_move_stays() {
    let mut node = node(RoutingPolicy::Access);
    node.check(&[("LPUSH l a", ":1|"), ("ZADD z 1 a", ":1|"), ("XADD x 1-1 f v", "$3|1-1|")]);
    let large = "v".repeat(1_100_000);
    node.pipeline(&[words(&format!("SET large {large}"))]);
    for (key, to) in [("l", Home::Disk), ("z", Home::Disk), ("x", Home::Memory), ("large", Home::Disk)] {
        assert!(!node.committer().move_key(key.as_bytes(), to, 0).unwrap(), "{key}");
    }
    node.check(&[("LLEN l", ":1|"), ("ZCARD z", ":1|"), ("XLEN x", ":1|"), ("STRLEN large", ":1100000|")]);
}

/// Goal: a string that takes the place of another type lives where a new string would.
#[test]
fn a_string_in_place_of_a_list_begins_anew() {
    let large = "v".repeat(70_000);
    for (routing, value, is_in_memory) in
        [(RoutingPolicy::Type, "v", false), (RoutingPolicy::Access, "v", true), (RoutingPolicy::Access, &large, true)]
    {
        let mut node = node(routing);
        node.check(&[("LPUSH k a", ":1|"), ("EXPIRE k 100", ":1|")]);
        node.pipeline(&[words(&format!("SET k {value}"))]);
        assert_eq!(node.committer().memory().get(b"k").is_some(), is_in_memory, "{routing}");
        node.check(&[("STRLEN k", &format!(":{}|", value.len())), ("TTL k", ":-1|"), ("DBSIZE", ":1|")]);
    }
}
