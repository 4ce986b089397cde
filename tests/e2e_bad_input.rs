//! Bad input is refused with the right exit code and a message that says what to do, and does no harm.

mod support;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::archive::{Archive, files_below};
use support::client::{Client, Command, cmd, error_text, integer, text};
use support::dump::{assert_same, dump};
use support::oracle::Oracle;
use support::process::{Launch, Node, SETTLED_WITHIN, free_port, wait_until};
use support::tool::walferry;
use support::weed;
use support::workload::seed;

const OK: i32 = 0;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const INTEGRITY: i32 = 4;
const STORE: i32 = 6;
const NOT_EMPTY: i32 = 7;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Runs and stops a primary with an archive that holds some commits; returns the last csn.
fn archived_cluster(root: &Path, archive: &Archive) -> u64 {
    let mut primary = Launch::primary(&root.join("primary")).archive(archive).start();
    let mut client = primary.client();
    for round in 0..3 {
        for number in 0..40 {
            client.ok(&cmd!("SET", format!("string:{number}"), format!("value {round} {number}")));
            client.ok(&cmd!("RPUSH", "list", number));
            client.ok(&cmd!("ZADD", "zset", round, number));
        }
        client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    }
    let csn = client.watermarks().committed;
    assert!(primary.terminate().success());
    csn
}

/// Goal: the command line refuses unknown flags and settings with exit code 2 and names them.
#[test]
fn unknown_flags_and_settings_are_usage_errors() {
    let root = temporary();
    let dir = root.path().join("data");
    let dir_text = dir.to_str().unwrap();
    let none = Vec::new();
    for subcommand in
        ["primary", "replica", "restore", "snapshots", "verify", "prune", "mark", "status", "promote", "dump", "demo"]
    {
        walferry(&[subcommand, "--no-such-flag"], &none).expect(USAGE).says("no-such-flag");
        walferry(&[subcommand, "--help"], &none).expect(OK).says("Usage");
    }
    walferry(&["no-such-subcommand"], &none).expect(USAGE).says("no-such-subcommand");
    walferry(&["primary"], &none).expect(USAGE).says("--dir");
    walferry(&["restore", "--dir", dir_text], &none).expect(USAGE).says("--archive");
    for setting in ["no-such-key=1", "appendfsync=sometimes", "maxclients=many", "appendfsync", "io-backend=dma"] {
        let key = setting.split('=').next().unwrap();
        walferry(&["primary", "--dir", dir_text, "--set", setting], &none).expect(USAGE).says(key);
    }
    let config = root.path().join("config.toml");
    std::fs::write(&config, "no-such-key = 1\n").unwrap();
    walferry(&["primary", "--dir", dir_text, "--config", config.to_str().unwrap()], &none)
        .expect(USAGE)
        .says("no-such-key");
    walferry(&["primary", "--dir", dir_text, "--archive", "ftp://host/x"], &none).expect(USAGE).says("ftp");
    for target in ["csn:", "csn:x", "csn:-1", "time:yesterday", "noon"] {
        let url = format!("file://{}", root.path().join("archive").display());
        walferry(&["restore", "--archive", &url, "--dir", dir_text, "--to", target], &none).expect(USAGE);
    }
    assert!(!dir.join("CURRENT").exists() && files_below(&dir, "").is_empty(), "a usage error writes no data");
}

/// Goal: `--help` names every flag of the contract.
#[test]
fn help_is_complete() {
    for (subcommand, flags) in [
        ("primary", &["--dir", "--bind", "--port", "--repl-port", "--archive", "--config", "--set"][..]),
        ("replica", &["--dir", "--primary", "--bind", "--port", "--archive", "--config", "--set"]),
        ("restore", &["--archive", "--dir", "--to", "--epoch", "--dry-run", "--json"]),
        ("snapshots", &["--archive", "--json"]),
        ("verify", &["--archive", "--json"]),
        ("status", &["--port", "--archive", "--json"]),
        ("promote", &["--port"]),
    ] {
        let mut help = walferry(&[subcommand, "--help"], &Vec::new()).expect(OK);
        for flag in flags {
            help = help.says(flag);
        }
    }
}

/// Goal: the first process keeps its directory; a second process on the same directory is refused and does no harm.
#[test]
fn a_second_process_on_a_directory_is_refused() {
    let root = temporary();
    let dir = root.path().join("data");
    let primary = Launch::primary(&dir).start();
    let mut client = primary.client();
    client.ok(&cmd!("SET", "a", 1));
    Launch::primary(&dir).refused().expect_any(&[1, USAGE, NOT_EMPTY]);
    client.ok(&cmd!("SET", "b", 2));
    assert_eq!(text(&client.ok(&cmd!("GET", "a"))), "1");
}

