//! A primary that writes to a faulty store.

use super::{Rig, holds, write};
use crate::support::archive::{Archive, files_below};
use crate::support::client::{Client, cmd, error_text};
use crate::support::faulty_s3::{Fault, Kind, Mix};
use crate::support::history::History;
use crate::support::process::{Launch, SETTLED_WITHIN, wait_until};
use crate::support::workload::{Workload, seed};
use rand::RngExt;
use redis::Value;
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(300);
/// Number of steps of the random history in each case.
const STEPS: usize = 25;
/// Number of consecutive requests that meet the fault.
const IN_A_ROW: usize = 2;
const RESTORES: usize = 4;

/// Faults of an upload. A chunk needs a PUT and a HEAD, and a GET if its name is taken.
const OF_AN_UPLOAD: &[(Kind, Fault)] = &[
    (Kind::Put, Fault::DropRequest),
    (Kind::Put, Fault::LoseReply),
    (Kind::Put, Fault::Status(500)),
    (Kind::Put, Fault::SlowDown { retry_after_s: 1 }),
    (Kind::Put, Fault::Hang(MOMENT)),
    (Kind::Put, Fault::Slow(MOMENT)),
    (Kind::Put, Fault::CutUpload),
    (Kind::Put, Fault::StoreHalf),
    (Kind::Put, Fault::StoreHalfLoseReply),
    (Kind::Put, Fault::Pretend),
    (Kind::Head, Fault::DropRequest),
    (Kind::Head, Fault::Status(503)),
    (Kind::Head, Fault::Deny),
    (Kind::Head, Fault::Hang(MOMENT)),
];

/// Faults of reading a chunk whose name is taken because the reply to its upload was lost.
const OF_A_COMPARISON: &[Fault] =
    &[Fault::Deny, Fault::FlipBit(999), Fault::CutBody, Fault::Status(500), Fault::Throttle { bytes_per_second: 4000 }];

/// Goal: whatever fault an upload meets, clients are not affected, the watermark is never ahead of the store, and
/// afterwards the archive has everything, whole.
#[test]
fn each_fault_of_an_upload_only_delays() {
    let mut workload = Workload::new(seed());
    let rig = Rig::start(|launch| launch);
    let mut client = rig.primary.client();
    let mut history = History::start(&mut client);
    for &(kind, fault) in OF_AN_UPLOAD {
        let before = rig.proxy.count(kind).faults;
        rig.proxy.script(kind, [fault; IN_A_ROW]);
        write(&mut history, &mut workload, &mut client, STEPS);
        rig.drains(&mut client);
        wait_until("the next chunks meet what is left of the faults", SETTLED_WITHIN, || {
            write(&mut history, &mut workload, &mut client, 1);
            (rig.proxy.count(kind).faults == before + IN_A_ROW as u64).then_some(())
        });
        rig.drains(&mut client);
    }
    for &fault in OF_A_COMPARISON {
        rig.proxy.script(Kind::Put, [Fault::LoseReply]);
        rig.proxy.script(Kind::Get, [fault]);
        let before = rig.proxy.count(Kind::Get).faults;
        write(&mut history, &mut workload, &mut client, STEPS);
        rig.drains(&mut client);
        assert_eq!(rig.proxy.count(Kind::Get).faults, before + 1, "a chunk whose name is taken is read: {fault:?}");
    }
    assert_eq!(rig.flush(&mut client), history.csn());
    holds(&mut client, &history, "the primary");
    rig.direct.tool("verify", &[]).expect(0);
    let (first, last) = (history.csn_before() + 1, history.csn());
    rig.restores(&history, (0..RESTORES).map(|_| workload.rng().random_range(first..=last)).chain([last]));
}

/// Goal: with `archive-ack` a reply means that the store has the commit, whatever fault occurs.
#[test]
fn an_acknowledged_commit_is_in_the_store() {
    let rig = Rig::start(|launch| launch.set("archive-ack", "yes"));
    let mut client = rig.primary.client();
    let faults = vec![
        Fault::DropRequest,
        Fault::LoseReply,
        Fault::Status(503),
        Fault::StoreHalf,
        Fault::StoreHalfLoseReply,
        Fault::Pretend,
        Fault::Deny,
        Fault::FlipBit(0),
    ];
    rig.proxy.mix(Mix { seed: seed(), percent: 20, faults });
    for number in 0..25 {
        client.ok(&cmd!("RPUSH", "list", number));
        let committed = client.watermarks().committed;
        let reaches = rig.truth.reaches(1, 0);
        assert!(reaches >= committed, "csn {committed} was acknowledged, the store holds up to csn {reaches}");
    }
    assert!(rig.proxy.faults() > 5, "faults were met");
    rig.proxy.heal();
    rig.direct.tool("verify", &[]).expect(0);
}

