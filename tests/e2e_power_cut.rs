//! Power cuts on a real block device: what had not reached the device is gone.
//!
//! The data directory lies on ext4 on a loop device. The process is stopped at a random moment under load, the device's
//! backing file is copied as it is (what only the page cache holds is not in it), and the copy is mounted and opened. It
//! needs root; without it the test says so and checks nothing. `WALFERRY_ROUNDS` sets the number of cuts per mode.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::{Duration, Instant};
use support::client::cmd;
use support::device::{Mounted, forget_boot, in_memory};
use support::process::Launch;
use support::workload::seed;
use support::writers::{Replied, WRITERS, look, write};

/// Cuts per durability mode.
const CUTS: usize = 6;
/// Size of the device.
const DEVICE_BYTES: u64 = 1 << 30;
/// What `everysec` may lose: a second, and what a busy machine adds to it.
const LOST_MAX: Duration = Duration::from_secs(3);

/// One cut under load, and what is there afterwards. False where nothing can be mounted.
fn cut_under_load(appendfsync: &str, alive: Duration) -> bool {
    let root = in_memory();
    let place = |name: &str| root.path().join(name);
    let Some(device) = Mounted::new(&place("device"), &place("mounted"), DEVICE_BYTES) else {
        eprintln!("SKIPPED: no loop device can be mounted here (it takes root): nothing was checked");
        return false;
    };
    let settings = |launch: Launch| launch.set("appendfsync", appendfsync).set("oplog-segment-bytes", "1mb");
    let mut primary = settings(Launch::primary(&device.dir.join("data"))).start();
    primary.client().ok(&cmd!("SET", "first", 1));
    let start = primary.client().watermarks();
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
    // It fails the test by itself if a transaction is torn.
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

/// Goal: with `appendfsync always`, a power cut loses nothing that was replied and tears nothing.
#[test]
fn power_cuts_under_always() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..cuts() {
        if !cut_under_load("always", Duration::from_millis(rng.random_range(50..600))) {
            return;
        }
    }
}

/// Goal: with `appendfsync everysec`, a power cut loses about a second at most, tears nothing, and starts a new epoch.
#[test]
fn power_cuts_under_everysec() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..cuts() {
        if !cut_under_load("everysec", Duration::from_millis(rng.random_range(500..4_000))) {
            return;
        }
    }
}
