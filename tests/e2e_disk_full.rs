//! Full file systems: writes are refused with an error that says what to do, reads work, no acknowledged write is
//! lost, and the service resumes by itself once there is space, or after a restart if the error asks for it.
//!
//! The directory lies on ext4 on a loop device, which a ballast file fills to the last byte under load. The tests need
//! root; without it they say so and check nothing. `WALFERRY_ROUNDS` sets how often a disk without a limit is filled.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::Value;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::archive::Archive;
use support::client::{Client, cmd, elements, error_text, framed, integer, text};
use support::device::{Mounted, SKIPPED, scratch};
use support::dump::{assert_same, dump, now_ms};
use support::faulty_s3::FaultyS3;
use support::process::{Launch, Node, SETTLED_WITHIN, StopOnDrop, wait_until};
use support::workload::seed;

/// Size of a device in bytes.
const DEVICE_BYTES: u64 = 256 << 20;
/// Bytes of each value, which is incompressible.
const VALUE_BYTES: usize = 8 << 10;
/// Number of transactions before a disk is filled.
const BEFORE: u64 = 300;
/// How often a disk is filled without a limit that keeps space free.
const ROUNDS: usize = 3;
/// Longest time without a reply to a write, whatever the disk does.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Returns the value of transaction `number`.
fn value(number: u64) -> Vec<u8> {
    let mut value = vec![0; VALUE_BYTES];
    StdRng::seed_from_u64(number).fill(&mut value[..]);
    value
}

/// A client that numbers its transactions over both engines, so that the stored data can be compared with the
/// acknowledged transactions.
struct Writer {
    client: Client,
    /// Number of the last acknowledged transaction; all from 1 on were acknowledged.
    acknowledged: u64,
}

impl Writer {
    fn new(node: &Node) -> Self {
        Self { client: node.client(), acknowledged: 0 }
    }

    /// Connects to a server that was restarted.
    fn reconnect(&mut self, node: &Node) {
        self.client = node.client();
        self.acknowledged = integer(&self.client.ok(&cmd!("LLEN", "order"))) as u64;
    }

    /// Sends the next transaction; the error is the refusal.
    fn try_write(&mut self) -> Result<(), String> {
        let number = self.acknowledged + 1;
        let commands = framed(&[
            cmd!("SET", format!("value:{number}"), value(number)),
            cmd!("RPUSH", "order", number),
            cmd!("ZADD", "scores", number, format!("member:{number}")),
        ]);
        let asked = Instant::now();
        let replies = self.client.pipeline(&commands);
        assert!(asked.elapsed() < ANSWER_WITHIN, "a write waited for {:?}", asked.elapsed());
        match replies.iter().find_map(error_text) {
            Some(refusal) => Err(refusal),
            None => {
                self.acknowledged = number;
                Ok(())
            }
        }
    }

    fn write(&mut self, count: u64) {
        for _ in 0..count {
            self.try_write().expect("there is room");
        }
    }

    /// Writes until a transaction is refused.
    fn write_until_refused(&mut self) -> String {
        loop {
            if let Err(refusal) = self.try_write() {
                return refusal;
            }
        }
    }

    /// Waits until transactions are accepted.
    fn wait_until_taken(&mut self) {
        wait_until("writes are taken again", SETTLED_WITHIN, || self.try_write().ok());
    }

    /// Asserts that exactly the acknowledged transactions are stored, each whole; up to `unsure` more may be stored.
    #[track_caller]
    fn check(&mut self, unsure: u64) {
        let there = whole(&mut self.client);
        let known = self.acknowledged..=self.acknowledged + unsure;
        assert!(known.contains(&there), "{known:?} were acknowledged, {there} are there");
    }
}

/// A client that writes to RocksDB alone, so that the op-log does not grow.
struct Setter {
    client: Client,
    /// Number of the last acknowledged SET; all from 1 on were acknowledged.
    acknowledged: u64,
}

