//! Clocks that are set: commit times advance evenly, no reported time or lag is wrong, and every commit can be
//! restored by its time before and after the step.

mod support;

use redis::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use support::archive::{Archive, rfc3339};
use support::client::{Client, cmd, error_text, text};
use support::clock::{Clock, DAY, DECADE, now_micros};
use support::pair::await_equal;
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::tool::walferry;

/// The exit code of a wrong request.
const USAGE: i32 = 2;
/// The setting with which the operator confirms that the clock is right.
const ACCEPT: &str = "accept-clock-step";

fn primary(root: &Path, archive: &Archive, clock: &Clock) -> Launch {
    let launch = Launch::primary(&root.join("primary")).archive(archive).set("archive-interval", "50");
    // Nothing in memory: the op-log is purged up to an image that each stop writes, the WAL is not.
    launch.set("routing", "type").clock(clock)
}

/// Sets a mark at the current state; returns its csn and its commit time as walferry prints it.
fn mark(client: &mut Client, name: &str) -> (u64, String) {
    client.ok(&cmd!("WALFERRY", "MARK", name));
    let Value::Array(marks) = client.ok(&cmd!("WALFERRY", "MARKS")) else { panic!("MARKS is an array") };
    let found = marks.iter().find_map(|mark| match mark {
        Value::Array(fields) if text(&fields[1]) == name => Some((integer(&fields[3]), text(&fields[7]))),
        _ => None,
    });
    found.expect("the mark that was just made")
}

fn integer(value: &Value) -> u64 {
    support::client::integer(value) as u64
}

/// Asserts that a time printed by walferry is `ahead` of the machine's time, with a tolerance for slow tests.
#[track_caller]
fn assert_about(time: &str, ahead: Duration) {
    let micros = |seconds: u64| now_micros() + ahead.as_micros() as u64 + seconds * 1_000_000;
    let (earliest, latest) = (rfc3339(micros(0) - 90_000_000), rfc3339(micros(5)));
    assert!(*time >= *earliest && *time <= *latest, "{time} is not between {earliest} and {latest}");
}

/// Returns the keys that exist after a restore to a target.
#[track_caller]
fn restored(archive: &Archive, target: &str) -> Vec<String> {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("restored");
    archive.restore_into(&dir, &["--to", target]).expect(0);
    // The restored history may end in the future.
    let node = Launch::primary(&dir).set("appendfsync", "no").set(ACCEPT, "yes").start();
    let mut client = node.client();
    let reply = client.ok(&cmd!("KEYS", "*"));
    let mut keys: Vec<String> = support::client::elements(&reply).iter().map(text).collect();
    keys.sort();
    keys
}

fn set(node: &Node, key: &str) {
    node.client().ok(&cmd!("SET", key, 1));
}

fn flush(node: &Node) {
    node.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
}

fn await_log(node: &Node, words: &str) {
    wait_until(&format!("the log says {words:?}"), SETTLED_WITHIN, || node.log().contains(words).then_some(()));
}

/// Goal: a clock that jumps forward for one write, by a day or by ten years, does not move commit times, and later
/// commits are restored by the present time.
#[test]
fn a_clock_that_jumps_for_one_write_is_not_followed() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (archive, clock) = (Archive::directory(&root.path().join("archive")), Clock::new());
    let node = primary(root.path(), &archive, &clock).start();
    set(&node, "a");
    for (name, jump) in [("b", DAY), ("c", DECADE)] {
        clock.set_ahead(jump);
        let (_, time) = mark(&mut node.client(), &format!("ahead-{name}"));
        clock.set_ahead(Duration::ZERO);
        assert_about(&time, Duration::ZERO);
        set(&node, name);
        assert_about(&mark(&mut node.client(), name).1, Duration::ZERO);
    }
    flush(&node);
    assert_eq!(restored(&archive, &format!("time:{}", rfc3339(now_micros()))), ["a", "b", "c"]);
    // A clock that jumps backwards.
    clock.set_behind(DAY);
    let (_, time) = mark(&mut node.client(), "behind");
    assert_about(&time, Duration::ZERO);
}

