//! One history, one writer: nodes with diverged histories are told apart for good, and no acknowledged commit is
//! abandoned silently.

mod support;

use serde_json::json;
use std::path::Path;
use std::process::Command as Process;
use support::archive::{Archive, files_below};
use support::client::{Client, cmd, error_text, info_fields, integer};
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::tool::{Finished, walferry};
use support::wire::{FakeReplica, hello};

const CONFLICT: i32 = 11;
const NOT_CONFIGURED: i32 = 12;

fn copy_dir(from: &Path, to: &Path) {
    let copied = Process::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(copied.success(), "cp -a {} {}", from.display(), to.display());
}

fn set_many(node: &Node, prefix: &str, count: u64) {
    let mut client = node.client();
    (0..count).for_each(|number| drop(client.ok(&cmd!("SET", format!("{prefix}{number}"), number))));
}

fn has(client: &mut Client, prefix: &str, count: u64) -> u64 {
    (0..count).map(|number| integer(&client.ok(&cmd!("EXISTS", format!("{prefix}{number}")))) as u64).sum()
}

fn await_csn(node: &Node, csn: u64) {
    let mut client = node.client();
    wait_until("the node has the commit", SETTLED_WITHIN, || (client.watermarks().committed >= csn).then_some(()));
}

fn promote(node: &Node, arguments: &[&str]) -> Finished {
    let port = node.launch.port.to_string();
    walferry(&[&["promote", "--port", &port], arguments].concat(), &Vec::new())
}

/// Asserts a final refusal: the process ends, or its link stays down and reports the reason.
fn assert_refused_as_another_history(mut node: Node, words: &[&str]) {
    let told = wait_until("the replica is told", SETTLED_WITHIN, || match node.ended() {
        Some(ended) => Some(ended.stderr),
        None => {
            let info = info_fields(&Client::connect(node.launch.port).ok()?.try_call(&cmd!("INFO")).ok()?);
            assert_ne!(info.get("master_link_status").map(String::as_str), Some("up"), "follows another history");
            Some(info.get("link_last_error")?.clone()).filter(|error| error.contains("another history"))
        }
    });
    for word in [&["another history"], words].concat() {
        assert!(told.contains(word), "expected {word:?} in {told}");
    }
}

/// Goal: two replicas promoted at the same commit without an archive take the same epoch number; each is refused as a
/// replica of the other, and the refusal names both positions.
#[test]
fn two_promoted_replicas_are_told_apart() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut primary = Launch::primary(&root.path().join("primary")).start();
    let one = Launch::replica(&root.path().join("one"), primary.launch.repl_port)
        .set("repl-port", &support::process::free_port().to_string())
        .start();
    let mut two = Launch::replica(&root.path().join("two"), primary.launch.repl_port).start();
    set_many(&primary, "shared", 20);
    let shared = primary.client().watermarks().committed;
    await_csn(&one, shared);
    await_csn(&two, shared);
    primary.kill();
    promote(&one, &[]).expect(0);
    promote(&two, &[]).expect(0);
    set_many(&one, "one", 10);
    set_many(&two, "two", 5);
    assert_eq!((one.client().watermarks().epoch, two.client().watermarks().epoch), (2, 2));
    assert!(two.terminate().success());
    let port: u16 = one.client().info()["repl_port"].parse().expect("a port");
    let node = Launch::replica(&root.path().join("two"), port).begin();
    let positions = [format!("csn {}", shared + 5), format!("csn {}", shared + 10)];
    assert_refused_as_another_history(node, &[&positions[0], &positions[1]]);
}

/// Goal: a primary that starts from an older copy of its directory begins a new epoch. A replica with commits that the
/// copy lacks is refused, however many commits follow.
#[test]
fn a_primary_on_an_older_copy_is_another_history_to_its_replica() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("primary");
    let mut primary = Launch::primary(&dir).start();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    set_many(&primary, "early", 20);
    let copy = root.path().join("copy");
    copy_dir(&dir, &copy);
    let copied = primary.client().watermarks().committed;
    set_many(&primary, "lost", 10);
    await_csn(&replica, copied + 10);
    primary.kill();
    std::fs::rename(&dir, root.path().join("original")).expect("rename");
    std::fs::rename(&copy, &dir).expect("rename");
    primary.restart();
    assert_eq!(primary.client().watermarks().epoch, 2, "a tail may be lost: a new epoch");
    set_many(&primary, "new", 25);
    let mut reader = replica.client();
    wait_until("the replica is refused", SETTLED_WITHIN, || {
        reader.info()["link_last_error"].contains("another history").then_some(())
    });
    assert_eq!(reader.info()["master_link_status"], "down");
    assert_eq!((has(&mut reader, "lost", 10), has(&mut reader, "new", 25)), (10, 0), "nothing is mixed");
}

