//! An operator's first day: wrong settings are refused with the reason, credentials are found where AWS tools find
//! them, tools reach every node, and a container can be stopped.

mod support;

use redis::Value;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::archive::{Archive, files_below};
use support::aws::{Aws, CONTAINER_KEY, INSTANCE_KEY};
use support::client::cmd;
use support::process::{Launch, Node, SETTLED_WITHIN, free_port, wait_until};
use support::tool::{binary, walferry};
use support::weed;

const OK: i32 = 0;
const USAGE: i32 = 2;
const STORE: i32 = 6;
const TERM: i32 = 15;

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("a test path is UTF-8")
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Returns options with free ports for a node that is expected to fail before it listens.
fn ports() -> [String; 4] {
    ["--port".into(), free_port().to_string(), "--repl-port".into(), free_port().to_string()]
}

/// Goal: an unusable S3 setting is a usage error that names the setting, before any request; an empty one counts as
/// not set.
#[test]
fn s3_settings_that_cannot_be_used_are_refused_by_name() {
    let root = temporary();
    let dir = root.path().join("data");
    let sound = weed::environment(free_port());
    let with = |name: &str, value: &str| [sound.clone(), variables(&[(name, value)])].concat();
    let ports = ports();
    let ports = ports.each_ref().map(|word| &**word);
    let primary = [&["primary", "--dir", text_of(&dir), "--archive", "s3://bucket/prefix"][..], &ports].concat();
    for (name, value) in [
        ("AWS_ENDPOINT_URL", "minio:9000"),
        ("AWS_ENDPOINT_URL", "http://"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:9000"),
        ("AWS_ENDPOINT_URL_S3", "minio"),
        ("AWS_REGION", "eu central"),
        ("AWS_ACCESS_KEY_ID", "key\n"),
        ("AWS_SESSION_TOKEN", "token\n"),
        ("AWS_SKIP_SIGNATURE", "perhaps"),
        ("AWS_SECRET_ACCESS_KEY", ""),
    ] {
        for tool in [&primary[..], &["snapshots", "--archive", "s3://bucket/prefix"]] {
            walferry(tool, &with(name, value)).expect(USAGE).says(name);
        }
    }
    for setting in ["s3-endpoint=minio:9000", "s3-endpoint=http://", "s3-region=eu central"] {
        let key = setting.split('=').next().unwrap();
        walferry(&[&primary[..], &["--set", setting]].concat(), &sound).expect(USAGE).says(key);
    }
    assert!(files_below(&dir, "").is_empty(), "a usage error writes no data");
    // An empty variable counts as not set: the request goes to the endpoint of the other variable, where nothing
    // listens.
    for name in ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN", "AWS_PROFILE"] {
        walferry(&["snapshots", "--archive", "s3://bucket/prefix"], &with(name, "")).expect(STORE).says("127.0.0.1");
    }
}

