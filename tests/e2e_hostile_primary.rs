//! Hostile or broken primaries, primaries of another cluster, and links that lose or change messages: a replica never
//! applies what its primary did not commit at that position, reports the fault, and continues once the primary is
//! correct.

mod support;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::archive::Archive;
use support::client::{Client, cmd, integer};
use support::pair::{Pair, assert_writes, await_equal, changed, tampered};
use support::process::{Launch, Node, SETTLED_WITHIN, StopOnDrop, wait_until};
use support::proxy::{Proxy, Rule, Sent, Tamper};
use support::tool::walferry;
use support::wire::{self, FakeReplica, Frame, chunk, hello};
use support::workload::seed;
use support::writers::{self, Replied, WRITERS, look};

/// A false message, and the replica's error about it.
type Lie = (Tamper, &'static str);

fn lies_about_the_introduction() -> Vec<Lie> {
    let start = |epoch: u32, fork: u64| json!({ "epoch": epoch, "incarnation": "0".repeat(16), "fork": fork, "hash": "0".repeat(16) });
    let history = |starts: Vec<Value>| changed(wire::RESUME, move |frame| frame.with(json!({ "history": starts })));
    let answer = |answer: Frame| changed(wire::RESUME, move |_| answer.clone());
    let reason = "go away\r\nmaster_link_status:up\r\n".repeat(100);
    let refusal = json!({ "is_final": true, "reason": reason, "newer_epoch": null });
    vec![
        (changed(wire::RESUME, |frame| frame.with(json!({ "cluster": "0".repeat(32) }))), "belongs to cluster"),
        (history(vec![]), "no epoch"),
        (history(vec![start(2, 0), start(1, 1)]), "do not follow each other"),
        (history(vec![start(7, 0)]), "belong to"),
        (history(vec![start(0, 0)]), "knows epoch"),
        (answer(Frame { kind: wire::BASE_END, body: Vec::new() }), "expected an answer"),
        (answer(Frame::json(wire::GO_TO_ARCHIVE, &json!({ "archived": 1 }))), "--archive"),
        (answer(Frame::json(wire::REFUSE, &refusal)), "go away"),
    ]
}

fn lies_in_the_stream() -> Vec<Lie> {
    let of_chunks = |change: fn(Frame) -> Vec<Sent>| -> Tamper {
        Box::new(move |frame| if frame.kind == wire::CHUNK { change(frame) } else { vec![Sent::Frame(frame)] })
    };
    let header = |at: usize, field: Vec<u8>| changed(wire::CHUNK, move |frame| frame.with_header(at, &field));
    let heartbeat = |changes: Value| changed(wire::HEARTBEAT, move |frame| frame.with(changes.clone()));
    let far = (u64::MAX - 9).to_le_bytes().to_vec();
    let flip = |mut frame: Frame| {
        *frame.body.last_mut().expect("a chunk has bytes") ^= 4;
        vec![Sent::Frame(frame)]
    };
    let cut = |mut frame: Frame| {
        frame.body.pop();
        vec![Sent::Frame(frame)]
    };
    let garbage = |frame: Frame| vec![Sent::Frame(frame), Sent::Bytes(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())];
    let mut is_first = true;
    let lost = move |frame: Frame| {
        is_first |= frame.kind == wire::RESUME;
        if is_first && frame.kind == wire::CHUNK {
            is_first = false;
            return Vec::new();
        }
        vec![Sent::Frame(frame)]
    };
    vec![
        (header(chunk::EPOCH, 9_u32.to_le_bytes().to_vec()), "epoch 9 instead of"),
        (header(chunk::HASH_BEFORE, vec![1, 2, 3, 4]), "belongs to another history"),
        (header(chunk::FIRST, 1_u64.to_le_bytes().to_vec()), "has a gap"),
        (header(chunk::LAST, far), "has a gap"),
        (header(chunk::FIRST_TIME, 1_u64.to_le_bytes().to_vec()), "is corrupt"),
        (of_chunks(flip), "is corrupt"),
        (of_chunks(cut), "truncated"),
        (of_chunks(garbage), "over the limit"),
        // The second time, the chunk's commits are not new.
        (of_chunks(|frame| vec![Sent::Frame(frame.clone()), Sent::Frame(frame)]), "has a gap"),
        (of_chunks(|_| vec![Sent::Close]), "closed the connection"),
        (Box::new(lost), "has a gap"),
        (heartbeat(json!({ "epoch": 9 })), "began to stream in epoch"),
    ]
}

/// Goal: each false message of a primary is detected, named, and has no effect: once the true primary is back, the
/// replica continues at its position.
#[test]
fn a_lying_primary_is_found_out() {
    let pair = Pair::start();
    let mut primary = pair.primary.client();
    let mut identity = None;
    for (tamper, words) in lies_about_the_introduction().into_iter().chain(lies_in_the_stream()) {
        pair.proxy.set(Rule::Tamper(tamper));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            scope.spawn(|| write_slowly(pair.primary.launch.port, &stop));
            pair.await_failure(words);
        });
        assert!(
            pair.replica.client().info()["link_last_error"].len() < 2_000,
            "what a peer says is not kept at length"
        );
        pair.proxy.set(Rule::Honest);
        assert_writes(&mut primary);
        pair.await_equal();
        let now = std::fs::read(pair.root.path().join("replica/walferry.json")).expect("an identity");
        assert_eq!(*identity.get_or_insert(now.clone()), now, "a lie leaves no trace in the identity");
    }
    assert_eq!(primary.info()["writes_refused"], "", "what the replica was told does not fence its primary");
}

