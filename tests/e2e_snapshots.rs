//! Bases of every consistency level, cut under load by primary and replica: restored exactly around their cuts,
//! repaired in the background, published by the configured node, and never beyond what a promotion keeps. Local images
//! are written only as often as the log requires.

mod support;

use serde_json::Value as Json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::archive::Archive;
use support::client::{Client, Command, cmd, error_text, framed, integer};
use support::dump::{Content, Dump, Dumped, assert_same};
use support::process::{Launch, Node, SETTLED_WITHIN, StopOnDrop, wait_until};
use support::tool::walferry;

const KEYS: u64 = 30;
/// Number of commits before the first base, so that cutting takes a while.
const WRITES_BEFORE: u64 = 20_000;
const PIPELINE: u64 = 40;
/// Bases that are made until the load commits between the cuts of one.
const CUTS_TRIED_MAX: usize = 50;
/// How often a base is tried that the load must make impossible.
const REFUSALS_TRIED_MAX: usize = 50;

/// Returns write `number`: one commit, over all engines or in one.
fn write(number: u64) -> Vec<Command> {
    let key = |kind: &str| format!("{kind}:{}", number % KEYS);
    let (string, list) = (cmd!("SET", key("string"), number), cmd!("RPUSH", key("list"), number));
    let zset = cmd!("ZADD", key("zset"), number, format!("member:{}", number % 7));
    let trim = cmd!("LTRIM", key("list"), "-5", "-1");
    match number % 4 {
        0 => framed(&[string, list, zset, trim]),
        1 => vec![string],
        2 => vec![list],
        _ => vec![zset],
    }
}

/// Returns the state after the first `count` writes.
fn expected(count: u64) -> Dump {
    let mut state = Dump::new();
    let entry = |content| Dumped { content, expires_at_ms: None };
    for number in 0..count {
        let key = |kind: &str| format!("{kind}:{}", number % KEYS).into_bytes();
        let touches = |engine: u64| number % 4 == 0 || number % 4 == engine;
        if touches(1) {
            state.insert(key("string"), entry(Content::String(number.to_string().into_bytes())));
        }
        if touches(2) {
            let list = state.entry(key("list")).or_insert_with(|| entry(Content::List(Vec::new())));
            let Content::List(elements) = &mut list.content else { unreachable!("the key holds a list") };
            elements.push(number.to_string().into_bytes());
            if number % 4 == 0 {
                elements.drain(..elements.len().saturating_sub(5));
            }
        }
        if touches(3) {
            let zset = state.entry(key("zset")).or_insert_with(|| entry(Content::Zset(Vec::new())));
            let Content::Zset(members) = &mut zset.content else { unreachable!("the key holds a sorted set") };
            let member = format!("member:{}", number % 7).into_bytes();
            members.retain(|(other, _)| *other != member);
            members.push((member, number as f64));
        }
    }
    state
}

/// Writes in sequence without a pause; write `n` has csn `n + 1`.
struct Load {
    written: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    fn new() -> Self {
        Self { written: AtomicU64::new(0), stop: AtomicBool::new(false) }
    }

    /// Writes until there are `count` writes.
    fn fill(&self, client: &mut Client, count: u64) {
        while self.written.load(Ordering::Relaxed) < count {
            self.pipeline(client);
        }
    }

    fn pipeline(&self, client: &mut Client) {
        let first = self.written.load(Ordering::Relaxed);
        let commands: Vec<Command> = (first..first + PIPELINE).flat_map(write).collect();
        for reply in client.pipeline(&commands) {
            assert!(error_text(&reply).is_none(), "a write was refused: {reply:?}");
        }
        self.written.fetch_add(PIPELINE, Ordering::Relaxed);
    }

