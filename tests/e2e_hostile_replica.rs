//! Hostile or broken replicas, and replicas of another cluster, do not affect a primary and its true replicas.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::client::cmd;
use support::pair::{Pair, assert_writes, await_equal, tampered};
use support::process::{Launch, SETTLED_WITHIN, wait_until};
use support::proxy::{Rule, Sent};
use support::wire::{self, FakeReplica, Frame, ack, hello};
use support::workload::seed;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Sends bytes to a replication port and waits until the primary closes the connection.
#[track_caller]
fn send_garbage(repl_port: u16, bytes: &[u8]) {
    let peer = FakeReplica::connect(repl_port);
    let _ = (&peer.stream).write_all(bytes);
    peer.refusal();
}

/// Goal: a peer on the replication port that is not a replica of this cluster gets the reason, if it can be sent, and
/// is disconnected. Writes, the true replica and the epoch are not affected.
#[test]
fn a_fake_replica_disturbs_nobody() {
    let mut rng = StdRng::seed_from_u64(seed());
    let pair = Pair::start();
    let mut primary = pair.primary.client();
    let port = pair.primary.launch.repl_port;
    let silent = TcpStream::connect(("127.0.0.1", port)).expect("the replication port accepts a connection");
    let half = FakeReplica::connect(port);
    let _ = (&half.stream).write_all(&hello().encode()[..20]);

    let mut broken = hello().encode();
    broken[4] ^= 1;
    let mut endless = hello().encode();
    endless[..4].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    let noise: Vec<u8> = (0..500).map(|_| rng.random()).collect();
    let oversized = Frame { kind: wire::HELLO, body: vec![b' '; 200_000] };
    let a_chunk = Frame { kind: wire::CHUNK, body: vec![0; 100_000] };
    let malformed = Frame::json(wire::HELLO, &json!({ "version": 1 }));
    for bytes in [
        b"*1\r\n$4\r\nPING\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        noise,
        broken,
        endless,
        oversized.encode(),
        a_chunk.encode(),
        malformed.encode(),
        ack(1, 1).encode(),
        Frame { kind: 99, body: Vec::new() }.encode(),
    ] {
        send_garbage(port, &bytes);
        assert_writes(&mut primary);
    }
    let own = primary.info()["cluster_id"].clone();
    let far = u64::MAX - 1;
    for (changes, words) in [
        (json!({ "version": 9 }), "version"),
        (json!({ "cluster": "0".repeat(32) }), "cluster"),
        (json!({ "cluster": own, "csn": far }), "another history"),
        (json!({ "csn": far }), "another history"),
        (json!({ "cluster": own, "csn": 1, "epoch": 0 }), "another history"),
        // A peer that names no cluster cannot report a newer epoch to this primary.
        (json!({ "epoch": 4_000_000_000_u32 }), "another history"),
        (json!({ "cluster": "0".repeat(32), "epoch": 4_000_000_000_u32 }), "cluster"),
    ] {
        let fake = FakeReplica::connect(port);
        fake.send(&hello().with(changes));
        let reason = fake.refusal();
        assert!(reason.contains(words), "expected {words:?}, found {reason}");
        assert_writes(&mut primary);
    }
    for answer in [ack(far, 0), ack(0, far), hello(), Frame { kind: wire::CHUNK, body: vec![1; 5] }] {
        let fake = FakeReplica::connect(port);
        fake.send(&hello());
        fake.await_kind(wire::RESUME);
        fake.send(&answer);
        fake.refusal();
        assert_writes(&mut primary);
    }
    assert_eq!(primary.info()["writes_refused"], "", "nobody fenced the primary");
    assert_closed(silent, "did not introduce itself");
    assert_closed(half.stream, "did not introduce itself");
    pair.await_equal();
    wait_until("only the true replica is left", SETTLED_WITHIN, || {
        (primary.info()["connected_slaves"] == "1").then_some(())
    });
    let log = pair.primary.log();
    assert!(log.contains("did not introduce itself within") && log.contains("but") && log.contains("was sent last"));
    assert!(log.lines().all(|line| line.len() < 2_000), "a peer's bytes are not copied into the log");
}

#[track_caller]
fn assert_closed(mut stream: TcpStream, what: &str) {
    stream.set_read_timeout(Some(SETTLED_WITHIN)).expect("a timeout");
    let ended = stream.read_to_end(&mut Vec::new());
    let is_silent = ended.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!is_silent, "a connection that {what} stays open");
}

