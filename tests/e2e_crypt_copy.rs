//! The life of an encrypted archive, its copies, and a second archive that is sometimes unreachable.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;
use support::archive::{Archive, files_below};
use support::client::{Client, cmd};
use support::dump::{Dump, assert_same, dump};
use support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use support::tool::walferry;
use support::way::Way;

/// Text that must not appear in any byte of an encrypted archive.
const SECRET_VALUE: &str = "the quick brown fox jumps over the lazy dog";

/// Writes commits of every kind; `round` makes them differ.
fn write(client: &mut Client, round: u64) {
    for number in 0..40 {
        client.ok(&cmd!("SET", format!("string:{number}"), format!("{SECRET_VALUE} {round} {number}")));
        client.ok(&cmd!("HSET", format!("hash:{}", number % 7), number, round));
        client.ok(&cmd!("RPUSH", format!("list:{}", number % 3), format!("{SECRET_VALUE} {round}")));
        client.ok(&cmd!("ZADD", "zset", number * round, format!("member:{number}")));
        client.ok(&cmd!("XADD", "stream", format!("{round}-{}", number + 1), "field", SECRET_VALUE));
        client.transaction(&[cmd!("SET", "both", number), cmd!("LPUSH", "both-list", number)]);
    }
}

/// Writes a new key file: a new key, followed by the lines of `before`.
fn key_file(dir: &Path, name: &str, before: Option<&Path>) -> PathBuf {
    let line = walferry(&["keygen", "--id", name], &Vec::new()).expect(0).stdout;
    assert_eq!(line.split_whitespace().next(), Some(name));
    let older = before.map_or_else(String::new, |path| std::fs::read_to_string(path).expect("a key file"));
    let path = dir.join(format!("{name}.keys"));
    std::fs::write(&path, format!("# {name}\n{line}{older}")).expect("a key file");
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a test directory has a UTF-8 name")
}

/// Runs a primary, a replica from the archive, a key rotation, a restore, and a copy under another key. Returns the
/// key file of the copy.
fn encrypted_life(root: &Path, archive: &Archive, copy: &Archive) -> PathBuf {
    let k1 = key_file(root, "k1", None);
    let k2 = key_file(root, "k2", Some(&k1));
    let (other, own) = (key_file(root, "other", None), ["--archive-key-file", text(&k2)]);
    let launch = |keys: &Path| {
        let launch = Launch::primary(&root.join("primary")).archive(archive);
        launch.flag("--archive-key-file", text(keys)).set("archive-interval", "50")
    };
    let mut primary = launch(&k1).start();
    write(&mut primary.client(), 1);
    primary.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    write(&mut primary.client(), 2);
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    primary.terminate();

    // The new key encrypts new objects. After a kill, chunks are cut a second time.
    let mut primary = launch(&k2).start();
    write(&mut primary.client(), 3);
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    write(&mut primary.client(), 4);
    primary.restart();
    write(&mut primary.client(), 5);
    primary.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let (state, end) = (dump(&mut primary.client()), primary.client().watermarks());

    wrong_keys_are_one_clear_error(archive, &k1, &other, root);
    archive.tool("verify", &own).expect(0);
    archive.tool("snapshots", &own).expect(0).says("restorable");
    let compacted = [&own[..], &["--merge", "--grace", "0", "--run-commits", "20"]].concat();
    archive.tool("compact", &compacted).expect(0).says("run      csn 1 .. 20:");
    archive.tool("compact", &compacted).expect(0).says("runs     0 built");
    archive.tool("verify", &own).expect(0);
    let (restored, found) = archive.restored(&own).state();
    assert_eq!(restored.committed, end.committed);
    assert_same(&state, &found, "restored from the encrypted archive");

    let replica = Launch::replica(&root.join("replica"), primary.launch.repl_port).archive(archive);
    let replica = replica.flag("--archive-key-file", text(&k2)).start();
    let follows = || (replica.client().watermarks().committed == end.committed).then_some(());
    wait_until("the replica has everything", SETTLED_WITHIN, follows);
    assert_same(&state, &dump(&mut replica.client()), "the replica from the encrypted archive");
    copies(archive, copy, &k2, root, &state)
}

