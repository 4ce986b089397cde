//! Requests whose effects exceed the bound of one commit, and replies whose group could not be written.

use super::Node;
use super::rig::words;
use crate::command::args::OwnedArgs;
use crate::config::Config;
use crate::csn::Csn;
use crate::io::testing::{Faults, Step};
use crate::io::{Io, StdIo};
use rustix::io::Errno;
use std::sync::Arc;

const REFUSED: &str = "nothing was changed: that would have more effects than max-commit-bytes allows";

/// Makes a node whose commits may have one mebibyte of effects.
fn bounded() -> Node {
    let mut config = Config::default();
    config.set("max-commit-bytes", "1mb").unwrap();
    Node::with(Arc::new(StdIo), config)
}

fn args<const N: usize>(args: [&[u8]; N]) -> OwnedArgs {
    args.into_iter().collect()
}

/// Returns all keys and values in a fixed order.
fn content(node: &mut Node) -> String {
    let mut keys: Vec<String> = node.run("KEYS *").split('|').skip(2).step_by(2).map(str::to_owned).collect();
    keys.sort();
    let mut all = String::new();
    for key in keys {
        let read = match node.run(&format!("TYPE {key}")).as_str() {
            "+string|" => node.run(&format!("GET {key}")),
            "+list|" => node.run(&format!("LRANGE {key} 0 -1")),
            "+zset|" => node.run(&format!("ZRANGE {key} 0 -1 WITHSCORES")),
            "+hash|" => node.run(&format!("HGETALL {key}")),
            "+set|" => node.run(&format!("SMEMBERS {key}")),
            _ => node.run(&format!("XRANGE {key} - +")),
        };
        all += &format!("{key} {} {read}\n", node.run(&format!("PTTL {key}")) != ":-1|");
    }
    all
}

/// Fails the test unless the request is refused and has no effect.
#[track_caller]
fn assert_refused(node: &mut Node, request: &OwnedArgs) {
    let (before, last) = (content(node), node.last());
    let reply = node.pipeline(std::slice::from_ref(request));
    let name = request.as_args()[0].escape_ascii().to_string();
    assert!(reply.starts_with("-ERR ") && reply.contains(REFUSED), "{name}: {reply:.200}");
    assert_eq!(node.last(), last, "{name}");
    assert_eq!(content(node), before, "{name}");
    assert!(node.committer().gate.refusal().is_none(), "{name}: writes are taken");
}

/// Goal: each command whose effects can be larger than its arguments, or as large, is refused whole beyond the bound,
/// and taken below it.
#[test]
fn a_command_beyond_the_bound_has_no_effect() {
    let mut node = bounded();
    let (half, key) = (vec![b'v'; 600 << 10], vec![b'k'; 100 << 10]);
    // Each field repeats the key.
    let hset = |fields: usize| -> OwnedArgs {
        let fields = (0..fields).flat_map(|field| [format!("f{field}").into_bytes(), b"v".to_vec()]);
        [b"HSET".to_vec(), key.clone()].into_iter().chain(fields).collect()
    };
    assert_refused(&mut node, &hset(11));
    assert_eq!(node.pipeline(&[hset(9)]), ":9|");
    assert_refused(&mut node, &args([b"RENAME", &key, &[b'l'; 120 << 10]]));
    assert_eq!(node.pipeline(&[args([b"RENAME", &key, b"hash"])]), "+OK|");
    assert_refused(&mut node, &args([b"MSET", b"a", &half, b"b", &half]));
    assert_eq!(node.pipeline(&[args([b"SET", b"string", &half])]), "+OK|");
    assert_refused(&mut node, &args([b"APPEND", b"string", &half]));
    assert_refused(&mut node, &args([b"SETRANGE", b"string", b"2000000", b"x"]));
    assert_refused(&mut node, &args([b"RPUSH", b"list", &half, &half]));
    assert_refused(&mut node, &args([b"ZADD", b"zset", b"1", &half, b"2", &[b'w'; 600 << 10]]));
    assert_refused(&mut node, &args([b"XADD", b"stream", b"*", b"f", &half, b"g", &half]));
    let large = vec![b'v'; (1 << 20) - 100];
    assert_eq!(node.pipeline(&[args([b"SET", b"string", &large])]), "+OK|");
    assert_refused(&mut node, &args([b"RENAME", b"string", &[b'n'; 200]]));
    assert_eq!(node.run("EXPIRE string 100"), ":1|");
    assert_refused(
        &mut node,
        &args([b"SADD", &key, b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"10", b"11"]),
    );
    for member in 0..12 {
        let added = args([b"SADD", &key, member.to_string().as_bytes()]);
        assert_eq!(node.pipeline(&[added]), ":1|");
        let added = args([b"XADD", &[&key[..], b"s"].concat(), b"*", b"f", b"v"]);
        assert!(node.pipeline(&[added]).starts_with('$'));
    }
    assert_refused(&mut node, &args([b"SPOP", &key, b"12"]));
    assert_refused(&mut node, &args([b"XTRIM", &[&key[..], b"s"].concat(), b"MAXLEN", b"0"]));
    assert_eq!(node.pipeline(&[args([b"DEL", &key])]), ":1|", "to delete all of it is one effect");
}