/// Goal: a clock that stays ahead is reported once, with both times and what to do; commits at risk of loss have their
/// true age; commit times follow the clock when the operator confirms that it is right.
#[test]
fn a_clock_that_was_set_is_told_and_followed_on_request() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("archive");
    let (archive, clock) = (Archive::directory(&dir), Clock::new());
    let node = primary(root.path(), &archive, &clock).start();
    set(&node, "a");
    flush(&node);
    clock.set_ahead(DECADE);
    let held = "was set forward, and commit times do not follow it";
    await_log(&node, held);
    let log = node.log();
    let line = log.lines().find(|line| line.contains(held)).expect("it was there");
    let year = |time: u64| rfc3339(time)[..4].to_owned();
    let (now, then) = (now_micros(), now_micros() + DECADE.as_micros() as u64);
    assert!(line.contains(&year(now)) && line.contains(&year(then)) && line.contains(ACCEPT), "{line}");
    let ahead: i64 = node.client().info()["clock_ahead_ms"].parse().expect("a number");
    assert!(ahead > 9 * 365 * 86_400_000, "{ahead} ms");

    // The archive is away: a commit made with such a clock is at risk like any other.
    let away = root.path().join("away");
    std::fs::rename(&dir, &away).expect("a directory can be renamed");
    std::fs::write(&dir, "in its place").expect("a file");
    set(&node, "b");
    let made = Instant::now();
    for field in ["rpo_ms", "archive_lag_ms"] {
        wait_until("it is at risk", SETTLED_WITHIN, || {
            let truth = made.elapsed().as_millis();
            let told: u128 = node.client().info()[field].parse().expect("a number");
            assert!(told >= truth && told < truth + 20_000, "{field} is {told} after {truth} ms");
            (told > 300).then_some(())
        });
    }
    std::fs::remove_file(&dir).expect("a file");
    std::fs::rename(&away, &dir).expect("a directory can be renamed");

    clock.set_ahead(DAY);
    node.client().ok(&cmd!("CONFIG", "SET", ACCEPT, "yes"));
    await_log(&node, "was set forward: commit times follow it");
    set(&node, "c");
    assert_about(&mark(&mut node.client(), "c").1, DAY);
    assert_eq!(node.log().matches(held).count(), 1);
    flush(&node);
    archive.tool("verify", &[]).expect(0).says("everything is whole");
}

/// Runs and stops a primary whose clock was a day ahead for the second half of its writes, with a mark in each half.
fn lived_ahead(root: &Path, archive: &Archive, clock: &Clock) -> (Node, [(u64, String); 2]) {
    let mut node = primary(root, archive, clock).start();
    set(&node, "a");
    let before = mark(&mut node.client(), "before");
    assert_about(&before.1, Duration::ZERO);
    node.terminate();
    // At a start, a clock later than the last commit is normal.
    clock.set_ahead(DAY);
    node.restart();
    set(&node, "b");
    let ahead = mark(&mut node.client(), "ahead");
    assert_about(&ahead.1, DAY);
    (node, [before, ahead])
}