    /// Runs `body` while another connection writes.
    fn during<T>(&self, node: &Node, body: impl FnOnce() -> T) -> T {
        self.stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&self.stop);
            scope.spawn(|| {
                let mut client = node.client();
                while !self.stop.load(Ordering::Relaxed) {
                    self.pipeline(&mut client);
                }
            });
            body()
        })
    }

    fn count(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

fn primary(root: &Path, archive: &Archive) -> Launch {
    let launch = Launch::primary(&root.join("primary")).archive(archive);
    // The load must have effects on disk, so that commits lie between the cuts of a base.
    launch.set("archive-interval", "50").set("fence-check-interval", "200").set("routing", "type")
}

fn replica(root: &Path, name: &str, archive: &Archive, primary: &Node) -> Launch {
    Launch::replica(&root.join(name), primary.launch.repl_port).archive(archive).set("archive-interval", "50")
}

#[track_caller]
fn bases(archive: &Archive) -> Vec<Json> {
    let report = archive.tool("snapshots", &["--json"]).expect(0).json();
    report["bases"].as_array().expect("bases").clone()
}

#[track_caller]
fn base_at(archive: &Archive, csn: u64) -> Json {
    let all = bases(archive);
    all.iter().find(|base| base["csn"] == csn).unwrap_or_else(|| panic!("no base at csn {csn} in {all:?}")).clone()
}

/// Restores to a commit and compares; returns the base that the restore started from, and the csn after which its
/// chunks begin.
#[track_caller]
fn restored_is(archive: &Archive, csn: u64) -> (String, u64) {
    let target = format!("csn:{csn}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let plan = archive.restore_into(&dir.path().join("d"), &["--to", &target, "--dry-run", "--json"]).expect(0).json();
    let (watermarks, found) = archive.restored(&["--to", &target]).state();
    assert_eq!(watermarks.committed, csn);
    assert_same(&expected(csn), &found, &format!("restored to csn {csn} by {plan}"));
    let first = &plan["steps"][0];
    (first["base"].as_str().unwrap_or_default().to_owned(), first["after"].as_u64().unwrap_or_default())
}

/// Goal: under load, each level gives a base that restores exactly beyond its cuts and is not used between them. A
/// bound that cannot be met is refused and leaves nothing; an eventual base becomes strict in the background.
#[test]
fn bases_of_every_level_under_load_in_a_directory() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let second = Archive::directory(&root.path().join("archive-2"));
    let primary = primary(root.path(), &archive).set("archive-2", &second.url).start();
    let eventual = levels_under_load(&primary, &archive);
    wait_until("the eventual base is repaired in the second archive, too", SETTLED_WITHIN, || {
        (base_at(&second, eventual)["content"]["level"] == "strict").then_some(())
    });
    restored_is(&second, eventual);
    second.tool("verify", &[]).expect(0);
}

/// Goal: on a real S3 server, bases of every level cut under load restore exactly beyond their cuts.
#[test]
fn bases_of_every_level_under_load_on_s3() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::s3();
    levels_under_load(&primary(root.path(), &archive).start(), &archive);
}

/// Cuts bases of each level under load and checks them; returns the csn of the eventual base.
fn levels_under_load(primary: &Node, archive: &Archive) -> u64 {
    let mut client = primary.client();
    let load = Load::new();
    load.fill(&mut client, WRITES_BEFORE);
    let levels = [&["STRICT"][..], &["BOUNDED", "60000"], &["EVENTUAL"]];
    let mut taken = Vec::new();
    load.during(primary, || {
        for level in levels {
            let command: Vec<Vec<u8>> =
                ["WALFERRY", "SNAPSHOT"].iter().chain(level).map(|word| word.as_bytes().to_vec()).collect();
            // The load need not commit between the cuts of each base.
            let csn = (0..CUTS_TRIED_MAX).find_map(|_| {
                let csn = integer(&client.ok(&command)) as u64;
                let info = client.info();
                assert_eq!(info["last_base_csn"], csn.to_string());
                assert_eq!(info["last_base_level"], level[0].to_lowercase());
                (info["last_base_skew_commits"] != "0").then_some(csn)
            });
            let csn = csn.expect("the load commits between the cuts of one base of many");
            taken.push((level[0], csn));
        }
        let mut tried = 0;
        let refused = loop {
            tried += 1;
            match error_text(&client.call(&cmd!("WALFERRY", "SNAPSHOT", "BOUNDED", 0))) {
                Some(refused) => break refused,
                None => assert!(tried < REFUSALS_TRIED_MAX, "a bound of 0 ms was kept under load"),
            }
        };
        assert!(refused.contains("0 ms are allowed") && refused.contains("no base was made"), "{refused}");
        assert!(!primary.launch.dir.join("base").exists(), "a refused base leaves nothing behind");
    });
    wait_until("the eventual base is repaired", SETTLED_WITHIN, || {
        (client.info()["bases_to_repair"] == "0").then_some(())
    });
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let count = load.count();
    let (_, eventual) = taken[2];
    for (level, csn) in taken {
        let base = base_at(archive, csn);
        let (content, cut) = (&base["content"], &base["content"]["cut"]);
        let now = if level == "BOUNDED" { "bounded" } else { "strict" };
        assert_eq!((&content["level"], &cut["asked"]), (&now.into(), &level.to_lowercase().into()), "{base}");
        let (after, skew) = (base["after"].as_u64().unwrap(), cut["skew_commits"].as_u64().unwrap());
        assert_eq!(after, if level == "BOUNDED" { csn - skew } else { csn }, "{base}");
        let own = base["name"].as_str().unwrap();
        for target in [csn - skew, csn - 1, csn, csn + 1] {
            let (start, begin) = restored_is(archive, target);
            assert_eq!(start == own, target >= csn, "csn {target} from {start}");
            assert!(start != own || begin == after, "csn {target}: chunks from {begin}, {base}");
        }
    }
    restored_is(archive, count);
    let text = archive.tool("snapshots", &[]).expect(0);
    text.says("strict (asked eventual, repaired)").says("bounded, needs chunks after csn").says("by primary");
    archive.tool("verify", &[]).expect(0);
    eventual
}

