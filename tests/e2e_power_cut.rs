//! Power cuts on a real block device: data that did not reach the device is lost.
//!
//! The data directory lies on ext4 on a loop device. The process is stopped at a random moment under load, the
//! device's backing file is copied without what only the page cache holds, and the copy is mounted and opened. The
//! tests need root; without it they say so and check nothing. `WALFERRY_ROUNDS` sets the number of cuts per mode.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::time::{Duration, Instant};
use support::archive::files_below;
use support::client::{cmd, integer};
use support::device::{Mounted, SKIPPED, forget_boot, scratch};
use support::dump::{assert_same, dump};
use support::process::{Launch, SETTLED_WITHIN, wait_until};
use support::workload::seed;
use support::writers::{Replied, WRITERS, look, write};

/// Number of cuts per durability mode.
const CUTS: usize = 6;
/// Size of the device in bytes.
const DEVICE_BYTES: u64 = 1 << 30;
/// Number of writes of each kind before a kill.
const WRITES: u64 = 500;
/// Longest time that `everysec` may lose: one second, and the delays of a busy machine.
const LOST_MAX: Duration = Duration::from_secs(3);

/// Makes one cut under load and checks what remains. Returns false where no device can be mounted.
fn cut_under_load(appendfsync: &str, alive: Duration) -> bool {
    let root = scratch();
    let place = |name: &str| root.path().join(name);
    let Some(device) = Mounted::new(&place("device"), DEVICE_BYTES, &place("mounted")) else {
        eprintln!("{}", SKIPPED);
        return false;
    };
    let settings = |launch: Launch| launch.set("appendfsync", appendfsync).set("oplog-segment-bytes", "1mb");
    let mut primary = settings(Launch::primary(&device.dir.join("data"))).start();
    primary.client().ok(&cmd!("SET", "first", 1));
    let start = wait_until("the first commit is durable", SETTLED_WITHIN, || {
        Some(primary.client().watermarks()).filter(|watermarks| watermarks.durable >= watermarks.committed)
    });
    let replied: Vec<Replied> = (0..WRITERS).map(|_| Replied::default()).collect();
    let port = primary.launch.port;
    let stopped = std::thread::scope(|scope| {
        for (writer, replied) in replied.iter().enumerate() {
            scope.spawn(move || write(port, writer, 0, replied));
        }
        std::thread::sleep(alive);
        let stopped = Instant::now();
        primary.signal("STOP");
        device.cut(&place("cut"));
        primary.kill();
        stopped
    });
    let after =
        Mounted::mount(&place("cut"), &place("after")).expect("the copy is a file system after its journal ran");
    forget_boot(&after.dir.join("data"));
    let recovered = settings(Launch::primary(&after.dir.join("data"))).start();
    let mut client = recovered.client();
    // The reading fails the test if a transaction is torn.
    let seen = look(&mut client);
    let watermarks = client.watermarks();
    for (writer, seen) in seen.iter().enumerate() {
        let safe = match appendfsync {
            "always" => replied[writer].now(),
            _ => replied[writer].before(stopped - LOST_MAX),
        };
        assert!(seen.holds(safe), "{appendfsync}: writer {writer} was promised {safe:?}, there is {seen:?}");
    }
    let lost: u64 =
        (0..WRITERS).map(|writer| replied[writer].now().transactions.saturating_sub(seen[writer].transactions)).sum();
    if lost > 0 {
        assert!(watermarks.epoch > start.epoch, "a loss starts a new epoch");
    }
    assert!(watermarks.committed >= start.committed, "what was there before the load is there");
    client.ok(&cmd!("SET", "goes", "on"));
    eprintln!(
        "{appendfsync}: {alive:?} of load, {} transactions there, {lost} replied ones lost",
        seen.iter().map(|seen| seen.transactions).sum::<u64>()
    );
    true
}

fn cuts() -> usize {
    std::env::var("WALFERRY_ROUNDS").map_or(CUTS, |text| text.parse().expect("WALFERRY_ROUNDS is a number"))
}

