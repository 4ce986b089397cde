//! Commits of many megabytes: beyond `max-commit-bytes` they are refused as a whole. Below the limit every log,
//! message, chunk and restore carries them, however slow the link, and their memory cost is bounded.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::archive::Archive;
use support::client::{Client, Command, cmd, error_text, framed, integer};
use support::dump::{assert_same, dump};
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};

const MIB: usize = 1 << 20;
/// Number of values in the large transaction, each of one incompressible mebibyte.
const VALUES: usize = 96;
/// Largest memory cost of a commit, as a multiple of its effects.
const COST_MAX: u64 = 3;
/// Bytes of memory that a node may use for other things meanwhile.
const COST_BESIDE_BYTES: u64 = 64 << 20;

fn value(number: usize) -> Vec<u8> {
    let mut value = vec![0; MIB];
    StdRng::seed_from_u64(number as u64).fill(&mut value[..]);
    value
}

/// Returns an HSET whose key is a mebibyte; the effect of each field repeats the key.
fn hset(name: u8, fields: usize) -> Command {
    let fields = (0..fields).flat_map(|field| [format!("field:{field}").into_bytes(), b"value".to_vec()]);
    [b"HSET".to_vec(), vec![name; MIB]].into_iter().chain(fields).collect()
}

/// Returns a transaction over both engines.
fn transaction(values: usize) -> Vec<Command> {
    let sets = (0..values).map(|number| cmd!("SET", format!("value:{number}"), value(number)));
    framed(&sets.chain([cmd!("RPUSH", "list", "with", "it"), cmd!("ZADD", "zset", 1, "member")]).collect::<Vec<_>>())
}

#[track_caller]
fn assert_refused(reply: &Value, bound: u64) {
    let refusal = error_text(reply).expect("it is refused");
    for words in ["nothing was changed", "max-commit-bytes", &bound.to_string(), "several steps"] {
        assert!(refusal.contains(words), "{words} in {refusal}");
    }
}

#[track_caller]
fn await_same_csn(primary: &mut Client, replica: &mut Client, within: Duration) {
    let csn = primary.watermarks().committed;
    wait_until("the replica has everything", within, || (replica.watermarks().committed >= csn).then_some(()));
}

/// Measures the peak memory of a process.
struct Peak {
    status: PathBuf,
    before: u64,
}

impl Peak {
    /// Starts the measurement.
    fn of(node: &Node) -> Self {
        let proc = PathBuf::from(format!("/proc/{}", node.pid()));
        std::fs::write(proc.join("clear_refs"), "5").expect("the peak of an own child can be reset");
        let status = proc.join("status");
        Self { before: field(&status, "VmRSS:"), status }
    }

    /// Returns the growth of the peak in bytes since the start.
    fn growth(&self) -> u64 {
        field(&self.status, "VmHWM:").saturating_sub(self.before)
    }
}