/// Goal: a command that exceeds the bound after it deleted the value that it replaces leaves that value in place.
#[test]
fn what_a_large_command_replaces_stays() {
    let mut node = bounded();
    let large = vec![b'v'; 1 << 20];
    let hash: OwnedArgs =
        ["HSET".into(), "hash".into(), "f".into(), "v".repeat(900 << 10)].into_iter().collect::<OwnedArgs>();
    node.check(&[("RPUSH list a b", ":2|"), ("ZADD zset 1 m", ":1|"), ("EXPIRE list 1000", ":1|")]);
    assert_eq!(node.pipeline(&[hash]), ":1|");
    assert_refused(&mut node, &args([b"SET", b"list", &large]));
    assert_refused(&mut node, &args([b"GETSET", b"missing", &large]));
    assert_refused(&mut node, &args([b"MSET", b"zset", b"1", b"list", &large]));
    // The copies would have the longer name.
    assert_refused(&mut node, &args([b"RENAME", b"hash", &[b'n'; 200 << 10]]));
    node.change(1, |keys| {
        keys.change_in_memory(b"old", |ops| ops.push_back(b"old", [&b"x"[..]].into_iter())).unwrap();
        keys.change_in_memory(b"old", |ops| ops.expire(b"old", 5)).unwrap();
    });
    assert_refused(&mut node, &args([b"SETRANGE", b"old", b"2000000", b"x"]));
    node.check(&[("RPUSH list c", ":3|"), ("RENAME hash list", "+OK|"), ("TYPE list", "+hash|")]);
}

/// Goal: an EXEC that exceeds the bound has no effect, whatever its commands did before to lists, sorted sets and rows
/// on disk; open groups stay whole.
#[test]
fn a_transaction_beyond_the_bound_has_no_effect() {
    let mut node = bounded();
    let half = "v".repeat(600 << 10);
    let setup = [
        "RPUSH list a b c",
        "EXPIRE list 1000",
        "RPUSH other x",
        "ZADD zset 1 m 2 n",
        "HSET hash f v g w",
        "SADD set m",
        "XADD stream 1-1 f v",
        "SET string text EX 100",
    ];
    setup.iter().for_each(|request| assert!(!node.run(request).starts_with('-')));
    let before = content(&mut node);
    let set_half = format!("SET large {half}");
    let changes = [
        "LPUSH list z",
        "LPOP list 2",
        "LREM list 0 c",
        "LMOVE other list LEFT RIGHT",
        "RENAME list moved",
        "DEL zset",
        "ZADD zset 5 new",
        "ZADD fresh 1 a",
        "HSET hash f changed h x",
        "DEL hash",
        "SADD set n",
        "SPOP set",
        "XADD stream * f w",
        "XTRIM stream MAXLEN 0",
        "EXPIRE string 5",
        "APPEND string more",
        "SET moved text",
        "SET list text",
        "FLUSHALL",
        "RPUSH list anew",
        "EXPIRE list 7",
    ];
    for cut in 1..=changes.len() {
        let mut requests = vec![words("MULTI")];
        requests.extend(changes[..cut].iter().map(|request| words(request)));
        requests.extend([words(&set_half), words("APPEND large x"), words("RPUSH list last"), words("EXEC")]);
        let last = node.last();
        // The pipeline's first and last commits share a group with the effects that are taken back.
        let own: Vec<OwnedArgs> = [words("SET string changed EX 50")]
            .into_iter()
            .chain(requests)
            .chain([words("SET string text EX 100")])
            .collect();
        let reply = node.pipeline(&own);
        let exec = reply.split('|').rev().nth(2).unwrap();
        assert!(
            exec.starts_with("-EXECABORT Transaction discarded because of: nothing was changed"),
            "{cut}: {exec:.300}"
        );
        assert_eq!((content(&mut node), node.last().since(last)), (before.clone(), 2), "after {cut} changes");
    }
    assert!(node.committer().gate.refusal().is_none());
    let reply = node.transaction(&["RPUSH list d", "LMOVE list other LEFT LEFT", "EXPIRE string 9", "SPOP set"]);
    assert_eq!(reply, "*4|:4|$1|a|:1|$1|m|", "one below the bound is taken");
}

