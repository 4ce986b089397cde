//! Readers of a faulty store: the result is right, or an error with the right exit code. A result is never wrong, and
//! never silently shorter.

use super::{Rig, holds, write};
use crate::support::client::cmd;
use crate::support::dump::{assert_same, dump};
use crate::support::faulty_s3::{Fault, Kind, Mix};
use crate::support::history::History;
use crate::support::process::{Launch, SETTLED_WITHIN, wait_until};
use crate::support::tool::Finished;
use crate::support::workload::{Workload, seed};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(300);

/// Returns an archive with a base in its middle, and its history. The primary has ended.
fn archived() -> (Rig, History) {
    let mut rig = Rig::start(|launch| launch);
    let mut workload = Workload::new(seed());
    let mut client = rig.primary.client();
    let mut history = History::start(&mut client);
    for _ in 0..2 {
        write(&mut history, &mut workload, &mut client, 40);
        rig.flush(&mut client);
    }
    client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    for _ in 0..3 {
        write(&mut history, &mut workload, &mut client, 30);
        rig.flush(&mut client);
    }
    rig.primary.kill();
    (rig, history)
}

/// Restores through the proxy into a new directory. If that succeeds, the result must equal the model at the reported
/// csn.
#[track_caller]
fn restore(rig: &Rig, history: &History, name: &str, target: &str) -> (Finished, Option<u64>) {
    let dir = rig.dir(name);
    let finished = rig.faulty.restore_into(&dir, &["--to", target, "--json"]);
    if finished.code != Some(0) {
        assert!(!finished.stderr.contains("panicked at"), "{}", finished.stderr);
        return (finished, None);
    }
    let csn = finished.json()["csn"].as_u64().expect("the report tells a csn");
    let node = Launch::primary(&dir).set("appendfsync", "no").start();
    let mut client = node.client();
    assert_eq!(client.watermarks().committed, csn, "{name}");
    assert_same(&history.model_at(csn).dump(), &dump(&mut client), &format!("{name}: restored to csn {csn}"));
    (finished, Some(csn))
}

/// Faults of a restore, and its exit code. A restore reads walferry.json, lists, reads the record of epoch 1, asks for
/// the record of epoch 2, reads the base's manifest and files, then the chunks; all reads are GETs.
const OF_A_RESTORE: &[(Kind, &[Fault], i32)] = &[
    (Kind::Get, &[Fault::DropRequest; 3], 0),
    (Kind::Get, &[Fault::Status(500); 3], 0),
    (Kind::Get, &[Fault::None, Fault::SlowDown { retry_after_s: 1 }, Fault::CutBody, Fault::LoseReply], 0),
    (Kind::Get, &[Fault::None, Fault::None, Fault::None, Fault::Hang(MOMENT), Fault::Slow(MOMENT)], 0),
    (Kind::Get, &[Fault::None, Fault::None, Fault::None, Fault::Throttle { bytes_per_second: 20_000 }], 0),
    (Kind::Get, &[Fault::Status(503); 4], 6),
    (Kind::List, &[Fault::Status(500); 3], 0),
    (Kind::List, &[Fault::CutBody; 3], 0),
    (Kind::List, &[Fault::DropRequest; 4], 6),
    // A denied walferry.json means that there is no archive; the error names the bucket and prefix to check.
    (Kind::Get, &[Fault::Deny], 2),
    // A damaged record is read a second time, and so is a record that was listed and is denied.
    (Kind::Get, &[Fault::FlipBit(700), Fault::Page, Fault::Empty], 0),
    (Kind::Get, &[Fault::FlipBit(700); 4], 4),
    (Kind::Get, &[Fault::None, Fault::Deny], 0),
    (Kind::Get, &[Fault::None, Fault::Deny, Fault::Deny, Fault::Deny, Fault::Deny], 4),
    (Kind::Get, &[Fault::None, Fault::FlipBit(900)], 0),
    (Kind::Get, &[Fault::None, Fault::FlipBit(900), Fault::FlipBit(900), Fault::FlipBit(900), Fault::FlipBit(900)], 4),
    // Without a readable manifest the restore reads more chunks; the result is the same.
    (Kind::Get, &[Fault::None, Fault::None, Fault::None, Fault::Deny], 0),
    (Kind::Get, &[Fault::None, Fault::None, Fault::None, Fault::FlipBit(3001)], 0),
    // Data that was listed and then missing may be removed by a prune, so the restore is planned a second time.
    (Kind::Get, &[Fault::None, Fault::None, Fault::None, Fault::None, Fault::Deny], 0),
    (Kind::Get, &[Fault::None, Fault::None, Fault::None, Fault::None, Fault::FlipBit(5)], 4),
    (Kind::Get, &[Fault::None, Fault::None, Fault::None, Fault::None, Fault::None, Fault::FlipBit(77)], 4),
];