/// Goal: a directory of one cluster is never made a replica of another cluster.
#[test]
fn a_directory_of_another_cluster_is_no_replica() {
    let root = temporary();
    let one = Launch::primary(&root.path().join("one")).start();
    let other = Launch::primary(&root.path().join("other")).start();
    for (node, value) in [(&one, "one"), (&other, "other")] {
        node.client().ok(&cmd!("SET", "cluster", value));
        node.client().ok(&cmd!("RPUSH", "list", value));
    }
    let dir = root.path().join("replica");
    let mut replica = Launch::replica(&dir, one.launch.repl_port).start();
    let mut client = replica.client();
    wait_until("the replica holds its primary's data", SETTLED_WITHIN, || {
        (client.watermarks().committed == 2).then_some(())
    });
    assert!(replica.terminate().success());
    drop(client);
    Launch::replica(&dir, other.launch.repl_port).refused().expect(USAGE).says("cluster");
    drop(replica);
    let again = Launch::replica(&dir, one.launch.repl_port).start();
    assert_eq!(text(&again.client().ok(&cmd!("GET", "cluster"))), "one", "the refused start did no harm");
}

/// Goal: a primary does not write into an archive prefix that belongs to another cluster.
#[test]
fn an_archive_prefix_of_another_cluster_is_refused() {
    let root = temporary();
    for (name, archive) in [("file", Archive::directory(&root.path().join("archive"))), ("s3", Archive::s3())] {
        let csn = archived_cluster(&root.path().join(name), &archive);
        Launch::primary(&root.path().join(name).join("other")).archive(&archive).refused().expect(USAGE);
        archive.tool("verify", &[]).expect(OK);
        let (watermarks, _) = archive.restored(&["--to", "latest"]).state();
        assert_eq!(watermarks.committed, csn, "the archive is as it was");
    }
}

/// Goal: a primary whose archive cannot be reached at its start exits with code 6, says so, and serves no client; the
/// tools do the same.
#[test]
fn an_unreachable_store_is_fatal_at_start() {
    let root = temporary();
    let environment = weed::environment(free_port());
    let archive = Archive { url: "s3://bucket/prefix".into(), environment };
    Launch::primary(&root.path().join("data")).archive(&archive).refused().expect(STORE);
    archive.tool("verify", &[]).expect(STORE);
    archive.tool("snapshots", &[]).expect(STORE);
    archive.restore_into(&root.path().join("restored"), &[]).expect(STORE);
}

/// Goal: restore never writes into a directory that is not empty, and leaves the directory unchanged.
#[test]
fn a_restore_target_that_is_not_empty_is_refused() {
    let root = temporary();
    let archive = Archive::directory(&root.path().join("archive"));
    archived_cluster(root.path(), &archive);
    let dir = root.path().join("restored");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("precious"), "data").unwrap();
    archive.restore_into(&dir, &[]).expect(NOT_EMPTY);
    assert_eq!(files_below(&dir, ""), [dir.join("precious")]);
    assert_eq!(std::fs::read_to_string(dir.join("precious")).unwrap(), "data");
    archive.restore_into(&root.path().join("primary"), &[]).expect(NOT_EMPTY);
}

/// Goal: a restore target outside the history is refused with exit code 3; a dry run does the same and writes nothing.
#[test]
fn a_restore_target_out_of_range_is_refused() {
    let root = temporary();
    let archive = Archive::directory(&root.path().join("archive"));
    let csn = archived_cluster(root.path(), &archive);
    let dir = root.path().join("restored");
    let beyond = format!("csn:{}", csn + 1);
    for target in [&["--to", &beyond][..], &["--to", "time:1970-01-02T00:00:00Z"], &["--epoch", "99"]] {
        let dry: Vec<&str> = [target, &["--dry-run"]].concat();
        archive.restore_into(&dir, &dry).expect(UNREACHABLE);
        archive.restore_into(&dir, target).expect(UNREACHABLE);
        assert!(files_below(&dir, "").is_empty(), "a refused restore leaves nothing");
    }
    let plan = archive.restore_into(&dir, &["--dry-run", "--json"]).expect(OK);
    assert!(plan.json().is_object(), "a dry run with --json prints one object");
    assert!(files_below(&dir, "").is_empty(), "a dry run writes nothing");
    for tool in ["snapshots", "verify", "status"] {
        archive.tool(tool, &["--json"]).expect(OK).json();
    }
}

