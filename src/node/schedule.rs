//! Decides which node publishes the base that is due. Pure: maps a primary's knowledge to its next step.
//!
//! The primary keeps the schedule. It asks a suitable replica over the replica's link, so that the primary need not
//! cut, write and send the base. The replica's acknowledgements show whether the base was published, without a request
//! to the archive. Guarantees: if the setting allows the primary to publish, a due base is published even if every
//! replica fails.

use crate::config::SnapshotFrom;
use crate::csn::Csn;
use std::time::Duration;

/// Time within which a replica that was asked must start to publish.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A primary's knowledge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Situation {
    /// The nodes that may publish, according to the settings.
    pub from: SnapshotFrom,
    /// Whether a base is due.
    pub is_due: bool,
    /// Whether this node itself must publish a base, because otherwise history has no start.
    pub is_requested: bool,
    /// The connected replicas that can publish.
    pub able: Vec<Able>,
    /// The replica that was asked.
    pub asked: Option<Asked>,
}

/// A replica that can publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Able {
    /// The replica's node name.
    pub node: String,
    /// Whether the replica is publishing.
    pub is_busy: bool,
    /// Csn of the last base that the replica published; 0 if none.
    pub published: Csn,
}

/// A replica that was asked for a base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    /// The replica's node name.
    pub node: String,
    /// The base must be at this csn or above.
    pub wanted: Csn,
    /// Time since the replica was asked or last reported that it was publishing.
    pub idle: Duration,
    /// Replicas that failed after they were asked for this base.
    pub failed: Vec<String>,
}

/// The next step of a primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Do nothing, for example while a replica publishes.
    Wait,
    /// Publish the base on this node.
    Publish,
    /// Ask the replica with this node name.
    Ask(String),
    /// Record that the replica with this node name has published the requested base.
    Credit(String),
}

/// Returns the next step.
#[must_use]
pub(super) fn next_step(situation: &Situation) -> Step {
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
        // All replicas have failed, so the first one is asked again.
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
        // The replica has disconnected.
        assert_eq!(step(SnapshotFrom::Auto, &[able("b", false, 0)], asked("a", 0, &[])), ask("b"));
        assert_eq!(step(SnapshotFrom::Auto, &[], asked("a", 0, &[])), Step::Publish);
    }
}