fn wrong_keys_are_one_clear_error(archive: &Archive, old: &Path, other: &Path, root: &Path) {
    let hint = "--archive-key-file";
    for tool in ["verify", "snapshots", "status"] {
        archive.tool(tool, &[]).expect(2).says("is encrypted with key `k1`").says(hint);
        archive
            .tool(tool, &["--archive-key-file", text(other)])
            .expect(2)
            .says("key `k1`, which is not among the given keys");
    }
    // The older key opens the archive, but not the objects that the newer key encrypted.
    archive
        .tool("verify", &["--archive-key-file", text(old)])
        .expect(2)
        .says("key `k2`, which is not among the given keys");
    archive.restore_into(&root.join("no"), &[]).expect(2).says(hint);
    assert!(!root.join("no").join("db").exists());
    let keyless = Launch::primary(&root.join("fresh")).archive(archive).refused();
    keyless.expect(2).says("is encrypted with key `k1`");
    let keyless = Launch::replica(&root.join("fresh-replica"), 1).archive(archive).refused();
    keyless.expect(2).says("is encrypted with key `k1`");
}

/// Copies the archive under another key, without encryption, and in part.
fn copies(archive: &Archive, copy: &Archive, keys: &Path, root: &Path, state: &Dump) -> PathBuf {
    let k3 = key_file(root, "k3", None);
    let (own, copy_key) = (["--archive-key-file", text(keys)], ["--archive-key-file", text(&k3)]);
    let base = [own[0], own[1], "--to", &copy.url, "--to-archive-key-file", text(&k3), "--json"];
    let report = archive.tool("copy", &base).expect(0).json();
    assert!(report["copied"]["chunks"].as_u64().is_some_and(|chunks| chunks > 0), "{report}");
    assert_eq!((&report["bases"], &report["from"], &report["present"]["chunks"]), (&2.into(), &1.into(), &0.into()));
    let again = archive.tool("copy", &base).expect(0).json();
    assert_eq!((&again["copied"]["chunks"], &again["copied"]["files"]), (&0.into(), &0.into()), "{again}");
    copy.tool("verify", &copy_key).expect(0).says("everything is whole");
    copy.tool("verify", &own).expect(2).says("key `k3`");
    let (_, found) = copy.restored(&copy_key).state();
    assert_same(state, &found, "restored from the copy");

    let clear = Archive::directory(&root.join("clear"));
    let until = report["until"].as_u64().expect("a csn").to_string();
    let part = [own[0], own[1], "--to", &clear.url, "--to-clear", "--from-csn", &until, "--json"];
    let report = archive.tool("copy", &part).expect(0).json();
    assert_eq!(report["bases"], 1, "{report}");
    clear.tool("verify", &[]).expect(0);
    clear.tool("verify", &own).expect(2).says("is not encrypted");
    assert_same(state, &clear.restored(&[]).state().1, "restored from the clear copy");
    archive.tool("copy", &[own[0], own[1], "--to", &archive.url]).expect(2);
    let beyond = [own[0], own[1], "--to", &clear.url, "--to-clear", "--until", "csn:999999"];
    archive.tool("copy", &beyond).expect(3);
    k3
}

#[test]
fn an_encrypted_archive_in_a_directory() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (archive, copy) = (root.path().join("archive"), root.path().join("copy"));
    let keys = encrypted_life(root.path(), &Archive::directory(&archive), &Archive::directory(&copy));
    for dir in [&archive, &copy] {
        let objects = files_below(dir, "");
        assert!(objects.len() > 10);
        for object in objects {
            let bytes = std::fs::read(&object).expect("an object");
            assert!(bytes.starts_with(b"WFCRYPT\n"), "{}", object.display());
            let shows = bytes.windows(20).any(|window| window == &SECRET_VALUE.as_bytes()[..20]);
            assert!(!shows, "{}", object.display());
        }
    }
    let chunk = &files_below(&copy, ".chunk")[0];
    walferry(&["dump", text(chunk)], &Vec::new()).expect(2).says("is encrypted with key `k3`");
    walferry(&["dump", text(chunk), "--archive-key-file", text(&keys)], &Vec::new()).expect(0).says("ChunkHeader");
    // A single changed byte is detected.
    let mut bytes = std::fs::read(chunk).expect("a chunk");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(chunk, bytes).expect("a chunk");
    Archive::directory(&copy)
        .tool("verify", &["--archive-key-file", text(&keys)])
        .expect(4)
        .says("the authentication tag is wrong");
}