/// Goal: keys are found in the shared AWS files, in the container's and in the instance's metadata; without any keys
/// the error names every place.
#[test]
fn credentials_are_found_where_aws_tools_find_them() {
    let root = temporary();
    let (aws, home) = (Aws::start(), text_of(root.path()).to_owned());
    let snapshots = |more: &[(&str, &str)]| {
        let tool = ["snapshots", "--archive", "s3://bucket/prefix"];
        walferry(&tool, &aws.environment(&home, more))
    };
    let asks_as = |more: &[(&str, &str)]| {
        snapshots(more).expect(USAGE).says("walferry.json is missing");
        aws.signed_by()
    };
    assert_eq!(asks_as(&[]), INSTANCE_KEY);
    let token = root.path().join("token");
    std::fs::write(&token, "pod").unwrap();
    let uri = format!("http://127.0.0.1:{}/container", aws.port);
    let of_container =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*uri), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", text_of(&token))];
    assert_eq!(asks_as(&of_container), CONTAINER_KEY);

    let shared = root.path().join(".aws");
    std::fs::create_dir(&shared).unwrap();
    let section =
        |name: &str, key: &str| format!("[{name}]\naws_access_key_id = {key}\naws_secret_access_key = secret\n");
    std::fs::write(shared.join("credentials"), section("default", "DEFAULT") + &section("backup", "BACKUP")).unwrap();
    std::fs::write(shared.join("config"), "[profile backup]\nregion = eu-central-1\n").unwrap();
    assert_eq!(asks_as(&of_container), "DEFAULT");
    assert_eq!(asks_as(&[("AWS_PROFILE", "backup")]), "BACKUP");
    let other = root.path().join("other");
    std::fs::write(&other, section("default", "OTHER")).unwrap();
    assert_eq!(asks_as(&[("AWS_SHARED_CREDENTIALS_FILE", text_of(&other))]), "OTHER");
    let keys = [("AWS_ACCESS_KEY_ID", "ENVIRONMENT"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    assert_eq!(asks_as(&keys), "ENVIRONMENT");
    snapshots(&[("AWS_PROFILE", "none")]).expect(USAGE).says("`none`").says(".aws/credentials");

    std::fs::remove_dir_all(&shared).unwrap();
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let found = snapshots(&[("AWS_METADATA_ENDPOINT", &nowhere)]).expect(STORE);
    let places = ["AWS_ACCESS_KEY_ID", ".aws/credentials", ".aws/config", "AWS_CONTAINER_CREDENTIALS", &nowhere];
    places.into_iter().fold(found, |found, place| found.says(place));
}

/// Goal: a number out of a setting's range is refused with the range, wherever the setting is made.
#[test]
fn numbers_out_of_range_are_refused() {
    let root = temporary();
    let dir = root.path().join("data");
    let start = |more: &[&str]| walferry(&[&["primary", "--dir", text_of(&dir)], more].concat(), &Vec::new());
    for (key, value) in [
        ("port", "70000"),
        ("port", "0"),
        ("port", "-1"),
        ("repl-port", "65536"),
        ("metrics-port", "4294967296"),
        ("client-threads", "1000000"),
        ("tcp-keepalive", "40000"),
        ("timeout", "18446744073709551615"),
        ("maxclients", "18446744073709551616"),
        ("maxclients", "0"),
        ("proto-max-bulk-len", "0"),
        ("oplog-segment-bytes", "1"),
        ("oplog-segment-bytes", "8gb"),
        ("merge-grace", "18446744073709551615"),
        ("min-free-bytes", "18446744073709551615"),
        ("spool-max-bytes", "17179869184gb"),
    ] {
        start(&["--set", &format!("{key}={value}")]).expect(USAGE).says(key);
        let config = root.path().join("config.toml");
        std::fs::write(&config, format!("{key} = \"{value}\"\n")).unwrap();
        start(&["--config", text_of(&config)]).expect(USAGE).says(key);
    }
    for port in ["--port", "--repl-port"] {
        for value in ["70000", "0"] {
            start(&[port, value]).expect(USAGE);
        }
    }
    assert!(files_below(&dir, "").is_empty(), "a usage error writes no data");
}

/// Goal: an empty key variable or an empty key file is refused, because its user wants encryption; it does not lead to
/// an unencrypted archive.
#[test]
fn an_empty_archive_key_is_refused() {
    let root = temporary();
    let (dir, url) = (root.path().join("data"), format!("file://{}", root.path().join("archive").display()));
    let second = format!("archive-2=file://{}", root.path().join("second").display());
    let ports = ports();
    let ports = ports.each_ref().map(|word| &**word);
    let primary = ["primary", "--dir", text_of(&dir), "--archive", &url, "--set", &second];
    let primary = [&primary[..], &ports].concat();
    for name in ["WALFERRY_ARCHIVE_KEY", "WALFERRY_ARCHIVE_2_KEY"] {
        for value in ["", "  ", ","] {
            walferry(&primary, &variables(&[(name, value)])).expect(USAGE).says(name);
        }
    }
    let empty = root.path().join("empty.keys");
    std::fs::write(&empty, "\n").unwrap();
    for file in ["", text_of(&empty)] {
        walferry(&[&primary[..], &["--archive-key-file", file]].concat(), &Vec::new()).expect(USAGE).says("key");
        for key in ["archive-key-file", "archive-2-key-file"] {
            let setting = format!("{key}={file}");
            walferry(&[&primary[..], &["--set", &setting]].concat(), &Vec::new()).expect(USAGE).says("key");
        }
        for tool in ["snapshots", "verify", "status"] {
            walferry(&[tool, "--archive", &url, "--archive-key-file", file], &Vec::new()).expect(USAGE).says("key");
        }
    }
    assert!(!root.path().join("archive/walferry.json").exists(), "no clear archive was begun");
}

/// Goal: a data directory within its archive's directory or the reverse is refused by name, and so are two archives
/// within each other, a restore into the archive, a copy into it and a scratch directory in it.
#[test]
fn directories_in_each_other_are_refused_by_name() {
    let root = temporary();
    let at = |name: &str| root.path().join(name).display().to_string();
    let url = |name: &str| format!("file://{}", at(name));
    let ports = ports();
    let ports = ports.each_ref().map(|word| &**word);
    for (dir, archive) in [("a/data", "a"), ("a", "a"), ("a", "a/archive")] {
        let (dir, url) = (at(dir), url(archive));
        let primary = ["primary", "--dir", &dir, "--archive", &url];
        let replica = ["replica", "--primary", "127.0.0.1:1", "--dir", &dir, "--archive", &url];
        for node in [&primary[..], &replica] {
            walferry(&[node, &ports].concat(), &Vec::new()).expect(USAGE).says(&dir).says(&at(archive));
        }
    }
    let second = format!("archive-2={}", url("archive/second"));
    let primary = ["primary", "--dir", &at("data"), "--archive", &url("archive"), "--set", &second];
    walferry(&[&primary[..], &ports].concat(), &Vec::new()).expect(USAGE).says("archive-2");
    assert_eq!(files_below(root.path(), ""), Vec::<std::path::PathBuf>::new(), "nothing was begun");

    let archive = Archive::directory(&root.path().join("archive"));
    let mut node = Launch::primary(&root.path().join("data")).archive(&archive).start();
    node.client().ok(&cmd!("SET", "a", 1));
    node.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    assert!(node.terminate().success());
    archive.restore_into(&root.path().join("archive/restored"), &[]).expect(USAGE).says("archive");
    archive.tool("copy", &["--to", &url("archive/copy")]).expect(USAGE).says("archive");
    std::os::unix::fs::symlink(root.path().join("archive"), root.path().join("link")).unwrap();
    archive.tool("copy", &["--to", &url("link")]).expect(USAGE).says("archive");
    archive.tool("compact", &["--scratch", &at("archive")]).expect(USAGE).says("scratch");
    archive.tool("verify", &[]).expect(OK);
}

/// Goal: a new volume in which its file system created `lost+found` counts as empty for a primary, a replica, a
/// restore and a copy.
#[test]
fn a_fresh_volume_is_an_empty_directory() {
    let root = temporary();
    let volume = |name: &str| {
        let dir = root.path().join(name);
        std::fs::create_dir_all(dir.join("lost+found")).unwrap();
        dir
    };
    let archive = Archive::directory(&volume("archive"));
    let primary = Launch::primary(&volume("primary")).archive(&archive).start();
    primary.client().ok(&cmd!("RPUSH", "list", 1));
    primary.client().ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
    let from_archive = Launch::replica(&volume("replica"), primary.launch.repl_port).archive(&archive).start();
    let from_primary = Launch::replica(&volume("other"), primary.launch.repl_port).start();
    for replica in [&from_archive, &from_primary] {
        wait_until("the replica has everything", SETTLED_WITHIN, || {
            (replica.client().call(&cmd!("LLEN", "list")) == Value::Int(1)).then_some(())
        });
    }
    archive.restore_into(&volume("restored"), &[]).expect(OK);
    let copy = Archive::directory(&volume("copy"));
    archive.tool("copy", &["--to", &copy.url]).expect(OK);
    copy.tool("verify", &[]).expect(OK);
    for name in ["archive", "primary", "replica", "other", "restored", "copy"] {
        assert!(root.path().join(name).join("lost+found").is_dir(), "{name}");
    }
}

/// Reports whether this machine has IPv6 on its loopback interface.
fn has_ipv6() -> bool {
    let has = TcpListener::bind(("::1", 0)).is_ok();
    if !has {
        eprintln!("SKIPPED: no IPv6 here: nothing was checked with it");
    }
    has
}

/// Goal: status, mark and promote reach a node by host name, over IPv6, and with its password from each source. A
/// wrong password is a usage error, and no password is ever shown.
#[test]
fn tools_reach_every_node() {
    let root = temporary();
    let host = if has_ipv6() { "::1" } else { "127.0.0.1" };
    let bracketed = if host == "::1" { "[::1]" } else { host };
    let [port, repl_port, replica_port] = [(); 3].map(|()| free_port());
    let secured = |launch: Launch| launch.flag("--bind", bracketed).set("requirepass", "open sesame");
    let primary = secured(Launch::primary_on(&root.path().join("primary"), port, repl_port)).begin();
    let replica_dir = root.path().join("replica");
    let replica = Launch::following(&replica_dir, replica_port, &format!("{bracketed}:{repl_port}"));
    let replica = secured(replica).begin();
    wait_until("both nodes serve", SETTLED_WITHIN, || {
        [port, replica_port].iter().all(|port| TcpStream::connect((host, *port)).is_ok()).then_some(())
    });
    let file = root.path().join("password");
    std::fs::write(&file, "open sesame\n").unwrap();
    let (port, replica_port) = (port.to_string(), replica_port.to_string());
    let by_environment = variables(&[("WALFERRY_PASSWORD", "open sesame")]);
    let at = |subcommand: &str, host: &str, port: &str, more: &[&str], environment: &Vec<(String, String)>| {
        walferry(&[&[subcommand, "--host", host, "--port", port], more].concat(), environment)
    };
    let none = Vec::new();
    at("status", host, &port, &["--password", "open sesame"], &none).expect(OK).says("primary of epoch 1");
    at("status", bracketed, &port, &["--password-file", text_of(&file)], &none).expect(OK).says("primary of epoch 1");
    at("status", host, &replica_port, &[], &by_environment).expect(OK).says("replica of epoch 1");
    at("mark", host, &port, &["before"], &by_environment).expect(OK).says("mark before");
    at("status", host, &port, &[], &none).expect(USAGE).says("--password-file");
    let wrong = at("status", host, &port, &["--password", "guessed"], &none).expect(USAGE).says("password");
    assert!(!wrong.stderr.contains("guessed"), "{}", wrong.stderr);
    at("promote", host, &replica_port, &[], &by_environment).expect(OK).says("is a primary");
    at("status", host, &replica_port, &[], &by_environment).expect(OK).says("primary of epoch 2");
    at("status", host, &repl_port.to_string(), &[], &none).expect(1).says("port for clients");
    at("status", host, &free_port().to_string(), &[], &none).expect(1).says(bracketed);
    drop((primary, replica));
    for wrong in ["::1:6380", "host", "[::1]", "host:0", "host:70000"] {
        let replica = ["replica", "--dir", text_of(&replica_dir), "--primary", wrong];
        walferry(&replica, &none).expect(USAGE).says("HOST:REPLPORT");
    }
}

/// Goal: a replica that connects to a port for clients reports so, new or not, with or without a password there.
#[test]
fn a_replica_at_a_port_for_clients_says_so() {
    let root = temporary();
    for password in ["", "secret"] {
        let primary =
            Launch::primary(&root.path().join(format!("primary-{password}"))).set("requirepass", password).start();
        let dir = root.path().join(format!("replica-{password}"));
        Launch::replica(&dir, primary.launch.port).refused().expect(USAGE).says("port for clients");
        let mut replica = Launch::replica(&dir, primary.launch.repl_port).start();
        assert!(replica.terminate().success());
        Launch::replica(&dir, primary.launch.port).refused().expect(USAGE).says("port for clients");
    }
}

/// Reports whether a process has a handler for SIGTERM, without which the signal does not end process 1 of a
/// container.
fn handles_term(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (TERM - 1) & 1 == 1)
}

