//! Limits and values that hold with a peer of any speed: the size of the logs while a base is uploaded or sent, and
//! every lag that is reported.

mod support;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use redis::Value;
use std::ops::Range;
use std::time::{Duration, Instant};
use support::archive::Archive;
use support::client::{Client, Command, cmd, error_text};
use support::faulty_s3::{Fault, FaultyS3, Kind};
use support::metrics::{metrics, sample};
use support::pair::await_equal;
use support::process::{Launch, Node, SETTLED_WITHIN, free_port, wait_until};

/// Bytes of a value, which is incompressible.
const VALUE_BYTES: usize = 16 << 10;
/// Number of values written before the test waits for an image: 4 MiB.
const VALUES_PER_ROUND: u64 = 256;
/// Number of rounds while a base is under way.
const ROUNDS: u64 = 6;
/// Largest size of the logs on disk: what was written since the image before the last one, plus reserves. Less than
/// what is written while a base is under way.
const LOG_BYTES_MAX: u64 = 20 << 20;

/// Configures a primary to write an image for every 2 MiB of log.
fn small_logs(launch: Launch) -> Launch {
    let launch = launch
        .set("routing", "type")
        .set("image-log-bytes", "2mb")
        .set("oplog-segment-bytes", "1mb")
        .set("ring-bytes", "1mb");
    launch.set("archive-interval", "50")
}

/// Writes incompressible values and one list element.
fn write_round(client: &mut Client, random: &mut StdRng, round: u64) {
    let value = |random: &mut StdRng| -> Vec<u8> { (0..VALUE_BYTES).map(|_| random.random()).collect() };
    for part in 0..VALUES_PER_ROUND / 64 {
        let first = (round * VALUES_PER_ROUND + part * 64) % 2048;
        let mut commands: Vec<Command> =
            (first..first + 64).map(|key| cmd!("SET", format!("k{key}"), value(random))).collect();
        commands.push(cmd!("RPUSH", "l", round));
        for reply in client.pipeline(&commands) {
            assert_eq!(error_text(&reply), None);
        }
    }
}

/// Writes rounds, waits for an image after each, and asserts that the logs stay small.
fn write_with_images(node: &Node, random: &mut StdRng, rounds: Range<u64>) {
    let mut client = node.client();
    for round in rounds {
        let before = client.info()["image_csn"].clone();
        write_round(&mut client, random, round);
        let info = wait_until("a memory image is written", SETTLED_WITHIN, || {
            Some(client.info()).filter(|info| info["image_csn"] != before)
        });
        let log_bytes: u64 = info["log_bytes"].parse().expect("a number");
        assert!(log_bytes < LOG_BYTES_MAX, "{log_bytes} bytes of log in round {round}");
    }
}

/// Goal: while a base is uploaded at 100 kB per second, images are written and logs are purged.
#[test]
fn images_are_written_and_logs_purged_while_a_base_is_uploaded_slowly() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive);
    let node = small_logs(launch).set("archive-bandwidth", "100kb").start();
    let mut random = StdRng::seed_from_u64(1);
    let mut client = node.client();
    (0..3).for_each(|round| write_round(&mut client, &mut random, round));
    let mut asking = node.client();
    asking.send(&[cmd!("WALFERRY", "SNAPSHOT", "STRICT")]).expect("a command is sent");
    wait_until("the base is cut", SETTLED_WITHIN, || node.log().contains("base cut").then_some(()));
    write_with_images(&node, &mut random, 3..3 + ROUNDS);
    assert_eq!(client.info()["last_base_csn"], "0", "the base is on its way");
}

