//! The checks after a round, when all faults are healed.

use super::super::archive::rfc3339;
use super::super::dump::{Dump, assert_same, dump};
use super::super::process::{Launch, SETTLED_WITHIN, wait_until};
use super::plan::{Restore, Round};
use super::run::{OldBranch, Simulation};
use super::writer::Account;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

/// Largest resident memory in bytes of a node with the simulation's cache limits: several times the observed value.
const RESIDENT_BYTES_MAX: u64 = 1 << 30;
/// Largest number of open files of a node: several times the observed value.
const FILES_MAX: usize = 600;

/// The result of a restore.
struct Restored {
    csn: u64,
    epoch: u64,
    found: Dump,
}

impl Simulation {
    /// Runs the checks after a round.
    pub(super) fn check(&mut self, round: &Round, old: Option<&OldBranch>) {
        self.primary_holds_the_lines();
        let quiet = self.note_quiet();
        self.replicas_hold_the_same(quiet.csn);
        self.figures_are_true(quiet.csn);
        if let Some(old) = old {
            self.old_branch_is_restorable(old);
        }
        for restore in &round.restores {
            self.check_restore(*restore);
        }
        if round.verify {
            self.archive_is_sound();
        }
        self.processes_are_well();
    }

    /// Runs the checks at the end of a simulation.
    pub(super) fn check_to_the_end(&mut self) {
        self.check_restore(Restore::Latest);
        self.archive_is_sound();
    }

    fn primary_holds_the_lines(&mut self) {
        let era = self.chronicle.now().clone();
        let positions = self.await_settled(&era);
        let found = dump(&mut self.cluster.client());
        let held = era.find(&found).unwrap_or_else(|difference| panic!("the primary: {difference}"));
        assert_eq!(held, positions, "the primary's positions, without load");
        let mayflies = found.keys().filter(|key| key.escape_ascii().to_string().contains(":fly:")).count();
        assert_eq!(mayflies, 0, "keys whose deletion is a commit that was made are still there");
        for (account, position) in self.accounts.iter().zip(positions) {
            let mut account = account.lock().unwrap();
            let line = account.line.clone();
            *account = Account::new(line, position);
        }
    }

    fn replicas_hold_the_same(&mut self, csn: u64) {
        let expected = dump(&mut self.cluster.client());
        for number in self.cluster.replicas() {
            self.await_replica(number, csn);
            let machine = &self.cluster.machines[number];
            assert_same(
                &expected,
                &dump(&mut machine.node.client()),
                &format!("{}, a replica, at csn {csn}", machine.name),
            );
        }
    }

    /// Waits until a replica has every commit. A replica whose history diverged has commits that no longer exist, and
    /// gets an empty directory, as its message requests.
    fn await_replica(&mut self, number: usize, csn: u64) {
        let name = self.cluster.machines[number].name.clone();
        wait_until(&format!("{name} has csn {csn}"), SETTLED_WITHIN, || {
            let machine = &mut self.cluster.machines[number];
            if let Some(ended) = machine.node.ended() {
                panic!("{name}, a replica, ended with {:?}\n{}", ended.code, ended.stderr);
            }
            let info = machine.info()?;
            if info["link_last_error"].contains("belongs to another history") {
                let fork = self.chronicle.now().fork;
                let committed: u64 = info["committed_csn"].parse().expect("a csn");
                assert!(committed > fork, "{name} diverged at csn {committed}, although the epoch forks at {fork}");
                self.cluster.rejoin(number);
                return None;
            }
            let at = machine.client()?.try_watermarks()?;
            // Before a replica has connected to its new primary, it may have more commits of the old primary.
            let epoch = self.chronicle.now().epoch;
            assert!(at.committed <= csn || at.epoch < epoch, "{name} is ahead of its primary: {at:?}");
            (at.committed == csn && at.epoch == epoch).then_some(())
        });
    }

    /// Asserts that without load nothing lags, and that INFO says so.
    fn figures_are_true(&mut self, csn: u64) {
        let expect = |info: &BTreeMap<String, String>, fields: &[(&str, &str)]| {
            fields.iter().all(|(name, value)| info.get(*name).is_some_and(|found| found == value))
        };
        let csn = csn.to_string();
        let on_primary = [
            ("role", "master"),
            ("committed_csn", &csn),
            ("archived_csn", &csn),
            ("writes_refused", ""),
            ("archive_lag_ms", "0"),
            ("spool_chunks", "0"),
            ("spool_bytes", "0"),
        ];
        let on_replica = [
            ("role", "slave"),
            ("master_link_status", "up"),
            ("lag_commits", "0"),
            ("lag_ms", "0"),
            ("primary_csn", &csn),
            ("committed_csn", &csn),
            ("link_last_error", ""),
        ];
        for number in 0..self.cluster.machines.len() {
            let fields = if number == self.cluster.primary { &on_primary } else { &on_replica };
            let machine = &self.cluster.machines[number];
            let mut last = BTreeMap::new();
            let deadline = Instant::now() + SETTLED_WITHIN;
            while Instant::now() < deadline && !expect(&last, fields) {
                last = machine.info().unwrap_or_default();
            }
            assert!(expect(&last, fields), "{}: expected {fields:?}, INFO says {last:?}", machine.name);
        }
    }

