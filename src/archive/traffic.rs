//! Counters of the archive's use of the object store: requests, bytes, retries.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one [`super::store::Archive`] and its clones; they only grow. Every request sent is counted, so a
/// retried call counts once for each attempt.
#[derive(Debug, Default)]
pub struct Traffic {
    /// PUT requests, multipart parts included.
    pub puts: AtomicU64,
    /// GET requests.
    pub gets: AtomicU64,
    /// HEAD requests.
    pub heads: AtomicU64,
    /// LIST requests, by pages of 1000 objects.
    pub lists: AtomicU64,
    /// DELETE requests.
    pub deletes: AtomicU64,
    /// Bytes of bodies sent.
    pub bytes_sent: AtomicU64,
    /// Bytes of bodies received.
    pub bytes_received: AtomicU64,
    /// Requests that repeated a failed request.
    pub retries: AtomicU64,
    /// Calls that failed after their last attempt.
    pub failures: AtomicU64,
}

/// Adds `n` to a counter. Relaxed ordering suffices, because nothing else depends on the order.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
