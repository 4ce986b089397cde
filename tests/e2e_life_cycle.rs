//! The life of an archive with the binary: random histories over all types, bases of all levels, merging, compacted
//! runs, rebuilt bases, prunes by hand beside the primary's own, and restores into new epochs. Servers and tools are
//! killed meanwhile. What the policy promises is restored and compared with the model, on the newest and on abandoned
//! lines.

mod support;

use rand::RngExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::archive::{Archive, files_below};
use support::client::{Client, cmd, error_text, integer};
use support::dump::assert_same;
use support::faulty_s3::{Fault, FaultyS3, Mix};
use support::history::{History, now_us};
use support::process::{Launch, Node};
use support::workload::{Choice, Workload, seed};

/// Number of steps in each archive's life; `WALFERRY_ROUNDS` overrides it.
const STEPS: usize = 12;
/// Number of history steps in each of them.
const HISTORY: usize = 24;
const IN_PIPELINE: usize = 40;
/// Number of restores after each step.
const RESTORES: usize = 2;
const FINE: Duration = Duration::from_secs(8);
const POLICY: &str = "8s fine, every 2s 1d";
/// Grace period of the prunes; longer than a base takes.
const GRACE: &str = "4s";
/// How much older a commit may become between a reading of the clock and a prune.
const SLACK: Duration = Duration::from_secs(4);

const FAULTS: [Fault; 9] = [
    Fault::DropRequest,
    Fault::LoseReply,
    Fault::Status(500),
    Fault::SlowDown { retry_after_s: 1 },
    Fault::Slow(Duration::from_millis(50)),
    Fault::CutUpload,
    Fault::StoreHalf,
    Fault::StoreHalfLoseReply,
    Fault::CutBody,
];

/// Removes the pins of a process that was killed.
fn bury(pins: &Path, pid: u32) {
    for pin in files_below(pins, ".json") {
        if std::fs::read_to_string(&pin).is_ok_and(|record| record.contains(&format!("process {pid}\""))) {
            std::fs::remove_file(pin).expect("a pin can be removed");
        }
    }
}

/// A line of history that a restore abandoned.
struct Left {
    epoch: u64,
    /// The last commit that the newest line has too.
    shared: u64,
    history: History,
}

struct Life<'a> {
    root: &'a Path,
    /// The archive as the servers and tools reach it.
    archive: Archive,
    /// The same archive without faults.
    direct: Archive,
    node: Node,
    history: History,
    left: Vec<Left>,
    workload: Workload,
}

fn launch(dir: &Path, archive: &Archive) -> Launch {
    let launch = Launch::primary(dir).archive(archive).set("archive-interval", "20").set("appendfsync", "everysec");
    let launch = launch.set("merge-interval", "500").set("merge-grace", "500");
    launch.set("keep", POLICY).set("prune-interval", "2000").set("prune-grace", GRACE)
}

impl<'a> Life<'a> {
    fn begin(root: &'a Path, archive: Archive, direct: Archive) -> Self {
        let node = launch(&root.join("0"), &archive).start();
        let history = History::start(&mut node.client());
        Self { root, archive, direct, node, history, left: Vec::new(), workload: Workload::new(seed()) }
    }

    fn client(&self) -> Client {
        self.node.client()
    }

    fn write(&mut self) {
        let mut client = self.client();
        for step in 0..HISTORY {
            self.history.run(&mut client, self.workload.next(Choice::Open));
            if step % 4 == 0 {
                std::thread::sleep(Duration::from_millis(25));
            }
        }
    }

    fn certain(&mut self, count: usize) -> Vec<support::model::Step> {
        let mut after = self.history.model.clone();
        (0..count).map(|_| self.workload.next_certain(&mut after)).collect()
    }

    fn kill_and_restart(&mut self) {
        let steps = self.certain(IN_PIPELINE);
        let replies = self.workload.rng().random_range(0..IN_PIPELINE);
        let mut client = self.client();
        let doubt = self.history.run_killed(&mut self.node, &mut client, steps, replies);
        self.node.restart();
        self.history.resolve(doubt, &mut self.node.client());
    }

    /// Cuts a base of a random level under load; sometimes the server is killed meanwhile.
    fn snapshot(&mut self) {
        let level = match self.workload.rng().random_range(0..4) {
            0 => cmd!("WALFERRY", "SNAPSHOT", "STRICT"),
            1 => cmd!("WALFERRY", "SNAPSHOT", "BOUNDED", 1000),
            _ => cmd!("WALFERRY", "SNAPSHOT", "EVENTUAL"),
        };
        let mut publisher = self.client();
        publisher.send(&[level]).expect("a live primary takes a command");
        if self.workload.rng().random_bool(0.3) {
            std::thread::sleep(Duration::from_millis(self.workload.rng().random_range(0..150)));
            return self.kill_and_restart();
        }
        let (mut client, steps) = (self.client(), self.certain(IN_PIPELINE));
        self.history.run_pipelined(&mut client, steps);
        let reply = publisher.receive().expect("a live primary answers");
        assert!(error_text(&reply).is_none() || self.is_faulty(), "{reply:?}");
    }

    fn is_faulty(&self) -> bool {
        self.archive.environment != self.direct.environment
    }