/// Goal: with `appendfsync always`, a power cut loses no acknowledged write and tears no transaction.
#[test]
fn power_cuts_under_always() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..cuts() {
        if !cut_under_load("always", Duration::from_millis(rng.random_range(50..600))) {
            return;
        }
    }
}

/// Goal: with `appendfsync everysec`, a power cut loses at most about one second, tears nothing, and begins a new
/// epoch.
#[test]
fn power_cuts_under_everysec() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..cuts() {
        if !cut_under_load("everysec", Duration::from_millis(rng.random_range(500..4_000))) {
            return;
        }
    }
}

/// Goal: what a killed process left in the page cache is made durable by the next start: a power cut right after the
/// start loses nothing, although the mode never synced it.
#[test]
fn a_power_cut_after_a_kill_and_a_start() {
    let root = scratch();
    let place = |name: &str| root.path().join(name);
    let Some(device) = Mounted::new(&place("device"), DEVICE_BYTES, &place("mounted")) else {
        eprintln!("{}", SKIPPED);
        return;
    };
    let launch = |dir: &Path| Launch::primary(&dir.join("data")).set("appendfsync", "no");
    let mut primary = launch(&device.dir).start();
    let mut client = primary.client();
    for number in 0..WRITES {
        client.ok(&cmd!("SET", format!("string:{number}"), number));
        client.ok(&cmd!("RPUSH", "list", number));
    }
    let (before, expected) = (client.watermarks(), dump(&mut client));
    primary.kill();
    primary.restart();
    assert_eq!(primary.client().watermarks().durable, before.committed, "what was recovered is called durable");
    device.cut(&place("cut"));
    primary.kill();
    let after = Mounted::mount(&place("cut"), &place("after")).expect("the copy is a file system");
    forget_boot(&after.dir.join("data"));
    let recovered = launch(&after.dir).start();
    let mut client = recovered.client();
    assert_eq!(client.watermarks().committed, before.committed, "nothing that was durable is lost");
    assert_same(&expected, &dump(&mut client), "after the power cut");
}

/// Goal: a replica with commits that a power cut took from its primary, and that no-op commits replace there, is
/// refused instead of being served as if both had the same history.
#[test]
fn a_replica_that_has_what_was_replaced_is_refused() {
    let root = scratch();
    let place = |name: &str| root.path().join(name);
    let Some(device) = Mounted::new(&place("device"), DEVICE_BYTES, &place("mounted")) else {
        eprintln!("{}", SKIPPED);
        return;
    };
    let launch = Launch::primary(&device.dir.join("data")).set("appendfsync", "no");
    let mut primary = launch.set("routing", "type").start();
    let mut replica = Launch::replica(&place("replica"), primary.launch.repl_port).start();
    let mut client = primary.client();
    (0..WRITES).for_each(|number| drop(client.ok(&cmd!("RPUSH", "list", number))));
    let csn = client.watermarks().committed;
    let mut reader = replica.client();
    wait_until("the replica has the list", SETTLED_WITHIN, || (reader.watermarks().committed == csn).then_some(()));
    assert!(replica.terminate().success());
    // RocksDB syncs its own WAL when it flushes a memtable; the op-log with the list is not synced.
    let db = device.dir.join("data/db");
    wait_until("RocksDB flushed a memtable", SETTLED_WITHIN, || {
        client.ok(&cmd!("SET", "large", vec![b'x'; 1 << 20]));
        (!files_below(&db, ".sst").is_empty()).then_some(())
    });
    device.cut(&place("cut"));
    primary.kill();
    let after = Mounted::mount(&place("cut"), &place("after")).expect("the copy is a file system");
    let data = after.dir.join("data");
    forget_boot(&data);
    let again = Launch::primary_on(&data, primary.launch.port, primary.launch.repl_port).start();
    let mut client = again.client();
    assert!(integer(&client.ok(&cmd!("LLEN", "list"))) < WRITES as i64, "the test needs a list that lost elements");
    assert!(client.watermarks().committed > csn, "the test needs commits after them that are there");
    match replica.try_restart() {
        Err(ended) => drop(ended.says("belongs to another history")),
        Ok(()) => panic!("a replica at csn {csn}, which was replaced, is served: {:?}", replica.client().info()),
    }
}
