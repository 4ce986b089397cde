//! The retry policy: how long a call to the object store may take and how often it is repeated.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Slowest transfer that counts as progress; it determines how much a deadline grows with the body.
const BYTES_PER_SECOND_MIN: u64 = 512 * 1024;

/// Pause before the first retry; it doubles from one retry to the next.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// Longest pause between two attempts of one call.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Bounds on the attempts of one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Attempts of a call, at least 1. Only a failure that a later attempt may cure is retried.
    pub attempts: u32,
    /// Deadline of one attempt, without the time for its body.
    pub deadline: Duration,
    /// Pause before a read is retried whose answer made no sense; it doubles from one retry to the next.
    pub wrong_answer_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl RetryPolicy {
    /// The bounds of a node or a tool that does its ordinary work.
    pub const DEFAULT: Self =
        Self { attempts: 4, deadline: Duration::from_secs(20), wrong_answer_backoff: Duration::from_millis(50) };

    /// Returns the deadline of an attempt that moves `bytes`.
    pub(super) fn deadline_for(self, bytes: u64) -> Duration {
        self.deadline + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)
    }

    /// Returns the pause after the `failed`-th failure in a row.
    pub(super) fn pause_after(self, failed: u32) -> Duration {
        backoff(failed, BACKOFF_FIRST, BACKOFF_MAX)
    }

    /// Returns the pause after the `failed`-th answer in a row that made no sense.
    pub(super) fn pause_after_wrong_answer(self, failed: u32) -> Duration {
        backoff(failed, self.wrong_answer_backoff, BACKOFF_MAX)
    }
}

/// Makes an error for a failure that this side found, not the store.
pub(super) fn failure(detail: String) -> object_store::Error {
    object_store::Error::Generic { store: "archive", source: detail.into() }
}

/// Ends the wait for a request that is not answered within `deadline`. The store may carry out the request later.
pub(super) async fn within<T>(
    deadline: Duration,
    request: impl Future<Output = object_store::Result<T>>,
) -> object_store::Result<T> {
    match tokio::time::timeout(deadline, request).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failure(format!("no answer within {} s", deadline.as_secs_f32()))),
    }
}

/// Reports whether a later attempt can succeed after this error.
pub(super) fn may_pass(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    !matches!(
        error,
        E::NotFound { .. }
            | E::Precondition { .. }
            | E::NotModified { .. }
            | E::NotImplemented { .. }
            | E::NotSupported { .. }
            | E::InvalidPath { .. }
            | E::PermissionDenied { .. }
            | E::Unauthenticated { .. }
            | E::UnknownConfigurationKey { .. }
    )
}

/// Reports whether the store refuses the request because of the caller's identity: another identity could succeed.
#[must_use]
pub fn is_denied(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    if matches!(error, E::PermissionDenied { .. } | E::Unauthenticated { .. }) {
        return true;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(io, Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem)) {
            return true;
        }
        cause = error.source();
    }
    // For an object of a bulk deletion, only the text of the error has the code.
    error.to_string().contains("AccessDenied")
}

/// Returns the pause after the `failed`-th failure in a row: it doubles from `first` to `max`, and a random factor
/// between one half and one shortens it.
pub fn backoff(failed: u32, first: Duration, max: Duration) -> Duration {
    let full = first.saturating_mul(1 << failed.saturating_sub(1).min(20)).min(max);
    // A fresh `RandomState` hashes nothing to a random number, which is random enough to keep writers from retrying at
    // the same moments.
    let random = RandomState::new().build_hasher().finish() % 1024;
    full / 2 + full.mul_f64(random as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded_for_ever() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(5));
        for failed in [1, 2, 3, 7, 30, 31, 32, 33, 64, u32::MAX] {
            let full = first.saturating_mul(1 << (failed - 1).min(20)).min(max);
            let pause = backoff(failed, first, max);
            assert!(full / 2 <= pause && pause <= full, "{failed}: {pause:?}");
        }
    }
}