/// Goal: a restore through each fault ends with the whole history, or with the right exit code and a directory that no
/// server opens.
#[test]
fn each_fault_of_a_restore_is_overcome_or_told() {
    let (rig, history) = archived();
    for (number, &(kind, faults, code)) in OF_A_RESTORE.iter().enumerate() {
        let case = format!("case {number}: {kind:?} meets {faults:?}");
        rig.proxy.script(kind, faults.iter().copied());
        let name = format!("restored-{number}");
        let (finished, csn) = restore(&rig, &history, &name, "latest");
        rig.proxy.heal();
        eprintln!("{case}: {}", finished.stderr.lines().last().unwrap_or_default());
        assert_eq!(finished.code, Some(code), "{case}: {}", finished.stderr);
        if code == 0 {
            assert_eq!(csn, Some(history.csn()), "{case}: silently shorter");
        } else {
            refuses_to_open(&rig, &name);
        }
    }
}

/// Asserts that a failed restore left nothing, or a directory that no server opens.
#[track_caller]
fn refuses_to_open(rig: &Rig, name: &str) {
    let dir = rig.dir(name);
    let is_empty = std::fs::read_dir(&dir).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty && dir.join("RESTORING").exists() {
        Launch::primary(&dir).refused().expect(2).says("unfinished restore");
    } else {
        let left: Vec<_> =
            std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| name == "LOCK"), "{left:?}");
    }
}

/// Goal: verify reports wrong bytes as damage, never as whole, and fails if it cannot read.
#[test]
fn each_fault_of_a_verification_is_told() {
    let (rig, _) = archived();
    let before = rig.proxy.count(Kind::Get).requests;
    rig.faulty.tool("verify", &[]).expect(0);
    let requests = (rig.proxy.count(Kind::Get).requests - before) as usize;
    // The first requests are for walferry.json, the record of epoch 1, and the record of epoch 2.
    // A damaged manifest is read again, as if the store were down; the last requests are for files of the base.
    for at in [3, requests - 4, requests - 1] {
        for (fault, code) in [(Fault::Deny, 4), (Fault::FlipBit(4321), 4), (Fault::CutBody, 0), (Fault::Status(503), 0)]
        {
            rig.proxy.script(Kind::Get, (0..at).map(|_| Fault::None).chain([fault]));
            let verified = rig.faulty.tool("verify", &[]);
            rig.proxy.heal();
            assert_eq!(verified.code, Some(code), "GET {at} meets {fault:?}: {verified:?}");
        }
    }
    rig.proxy.always(&[Kind::Get], Fault::Status(503));
    rig.faulty.tool("verify", &[]).expect(6).says("object store");
    rig.faulty.tool("snapshots", &[]).expect(6).says("object store");
    rig.proxy.heal();
    rig.proxy.always(&[Kind::List], Fault::CutBody);
    rig.faulty.tool("verify", &[]).expect(6).says("object store");
    rig.faulty.tool("snapshots", &[]).expect(6).says("object store");
}