/// Returns a listener that accepts clients and sends nothing, so that clients wait.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

#[track_caller]
fn ends_by_term(node: &mut Node) {
    wait_until("there is a handler", SETTLED_WITHIN, || handles_term(node.pid()).then_some(()));
    node.signal("TERM");
    let ended = wait_until("it ends", SETTLED_WITHIN, || node.ended());
    ended.expect(128 + TERM);
}

/// Goal: a bootstrapping replica and a primary that waits for its archive handle SIGTERM, which is what ends process 1
/// of a container, and start later from the same directory.
#[test]
fn sigterm_ends_what_is_still_starting() {
    let root = temporary();
    let (listener, silent_port) = silent();
    let dir = root.path().join("replica");
    ends_by_term(&mut Launch::replica(&dir, silent_port).begin());
    let archive = Archive { url: "s3://bucket/prefix".into(), environment: weed::environment(silent_port) };
    ends_by_term(&mut Launch::primary(&root.path().join("waiting")).archive(&archive).begin());
    drop(listener);
    let primary = Launch::primary(&root.path().join("primary")).start();
    primary.client().ok(&cmd!("SET", "a", 1));
    let replica = Launch::replica(&dir, primary.launch.repl_port).start();
    wait_until("the replica has everything", SETTLED_WITHIN, || {
        (replica.client().call(&cmd!("EXISTS", "a")) == Value::Int(1)).then_some(())
    });
}

