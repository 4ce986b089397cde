//! Random faults under load, with constant checks of the invariants.

use super::Rig;
use crate::support::client::{cmd, error_text};
use crate::support::dump::{assert_same, dump};
use crate::support::faulty_s3::{Fault, Mix};
use crate::support::process::{Launch, Node, SETTLED_WITHIN, StopOnDrop, wait_until};
use crate::support::workload::seed;
use crate::support::writers::{Replied, Seen, WRITERS, check_replied, look, write_until};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Number of rounds; `WALFERRY_ROUNDS` overrides it.
const ROUNDS: u64 = 4;
/// Duration of the load in one round.
const ROUND: Duration = Duration::from_millis(2500);
/// Pause that keeps the load far below what two cores can do: the faults need time, not commits.
const PAUSE: Duration = Duration::from_millis(4);
/// Duration of one outage.
const OUTAGE: Duration = Duration::from_millis(400);
/// Number of watermark checks per restore up to the watermark.
const LOOKS_PER_RESTORE: u32 = 8;
const RESTORES: usize = 4;

const FAULTS: [Fault; 14] = [
    Fault::DropRequest,
    Fault::LoseReply,
    Fault::Status(500),
    Fault::SlowDown { retry_after_s: 1 },
    Fault::Hang(Duration::from_millis(400)),
    Fault::Slow(Duration::from_millis(100)),
    Fault::Throttle { bytes_per_second: 200_000 },
    Fault::CutUpload,
    Fault::StoreHalf,
    Fault::StoreHalfLoseReply,
    Fault::Pretend,
    Fault::Deny,
    Fault::FlipBit(0),
    Fault::CutBody,
];

/// Goal: under load, with any mix of faults, outages, bases and kills, no client sees an error, the commits up to the
/// archived watermark can always be restored, and after the faults everything is archived and agrees.
#[test]
fn random_faults_under_load_hide_nothing() {
    let rounds = std::env::var("WALFERRY_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("WALFERRY_ROUNDS"));
    let mut rng = StdRng::seed_from_u64(seed());
    let mut rig = Rig::start(|launch| launch.set("fence-check-interval", "200"));
    let mut replica = Launch::replica(&rig.dir("replica"), rig.primary.launch.repl_port).archive(&rig.faulty).start();
    let start = rig.primary.client().watermarks();
    let mut seen = vec![Seen::default(); WRITERS];
    for round in 0..rounds {
        if round % 3 == 2 {
            replica.kill();
        }
        seen = one_round(&mut rig, &mut rng, &seen, start.committed);
        if round % 3 == 2 {
            replica.restart();
        }
        agrees(&rig, &replica);
    }
    let mut client = rig.primary.client();
    let csn = client.watermarks().committed;
    assert_eq!(rig.flush(&mut client), csn, "the archive has everything");
    rig.direct.tool("verify", &[]).expect(0);
    for cut in (0..RESTORES).map(|_| rng.random_range(start.committed + 1..=csn)).chain([csn]) {
        let restored = rig.direct.restored(&["--to", &format!("csn:{cut}")]);
        let commits: u64 = look(&mut restored.client()).into_iter().map(Seen::commits).sum();
        assert_eq!(start.committed + commits, cut, "a restore shows exactly its csn");
    }
    eprintln!("{rounds} rounds, {} commits, {} faults met", csn - start.committed, rig.proxy.faults());
    assert!(rig.proxy.faults() > 10 * rounds, "faults were met");
}

/// Runs load and faults together, then heals the store; returns the state of the writers' keys.
fn one_round(rig: &mut Rig, rng: &mut StdRng, before: &[Seen], csn_start: u64) -> Vec<Seen> {
    let count = rng.random_range(3..=FAULTS.len());
    let faults: Vec<Fault> = FAULTS.sample(rng, count).copied().collect();
    let mix = Mix { seed: rng.random(), percent: rng.random_range(5..50), faults };
    eprintln!("{mix:?}");
    let (has_outage, has_base, is_killed) = (rng.random_bool(0.5), rng.random_bool(0.7), rng.random_bool(0.4));
    rig.proxy.mix(mix);
    let replied: Vec<Replied> = (0..WRITERS).map(|_| Replied::default()).collect();
    let stop = AtomicBool::new(false);
    let port = rig.primary.launch.port;
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let rig = &*rig;
        for (writer, replied) in replied.iter().enumerate() {
            let (from, stop) = (before[writer].transactions, &stop);
            scope.spawn(move || write_until(port, writer, from, replied, PAUSE, stop));
        }
        scope.spawn(|| keep_looking(rig, &stop));
        if has_base {
            scope.spawn(|| cut_base(rig));
        }
        std::thread::sleep(ROUND / 2);
        if has_outage {
            rig.proxy.set_down(true);
            std::thread::sleep(OUTAGE);
            rig.proxy.set_down(false);
        }
        std::thread::sleep(ROUND / 2);
    });
    if is_killed {
        rig.primary.kill();
    }
    rig.proxy.heal();
    if is_killed {
        rig.primary.restart();
    }
    let mut client = rig.primary.client();
    let seen = check_replied(&mut client, &replied, csn_start);
    rig.drains(&mut client);
    seen
}

/// Compares the watermark with the store until told to stop; sometimes restores exactly up to the watermark.
fn keep_looking(rig: &Rig, stop: &AtomicBool) {
    let mut client = rig.primary.client();
    for look in 1_u32.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let archived = rig.watermark_holds(&mut client);
        if look.is_multiple_of(LOOKS_PER_RESTORE) && archived > 0 {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let to = format!("csn:{archived}");
            let report =
                rig.direct.restore_into(&dir.path().join("restored"), &["--to", &to, "--json"]).expect(0).json();
            assert_eq!(report["csn"], archived, "what the watermark says can be restored");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Publishes a base; a failure must have a reason.
fn cut_base(rig: &Rig) {
    let reply = rig.primary.client().call(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    if let Some(error) = error_text(&reply) {
        assert!(error.contains("object store") || error.contains("corrupt"), "{error}");
    }
}

/// Asserts that the replica equals the primary.
#[track_caller]
fn agrees(rig: &Rig, replica: &Node) {
    let (mut there, mut here) = (rig.primary.client(), replica.client());
    let csn = there.watermarks().committed;
    wait_until("the replica has everything", SETTLED_WITHIN, || (here.watermarks().committed == csn).then_some(()));
    assert_same(&dump(&mut there), &dump(&mut here), "primary and replica");
}