fn field(status: &Path, name: &str) -> u64 {
    let status = std::fs::read_to_string(status).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("Linux tells it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// Goal: a command or transaction beyond the limit is refused as a whole, whichever engine it would change. It costs
/// little, affects no client, replica or archive, and the limit can be changed at run time.
#[test]
fn what_is_beyond_the_bound_is_refused_whole() {
    const BOUND: u64 = 32 << 20;
    let root = tempfile::tempdir().unwrap();
    let archive = Archive::directory(&root.path().join("archive"));
    // On disk a RENAME copies all elements; in memory it is one small op.
    let launch = Launch::primary(&root.path().join("data")).set("routing", "type").archive(&archive);
    let primary = launch.set("max-commit-bytes", "32mb").start();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    let (mut client, mut follower) = (primary.client(), replica.client());
    let setup = [cmd!("RPUSH", "list", "a", "b"), cmd!("ZADD", "zset", 1, "a"), cmd!("HSET", "hash", "f", "v")];
    setup.iter().for_each(|command| drop(client.ok(command)));
    let (before, csn) = (dump(&mut client), client.watermarks().committed);
    let peak = Peak::of(&primary);

    assert_refused(&client.call(&hset(b'k', 33)), BOUND);
    let mut commands =
        framed(&[cmd!("LPOP", "list"), cmd!("DEL", "zset"), cmd!("RENAME", "hash", "moved"), cmd!("FLUSHALL")]);
    let exec = commands.pop().unwrap();
    commands.extend((0..32).map(|number| cmd!("SET", format!("value:{number}"), value(number))));
    commands.extend([cmd!("RPUSH", "list", "anew"), exec]);
    let replies = client.pipeline(&commands);
    let refusal = replies.last().unwrap();
    assert_refused(refusal, BOUND);
    assert!(error_text(refusal).unwrap().starts_with("EXECABORT"), "{refusal:?}");
    assert_eq!(client.watermarks().committed, csn);
    assert_same(&before, &dump(&mut client), "after two refusals");
    assert!(peak.growth() <= COST_MAX * 2 * BOUND + COST_BESIDE_BYTES, "{} bytes", peak.growth());

    client.ok(&hset(b'k', 30));
    assert_refused(&client.call(&cmd!("RENAME", vec![b'k'; MIB], vec![b'l'; 2 * MIB])), BOUND);
    let refused = error_text(&client.call(&cmd!("CONFIG", "SET", "max-commit-bytes", "1kb"))).unwrap();
    assert!(refused.contains("1mb to 2gb"), "{refused}");
    client.ok(&cmd!("CONFIG", "SET", "max-commit-bytes", "64mb"));
    client.ok(&hset(b'h', 33));
    await_same_csn(&mut client, &mut follower, SETTLED_WITHIN);
    let all = dump(&mut client);
    assert_same(&all, &dump(&mut follower), "the replica");
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    assert_same(&all, &dump(&mut archive.restored(&[]).node.client()), "the restored directory");
}

/// Goal: a large commit over both engines survives a kill, reaches the replica and the archive, and costs a node at
/// most three times its effects.
#[test]
fn a_large_commit_goes_everywhere() {
    let root = tempfile::tempdir().unwrap();
    let archive = Archive::directory(&root.path().join("archive"));
    // Without an image: an image would make RocksDB flush its memtables meanwhile.
    let quiet = |launch: Launch| launch.set("image-log-bytes", "4gb").set("row-cache-bytes", "16mb");
    let mut primary = quiet(Launch::primary(&root.path().join("data"))).start();
    let replica = quiet(Launch::replica(&root.path().join("replica"), primary.launch.repl_port)).start();
    let (mut client, mut follower) = (primary.client(), replica.client());
    let peaks = [("the primary", Peak::of(&primary)), ("the replica", Peak::of(&replica))];
    let replies = client.pipeline(&transaction(VALUES));
    assert!(replies.iter().all(|reply| error_text(reply).is_none()), "{:?}", replies.last());
    await_same_csn(&mut client, &mut follower, SETTLED_WITHIN);
    let effects = (VALUES * MIB) as u64;
    for (who, peak) in peaks {
        eprintln!("{who}: {:.2} times the effects", peak.growth() as f64 / effects as f64);
        assert!(peak.growth() <= COST_MAX * effects + COST_BESIDE_BYTES, "{who}: {} bytes", peak.growth());
    }
    let all = dump(&mut client);
    assert_eq!(all.len(), VALUES + 2);
    assert_same(&all, &dump(&mut follower), "the replica");
    primary.kill();
    primary.launch = primary.launch.clone().archive(&archive);
    primary.restart();
    let mut client = primary.client();
    assert_same(&all, &dump(&mut client), "after a kill");
    // A second large commit, for the archive.
    let replies = client.pipeline(&transaction(VALUES / 2));
    assert!(replies.iter().all(|reply| error_text(reply).is_none()), "{:?}", replies.last());
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let all = dump(&mut client);
    assert_same(&all, &dump(&mut archive.restored(&[]).node.client()), "the restored directory");
    archive.tool("verify", &[]).expect(0);
}

/// Goal: a commit that needs longer on a slow link than a peer may be silent arrives over the first connection.
#[test]
fn a_large_commit_crosses_a_slow_link() {
    const VALUES: usize = 24;
    const BYTES_PER_SECOND: usize = 3 << 20;
    let root = tempfile::tempdir().unwrap();
    let primary = Launch::primary(&root.path().join("data")).start();
    let slow = slow_way(primary.launch.repl_port, BYTES_PER_SECOND);
    let replica = Launch::replica(&root.path().join("replica"), slow).start();
    let (mut client, mut follower) = (primary.client(), replica.client());
    client.ok(&cmd!("SET", "before", 1));
    await_same_csn(&mut client, &mut follower, SETTLED_WITHIN);
    client.pipeline(&transaction(VALUES));
    client.ok(&cmd!("SET", "after", 1));
    await_same_csn(&mut client, &mut follower, 2 * SETTLED_WITHIN);
    assert_eq!(integer(&follower.ok(&cmd!("EXISTS", "after", "value:0", "list"))), 3);
    let log = replica.log();
    assert!(!log.contains("the link to the primary is down"), "{log}");
}

/// Opens a port that forwards connections to `target`; data from `target` is slow.
fn slow_way(target: u16, bytes_per_second: usize) -> u16 {
    const PIECE: usize = 64 << 10;
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(("127.0.0.1", target)) else { continue };
            let (mut near_reads, mut far_writes) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut near_reads, &mut far_writes));
            std::thread::spawn(move || {
                let (mut from, mut to, mut piece) = (far, near, vec![0; PIECE]);
                while let Ok(length @ 1..) = from.read(&mut piece) {
                    if to.write_all(&piece[..length]).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_secs_f64(length as f64 / bytes_per_second as f64));
                }
            });
        }
    });
    port
}
