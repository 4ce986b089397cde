//! Keys that move between memory and disk while clients write, nodes are killed and states are restored: nobody can
//! tell where a key lives.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use support::archive::Archive;
use support::client::{Client, Command, cmd, elements, text};
use support::dump::{Dump, assert_same, dump};
use support::oracle::Oracle;
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::workload::seed;

const ROUNDS: usize = 6;
const PIPELINES: usize = 30;
const COMMANDS: usize = 200;
/// Keys that half of the commands use.
const HOT_KEYS: usize = 60;
const KEYS: usize = 5000;
/// Budget of the keys in memory; all keys take several times as much.
const BUDGET_BYTES: u64 = 600_000;
/// Bytes that the keys in memory may take for a moment.
const BYTES_MAX: u64 = BUDGET_BYTES + BUDGET_BYTES / 4;

fn command(random: &mut StdRng) -> Command {
    let range = if random.random_bool(0.5) { HOT_KEYS } else { KEYS };
    let number = random.random_range(0..range);
    let value = "v".repeat(random.random_range(1..400));
    let name = random.random_range(0..30).to_string();
    let other = random.random_range(0..KEYS);
    match random.random_range(0..24) {
        0..4 => cmd!("SET", format!("s{number}"), value),
        4..7 => cmd!("GET", format!("s{number}")),
        7 => cmd!("APPEND", format!("s{number}"), &name),
        8 => cmd!("SETRANGE", format!("s{number}"), random.random_range(0..300), &name),
        9 => cmd!("INCR", format!("i{number}")),
        10..12 => cmd!("HSET", format!("h{number}"), &name, value, "all", number),
        12 => cmd!("HGET", format!("h{number}"), &name),
        13 => cmd!("HDEL", format!("h{number}"), &name),
        14..16 => cmd!("SADD", format!("t{number}"), &name, other),
        16 => cmd!("SISMEMBER", format!("t{number}"), &name),
        17 => cmd!("SREM", format!("t{number}"), &name),
        18 => cmd!("PEXPIREAT", format!("s{number}"), 4_000_000_000_000u64 + number as u64),
        19 => cmd!("PERSIST", format!("s{number}")),
        20 => cmd!("DEL", format!("s{number}"), format!("h{other}")),
        21 => cmd!("RENAME", format!("i{number}"), format!("s{other}")),
        22 => cmd!("MGET", format!("s{number}"), format!("s{other}")),
        _ => cmd!("LPUSH", format!("l{}", number % 20), &name),
    }
}

/// Goal: with data of several times the memory budget, replies are those of redis-server, the budget holds, and the
/// state survives kills, on a replica, and at restore points.
#[test]
fn nobody_can_tell_where_a_key_lives() {
    let mut random = StdRng::seed_from_u64(seed());
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive).set("archive-interval", "100");
    let launch = launch.set("maxmemory", &BUDGET_BYTES.to_string()).set("move-bandwidth", "32mb");
    let mut primary = launch.start();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).archive(&archive).start();
    let oracle = Oracle::start();
    let mut expected = oracle.client();
    let mut points: Vec<(u64, Dump)> = Vec::new();
    for round in 0..ROUNDS {
        let mut client = primary.client();
        for _ in 0..PIPELINES {
            let commands: Vec<Command> = (0..COMMANDS).map(|_| command(&mut random)).collect();
            let (found, wanted) = (client.pipeline(&commands), expected.pipeline(&commands));
            for ((command, found), wanted) in commands.iter().zip(&found).zip(&wanted) {
                assert_eq!(found, wanted, "round {round}: {command:?}");
            }
        }
        let csn = client.watermarks().committed;
        let state = dump(&mut expected);
        assert_same(&state, &dump(&mut client), &format!("the primary after round {round}"));
        points.push((csn, state));
        wait_until("the budget holds", SETTLED_WITHIN, || (memory_bytes(&mut client) < BYTES_MAX).then_some(()));
        if round % 2 == 1 {
            primary.kill();
            primary.restart();
            assert_same(&points[round].1, &dump(&mut primary.client()), &format!("after kill {round}"));
        }
        replica_is(&primary, &replica, &points[round].1);
    }
    let mut client = primary.client();
    let info = client.info();
    assert!(info["moved_to_disk"] != "0" && info["moved_to_memory"] != "0", "keys move both ways: {info:?}");
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    archive.tool("verify", &[]).expect(0);
    for (csn, state) in points {
        let (_, found) = archive.restored(&["--to", &format!("csn:{csn}")]).state();
        assert_same(&state, &found, &format!("restored to csn {csn}"));
    }
}

fn memory_bytes(client: &mut Client) -> u64 {
    client.info()["memory_engine_bytes"].parse().expect("a number of bytes")
}

/// Checks that the replica has the same keys in the same homes.
fn replica_is(primary: &Node, replica: &Node, state: &Dump) {
    let (mut client, mut other) = (primary.client(), replica.client());
    wait_until("the replica has applied all", SETTLED_WITHIN, || {
        (other.watermarks().committed == client.watermarks().committed).then_some(())
    });
    assert_same(state, &dump(&mut other), "the replica");
    // Asking about a key counts as an access, so that keys may move; a move reaches the replica a moment later.
    wait_until("the homes are the same on the replica", SETTLED_WITHIN, || {
        let keys = (0..HOT_KEYS).map(|key| format!("s{key}"));
        let same = keys.filter(|key| home(&mut client, key) == home(&mut other, key)).count();
        (same == HOT_KEYS).then_some(())
    });
}

/// Returns where a key lives; `None` if there is no such key.
fn home(client: &mut Client, key: &str) -> Option<String> {
    let reply = client.ok(&cmd!("WALFERRY", "ROUTE", key));
    (!matches!(reply, redis::Value::Nil)).then(|| text(&elements(&reply)[1]))
}