/// Goal: a replica that reads and acknowledges nothing pins nothing: the data sent to it is bounded, the logs are
/// purged, and after a while it is disconnected.
#[test]
fn a_deaf_replica_pins_nothing() {
    const WRITTEN_MIB: u64 = 96;
    let root = temporary();
    let primary = Launch::primary(&root.path().join("primary")).set("row-cache-bytes", "1048576").start();
    let mut client = primary.client();
    let deaf = FakeReplica::connect(primary.launch.repl_port);
    deaf.send(&hello());
    deaf.await_kind(wire::RESUME);
    let started = Instant::now();
    // Incompressible, so that the bytes sent equal the bytes written.
    let mut rng = StdRng::seed_from_u64(seed());
    let value: Vec<u8> = (0..1 << 20).map(|_| rng.random()).collect();
    for number in 0..WRITTEN_MIB {
        client.ok(&cmd!("SET", format!("key:{}", number % 4), &value[..]));
    }
    let line = client.info()["slave0"].clone();
    eprintln!("{line}");
    let in_flight: u64 =
        line.split(',').find_map(|field| field.strip_prefix("lag_bytes=")?.parse().ok()).expect("a number");
    assert!((1 << 20..=40 << 20).contains(&in_flight), "{in_flight} bytes sent and not acknowledged");
    let before: u64 = client.info()["log_bytes"].parse().expect("a number");
    wait_until("the logs are purged", SETTLED_WITHIN, || {
        client.call(&cmd!("BGSAVE"));
        client.ok(&cmd!("RPUSH", "list", 1));
        let now: u64 = client.info()["log_bytes"].parse().expect("a number");
        (now + (WRITTEN_MIB << 19) < before).then_some(())
    });
    wait_until("the replica is given up", Duration::from_secs(60), || {
        (client.info()["connected_slaves"] == "0").then_some(())
    });
    eprintln!("given up after {:?}", started.elapsed());
}

/// Goal: hundreds of connections that never introduce themselves do not keep a true replica out.
#[test]
fn silent_connections_keep_no_replica_out() {
    let root = temporary();
    let primary = Launch::primary(&root.path().join("primary")).start();
    primary.client().ok(&cmd!("RPUSH", "list", 1));
    let silent: Vec<TcpStream> = (0..400)
        .map(|_| TcpStream::connect(("127.0.0.1", primary.launch.repl_port)).expect("the port accepts a connection"))
        .collect();
    let replica = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).start();
    await_equal(&primary, &replica);
    silent.into_iter().for_each(|stream| assert_closed(stream, "did not introduce itself"));
    assert_writes(&mut primary.client());
    await_equal(&primary, &replica);
}

/// Goal: with a shared secret, a peer on either side that does not know the secret receives and changes nothing.
#[test]
fn who_does_not_know_the_secret() {
    let pair = Pair::configured(|launch| launch.set("repl-secret", "right"));
    let mut client = pair.primary.client();
    let cluster = client.info()["cluster_id"].clone();
    for changes in [
        json!({}),
        json!({ "proof": "0".repeat(64) }),
        json!({ "cluster": cluster, "epoch": 4_000_000_000_u32 }),
        json!({ "cluster": cluster, "epoch": 4_000_000_000_u32, "proof": "0".repeat(64) }),
    ] {
        let fake = FakeReplica::connect(pair.primary.launch.repl_port);
        fake.send(&hello().with(changes));
        let reason = fake.refusal();
        assert!(reason.contains("repl-secret"), "found {reason}");
        assert_writes(&mut client);
    }
    assert_eq!(client.info()["writes_refused"], "");
    // Without the secret, a primary's proof can only be omitted, invented, or replayed from another connection.
    let recorded: Arc<Mutex<Option<Value>>> = Arc::default();
    for replay in [false, true] {
        let recorded = Arc::clone(&recorded);
        pair.proxy.set(tampered(move |frame| {
            if frame.kind != wire::RESUME {
                return vec![Sent::Frame(frame)];
            }
            let proof = recorded.lock().unwrap().get_or_insert(frame.fields()["proof"].clone()).clone();
            vec![Sent::Frame(frame.with(json!({ "proof": if replay { proof } else { json!("") } })))]
        }));
        pair.await_failure("does not know this replica's repl-secret");
        assert_writes(&mut client);
        pair.proxy.set(Rule::Honest);
        pair.await_equal();
    }
}
