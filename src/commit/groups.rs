//! Tells which groups of commits were written, for the replies that wait for a group.
//!
//! Many connections fill a group one after the other, and the group is written once; the replies to all of them leave
//! afterwards. Groups are numbered from 1 in the order in which they are written. Once a group has failed, all later
//! groups fail, because nothing is logged until a restart.

use crate::error::{Error, Result};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Number of a group, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupNumber(pub u64);

impl GroupNumber {
    /// Returns the number of the next group.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the number of the group before.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0 - 1)
    }
}

/// Outcomes of groups.
#[derive(Debug, Default)]
pub struct Groups {
    /// Number of the last settled group: written or failed.
    settled: AtomicU64,
    /// The first group that failed, and the reason.
    failed: OnceLock<(GroupNumber, String)>,
    changed: Notify,
}

impl Groups {
    /// Notes that a group was written.
    ///
    /// # Panics
    /// If the group before it is not settled: the replies of that group would leave too early.
    pub(super) fn written(&self, group: GroupNumber) {
        let before = self.settled.swap(group.0, Ordering::AcqRel);
        assert_eq!(before + 1, group.0, "groups are settled one after the other");
        self.changed.notify_waiters();
    }

    /// Notes that a group could not be written. All later groups fail, too.
    pub(super) fn failed(&self, group: GroupNumber, reason: String) {
        let _ = self.failed.set((group, reason));
        self.written(group);
    }

    /// Reports whether a group could not be written. Then no later group is written.
    #[must_use]
    pub fn have_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// Returns the number of the last settled group: written or failed.
    #[must_use]
    pub fn settled_until(&self) -> GroupNumber {
        GroupNumber(self.settled.load(Ordering::Acquire))
    }

    /// Waits until a group above `seen` is settled, and returns the number of the last settled group. Cancel-safe.
    pub async fn settled_above(&self, seen: GroupNumber) -> GroupNumber {
        loop {
            let mut changed = pin!(self.changed.notified());
            // The waiter is registered before the look, so that no change between the two is missed.
            changed.as_mut().enable();
            let settled = self.settled_until();
            if settled > seen {
                return settled;
            }
            changed.await;
        }
    }

    /// Returns the outcome of a group, or `None` if the group is not settled.
    #[must_use]
    pub fn outcome(&self, group: GroupNumber) -> Option<Result<()>> {
        if self.settled_until() < group {
            return None;
        }
        Some(match self.failed.get() {
            Some((first, reason)) if group >= *first => Err(Error::NeedsRestart { reason: reason.clone() }),
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
        let fails = async { groups.failed(GroupNumber(2), "no".into()) };
        assert_eq!(tokio::join!(waits, fails).0, GroupNumber(2));
        groups.failed(GroupNumber(3), "still".into());
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