/// Goal: a replica publishes the scheduled bases, so the primary publishes none; when the replica is gone, the primary
/// publishes them.
#[test]
fn a_replica_publishes_so_that_the_primary_need_not() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let primary = primary(root.path(), &archive).set("snapshot-interval", "500").start();
    let mut replica =
        replica(root.path(), "replica", &archive, &primary).set("snapshot-consistency", "eventual").start();
    let mut client = primary.client();
    wait_until("the replica is connected", SETTLED_WITHIN, || (client.info()["connected_slaves"] == "1").then_some(()));
    let load = Load::new();
    let node = replica.client().info()["node_id"].clone();
    let credited = |client: &mut Client, above: u64| {
        wait_until("a replica's base is credited", SETTLED_WITHIN, || {
            let info = client.info();
            let csn = info["last_base_csn"].parse::<u64>().expect("a csn");
            (csn > above && info["last_base_replica"] == node).then_some(csn)
        })
    };
    // The primary may have published a base before the replica was ready.
    let own_until = client.info()["last_base_csn"].parse::<u64>().expect("a csn");
    let (first, second) = load.during(&primary, || {
        let first = credited(&mut client, own_until);
        (first, credited(&mut client, first))
    });
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let published = bases(&archive);
    for base in published.iter().filter(|base| base["csn"].as_u64() > Some(own_until)) {
        assert_eq!(base["content"]["cut"]["role"], "replica", "{base}");
        assert_eq!(base["content"]["cut"]["node"], node.as_str());
    }
    for csn in [first, second, second + 1] {
        restored_is(&archive, csn);
    }
    replica.kill();
    load.during(&primary, || {
        wait_until("the primary publishes itself", SETTLED_WITHIN, || {
            let info = client.info();
            (info["last_base_replica"].is_empty() && info["last_base_error"].is_empty()).then_some(())
        });
    });
    let last = client.info()["last_base_csn"].parse().expect("a csn");
    assert_eq!(base_at(&archive, last)["content"]["cut"]["role"], "primary");
    restored_is(&archive, last);
    archive.tool("verify", &[]).expect(0);
}

/// Goal: a primary and a replica that publish at the same time, at one csn and at different csns, leave an archive
/// that is whole and restores exactly from every base.
#[test]
fn two_publishers_at_once_never_conflict() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let primary = primary(root.path(), &archive).start();
    let replica = replica(root.path(), "replica", &archive, &primary).start();
    let load = Load::new();
    load.fill(&mut primary.client(), WRITES_BEFORE / 4);
    let both = |level: &str| {
        std::thread::scope(|scope| {
            let nodes = [&primary, &replica];
            let cut = |node: &Node| integer(&node.client().ok(&cmd!("WALFERRY", "SNAPSHOT", level))) as u64;
            let cuts = nodes.map(|node| scope.spawn(move || cut(node)));
            cuts.map(|cut| cut.join().expect("a base"))
        })
    };
    wait_until("the replica has applied all", SETTLED_WITHIN, || {
        (replica.client().watermarks().committed == load.count()).then_some(())
    });
    for level in ["STRICT", "EVENTUAL"] {
        assert_eq!(both(level), [load.count(); 2], "both are at the last commit");
    }
    restored_is(&archive, load.count());
    let mut csns = Vec::new();
    load.during(&primary, || {
        for level in ["STRICT", "EVENTUAL", "EVENTUAL"] {
            csns.extend(both(level));
        }
    });
    primary.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    csns.sort_unstable();
    for csn in csns {
        assert!(restored_is(&archive, csn).0.contains(&format!("{csn:020}")), "csn {csn} from its own base");
    }
    archive.tool("verify", &[]).expect(0);
}

