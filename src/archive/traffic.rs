//! What the archive's use of the object store costs: requests, bytes, retries.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one [`super::store::Archive`] and its clones; they only grow. Requests are counted as sent, so a retried
/// call counts each time.
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
    /// Requests that were repeats of one that had failed.
    pub retries: AtomicU64,
    /// Calls that failed for good.
    pub failures: AtomicU64,
}

/// Adds to a counter nothing else is ordered by.
pub(super) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
