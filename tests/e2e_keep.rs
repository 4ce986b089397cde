//! Marks, pins, retention and metrics with the binary: marked, pinned and promised commits can be restored, and
//! commits that the policy does not keep are removed.

mod support;

use redis::Value;
use serde_json::Value as Json;
use std::path::Path;
use std::time::Duration;
use support::archive::{Archive, files_below};
use support::client::{Client, cmd, error_text, integer, text};
use support::dump::{assert_same, dump};
use support::faulty_s3::{Fault, FaultyS3, Kind};
use support::metrics::metrics;
use support::process::{Launch, Node, SETTLED_WITHIN, free_port, wait_until};
use support::tool::{Finished, walferry};

/// Exit code for "this identity may not delete".
const DENIED: i32 = 8;

fn primary(root: &Path, archive: &Archive) -> Launch {
    Launch::primary(&root.join("primary")).archive(archive).set("archive-interval", "50")
}

/// Returns the marks that a node lists, as (name, csn, whether the archive has the mark).
fn marks(client: &mut Client) -> Vec<(String, u64, String)> {
    let Value::Array(marks) = client.ok(&cmd!("WALFERRY", "MARKS")) else { panic!("MARKS is an array") };
    let field = |mark: &Value, at: usize| match mark {
        Value::Array(fields) => text(&fields[at]),
        other => panic!("a mark is a map, got {other:?}"),
    };
    let csn = |mark: &Value| match mark {
        Value::Array(fields) => integer(&fields[3]) as u64,
        other => panic!("a mark is a map, got {other:?}"),
    };
    marks.iter().map(|mark| (field(mark, 1), csn(mark), field(mark, 9))).collect()
}

fn mark(node: &Node, name: &str) -> u64 {
    let csn = integer(&node.client().ok(&cmd!("WALFERRY", "MARK", name))) as u64;
    wait_until("the mark is in the archive", SETTLED_WITHIN, || {
        marks(&mut node.client()).contains(&(name.to_owned(), csn, "yes".to_owned())).then_some(())
    });
    csn
}

/// Goal: a mark is a commit, survives FLUSHALL, restarts and kills, exists on the replica, and is restored by name. It
/// is no key.
#[test]
fn marks_live_through_everything() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let mut node = primary(root.path(), &archive).start();
    let replica = Launch::replica(&root.path().join("replica"), node.launch.repl_port).archive(&archive).start();
    let mut client = node.client();
    client.ok(&cmd!("SET", "a", 1));
    client.ok(&cmd!("RPUSH", "l", "x"));
    let before = client.watermarks().committed;
    let csn = mark(&node, "release-1");
    assert_eq!(csn, before + 1, "a mark is one commit");
    let marked = dump(&mut client);
    client.ok(&cmd!("FLUSHALL"));
    assert_eq!(integer(&client.ok(&cmd!("DBSIZE"))), 0, "a mark is no key");
    let taken = error_text(&client.call(&cmd!("WALFERRY", "MARK", "release-1"))).expect("a name is taken once");
    assert!(taken.contains("taken") && taken.contains(&csn.to_string()), "{taken}");
    for bad in ["", ".hidden", "a/b", "a b", &"x".repeat(129)] {
        let refused = client.call(&cmd!("WALFERRY", "MARK", bad));
        assert!(error_text(&refused).is_some_and(|error| error.contains("a name consists of")), "{bad:?}: {refused:?}");
    }
    let second = integer(&client.ok(&cmd!("WALFERRY", "MARK", "killed"))) as u64;
    node.kill();
    node.restart();
    let mut client = node.client();
    wait_until("the mark made before the kill is in the archive", SETTLED_WITHIN, || {
        marks(&mut client).iter().all(|(_, _, archived)| archived == "yes").then_some(())
    });
    let names: Vec<_> = marks(&mut client).into_iter().map(|(name, csn, _)| (name, csn)).collect();
    assert_eq!(names, [("killed".to_owned(), second), ("release-1".to_owned(), csn)]);
    let mut on_replica = replica.client();
    wait_until("the replica has the marks", SETTLED_WITHIN, || (marks(&mut on_replica).len() == 2).then_some(()));
    let refused = on_replica.call(&cmd!("WALFERRY", "MARK", "there"));
    assert!(error_text(&refused).is_some_and(|error| error.starts_with("READONLY")), "{refused:?}");

    let (watermarks, found) = archive.restored(&["--to", "mark:release-1"]).state();
    assert_eq!(watermarks.committed, csn);
    assert_same(&marked, &found, "restored to the mark");
    assert!(archive.restored(&["--to", "mark:killed"]).state().1.is_empty());
    archive.tool("restore", &["--dir", "/nowhere/x", "--to", "mark:none"]).expect(3).says("killed, release-1");
    archive.tool("snapshots", &[]).expect(0).says(&format!("mark       release-1 csn {csn} epoch 1"));
    let port = node.launch.port.to_string();
    walferry(&["mark", "--port", &port, "from-the-tool"], &Vec::new()).expect(0).says("--to mark:from-the-tool");
    client.ok(&cmd!("WALFERRY", "UNMARK", "killed"));
    assert!(marks(&mut client).iter().all(|(name, ..)| name != "killed"));
    archive.tool("restore", &["--dir", "/nowhere/x", "--to", "mark:killed"]).expect(3);
    assert!(error_text(&client.call(&cmd!("WALFERRY", "UNMARK", "killed"))).is_some());
}