    /// Runs a tool, which is killed at a random moment or meets faults of the store, and then runs it to its end.
    fn tool(&mut self, subcommand: &str, arguments: &[&str]) {
        let pins = self.root.join("archive/pins");
        // A base waits until the pin of a killed prune expires, which takes longer than this test.
        let can_be_killed = subcommand != "prune" || pins.exists();
        if can_be_killed && self.workload.rng().random_bool(0.5) {
            let after = Duration::from_millis(self.workload.rng().random_range(5..250));
            let began = Instant::now();
            let (pid, _) = self.archive.tool_stopped(subcommand, arguments, "KILL", || began.elapsed() >= after);
            bury(&pins, pid);
        } else if self.is_faulty() {
            self.archive.tool(subcommand, arguments).expect_any(&[0, 1, 3, 4, 6]);
        }
        self.restores();
        self.direct.tool(subcommand, arguments).expect(0);
    }

    /// Restores to a random commit and continues from there under a new epoch.
    fn fork(&mut self) {
        let mut client = self.client();
        client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"));
        assert!(self.node.terminate().success());
        let last = self.history.csn();
        let csn = last - self.workload.rng().random_range(0..10).min(last - self.history.csn_before() - 1);
        let dir = self.root.join(format!("{}", self.left.len() + 1));
        self.direct.restore_into(&dir, &["--to", &format!("csn:{csn}")]).expect(0);
        let epoch = self.left.len() as u64 + 1;
        let history = self.history.until(csn);
        for left in &mut self.left {
            left.shared = left.shared.min(csn);
        }
        self.left.push(Left { epoch, shared: csn, history: std::mem::replace(&mut self.history, history) });
        self.node = launch(&dir, &self.archive).start();
        let found = self.client().watermarks();
        assert_eq!((found.epoch, found.committed), (epoch + 1, csn));
    }

    /// Restores random commits of the newest or an abandoned line. What the policy promises must be restorable.
    fn restores(&mut self) {
        for _ in 0..RESTORES {
            let nth = self.workload.rng().random_range(0..=self.left.len() * 2);
            let archived = self.client().watermarks().archived;
            let (epoch, history, own_from, until) = match self.left.get(nth) {
                Some(left) => (left.epoch, &left.history, left.shared + 1, left.history.csn()),
                None => (self.left.len() as u64 + 1, &self.history, 0, self.history.csn().min(archived)),
            };
            if until <= history.csn_before() {
                continue;
            }
            let csn = self.workload.rng().random_range(history.csn_before() + 1..=until);
            let age = Duration::from_micros(now_us() - history.made_after_us(csn));
            let is_promised = csn >= own_from && age + SLACK < FINE;
            let (target, epoch) = (format!("csn:{csn}"), epoch.to_string());
            let dir = self.root.join("restored");
            let restored = self.direct.restore_into(&dir, &["--to", &target, "--epoch", &epoch]);
            if restored.code == Some(3) && !is_promised {
                continue;
            }
            restored.expect(0);
            let node = Launch::primary(&dir).set("appendfsync", "no").start();
            let found = support::dump::dump(&mut node.client());
            assert_same(&history.model_at(csn).dump(), &found, &format!("epoch {epoch} restored to csn {csn}"));
            drop(node);
            std::fs::remove_dir_all(&dir).expect("a directory can be removed");
        }
    }

    fn step(&mut self) {
        self.write();
        match self.workload.rng().random_range(0..14) {
            0..3 => self.snapshot(),
            3 => self.kill_and_restart(),
            4..6 => {
                let commits = self.workload.rng().random_range(5..60).to_string();
                self.tool("compact", &["--run-commits", &commits, "--grace", "1"]);
            }
            6 => self.tool("compact", &["--base"]),
            7 => self.tool("compact", &["--merge", "--grace", "1"]),
            8..11 => self.tool("prune", &["--keep", POLICY, "--grace", GRACE, "--confirm"]),
            11..13 => self.fork(),
            _ => std::thread::sleep(FINE / 2),
        }
        self.restores();
    }

    fn live(mut self) {
        let steps = std::env::var("WALFERRY_ROUNDS").map_or(STEPS, |text| text.parse().expect("WALFERRY_ROUNDS"));
        (0..steps).for_each(|_| self.step());
        let mut client = self.client();
        let archived = integer(&client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64;
        assert_eq!(archived, self.history.csn());
        assert!(self.node.terminate().success());
        self.direct.tool("prune", &["--keep", POLICY, "--grace", GRACE, "--confirm"]).expect(0);
        self.direct.tool("verify", &[]).expect(0);
        let (watermarks, found) = self.direct.restored(&[]).state();
        assert_eq!(watermarks.committed, archived);
        assert_same(&self.history.model.dump(), &found, "the last commit");
    }
}

/// Goal: whatever is done to an archive, and whichever process is killed meanwhile, what the policy promises is
/// restored exactly, and no restore ever has a wrong result.
#[test]
fn an_archive_in_a_directory_holds_what_is_promised() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::directory(&root.path().join("archive"));
    Life::begin(root.path(), archive.clone(), archive).live();
}

/// Goal: on a real S3 server, what the policy promises is restored exactly, and no restore ever has a wrong result.
#[test]
fn an_archive_on_s3_holds_what_is_promised() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let archive = Archive::s3();
    Life::begin(root.path(), archive.clone(), archive).live();
}

/// Goal: the promises hold while requests of the server and the tools fail, get lost, or store half of their body.
#[test]
fn an_archive_on_a_faulty_store_holds_what_is_promised() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (direct, proxy) = (Archive::s3(), FaultyS3::start());
    let life = Life::begin(root.path(), proxy.to(&direct), direct);
    proxy.mix(Mix { seed: seed(), percent: 4, faults: FAULTS.to_vec() });
    life.live();
    assert!(proxy.faults() > 0, "faults were met");
}