/// Goal: as process 1, which no signal without a handler ends, starting nodes and waiting tools end by SIGTERM.
#[test]
fn process_1_of_a_container_ends_by_sigterm() {
    let root = temporary();
    let (_listener, port) = silent();
    let dir = root.path().join("replica");
    let (silent_primary, port) = (format!("127.0.0.1:{port}"), port.to_string());
    let replica = ["replica", "--dir", text_of(&dir), "--port", &free_port().to_string(), "--primary", &silent_primary]
        .map(str::to_owned);
    let status = ["status", "--port", &port].map(str::to_owned);
    for arguments in [&replica[..], &status[..]] {
        let mut command = Command::new("unshare");
        let program = binary(&Vec::new()).get_program().to_owned();
        command.args(["--pid", "--fork", "--kill-child"]).arg(program).args(arguments);
        let mut outer = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("unshare is installed");
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let inner = wait_until("process 1 handles SIGTERM, or there is none", SETTLED_WITHIN, || {
            if outer.try_wait().expect("a child can be waited for").is_some() {
                return Some(None);
            }
            let pid: u32 = std::fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            handles_term(pid).then_some(Some(pid))
        });
        let Some(inner) = inner else {
            eprintln!("SKIPPED: no process namespace can be made here (it takes root): nothing was checked");
            return;
        };
        assert!(Command::new("kill").args(["-TERM", &inner.to_string()]).status().expect("kill").success());
        let ended = wait_until("process 1 ends", Duration::from_secs(10), || outer.try_wait().expect("a child"));
        assert_eq!(ended.code(), Some(128 + TERM), "{arguments:?}");
    }
}

