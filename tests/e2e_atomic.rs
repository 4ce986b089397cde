//! A transaction over all engines is never torn: not by a process kill, not on a replica, not at a restore point.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use support::archive::Archive;
use support::client::{Client, Command, bytes, cmd, elements, error_text, integer, text};
use support::process::{Launch, SETTLED_WITHIN, StopOnDrop, wait_until};
use support::workload::seed;

const KILLS: usize = 10;
const ROUNDS_IN_FLIGHT: u64 = 50;
const RESTORED_CUTS: usize = 12;

/// Returns the writes of one round; each engine gets the round's number.
fn round_writes(round: u64) -> Vec<Command> {
    vec![
        cmd!("SET", "string", round),
        cmd!("LPUSH", "list", round),
        cmd!("ZADD", "zset", round, "member"),
        cmd!("XADD", "stream", format!("{round}-1"), "round", round),
        cmd!("HSET", "hash", "round", round),
        cmd!("SADD", "set", round),
    ]
}

/// Returns the commands that read the content of each engine in one transaction.
fn round_reads() -> Vec<Command> {
    vec![
        cmd!("GET", "string"),
        cmd!("LINDEX", "list", 0),
        cmd!("LLEN", "list"),
        cmd!("ZSCORE", "zset", "member"),
        cmd!("XREVRANGE", "stream", "+", "-", "COUNT", 1),
        cmd!("XLEN", "stream"),
        cmd!("HGET", "hash", "round"),
        cmd!("SCARD", "set"),
    ]
}

/// Returns the round at which all engines are; fails the test if the engines differ.
#[track_caller]
fn round_seen(client: &mut Client) -> u64 {
    let reply = client.transaction(&round_reads());
    let replies = elements(&reply);
    if replies.iter().all(|reply| matches!(reply, Value::Nil | Value::Int(0)) || *reply == Value::Array(Vec::new())) {
        return 0;
    }
    let number = |reply: &Value| match reply {
        Value::Int(number) => *number as u64,
        other => text(other).parse().unwrap_or_else(|_| panic!("torn: {other:?} in {reply:?}")),
    };
    let stream_round = || {
        let entry = elements(&elements(&replies[4])[0]);
        text(&elements(&entry[1])[1]).parse().expect("the round's number")
    };
    let rounds: Vec<u64> = replies
        .iter()
        .enumerate()
        .map(|(index, reply)| if index == 4 { stream_round() } else { number(reply) })
        .collect();
    assert!(rounds.windows(2).all(|pair| pair[0] == pair[1]), "torn transaction: {rounds:?} in {reply:?}");
    rounds[0]
}

/// Sends rounds in one pipeline; returns how many EXECs got a reply before the connection ended, if it ended.
fn send_rounds(client: &mut Client, rounds: std::ops::Range<u64>, mut on_reply: impl FnMut(u64)) -> u64 {
    let commands: Vec<Command> =
        rounds.clone().flat_map(|round| support::client::framed(&round_writes(round))).collect();
    let mut done = rounds.start;
    if client.send(&commands).is_err() {
        return 0;
    }
    for round in rounds {
        for _ in 0..round_writes(round).len() + 1 {
            if client.receive().is_err() {
                return done;
            }
        }
        match client.receive() {
            Ok(reply) => {
                assert!(elements(&reply).iter().all(|reply| error_text(reply).is_none()), "round {round}: {reply:?}");
                done = round + 1;
                on_reply(round);
            }
            Err(_) => return done,
        }
    }
    done
}

/// Goal: after SIGKILL at a random moment and a restart, every engine is at the same round, no replied round is
/// missing, and every restore point between shows exactly its round.
#[test]
fn a_transaction_is_whole_after_kills_and_at_every_cut() {
    let mut rng = StdRng::seed_from_u64(seed());
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive).set("archive-interval", "50");
    let mut primary = launch.start();
    let csn_before = primary.client().watermarks().committed;
    let mut round = 0;
    for kill in 0..KILLS {
        let mut client = primary.client();
        let kill_at = round + 1 + rng.random_range(0..ROUNDS_IN_FLIGHT);
        let mut replied = round;
        send_rounds(&mut client, round + 1..round + 1 + ROUNDS_IN_FLIGHT, |done| {
            replied = done;
            if done == kill_at {
                primary.kill();
            }
        });
        primary.restart();
        let seen = round_seen(&mut primary.client());
        assert!(seen >= replied, "kill {kill}: round {replied} was replied, {seen} is there");
        assert!(seen <= round + ROUNDS_IN_FLIGHT, "kill {kill}: round {seen} was never sent");
        assert_eq!(primary.client().watermarks().committed, csn_before + seen, "each transaction takes one csn");
        if kill == KILLS / 2 {
            primary.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
        }
        round = seen;
    }
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let mut cuts = BTreeSet::from([1, round]);
    while cuts.len() < RESTORED_CUTS {
        cuts.insert(rng.random_range(1..=round));
    }
    for cut in cuts {
        let restored = archive.restored(&["--to", &format!("csn:{}", csn_before + cut)]);
        assert_eq!(round_seen(&mut restored.client()), cut, "the cut shows exactly its round");
    }
}