impl Setter {
    fn write_until_refused(&mut self) -> String {
        loop {
            let number = self.acknowledged + 1;
            let reply = self.client.call(&cmd!("SET", format!("single:{number}"), value(number)));
            match error_text(&reply) {
                Some(refusal) => return refusal,
                None => self.acknowledged = number,
            }
        }
    }

    /// Asserts that every acknowledged SET is stored.
    #[track_caller]
    fn check(&mut self) {
        for number in 1..=self.acknowledged {
            let reply = self.client.ok(&cmd!("GET", format!("single:{number}")));
            assert!(reply == Value::BulkString(value(number)), "SET {number} of {}", self.acknowledged);
        }
    }
}

/// Returns the number of stored transactions; fails the test unless each of them is whole, from the first on.
#[track_caller]
fn whole(client: &mut Client) -> u64 {
    let reply = client.transaction(&[cmd!("LRANGE", "order", 0, -1), cmd!("ZCARD", "scores")]);
    let [order, scores] = elements(&reply) else { panic!("{reply:?}") };
    let numbers: Vec<u64> = elements(order).iter().map(|number| text(number).parse().expect("a number")).collect();
    let count = numbers.len() as u64;
    assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
    assert_eq!(integer(scores) as u64, count, "torn transaction");
    for number in numbers {
        let reply = client.ok(&cmd!("GET", format!("value:{number}")));
        assert!(reply == Value::BulkString(value(number)), "the value of transaction {number}");
    }
    let beyond = client.ok(&cmd!("EXISTS", format!("value:{}", count + 1)));
    assert_eq!(integer(&beyond), 0, "torn transaction");
    count
}

/// Asserts what a refusal must say; returns true if it asks for a restart.
#[track_caller]
fn asks_for_restart(refusal: &str) -> bool {
    assert!(refusal.contains("MISCONF") || refusal.contains("EXECABORT"), "{refusal}");
    let restarts = refusal.contains("until a restart");
    assert!(restarts || refusal.contains("Free space"), "it must say what to do: {refusal}");
    restarts
}

#[track_caller]
fn assert_no_panic(node: &Node) {
    let log = std::fs::read(node.launch.dir.with_extension("log")).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&log).contains("panicked"), "the server panicked: see its log");
}

/// Mounts a device; `None` where no device can be mounted.
fn device(root: &Path, bytes: u64) -> Option<Mounted> {
    let device = Mounted::new(&root.join("device"), bytes, &root.join("mounted"));
    if device.is_none() {
        eprintln!("{SKIPPED}");
    }
    device
}

fn small(launch: Launch) -> Launch {
    launch.set("oplog-segment-bytes", "2mb").set("image-log-bytes", "16mb")
}

/// Goal: writes stop before the disk is full, with the reason, and are accepted once there is space, without a
/// restart. Nothing is lost, not even by a kill afterwards. The server's log file lies on the full disk too.
#[test]
fn a_full_data_directory_refuses_writes_and_resumes_by_itself() {
    let root = scratch();
    let Some(device) = device(root.path(), DEVICE_BYTES) else { return };
    let mut node = small(Launch::primary(&device.dir.join("data"))).start();
    let mut writer = Writer::new(&node);
    writer.write(BEFORE);
    let refusal = std::thread::scope(|scope| {
        scope.spawn(|| device.fill());
        writer.write_until_refused()
    });
    assert!(!asks_for_restart(&refusal), "{refusal}");
    let refused = writer.client.info()["writes_refused"].clone();
    assert!(refused.starts_with("MISCONF") && refused.contains("Free space"), "{refused}");
    for command in [cmd!("SET", "single", 1), cmd!("RPUSH", "order", 0), cmd!("DEL", "order")] {
        let reply = error_text(&writer.client.call(&command)).expect("refused");
        assert!(reply.starts_with("MISCONF"), "{reply}");
    }
    writer.check(0);
    device.empty();
    let freed = Instant::now();
    writer.wait_until_taken();
    eprintln!("{} transactions before; taken again after {:?}", writer.acknowledged - 1, freed.elapsed());
    writer.write(100);
    writer.check(0);
    assert!(node.is_running());
    node.restart();
    writer.reconnect(&node);
    assert_eq!(whole(&mut writer.client), writer.acknowledged);
    assert!(node.terminate().success());
    assert_no_panic(&node);
}

