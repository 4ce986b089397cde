//! A limit on the bytes a second that bases take of the way to the archive, so that chunks, which do not ask it, go first.
//!
//! A token bucket: it fills at the rate, holds what comes together in [`BURST`], and may be overdrawn by one part, which
//! the next one waits for. Guarantees: over any time the bytes let through are at most rate times that time, plus one
//! burst and one part for each upload in flight; a changed rate is in force within [`LOOK`]. Decided by [`Bucket`], pure.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What may be saved up while nothing is sent.
const BURST: Duration = Duration::from_secs(1);
/// Longest wait between two looks at the rate.
const LOOK: Duration = Duration::from_millis(500);

/// A limit that uploads share.
#[derive(Debug, Default)]
pub struct Bandwidth(Mutex<Bucket>);

impl Bandwidth {
    /// A limit of so many bytes a second; 0: none.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self(Mutex::new(Bucket { rate: bytes_per_second, ..Bucket::default() }))
    }

    /// Changes the limit.
    pub fn set(&self, bytes_per_second: u64) {
        self.0.lock().rate = bytes_per_second;
    }

    /// Returns when so many bytes may be sent. Cancel-safe: nothing is taken before.
    pub async fn take(&self, bytes: u64) {
        loop {
            let wait = self.0.lock().take(Instant::now(), bytes);
            match wait {
                None => return,
                Some(wait) => tokio::time::sleep(wait.min(LOOK)).await,
            }
        }
    }
}

/// What may be sent now.
#[derive(Debug, Default)]
struct Bucket {
    /// Bytes a second; 0: no limit.
    rate: u64,
    /// Bytes in it; below zero while a part is being paid off.
    bytes: f64,
    /// When it was last filled; none before the first use.
    filled: Option<Instant>,
}

impl Bucket {
    /// Takes bytes out; how long to wait before asking again if it is overdrawn.
    fn take(&mut self, now: Instant, bytes: u64) -> Option<Duration> {
        if self.rate == 0 {
            *self = Self::default();
            return None;
        }
        let rate = self.rate as f64;
        let since = self.filled.map_or(BURST, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        self.bytes = (self.bytes + since.as_secs_f64() * rate).min(BURST.as_secs_f64() * rate);
        if self.bytes < 0.0 {
            return Some(Duration::from_secs_f64(-self.bytes / rate));
        }
        self.bytes -= bytes as f64;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// On a clock that does what the bucket asks for, and sometimes more.
        #[test]
        fn never_more_than_the_rate_a_burst_and_a_part(
            rate in 1..50_000_000_u64, parts in prop::collection::vec((1..6_000_000_u64, 0..3_000_u64), 1..60)
        ) {
            let start = Instant::now();
            let (mut now, mut bucket, mut sent) = (start, Bucket { rate, ..Bucket::default() }, 0);
            let largest = parts.iter().map(|(bytes, _)| *bytes).max().unwrap();
            for (bytes, idle_ms) in parts {
                now += Duration::from_millis(idle_ms);
                let mut waited = Duration::ZERO;
                while let Some(wait) = bucket.take(now, bytes) {
                    now += wait + Duration::from_nanos(1);
                    waited += wait;
                }
                // Nobody waits for more than what is in front of him.
                prop_assert!(waited.as_secs_f64() <= largest as f64 / rate as f64 + 0.001);
                sent += bytes;
                let most = (now - start + BURST).as_secs_f64() * rate as f64 + largest as f64 + 1.0;
                prop_assert!(sent as f64 <= most, "{sent} of {most}");
            }
        }
    }

    #[test]
    fn no_limit_is_no_wait_and_a_new_limit_starts_afresh() {
        let now = Instant::now();
        let mut bucket = Bucket::default();
        assert_eq!(bucket.take(now, u64::MAX), None);
        bucket.rate = 1000;
        assert_eq!(bucket.take(now, 3000), None, "a burst and a part");
        assert_eq!(bucket.take(now, 1), Some(Duration::from_secs(2)));
        bucket.rate = 0;
        assert_eq!(bucket.take(now, 1), None);
    }

    #[tokio::test]
    async fn uploads_share_the_limit_and_a_lifted_one_frees_them() {
        let bandwidth = Bandwidth::new(1_000_000);
        let started = Instant::now();
        // The burst, an overdraft of 0.1 s, and then one that waits for it.
        for bytes in [1_000_000, 100_000, 100] {
            bandwidth.take(bytes).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(95), "{:?}", started.elapsed());
        bandwidth.take(1_000_000_000).await;
        let lifted = async { bandwidth.set(0) };
        tokio::time::timeout(Duration::from_secs(5), futures::future::join(bandwidth.take(1), lifted)).await.unwrap();
    }
}