/// Goal: `used_memory` is the memory of the process, RocksDB and caches included; `maxmemory` bounds only the lists
/// and sorted sets, and INFO shows both.
#[test]
fn used_memory_counts_what_the_process_holds() {
    let root = temporary();
    let primary = Launch::primary(&root.path().join("data")).set("routing", "type").start();
    let mut client = primary.client();
    let number = |field: &str| -> u64 { primary.client().info()[field].parse().expect("a number") };
    let (used, engines) = (number("used_memory"), number("memory_engine_bytes"));
    let value = vec![b'x'; 100 << 10];
    for key in 0..400 {
        client.ok(&cmd!("SET", format!("string:{key}"), value.clone()));
    }
    let (used_after, resident) = (number("used_memory"), number("used_memory_rss"));
    assert!(used_after >= used + (20 << 20), "40 MB of strings: {used} bytes before, {used_after} after");
    assert!(used_after <= resident + resident / 2, "{used_after} bytes are used, {resident} resident");
    assert_eq!(number("memory_engine_bytes"), engines, "strings on disk are no part of what maxmemory bounds");
    client.ok(&cmd!("RPUSH", "list", value));
    assert!(number("memory_engine_bytes") >= engines + (100 << 10));
    assert_eq!(number("used_memory_dataset"), number("memory_engine_bytes") + number("row_cache_bytes"));
}

/// Goal: a tool whose reader is gone ends without a message, with the exit code of a process that SIGPIPE ended; the
/// vocabulary and the help of each subcommand are printed, and an unknown topic is a usage error.
#[test]
fn help_is_printed_and_a_reader_may_leave() {
    const SIGPIPE_CODE: i32 = 128 + 13;
    let mut tool = binary(&Vec::new())
        .args(["help", "concepts"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(tool.stdout.take());
    let ended = tool.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(SIGPIPE_CODE));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");

    walferry(&["help", "concepts"], &Vec::new())
        .expect(OK)
        .says("history hash")
        .says("committed >= durable >= archived");
    walferry(&["help"], &Vec::new()).expect(OK).says("Usage: walferry").says("restore");
    walferry(&["help", "restore"], &Vec::new()).expect(OK).says("--to");
    walferry(&["help", "unheard-of"], &Vec::new()).expect(USAGE).says("does not exist");
}