/// Goal: while the second archive receives its base slowly, images are written and logs are purged.
#[test]
fn images_are_written_and_logs_purged_while_archive_2_is_slow() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let (proxy, far) = (FaultyS3::start(), Archive::s3());
    let environment = proxy.environment();
    let setting = |name: &str| environment.iter().find(|(other, _)| other == name).expect("set").1.clone();
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive);
    let launch = small_logs(launch).set("archive-2", &far.url).set("s3-allow-http", "yes");
    let launch = launch.set("archive-2-s3-endpoint", &setting("AWS_ENDPOINT"));
    let launch = launch.set("archive-2-s3-region", &setting("AWS_REGION"));
    let launch = launch.set("archive-2-s3-access-key-id", &setting("AWS_ACCESS_KEY_ID"));
    let node = launch.set("archive-2-s3-secret-access-key", &setting("AWS_SECRET_ACCESS_KEY")).start();
    let mut random = StdRng::seed_from_u64(2);
    let mut client = node.client();
    write_round(&mut client, &mut random, 0);
    wait_until("archive-2 takes chunks", SETTLED_WITHIN, || {
        (client.info()["archive_2_state"] == "streaming").then_some(())
    });
    let before = proxy.count(Kind::Put).faults;
    proxy.always(&Kind::WRITES, Fault::Slow(SETTLED_WITHIN));
    client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    wait_until("archive-2 gets its base", SETTLED_WITHIN, || (proxy.count(Kind::Put).faults > before).then_some(()));
    write_with_images(&node, &mut random, 1..1 + ROUNDS);
    let info = client.info();
    assert_eq!((&*info["archive_2_last_base_csn"], &*info["archive_2_last_base_error"]), ("0", ""), "it is on its way");
    proxy.heal();
}

/// Goal: while a bootstrapping replica does not read its base at all, images are written and logs are purged.
#[test]
fn images_are_written_and_logs_purged_while_a_replica_takes_a_base_slowly() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let node = small_logs(Launch::primary(&root.path().join("primary"))).start();
    let mut random = StdRng::seed_from_u64(3);
    // More than the sockets buffer, and enough that the logs do not reach back to the first commit.
    write_with_images(&node, &mut random, 0..ROUNDS);
    let replica = Launch::replica(&root.path().join("replica"), node.launch.repl_port).begin();
    wait_until("the replica gets a base", SETTLED_WITHIN, || node.log().contains("base cut").then_some(()));
    replica.signal("STOP");
    let mut client = node.client();
    let mut assert_on_its_way = || assert!(client.info()["slave0"].contains("state=send_bulk"));
    assert_on_its_way();
    write_with_images(&node, &mut random, ROUNDS..2 * ROUNDS);
    assert_on_its_way();
    replica.signal("CONT");
}

/// Fills the ring many times over.
fn write_beyond_the_ring(client: &mut Client) {
    for batch in 0..12 {
        let set = |nth: u64| cmd!("SET", format!("k{}", batch * 5000 + nth), [b'v'; 100].as_slice());
        let replies = client.pipeline(&(0..5000).map(set).collect::<Vec<_>>());
        assert!(replies.iter().all(|reply| *reply == Value::Okay));
    }
}