/// Goal: of two primaries on copies of one directory, at most one has its writes acknowledged as archived, the other
/// is fenced, and a restore yields the history of one of them.
#[test]
fn of_two_copies_of_a_directory_one_is_fenced() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let [one, two] = ["one", "two"].map(|name| root.path().join(name));
    let launch = |dir: &Path| {
        let launch = Launch::primary(dir).archive(&archive).set("archive-interval", "50");
        launch.set("archive-ack", "yes").set("fence-check-interval", "200ms")
    };
    let mut first = launch(&one).start();
    set_many(&first, "shared", 20);
    assert!(first.terminate().success());
    copy_dir(&one, &two);
    let first = launch(&one).start();
    set_many(&first, "first", 12);
    let second = launch(&two).start();
    set_many(&second, "second", 13);
    let refused = error_text(&first.client().call(&cmd!("SET", "late", 1))).expect("the earlier one is fenced");
    assert!(refused.contains("fenced") || refused.starts_with("FENCED"), "{refused}");
    archive.tool("verify", &[]).expect(0);
    let restored = archive.restored(&["--to", "latest"]);
    let mut client = restored.client();
    assert_eq!(
        (has(&mut client, "first", 12), has(&mut client, "second", 13)),
        (12, 13),
        "nothing acknowledged is gone"
    );
    assert_eq!(integer(&client.ok(&cmd!("EXISTS", "late"))), 0);
}

/// Goal: a chunk of another history under an epoch's name, as a second writer of the epoch would upload it, makes
/// verify fail and is never mixed into a restore.
#[test]
fn a_chunk_of_another_history_makes_verify_fail() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| root.path().join(name);
    let archive = Archive::directory(&at("archive"));
    let flush = |node: &Node| drop(node.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH")));
    let mut primary = Launch::primary(&at("primary")).archive(&archive).start();
    set_many(&primary, "shared", 20);
    flush(&primary);
    assert!(primary.terminate().success());
    copy_dir(&at("primary"), &at("copy"));
    copy_dir(&at("archive"), &at("other"));
    primary.restart();
    set_many(&primary, "first", 12);
    flush(&primary);
    assert!(primary.terminate().success());
    // The next start cannot detect this: the older state in the same place, and an archive without a record of a later
    // start.
    for entry in std::fs::read_dir(at("primary")).expect("a directory").flatten().filter(|e| e.file_name() != "LOCK") {
        let path = entry.path();
        let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.expect("remove");
    }
    copy_dir(&at("copy/."), &at("primary/"));
    let other = Archive { url: format!("file://{}", at("other").display()), ..archive.clone() };
    let twin = Launch::primary(&at("primary")).archive(&other).start();
    assert_eq!(twin.client().watermarks().epoch, 1, "the same epoch");
    set_many(&twin, "second", 13);
    flush(&twin);
    let alien = files_below(&at("other"), ".chunk").pop().expect("there are chunks");
    let name = alien.strip_prefix(at("other")).expect("below it");
    std::fs::copy(&alien, at("archive").join(name)).expect("copy");
    archive.tool("verify", &[]).expect(4).says("belongs to another history");
    let into = at("restored");
    let restored = archive.restore_into(&into, &["--to", "latest"]).expect_any(&[0, 4]);
    if restored.code == Some(0) {
        let node = Launch::primary(&into).start();
        let mut client = node.client();
        let found = (has(&mut client, "first", 12), has(&mut client, "second", 13));
        assert!(found.0 == 0 || found.1 == 0, "two histories are mixed: {found:?}");
    }
}

/// Goal: the second of two replicas promoted one after the other takes over everything that the first acknowledged,
/// because the archive has it; the first replica is fenced, and nothing is lost.
#[test]
fn a_promotion_follows_the_newest_line_to_its_end() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let set = |launch: Launch| launch.archive(&archive).set("archive-interval", "50").set("archive-ack", "yes");
    let mut primary = set(Launch::primary(&root.path().join("primary"))).start();
    let [one, two] =
        ["one", "two"].map(|name| set(Launch::replica(&root.path().join(name), primary.launch.repl_port)).start());
    set_many(&primary, "old", 10);
    let shared = primary.client().watermarks().committed;
    await_csn(&one, shared);
    await_csn(&two, shared);
    primary.kill();
    promote(&one, &[]).expect(0);
    set_many(&one, "one", 20);
    promote(&two, &[]).expect(0);
    let mut client = two.client();
    assert_eq!(client.watermarks().epoch, 3);
    assert_eq!(has(&mut client, "one", 20), 20, "what the first one acknowledged is there");
    set_many(&two, "two", 5);
    let refused = error_text(&one.client().call(&cmd!("SET", "late", 1))).expect("the first one is fenced");
    assert!(refused.contains("epoch 3"), "{refused}");
    let restored = archive.restored(&["--to", "latest"]);
    let mut client = restored.client();
    assert_eq!((has(&mut client, "old", 10), has(&mut client, "one", 20), has(&mut client, "two", 5)), (10, 20, 5));
}

