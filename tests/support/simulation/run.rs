//! Executes a plan: load and disturbances, the finale, and its effect on history.

use super::super::client::{cmd, integer};
use super::super::dump::dump;
use super::super::model::Step;
use super::super::process::{SETTLED_WITHIN, StopOnDrop, wait_until};
use super::chronicle::{Chronicle, Era, Quiet};
use super::cluster::Cluster;
use super::line::{self, Kind, Line};
use super::machine::Machine;
use super::plan::{Act, Finale, Fsync, Old, Plan, Round};
use super::watch::watch;
use super::writer::{Account, Stage, write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Number of writers of mixed commands.
const MIXED_WRITERS: usize = 4;
/// Number of all writers: one more writes keys that expire.
pub(crate) const WRITERS: usize = MIXED_WRITERS + 1;
/// Longest time that `everysec` may lose by a power cut: one second, and the delays of a busy machine.
const LOST_MAX: Duration = Duration::from_secs(3);
/// Time without a commit after which a history without writers counts as ended: longer than any mayfly lives.
const STILL: Duration = Duration::from_millis(2_500);

/// A running simulation.
pub(crate) struct Simulation {
    pub(super) plan: Plan,
    pub(super) cluster: Cluster,
    pub(super) chronicle: Chronicle,
    pub(super) accounts: Vec<Mutex<Account>>,
    /// The last commit before a writer's first commit.
    pub(super) first_csn: u64,
}

/// The branch of history that a promotion or a power cut ended.
pub(crate) struct OldBranch {
    /// The era of the branch, with the steps written to it.
    pub era: Era,
    /// The last commit known to be archived.
    pub archived: u64,
}

/// The result of a round's finale.
struct Outcome {
    /// The epoch before the finale.
    epoch: u64,
    /// The last commit known to be archived.
    archived: u64,
    /// The last commit that must not be lost: archived, or applied by the promoted replica.
    safe_csn: u64,
    /// Positions that must not be lost.
    safe_positions: Vec<u64>,
    /// Machines whose data is not on the newest line.
    outcasts: Vec<usize>,
}

/// Runs the simulation of a seed for a time; fails the test at the first broken promise.
pub(crate) fn simulate(seed: u64, time: Duration) {
    let started = Instant::now();
    let plan = Plan::new(seed);
    eprintln!("seed {seed}: {plan:?}");
    let mut simulation = Simulation::start(plan);
    let mut number = 0;
    while started.elapsed() < time {
        let round = plan.round(number);
        eprintln!("[{:>4} s] {round}", started.elapsed().as_secs());
        simulation.play(&round);
        number += 1;
    }
    simulation.check_to_the_end();
    let csn = simulation.chronicle.quiets.last().map_or(0, |quiet| quiet.csn);
    let epoch = simulation.chronicle.now().epoch;
    eprintln!("seed {seed}: {number} rounds in {} s, csn {csn}, epoch {epoch}", started.elapsed().as_secs());
}

impl Simulation {
    fn start(plan: Plan) -> Self {
        let mut cluster = Cluster::start(&plan);
        let at = cluster.client().watermarks();
        let kind = |writer| if writer < MIXED_WRITERS { Kind::Mixed } else { Kind::Mayfly };
        let lines: Vec<Line> = (0..WRITERS).map(|writer| Line::new(writer, kind(writer), plan.seed)).collect();
        let accounts = lines.iter().map(|line| Mutex::new(Account::new(line.clone(), 0))).collect();
        let era = Era { epoch: at.epoch, fork: at.committed, begin: at.committed, offset: at.committed as i64, lines };
        let chronicle = Chronicle { eras: vec![era], quiets: Vec::new(), hazy: Vec::new() };
        Self { plan, cluster, chronicle, accounts, first_csn: at.committed }
    }

    fn play(&mut self, round: &Round) {
        self.cluster.prepare(round.fsync, round.archive_ack);
        let before = self.positions();
        let stage = Stage {
            port: self.cluster.primary().node.launch.port,
            stop: AtomicBool::new(false),
            may_disconnect: round.disconnects(),
            may_refuse: round.refuses(),
            may_fence: AtomicBool::new(false),
        };
        let accounts = std::mem::take(&mut self.accounts);
        let watched: Vec<(String, u16)> =
            self.cluster.machines.iter().map(|machine| (machine.name.clone(), machine.node.launch.port)).collect();
        let outcome = std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stage.stop);
            accounts.iter().for_each(|account| drop(scope.spawn(|| write(&stage, account))));
            for (name, port) in &watched {
                scope.spawn(|| watch(name, *port, WRITERS, &stage.stop));
            }
            self.disturb(round, &accounts);
            self.finish(round, &stage, &accounts, &before)
        });
        self.accounts = accounts;
        self.note_lines();
        let old = self.settle_history(round, &outcome);
        self.check(round, old.as_ref());
    }

    /// Runs the load of a round with its events.
    fn disturb(&mut self, round: &Round, accounts: &[Mutex<Account>]) {
        let started = Instant::now();
        if round.finale == Finale::PromoteInTurn {
            let last = self.cluster.replicas().pop().expect("there is a replica");
            self.cluster.machines[last].kill();
            self.cluster.left_out = Some(last);
        }
        let mut copy_at = (round.finale == Finale::OlderCopy).then_some(round.load / 2);
        for moment in &round.moments {
            if copy_at.is_some_and(|at| at <= moment.at) {
                std::thread::sleep(copy_at.take().unwrap_or_default().saturating_sub(started.elapsed()));
                self.cluster.copy_primary();
            }
            std::thread::sleep(moment.at.saturating_sub(started.elapsed()));
            match moment.act {
                Act::RestoreArchived => self.check_archived_watermark(accounts),
                act => self.cluster.act(act),
            }
        }
        if let Some(at) = copy_at {
            std::thread::sleep(at.saturating_sub(started.elapsed()));
            self.cluster.copy_primary();
        }
        std::thread::sleep(round.load.saturating_sub(started.elapsed()));
    }

    /// Runs the finale. Afterwards the writers were told to stop, and every server runs.
    fn finish(&mut self, round: &Round, stage: &Stage, accounts: &[Mutex<Account>], before: &[u64]) -> Outcome {
        let epoch = self.chronicle.now().epoch;
        let replied =
            |accounts: &[Mutex<Account>]| accounts.iter().map(|account| account.lock().unwrap().replied).collect();
        let quiet = self.chronicle.quiets.last().map_or(self.first_csn, |quiet| quiet.csn);
        let safe_positions = before.to_vec();
        let mut outcome = Outcome { epoch, archived: quiet, safe_csn: quiet, safe_positions, outcasts: Vec::new() };
        match round.finale {
            Finale::Promote(_) | Finale::PromoteAll(_) | Finale::PromoteInTurn => {
                let (archived, applied);
                (archived, applied, outcome.outcasts) = self.promote(stage, round.finale);
                outcome.archived = archived.unwrap_or(quiet);
                outcome.safe_csn = outcome.archived.max(applied);
            }
            Finale::Clone => {
                stage.may_fence.store(true, Ordering::SeqCst);
                self.cluster.start_a_clone();
                outcome.safe_positions = replied(accounts);
            }
            Finale::OlderCopy => {
                self.cluster.store.set(None);
                self.cluster.primary().thaw();
                let archived = self.cluster.primary().client().and_then(|mut client| client.try_watermarks());
                outcome.archived = archived.map_or(quiet, |at| at.archived);
                outcome.safe_csn = outcome.archived;
                self.cluster.put_copy_in_place();
            }
            Finale::PowerCut if self.cluster.has_devices() => {
                let stopped = Instant::now();
                self.cluster.cut_power();
                outcome.safe_positions = match round.fsync {
                    Fsync::Always => replied(accounts),
                    Fsync::EverySec => {
                        let earlier = stopped - LOST_MAX;
                        let safe = |(account, before): (&Mutex<Account>, &u64)| {
                            account.lock().unwrap().replied_before(earlier, *before)
                        };
                        accounts.iter().zip(before).map(safe).collect()
                    }
                    Fsync::No => before.to_vec(),
                };
            }
            Finale::KillAll | Finale::PowerCut => self.cluster.machines.iter_mut().for_each(|machine| machine.kill()),
            Finale::Calm => {}
        }
        stage.stop.store(true, Ordering::SeqCst);
        let diverged = self.cluster.heal(&outcome.outcasts);
        if round.archive_ack {
            outcome.safe_positions = replied(accounts);
        }
        for number in diverged {
            let may_diverge = !matches!(round.finale, Finale::Calm | Finale::KillAll | Finale::Clone);
            let name = &self.cluster.machines[number].name;
            assert!(may_diverge, "{name} diverged, and nothing in this round makes a replica do that");
            self.cluster.rejoin(number);
        }
        outcome
    }

    /// Promotes replicas. Returns the old primary's archived watermark, if it could be asked; the csn that the new
    /// primary had applied; and the machines whose data is not on the newest line. Commits up to either csn must not
    /// be lost.
    fn promote(&mut self, stage: &Stage, finale: Finale) -> (Option<u64>, u64, Vec<usize>) {
        let (was, chosen) = (self.cluster.primary, self.cluster.replicas());
        let left_out = self.cluster.left_out.take();
        self.cluster.store.set(None);
        for number in chosen.iter().filter(|number| Some(**number) != left_out) {
            self.cluster.machines[*number].bring_up();
        }
        let is_up = self.cluster.machines[was].node.is_running();
        stage.may_fence.store(true, Ordering::SeqCst);
        let at = |machine: &Machine| machine.client().and_then(|mut client| client.try_watermarks());
        let archived = at(&self.cluster.machines[was]).map(|at| at.archived);
        let old = match finale {
            Finale::Promote(old) | Finale::PromoteAll(old) if is_up => old,
            _ => Old::Killed,
        };
        match old {
            Old::Killed => self.cluster.machines[was].kill(),
            Old::Frozen => self.cluster.machines[was].freeze(),
            Old::Running => {}
        }
        if left_out == Some(chosen[0]) {
            self.cluster.machines[chosen[0]].bring_up();
        }
        let applied = |cluster: &Cluster, number: usize| at(&cluster.machines[number]).map_or(0, |at| at.committed);
        let mut outcasts = vec![was];
        let safe = if let Finale::PromoteAll(_) = finale {
            let before: Vec<u64> =
                (0..self.cluster.machines.len()).map(|number| applied(&self.cluster, number)).collect();
            outcasts.extend(self.cluster.promote_all());
            before[self.cluster.primary]
        } else {
            let before = applied(&self.cluster, chosen[0]);
            self.cluster.promote(chosen[0]);
            before
        };
        self.cluster.machines[was].thaw();
        if self.cluster.machines[was].node.is_running() {
            wait_until("the old primary is fenced", SETTLED_WITHIN, || {
                self.cluster.machines[was].is_fenced().then_some(())
            });
        }
        match left_out.filter(|number| *number != chosen[0]) {
            None => (archived, safe, outcasts),
            Some(last) => {
                self.cluster.machines[chosen[0]].kill();
                self.cluster.machines[last].bring_up();
                self.cluster.promote(last);
                outcasts.push(chosen[0]);
                (archived, 0, outcasts)
            }
        }
    }

    /// Records the finale's effect on history: a new era, if a new epoch began.
    fn settle_history(&mut self, round: &Round, outcome: &Outcome) -> Option<OldBranch> {
        let epoch = self.cluster.client().watermarks().epoch;
        let is_new = epoch > outcome.epoch;
        // A power cut after an orderly stop loses nothing.
        let fits = match round.finale {
            Finale::PowerCut => epoch >= outcome.epoch,
            Finale::KillAll | Finale::Calm => epoch == outcome.epoch,
            _ => is_new,
        };
        assert!(fits, "epoch {} became {epoch} by {:?}", outcome.epoch, round.finale);
        let old = self.chronicle.now().clone();
        if !is_new {
            let positions = self.await_settled(&old);
            for (account, position) in self.accounts.iter().zip(positions) {
                account.lock().unwrap().assert_fits(position);
            }
            return None;
        }
        let fork = self.fork_since(outcome.epoch, epoch);
        assert!(
            fork >= outcome.safe_csn,
            "csn {} was archived or applied by the replica; epoch {epoch} forks at {fork}",
            outcome.safe_csn
        );
        self.await_stillness();
        let at = line::positions(&mut self.cluster.client(), WRITERS)
            .unwrap_or_else(|torn| panic!("after {:?}: {torn}", round.finale));
        for (writer, (position, safe)) in at.iter().zip(&outcome.safe_positions).enumerate() {
            assert!(
                position >= safe,
                "writer {writer}: {safe} was promised, it is at {position} after {:?}",
                round.finale
            );
        }
        let is_lossy = round.finale == Finale::PowerCut;
        self.begin_era(&old, epoch, fork, is_lossy);
        for &outcast in &outcome.outcasts {
            if !self.cluster.machines[outcast].node.is_running() {
                self.cluster.machines[outcast].assert_kept_out();
            }
            self.cluster.rejoin(outcast);
        }
        Some(OldBranch { era: old, archived: outcome.archived })
    }

    /// Begins an era on the primary's data. After a loss, lines whose remaining data is no prefix begin anew.
    fn begin_era(&mut self, old: &Era, epoch: u64, fork: u64, is_lossy: bool) {
        let mut client = self.cluster.client();
        let (csn, found) = (client.watermarks().committed, dump(&mut client));
        let seed = line::mixed(&[self.plan.seed, epoch]);
        let exact = old.find(&found).and_then(|positions| {
            let expected = old.settled_csn(&positions);
            if expected == csn {
                Ok(positions)
            } else {
                Err(format!("positions {positions:?} make csn {expected}, not {csn}"))
            }
        });
        let (lines, positions, offset) = match exact {
            Ok(positions) => {
                let lines: Vec<Line> =
                    old.lines.iter().zip(&positions).map(|(line, at)| line.fork(*at, seed)).collect();
                (lines, positions, old.offset)
            }
            Err(difference) => {
                assert!(is_lossy, "after epoch {epoch} began at csn {fork}: {difference}");
                eprintln!("          a power cut left what is no prefix; the lines begin anew");
                self.begin_lines_anew(seed, fork)
            }
        };
        self.chronicle.begin(Era { epoch, fork, begin: csn.max(fork), offset, lines: lines.clone() });
        let account = |(line, at): (Line, u64)| Mutex::new(Account::new(line, at));
        self.accounts = lines.into_iter().zip(positions).map(account).collect();
    }

    /// Deletes all writers' keys with the first step of new lines. The content from the fork up to these steps is not
    /// known exactly.
    fn begin_lines_anew(&mut self, seed: u64, fork: u64) -> (Vec<Line>, Vec<u64>, i64) {
        let lines: Vec<Line> = self
            .accounts
            .iter()
            .map(|account| {
                let account = account.lock().unwrap();
                account.line.anew(account.sent, seed)
            })
            .collect();
        let mut client = self.cluster.client();
        for line in &lines {
            if let Step::Group(commands) = line.step(line.start + 1) {
                client.transaction(&commands);
            }
        }
        let csn = self.await_stillness();
        let positions: Vec<u64> = lines.iter().map(|line| line.start + 1).collect();
        self.chronicle.hazy.push(fork + 1..=csn);
        let mut era = Era { epoch: 0, fork: csn, begin: csn, offset: 0, lines };
        era.offset = csn as i64 - era.settled_csn(&positions) as i64;
        (era.lines, positions, era.offset)
    }

    /// Waits until every mayfly is deleted; returns all positions. Fails the test if there are too few or too many
    /// commits.
    pub(super) fn await_settled(&mut self, era: &Era) -> Vec<u64> {
        let mut client = self.cluster.client();
        let positions = line::positions(&mut client, WRITERS).unwrap_or_else(|torn| panic!("the primary: {torn}"));
        let expected = era.settled_csn(&positions);
        let refused = client.info().remove("writes_refused").unwrap_or_default();
        let what = format!("csn {expected} is reached: all mayflies are deleted (writes refused before: '{refused}')");
        wait_until(&what, SETTLED_WITHIN, || {
            let csn = client.watermarks().committed;
            assert!(csn <= expected, "positions {positions:?} make csn {expected}; there is {csn}");
            (csn == expected).then_some(())
        });
        positions
    }

    /// Waits until the primary's history does not change; returns its last csn.
    fn await_stillness(&mut self) -> u64 {
        let mut client = self.cluster.client();
        let mut last = (client.watermarks().committed, Instant::now());
        wait_until("the primary's history stands still", SETTLED_WITHIN, || {
            let csn = client.watermarks().committed;
            if csn != last.0 {
                last = (csn, Instant::now());
            }
            (last.1.elapsed() >= STILL).then_some(csn)
        })
    }

    /// Copies the writers' lines into the current era.
    fn note_lines(&mut self) {
        let lines = self.accounts.iter().map(|account| account.lock().unwrap().line.clone()).collect();
        self.chronicle.now_mut().lines = lines;
    }

    fn positions(&mut self) -> Vec<u64> {
        line::positions(&mut self.cluster.client(), WRITERS).unwrap_or_else(|torn| panic!("the primary: {torn}"))
    }

    /// Records a moment without load, at which everything committed is in the archive.
    pub(super) fn note_quiet(&mut self) -> Quiet {
        let mut client = self.cluster.client();
        let csn = client.watermarks().committed;
        let archived = integer(&client.ok(&cmd!("WALFERRY", "ARCHIVE", "FLUSH"))) as u64;
        assert_eq!(archived, csn, "a flush archives all that is committed");
        let quiet = Quiet { csn, at_us: super::super::history::now_us() };
        self.chronicle.quiets.push(quiet);
        quiet
    }
}