/// Goal: a promotion keeps the marks; a mark beyond the fork needs its epoch, and its name stays taken; the next
/// primary writes a mark that was made while the archive was away.
#[test]
fn marks_follow_their_branch_of_history() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let mut node = primary(root.path(), &archive).start();
    node.client().ok(&cmd!("SET", "a", 1));
    let shared = mark(&node, "shared");
    node.client().ok(&cmd!("SET", "a", 2));
    let left = mark(&node, "left");
    node.terminate();
    let dir = root.path().join("restored");
    archive.restore_into(&dir, &["--to", "mark:shared"]).expect(0);
    let node = Launch::primary(&dir).archive(&archive).set("archive-interval", "50").start();
    let mut client = node.client();
    assert_eq!(client.watermarks().epoch, 2);
    wait_until("the restored primary finds its mark in the archive", SETTLED_WITHIN, || {
        (marks(&mut client) == [("shared".to_owned(), shared, "yes".to_owned())]).then_some(())
    });
    let taken = client.call(&cmd!("WALFERRY", "MARK", "left"));
    assert!(error_text(&taken).is_some_and(|error| error.contains("another line")), "{taken:?}");
    client.ok(&cmd!("SET", "a", 3));
    mark(&node, "new");
    let refused = archive.tool("restore", &["--dir", "/nowhere/x", "--to", "mark:left"]).expect(3);
    assert!(refused.stderr.contains("--epoch 1") && refused.stderr.contains(&format!("csn {left}")), "{refused:?}");
    let restored = archive.restored(&["--to", "mark:left", "--epoch", "1"]);
    assert_eq!(text(&restored.client().ok(&cmd!("GET", "a"))), "2");
    assert_eq!(text(&archive.restored(&["--to", "mark:new"]).client().ok(&cmd!("GET", "a"))), "3");
    archive.tool("snapshots", &[]).expect(0).says("left branch: --epoch 1");
}

fn prune(archive: &Archive, keep: &str, more: &[&str]) -> Finished {
    let mut arguments = vec!["--keep", keep, "--grace", "0s", "--json"];
    arguments.extend_from_slice(more);
    archive.tool("prune", &arguments)
}

fn number(report: &Json, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} of {report}"))
}

/// Goal: a prune with short windows shows its plan first, then removes exactly that; kept points are restored exactly;
/// the primary continues to archive, also after a restart, and does not upload removed objects; marks stay.
#[test]
fn a_prune_keeps_what_the_policy_says() {
    let root = tempfile::tempdir().expect("a temporary directory");
    prune_and_restart(root.path(), &Archive::directory(&root.path().join("archive")));
}

/// Goal: a prune over a real S3 server removes exactly what it showed and keeps what the policy promises.
#[test]
fn a_prune_over_s3_keeps_what_the_policy_says() {
    let root = tempfile::tempdir().expect("a temporary directory");
    prune_and_restart(root.path(), &Archive::s3());
}

