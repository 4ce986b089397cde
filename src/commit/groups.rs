//! Which groups of commits were written, for the replies that wait for one.
//!
//! A group is filled by many connections in turn and written once: replies to all of them leave after that. Groups are
//! numbered from 1 in the order in which they are written. Once one failed, all later ones fail: nothing is logged any
//! more until a restart.

use crate::error::{Error, Result};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Number of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupNumber(pub u64);

impl GroupNumber {
    /// The group after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The group before this one.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0 - 1)
    }
}

/// How far groups have got.
#[derive(Debug, Default)]
pub struct Groups {
    /// Number of the last group that was dealt with, written or failed.
    settled: AtomicU64,
    /// The first group that failed, and why.
    failed: OnceLock<(GroupNumber, String)>,
    changed: Notify,
}

impl Groups {
    /// A group was written.
    ///
    /// # Panics
    /// If the group before it is not settled: its replies would leave with this one's.
    pub(super) fn written(&self, group: GroupNumber) {
        let before = self.settled.swap(group.0, Ordering::AcqRel);
        assert_eq!(before + 1, group.0, "groups are settled one after the other");
        self.changed.notify_waiters();
    }

    /// A group could not be written, so none after it will be.
    pub(super) fn failed(&self, group: GroupNumber, error: &Error) {
        let _ = self.failed.set((group, error.to_string()));
        self.written(group);
    }

    /// Whether a group could not be written: then none is written any more.
    #[must_use]
    pub fn have_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// The last group that was dealt with, written or failed.
    #[must_use]
    pub fn settled_until(&self) -> GroupNumber {
        GroupNumber(self.settled.load(Ordering::Acquire))
    }

    /// Returns once a group above `seen` was dealt with, and the last one that was. Cancel-safe.
    pub async fn settled_above(&self, seen: GroupNumber) -> GroupNumber {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            let settled = self.settled_until();
            if settled > seen {
                return settled;
            }
            changed.await;
        }
    }

    /// What became of a group; `None` if it is not settled.
    #[must_use]
    pub fn outcome(&self, group: GroupNumber) -> Option<Result<()>> {
        if self.settled_until() < group {
            return None;
        }
        Some(match self.failed.get() {
            Some((first, reason)) if group >= *first => Err(Error::Refused { reason: reason.clone() }),
            _ => Ok(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reply_waits_for_its_group_and_fails_with_it_or_after_it() {
        let groups = Groups::default();
        assert!(groups.outcome(GroupNumber(1)).is_none());
        let waits = groups.settled_above(GroupNumber(0));
        let writes = async { groups.written(GroupNumber(1)) };
        assert_eq!(tokio::join!(waits, writes).0, GroupNumber(1));
        let waits = groups.settled_above(GroupNumber(1));
        let fails = async { groups.failed(GroupNumber(2), &Error::Refused { reason: "no".into() }) };
        assert_eq!(tokio::join!(waits, fails).0, GroupNumber(2));
        groups.failed(GroupNumber(3), &Error::Refused { reason: "still".into() });
        let is_written = |number| groups.outcome(GroupNumber(number)).map(|outcome| outcome.is_ok());
        assert_eq!([1, 2, 3, 4].map(is_written), [Some(true), Some(false), Some(false), None]);
    }

    #[test]
    #[should_panic(expected = "one after the other")]
    fn a_group_that_was_lost_is_not_settled_by_a_later_one() {
        let groups = Groups::default();
        groups.written(GroupNumber(1));
        groups.written(GroupNumber(3));
    }
}
