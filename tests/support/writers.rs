//! Writers whose keys show exactly which of their commits exist, for tests that end the server under load.

use super::client::{Client, Command, cmd, elements, framed, text};
use redis::Value;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Number of connections that write at the same time.
pub(crate) const WRITERS: usize = 6;
/// Number of rounds that a writer sends in one pipeline.
const ROUNDS_IN_PIPELINE: u64 = 4;

/// The commits of one writer that its keys show, counted by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    /// Number of transactions over all engines.
    pub transactions: u64,
    /// Number of INCRs, in RocksDB.
    pub counted: u64,
    /// Number of RPUSHes, in memory.
    pub queued: u64,
}

impl Seen {
    /// Returns the number of commits: the writer sends transaction, INCR and RPUSH in turn, and they run in this
    /// order.
    pub(crate) fn commits(self) -> u64 {
        let Self { transactions, counted, queued } = self;
        let in_turn = transactions >= counted && counted >= queued && queued + 1 >= transactions;
        assert!(in_turn, "commits of one connection out of order: {self:?}");
        transactions + counted + queued
    }

    /// Reports whether this contains everything in `other`.
    pub(crate) fn holds(self, other: Self) -> bool {
        self.transactions >= other.transactions && self.counted >= other.counted && self.queued >= other.queued
    }
}

/// Returns one round of a writer: a commit over all engines, one in RocksDB, one in memory.
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

/// Reads the commits of every writer in one transaction; fails the test if a transaction is torn.
#[track_caller]
pub(crate) fn look(client: &mut Client) -> Vec<Seen> {
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

/// Sends the commands that the writers' last rounds lack, so that the next rounds begin whole.
#[track_caller]
pub(crate) fn complete(client: &mut Client, seen: &mut [Seen]) {
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
}

/// Checks that everything acknowledged is there, and that the csns are dense from `csn_start` on. Completes the writers'
/// last rounds, and returns the commits of every writer.
#[track_caller]
pub(crate) fn check_replied(client: &mut Client, replied: &[Replied], csn_start: u64) -> Vec<Seen> {
    let mut seen = look(client);
    for (writer, seen) in seen.iter().enumerate() {
        let replied = replied[writer].now();
        assert!(seen.holds(replied), "writer {writer}: replied {replied:?}, there is {seen:?}");
    }
    let commits: u64 = seen.iter().map(|seen| seen.commits()).sum();
    assert_eq!(client.watermarks().committed, csn_start + commits, "csns are dense");
    complete(client, &mut seen);
    seen
}

/// The acknowledged commits of one writer, with the time of each reply.
#[derive(Default)]
pub(crate) struct Replied(Mutex<Vec<(Instant, Seen)>>);

impl Replied {
    /// Returns everything acknowledged so far.
    pub(crate) fn now(&self) -> Seen {
        self.0.lock().unwrap().last().map_or(Seen::default(), |(_, seen)| *seen)
    }

    /// Returns everything acknowledged before a moment.
    pub(crate) fn before(&self, moment: Instant) -> Seen {
        let all = self.0.lock().unwrap();
        all.iter().rev().find(|(at, _)| *at < moment).map_or(Seen::default(), |(_, seen)| *seen)
    }
}

/// Sends rounds after `from` until the connection ends.
pub(crate) fn write(node_port: u16, writer: usize, from: u64, replied: &Replied) {
    write_until(node_port, writer, from, replied, Duration::ZERO, &AtomicBool::new(false));
}

/// Sends rounds after `from` until told to stop or the connection ends, with a pause between two pipelines.
pub(crate) fn write_until(
    node_port: u16,
    writer: usize,
    from: u64,
    replied: &Replied,
    pause: Duration,
    stop: &AtomicBool,
) {
    let Ok(mut client) = Client::connect(node_port) else { return };
    let mut next = from + 1;
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(pause);
        let rounds = next..next + ROUNDS_IN_PIPELINE;
        let commands: Vec<Command> = rounds.clone().flat_map(|number| round(writer, number)).collect();
        if client.send(&commands).is_err() {
            return;
        }
        for number in rounds {
            let replies = round(writer, number).len();
            for nth in 0..replies {
                let Ok(reply) = client.receive() else { return };
                // The last three replies are the replies to EXEC, INCR and RPUSH.
                let counter = match replies - nth {
                    3 => &mut seen.transactions,
                    2 => &mut seen.counted,
                    1 => &mut seen.queued,
                    _ => continue,
                };
                assert!(!matches!(reply, Value::ServerError(_)), "round {number}: {reply:?}");
                *counter = number;
                replied.0.lock().unwrap().push((Instant::now(), seen));
            }
        }
        next += ROUNDS_IN_PIPELINE;
    }
}
