//! Any commit is a restore point: a random history over all types, through process kills, is compared on the primary,
//! on a replica, and at random commits and times restored from the archive.

mod support;

use rand::RngExt;
use std::collections::BTreeSet;
use std::path::Path;
use support::archive::{Archive, rfc3339};
use support::client::{Client, cmd, elements, integer, text};
use support::dump::{assert_same, dump};
use support::history::History;
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::workload::{Choice, Workload, seed};

const ROUNDS: usize = 5;
const STEPS_ONE_BY_ONE: usize = 120;
const STEPS_BETWEEN_COMPARISONS: usize = 10;
const PIPELINES: usize = 4;
const STEPS_IN_PIPELINE: usize = 40;
const STEPS_IN_KILLED_PIPELINE: usize = 200;
/// Probability of a move after a step.
const MOVES: f64 = 0.4;
const RESTORED_CSNS: usize = 14;
const RESTORED_TIMES: usize = 8;
/// Microseconds between a reply and the next command at a restored time; commit times have microsecond resolution.
const PAUSE_US: u64 = 20;

/// Goal: over a local archive, no acknowledged write is lost by a process kill, the replica equals the primary, and
/// every commit can be restored exactly.
#[test]
fn every_commit_of_a_random_history_is_restored_from_a_directory() {
    let root = tempfile::tempdir().expect("a temporary directory");
    history_is_restorable(root.path(), &Archive::directory(&root.path().join("archive")));
}

/// Goal: over a real S3 server, no acknowledged write is lost by a process kill, and every commit can be restored
/// exactly.
#[test]
fn every_commit_of_a_random_history_is_restored_from_s3() {
    let root = tempfile::tempdir().expect("a temporary directory");
    history_is_restorable(root.path(), &Archive::s3());
}