fn prune_and_restart(root: &Path, archive: &Archive) {
    let mut node = primary(root, archive).start();
    let mut client = node.client();
    let write = |client: &mut Client, value: u64| {
        client.ok(&cmd!("MULTI"));
        client.ok(&cmd!("SET", format!("k{}", value % 7), value));
        client.ok(&cmd!("RPUSH", "l", value));
        client.ok(&cmd!("EXEC"));
        client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
        client.watermarks().committed
    };
    for value in 0..8 {
        write(&mut client, value);
    }
    let marked = mark(&node, "early");
    let early = dump(&mut client);
    for value in 8..16 {
        write(&mut client, value);
    }
    client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    let gone = write(&mut client, 16);
    for value in 17..24 {
        write(&mut client, value);
    }
    let base = integer(&client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"))) as u64;
    let at_base = dump(&mut client);
    let last = write(&mut client, 24);
    let at_last = dump(&mut client);
    // After the pause all commits are older than the fine window.
    std::thread::sleep(Duration::from_millis(1100));
    let policy = "1s fine, every 3650d 7300d";
    let told = prune(archive, policy, &["--dry-run"]).expect(0).json();
    assert!(number(&told, "removed") == 0 && !told["removals"].as_array().expect("removals").is_empty(), "{told}");
    archive.tool("prune", &["--keep", policy, "--grace", "0s"]).expect(0).says("--confirm removes");
    archive.tool("prune", &["--keep", "7 days"]).expect(2).says("7d fine, hourly 30d");
    let done = prune(archive, policy, &["--confirm"]).expect(0).json();
    assert_eq!(done["removals"], told["removals"], "what was told");
    assert_eq!(number(&done, "removed") as usize, done["removals"].as_array().expect("removals").len());
    archive.tool("verify", &[]).expect(0);
    let listed = archive.tool("snapshots", &["--json"]).expect(0).json();
    assert!(
        !listed["thinned"].as_array().expect("thinned").is_empty() && listed["gaps"] == Json::Array(vec![]),
        "{listed}"
    );

    // The primary is not affected and does not upload removed objects.
    let after = write(&mut client, 25);
    node.restart();
    let mut client = node.client();
    write(&mut client, 26);
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    archive.tool("verify", &[]).expect(0);
    archive.tool("restore", &["--dir", "/nowhere/x", "--to", &format!("csn:{gone}")]).expect(3);
    for (target, state) in
        [("mark:early".to_owned(), &early), (format!("csn:{base}"), &at_base), (format!("csn:{last}"), &at_last)]
    {
        assert_same(state, &archive.restored(&["--to", &target]).state().1, &target);
    }
    assert!(marked < base && after > last);
    assert_same(&dump(&mut client), &archive.restored(&["--to", "latest"]).state().1, "latest");
}

/// Goal: restores that run while prunes remove as much as they can always end at the requested commit.
#[test]
fn restores_run_beside_prunes() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let launch = primary(root.path(), &archive).set("keep", "0s fine").set("prune-grace", "5s");
    let node = launch.set("prune-interval", "100ms").start();
    let mut client = node.client();
    for round in 0..6 {
        for value in 0..40 {
            client.ok(&cmd!("SET", format!("k{value}"), round));
            client.ok(&cmd!("RPUSH", "l", value));
        }
        client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
        client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
        assert_same(&dump(&mut client), &archive.restored(&["--to", "latest"]).state().1, "latest beside prunes");
    }
    let info = |client: &mut Client, field: &str| {
        let info = text(&client.ok(&cmd!("INFO", "walferry")));
        let line = info.lines().find_map(|line| line.strip_prefix(&format!("{field}:")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("INFO has no {field}"))
    };
    wait_until("a prune ends well", SETTLED_WITHIN, || {
        (info(&mut client, "last_prune_ms") != "0" && info(&mut client, "last_prune_error").is_empty()).then_some(())
    });
    wait_until("one base is left", SETTLED_WITHIN, || {
        (files_below(&root.path().join("archive").join("bases"), "manifest.json").len() == 1).then_some(())
    });
    wait_until("no pin is left", SETTLED_WITHIN, || {
        files_below(&root.path().join("archive").join("pins"), ".json").is_empty().then_some(())
    });
    archive.tool("verify", &[]).expect(0);
}

/// Goal: a prune by an identity that may not delete removes nothing and has an exit code of its own.
#[test]
fn an_identity_that_may_not_delete_is_told_so() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let node = primary(root.path(), &archive).start();
    let mut client = node.client();
    for value in 0..3 {
        client.ok(&cmd!("SET", "a", value));
        client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
        client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    }
    drop(node);
    // Not even root may delete immutable files.
    let bases = root.path().join("archive").join("bases");
    let manifests = files_below(&bases, "manifest.json");
    let protect = |sign: &str| {
        let status = std::process::Command::new("chattr").arg(format!("{sign}i")).args(&manifests).status();
        status.is_ok_and(|status| status.success())
    };
    if !protect("+") {
        eprintln!("this file system has no immutable files: not shown here, but in the library's tests");
        return;
    }
    let denied = prune(&archive, "0s fine", &["--confirm"]);
    assert!(protect("-"));
    let report = denied.expect(DENIED).says("could not be removed").json();
    assert_eq!(number(&report, "removed"), 0);
    assert_eq!(files_below(&bases, "manifest.json"), manifests);
    prune(&archive, "0s fine", &["--confirm"]).expect(0);
    assert_eq!(files_below(&bases, "manifest.json").len(), 1);
}