/// Fills a disk to the last byte, without a limit that keeps space free, under transactions or under writes to RocksDB
/// alone. Returns true if the server needed a restart.
fn fill_without_a_limit(node: &mut Node, writer: &mut Writer, device: &Mounted, is_disk_only: bool) -> bool {
    let mut setter = Setter { client: node.client(), acknowledged: 0 };
    let refusal = std::thread::scope(|scope| {
        scope.spawn(|| device.fill());
        if is_disk_only { setter.write_until_refused() } else { writer.write_until_refused() }
    });
    let restarts = asks_for_restart(&refusal);
    // A write that failed half-way may be in the memory engines although it was not acknowledged.
    let order = integer(&writer.client.ok(&cmd!("LLEN", "order"))) as u64;
    assert!((writer.acknowledged..=writer.acknowledged + u64::from(restarts)).contains(&order));
    for number in [1, writer.acknowledged / 2, writer.acknowledged] {
        let reply = writer.client.ok(&cmd!("GET", format!("value:{number}")));
        assert!(reply == Value::BulkString(value(number)), "reads go on");
    }
    setter.check();
    device.empty();
    if restarts {
        writer.try_write().expect_err("a restart is needed, whatever the disk does");
        node.restart();
        let acknowledged = writer.acknowledged;
        writer.reconnect(node);
        assert!((acknowledged..=acknowledged + 1).contains(&writer.acknowledged), "{acknowledged} were acknowledged");
    } else {
        writer.wait_until_taken();
    }
    writer.check(0);
    setter.client = node.client();
    setter.check();
    eprintln!("{} transactions, {} SETs; {refusal}", writer.acknowledged, setter.acknowledged);
    restarts
}

/// Goal: without a limit that keeps space free, RocksDB and the op-log hit the full disk at any point. Each time no
/// acknowledged write is lost, the process survives, and it resumes by itself or after the restart that the error
/// requests.
#[test]
fn a_disk_full_to_the_last_byte_loses_nothing() {
    let mut rng = StdRng::seed_from_u64(seed());
    let rounds = std::env::var("WALFERRY_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number of rounds"));
    let mut restarts = 0;
    for round in 0..rounds {
        let root = scratch();
        let Some(device) = device(root.path(), DEVICE_BYTES) else { return };
        let mode = ["everysec", "always", "no"][round % 3];
        let launch = small(Launch::primary(&device.dir.join("data")));
        let mut node = launch.set("min-free-bytes", "0").set("appendfsync", mode).start();
        let mut writer = Writer::new(&node);
        writer.write(rng.random_range(BEFORE..3 * BEFORE));
        restarts += usize::from(fill_without_a_limit(&mut node, &mut writer, &device, round % 2 == 0));
        writer.write(100);
        assert!(node.terminate().success());
        assert_no_panic(&node);
        node.restart();
        writer.reconnect(&node);
        writer.check(0);
    }
    eprintln!("{restarts} of {rounds} rounds took a restart");
}