fn history_is_restorable(root: &Path, archive: &Archive) {
    let mut workload = Workload::new(seed());
    let launch = Launch::primary(&root.join("primary")).archive(archive);
    let mut primary = launch.set("appendfsync", "everysec").set("archive-interval", "100").start();
    let mut replica = Launch::replica(&root.join("replica"), primary.launch.repl_port).archive(archive).start();
    let mut history = History::start(&mut primary.client());
    for round in 0..ROUNDS {
        run_round(round, &mut workload, &mut primary, &replica, &mut history);
        let found = dump(&mut primary.client());
        assert_same(&history.model.dump(), &found, &format!("the primary after kill {round}"));
        if round == ROUNDS / 2 {
            replica.restart();
        }
        replica_holds(&primary, &replica, &history);
    }
    assert_eq!(primary.client().watermarks().epoch, 1, "a process kill loses nothing and starts no epoch");
    let archived = integer(&primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH")));
    assert_eq!(archived as u64, history.csn(), "a flush archives all that is committed");
    archive.tool("verify", &[]).expect(0);
    restore_points_hold(archive, &history, &mut workload);
}

/// Runs steps one by one and in pipelines, then a pipeline during which the primary is killed and restarted. The
/// replica is compared often, because with few keys later commits hide the errors of earlier ones.
fn run_round(round: usize, workload: &mut Workload, primary: &mut Node, replica: &Node, history: &mut History) {
    let mut client = primary.client();
    for step in 0..STEPS_ONE_BY_ONE {
        history.run(&mut client, workload.next(Choice::Open));
        if workload.rng().random_bool(MOVES) {
            history.run(&mut client, workload.next_move());
        }
        if step % STEPS_BETWEEN_COMPARISONS == 0 {
            replica_holds(primary, replica, history);
        }
    }
    if round % 2 == 1 {
        let base = integer(&client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT")));
        assert_eq!(base as u64, history.csn(), "a strict base without writers is at the last commit");
    }
    let mut certain = |history: &History, count| {
        let mut after = history.model.clone();
        (0..count).map(|_| workload.next_certain(&mut after)).collect::<Vec<_>>()
    };
    for _ in 0..PIPELINES {
        let steps = certain(history, STEPS_IN_PIPELINE);
        history.run_pipelined(&mut client, steps);
        replica_holds(primary, replica, history);
    }
    let steps = certain(history, STEPS_IN_KILLED_PIPELINE);
    let replies = workload.rng().random_range(0..STEPS_IN_KILLED_PIPELINE);
    let doubt = history.run_killed(primary, &mut client, steps, replies);
    primary.restart();
    history.resolve(doubt, &mut primary.client());
}

/// Returns where a key lives.
fn home(client: &mut Client, key: &[u8]) -> String {
    let reply = client.ok(&cmd!("WALFERRY", "ROUTE", key));
    text(&elements(&reply)[1])
}

fn replica_holds(primary: &Node, replica: &Node, history: &History) {
    let mut client = replica.client();
    wait_until("the replica has applied all", SETTLED_WITHIN, || {
        (client.watermarks().committed >= history.csn()).then_some(())
    });
    assert_eq!(client.watermarks().committed, history.csn(), "the replica is not ahead of the primary");
    assert_same(&history.model.dump(), &dump(&mut client), "the replica");
    let mut other = primary.client();
    for key in history.model.keys() {
        assert_eq!(home(&mut client, key), home(&mut other, key), "the home of {} on the replica", key.escape_ascii());
    }
}

fn restore_points_hold(archive: &Archive, history: &History, workload: &mut Workload) {
    let (first, last) = (history.csn_before() + 1, history.csn());
    let mut csns = BTreeSet::from([first, last]);
    while csns.len() < RESTORED_CSNS {
        csns.insert(workload.rng().random_range(first..=last));
    }
    for csn in csns {
        restored_is(archive, history, &format!("csn:{csn}"), csn);
    }
    let pauses = history.pauses(PAUSE_US);
    assert!(pauses.len() > RESTORED_TIMES, "the history has moments between commits");
    for _ in 0..RESTORED_TIMES {
        let pause = pauses[workload.rng().random_range(0..pauses.len())];
        restored_is(archive, history, &format!("time:{}", rfc3339(pause.at_us)), pause.csn);
    }
    restored_is(archive, history, "latest", last);
}

fn restored_is(archive: &Archive, history: &History, target: &str, csn: u64) {
    let (watermarks, found) = archive.restored(&["--to", target]).state();
    assert_same(&history.model_at(csn).dump(), &found, &format!("restored to {target}, which is csn {csn}"));
    assert_eq!(watermarks.committed, csn, "restored to {target}");
}

/// Goal: expiry is a commit: an expired key is deleted on the primary by exactly one commit, which the replica
/// applies; before it, the replica hides the key.
#[test]
fn an_expired_key_is_deleted_by_one_commit_that_replicates() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let primary = Launch::primary(&root.path().join("primary")).start();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    let (mut on_primary, mut on_replica) = (primary.client(), replica.client());
    for (number, write) in
        [cmd!("SET", "short", "v"), cmd!("RPUSH", "short", "v"), cmd!("ZADD", "short", 1, "m")].iter().enumerate()
    {
        on_primary.ok(write);
        on_primary.ok(&cmd!("PEXPIRE", "short", 300));
        let set = on_primary.watermarks().committed;
        wait_until("the replica has the key", SETTLED_WITHIN, || {
            (on_replica.watermarks().committed >= set).then_some(())
        });
        let deleted = wait_until("the key is deleted", SETTLED_WITHIN, || {
            on_primary.ok(&cmd!("EXISTS", "short"));
            Some(on_primary.watermarks().committed).filter(|csn| *csn > set)
        });
        assert_eq!(deleted, set + 1, "write {number}: expiry takes one commit");
        assert_eq!(integer(&on_replica.ok(&cmd!("EXISTS", "short"))), 0, "the replica hides what has expired");
        wait_until("the replica has deleted the key", SETTLED_WITHIN, || {
            (on_replica.watermarks().committed == deleted).then_some(())
        });
        assert_eq!(integer(&on_primary.ok(&cmd!("DBSIZE"))), 0);
        assert_eq!(integer(&on_replica.ok(&cmd!("DBSIZE"))), 0);
    }
}

/// Goal: an orderly stop and a start lose nothing and make no commit, in every durability mode.
#[test]
fn an_orderly_restart_changes_nothing() {
    for mode in ["always", "everysec", "no"] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut workload = Workload::new(seed());
        let mut primary = Launch::primary(&root.path().join("primary")).set("appendfsync", mode).start();
        let mut history = History::start(&mut primary.client());
        for _ in 0..3 {
            let mut client = primary.client();
            for _ in 0..60 {
                history.run(&mut client, workload.next(Choice::Open));
            }
            let before = client.watermarks();
            assert!(primary.terminate().success(), "SIGTERM is an orderly end");
            primary.restart();
            let mut client = primary.client();
            let after = client.watermarks();
            assert_eq!((before.epoch, before.committed), (after.epoch, after.committed), "appendfsync {mode}");
            assert_same(&history.model.dump(), &dump(&mut client), &format!("appendfsync {mode}"));
        }
    }
}