/// Returns a field of the replica's line in INFO.
fn of_replica(client: &mut Client, field: &str) -> u64 {
    let line = client.info()["slave0"].clone();
    let value = line.split(',').find_map(|part| part.strip_prefix(field)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{field} is not in {line}"))
}

/// Goal: the lag of a stopped replica beyond the ring is never below the truth, nor is the age of what is not durable.
#[test]
fn a_lag_beyond_the_ring_is_not_below_the_truth() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let port = free_port();
    let launch = Launch::primary(&root.path().join("primary")).set("ring-bytes", "1mb").set("appendfsync", "no");
    // The op-log syncs each full segment, RocksDB's WAL nothing.
    let launch = launch.set("routing", "type");
    let node = launch.set("metrics-port", &port.to_string()).start();
    let replica = Launch::replica(&root.path().join("replica"), node.launch.repl_port).start();
    let mut client = node.client();
    client.ok(&cmd!("SET", "first", 1));
    await_equal(&node, &replica);
    let durable = client.watermarks().durable;
    wait_until("nothing lags", SETTLED_WITHIN, || {
        (sample(&metrics(port), "walferry_replica_lag_seconds") == 0.0 && of_replica(&mut client, "lag_ms") == 0)
            .then_some(())
    });
    replica.signal("STOP");
    client.ok(&cmd!("SET", "first", 2));
    let made = Instant::now();
    write_beyond_the_ring(&mut client);
    for _ in 0..3 {
        let truth = made.elapsed();
        let found = metrics(port);
        assert_eq!(sample(&found, "walferry_replica_lag_commits"), 60_001.0);
        let told = sample(&found, "walferry_replica_lag_seconds");
        assert!(told >= truth.as_secs_f64(), "{told} s of lag after {truth:?}");
        assert!(told < truth.as_secs_f64() + 5.0, "{told} s of lag after {truth:?}");
        let truth = made.elapsed();
        assert!(u128::from(of_replica(&mut client, "lag_ms")) >= truth.as_millis());
        assert_eq!(found["walferry_durable_csn"], durable as f64, "nothing was synced meanwhile");
        assert!(found["walferry_durable_lag_seconds"] >= truth.as_secs_f64() - 1.0);
        std::thread::sleep(Duration::from_millis(300));
    }
    replica.signal("CONT");
    await_equal(&node, &replica);
    wait_until("nothing lags any more", SETTLED_WITHIN, || {
        (sample(&metrics(port), "walferry_replica_lag_seconds") == 0.0).then_some(())
    });
}

/// Goal: a replica whose primary is stopped cannot know whether commits are missing: its lag grows until the next
/// heartbeat.
#[test]
fn a_replica_that_hears_nothing_lags() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let node = Launch::primary(&root.path().join("primary")).start();
    let replica = Launch::replica(&root.path().join("replica"), node.launch.repl_port).start();
    node.client().ok(&cmd!("SET", "first", 1));
    await_equal(&node, &replica);
    node.signal("STOP");
    let stopped = Instant::now();
    let mut client = replica.client();
    let lag_ms = |client: &mut Client| client.info()["lag_ms"].parse::<u128>().expect("a number");
    wait_until("the silence shows", SETTLED_WITHIN, || (lag_ms(&mut client) > 0).then_some(()));
    let truth = stopped.elapsed();
    assert!(lag_ms(&mut client) >= truth.as_millis());
    wait_until("the link is given up", SETTLED_WITHIN, || {
        (client.info()["master_link_status"] == "down").then_some(())
    });
    let truth = stopped.elapsed();
    assert!(lag_ms(&mut client) >= truth.as_millis());
    node.signal("CONT");
    await_equal(&node, &replica);
}

/// Goal: while the archive is away, the reported age is that of the oldest commit that is not archived.
#[test]
fn what_is_not_archived_has_its_age() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("archive");
    let archive = Archive::directory(&dir);
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive).set("archive-interval", "50");
    let node = launch.set("ring-bytes", "1mb").start();
    node.client().ok(&cmd!("SET", "first", 1));
    node.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    assert_eq!(node.client().info()["rpo_ms"], "0");
    // Chunks cannot be stored, because a file takes the place of their directory.
    let chunks = dir.join("chunks");
    let away = dir.join("away");
    std::fs::rename(&chunks, &away).expect("a directory can be renamed");
    std::fs::write(&chunks, "in its place").expect("a file");
    node.client().ok(&cmd!("SET", "second", 1));
    let made = Instant::now();
    write_beyond_the_ring(&mut node.client());
    for field in ["rpo_ms", "archive_lag_ms"] {
        let truth = made.elapsed();
        let told: u128 = node.client().info()[field].parse().expect("a number");
        assert!(told >= truth.as_millis() && told < truth.as_millis() + 20_000, "{field} {told} after {truth:?}");
    }
    std::fs::remove_file(&chunks).expect("a file");
    std::fs::rename(&away, &chunks).expect("a directory can be renamed");
    wait_until("all is archived", SETTLED_WITHIN, || {
        let info = node.client().info();
        (info["rpo_ms"] == "0" && info["archived_csn"] == info["committed_csn"]).then_some(())
    });
}