/// Goal: verify and restore detect a flipped byte anywhere in a chunk, a truncated chunk and a missing chunk, and name
/// the object.
#[test]
fn damage_in_the_archive_is_found_and_named() {
    let mut rng = StdRng::seed_from_u64(seed());
    let root = temporary();
    let archive_dir = root.path().join("archive");
    let archive = Archive::directory(&archive_dir);
    archived_cluster(root.path(), &archive);
    let chunks = files_below(&archive_dir, ".chunk");
    assert!(chunks.len() >= 3, "each flush makes a chunk: {chunks:?}");
    let victim = &chunks[chunks.len() / 2];
    let sound = std::fs::read(victim).unwrap();
    let mut places = vec![0, sound.len() / 2, sound.len() - 1];
    places.extend((0..5).map(|_| rng.random_range(0..sound.len())));
    for place in places {
        let mut damaged = sound.clone();
        damaged[place] ^= 1 << rng.random_range(0..8);
        assert_damage_is_named(&archive, root.path(), victim, Some(&damaged), &format!("byte {place} flipped"));
    }
    for length in [0, 10, sound.len() - 1] {
        assert_damage_is_named(&archive, root.path(), victim, Some(&sound[..length]), &format!("cut to {length}"));
    }
    assert_damage_is_named(&archive, root.path(), victim, None, "missing");
    std::fs::write(victim, &sound).unwrap();
    archive.tool("verify", &[]).expect(OK);
    archive.restore_into(&root.path().join("restored"), &[]).expect(OK);
}

