//! Who publishes the base that is due. Pure: from what a primary knows to its next step.
//!
//! The primary keeps the schedule. A replica that can is asked over its link, so that the primary need not cut, write and
//! send; whether it did is seen from its acknowledgements, without a request to the archive. Guarantees: while the
//! setting allows the primary, a base that is due is published although every replica fails.

use crate::config::SnapshotFrom;
use crate::csn::Csn;
use std::time::Duration;

/// How long a replica that was asked may be neither at work nor done.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What a primary knows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Situation {
    /// Who may publish.
    pub from: SnapshotFrom,
    /// Whether a base is due.
    pub is_due: bool,
    /// Whether this node itself must publish one, because history has no start otherwise.
    pub is_requested: bool,
    /// Replicas that are connected and could publish, by node.
    pub able: Vec<Able>,
    /// The replica that was asked.
    pub asked: Option<Asked>,
}

/// A replica that could publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Able {
    /// Its node number.
    pub node: String,
    /// Whether it is publishing.
    pub is_busy: bool,
    /// Csn of the last base it published; 0 if none.
    pub published: Csn,
}

/// A replica that was asked for a base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Its node number.
    pub node: String,
    /// The base must not be below this csn.
    pub wanted: Csn,
    /// How long ago it was asked, or last seen at work.
    pub idle: Duration,
    /// Replicas that were asked for this base before and failed.
    pub failed: Vec<String>,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing; also as long as a replica works.
    Wait,
    /// Publish.
    Publish,
    /// Ask this replica.
    Ask(String),
    /// The replica published what was asked for.
    Credit(String),
}

/// The next step.
#[must_use]
pub fn next_step(situation: &Situation) -> Step {
    let Situation { from, is_due, is_requested, able, asked } = situation;
    if *is_requested {
        return Step::Publish;
    }
    if !is_due {
        return Step::Wait;
    }
    if *from == SnapshotFrom::Primary {
        return Step::Publish;
    }
    if let Some(Asked { node, wanted, idle, .. }) = asked
        && let Some(replica) = able.iter().find(|able| able.node == *node)
    {
        if replica.published >= *wanted {
            return Step::Credit(node.clone());
        }
        if replica.is_busy || *idle < ANSWER_MAX {
            return Step::Wait;
        }
    }
    let has_failed =
        |able: &Able| asked.as_ref().is_some_and(|asked| asked.node == able.node || asked.failed.contains(&able.node));
    match able.iter().find(|able| !has_failed(able)) {
        Some(replica) => Step::Ask(replica.node.clone()),
        None if *from == SnapshotFrom::Auto => Step::Publish,
        // All were tried: begin again with the first.
        None => able.first().map_or(Step::Wait, |replica| Step::Ask(replica.node.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn able(node: &str, is_busy: bool, published: u64) -> Able {
        Able { node: node.to_owned(), is_busy, published: Csn(published) }
    }

    fn asked(node: &str, idle_s: u64, failed: &[&str]) -> Option<Asked> {
        let failed = failed.iter().map(|&node| node.to_owned()).collect();
        Some(Asked { node: node.to_owned(), wanted: Csn(100), idle: Duration::from_secs(idle_s), failed })
    }

    fn step(from: SnapshotFrom, able: &[Able], asked: Option<Asked>) -> Step {
        let (is_due, is_requested) = (true, false);
        next_step(&Situation { from, is_due, is_requested, able: able.to_vec(), asked })
    }

    fn ask(node: &str) -> Step {
        Step::Ask(node.to_owned())
    }

    #[test]
    fn nobody_publishes_what_is_not_due_but_a_missing_start_of_history() {
        for from in [SnapshotFrom::Primary, SnapshotFrom::Replica, SnapshotFrom::Auto] {
            let mut situation =
                Situation { from, is_due: false, is_requested: false, able: vec![able("a", false, 0)], asked: None };
            assert_eq!(next_step(&situation), Step::Wait);
            situation.is_requested = true;
            assert_eq!(next_step(&situation), Step::Publish);
        }
    }

    #[test]
    fn the_setting_says_who() {
        let one = [able("a", false, 0)];
        assert_eq!(step(SnapshotFrom::Primary, &one, None), Step::Publish);
        assert_eq!(step(SnapshotFrom::Replica, &one, None), ask("a"));
        assert_eq!(step(SnapshotFrom::Auto, &one, None), ask("a"));
        assert_eq!(step(SnapshotFrom::Auto, &[], None), Step::Publish);
        assert_eq!(step(SnapshotFrom::Replica, &[], None), Step::Wait);
    }

    #[test]
    fn a_replica_at_work_is_waited_for_and_credited() {
        let auto = SnapshotFrom::Auto;
        assert_eq!(step(auto, &[able("a", true, 0)], asked("a", 10_000, &[])), Step::Wait);
        assert_eq!(step(auto, &[able("a", false, 99)], asked("a", 29, &[])), Step::Wait);
        assert_eq!(step(auto, &[able("a", false, 100)], asked("a", 0, &[])), Step::Credit("a".to_owned()));
    }

    #[test]
    fn after_a_failure_another_replica_is_asked_then_the_primary_publishes() {
        let both = [able("a", false, 0), able("b", false, 0)];
        assert_eq!(step(SnapshotFrom::Auto, &both, asked("a", 30, &[])), ask("b"));
        assert_eq!(step(SnapshotFrom::Auto, &both, asked("b", 30, &["a"])), Step::Publish);
        assert_eq!(step(SnapshotFrom::Replica, &both, asked("b", 30, &["a"])), ask("a"));
        // Its connection is gone.
        assert_eq!(step(SnapshotFrom::Auto, &[able("b", false, 0)], asked("a", 0, &[])), ask("b"));
        assert_eq!(step(SnapshotFrom::Auto, &[], asked("a", 0, &[])), Step::Publish);
    }
}
