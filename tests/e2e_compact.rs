//! Compaction with the binary: a primary merges its chunks, `walferry compact` builds runs and bases, replaced objects
//! are deleted by hand, and every remaining restore point is restored and compared with the model.

mod support;

use std::path::{Path, PathBuf};
use support::archive::{Archive, files_below};
use support::client::{cmd, integer};
use support::dump::assert_same;
use support::history::History;
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::workload::{Choice, Workload, seed};

const STEPS: usize = 160;
const RUN_COMMITS: &str = "40";

/// Returns the chunks in a directory's archive as (first csn, last csn, file), sorted by first csn.
fn chunks(archive: &Path) -> Vec<(u64, u64, PathBuf)> {
    let range = |path: &PathBuf| {
        let name = path.file_stem()?.to_str()?;
        let (first, last) = name.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?, path.clone()))
    };
    let mut found: Vec<_> = files_below(&archive.join("chunks"), ".chunk").iter().filter_map(range).collect();
    found.sort();
    found
}

fn restored_is(archive: &Archive, history: &History, csn: u64) {
    let (watermarks, found) = archive.restored(&["--to", &format!("csn:{csn}")]).state();
    assert_same(&history.model_at(csn).dump(), &found, &format!("restored to csn {csn}"));
    assert_eq!(watermarks.committed, csn);
}

/// Goal: after background merging, runs, deletion by hand and a rebuilt base, every remaining restore point is exact,
/// every other one is refused, and the primary continues to archive.
#[test]
fn what_is_left_after_compaction_is_restored_exactly() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("archive");
    let archive = Archive::directory(&dir);
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive).set("appendfsync", "no");
    let launch = launch.set("archive-interval", "10").set("merge-interval", "300").set("merge-grace", "500");
    let mut primary = launch.start();
    let mut client = primary.client();
    let mut workload = Workload::new(seed());
    let mut history = History::start(&mut client);
    for _ in 0..STEPS {
        history.run(&mut client, workload.next(Choice::Open));
        if history.csn().is_multiple_of(4) {
            std::thread::sleep(std::time::Duration::from_millis(12));
        }
    }
    let archived = integer(&client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64;
    assert_eq!(archived, history.csn());
    let deleted = wait_until("merged parts are deleted", SETTLED_WITHIN, || {
        let info = client.info();
        info["merged_parts_deleted"].parse::<u64>().ok().filter(|deleted| *deleted > 0)
    });
    let cut = client.info()["chunks_cut"].parse::<u64>().expect("a number");
    assert!(cut > 20 && deleted >= 16, "{cut} chunks were cut, {deleted} deleted");
    archive.tool("verify", &[]).expect(0);
    for csn in [1, archived / 3, archived / 2, archived] {
        restored_is(&archive, &history, csn);
    }

    let report = archive.tool("compact", &["--run-commits", RUN_COMMITS, "--json"]).expect(0).json();
    let runs: Vec<(u64, u64)> = report["runs"]["runs"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|run| {
            let name = run["run"].as_str().expect("a name").strip_prefix("runs/").expect("a run");
            let mut parts = name.split('-').map(|part| part.parse::<u64>().expect("a number"));
            (parts.next().expect("first"), parts.next().expect("last"))
        })
        .collect();
    assert!(runs.len() as u64 == archived / 40 && runs[0] == (1, 40), "{runs:?}");
    archive.tool("compact", &["--run-commits", RUN_COMMITS]).expect(0).says("runs     0 built");
    archive.tool("compact", &["--merge", "--grace", "0", "--json"]).expect(0);
    archive.tool("verify", &[]).expect(0);
    let plan = archive.tool("restore", &["--dir", "/nonexistent/x", "--to", "csn:40", "--dry-run"]).expect(0);
    plan.says("estimate");

    primary.terminate();
    let kept_from = runs[runs.len() - 1].1;
    for (_, last, path) in chunks(&dir) {
        if last <= kept_from {
            std::fs::remove_file(path).expect("a chunk can be removed");
        }
    }
    // A merged chunk may extend beyond the end of the last run; all commits in the chunk stay restorable.
    let fine_from = chunks(&dir).first().map_or(u64::MAX, |(first, ..)| *first);
    for (_, last) in &runs {
        restored_is(&archive, &history, *last);
    }
    restored_is(&archive, &history, archived);
    if fine_from > 17 {
        archive.tool("restore", &["--dir", "/nonexistent/x", "--to", "csn:17", "--dry-run"]).expect(3).says("run");
    }
    archive.tool("verify", &[]).expect(0);
    archive.tool("snapshots", &[]).expect(0).says("run        csn 1 .. 40");

    let report = archive.tool("compact", &["--base", "--json"]).expect(0).json();
    assert_eq!(report["base"]["csn"].as_u64(), Some(archived), "{report}");
    archive.tool("compact", &["--base"]).expect(0).says("existed already");
    for (_, _, path) in chunks(&dir) {
        std::fs::remove_file(path).expect("a chunk can be removed");
    }
    std::fs::remove_dir_all(dir.join("runs")).expect("runs can be removed");
    restored_is(&archive, &history, archived);

    primary.restart();
    let mut client = primary.client();
    for _ in 0..20 {
        history.run(&mut client, workload.next(Choice::Open));
    }
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    restored_is(&archive, &history, history.csn());
    archive.tool("verify", &[]).expect(0);
}