/// Goal: a reader of the primary or of a replica never sees a part of a transaction while transactions are written.
#[test]
fn a_transaction_is_never_seen_in_part_by_readers() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let primary = Launch::primary(&root.path().join("primary")).start();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stopper = StopOnDrop(&stop);
        let load = scope.spawn(|| {
            let mut client = primary.client();
            let mut next = 1;
            while !stop.load(Ordering::Relaxed) {
                next = send_rounds(&mut client, next..next + 10, |_| {});
            }
            next - 1
        });
        for node in [&primary, &replica] {
            let mut client = node.client();
            let mut seen = BTreeSet::new();
            wait_until("a reader has seen many rounds", SETTLED_WITHIN, || {
                let last = seen.last().copied().unwrap_or(0);
                let round = round_seen(&mut client);
                assert!(round >= last, "round {round} was seen after round {last}");
                seen.insert(round);
                (seen.len() >= 100).then_some(())
            });
        }
        drop(stopper);
        let last = load.join().expect("the load ends well");
        let mut client = replica.client();
        wait_until("the replica has the last round", SETTLED_WITHIN, || {
            (round_seen(&mut client) == last).then_some(())
        });
    });
}

/// Goal: a replica killed while it applies commits restarts with whole transactions and catches up.
#[test]
fn a_transaction_is_whole_on_a_replica_after_kills() {
    let mut rng = StdRng::seed_from_u64(seed());
    let root = tempfile::tempdir().expect("a temporary directory");
    let primary = Launch::primary(&root.path().join("primary")).start();
    let mut replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    let mut client = primary.client();
    let mut next = 1;
    for _ in 0..5 {
        let (first, kill_at) = (next, next + rng.random_range(0..200));
        next = send_rounds(&mut client, first..first + 200, |done| {
            if done == kill_at {
                replica.kill();
            }
        });
        replica.restart();
        let mut reader = replica.client();
        wait_until("the replica has caught up", SETTLED_WITHIN, || (round_seen(&mut reader) == next - 1).then_some(()));
    }
}

/// Goal: a transaction larger than a chunk (4 MiB) is still one commit: whole on the replica, after a kill, and at
/// the restore points around it.
#[test]
fn a_transaction_larger_than_a_chunk_is_whole_everywhere() {
    let mut rng = StdRng::seed_from_u64(seed());
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let mut primary = Launch::primary(&root.path().join("primary")).archive(&archive).start();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    let mut client = primary.client();
    client.ok(&cmd!("SET", "before", 1));
    let before = client.watermarks().committed;
    let large: Vec<Vec<u8>> = (0..6).map(|_| (0..1 << 20).map(|_| rng.random()).collect()).collect();
    let mut writes: Vec<Command> = Vec::new();
    for (number, value) in large.iter().enumerate() {
        writes.push(cmd!("SET", format!("string:{number}"), value));
        writes.push(cmd!("RPUSH", "list", value));
    }
    writes.push(cmd!("ZADD", "zset", 1, "member"));
    client.transaction(&writes);
    client.ok(&cmd!("SET", "after", 1));
    let csn = client.watermarks().committed;
    assert_eq!(csn, before + 2, "a large transaction takes one csn");

    let assert_whole = |client: &mut Client, place: &str| {
        let listed = client.ok(&cmd!("LRANGE", "list", 0, -1));
        let listed: Vec<Vec<u8>> = elements(&listed).iter().map(bytes).collect();
        assert!(listed == large, "{place}: the list is whole");
        for (number, value) in large.iter().enumerate() {
            let found = bytes(&client.ok(&cmd!("GET", format!("string:{number}"))));
            assert!(found == *value, "{place}: string {number} is whole");
        }
        assert_eq!(text(&client.ok(&cmd!("ZSCORE", "zset", "member"))), "1", "{place}");
    };
    let mut on_replica = replica.client();
    wait_until("the replica has caught up", SETTLED_WITHIN, || {
        (on_replica.watermarks().committed == csn).then_some(())
    });
    assert_whole(&mut on_replica, "on the replica");
    primary.kill();
    primary.restart();
    assert_whole(&mut primary.client(), "after a kill");
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let restored = archive.restored(&["--to", &format!("csn:{before}")]);
    assert_eq!(integer(&restored.client().ok(&cmd!("DBSIZE"))), 1, "before it nothing of it is there");
    let restored = archive.restored(&["--to", &format!("csn:{}", before + 1)]);
    assert_whole(&mut restored.client(), "restored");
    assert_eq!(integer(&restored.client().ok(&cmd!("EXISTS", "after"))), 0, "nothing after it is there");
}
