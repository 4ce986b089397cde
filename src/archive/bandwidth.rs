//! A limit on the bytes per second that uploads of bases may send to the archive. Chunks do not take part in the
//! limit, so that they go first.
//!
//! The limit is a token bucket: it fills at the rate, holds at most what accumulates during [`BURST`], and may be
//! overdrawn by one part, for which the next part waits. Guarantees: over any time the bytes let through are at most
//! rate times that time, plus one burst and one part for each upload in flight; a changed rate applies within
//! [`LOOK`]. [`Bucket`] decides, and is pure.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Time for which unused bandwidth accumulates while nothing is sent.
const BURST: Duration = Duration::from_secs(1);
/// Longest wait between two checks of the rate.
const LOOK: Duration = Duration::from_millis(500);

/// A limit that several uploads share.
#[derive(Debug, Default)]
pub struct Bandwidth(Mutex<Bucket>);

impl Bandwidth {
    /// Returns a limit of so many bytes per second; 0: no limit.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self(Mutex::new(Bucket { rate: bytes_per_second, ..Bucket::default() }))
    }

    /// Changes the limit.
    pub fn set(&self, bytes_per_second: u64) {
        self.0.lock().rate = bytes_per_second;
    }

    /// Returns when so many bytes may be sent. Cancel-safe: no bytes are taken before the call returns.
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

/// The number of bytes that may be sent at once.
#[derive(Debug, Default)]
struct Bucket {
    /// Bytes per second; 0: no limit.
    rate: u64,
    /// Bytes in the bucket; negative while an overdraft is being paid off.
    bytes: f64,
    /// Time at which the bucket was last filled; `None` before the first use.
    filled: Option<Instant>,
}

impl Bucket {
    /// Takes bytes out of the bucket. If the bucket is overdrawn, takes nothing and returns the time to wait before
    /// the next try.
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
        /// Goal: on a clock that advances by the waits of the bucket, and sometimes more, the stated bound holds.
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
                // No upload waits longer than the part before it takes.
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
        // The burst, an overdraft of 0.1 s, and a part that waits for the overdraft.
        for bytes in [1_000_000, 100_000, 100] {
            bandwidth.take(bytes).await;
        }
        assert!(started.elapsed() >= Duration::from_millis(95), "{:?}", started.elapsed());
        bandwidth.take(1_000_000_000).await;
        let lifted = async { bandwidth.set(0) };
        tokio::time::timeout(Duration::from_secs(5), futures::future::join(bandwidth.take(1), lifted)).await.unwrap();
    }
}