#[test]
fn an_encrypted_archive_on_s3() {
    let root = tempfile::tempdir().expect("a temporary directory");
    encrypted_life(root.path(), &Archive::s3(), &Archive::s3());
}

/// Waits until a field of INFO has the value.
fn wait_for(node: &Node, field: &str, value: &str) {
    let mut seen = String::new();
    let within = Duration::from_secs(60);
    wait_until(&format!("{field} is {value}"), within, || {
        let info = node.client().info();
        let now = info.get(field).cloned().unwrap_or_default();
        if now != seen {
            println!("{field}: {now} (error: {:?})", info.get("archive_2_last_error"));
            seen.clone_from(&now);
        }
        (now == value).then_some(())
    });
}

/// Waits until everything committed is in the second archive.
fn wait_for_second(node: &Node) {
    let committed = node.client().watermarks().committed;
    node.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    wait_for(node, "archive_2_csn", &committed.to_string());
}

/// Goal: the second archive may be away at the start and later, with and without room for its backlog, and catches up.
#[test]
fn a_second_archive_comes_and_goes() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (k1, k2) = (key_file(root.path(), "k1", None), key_file(root.path(), "k2", None));
    let first = Archive::directory(&root.path().join("first"));
    let (dir, away) = (root.path().join("second"), root.path().join("away"));
    let second = Archive { url: format!("file://{}", dir.display()), environment: Vec::new() };
    // A file takes the place of the directory, so that the archive cannot be reached.
    std::fs::write(&dir, "not a directory").expect("a file");
    let launch = Launch::primary(&root.path().join("primary")).archive(&first);
    let launch = launch.flag("--archive-key-file", text(&k1)).set("archive-2", &second.url);
    let launch = launch.set("archive-2-key-file", text(&k2)).set("archive-interval", "50");
    let mut primary = launch.start();
    write(&mut primary.client(), 1);
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    assert_eq!(primary.client().info()["archive_2_state"], "connecting");

    std::fs::remove_file(&dir).expect("the file in the way");
    wait_for_second(&primary);
    let own = ["--archive-key-file", text(&k2)];
    second.tool("verify", &own).expect(0).says("whole   csn 1 ..");
    second.tool("verify", &["--archive-key-file", text(&k1)]).expect(2);
    primary.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    let base = primary.client().info()["last_base_csn"].clone();
    wait_for(&primary, "archive_2_last_base_csn", &base);

    goes_and_comes_back(&mut primary, &dir, &away);
    second.tool("verify", &own).expect(0);
    assert_same(&dump(&mut primary.client()), &second.restored(&own).state().1, "restored from the second archive");

    drops_its_backlog(&primary, &dir, &away);
    let state = dump(&mut primary.client());
    second.tool("verify", &own).expect(4).says("GAP");
    assert_same(&state, &second.restored(&own).state().1, "restored behind the gap");
    let close = ["--archive-key-file", text(&k1), "--to", &second.url, "--to-archive-key-file", text(&k2)];
    first.tool("copy", &close).expect(0);
    second.tool("verify", &own).expect(0).says("everything is whole");

    primary.terminate();
    let stranger =
        Launch::primary(&root.path().join("stranger")).archive(&Archive::directory(&root.path().join("third")));
    let stranger = stranger.set("archive-2", &second.url).set("archive-2-key-file", text(&k2)).refused();
    stranger.expect(2).says("archive-2").says("belongs to cluster");
}

/// Takes the second archive away during writes, uploads to the first archive, a restart and a kill; then it catches
/// up.
fn goes_and_comes_back(primary: &mut Node, dir: &Path, away: &Path) {
    std::fs::rename(dir, away).expect("the archive goes");
    std::fs::write(dir, "not a directory").expect("a file");
    let stood = primary.client().info()["archive_2_csn"].clone();
    write(&mut primary.client(), 2);
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let failing = || (primary.client().info()["archive_2_failures_in_row"] != "0").then_some(());
    wait_until("the failures show", SETTLED_WITHIN, failing);
    let info = primary.client().info();
    assert_eq!((&info["archive_2_csn"], &info["writes_refused"]), (&stood, &String::new()));
    assert_eq!(info["archived_csn"], info["committed_csn"]);
    assert_ne!(info["archive_2_spool_bytes"], "0");
    primary.restart();
    write(&mut primary.client(), 3);
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    std::fs::remove_file(dir).expect("the file in the way");
    std::fs::rename(away, dir).expect("the archive comes back");
    wait_for_second(primary);
    wait_for(primary, "archive_2_spool_bytes", "0");
}