/// Goal: a replica never publishes a base with commits that the archive lacks. The base waits; it is published when
/// its own node is promoted and archives the commits, and never if a promotion elsewhere abandons them.
#[test]
fn a_base_waits_for_the_archive_and_dies_with_its_branch() {
    for is_own_promotion in [true, false] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let archive = Archive::directory(&root.path().join("archive"));
        let launch = Launch::primary(&root.path().join("primary")).archive(&archive);
        let mut primary = launch.set("archive-interval", "3600000").start();
        let ahead = replica(root.path(), "ahead", &archive, &primary).start();
        let mut behind = replica(root.path(), "behind", &archive, &primary).start();
        let load = Load::new();
        let mut client = primary.client();
        load.fill(&mut client, 400);
        let caught_up = |node: &Node| {
            wait_until("a replica has applied all", SETTLED_WITHIN, || {
                (node.client().watermarks().committed == load.count()).then_some(())
            });
        };
        [&ahead, &behind].into_iter().for_each(caught_up);
        client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
        let archived = load.count();
        behind.terminate();
        load.fill(&mut client, 800);
        caught_up(&ahead);
        let sent = load.count();
        std::thread::scope(|scope| {
            let snapshot = scope.spawn(|| ahead.client().try_call(&cmd!("WALFERRY", "SNAPSHOT", "STRICT")));
            wait_until("the base's files are in the archive", SETTLED_WITHIN, || {
                let dir = root.path().join(format!("archive/bases/{sent:020}-00000001"));
                // The memory image and the four small metadata files of RocksDB.
                (std::fs::read_dir(dir).map_or(0, Iterator::count) >= 5).then_some(())
            });
            primary.kill();
            behind.restart();
            assert!(bases(&archive).is_empty(), "a base ahead of the archive was published");
            let promoted = if is_own_promotion { &ahead } else { &behind };
            walferry(&["promote", "--port", &promoted.launch.port.to_string()], &archive.environment).expect(0);
            if is_own_promotion {
                let reply = snapshot.join().expect("no panic").expect("a reply");
                assert_eq!(integer(&reply) as u64, sent);
                assert_eq!(base_at(&archive, sent)["content"]["cut"]["role"], "replica");
                restored_is(&archive, sent);
            } else {
                promoted.client().ok(&cmd!("SET", "string:0", "another branch"));
                promoted.client().ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
                assert!(bases(&archive).is_empty(), "a base of a branch left behind was published");
                restored_is(&archive, archived);
                // The request ends with its process; the scope waits for the request.
                ahead.signal("KILL");
            }
        });
        archive.tool("verify", &[]).expect(0);
    }
}

/// Goal: the bytes of images stay within the bytes logged, however large the data, and however long the logs are kept
/// because nothing is archived.
#[test]
fn images_are_written_as_the_log_grows() {
    const LOGGED: usize = 6 << 20;
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let small = |launch: Launch| launch.set("oplog-segment-bytes", "1mb").set("image-log-bytes", "1mb");
    let launch = small(Launch::primary(&root.path().join("primary")).archive(&archive));
    let primary = launch.set("archive-interval", "3600000").start();
    let replica = small(replica(root.path(), "replica", &archive, &primary)).start();
    let mut client = primary.client();
    let value = "v".repeat(1000);
    let images = |node: &Node| node.log().matches("memory image written").count();
    // Writes to the disk engines only: the memory engines hold nothing that an image would contain.
    for number in 0..LOGGED / value.len() {
        client.ok(&cmd!("SET", format!("key:{}", number % 10), value));
    }
    wait_until("the replica has an image", SETTLED_WITHIN, || (images(&replica) > 0).then_some(()));
    let kept = client.info()["log_bytes"].parse::<usize>().expect("a number");
    assert!(kept > LOGGED, "the logs are kept for the archive: {kept} bytes");
    for _ in 0..60 {
        std::thread::sleep(Duration::from_millis(100));
        client.ok(&cmd!("SET", "key", "value"));
    }
    for node in [&primary, &replica] {
        assert!((1..=LOGGED >> 20).contains(&images(node)), "{} images for {LOGGED} bytes", images(node));
    }
    // A list that takes more memory than the bytes logged afterwards.
    for number in 0..2 * LOGGED / value.len() {
        client.ok(&cmd!("RPUSH", "list", format!("{number}{value}")));
    }
    let length = (2 * LOGGED / value.len()) as i64;
    let mut reader = replica.client();
    wait_until("the replica has the list", SETTLED_WITHIN, || {
        (integer(&reader.ok(&cmd!("LLEN", "list"))) == length).then_some(())
    });
    let before = images(&replica);
    wait_until("an image is begun", SETTLED_WITHIN, || {
        error_text(&reader.call(&cmd!("BGSAVE"))).is_none().then_some(())
    });
    wait_until("the replica has an image of the list", SETTLED_WITHIN, || (images(&replica) > before).then_some(()));
    let before = images(&replica);
    for number in 0..LOGGED / value.len() {
        client.ok(&cmd!("SET", format!("key:{}", number % 10), value));
        if number % 1000 == 0 {
            std::thread::sleep(Duration::from_millis(1100));
        }
    }
    assert_eq!(images(&replica), before, "an image would cost more than the log");
}