/// Goal: a replica with commits that the newest line lacks is promoted only when told to abandon that line; after
/// that, every command that reads the archive reports the abandoned commits.
#[test]
fn a_promotion_that_would_abandon_commits_is_refused_until_insisted_upon() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let set = |launch: Launch| launch.archive(&archive).set("archive-interval", "50");
    let mut primary = set(Launch::primary(&root.path().join("primary"))).start();
    let [mut one, two] =
        ["one", "two"].map(|name| set(Launch::replica(&root.path().join(name), primary.launch.repl_port)).start());
    set_many(&primary, "old", 10);
    let shared = primary.client().watermarks().committed;
    await_csn(&one, shared);
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    // From here on only the second replica receives the primary's commits; the archive receives none.
    one.signal("STOP");
    primary.client().ok(&cmd!("CONFIG", "SET", "archive-interval", "1h"));
    set_many(&primary, "only-two", 7);
    await_csn(&two, shared + 7);
    primary.kill();
    one.signal("CONT");
    wait_until("the first replica has given up the link", SETTLED_WITHIN, || {
        (one.client().info()["master_link_status"] == "down").then_some(())
    });
    let behind = one.client().watermarks().committed;
    promote(&one, &[]).expect(0);
    set_many(&one, "one", 20);
    one.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    if behind == shared + 7 {
        // The link delivered everything before the process was stopped, so the histories did not diverge.
        return;
    }
    promote(&two, &[]).expect(CONFLICT).says("epoch 2").says("--abandon-epoch 2");
    assert_eq!(two.client().info()["role"], "slave");
    assert!(one.terminate().success());
    promote(&two, &["--abandon-epoch", "2"]).expect(0);
    set_many(&two, "two", 3);
    two.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    for (tool, arguments) in [("snapshots", &[][..]), ("status", &[]), ("verify", &[])] {
        archive.tool(tool, arguments).expect(0).says("20 commits of epoch 2");
    }
    assert!(two.client().info()["abandoned"].contains("20 commits of epoch 2"));
    let restored = archive.restored(&["--to", "latest"]);
    let mut client = restored.client();
    assert_eq!((has(&mut client, "only-two", 7), has(&mut client, "two", 3), has(&mut client, "one", 20)), (7, 3, 0));
    let restored = archive.restored(&["--epoch", "2", "--to", "latest"]);
    assert_eq!(has(&mut restored.client(), "one", 20), 20, "abandoned commits can be reached");
}

/// Goal: a replica without an archive whose primary has one is promoted only when told to.
#[test]
fn a_replica_without_the_archive_is_promoted_only_if_told() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let primary = Launch::primary(&root.path().join("primary")).archive(&archive).start();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    set_many(&primary, "k", 3);
    await_csn(&replica, primary.client().watermarks().committed);
    wait_until("the replica has heard of the archive", SETTLED_WITHIN, || {
        (promote(&replica, &[]).code == Some(NOT_CONFIGURED)).then_some(())
    });
    promote(&replica, &[]).expect(NOT_CONFIGURED).says("--without-archive");
    promote(&replica, &["--without-archive"]).expect(0);
}

/// Goal: without a shared secret no peer can fence a primary by an invented epoch, with or without an archive.
#[test]
fn an_invented_epoch_fences_nobody() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    for (nth, has_archive) in [false, true].into_iter().enumerate() {
        let launch = Launch::primary(&root.path().join(format!("primary {nth}")));
        let primary = if has_archive { launch.archive(&archive).start() } else { launch.start() };
        let mut client = primary.client();
        let cluster = client.info()["cluster_id"].clone();
        let fake = FakeReplica::connect(primary.launch.repl_port);
        fake.send(&hello().with(json!({ "cluster": cluster, "epoch": 4_000_000_000_u32 })));
        assert!(fake.refusal().contains("nothing proves"), "told what is missing");
        client.ok(&cmd!("SET", "k", 1));
        assert_eq!(client.info()["writes_refused"], "");
    }
}

/// Goal: a fenced primary stays fenced after a restart, also without the archive from which it learned the newer
/// epoch.
#[test]
fn a_fenced_node_stays_fenced() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let secret = |launch: Launch| launch.set("repl-secret", "s");
    let mut primary = secret(Launch::primary(&root.path().join("primary"))).start();
    let replica = secret(Launch::replica(&root.path().join("replica"), primary.launch.repl_port)).start();
    set_many(&primary, "k", 3);
    await_csn(&replica, primary.client().watermarks().committed);
    promote(&replica, &[]).expect(0);
    set_many(&replica, "new", 2);
    // A replica of the new primary that connects to the old one proves the newer epoch by the shared secret.
    let port: u16 = replica.client().info()["repl_port"].parse().expect("a port");
    let follower = secret(Launch::replica(&root.path().join("follower"), port)).start();
    await_csn(&follower, replica.client().watermarks().committed);
    drop(follower);
    let lost = secret(Launch::replica(&root.path().join("follower"), primary.launch.repl_port)).begin();
    let mut client = primary.client();
    wait_until("the old primary is fenced", SETTLED_WITHIN, || {
        error_text(&client.call(&cmd!("SET", "k", 1))).is_some_and(|error| error.starts_with("FENCED")).then_some(())
    });
    drop(lost);
    let refused = primary.try_restart().expect_err("a fenced node does not start as a primary");
    refused.expect(5);
}
