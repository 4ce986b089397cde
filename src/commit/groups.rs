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
    pub(super) fn written(&self, group: GroupNumber) {
        self.settled.store(group.0, Ordering::Release);
        self.changed.notify_waiters();
    }

    /// A group could not be written, so none after it will be.
    pub(super) fn failed(&self, group: GroupNumber, error: &Error) {
        let _ = self.failed.set((group, error.to_string()));
        self.written(group);
    }

    /// Returns once a group was written; an error if it could not be. Cancel-safe.
    pub async fn settled(&self, group: GroupNumber) -> Result<()> {
        while self.settled.load(Ordering::Acquire) < group.0 {
            let mut changed = pin!(self.changed.notified());
            // Registered before the second look, so that no change between the two is missed.
            changed.as_mut().enable();
            if self.settled.load(Ordering::Acquire) < group.0 {
                changed.await;
            }
        }
        match self.failed.get() {
            Some((first, reason)) if group >= *first => Err(Error::Refused { reason: reason.clone() }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reply_waits_for_its_group_and_fails_with_it_or_after_it() {
        let groups = Groups::default();
        let waits = groups.settled(GroupNumber(1));
        let writes = async { groups.written(GroupNumber(1)) };
        assert!(tokio::join!(waits, writes).0.is_ok());
        let waits = groups.settled(GroupNumber(2));
        let fails = async { groups.failed(GroupNumber(2), &Error::Refused { reason: "no".into() }) };
        assert!(tokio::join!(waits, fails).0.is_err());
        groups.failed(GroupNumber(3), &Error::Refused { reason: "still".into() });
        assert!(groups.settled(GroupNumber(3)).await.is_err());
        assert!(groups.settled(GroupNumber(1)).await.is_ok());
    }
}
