//! How a primary reacts when the wall clock is set.
//!
//! Guarantees: no commit has a time before that of the preceding commit, except the first commit of a new epoch. Commit
//! times follow a clock that was set by more than [`clock::STEP_MIN`] only if `accept-clock-step` allows so, because
//! only the operator knows whether the clock or the earlier times are wrong.

use super::core::Core;
use crate::clock::{self, is_step, now_micros};
use crate::csn::CommitTime;
use crate::error::{Error, Result};
use std::time::Duration;

/// Reports whether commits after one made at `last` need a new epoch, because the times of the old epoch lie in the
/// future. Returns [`Error::FutureCommits`] if they do and the operator has not confirmed that the clock, which shows
/// `now`, is right.
pub(super) fn needs_epoch(last: CommitTime, now: CommitTime, accepts_step: bool) -> Result<bool> {
    let ahead = Duration::from_micros(last.0.saturating_sub(now.0));
    if ahead <= clock::STEP_MIN {
        return Ok(false);
    }
    if !accepts_step {
        return Err(Error::FutureCommits { last, now });
    }
    Ok(true)
}

/// Applies [`needs_epoch`] to a node before the node accepts writes.
pub fn node_needs_epoch(core: &Core) -> Result<bool> {
    needs_epoch(core.committer.committed_time(), CommitTime(now_micros()), core.config().accept_clock_step)
}

/// Checks regularly whether the wall clock was set.
#[derive(Default)]
pub(super) struct ClockWatch {
    /// Whether the wall clock was set and commit times do not follow it.
    is_held: bool,
}

impl ClockWatch {
    /// Checks once. Logs when the wall clock was set, and when commit times follow it.
    pub(super) fn look(&mut self, core: &Core) {
        if core.is_replica() {
            self.is_held = false;
            return;
        }
        let mut guard = core.committer.lock_writer();
        let apart_us = guard.clock_lag_us();
        let is_set = is_step(apart_us);
        let follows = is_set && apart_us > 0 && core.config().accept_clock_step;
        if follows {
            guard.follow_wall_clock();
        }
        // The thread that left the group open writes it.
        let _ = guard.leave_open();
        let is_held = is_set && !follows;
        if follows || is_held != self.is_held {
            let wall = CommitTime(now_micros());
            let commits = CommitTime(wall.0.saturating_add_signed(-apart_us));
            match (follows, is_held) {
                (true, _) => {
                    tracing::warn!(%wall, %commits, "the system's clock was set forward: commit times follow it")
                }
                (_, false) => tracing::info!(%wall, %commits, "commit times follow the system's clock"),
                (_, true) if apart_us > 0 => tracing::warn!(
                    %wall, %commits,
                    "the system's clock was set forward, and commit times do not follow it. If the clock is right, \
                     use CONFIG SET accept-clock-step yes, or restart"
                ),
                (_, true) => tracing::warn!(
                    %wall, %commits,
                    "the system's clock was set back, and commit times do not follow it. If the clock is right, \
                     restart once with --set accept-clock-step=yes, which begins a new epoch at the present time"
                ),
            }
        }
        self.is_held = is_held;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_future_of_more_than_a_minute_needs_consent_and_an_epoch() {
        let now = CommitTime(1_790_000_000_000_000);
        let after = |seconds: i64| CommitTime(now.0.saturating_add_signed(seconds * 1_000_000));
        for accepts in [false, true] {
            for seconds in [-100_000, 0, 1, 60] {
                assert!(!needs_epoch(after(seconds), now, accepts).unwrap(), "{seconds}");
            }
        }
        assert!(needs_epoch(after(61), now, true).unwrap());
        let told = needs_epoch(after(86_400), now, false).unwrap_err().to_string();
        for part in [&now.to_string(), &after(86_400).to_string(), "accept-clock-step=yes", "86400 s"] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
    }
}