/// Makes a push that is larger than a group may be, so that it is written in mid-pipeline.
fn large_push(key: &str) -> OwnedArgs {
    ["RPUSH".to_owned(), key.to_owned(), "v".repeat(1 << 20)].into_iter().collect()
}

/// Makes a node whose files fail, with room reserved in its op-log.
fn failing() -> (Node, Arc<Faults>) {
    let io = Arc::new(Faults::default());
    let own: Arc<dyn Io> = Arc::<Faults>::clone(&io);
    let node = Node::with(own, Config::default());
    node.committer().lock_logs().oplog().reserve(8 << 20).unwrap();
    (node, io)
}

/// Goal: when a log write fails in mid-pipeline, the replies of the earlier groups stand and wait for their own last
/// commit; no reply waits for a commit that never happens.
#[test]
fn replies_of_written_groups_outlive_a_failed_one() {
    let (mut node, io) = failing();
    let (replies, depends_on) = node.pipeline_of_commits(&[large_push("a"), words("GET missing")]);
    assert_eq!((replies.as_str(), depends_on), (":1|$-1|", Some(Csn(1))));
    io.fail_after(Step::Write, 1, Errno::IO);
    let pipeline = [large_push("b"), words("ECHO between"), large_push("c"), words("SET d 1")];
    let (replies, depends_on) = node.pipeline_of_commits(&pipeline);
    let all: Vec<&str> = replies.split('|').collect();
    assert_eq!(all[..3], [":1", "$7", "between"], "{replies:.300}");
    assert!(all[3..5].iter().all(|reply| reply.starts_with("-MISCONF")), "{replies:.900}");
    assert_eq!(depends_on, Some(Csn(2)), "the first group was written");
    let (replies, depends_on) = node.pipeline_of_commits(&[words("SET f 1")]);
    assert!(replies.starts_with("-MISCONF") && depends_on.is_none(), "{replies}");
}

/// Goal: the replies of earlier groups stand, and wait for their own last commit, also where the groups are not written
/// yet when the pipeline has run.
#[test]
fn replies_of_groups_on_their_way_share_the_fate_of_their_own_group() {
    let (mut node, io) = failing();
    node.committer().start_log_thread();
    io.fail_after(Step::Write, 1, Errno::IO);
    let pipeline = [words("RPUSH a 1"), large_push("a"), words("RPUSH b 1"), words("LLEN b")];
    let (replies, depends_on) = node.pipeline_of_commits(&pipeline);
    let all: Vec<&str> = replies.split('|').collect();
    assert_eq!(all[..2], [":1", ":2"], "{replies:.300}");
    assert!(all[2..4].iter().all(|reply| reply.starts_with("-MISCONF")), "{replies:.900}");
    assert_eq!(depends_on, Some(Csn(2)));
}

/// Goal: a command whose effects need more room than its arguments showed is refused whole when the disk is full,
/// instead of stopping writes for good.
#[test]
fn what_has_no_room_once_it_is_gathered_has_no_effect() {
    let (mut node, io) = failing();
    let value = "v".repeat(7 << 20);
    let hash: OwnedArgs = ["HSET".to_owned(), "hash".to_owned(), "f".to_owned(), value].into_iter().collect();
    assert_eq!(node.pipeline(&[hash, words("RPUSH list a")]), ":1|:1|");
    io.fail(Step::Create, Errno::NOSPC);
    // A rename over a list is a commit of both engines, so its frame holds the whole hash. Two such commits do not fit.
    node.check(&[("RENAME hash list", "+OK|"), ("RPUSH other b", ":1|")]);
    let refusal = node.run("RENAME list other");
    assert!(refusal.starts_with("-MISCONF") && refusal.contains("the op-log cannot grow"), "{refusal}");
    node.check(&[("TYPE list", "+hash|"), ("LRANGE other 0 -1", "*1|$1|b|")]);
    io.heal();
    let dir = node.dir.path().to_owned();
    node.committer().look_for_room(&dir, 0);
    node.check(&[("RENAME list other", "+OK|"), ("TYPE other", "+hash|"), ("RPUSH list c", ":1|")]);
}