/// Goal: below `min-free-bytes`, commands that free space are accepted, also in a transaction, and expiry works. Any
/// other write is refused with the limit's name. After enough deletions writes are accepted without a restart; nothing
/// is lost.
#[test]
fn what_frees_space_is_taken_below_the_limit() {
    let root = scratch();
    let Some(device) = device(root.path(), DEVICE_BYTES) else { return };
    let mut node = small(Launch::primary(&device.dir.join("data"))).set("min-free-bytes", "100mb").start();
    let mut client = node.client();
    client.ok(&cmd!("HSET", "hash", "a", 1, "b", 2));
    client.ok(&cmd!("SADD", "set", 1, 2));
    client.ok(&cmd!("RPUSH", "list", 1, 2, 3, 4));
    client.ok(&cmd!("ZADD", "zset", 1, "a", 2, "b"));
    for number in 0..4 {
        client.ok(&cmd!("XADD", "stream", "*", "field", number));
    }
    for key in ["deleted", "unlinked", "taken", "expiring", "kept"] {
        client.ok(&cmd!("SET", key, "value"));
    }
    let mut setter = Setter { client: node.client(), acknowledged: 0 };
    let refusal = setter.write_until_refused();
    assert!(refusal.starts_with("MISCONF") && refusal.contains("min-free-bytes"), "{refusal}");
    assert!(!asks_for_restart(&refusal));
    for growing in [cmd!("SET", "a", 1), cmd!("RPUSH", "list", 5), cmd!("LMOVE", "list", "other", "LEFT", "LEFT")] {
        assert!(
            error_text(&client.call(&growing)).is_some_and(|error| error.contains("min-free-bytes")),
            "{growing:?}"
        );
    }
    for (freeing, removed) in [
        (cmd!("DEL", "deleted"), 1),
        (cmd!("UNLINK", "unlinked"), 1),
        (cmd!("HDEL", "hash", "a"), 1),
        (cmd!("SREM", "set", 1), 1),
        (cmd!("LREM", "list", 0, 4), 1),
        (cmd!("ZREM", "zset", "a"), 1),
        (cmd!("ZREMRANGEBYRANK", "zset", 0, 0), 1),
        (cmd!("XTRIM", "stream", "MAXLEN", 1), 3),
    ] {
        assert_eq!(integer(&client.ok(&freeing)), removed, "{freeing:?}");
    }
    assert_eq!(text(&client.ok(&cmd!("GETDEL", "taken"))), "value");
    assert_eq!(text(&client.ok(&cmd!("SPOP", "set"))), "2");
    assert_eq!(text(&client.ok(&cmd!("RPOP", "list"))), "3");
    assert_eq!(text(&client.ok(&cmd!("LTRIM", "list", 0, 0))), "OK");
    let replies = client.pipeline(&framed(&[cmd!("DEL", "single:1"), cmd!("DEL", "single:2")]));
    assert!(replies.iter().all(|reply| error_text(reply).is_none()), "{replies:?}");
    let replies = client.pipeline(&framed(&[cmd!("DEL", "single:3"), cmd!("SET", "single:3", 1)]));
    assert!(replies.iter().any(|reply| error_text(reply).is_some()), "a transaction that writes more: {replies:?}");
    assert_eq!(integer(&client.ok(&cmd!("PEXPIRE", "expiring", 1))), 1);
    let csn = client.watermarks().committed;
    wait_until("what has expired is deleted, by a commit", SETTLED_WITHIN, || {
        (client.watermarks().committed > csn).then_some(())
    });
    assert!(client.info()["writes_refused"].contains("min-free-bytes"));

    for number in 3..=setter.acknowledged {
        client.ok(&cmd!("DEL", format!("single:{number}")));
    }
    wait_until("writes are taken again", SETTLED_WITHIN, || {
        error_text(&client.call(&cmd!("SET", "again", 1))).is_none().then_some(())
    });
    let before = dump(&mut client);
    assert_eq!(before.len(), 5, "hash, list, stream, kept and again");
    node.kill();
    node.restart();
    assert_same(&before, &dump(&mut node.client()), "after a kill");
    assert_no_panic(&node);
}