/// Faults of successive requests of a base, and whether publishing must succeed nevertheless. A base is looked up by
/// GET, its files by HEAD; each object needs a PUT and a HEAD, a large one a PUT for each part.
const OF_A_BASE: &[(Kind, &[Fault], bool)] = &[
    (Kind::Put, &[Fault::DropRequest; 2], true),
    (Kind::Put, &[Fault::LoseReply; 2], true),
    (Kind::Put, &[Fault::SlowDown { retry_after_s: 1 }; 3], true),
    (Kind::Put, &[Fault::StoreHalf], false),
    (Kind::Put, &[Fault::StoreHalfLoseReply; 3], true),
    (Kind::Put, &[Fault::Pretend], false),
    (Kind::Head, &[Fault::Status(500); 3], true),
    (Kind::Head, &[Fault::Hang(MOMENT); 2], true),
    (Kind::Get, &[Fault::DropRequest; 2], true),
    (Kind::Part, &[Fault::DropRequest; 2], true),
    (Kind::Part, &[Fault::Status(503); 2], true),
    (Kind::Part, &[Fault::CutUpload], true),
    (Kind::Part, &[Fault::StoreHalf], false),
    (Kind::Multipart, &[Fault::LoseReply], true),
    (Kind::Multipart, &[Fault::None, Fault::LoseReply], true),
    (Kind::Multipart, &[Fault::None, Fault::Pretend], false),
];

