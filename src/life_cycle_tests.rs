//! The life of an archive: random histories of all engines, bases of all levels, repairs, rebuilt bases, merging,
//! compacted runs, marks, prunes and new epochs act together, and each step is cut off at random requests.
//!
//! After each step, and after each step that was cut off, the states that the policy promises can be restored, a state
//! that is reported as restorable is the one that its commits lead to, and any other target is refused.

use crate::archive::epochs::{self, EpochRecord};
use crate::archive::layout::ObjectName;
use crate::archive::marks::{self, MarkRecord};
use crate::archive::store::Archive;
use crate::archive::testing::faults::FaultStore;
use crate::clock;
use crate::compact::merge::Rules;
use crate::compact::{chunks, runs};
use crate::csn::{CommitTime, Csn, Epoch};
use crate::error::{Error, Result};
use crate::grain::Grain;
use crate::history::line::History;
use crate::history::reach::Reach;
use crate::history::route::RouteCosts;
use crate::history::target::Target;
use crate::io::StdIo;
use crate::keep::{Keep, Period, micros};
use crate::node::rebuild;
use crate::position::Position;
use crate::record::CommitRecord;
use crate::restore::progress::silent;
use crate::restore::repair::{repair, unrepaired};
use crate::restore::tests::support::{Archived, CLUSTER, State, read_state, wild};
use crate::restore::{Options, restore, verify_archive};
use crate::retention::{PruneOptions, prune};
use crate::snapshot::manifest::Level;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const LIVES: u64 = 4;
const STEPS: usize = 14;
/// Number of requests at which a step is cut off; they are drawn from all requests of the step.
const CUTS: usize = 4;
/// Commits that exist before the first step, and how many of them lie before the fine window.
const BEGINNING: (u64, usize) = (40, 28);

/// A step that changes an archive.
#[derive(Clone, Debug)]
enum Act {
    Rebuild(Csn),
    Repair,
    Merge,
    Runs(Grain),
    Prune,
    Mark(MarkRecord),
    Fork(EpochRecord),
}

struct Life {
    store: FaultStore,
    archived: Archived,
    /// Commits of each line, by the line's epoch.
    lines: BTreeMap<u32, Vec<CommitRecord>>,
    marks: Vec<MarkRecord>,
    keep: Keep,
    random: StdRng,
}

