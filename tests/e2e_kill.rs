//! SIGKILL at random moments under each durability mode: nothing that was replied is lost, no transaction is torn, csns
//! are dense, and the replica and the archive agree with the primary.
//!
//! Many connections write at once, pipelined, so that they share groups of commits; each owns its keys, so that what a
//! kill may have done to it is known exactly. `WALFERRY_ROUNDS` sets the number of kills per mode.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::Value;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::archive::Archive;
use support::client::{Client, Command, cmd, elements, framed, integer, text};
use support::dump::{assert_same, dump};
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::workload::seed;

/// Connections that write at the same time.
const WRITERS: usize = 6;
/// Rounds that a writer sends in one pipeline.
const ROUNDS_IN_PIPELINE: u64 = 4;
/// Kills per durability mode.
const KILLS: usize = 40;
/// Kills between two comparisons with the replica; it is killed as often itself.
const KILLS_BETWEEN_LOOKS: usize = 8;
/// Restores per durability mode.
const RESTORES: usize = 4;

/// What one writer's keys say: how many of each of its commits are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Seen {
    transactions: u64,
    counted: u64,
    queued: u64,
}

impl Seen {
    /// Commits of this writer: it sends transaction, count, queue in turn, and they are executed in turn.
    fn commits(self) -> u64 {
        let Self { transactions, counted, queued } = self;
        let in_turn = transactions >= counted && counted >= queued && queued + 1 >= transactions;
        assert!(in_turn, "commits of one connection out of order: {self:?}");
        transactions + counted + queued
    }
}

/// One round of a writer: a commit over all engines, one in RocksDB, one in memory.
fn round(writer: usize, number: u64) -> Vec<Command> {
    let key = |name: &str| format!("{name}:{writer}");
    let mut commands = framed(&[
        cmd!("SET", key("string"), number),
        cmd!("LPUSH", key("list"), number),
        cmd!("ZADD", key("zset"), number, "member"),
        cmd!("HSET", key("hash"), "round", number),
        cmd!("XADD", key("stream"), format!("{number}-1"), "round", number),
    ]);
    commands.push(cmd!("INCR", key("count")));
    commands.push(cmd!("RPUSH", key("queue"), number));
    commands
}

/// Reads what is there of every writer in one transaction; fails the test if a transaction is torn.
#[track_caller]
fn look(client: &mut Client) -> Vec<Seen> {
    const READS: usize = 8;
    let reads = |writer: usize| {
        let key = |name: &str| format!("{name}:{writer}");
        [
            cmd!("GET", key("string")),
            cmd!("LINDEX", key("list"), 0),
            cmd!("ZSCORE", key("zset"), "member"),
            cmd!("HGET", key("hash"), "round"),
            cmd!("LLEN", key("list")),
            cmd!("XLEN", key("stream")),
            cmd!("GET", key("count")),
            cmd!("LLEN", key("queue")),
        ]
    };
    let reply = client.transaction(&(0..WRITERS).flat_map(reads).collect::<Vec<_>>());
    let number = |reply: &Value| match reply {
        Value::Nil => 0,
        Value::Int(number) => *number as u64,
        other => text(other).parse().expect("a number"),
    };
    let seen = |replies: &[Value]| {
        let numbers: Vec<u64> = replies.iter().map(number).collect();
        assert!(numbers[..6].iter().all(|&number| number == numbers[0]), "torn transaction: {replies:?}");
        Seen { transactions: numbers[0], counted: numbers[6], queued: numbers[7] }
    };
    elements(&reply).chunks(READS).map(seen).collect()
}

/// What one writer got replies to.
#[derive(Default)]
struct Replied([AtomicU64; 3]);

/// Sends rounds after `from` until the connection ends.
fn write(node_port: u16, writer: usize, from: u64, replied: &Replied) {
    let Ok(mut client) = Client::connect(node_port) else { return };
    let mut next = from + 1;
    loop {
        let rounds = next..next + ROUNDS_IN_PIPELINE;
        let commands: Vec<Command> = rounds.clone().flat_map(|number| round(writer, number)).collect();
        if client.send(&commands).is_err() {
            return;
        }
        for number in rounds {
            let replies = round(writer, number).len();
            for nth in 0..replies {
                let Ok(reply) = client.receive() else { return };
                // The last three replies are those of EXEC, INCR and RPUSH.
                if let Some(kind) = (nth + 3).checked_sub(replies) {
                    assert!(!matches!(reply, Value::ServerError(_)), "round {number}: {reply:?}");
                    replied.0[kind].store(number, Ordering::Relaxed);
                }
            }
        }
        next += ROUNDS_IN_PIPELINE;
    }
}