    /// Asserts that the commits up to the archived watermark can be restored at once, under load.
    pub(super) fn check_archived_watermark(&mut self, accounts: &[Mutex<Account>]) {
        let Some(at) = self.cluster.primary().client().and_then(|mut client| client.try_watermarks()) else { return };
        if at.archived <= self.first_csn {
            return;
        }
        let restored = self.restore(&["--to", &format!("csn:{}", at.archived)]);
        assert_eq!(restored.csn, at.archived);
        let mut era = self.chronicle.now().clone();
        era.lines = accounts.iter().map(|account| account.lock().unwrap().line.clone()).collect();
        if at.archived > era.begin {
            let judged = era.judge(at.archived, &restored.found);
            judged.unwrap_or_else(|difference| panic!("the archived watermark, csn {}: {difference}", at.archived));
        }
    }

    fn check_restore(&mut self, restore: Restore) {
        let quiets = &self.chronicle.quiets;
        let last = quiets.last().expect("a round ended").csn;
        let (target, csn) = match restore {
            Restore::At(part) => {
                let csn = self.first_csn + 1 + ((last - self.first_csn - 1) as f64 * part) as u64;
                (format!("csn:{csn}"), csn)
            }
            Restore::Time(part) => {
                let quiet = quiets[((quiets.len() - 1) as f64 * part) as usize];
                (format!("time:{}", rfc3339(quiet.at_us)), quiet.csn)
            }
            Restore::Latest => ("latest".to_owned(), last),
        };
        let restored = self.restore(&["--to", &target]);
        assert_eq!(restored.csn, csn, "restored to {target}");
        let judged = self.chronicle.judge(csn, &restored.found);
        let is_known = judged.unwrap_or_else(|difference| {
            panic!("restored to {target}, csn {csn} of epoch {}: {difference}", restored.epoch)
        });
        if !is_known {
            eprintln!("          restored to {target}, which a power cut made uncertain: not compared");
        }
    }

    /// Asserts that an epoch which a promotion or a power cut ended can be restored to its end. This end may lie
    /// before the fork, because the next epoch archives what the old one had not archived.
    fn old_branch_is_restorable(&self, old: &OldBranch) {
        let restored = self.restore(&["--epoch", &old.era.epoch.to_string(), "--to", "latest"]);
        let csn = restored.csn;
        assert!(csn >= old.archived, "epoch {} was archived to csn {}, and ends at {csn}", old.era.epoch, old.archived);
        let fork = self.chronicle.now().fork;
        if csn > fork {
            let report = self.snapshots();
            let of_it = |left: &&Json| left["epoch"].as_u64() == Some(old.era.epoch);
            let told = report["abandoned"].as_array().expect("a list").iter().find(of_it);
            let told =
                told.unwrap_or_else(|| panic!("csn {} to {csn} are abandoned, and not told: {report}", fork + 1));
            assert_eq!((told["from"].as_u64(), told["until"].as_u64()), (Some(fork + 1), Some(csn)), "{told}");
        }
        let judged = if csn > old.era.begin {
            old.era.judge(csn, &restored.found)
        } else {
            self.chronicle.judge(csn, &restored.found).map(drop)
        };
        judged
            .unwrap_or_else(|difference| panic!("the old branch, epoch {}, at csn {csn}: {difference}", old.era.epoch));
    }

    fn restore(&self, arguments: &[&str]) -> Restored {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = root.path().join("restored");
        let mut all = arguments.to_vec();
        all.push("--json");
        let report = self.cluster.store.direct.restore_into(&dir, &all).expect(0).json();
        let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} of {report}"));
        let node = Launch::primary(&dir).set("appendfsync", "no").start();
        Restored { csn: number("csn"), epoch: number("epoch"), found: dump(&mut node.client()) }
    }

    fn archive_is_sound(&self) {
        self.cluster.store.direct.tool("verify", &[]).expect(0);
    }

    /// Returns the last csn that an epoch shares with an earlier epoch it descends from, according to the archive.
    pub(super) fn fork_since(&self, earlier: u64, epoch: u64) -> u64 {
        let report = self.snapshots();
        let records = report["epochs"].as_array().expect("epochs");
        let number = |record: &Json, name: &str| record[name].as_u64();
        let (mut at, mut fork) = (epoch, u64::MAX);
        while at > earlier {
            let record = records.iter().find(|record| number(record, "epoch") == Some(at));
            let parts = record.and_then(|record| number(record, "parent").zip(number(record, "fork")));
            let (parent, own) = parts.unwrap_or_else(|| panic!("epoch {at} has no record with a parent: {report}"));
            (at, fork) = (parent, fork.min(own));
        }
        fork
    }

    fn snapshots(&self) -> Json {
        self.cluster.store.direct.tool("snapshots", &["--json"]).expect(0).json()
    }

    fn processes_are_well(&mut self) {
        let mut told = Vec::new();
        for machine in &self.cluster.machines {
            let log = std::fs::read(machine.node.launch.log()).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&log).contains("panicked at"), "{} panicked: see its log", machine.name);
            let info = machine.info().unwrap_or_else(|| panic!("{} answers INFO", machine.name));
            let resident: u64 = info["used_memory_rss"].parse().expect("bytes");
            let files = std::fs::read_dir(format!("/proc/{}/fd", machine.node.pid())).map_or(0, Iterator::count);
            assert!(resident <= RESIDENT_BYTES_MAX, "{} uses {resident} bytes of memory", machine.name);
            assert!(files <= FILES_MAX, "{} has {files} files open", machine.name);
            told.push(format!("{} MiB, {files} files", resident >> 20));
        }
        let quiet = self.chronicle.quiets.last().expect("a round ended");
        eprintln!("          csn {}, epoch {}; {}", quiet.csn, self.chronicle.now().epoch, told.join("; "));
    }
}