/// Writes a few commits per second, so that there are chunks.
fn write_slowly(port: u16, stop: &AtomicBool) {
    let mut client = Client::connect(port).expect("the server accepts a connection");
    while !stop.load(Ordering::Relaxed) {
        client.transaction(&[
            cmd!("INCR", "slow"),
            cmd!("RPUSH", "slow:list", 1),
            cmd!("ZINCRBY", "slow:zset", 1, "m"),
        ]);
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Goal: false heartbeats about the primary's position are forgotten when their connection ends, and a silent primary
/// is detected before and after the introduction.
#[test]
fn lying_and_silent_primaries_leave_nothing_behind() {
    let pair = Pair::start();
    let mut replica = pair.replica.client();
    let far = u64::MAX / 2;
    pair.proxy.set(Rule::Tamper(changed(wire::HEARTBEAT, move |frame| {
        frame.with(json!({ "committed": far, "archived": far, "time": far }))
    })));
    wait_until("the lie is believed", SETTLED_WITHIN, || {
        (replica.info()["primary_csn"] == far.to_string()).then_some(())
    });
    let watermarks = replica.watermarks();
    assert!(watermarks.archived <= watermarks.committed, "nothing is archived that was not applied: {watermarks:?}");
    assert_writes(&mut pair.primary.client());
    pair.proxy.set(Rule::Honest);
    pair.await_equal();

    pair.proxy.set(Rule::Silent);
    pair.await_failure("did not answer within 5 s");
    pair.proxy.set(tampered(
        |frame| if frame.kind == wire::RESUME { vec![Sent::Frame(frame)] } else { challenge_only(frame) },
    ));
    pair.await_failure("was silent for 5 s");
    pair.proxy.set(Rule::Fake(Arc::new(|stream| {
        let _ = (&mut &*stream).write_all(&vec![b'x'; 100_000]);
    })));
    pair.await_failure("over the limit");
    let before = pair.proxy.accepted();
    std::thread::sleep(Duration::from_secs(3));
    let attempts = pair.proxy.accepted() - before;
    assert!((1..=20).contains(&attempts), "{attempts} attempts in 3 s: there is a pause between them");
    assert_writes(&mut pair.primary.client());
    pair.proxy.set(Rule::Honest);
    pair.await_equal();
}

fn challenge_only(frame: Frame) -> Vec<Sent> {
    if frame.kind == wire::CHALLENGE { vec![Sent::Frame(frame)] } else { Vec::new() }
}

/// Goal: chunks of another cluster, with the same csns and the same epoch, are refused.
#[test]
fn chunks_of_another_cluster_are_refused() {
    let pair = Pair::start();
    let stranger_root = tempfile::tempdir().expect("a temporary directory");
    let stranger = Launch::primary(&stranger_root.path().join("primary")).start();
    let mut foreign = stranger.client();
    let csn = pair.primary.client().watermarks().committed;
    (0..csn).for_each(|number| drop(foreign.ok(&cmd!("SET", "foreign", number))));
    let recorder = FakeReplica::connect(stranger.launch.repl_port);
    let cluster = foreign.info()["cluster_id"].clone();
    let has_history = json!({ "cluster": cluster, "csn": csn, "hash": foreign.info()["history_hash"] });
    recorder.send(&hello().with(has_history));
    recorder.await_kind(wire::RESUME);
    foreign.transaction(&[cmd!("SET", "foreign", "last"), cmd!("RPUSH", "foreign:list", 1)]);
    let alien = recorder.await_kind(wire::CHUNK);

    let replace = |with: Arc<Mutex<Option<Frame>>>| {
        tampered(move |frame| {
            let frame =
                if frame.kind == wire::CHUNK { with.lock().unwrap().get_or_insert(frame).clone() } else { frame };
            vec![Sent::Frame(frame)]
        })
    };
    pair.proxy.set(replace(Arc::new(Mutex::new(Some(alien)))));
    wait_until("the replica is connected again", SETTLED_WITHIN, || {
        (pair.replica.client().info()["master_link_status"] == "up").then_some(())
    });
    pair.primary.client().ok(&cmd!("SET", "own", 1));
    pair.await_failure("belongs to another history");
    assert_eq!(integer(&pair.replica.client().ok(&cmd!("EXISTS", "foreign", "foreign:list"))), 0);
    pair.proxy.set(Rule::Honest);
    pair.await_equal();
}

/// Number of rounds of the random test below; `WALFERRY_ROUNDS` overrides it.
const ROUNDS: u64 = 60;

/// Goal: under load, over a link that loses, repeats, reorders, truncates, flips and invents messages at random, the
/// replica shows only whole commits of its primary, never goes back, and ends with the same data.
#[test]
fn a_stream_tampered_with_at_random_is_never_applied() {
    let seed = seed();
    let rounds = std::env::var("WALFERRY_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("a number"));
    let pair = Pair::start();
    let done = Arc::new(AtomicU64::new(0));
    let replied: Vec<Replied> = (0..WRITERS).map(|_| Replied::default()).collect();
    let mut primary = pair.primary.client();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for (writer, replied) in replied.iter().enumerate() {
            let (stop, port) = (&stop, pair.primary.launch.port);
            scope.spawn(move || writers::write_until(port, writer, 0, replied, Duration::ZERO, stop));
        }
        pair.proxy.set(random(StdRng::seed_from_u64(seed), Arc::clone(&done)));
        let mut replica = pair.replica.client();
        let (mut seen, mut csn) = (look(&mut replica), 0);
        wait_until("enough was tampered with", Duration::from_secs(20 + rounds), || {
            let now = look(&mut replica);
            assert!(
                now.iter().zip(&seen).all(|(now, before)| now.holds(*before)),
                "went back from {seen:?} to {now:?}"
            );
            seen = now;
            let applied = replica.watermarks().committed;
            assert!(applied >= csn && applied <= primary.watermarks().committed, "the replica is at csn {applied}");
            csn = applied;
            (done.load(Ordering::Relaxed) >= rounds).then_some(())
        });
    });
    eprintln!("tampered {} times over {} connections", done.load(Ordering::Relaxed), pair.proxy.accepted());
    pair.proxy.set(Rule::Honest);
    pair.await_equal();
    assert_eq!(primary.info()["writes_refused"], "");
}

/// Tampers with one message in eight.
fn random(mut rng: StdRng, done: Arc<AtomicU64>) -> Rule {
    let mut passed: VecDeque<Frame> = VecDeque::new();
    let mut held: Option<Frame> = None;
    tampered(move |frame| {
        if frame.kind == wire::CHALLENGE || frame.kind == wire::RESUME {
            held = None;
            return vec![Sent::Frame(frame)];
        }
        if frame.kind == wire::CHUNK {
            passed.push_back(frame.clone());
            if passed.len() > 20 {
                passed.pop_front();
            }
        }
        if let Some(held) = held.take() {
            return vec![Sent::Frame(frame), Sent::Frame(held)];
        }
        if !rng.random_bool(0.125) || (frame.kind != wire::CHUNK && rng.random_bool(0.8)) {
            return vec![Sent::Frame(frame)];
        }
        done.fetch_add(1, Ordering::Relaxed);
        tamper_once(frame, &passed, &mut held, &mut rng)
    })
}

fn tamper_once(frame: Frame, passed: &VecDeque<Frame>, held: &mut Option<Frame>, rng: &mut StdRng) -> Vec<Sent> {
    let old = || passed.front().cloned().unwrap_or_else(|| frame.clone());
    let is_chunk = frame.kind == wire::CHUNK;
    match rng.random_range(0..11) {
        0 => Vec::new(),
        1 => vec![Sent::Frame(frame.clone()), Sent::Frame(frame)],
        2 => vec![Sent::Frame(old()), Sent::Frame(frame)],
        3 => vec![Sent::Frame(frame.clone()), Sent::Frame(old())],
        4 => {
            *held = Some(frame);
            Vec::new()
        }
        5 => {
            let mut bytes = frame.encode();
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
            vec![Sent::Bytes(bytes)]
        }
        6 => {
            let mut body = frame.body.clone();
            let at = rng.random_range(0..body.len());
            body[at] ^= 1 << rng.random_range(0..8);
            vec![Sent::Frame(Frame { body, ..frame })]
        }
        7 => {
            let bytes = frame.encode();
            vec![Sent::Bytes(bytes[..rng.random_range(0..bytes.len())].to_vec()), Sent::Close]
        }
        8 => vec![Sent::Frame(Frame { body: frame.body[..rng.random_range(0..frame.body.len())].to_vec(), ..frame })],
        9 if is_chunk => {
            let fields =
                [chunk::EPOCH, chunk::FIRST, chunk::LAST, chunk::FIRST_TIME, chunk::LAST_TIME, chunk::HASH_BEFORE];
            let at = *fields.choose(rng).expect("there are some");
            let byte = frame.body[at].wrapping_add(rng.random_range(1..=255));
            vec![Sent::Frame(frame.with_header(at, &[byte]))]
        }
        _ => {
            let noise: Vec<u8> = (0..rng.random_range(1..100)).map(|_| rng.next_u32() as u8).collect();
            vec![Sent::Bytes(noise), Sent::Frame(frame)]
        }
    }
}

/// Goal: a base with false parts is refused; the replica reports why, retries after a pause, and serves the base that
/// the true primary sends.
#[test]
fn a_base_that_lies_is_not_taken() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let primary = restored_primary(root.path());
    let proxy = Proxy::start(primary.launch.repl_port);
    let attempt = Arc::new(AtomicU64::new(0));
    let attempts = Arc::clone(&attempt);
    let mut files = 0;
    proxy.set(tampered(move |frame| {
        if frame.kind == wire::CHALLENGE {
            attempts.fetch_add(1, Ordering::Relaxed);
            files = 0;
        }
        files += u32::from(frame.kind == wire::BASE_FILE);
        lie_about_base(frame, attempts.load(Ordering::Relaxed), files)
    }));
    let replica = Launch::replica(&root.path().join("replica"), proxy.port).start();
    await_equal(&primary, &replica);
    assert_eq!(attempt.load(Ordering::Relaxed), LIES + 1 + 2, "each lie fails; then a base, an admission and a link");
    let log = replica.log();
    eprintln!("{}", log.lines().filter(|line| line.contains("it is retried")).collect::<Vec<_>>().join("\n"));
    let failures = log.lines().filter(|line| line.contains("bootstrapping failed; it is retried")).count();
    assert_eq!(failures as u64, LIES, "each failure is told once\n{log}");
    assert!(!root.path().join("outside").exists() && !root.path().join("replica/bootstrap").exists());
    assert_writes(&mut primary.client());
    await_equal(&primary, &replica);
}