/// Lets all writers write until the primary is killed, restarts it and checks what is there.
fn kill_under_load(
    primary: &mut Node,
    before: &[Seen],
    csn_start: u64,
    alive: Duration,
    other: Option<&mut Node>,
) -> Vec<Seen> {
    let replied: Vec<Replied> = (0..WRITERS).map(|_| Replied::default()).collect();
    let port = primary.launch.port;
    std::thread::scope(|scope| {
        for (writer, replied) in replied.iter().enumerate() {
            let from = before[writer].transactions;
            scope.spawn(move || write(port, writer, from, replied));
        }
        std::thread::sleep(alive);
        if let Some(replica) = other {
            replica.kill();
        }
        primary.kill();
    });
    primary.restart();
    let mut client = primary.client();
    let mut seen = look(&mut client);
    for (writer, seen) in seen.iter().enumerate() {
        let [transactions, counted, queued] = replied[writer].0.each_ref().map(|number| number.load(Ordering::Relaxed));
        let Seen { transactions: t, counted: c, queued: q } = *seen;
        let kept = t >= transactions && c >= counted && q >= queued;
        assert!(kept, "writer {writer}: replied {transactions}/{counted}/{queued}, there is {seen:?}");
    }
    let commits: u64 = seen.iter().map(|seen| seen.commits()).sum();
    assert_eq!(client.watermarks().committed, csn_start + commits, "csns are dense");
    // What a round lacks is sent now, so that the next one starts whole.
    for (writer, seen) in seen.iter_mut().enumerate() {
        if seen.counted < seen.transactions {
            client.ok(&cmd!("INCR", format!("count:{writer}")));
            seen.counted += 1;
        }
        if seen.queued < seen.transactions {
            client.ok(&cmd!("RPUSH", format!("queue:{writer}"), seen.transactions));
            seen.queued += 1;
        }
    }
    seen
}

fn kills_under(appendfsync: &str) {
    let kills =
        std::env::var("WALFERRY_ROUNDS").map_or(KILLS, |text| text.parse().expect("WALFERRY_ROUNDS is a number"));
    let mut rng = StdRng::seed_from_u64(seed());
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let launch = Launch::primary(&root.path().join("primary"))
        .archive(&archive)
        .set("archive-interval", "50")
        .set("appendfsync", appendfsync);
    let mut primary = launch.start();
    let mut replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    let start = primary.client().watermarks();
    let mut seen = vec![Seen::default(); WRITERS];
    for kill in 1..=kills {
        let looks_at_replica = kill % KILLS_BETWEEN_LOOKS == 0;
        let alive = Duration::from_millis(rng.random_range(5..120));
        seen = kill_under_load(&mut primary, &seen, start.committed, alive, looks_at_replica.then_some(&mut replica));
        assert_eq!(primary.client().watermarks().epoch, start.epoch, "a process kill starts no epoch");
        if looks_at_replica {
            replica.restart();
            let (mut there, mut here) = (primary.client(), replica.client());
            let csn = there.watermarks().committed;
            wait_until("the replica has everything", SETTLED_WITHIN, || {
                (here.watermarks().committed == csn).then_some(())
            });
            assert_same(&dump(&mut there), &dump(&mut here), "primary and replica");
        }
    }
    let mut client = primary.client();
    let csn = client.watermarks().committed;
    let archived = integer(&client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64;
    assert_eq!(archived, csn, "the archive has everything");
    archive.tool("verify", &[]).expect(0);
    let cuts = (0..RESTORES).map(|_| rng.random_range(start.committed + 1..=csn)).chain([csn]);
    for cut in cuts {
        let restored = archive.restored(&["--to", &format!("csn:{cut}")]);
        let commits: u64 = look(&mut restored.client()).into_iter().map(Seen::commits).sum();
        assert_eq!(start.committed + commits, cut, "a restore shows exactly its csn");
    }
    eprintln!("{appendfsync}: {kills} kills, {} commits", csn - start.committed);
}

/// Goal: with `appendfsync always`, kills lose and tear nothing.
#[test]
fn kills_under_always() {
    kills_under("always");
}

/// Goal: with `appendfsync everysec`, kills of the process lose and tear nothing.
#[test]
fn kills_under_everysec() {
    kills_under("everysec");
}

/// Goal: with `appendfsync no`, kills of the process lose and tear nothing.
#[test]
fn kills_under_no() {
    kills_under("no");
}