/// Takes the second archive away for longer than the spool has room: no write is refused, and it begins anew with a
/// base.
fn drops_its_backlog(primary: &Node, dir: &Path, away: &Path) {
    let mut client = primary.client();
    std::fs::rename(dir, away).expect("the archive goes");
    std::fs::write(dir, "not a directory").expect("a file");
    client.ok(&cmd!("CONFIG", "SET", "spool-max-bytes", "200kb"));
    let mut random = 1_u64;
    for number in 0..200 {
        let noise = std::iter::repeat_with(|| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 56) as u8
        });
        let noise: Vec<u8> = noise.take(4096).collect();
        client.ok(&cmd!("SET", format!("noise:{number}"), noise));
        if number % 10 == 0 {
            client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
        }
    }
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    wait_for(primary, "archive_2_backlogs_dropped", "1");
    assert_eq!(client.info()["writes_refused"], "");
    std::fs::remove_file(dir).expect("the file in the way");
    std::fs::rename(away, dir).expect("the archive comes back");
    wait_for(primary, "archive_2_state", "streaming");
    write(&mut client, 4);
    wait_for_second(primary);
}

/// Goal: a second archive on another S3 server catches up after the network was down, also across a promotion.
#[test]
fn a_second_archive_on_another_server() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let keys = key_file(root.path(), "k1", None);
    let (first, far) = (Archive::directory(&root.path().join("first")), Archive::s3());
    let setting = |name: &str| far.environment.iter().find(|(other, _)| other == name).expect("set").1.as_str();
    let port = setting("AWS_ENDPOINT").rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let proxy = Way::to(port);
    let with_far = |launch: Launch| {
        let launch = launch.archive(&first).flag("--archive-key-file", text(&keys)).set("archive-interval", "50");
        let launch = launch.set("archive-2", &far.url).set("s3-allow-http", "yes");
        let launch = launch.set("archive-2-s3-endpoint", &format!("http://127.0.0.1:{}", proxy.port));
        let launch = launch.set("archive-2-s3-region", setting("AWS_REGION"));
        let launch = launch.set("archive-2-s3-access-key-id", setting("AWS_ACCESS_KEY_ID"));
        launch.set("archive-2-s3-secret-access-key", setting("AWS_SECRET_ACCESS_KEY"))
    };
    let mut primary = with_far(Launch::primary(&root.path().join("primary"))).start();
    write(&mut primary.client(), 1);
    primary.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    assert_eq!(primary.client().info()["archive_2_csn"], "0");
    proxy.open();
    wait_for_second(&primary);
    // Without keys of its own, the second archive uses the keys of the first.
    let own = ["--archive-key-file", text(&keys)];
    far.tool("verify", &own).expect(0).says("whole   csn 1 ..");

    proxy.close();
    write(&mut primary.client(), 2);
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let failing = || (primary.client().info()["archive_2_failures_in_row"] != "0").then_some(());
    wait_until("the failures show", SETTLED_WITHIN, failing);
    primary.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    primary.restart();
    proxy.open();
    wait_for_second(&primary);
    let state = dump(&mut primary.client());
    assert_same(&state, &far.restored(&own).state().1, "restored from the far archive");

    let replica = with_far(Launch::replica(&root.path().join("replica"), primary.launch.repl_port)).start();
    let end = primary.client().watermarks().committed;
    let follows = || (replica.client().watermarks().committed == end).then_some(());
    wait_until("the replica has everything", SETTLED_WITHIN, follows);
    primary.kill();
    walferry(&["promote", "--port", &replica.launch.port.to_string()], &Vec::new()).expect(0);
    write(&mut replica.client(), 3);
    wait_for_second(&replica);
    let state = dump(&mut replica.client());
    assert_same(&state, &far.restored(&own).state().1, "restored from the far archive after the promotion");
    for archive in [&first, &far] {
        archive.tool("verify", &own).expect(0).says("epochs  2");
    }
}
