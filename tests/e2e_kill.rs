//! SIGKILL at random moments under each durability mode: no acknowledged write is lost, no transaction is torn, csns
//! are dense, and the replica and the archive agree with the primary.
//!
//! Many connections write at once with pipelines, so that they share groups of commits. Each connection has keys of
//! its own, so that the possible effects of a kill on them are known exactly. `WALFERRY_ROUNDS` sets the kills per
//! mode.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use support::archive::Archive;
use support::client::{cmd, integer};
use support::dump::{assert_same, dump};
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::workload::seed;
use support::writers::{Replied, Seen, WRITERS, check_replied, look, write};

/// Number of kills per durability mode.
const KILLS: usize = 40;
/// Number of kills between two comparisons with the replica, which is killed as often.
const KILLS_BETWEEN_LOOKS: usize = 8;
/// Number of restores per durability mode.
const RESTORES: usize = 4;

/// Lets all writers write until the primary is killed, restarts the primary and checks its data.
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
    check_replied(&mut client, &replied, csn_start)
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