/// Goal: a start whose last commit lies in the future is refused with both times and the remedy. With consent a new
/// epoch begins at the present time, replicas follow, and every commit is found by csn, mark and time before and after
/// the step.
#[test]
fn commits_of_the_future_need_consent_and_are_on_the_line() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (archive, clock) = (Archive::directory(&root.path().join("archive")), Clock::new());
    let (mut node, [before, ahead]) = lived_ahead(root.path(), &archive, &clock);
    let replica = Launch::replica(&root.path().join("replica"), node.launch.repl_port).archive(&archive).start();
    await_equal(&node, &replica);
    node.terminate();
    clock.set_ahead(Duration::ZERO);
    for _ in 0..2 {
        let refused = node.try_restart().expect_err("its last commit lies in the future").expect(USAGE);
        let today = rfc3339(now_micros())[..13].to_owned();
        refused.says(&ahead.1).says(&today).says("--set accept-clock-step=yes").says("Nothing was changed");
    }
    drop(node);
    let mut node = primary(root.path(), &archive, &clock).set(ACCEPT, "yes").start();
    assert_eq!(node.client().watermarks().epoch, 2);
    set(&node, "c");
    let after = mark(&mut node.client(), "after");
    assert_about(&after.1, Duration::ZERO);
    flush(&node);

    let time = |time: &str| restored(&archive, &format!("time:{time}"));
    assert_eq!(time(&before.1), ["a"]);
    assert_eq!(time(&after.1), ["a", "b", "c"]);
    assert_eq!(time(&rfc3339(now_micros())), ["a", "b", "c"]);
    // The last commit in csn order whose time is not later than the target.
    assert_eq!(time(&ahead.1), ["a", "b", "c"]);
    assert_eq!(restored(&archive, "mark:ahead"), ["a", "b"]);
    assert_eq!(restored(&archive, &format!("csn:{}", ahead.0)), ["a", "b"]);
    archive.tool("verify", &[]).expect(0).says("everything is whole");

    // One replica already has commits of the future, and a new one receives all of them at once.
    let replica = {
        drop(replica);
        Launch::replica(&root.path().join("replica"), node.launch.repl_port).archive(&archive).start()
    };
    await_equal(&node, &replica);
    let other = Launch::replica(&root.path().join("other"), node.launch.repl_port).start();
    await_equal(&node, &other);
    let csn = support::client::integer(&replica.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"))) as u64;
    set(&node, "d");
    flush(&node);
    assert_eq!(restored(&archive, &format!("csn:{csn}")), ["a", "b", "c"]);
    assert_eq!(restored(&archive, "latest"), ["a", "b", "c", "d"]);
    // A consent counts for one start only.
    node.terminate();
    drop(node);
    let node = primary(root.path(), &archive, &clock).start();
    assert_eq!(node.client().watermarks().epoch, 2);
}

/// Goal: a replica with commits of the future is not promoted without consent and keeps following; with consent it is.
#[test]
fn a_replica_with_commits_of_the_future_is_promoted_with_consent() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (archive, clock) = (Archive::directory(&root.path().join("archive")), Clock::new());
    let (mut node, [before, ahead]) = lived_ahead(root.path(), &archive, &clock);
    let replica = Launch::replica(&root.path().join("replica"), node.launch.repl_port).archive(&archive).start();
    await_equal(&node, &replica);
    let promote = || walferry(&["promote", "--port", &replica.launch.port.to_string()], &Vec::new());
    let refused = promote();
    assert_ne!(refused.code, Some(0));
    refused.says(&ahead.1).says("CONFIG SET accept-clock-step yes");
    set(&node, "c");
    await_equal(&node, &replica);
    flush(&node);
    node.kill();
    let mut client = replica.client();
    client.ok(&cmd!("CONFIG", "SET", ACCEPT, "yes"));
    promote().expect(0);
    set(&replica, "d");
    assert_about(&mark(&mut client, "after").1, Duration::ZERO);
    flush(&replica);
    assert_eq!(error_text(&client.call(&cmd!("GET", "c"))), None);
    assert_eq!(restored(&archive, &format!("time:{}", before.1)), ["a"]);
    assert_eq!(restored(&archive, &format!("time:{}", rfc3339(now_micros()))), ["a", "b", "c", "d"]);
}

/// Goal: an archive added after the clock was set back gets the whole history, and finds times before and after the
/// step.
#[test]
fn an_archive_that_comes_later_finds_times_on_both_sides() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (archive, clock) = (Archive::directory(&root.path().join("archive")), Clock::new());
    let launch = |settings: &[(&str, &str)]| {
        let launch = Launch::primary(&root.path().join("primary")).set("archive-interval", "50").clock(&clock);
        settings.iter().fold(launch, |launch, (key, value)| launch.set(key, value))
    };
    let mut node = launch(&[]).start();
    set(&node, "a");
    let (_, before) = mark(&mut node.client(), "before");
    node.kill();
    clock.set_ahead(DAY);
    node.restart();
    set(&node, "b");
    node.kill();
    clock.set_ahead(Duration::ZERO);
    drop(node);
    let mut node = launch(&[(ACCEPT, "yes")]).start();
    (0..50).for_each(|nth| set(&node, &format!("c{nth}")));
    node.kill();
    drop(node);
    let node = launch(&[("archive", &archive.url)]).start();
    let (_, after) = mark(&mut node.client(), "after");
    flush(&node);
    assert_eq!(restored(&archive, &format!("time:{before}")), ["a"]);
    assert_eq!(restored(&archive, &format!("time:{after}")).len(), 52);
    archive.tool("verify", &[]).expect(0).says("everything is whole");
}
