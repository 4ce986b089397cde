//! Records what a test did to a primary, commit by commit, so that any restore point can be compared with the model of
//! exactly that commit.
//!
//! Guarantees: the csn of every step is checked: one csn for a change, none for a step without effect. After a process
//! kill, the csn that the primary recovered decides which commands in flight took effect: every acknowledged command,
//! and a prefix of all commands sent.

use super::client::{Client, Command, framed};
use super::dump::{assert_same, dump, now_ms};
use super::model::{Effect, Model, Step};
use super::process::Node;
use redis::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment between two commits: everything up to `csn` was acknowledged before, everything later was sent after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    /// Last commit before the moment.
    pub csn: u64,
    /// Microseconds since the Unix epoch.
    pub at_us: u64,
}

/// All commits of one primary since a test began to record.
pub(crate) struct History {
    /// The primary's csn before the first recorded commit.
    before: u64,
    commits: Vec<Commit>,
    /// The state after the last commit.
    pub model: Model,
}

#[derive(Clone)]
struct Commit {
    step: Step,
    reply: Option<Value>,
    now_ms: u64,
    sent_us: u64,
    replied_us: u64,
}

/// Steps for which a process kill left open whether they took effect.
pub(crate) struct Doubt {
    steps: Vec<Step>,
    replied: usize,
    now_ms: u64,
    sent_us: u64,
}

impl History {
    /// Starts on an empty primary.
    #[track_caller]
    pub(crate) fn start(client: &mut Client) -> Self {
        let history = Self { before: client.watermarks().committed, commits: Vec::new(), model: Model::default() };
        assert_same(&history.model.dump(), &dump(client), "the primary is empty at the start");
        history
    }

    /// Csn of the last recorded commit.
    pub(crate) fn csn(&self) -> u64 {
        self.before + self.commits.len() as u64
    }

    /// Csn before the first recorded commit.
    pub(crate) fn csn_before(&self) -> u64 {
        self.before
    }

    /// Runs one step, waits for its reply, and checks the csns that the step took.
    #[track_caller]
    pub(crate) fn run(&mut self, client: &mut Client, step: Step) {
        let (now_ms, sent_us) = (now_ms(), now_us());
        let reply = client.pipeline(&wire(&step)).pop().expect("a step has a reply");
        let replied_us = now_us();
        let effect = self.model.apply_step(&step, now_ms, Some(&reply));
        let csn = client.watermarks().committed;
        let taken = csn.checked_sub(self.csn()).expect("the csn never goes back");
        let fits = match effect {
            Effect::Changed => taken == 1,
            Effect::Rewrote => taken <= 1,
            Effect::Nothing | Effect::Refused => taken == 0,
        };
        assert!(fits, "a step that {effect:?} took {taken} csns: {step:?} was answered with {reply:?}");
        if taken == 1 {
            self.commits.push(Commit { step, reply: Some(reply), now_ms, sent_us, replied_us });
        }
    }

    /// Runs steps of known effect in one pipeline, and checks the csns that they took together.
    #[track_caller]
    pub(crate) fn run_pipelined(&mut self, client: &mut Client, steps: Vec<Step>) {
        let (now_ms, sent_us) = (now_ms(), now_us());
        let commands: Vec<Command> = steps.iter().flat_map(wire).collect();
        let mut replies = client.pipeline(&commands).into_iter();
        let replied_us = now_us();
        for step in steps {
            let reply = replies.by_ref().nth(wire(&step).len() - 1).expect("a step has a reply");
            if self.model.apply_step(&step, now_ms, Some(&reply)) == Effect::Changed {
                self.commits.push(Commit { step, reply: None, now_ms, sent_us, replied_us });
            }
        }
        assert_eq!(client.watermarks().committed, self.csn(), "a pipeline takes one csn for each change");
    }

    /// Sends steps of known effect in one pipeline and kills the primary after some replies.
    pub(crate) fn run_killed(&self, node: &mut Node, client: &mut Client, steps: Vec<Step>, replies: usize) -> Doubt {
        let (now_ms, sent_us) = (now_ms(), now_us());
        let commands: Vec<Command> = steps.iter().flat_map(wire).collect();
        client.send(&commands).expect("a live primary takes a pipeline");
        let mut received = 0;
        while received < replies.min(commands.len()) && client.receive().is_ok() {
            received += 1;
        }
        node.kill();
        while received < commands.len() && client.receive().is_ok() {
            received += 1;
        }
        let ends = steps.iter().scan(0, |end, step| {
            *end += wire(step).len();
            Some(*end)
        });
        let replied = ends.take_while(|end| *end <= received).count();
        Doubt { steps, replied, now_ms, sent_us }
    }

    /// Adds the steps in doubt that the restarted primary has: a prefix that contains every acknowledged step.
    #[track_caller]
    pub(crate) fn resolve(&mut self, doubt: Doubt, client: &mut Client) {
        let csn = client.watermarks().committed;
        let Doubt { steps, replied, now_ms, sent_us } = doubt;
        let (known, replied_us) = (self.csn(), now_us());
        assert!(csn >= known, "the restarted primary is at csn {csn}, before {known}, which was replied");
        for (index, step) in steps.into_iter().enumerate() {
            let mut after = self.model.clone();
            if after.apply_step(&step, now_ms, None) != Effect::Changed {
                continue;
            }
            if self.csn() == csn {
                assert!(index >= replied, "the restarted primary is at csn {csn} and lost a replied step: {step:?}");
                return;
            }
            self.model = after;
            self.commits.push(Commit { step, reply: None, now_ms, sent_us, replied_us });
        }
        assert_eq!(self.csn(), csn, "the restarted primary has more commits than were sent");
    }

    /// Returns the state after commit `csn`.
    pub(crate) fn model_at(&self, csn: u64) -> Model {
        let mut model = Model::default();
        for commit in &self.commits[..(csn - self.before) as usize] {
            model.apply_step(&commit.step, commit.now_ms, commit.reply.as_ref());
        }
        model
    }

    /// Returns the history of a primary that was restored to `csn`.
    pub(crate) fn until(&self, csn: u64) -> Self {
        let commits = self.commits[..(csn - self.before) as usize].to_vec();
        Self { before: self.before, commits, model: self.model_at(csn) }
    }

    /// Returns a time before commit `csn` was made, in microseconds since the Unix epoch.
    pub(crate) fn made_after_us(&self, csn: u64) -> u64 {
        self.commits[(csn - self.before) as usize - 1].sent_us
    }

    /// Returns the moments between commits that are at least `width_us` away from any commit.
    pub(crate) fn pauses(&self, width_us: u64) -> Vec<Pause> {
        let pairs = self.commits.windows(2).enumerate();
        pairs
            .filter(|(_, pair)| pair[1].sent_us > pair[0].replied_us + 2 * width_us)
            .map(|(index, pair)| Pause {
                csn: self.before + index as u64 + 1,
                at_us: u64::midpoint(pair[0].replied_us, pair[1].sent_us),
            })
            .collect()
    }
}

/// Returns the commands that a step is sent as.
fn wire(step: &Step) -> Vec<Command> {
    match step {
        Step::Single(command) => vec![command.clone()],
        Step::Group(commands) => framed(commands),
    }
}

/// Microseconds since the Unix epoch.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_micros() as u64
}