/// Goal: while the disk fills, expired keys are deleted. Each deletion is whole, writes are accepted once there is
/// space, and expiry continues.
#[test]
fn expiry_on_a_full_disk_goes_on_later() {
    /// Lists with long names: their deletions need more than the op-log's active segment and its spare segment.
    const LISTS: usize = 8_000;
    const NAME_BYTES: usize = 1 << 10;
    let root = scratch();
    let Some(device) = device(root.path(), DEVICE_BYTES) else { return };
    let log = root.path().join("log");
    let mut node = small(Launch::primary(&device.dir.join("data"))).set("min-free-bytes", "0").log_to(&log).start();
    let mut writer = Writer::new(&node);
    writer.write(10);
    let at_ms = now_ms() + 6_000;
    for first in (0..LISTS).step_by(500) {
        let names = (first..first + 500).map(|number| format!("{number:0>NAME_BYTES$}"));
        let lists = names.flat_map(|name| [cmd!("RPUSH", &name, 1), cmd!("PEXPIREAT", &name, at_ms)]);
        let replies = writer.client.pipeline(&lists.collect::<Vec<_>>());
        assert!(replies.iter().all(|reply| error_text(reply).is_none()), "{:?}", replies.first());
    }
    // The images and purges caused by the lists have ended by then; they free space.
    std::thread::sleep(Duration::from_millis(at_ms.saturating_sub(now_ms() + 1_000)));
    device.fill();
    let refused = wait_until("expiry finds no room", SETTLED_WITHIN, || {
        Some(writer.client.info()["writes_refused"].clone()).filter(|refused| !refused.is_empty())
    });
    assert!(!asks_for_restart(&refused), "{refused}");
    let left = integer(&writer.client.ok(&cmd!("DBSIZE")));
    assert!(left > 0, "it took all the room there was");
    writer.check(0);
    device.empty();
    writer.wait_until_taken();
    let own = writer.acknowledged as i64 + 2;
    wait_until("every list has expired", SETTLED_WITHIN, || {
        (integer(&writer.client.ok(&cmd!("DBSIZE"))) == own).then_some(())
    });
    node.restart();
    writer.reconnect(&node);
    writer.check(0);
    assert_eq!(integer(&writer.client.ok(&cmd!("DBSIZE"))), own);
}

/// Goal: when a log write fails within a pipeline, replies to commits written before still wait until the archive has
/// these commits; the other replies are errors, and no client waits for ever.
#[test]
fn replies_before_a_failed_write_still_wait_for_the_archive() {
    /// Number of commits in a group.
    const GROUP: usize = 512;
    /// Number of requests that arrive in one read and run together: more than two groups.
    const REQUESTS: usize = 1_300;
    const REQUEST: &str = "INCR count\r\n";
    let root = tempfile::tempdir().expect("a temporary directory");
    let direct = Archive::s3();
    let store = FaultyS3::start();
    let launch =
        small(Launch::primary(&root.path().join("data"))).archive(&store.to(&direct)).set("archive-ack", "yes");
    // The limit of the file size counts for the WAL, which grows; a segment of the op-log is made in full.
    let launch = launch.set("routing", "type");
    let mut node = launch.outlives_file_limit().start();
    let (mut client, mut observer) = (node.client(), node.client());
    let mut ask = |requests: usize| {
        client.send_bytes(REQUEST.repeat(requests).as_bytes()).expect("the server reads");
        (0..requests).map(|_| client.receive().expect("every request has a reply")).collect::<Vec<_>>()
    };
    let log_before = wal_bytes(&node);
    ask(GROUP);
    let group_bytes = wal_bytes(&node) - log_before;
    let before = observer.watermarks().committed;
    store.set_down(true);
    limit_files(&node, Some(wal_bytes(&node) + group_bytes * 3 / 2));
    let replies = std::thread::scope(|scope| {
        let replies = scope.spawn(|| ask(REQUESTS));
        let refused = wait_until("a write fails", SETTLED_WITHIN, || {
            Some(observer.info()["writes_refused"].clone()).filter(|refused| !refused.is_empty())
        });
        assert!(asks_for_restart(&refused), "{refused}");
        let committed = observer.watermarks().committed;
        assert!(committed > before, "a group was written");
        std::thread::sleep(Duration::from_millis(500));
        assert!(!replies.is_finished(), "what was written is not archived yet");
        limit_files(&node, None);
        store.heal();
        let replies = replies.join().expect("every request has a reply");
        assert!(observer.watermarks().archived >= committed, "the replies waited for it");
        let taken = replies.iter().take_while(|reply| error_text(reply).is_none()).count() as u64;
        assert_eq!(taken, committed - before, "exactly what was written is acknowledged");
        assert!(taken < REQUESTS as u64, "the write failed in mid-pipeline");
        replies
    });
    let taken = replies.iter().filter(|reply| error_text(reply).is_none()).count();
    for refusal in replies.iter().filter_map(error_text) {
        assert!(refusal.starts_with("MISCONF") && asks_for_restart(&refusal), "{refusal}");
    }
    node.restart();
    let count = text(&node.client().ok(&cmd!("GET", "count")));
    assert_eq!(count, (GROUP + taken).to_string());
}

