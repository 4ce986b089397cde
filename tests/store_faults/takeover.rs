//! Promotion with a faulty store: there is one writer at any time, and no acknowledged commit is lost.

use super::{Rig, holds, write};
use crate::support::archive::Archive;
use crate::support::client::{cmd, error_text};
use crate::support::dump::assert_same;
use crate::support::faulty_s3::{Fault, Kind};
use crate::support::history::History;
use crate::support::process::{Launch, Node, SETTLED_WITHIN, wait_until};
use crate::support::tool::{Finished, walferry};
use crate::support::workload::{Workload, seed};
use std::time::Duration;

/// A primary, its replica, which reads and claims through the same proxy, and the history written.
struct Pair {
    rig: Rig,
    replica: Node,
    history: History,
    workload: Workload,
}

impl Pair {
    fn start() -> Self {
        let rig = Rig::start(|launch| launch.set("fence-check-interval", "100"));
        let launch = Launch::replica(&rig.dir("replica"), rig.primary.launch.repl_port).archive(&rig.faulty);
        let replica = launch.set("archive-interval", "20").set("fence-check-interval", "100").start();
        let mut workload = Workload::new(seed());
        let mut client = rig.primary.client();
        let mut history = History::start(&mut client);
        write(&mut history, &mut workload, &mut client, 60);
        rig.flush(&mut client);
        let pair = Self { rig, replica, history, workload };
        pair.replica_has_everything();
        pair
    }

    fn promote(&self) -> Finished {
        walferry(&["promote", "--port", &self.replica.launch.port.to_string()], &self.rig.faulty.environment)
    }

    #[track_caller]
    fn replica_has_everything(&self) {
        let mut client = self.replica.client();
        wait_until("the replica has everything", SETTLED_WITHIN, || {
            (client.watermarks().committed == self.history.csn()).then_some(())
        });
    }

    /// Asserts that the new primary continues the history and that the archive has all of it.
    #[track_caller]
    fn goes_on(&mut self) {
        let mut client = self.replica.client();
        assert!(client.watermarks().epoch > 1, "a promotion starts an epoch");
        holds(&mut client, &self.history, "the new primary at its fork");
        write(&mut self.history, &mut self.workload, &mut client, 40);
        assert_eq!(self.rig.flush(&mut client), self.history.csn());
        self.rig.direct.tool("verify", &[]).expect(0);
        let fork = self.history.csn() - 20;
        self.rig.restores(&self.history, [fork, self.history.csn()]);
    }
}

/// Goal: faults that the retries of a claim overcome have no visible effect.
#[test]
fn a_promotion_overcomes_faults_that_pass() {
    let mut pair = Pair::start();
    pair.rig.primary.kill();
    pair.rig.proxy.script(Kind::Put, [Fault::LoseReply, Fault::SlowDown { retry_after_s: 1 }, Fault::DropRequest]);
    pair.rig.proxy.script(Kind::Get, [Fault::Status(500), Fault::CutBody, Fault::DropRequest]);
    pair.rig.proxy.script(Kind::List, [Fault::CutBody, Fault::Status(503)]);
    pair.rig.proxy.script(Kind::Head, [Fault::Status(503)]);
    pair.promote().expect(0);
    assert!(pair.rig.proxy.faults() >= 6, "the promotion met faults");
    pair.rig.proxy.heal();
    pair.goes_on();
}

/// Goal: a failed promotion reports the reason and changes nothing for clients: the node stays a replica, follows its
/// primary, and can be promoted later, without a write in between that would not be archived.
#[test]
fn a_promotion_that_fails_leaves_a_replica_that_follows() {
    let mut pair = Pair::start();
    let attempts: &[(&str, Kind, &[Fault])] = &[
        ("nothing can be listed", Kind::List, &[Fault::Status(503); 4]),
        ("the claim is never stored", Kind::Put, &[Fault::Pretend; 4]),
        ("the claim is never heard", Kind::Put, &[Fault::DropRequest; 4]),
    ];
    for (case, kind, faults) in attempts {
        // The primary archives through the same proxy and must not consume the faults.
        pair.rig.drains(&mut pair.rig.primary.client());
        pair.rig.proxy.script(*kind, faults.iter().copied());
        let failed = pair.promote();
        pair.rig.proxy.heal();
        assert_ne!(failed.code, Some(0), "{case}: {failed:?}");
        failed.says("object store");
        let mut client = pair.replica.client();
        assert_eq!(client.info()["role"], "slave", "{case}");
        let refused = error_text(&client.call(&cmd!("SET", "key", "value"))).expect(case);
        assert!(refused.starts_with("READONLY"), "{case}: {refused}");
        let mut client = pair.rig.primary.client();
        write(&mut pair.history, &mut pair.workload, &mut client, 10);
        pair.replica_has_everything();
    }
    pair.rig.primary.kill();
    pair.promote().expect(0);
    pair.goes_on();
}