/// Number of false bases that [`lie_about_base`] makes.
const LIES: u64 = 8;

fn lie_about_base(frame: Frame, attempt: u64, files: u32) -> Vec<Sent> {
    let is = |kind: u8| frame.kind == kind && files <= 1;
    let frame = match attempt {
        1 if is(wire::BASE_PART) => {
            let mut body = frame.body;
            let middle = body.len() / 2;
            body[middle] ^= 1;
            Frame { body, ..frame }
        }
        2 if is(wire::BASE_PART) => Frame { body: vec![0; frame.body.len() + 1], ..frame },
        3 if is(wire::BASE_PART) => return vec![Sent::Close],
        4 if is(wire::BASE_FILE) => frame.with(json!({ "name": "../../outside" })),
        5 if is(wire::BASE_FILE) => frame.with(json!({ "name": "walferry.json" })),
        6 if is(wire::BASE_FILE) => Frame { kind: wire::BASE_END, body: Vec::new() },
        7 if frame.kind == wire::BASE_BEGIN => frame.with(json!({ "history": [] })),
        8 if frame.kind == wire::BASE_BEGIN => frame.with(json!({ "cluster": "0".repeat(32) })),
        _ => frame,
    };
    vec![Sent::Frame(frame)]
}

/// Starts a primary whose logs do not reach back to its first commit and that has no archive: a replica needs a base.
fn restored_primary(root: &Path) -> Node {
    let archive = Archive::directory(&root.join("archive"));
    let mut first = Launch::primary(&root.join("first")).archive(&archive).start();
    let mut client = first.client();
    for number in 0..200 {
        client.ok(&cmd!("SET", format!("key:{number}"), number));
        client.ok(&cmd!("RPUSH", "list", number));
        client.ok(&cmd!("ZADD", "zset", number, number));
    }
    client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    assert!(first.terminate().success());
    let dir = root.join("restored");
    let arguments = ["restore", "--archive", &archive.url, "--dir", dir.to_str().expect("UTF-8")];
    walferry(&arguments, &Vec::new()).expect(0);
    let primary = Launch::primary(&dir).start();
    primary.client().ok(&cmd!("SET", "restored", 1));
    primary
}