/// Returns the bytes of RocksDB's newest WAL file.
fn wal_bytes(node: &Node) -> u64 {
    let files = std::fs::read_dir(node.launch.dir.join("wal")).expect("a data directory has it").flatten();
    files.map(|file| file.metadata().map_or(0, |metadata| metadata.len())).max().expect("there is a log")
}

/// Makes writes beyond this file offset fail; `None` removes the limit.
fn limit_files(node: &Node, bytes: Option<u64>) {
    let limit = Rlimit { current: bytes, maximum: None };
    let pid = Pid::from_raw(node.pid() as i32);
    prlimit(pid, Resource::Fsize, limit).expect("the limits of an own child can be set");
}

/// Goal: a replica with a full disk serves whole transactions, the primary is not affected, and the replica catches up
/// by itself once there is space.
#[test]
fn a_full_replica_disturbs_nobody_and_catches_up() {
    let root = scratch();
    let Some(device) = device(root.path(), DEVICE_BYTES) else { return };
    let primary = small(Launch::primary(&root.path().join("primary"))).start();
    let mut replica = small(Launch::replica(&device.dir.join("replica"), primary.launch.repl_port)).start();
    let mut writer = Writer::new(&primary);
    writer.write(BEFORE);
    let mut reader = replica.client();
    wait_until("the replica has the first transactions", SETTLED_WITHIN, || {
        (integer(&reader.ok(&cmd!("LLEN", "order"))) as u64 == BEFORE).then_some(())
    });
    let is_stopped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = StopOnDrop(&is_stopped);
        let writing = scope.spawn(|| {
            while !is_stopped.load(Ordering::Relaxed) {
                writer.try_write().expect("the primary has room");
                // All written data must fit on the device once it is emptied, however long filling takes.
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        device.fill();
        let error = wait_until("the replica says that it has no room", SETTLED_WITHIN, || {
            Some(reader.info()["link_last_error"].clone()).filter(|error| error.contains("Free space"))
        });
        assert_eq!(reader.info()["master_link_status"], "down", "{error}");
        let there = whole(&mut reader);
        assert!(there >= BEFORE);
        drop(stop);
        writing.join().expect("writing goes on");
    });
    assert!(replica.is_running());
    assert!(whole(&mut reader) < writer.acknowledged, "the replica applies nothing meanwhile");
    device.empty();
    wait_until("the replica has everything", SETTLED_WITHIN, || {
        (integer(&reader.ok(&cmd!("LLEN", "order"))) as u64 == writer.acknowledged).then_some(())
    });
    assert_same(&dump(&mut writer.client), &dump(&mut reader), "primary and replica");
    replica.restart();
    assert_eq!(whole(&mut replica.client()), writer.acknowledged);
    assert_no_panic(&replica);
    assert_no_panic(&primary);
}

/// Goal: a replica without space to bootstrap says so and serves no client; with space it starts from the same
/// directory.
#[test]
fn a_replica_without_room_to_bootstrap_starts_later() {
    let root = scratch();
    let Some(device) = device(root.path(), 64 << 20) else { return };
    let archive = Archive::directory(&root.path().join("archive"));
    let primary = small(Launch::primary(&root.path().join("primary"))).archive(&archive).start();
    let mut writer = Writer::new(&primary);
    writer.write(BEFORE);
    writer.client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    // Bootstrap with an archive, and from the primary alone.
    for (name, from_archive) in [("restored", true), ("sent", false)] {
        let launch =
            small(Launch::replica(&device.dir.join(name), primary.launch.repl_port)).set("min-free-bytes", "0");
        let launch = if from_archive { launch.archive(&archive) } else { launch };
        // The replica's log file must not lie on the full disk.
        let log = launch.dir.with_extension("log");
        std::os::unix::fs::symlink(root.path().join(name), log).expect("a link");
        device.fill();
        launch.clone().refused().expect(1).says("No space left on device");
        device.empty();
        let replica = launch.start();
        wait_until("the replica has everything", SETTLED_WITHIN, || {
            (integer(&replica.client().ok(&cmd!("LLEN", "order"))) as u64 == BEFORE).then_some(())
        });
        assert_eq!(whole(&mut replica.client()), BEFORE);
    }
}

/// Goal: a full archive stops no write; the archived watermark covers only restorable commits, the error is shown, and
/// everything is archived once there is space.
#[test]
fn a_full_archive_is_told_and_catches_up() {
    let root = scratch();
    let Some(device) = device(root.path(), 64 << 20) else { return };
    let archive = Archive::directory(&device.dir.join("archive"));
    let launch = small(Launch::primary(&root.path().join("data"))).archive(&archive).set("archive-interval", "20");
    let mut node = launch.start();
    let mut writer = Writer::new(&node);
    writer.write(BEFORE);
    writer.client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    std::thread::scope(|scope| {
        scope.spawn(|| device.fill());
        wait_until("the archive fails", SETTLED_WITHIN, || {
            writer.write(10);
            let info = writer.client.info();
            (info["archive_failures_in_row"] != "0" && info["archive_last_error"].contains("No space")).then_some(())
        });
    });
    writer.write(BEFORE);
    let watermarks = writer.client.watermarks();
    assert!(watermarks.archived < watermarks.committed, "{watermarks:?}");
    let info = writer.client.info();
    assert!(info["spool_chunks"] != "0" && info["writes_refused"].is_empty(), "the spool takes over");
    let restored = archive.restored(&["--to", &format!("csn:{}", watermarks.archived)]);
    assert_eq!(whole(&mut restored.client()), watermarks.archived);
    // A start needs an archive that it can write to, and reports it.
    let refused = node.try_restart().expect_err("the archive is full");
    refused.expect(6).says("No space left on device");
    device.empty();
    node.restart();
    writer.reconnect(&node);
    let archived = integer(&writer.client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64;
    assert_eq!(archived, watermarks.committed);
    archive.tool("verify", &[]).expect(0);
    assert_eq!(whole(&mut archive.restored(&[]).client()), writer.acknowledged);
    assert_no_panic(&node);
}

/// Goal: if the log file cannot be written because its disk is full, only log lines are lost.
#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("data");
    std::os::unix::fs::symlink("/dev/full", dir.with_extension("log")).expect("a link to the full device");
    let mut node = Launch::primary(&dir).start();
    let mut writer = Writer::new(&node);
    writer.write(10);
    writer.client.ok(&cmd!("BGSAVE"));
    writer.check(0);
    assert!(node.terminate().success());
}