/// Goal: a promotion that loses the store after its claim does not make half a primary: the node accepts no write, and
/// a second attempt completes the promotion.
#[test]
fn a_promotion_cut_off_after_its_claim_takes_no_writes() {
    let mut pair = Pair::start();
    pair.rig.primary.kill();
    // Listings: the tail before the claim, the epochs for the claim, the tail after the claim, the start of shipping.
    for answered in [2, 3] {
        pair.rig.proxy.script(Kind::List, (0..answered).map(|_| Fault::None).chain([Fault::Status(503); 4]));
        let failed = pair.promote();
        pair.rig.proxy.heal();
        assert_ne!(failed.code, Some(0), "cut off after {answered} listings: {failed:?}");
        let mut client = pair.replica.client();
        let refused = error_text(&client.call(&cmd!("SET", "key", "value")));
        assert!(refused.as_ref().is_some_and(|error| error.starts_with("READONLY")), "{answered}: {refused:?}");
    }
    pair.promote().expect(0);
    pair.goes_on();
}

/// Goal: a replica that is killed at any request of its promotion leaves an archive that restores everything
/// acknowledged, and its next start and promotion lose nothing.
#[test]
fn a_promotion_killed_at_any_request_goes_on_at_the_next_start() {
    for kind in [Kind::Put, Kind::List] {
        for answered in 0.. {
            let mut pair = Pair::start();
            pair.rig.primary.kill();
            pair.rig
                .proxy
                .script(kind, (0..answered).map(|_| Fault::None).chain([Fault::Hang(Duration::from_secs(60))]));
            let ended = std::thread::scope(|scope| {
                let (rig, environment) = (&pair.rig, &pair.rig.faulty.environment);
                let port = pair.replica.launch.port.to_string();
                let promoting = scope.spawn(move || walferry(&["promote", "--port", &port], environment));
                wait_until("the promotion hangs or ends", SETTLED_WITHIN, || {
                    (rig.proxy.faults() > 0 || promoting.is_finished()).then_some(())
                });
                pair.replica.kill();
                rig.proxy.heal();
                promoting.join().expect("the tool ends")
            });
            if ended.code == Some(0) {
                assert!(answered > 0, "{kind:?}: a promotion has such requests");
                break;
            }
            let (watermarks, found) = pair.rig.direct.restored(&["--to", "latest"]).state();
            assert_eq!(watermarks.committed, pair.history.csn(), "{kind:?} {answered}: restored from the archive");
            assert_same(&pair.history.model.dump(), &found, "restored after the cut-off promotion");
            pair.replica.restart();
            pair.promote().expect(0);
            pair.goes_on();
        }
    }
}

/// Goal: a store that ignores create-only puts is refused for failover, with the reason.
#[test]
fn a_store_that_pretends_is_refused_for_failover() {
    let pair = Pair::start();
    pair.rig.proxy.script(Kind::Put, [Fault::None, Fault::Pretend]);
    let refused = pair.promote();
    assert_ne!(refused.code, Some(0), "{refused:?}");
    refused.says("object store");
}

/// Goal: a primary that was fenced while its listings were stale does not become a writer, because it requests the
/// newer epoch's record by its name.
#[test]
fn a_fenced_primary_is_not_let_in_by_a_stale_listing() {
    let mut pair = Pair::start();
    pair.rig.primary.kill();
    pair.promote().expect(0);
    pair.goes_on();
    pair.rig.proxy.always(&[Kind::List], Fault::Stale { newest: usize::MAX });
    match pair.rig.primary.try_restart() {
        Err(ended) => drop(ended.expect_any(&[5, 6])),
        Ok(()) => panic!("a fenced primary serves clients"),
    }
}

/// Goal: a replica whose primary has no archive takes over with an archive of its own: the archive begins with the new
/// epoch, which has no parent there, and holds the whole history.
#[test]
fn a_new_archive_begins_with_a_promotion() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    let mut primary = Launch::primary(&root.path().join("primary")).start();
    let launch = Launch::replica(&root.path().join("replica"), primary.launch.repl_port).archive(&archive);
    let replica = launch.start();
    let (mut workload, mut there, mut here) = (Workload::new(seed()), primary.client(), replica.client());
    let mut history = History::start(&mut there);
    write(&mut history, &mut workload, &mut there, 40);
    wait_until("the replica has everything", SETTLED_WITHIN, || {
        (here.watermarks().committed == history.csn()).then_some(())
    });
    primary.kill();
    walferry(&["promote", "--port", &replica.launch.port.to_string()], &archive.environment).expect(0);
    write(&mut history, &mut workload, &mut here, 20);
    here.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
    archive.tool("verify", &[]).expect(0);
    let (_, found) = archive.restored(&["--to", "latest"]).state();
    assert_same(&history.model.dump(), &found, "restored from the new archive");
}