/// Goal: with a listing that lacks the newest chunks, `latest` is the last listed commit, and the report states it; a
/// target beyond it is refused with the restorable range. No gap and no line ever goes unnoticed: older chunks that
/// are not listed are missing, and an epoch that is not listed is requested by its name.
#[test]
fn a_stale_listing_never_hides_a_hole() {
    let (rig, history) = archived();
    let chunks = rig.truth.list("chunks/");
    let stale = |newest| rig.proxy.script(Kind::List, [Fault::Stale { newest }]);

    stale(1);
    let (_, csn) = restore(&rig, &history, "one-missing", "latest");
    let shown = csn.expect("a shorter history is a history");
    assert!(shown < history.csn() && shown > history.csn_before(), "csn {shown} of {}", history.csn());
    stale(1);
    let (finished, _) = restore(&rig, &history, "beyond", &format!("csn:{}", history.csn()));
    finished.expect(3).says(&format!("csn {shown}"));

    // The listing lacks the base and everything after it; what is listed is a prefix of the history.
    stale(rig.proxy.stored().len() - 8);
    let (finished, csn) = restore(&rig, &history, "many-missing", "latest");
    assert!(csn.is_some() || matches!(finished.code, Some(3 | 6)), "{finished:?}");

    // An empty listing is not taken for an empty archive.
    rig.proxy.always(&[Kind::List], Fault::Stale { newest: usize::MAX });
    let (finished, _) = restore(&rig, &history, "nothing-shown", "latest");
    finished.expect(6).says("stale");
    rig.faulty.tool("verify", &[]).expect(6).says("stale");
    rig.proxy.heal();
    assert_eq!(rig.truth.list("chunks/"), chunks, "readers change nothing");
}

/// Goal: with random faults at every request of a reader, each restore is right or an error of a known kind.
#[test]
fn random_faults_never_restore_something_wrong() {
    const ROUNDS: u64 = 8;
    let (rig, history) = archived();
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut whole = 0;
    for round in 0..ROUNDS {
        let percent = rng.random_range(3..40);
        let faults = vec![
            Fault::DropRequest,
            Fault::LoseReply,
            Fault::Status(500),
            Fault::SlowDown { retry_after_s: 1 },
            Fault::CutBody,
            Fault::FlipBit(0),
            Fault::Deny,
            Fault::Slow(Duration::from_millis(20)),
        ];
        rig.proxy.mix(Mix { seed: seed + round, percent, faults });
        let target = rng.random_range(history.csn_before() + 1..=history.csn());
        let (finished, csn) = restore(&rig, &history, &format!("random-{round}"), &format!("csn:{target}"));
        rig.proxy.heal();
        match csn {
            Some(csn) => assert_eq!(csn, target),
            None => drop(finished.expect_any(&[2, 3, 4, 6])),
        }
        whole += u64::from(csn.is_some());
    }
    eprintln!("{whole} of {ROUNDS} restores succeeded");
}

/// Goal: a replica that bootstraps through a faulty store serves the right state or ends with a clear error; in the
/// end it has everything.
#[test]
fn a_replica_bootstraps_through_faults() {
    let rig = Rig::start(|launch| launch);
    let mut workload = Workload::new(seed());
    let mut client = rig.primary.client();
    let mut history = History::start(&mut client);
    write(&mut history, &mut workload, &mut client, 60);
    client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    write(&mut history, &mut workload, &mut client, 60);
    rig.flush(&mut client);
    let replica = |name: &str| Launch::replica(&rig.dir(name), rig.primary.launch.repl_port).archive(&rig.faulty);

    rig.proxy.script(Kind::Get, [3, 4, 5].map(|at| if at == 4 { Fault::CutBody } else { Fault::Status(503) }));
    rig.proxy.script(Kind::List, [Fault::DropRequest, Fault::SlowDown { retry_after_s: 1 }]);
    let overcomes = replica("overcomes").start();
    assert!(rig.proxy.faults() >= 5, "the faults were met");
    let mut reader = overcomes.client();
    wait_until("the replica has everything", SETTLED_WITHIN, || {
        (reader.watermarks().committed == history.csn()).then_some(())
    });
    holds(&mut reader, &history, "a replica that overcame faults");

    rig.proxy.always(&[Kind::Get], Fault::FlipBit(1234));
    replica("lied-to").refused().expect(4);
    rig.proxy.heal();
    rig.proxy.always(&[Kind::List], Fault::Status(500));
    replica("cut-off").refused().expect(6);
    rig.proxy.heal();
}