/// Goal: a base is published whole, or the command reports why not and there is no base; the next attempt succeeds.
#[test]
fn each_fault_of_a_base_is_overcome_or_told() {
    let rig = Rig::start(|launch| launch.set("archive-interval", "60000"));
    let mut client = rig.primary.client();
    // Incompressible and larger than a single PUT, so that the memory image is uploaded in parts.
    let mut workload = Workload::new(seed());
    for _ in 0..18 {
        let element: Vec<u8> = (0..1 << 20).map(|_| workload.rng().random()).collect();
        client.ok(&cmd!("RPUSH", "large", element));
    }
    for &(kind, faults, is_overcome) in OF_A_BASE {
        let case = format!("{kind:?} meets {faults:?}");
        client.ok(&cmd!("SET", "key", &case));
        let before = rig.proxy.count(kind).faults;
        rig.proxy.script(kind, faults.iter().copied());
        let reply = client.call(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
        rig.proxy.heal();
        match (error_text(&reply), is_overcome) {
            (None, _) => {}
            (Some(error), false) => assert!(error.contains("object store"), "{case}: {error}"),
            (Some(error), true) => panic!("{case}: {error}"),
        }
        assert!(rig.proxy.count(kind).faults > before, "{case}: it did not");
        let again = client.ok(&cmd!("WALFERRY", "SNAPSHOT", "STRICT"));
        let csn = client.watermarks().committed;
        assert_eq!(again, Value::Int(csn as i64), "{case}");
    }
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let report = rig.direct.tool("verify", &["--json"]).expect(0).json();
    assert_eq!(report["bases"], OF_A_BASE.len(), "{report}");
}

/// Goal: while the store is away, writes are accepted until the spool is full, then refused with an error that says
/// so; reads work. Once the store is back, writes are accepted and nothing is lost, also with a restart in between.
#[test]
fn an_outage_fills_the_spool_and_passes() {
    const SPOOL_BYTES: usize = 200_000;
    let mut rig = Rig::start(|launch| launch.set("spool-max-bytes", &SPOOL_BYTES.to_string()));
    let mut client = rig.primary.client();
    rig.proxy.set_down(true);
    let mut workload = Workload::new(seed());
    let mut written = 0_usize;
    let refused = wait_until("the spool is full", SETTLED_WITHIN, || {
        let value: Vec<u8> = (0..10_000).map(|_| workload.rng().random()).collect();
        let refused = error_text(&client.call(&cmd!("RPUSH", "list", value)));
        written += usize::from(refused.is_none());
        refused
    });
    assert!(refused.starts_with("MISCONF") && refused.contains("spool-max-bytes"), "{refused}");
    assert!(written * 10_000 >= SPOOL_BYTES, "refused after {written} writes already");
    assert_eq!(client.ok(&cmd!("LLEN", "list")), Value::Int(written as i64), "reads go on");
    assert!(!client.info()["archive_last_error"].is_empty(), "INFO tells why");
    let archived = rig.watermark_holds(&mut client);

    // Killed during the outage: a primary does not start while it cannot check for another writer.
    let ended = rig.primary.try_restart().expect_err("a store that cannot be reached is an error at the start");
    ended.expect(6).says("object store");
    rig.proxy.heal();
    rig.primary.restart();
    let mut client = rig.primary.client();
    assert_eq!(client.ok(&cmd!("LLEN", "list")), Value::Int(written as i64), "nothing is lost");
    assert!(client.watermarks().archived >= archived, "the watermark does not go back");
    wait_until("writes are taken again", SETTLED_WITHIN, || {
        error_text(&client.call(&cmd!("RPUSH", "list", "more"))).is_none().then_some(())
    });
    rig.drains(&mut client);
    rig.direct.tool("verify", &[]).expect(0);
    let restored = rig.direct.restored(&["--to", "latest"]);
    assert_eq!(restored.client().ok(&cmd!("LLEN", "list")), Value::Int(written as i64 + 1));
}

/// Goal: wrong replies of the store are temporary faults, also those to the check for a newer epoch. Once they end,
/// archiving and writes resume by themselves; meanwhile INFO reports them, and with `archive-ack` they acknowledge
/// nothing. A record of a newer epoch does fence.
#[test]
fn a_wrong_answer_passes_and_fences_nobody() {
    let rig = Rig::start(|launch| launch.set("fence-check-interval", "20").set("archive-2", &second()));
    let mut client = rig.primary.client();
    let mut number = 0;
    let mut push = |client: &mut Client| {
        number += 1;
        client.ok(&cmd!("RPUSH", "list", number));
    };
    for fault in [Fault::Page, Fault::Empty] {
        for kind in [Kind::Get, Kind::List] {
            let before = rig.proxy.count(kind).faults;
            rig.proxy.always(&[kind], fault);
            wait_until("writes go on while the store answers wrongly", SETTLED_WITHIN, || {
                push(&mut client);
                (kind == Kind::List || rig.proxy.count(kind).faults > before + 20).then_some(())
            });
            if kind == Kind::Get {
                let info = client.info();
                assert!(!info["archive_last_error"].is_empty() && info["writes_refused"].is_empty(), "{info:?}");
            }
            rig.proxy.heal();
            rig.drains(&mut client);
        }
        client.ok(&cmd!("CONFIG", "SET", "archive-ack", "yes"));
        rig.proxy.always(&[Kind::Get], fault);
        client.send(&[cmd!("SET", "acknowledged", 1)]).expect("sent");
        let before = rig.proxy.count(Kind::Get).faults;
        wait_until("the fence was asked for", SETTLED_WITHIN, || {
            (rig.proxy.count(Kind::Get).faults > before + 3).then_some(())
        });
        rig.proxy.heal();
        assert_eq!(error_text(&client.receive().expect("a reply")), None);
        client.ok(&cmd!("CONFIG", "SET", "archive-ack", "no"));
    }
    rig.direct.tool("verify", &[]).expect(0);
    wait_until("the second archive has everything", SETTLED_WITHIN, || {
        let (committed, info) = (client.watermarks().committed, client.info());
        (info["archive_2_csn"].parse() == Ok(committed)).then_some(())
    });
}

/// Goal: a record of the next epoch that is empty for a while, as an interrupted claim leaves it, has no lasting
/// effect.
#[test]
fn an_emptied_record_passes() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().join("archive");
    let archive = Archive::directory(&dir);
    let launch = Launch::primary(&root.path().join("primary")).archive(&archive).set("archive-interval", "20");
    let primary = launch.set("fence-check-interval", "20").start();
    let mut client = primary.client();
    client.ok(&cmd!("SET", "a", 1));
    client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    let own = files_below(&dir.join("epochs"), ".json").pop().expect("the record of epoch 1");
    let name = own.file_name().unwrap().to_str().unwrap().replacen('1', "2", 1);
    let next = own.with_file_name(name);
    std::fs::write(&next, "").expect("written");
    wait_until("INFO tells", SETTLED_WITHIN, || {
        client.ok(&cmd!("SET", "b", 1));
        client.info()["archive_last_error"].contains("record is incomplete").then_some(())
    });
    assert_eq!(client.info()["writes_refused"], "");
    std::fs::remove_file(&next).expect("removed");
    let csn = client.watermarks().committed;
    wait_until("archiving goes on", SETTLED_WITHIN, || {
        let info = client.info();
        (client.watermarks().archived >= csn && info["archive_failures_in_row"] == "0").then_some(())
    });
}

/// Returns a separate prefix on the same server, for a second archive.
fn second() -> String {
    Archive::s3().url
}
