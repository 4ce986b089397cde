//! The parts of a multipart upload: their size, how many are in flight, and how often one is repeated.

use super::retry_policy::backoff;
use super::traffic::{Traffic, add};
use object_store::retry::{RetryContext, RetryPolicy};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Size of every part of a multipart upload except the last, and largest body that is sent as one request. A failed
/// request repeats at most so many bytes. 5 MiB is the smallest part that S3 accepts, so the memory bound is as tight
/// as possible.
pub(super) const PART_BYTES: u64 = 5 * 1024 * 1024;

/// Parts in flight of one upload. With [`crate::snapshot::mover::UPLOADS_IN_FLIGHT_MAX`] files, the upload of a base
/// holds at most 80 MiB.
pub(super) const PARTS_IN_FLIGHT_MAX: usize = 4;

/// First and longest pause between the attempts of one part.
const PART_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Retry policy for the single parts of a multipart upload, so that one lost part does not repeat the whole upload.
#[derive(Debug)]
pub(super) struct PartRetries {
    /// Counters of the archive.
    pub traffic: Arc<Traffic>,
    /// Attempts of one part, at least 1.
    pub attempts: u32,
}

impl RetryPolicy for PartRetries {
    fn retry<'life, 'call>(&'life self, failed: RetryContext) -> Pin<Box<dyn Future<Output = bool> + Send + 'call>>
    where
        'life: 'call,
        Self: 'call,
    {
        Box::pin(async move {
            if failed.attempt >= self.attempts as usize {
                return false;
            }
            add(&self.traffic.retries, 1);
            tokio::time::sleep(backoff(failed.attempt as u32, PART_BACKOFF.0, PART_BACKOFF.1)).await;
            true
        })
    }
}