impl Life {
    async fn begin(seed: u64) -> Self {
        println!("life of seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let store = FaultStore::default();
        let archived = Archived::over(Archived::around(Arc::new(store.clone())).archive).await;
        archived.epoch(1, None).await;
        let commits = wild(&[], seed, BEGINNING.0, Epoch(1));
        let fine = (clock::now_micros() - commits[BEGINNING.1].time.0) / 1_000_000 + 1;
        let tier = random.random_range(300..3_000);
        let keep = match random.random_range(0..4) {
            0 => format!("{fine}s fine"),
            _ => format!("{fine}s fine, every {tier}s 30y"),
        };
        let mut life = Self {
            store,
            archived,
            lines: BTreeMap::from([(1, Vec::new())]),
            marks: Vec::new(),
            keep: keep.parse().expect("a policy"),
            random,
        };
        life.extend(commits).await;
        life
    }

    fn newest(&self) -> u32 {
        *self.lines.keys().next_back().expect("there is one")
    }

    fn line(&self) -> &[CommitRecord] {
        &self.lines[&self.newest()]
    }

    fn archive(&self) -> &Archive {
        &self.archived.archive
    }

    /// Returns this life with a copy of its store.
    fn fork(&mut self) -> Self {
        let store = self.store.fork();
        let archived = Archived::around(Arc::new(store.clone()));
        let (lines, marks, keep) = (self.lines.clone(), self.marks.clone(), self.keep.clone());
        let random = StdRng::seed_from_u64(self.random.random());
        Self { store, archived, lines, marks, keep, random }
    }

    /// Archives `commits`, which begin with the newest line's commits, in chunks of random sizes.
    async fn extend(&mut self, commits: Vec<CommitRecord>) {
        let (epoch, there) = (self.newest(), self.line().len());
        let mut sizes = Vec::new();
        let mut left = commits.len() - there;
        while left > 0 {
            let size = self.random.random_range(1..=left.min(5));
            sizes.push(size);
            left -= size;
        }
        self.archived.chunks(epoch, &commits[there..], &sizes).await;
        self.lines.insert(epoch, commits);
    }

    async fn write(&mut self) {
        let (seed, count) = (self.random.random(), self.random.random_range(1..7));
        let commits = wild(self.line(), seed, count, Epoch(self.newest()));
        self.extend(commits).await;
    }

    /// Publishes a base of any level near the end of the newest line.
    async fn publish(&mut self) {
        // A base can lie where the disk engines end, which is at each third commit.
        let csn = self.line().len() as u64 / 3 * 3;
        let (level, skew) = match self.random.random_range(0..4) {
            0 => (Level::Strict, 0),
            1 => (Level::Strict, self.random.random_range(0..4)),
            2 => (Level::Bounded, self.random.random_range(1..4)),
            _ => (Level::Eventual, self.random.random_range(1..4)),
        };
        let epoch = self.line()[csn as usize - 1].epoch.0;
        // Commits before the fork may lie on another line, and may be thinned there.
        if self.line()[csn as usize - 4].epoch.0 == epoch {
            self.archived.base_as(self.line(), epoch, csn - skew, csn, level).await;
        }
    }

    async fn reach(&self, leaf: u32) -> Reach {
        History::read(self.archive(), Some(Epoch(leaf))).await.unwrap().reach()
    }

    /// Draws a commit of the newest line that can be restored.
    async fn restorable(&mut self) -> Csn {
        let reach = self.reach(self.newest()).await;
        let there: Vec<u64> = (1..=self.line().len() as u64).filter(|csn| reach.contains(Csn(*csn))).collect();
        Csn(there[self.random.random_range(0..there.len())])
    }

    async fn draw(&mut self) -> Act {
        match self.random.random_range(0..16) {
            0 => Act::Rebuild(self.restorable().await),
            1..3 => Act::Repair,
            3..6 => Act::Merge,
            6..9 => Act::Runs(Grain::Commits(self.random.random_range(2..14))),
            9..13 => Act::Prune,
            13 => {
                let csn = self.restorable().await;
                let commit = &self.line()[csn.0 as usize - 1];
                let name = format!("m{}", self.marks.len()).parse().expect("plain");
                Act::Mark(MarkRecord::new(&name, Position::of(commit)))
            }
            _ => {
                let fork = self.restorable().await;
                let at = &self.line()[fork.0 as usize - 1];
                let (made_by, fork) = (at.epoch, (fork, at.hash));
                let time = CommitTime(clock::now_micros());
                Act::Fork(EpochRecord::forked(Epoch(self.newest() + 1), made_by, fork, "n".to_owned(), time))
            }
        }
    }

    async fn carry_out(&mut self, act: &Act) -> Result<()> {
        let archive = self.archive().clone();
        let scratch = tempfile::tempdir().expect("a temporary directory");
        let (dir, io, progress) = (scratch.path().to_owned(), Arc::new(StdIo), silent());
        match act.clone() {
            Act::Rebuild(csn) => {
                rebuild::rebuild(&archive, rebuild::Options { target: Target::At(csn), epoch: None, dir, io, progress })
                    .await
                    .map(drop)
            }
            Act::Repair => {
                for start in unrepaired(&archive, CLUSTER, Epoch(self.newest())).await? {
                    // A start whose chunks are gone stays unrepaired.
                    match repair(&archive, CLUSTER, start, None).await {
                        Ok(_) | Err(Error::Gap { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            }
            Act::Merge => {
                let rules = Rules { parts_min: 2, settle: Duration::ZERO, grace: Duration::ZERO };
                chunks::merge_at(&archive, rules, clock::now_millis() + 1).await.map(drop)
            }
            Act::Runs(grain) => {
                let options = runs::Options { grain, until: Target::Latest, epoch: None, scratch: dir, io, progress };
                runs::build(&archive, options).await.map(drop)
            }
            Act::Prune => {
                // The prune compares times of storage: after the pause, everything stored so far is older than the
                // prune.
                tokio::time::sleep(Duration::from_millis(1)).await;
                let options =
                    PruneOptions { keep: self.keep.clone(), grace: Duration::ZERO, confirm: true, node: None };
                prune(&archive, &options).await.map(drop)
            }
            Act::Mark(record) => {
                let name = record.name.parse().expect("plain");
                marks::create(&archive, &name, &record).await?;
                self.marks.push(record);
                Ok(())
            }
            Act::Fork(record) => {
                epochs::claim(&archive, &record).await?;
                let shared = self.line()[..record.fork.0 as usize].to_vec();
                self.lines.insert(record.epoch.0, shared);
                Ok(())
            }
        }
    }

    /// Checks that the states that the policy's text promises can be restored.
    async fn assert_promises(&self, when: &str) {
        let windows = self.keep.windows().expect("a policy");
        let start = clock::now_micros() - micros(windows.fine);
        for (leaf, line) in &self.lines {
            let reach = self.reach(*leaf).await;
            let shared = line.iter().zip(self.line()).take_while(|(a, b)| a.epoch == b.epoch).count() as u64;
            let is_newest = *leaf == self.newest();
            let own: Vec<&CommitRecord> = line.iter().filter(|commit| is_newest || commit.csn.0 > shared).collect();
            for commit in own.iter().filter(|commit| commit.time.0 >= start) {
                assert!(reach.contains(commit.csn), "{when}: epoch {leaf} fine csn {}: {reach:?}", commit.csn);
            }
            if is_newest && let Some(last) = own.last() {
                assert!(reach.contains(last.csn), "{when}: the last commit");
            }
            for tier in &windows.tiers {
                let period = |commit: &CommitRecord| Period::of(tier.period, commit.time);
                for commit in own.iter().filter(|commit| period(commit) <= tier.period.of(CommitTime(start))) {
                    let number = period(commit);
                    let mut there = line.iter().filter(|other| period(other) == number);
                    let is_kept = there.any(|other| reach.contains(other.csn));
                    assert!(is_kept, "{when}: epoch {leaf}, {} period {number}: {reach:?}", tier.period);
                }
            }
        }
        for mark in &self.marks {
            let leaves = self
                .lines
                .iter()
                .filter(|(_, line)| line.get(mark.csn.0 as usize - 1).is_some_and(|commit| commit.epoch == mark.epoch));
            for (leaf, _) in leaves {
                assert!(self.reach(*leaf).await.contains(mark.csn), "{when}: mark {} by epoch {leaf}", mark.name);
            }
        }
    }

    /// Restores a random commit of a random line and checks the state, or checks that the commit is reported as out of
    /// reach.
    async fn assert_exact(&mut self, when: &str) {
        let leaves: Vec<u32> = self.lines.keys().copied().collect();
        let leaf = leaves[self.random.random_range(0..leaves.len())];
        let csn = self.random.random_range(1..=self.lines[&leaf].len());
        let when = format!("{when}: epoch {leaf} csn {csn}");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (target, epoch) = (Target::At(Csn(csn as u64)), Some(Epoch(leaf)));
        let (io, progress) = (Arc::new(StdIo), silent());
        let restored = restore(
            self.archive(),
            Options { dir: dir.path().to_owned(), target, epoch, costs: RouteCosts::FREE_RUNS, io, progress },
        )
        .await;
        match restored {
            Ok(report) => {
                assert!(self.reach(leaf).await.contains(report.csn), "{when}: it was said to be out of reach");
                let expected = State::after(&self.lines[&leaf][..csn]);
                assert!(read_state(dir.path()).0 == expected, "{when}: by {:?}", report.plan);
                assert_eq!(report.remarks, Vec::<String>::new(), "{when}");
            }
            Err(error @ Error::Unreachable { .. }) => {
                assert!(!self.reach(leaf).await.contains(Csn(csn as u64)), "{when}: {error}");
            }
            Err(error) => panic!("{when}: {error}"),
        }
    }

    async fn assert_well(&mut self, when: &str) {
        self.assert_promises(when).await;
        self.assert_exact(when).await;
    }

    /// Deletes the reader pins of steps that were cut off.
    async fn bury(&self) {
        for name in self.archived.names().await {
            if matches!(name, ObjectName::Pin(_)) {
                self.archive().delete(&name).await.unwrap();
            }
        }
    }

    /// Carries a step out, also cut off at some requests and then repeated to its end. Returns the life that continues.
    async fn step(mut self, act: &Act, when: &str) -> Self {
        let mut whole = self.fork();
        whole.carry_out(act).await.unwrap_or_else(|error| panic!("{when}: {error}"));
        let requests = whole.store.requests();
        whole.assert_well(when).await;
        let mut goes_on = whole;
        for _ in 0..CUTS.min(requests) {
            let at = self.random.random_range(0..requests);
            let when = format!("{when}, cut off at request {at} of {requests}");
            let mut life = self.fork();
            life.store.cut_off_at(at);
            let _ = life.carry_out(act).await;
            life.store.heal();
            life.assert_well(&when).await;
            (life.lines, life.marks) = (self.lines.clone(), self.marks.clone());
            life.carry_out(act).await.unwrap_or_else(|error| panic!("{when}, then once more: {error}"));
            life.assert_well(&format!("{when}, then once more")).await;
            if self.random.random_bool(0.5) {
                goes_on = life;
            }
        }
        goes_on.bury().await;
        goes_on.random = self.random;
        goes_on
    }
}

/// Goal: whatever happens to an archive, in whatever order and wherever it is cut off, no promised state is lost, no
/// state is restored wrongly, and a step that was cut off can be repeated.
#[tokio::test]
async fn whatever_happens_to_an_archive_its_restore_points_hold() {
    let first: u64 = std::env::var("WALFERRY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let lives: u64 = std::env::var("WALFERRY_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(LIVES);
    for seed in first..first + lives {
        let mut life = Life::begin(seed).await;
        for step in 0..STEPS {
            life.write().await;
            if life.random.random_bool(0.4) {
                life.publish().await;
            }
            let act = life.draw().await;
            let when = format!("seed {seed} step {step} {act:?} '{}'", life.keep);
            println!("{when}");
            life = life.step(&act, &when).await;
        }
        let report = verify_archive(life.archive(), silent()).await.unwrap();
        assert_eq!((report.problems, report.gaps), (Vec::new(), Vec::new()), "seed {seed}");
    }
}