/// Goal: the metrics are true under load, when idle, when the archive is away, and on a replica; so is the text of
/// status.
#[test]
fn metrics_tell_the_truth() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let (port, replica_port) = (free_port(), free_port());
    let node = primary(root.path(), &archive).set("metrics-port", &port.to_string()).start();
    let launch = Launch::replica(&root.path().join("replica"), node.launch.repl_port).archive(&archive);
    let replica = launch.set("metrics-port", &replica_port.to_string()).start();
    let mut client = node.client();
    for value in 0..50 {
        client.ok(&cmd!("SET", "a", value));
        client.ok(&cmd!("RPUSH", "l", value));
    }
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let base = integer(&client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"))) as f64;
    let committed = client.watermarks().committed as f64;
    let found = wait_until("the replica acknowledged all", SETTLED_WITHIN, || {
        let found = metrics(port);
        let acked = found.iter().find(|(name, _)| name.starts_with("walferry_replica_acked_csn{"))?.1;
        (*acked == committed && found["walferry_durable_csn"] == committed).then_some(found)
    });
    for (name, value) in [
        ("walferry_is_primary", 1.0),
        ("walferry_epoch", 1.0),
        ("walferry_committed_csn", committed),
        ("walferry_archived_csn", committed),
        ("walferry_rpo_seconds", 0.0),
        ("walferry_durable_lag_seconds", 0.0),
        ("walferry_restorable_from_csn", 1.0),
        ("walferry_restorable_until_csn", committed),
        ("walferry_base_csn", base),
        ("walferry_base_failed", 0.0),
        ("walferry_replicas", 1.0),
        ("walferry_spool_bytes", 0.0),
        ("walferry_archive_failures_total", 0.0),
        ("walferry_writes_refused{obstacle=\"spool full\"}", 0.0),
        ("walferry_writes_refused{obstacle=\"fenced\"}", 0.0),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
    assert!(found["walferry_archive_requests_total{operation=\"put\"}"] > 5.0);
    assert!(found["walferry_commands_total"] > 100.0 && found["process_resident_memory_bytes"] > 1e6);
    assert!(found["walferry_restorable_until_timestamp_seconds"] > 1.6e9);
    // When idle there is no PUT and no LIST, and no age grows.
    let again = metrics(port);
    for operation in ["put", "list", "delete"] {
        let name = format!("walferry_archive_requests_total{{operation=\"{operation}\"}}");
        assert_eq!(found[&name], again[&name], "{name}");
    }
    assert_eq!(again["walferry_rpo_seconds"], 0.0);
    let on_replica = metrics(replica_port);
    assert_eq!((on_replica["walferry_is_primary"], on_replica["walferry_link_up"]), (0.0, 1.0));
    assert_eq!(on_replica["walferry_link_lag_commits"], 0.0);
    assert_eq!(on_replica["walferry_writes_refused{obstacle=\"replica\"}"], 1.0);
    assert!(!on_replica.contains_key("walferry_rpo_seconds"), "a replica archives nothing");
    drop(replica);
    // While the archive is away, the age of the commits at risk grows and is reported.
    let (dir, away) = (root.path().join("archive"), root.path().join("away"));
    std::fs::rename(&dir, &away).expect("a directory can be renamed");
    std::fs::write(&dir, "in its place").expect("a file");
    client.ok(&cmd!("SET", "a", "not archived"));
    let risk = wait_until("the commit ages", SETTLED_WITHIN, || {
        let found = metrics(port);
        (found["walferry_rpo_seconds"] > 0.3 && found["walferry_archive_failures_in_row"] > 0.0).then_some(found)
    });
    assert_eq!(risk["walferry_archived_csn"], committed);
    assert!(risk["walferry_spool_chunks"] >= 1.0 && risk["walferry_spool_bytes"] > 0.0);
    let status = walferry(&["status", "--port", &node.launch.port.to_string()], &Vec::new()).expect(0);
    let status = status.says("every commit from csn 1").says("FAILING").says("primary of epoch 1");
    assert!(status.stdout.contains("at risk"), "{}", status.stdout);
    let told: Vec<_> =
        status.stdout.lines().find(|line| line.starts_with("base ")).expect("a base").split(' ').collect();
    let took = told.iter().position(|word| *word == "in").map(|at| told[at + 1].parse::<u64>());
    assert!(matches!(took, Some(Ok(_))), "how long the base took: {told:?}");
    std::fs::remove_file(&dir).expect("a file");
    std::fs::rename(&away, &dir).expect("a directory can be renamed");
    wait_until("nothing is at risk any more", SETTLED_WITHIN, || {
        (metrics(port)["walferry_rpo_seconds"] == 0.0).then_some(())
    });
    // A pipeline that writes and asks in one packet must not wait for itself.
    let replies =
        client.pipeline(&[cmd!("SET", "a", 1), cmd!("RPUSH", "l", 1), cmd!("INFO"), cmd!("WALFERRY", "MARKS")]);
    assert!(replies.iter().all(|reply| error_text(reply).is_none()), "{replies:?}");
    let replies = client.pipeline(&[cmd!("MULTI"), cmd!("SET", "a", 2), cmd!("INFO"), cmd!("EXEC")]);
    assert!(replies.iter().all(|reply| error_text(reply).is_none()), "{replies:?}");
}

/// Goal: a tool that is stopped by a signal has the exit code for it and leaves no pin for others to wait for.
#[test]
fn a_tool_that_is_stopped_leaves_no_pin() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (direct, proxy) = (Archive::s3(), FaultyS3::start());
    let node = primary(root.path(), &direct).start();
    let mut client = node.client();
    for number in 0..20 {
        client.ok(&cmd!("RPUSH", "l", number));
        client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    }
    proxy.always(&[Kind::Get], Fault::Slow(Duration::from_millis(300)));
    let slow = proxy.to(&direct);
    let dir = root.path().join("restored");
    let dir = dir.to_str().expect("UTF-8");
    for (signal, number) in [("INT", 2), ("TERM", 15)] {
        for (subcommand, arguments) in
            [("restore", vec!["--dir", dir]), ("prune", vec!["--keep", "0s fine", "--confirm"])]
        {
            let (heads, deletes) = (proxy.count(Kind::Head).requests, proxy.count(Kind::Delete).requests);
            // A pin that was written is looked up with HEAD.
            let is_pinned = || proxy.count(Kind::Head).requests > heads;
            let (_, status) = slow.tool_stopped(subcommand, &arguments, signal, is_pinned);
            assert_eq!(status.code(), Some(128 + number), "{subcommand} {signal}");
            assert_eq!(proxy.count(Kind::Delete).requests, deletes + 1, "{subcommand} {signal}: its pin is removed");
            let _ = std::fs::remove_dir_all(dir);
        }
    }
    client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
}

/// Goal: the pin of a scheduled prune that was killed with its node is removed at the node's next start.
#[test]
fn a_node_that_was_killed_leaves_no_pin_of_its_prune() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let launch = primary(root.path(), &archive).set("keep", "0s fine").set("prune-interval", "1");
    let mut node = launch.start();
    node.client().ok(&cmd!("SET", "a", 1));
    let pins = root.path().join("archive/pins");
    let kept = wait_until("a prune is under way", SETTLED_WITHIN, || {
        files_below(&pins, ".json").into_iter().find_map(|pin| Some((std::fs::read(&pin).ok()?, pin)))
    });
    node.kill();
    // The pin is written back, as if the node had been killed during the prune.
    std::fs::write(&kept.1, &kept.0).expect("a pin can be written");
    node.restart();
    node.client().ok(&cmd!("CONFIG", "SET", "prune-interval", 0));
    node.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
}