/// Replaces the victim's bytes (`None` removes it), and asserts that verify and restore name the damaged object.
fn assert_damage_is_named(archive: &Archive, root: &Path, victim: &PathBuf, bytes: Option<&[u8]>, what: &str) {
    eprintln!("{what}");
    let name = victim.file_name().unwrap().to_str().unwrap();
    let dir = root.join("restored");
    match bytes {
        Some(bytes) => {
            std::fs::write(victim, bytes).unwrap();
            archive.tool("verify", &[]).expect(INTEGRITY).says(name);
            archive.restore_into(&dir, &[]).expect(INTEGRITY).says(name);
        }
        None => {
            std::fs::remove_file(victim).unwrap();
            archive.tool("verify", &[]).expect(INTEGRITY);
            archive.restore_into(&dir, &[]).expect_any(&[UNREACHABLE, INTEGRITY]);
        }
    }
    if dir.exists() {
        // What an interrupted restore leaves must never be opened as data.
        if !files_below(&dir, "").is_empty() {
            let code = Launch::primary(&dir).refused().code;
            assert!(code.is_some_and(|code| code != OK), "a half restored directory was accepted");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// Goal: when the archive is unusable and the spool is full, writes are refused with a clear error, and reads work.
/// Once the archive is back, writes are accepted, and nothing was lost.
#[test]
fn a_full_spool_refuses_writes_until_the_archive_is_back() {
    let mut rng = StdRng::seed_from_u64(seed());
    let root = temporary();
    let archive_dir = root.path().join("archive");
    let archive = Archive::directory(&archive_dir);
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive);
    let primary = launch.set("spool-max-bytes", "4194304").set("archive-interval", "50").start();
    let mut client = primary.client();
    client.ok(&cmd!("SET", "first", 1));
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let away = root.path().join("away");
    std::fs::rename(&archive_dir, &away).unwrap();
    std::fs::write(&archive_dir, "not a directory").unwrap();

    let mut written = 0;
    let refusal = wait_until("the spool is full", Duration::from_secs(60), || {
        let value: Vec<u8> = (0..50_000).map(|_| rng.random()).collect();
        let reply = client.call(&cmd!("SET", format!("key:{written}"), value));
        let refused = error_text(&reply);
        written += usize::from(refused.is_none());
        refused
    });
    let lower = refusal.to_lowercase();
    assert!(lower.contains("spool") && lower.contains("archive"), "the error says what is full and why: {refusal}");
    let refused = |client: &mut Client, command: &Command| error_text(&client.call(command)).is_some();
    assert!(refused(&mut client, &cmd!("RPUSH", "list", 1)), "every engine refuses");
    assert_eq!(text(&client.ok(&cmd!("GET", "first"))), "1", "reads go on");
    assert_eq!(integer(&client.ok(&cmd!("DBSIZE"))), written as i64 + 1, "a refused write left nothing");

    std::fs::remove_file(&archive_dir).unwrap();
    std::fs::rename(&away, &archive_dir).unwrap();
    wait_until("writes are taken again", SETTLED_WITHIN, || {
        (!refused(&mut client, &cmd!("RPUSH", "list", "after"))).then_some(())
    });
    let csn = integer(&client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64;
    assert_eq!(csn, client.watermarks().committed);
    let held = dump(&mut client);
    assert_eq!(held.len(), written + 2);
    let (watermarks, restored) = archive.restored(&["--to", "latest"]).state();
    assert_eq!(watermarks.committed, csn);
    assert_same(&held, &restored, "restored after the outage");
}

/// Goal: a chunk that is damaged while it waits in the spool stops writes with an error that says what to do; the
/// restart that the error asks for archives everything without a gap.
#[test]
fn a_damaged_chunk_in_the_spool_is_cut_anew_by_a_restart() {
    let root = temporary();
    let archive_dir = root.path().join("archive");
    let archive = Archive::directory(&archive_dir);
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive).set("archive-interval", "50");
    let mut primary = launch.start();
    let mut client = primary.client();
    client.ok(&cmd!("SET", "first", 1));
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let away = root.path().join("away");
    std::fs::rename(&archive_dir, &away).unwrap();
    let spool = root.path().join("primary/spool");
    let mut written = 0;
    let waiting = wait_until("chunks wait in the spool", SETTLED_WITHIN, || {
        client.ok(&cmd!("RPUSH", "list", written));
        written += 1;
        Some(files_below(&spool, ".chunk")).filter(|chunks| chunks.len() > 12)
    });
    // The damaged chunk must not be one that the uploader holds in memory.
    let victim = &waiting[waiting.len() - 3];
    let mut bytes = std::fs::read(victim).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(victim, bytes).unwrap();
    std::fs::rename(&away, &archive_dir).unwrap();

    let refusal = wait_until("writes are refused", SETTLED_WITHIN, || {
        let refused = error_text(&client.call(&cmd!("RPUSH", "list", written)));
        written += usize::from(refused.is_none());
        refused
    });
    assert!(
        refusal.starts_with("MISCONF uploading to the archive has ended") && refusal.contains("Restart"),
        "{refusal}"
    );
    assert!(refusal.contains(victim.file_name().unwrap().to_str().unwrap()), "the chunk is named: {refusal}");
    assert_eq!(text(&client.ok(&cmd!("GET", "first"))), "1", "reads go on");
    let marks = client.watermarks();
    assert!(marks.archived < marks.committed, "{marks:?}");
    primary.restart();
    let mut client = primary.client();
    client.ok(&cmd!("RPUSH", "list", written));
    let csn = integer(&client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64;
    assert_eq!(csn, client.watermarks().committed);
    archive.tool("verify", &[]).expect(0);
    let (watermarks, restored) = archive.restored(&[]).state();
    assert_eq!(watermarks.committed, csn);
    assert_same(&dump(&mut client), &restored, "restored after the damage");
    assert_eq!(integer(&client.ok(&cmd!("LLEN", "list"))), written as i64 + 1);
}

/// Goal: broken frames get the replies of redis-server, the connection closes as there, and the server keeps running.
#[test]
fn broken_frames_are_answered_as_redis_does() {
    let root = temporary();
    let primary = Launch::primary(&root.path().join("data")).start();
    let oracle = Oracle::start();
    let long = [b"GET ".to_vec(), vec![b'x'; 70_000]].concat();
    let frames: [&[u8]; 11] = [
        b"*abc\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*99999999999999999999\r\n",
        b"*2\r\n$3\r\nGET\r\n$536870913\r\n",
        b"GET 'unbalanced\r\n",
        b"*1\r\n$4\r\nQUIT\r\n",
        b"QUIT\r\n",
        &long,
    ];
    for frame in frames {
        let [expected, found] = [oracle.port, primary.launch.port].map(|port| {
            let mut client = Client::connect(port).expect("the server accepts a connection");
            client.send_bytes(frame).expect("the server reads");
            client.read_to_end(Duration::from_secs(5)).escape_ascii().to_string()
        });
        assert_eq!(found, expected, "for {}", frame[..frame.len().min(40)].escape_ascii());
    }
    alive(&primary);
}

/// Goal: empty frames, blank lines, inline commands and frames sent byte by byte are understood.
#[test]
fn unusual_but_right_frames_are_understood() {
    let root = temporary();
    let primary = Launch::primary(&root.path().join("data")).start();
    let oracle = Oracle::start();
    let frames: [&[u8]; 6] = [
        b"*0\r\n*-1\r\n\r\nPING\r\nQUIT\r\n",
        b"SET key 'quoted \\x41 value'\r\nGET key\r\nQUIT\r\n",
        b"set key \"quoted \\x41\\n value\"\r\nget key\r\nquit\r\n",
        b"*1\r\n$4\r\nPING\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$0\r\n\r\nQUIT\r\n",
        b"PING\nPING\nQUIT\n",
        b"   PING   hello   \r\nQUIT\r\n",
    ];
    for frame in frames {
        let [expected, found] = [oracle.port, primary.launch.port].map(|port| {
            let mut client = Client::connect(port).expect("the server accepts a connection");
            for byte in frame.chunks(1) {
                client.send_bytes(byte).expect("the server reads");
            }
            client.read_to_end(Duration::from_secs(5)).escape_ascii().to_string()
        });
        assert_eq!(found, expected, "for {}", frame.escape_ascii());
    }
}

/// Goal: no sequence of random bytes stops the server or changes data.
#[test]
fn random_bytes_do_no_harm() {
    let mut rng = StdRng::seed_from_u64(seed());
    let root = temporary();
    let primary = Launch::primary(&root.path().join("data")).start();
    let mut observer = primary.client();
    let before = observer.watermarks().committed;
    for _ in 0..300 {
        let mut bytes: Vec<u8> = (0..rng.random_range(1..200)).map(|_| rng.random()).collect();
        if rng.random_bool(0.5) {
            bytes.splice(..0, *b"*3\r\n$4\r\nNOPE\r\n$");
        }
        let mut client = primary.client();
        let _ = client.send_bytes(&bytes);
    }
    alive(&primary);
    assert_eq!(observer.watermarks().committed, before + ALIVE_COMMITS, "random bytes commit nothing");
}

/// Goal: an argument longer than `proto-max-bulk-len` is refused before it is read; one at the limit is accepted.
#[test]
fn the_largest_argument_is_configurable() {
    let root = temporary();
    let primary = Launch::primary(&root.path().join("data")).set("proto-max-bulk-len", "1048576").start();
    let mut client = primary.client();
    client.ok(&cmd!("SET", "fits", vec![b'x'; 1 << 20]));
    client.send_bytes(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\n").unwrap();
    let answer = client.read_to_end(Duration::from_secs(5)).escape_ascii().to_string();
    assert!(answer.starts_with("-ERR Protocol error: invalid bulk length"), "found {answer}");
    assert_eq!(integer(&primary.client().ok(&cmd!("STRLEN", "fits"))), 1 << 20);
}

/// Goal: a client beyond `maxclients` gets an error that says so; after another client leaves, a new one is accepted.
#[test]
fn clients_over_the_limit_are_refused() {
    let root = temporary();
    let primary = Launch::primary(&root.path().join("data")).set("maxclients", "3").start();
    // The connections that waited for readiness may not be closed yet.
    let mut clients = wait_until("three clients fit", SETTLED_WITHIN, || {
        let mut clients: Vec<Client> = (0..3).map(|_| primary.client()).collect();
        clients
            .iter_mut()
            .all(|client| client.try_call(&cmd!("PING")).is_ok_and(|r| error_text(&r).is_none()))
            .then_some(clients)
    });
    let mut fourth = primary.client();
    let answer = fourth.read_to_end(Duration::from_secs(5)).escape_ascii().to_string();
    assert!(answer.starts_with("-ERR max number of clients reached"), "found {answer:?}");
    clients.pop();
    wait_until("a client is let in when another left", SETTLED_WITHIN, || {
        primary.client().try_call(&cmd!("PING")).ok().filter(|reply| error_text(reply).is_none())
    });
}

/// Goal: beyond `maxmemory`, writes that would grow the memory engines are refused as Redis refuses them; reads,
/// deletes and the disk engines keep working.
#[test]
fn memory_is_bounded_by_maxmemory() {
    let root = temporary();
    let primary = Launch::primary(&root.path().join("data")).set("maxmemory", "8388608").start();
    let mut client = primary.client();
    let value = "x".repeat(10_000);
    let refused = (0..5_000).find_map(|_| error_text(&client.call(&cmd!("RPUSH", "list", &value))));
    let refused = refused.expect("50 MB do not fit into 8 MB");
    assert!(refused.starts_with("OOM command not allowed"), "found {refused}");
    client.ok(&cmd!("SET", "string", &value));
    client.ok(&cmd!("LRANGE", "list", 0, 0));
    client.ok(&cmd!("DEL", "list"));
    client.ok(&cmd!("RPUSH", "list", &value));
}

/// Number of commits that [`alive`] makes.
const ALIVE_COMMITS: u64 = 2;

/// Fails the test unless the server writes and reads.
#[track_caller]
fn alive(node: &Node) {
    let mut client = node.client();
    client.ok(&cmd!("SET", "alive", 1));
    assert_eq!(text(&client.ok(&cmd!("GET", "alive"))), "1");
    client.ok(&cmd!("DEL", "alive"));
}