/// Goal: a replica configured to build runs does so, also after it was killed while building, and restores use the
/// runs.
#[test]
fn a_replica_builds_runs_by_itself() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let primary = Launch::primary(&root.path().join("primary")).archive(&archive).set("archive-interval", "10").start();
    let launch = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).archive(&archive);
    let mut replica = launch.set("compact-per", &format!("commits:{RUN_COMMITS}")).start();
    let mut client = primary.client();
    let mut workload = Workload::new(seed());
    let mut history = History::start(&mut client);
    let mut compacted = |replica: &Node, history: &mut History, workload: &mut Workload| {
        let until = history.csn() / 40 * 40 + 40;
        while history.csn() < until + 3 {
            history.run(&mut client, workload.next(Choice::Open));
        }
        client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
        let mut reader = replica.client();
        wait_until("the replica has built the run", SETTLED_WITHIN, || {
            let info = reader.info();
            assert_eq!(info["last_compact_error"], "");
            (info["compacted_until_csn"].parse::<u64>().ok()? >= until).then_some(())
        });
    };
    compacted(&replica, &mut history, &mut workload);
    replica.kill();
    std::fs::create_dir_all(root.path().join("replica/run/run-99")).expect("what a killed one leaves");
    replica.restart();
    compacted(&replica, &mut history, &mut workload);
    let mut reader = replica.client();
    assert!(integer(&reader.ok(&cmd!("DBSIZE"))) > 0 && !root.path().join("replica/run").exists());
    archive.tool("snapshots", &[]).expect(0).says("run        csn 1 .. 40").says("run        csn 41 .. 80");
    archive.tool("compact", &["--run-commits", RUN_COMMITS]).expect(0).says("runs     0 built");
    for csn in [1, 40, 57, 80, history.csn()] {
        restored_is(&archive, &history, csn);
    }
    reader.ok(&cmd!("CONFIG", "SET", "compact-per", ""));
    let refused = support::client::error_text(&reader.call(&cmd!("CONFIG", "SET", "compact-per", "week")));
    assert!(refused.is_some_and(|error| error.contains("hour, day, commits:N")));
}

/// Goal: wrong arguments are refused with the valid choices.
#[test]
fn wrong_arguments_are_refused() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    archive.tool("compact", &[]).expect(2).says("this is not an archive");
    archive.tool("compact", &["--per", "week"]).expect(2).says("hour");
    archive.tool("compact", &["--per", "day", "--run-commits", "5"]).expect(2);
    archive.tool("compact", &["--run-commits", "0"]).expect(2);
}
