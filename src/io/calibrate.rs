//! `auto`: measures both backends on the data directory with the access patterns of the logs and of bulk use, and
//! compares.
//!
//! This takes about [`TIME_MAX`] in all; on a slow disk one round of each backend is finished, however long it takes.
//! The result only says which backend is faster on this machine at this moment.

use super::{Io, UNFINISHED_SUFFIX, stream};
use crate::error::{Error, Result};
use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use std::path::Path;
use std::time::{Duration, Instant};

/// Time for both measurements of both backends.
const TIME_MAX: Duration = Duration::from_millis(100);

/// Part of [`TIME_MAX`] for the appends; the rest is for bulk transfers.
const APPEND_TIME_MAX: Duration = Duration::from_millis(35);

/// Bytes of one append: a group of a few dozen small commits.
const APPEND_BYTES: usize = 4096;

/// Most appends that are measured with each backend; the file has room for as many.
const APPENDS_MAX: usize = 64;

/// Bytes of one bulk transfer, which are written and read back.
const BULK_BYTES: usize = 2 * 1024 * 1024;

/// Most bulk transfers that are measured with each backend.
const BULKS_MAX: usize = 8;

/// The ring is preferred if its time is below this share of the system calls' time, so that noise does not decide.
const PREFER_BELOW: f64 = 0.9;

/// One value for each of the two uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PerUse<T> {
    pub log: T,
    pub bulk: T,
}

/// Which uses get the ring, and why.
#[derive(Debug)]
pub(super) struct Verdict {
    pub uring: PerUse<bool>,
    pub reason: String,
}

/// Best times of one backend. `log`: an append and its sync. `bulk`: [`BULK_BYTES`] written, synced, and read while
/// they are not in the page cache. The best time counts, because other work on the machine can only add to it.
type Times = PerUse<Duration>;

/// Measures both backends in `dir` and decides.
pub(super) fn calibrate(dir: &Path, std: &dyn Io, uring: &dyn Io) -> Result<Verdict> {
    let started = Instant::now();
    let path = dir.join(format!("io-calibration{UNFINISHED_SUFFIX}"));
    let measured = measure(&path, started, std, uring);
    let removed = std.remove(&path);
    let (std_times, uring_times) = measured?;
    removed?;
    Ok(decide(std_times, uring_times))
}

/// Measures the appends, then the bulk transfers, on one file.
fn measure(path: &Path, started: Instant, std: &dyn Io, uring: &dyn Io) -> Result<(Times, Times)> {
    let file = std.create(path)?;
    stream::write(
        |at, piece| std.start_write(&file, at, piece),
        &mut stream::zeroes((APPENDS_MAX * APPEND_BYTES) as u64),
    )?;
    std.sync_data(&file)?;
    let record = Bytes::from(vec![0x5A; APPEND_BYTES]);
    let mut offset = 0;
    let append = |io: &dyn Io| {
        io.write_at(&file, offset % (APPENDS_MAX * APPEND_BYTES) as u64, record.clone())?;
        offset += APPEND_BYTES as u64;
        io.sync_data(&file)
    };
    let log = alternate(append, std, uring, APPENDS_MAX, started + APPEND_TIME_MAX)?;

    let content = Bytes::from(vec![0xC3; BULK_BYTES]);
    let bulk = |io: &dyn Io| {
        stream::write(|at, piece| io.start_write(&file, at, piece), &mut std::iter::once(Ok(content.clone())))?;
        io.sync_data(&file)?;
        // Bases and chunks are read long after they were written. If the kernel ignores the advice, the read is a
        // copy.
        fadvise(file.file(), 0, None, Advice::DontNeed)
            .map_err(|e| Error::io("drop from the cache", path)(e.into()))?;
        io.read_at(&file, 0, BULK_BYTES).map(drop)
    };
    let bulk = alternate(bulk, std, uring, BULKS_MAX, started + TIME_MAX)?;
    Ok((Times { log: log.0, bulk: bulk.0 }, Times { log: log.1, bulk: bulk.1 }))
}

/// Returns the best times of `action`, with the backends in turn: at least one round, at most `rounds_max`, none begun
/// after `deadline`.
fn alternate(
    mut action: impl FnMut(&dyn Io) -> Result<()>,
    std: &dyn Io,
    uring: &dyn Io,
    rounds_max: usize,
    deadline: Instant,
) -> Result<(Duration, Duration)> {
    let mut timed = |io: &dyn Io| {
        let begun = Instant::now();
        action(io).map(|()| begun.elapsed())
    };
    let (mut std_best, mut uring_best) = (timed(std)?, timed(uring)?);
    for _ in 1..rounds_max {
        if Instant::now() >= deadline {
            break;
        }
        std_best = std_best.min(timed(std)?);
        uring_best = uring_best.min(timed(uring)?);
    }
    Ok((std_best, uring_best))
}

/// Compares the times. A near tie goes to the system calls.
fn decide(std: Times, uring: Times) -> Verdict {
    let wins = |std: Duration, uring: Duration| uring.as_secs_f64() < PREFER_BELOW * std.as_secs_f64();
    // The bulk transfer moves its bytes twice.
    let rate = |time: Duration| (2 * BULK_BYTES) as f64 / 1e6 / time.as_secs_f64().max(1e-9);
    Verdict {
        uring: PerUse { log: wins(std.log, uring.log), bulk: wins(std.bulk, uring.bulk) },
        reason: format!(
            "measured: 4 KiB append + fdatasync std {} us, uring {} us; bulk write + fdatasync + read std {:.0} MB/s, \
             uring {:.0} MB/s",
            std.log.as_micros(),
            uring.log.as_micros(),
            rate(std.bulk),
            rate(uring.bulk),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the two uses are decided separately, and the ring must win clearly.
    #[test]
    fn the_ring_must_win_clearly() {
        let times = |log, bulk| Times { log: Duration::from_micros(log), bulk: Duration::from_micros(bulk) };
        let verdict = decide(times(118, 4_000), times(174, 2_000));
        assert_eq!(verdict.uring, PerUse { log: false, bulk: true });
        assert_eq!(
            verdict.reason,
            "measured: 4 KiB append + fdatasync std 118 us, uring 174 us; bulk write + fdatasync + read std 1049 MB/s, \
             uring 2097 MB/s"
        );
        assert_eq!(decide(times(100, 1_000), times(95, 950)).uring, PerUse { log: false, bulk: false });
        assert_eq!(decide(times(100, 1_000), times(50, 1_100)).uring, PerUse { log: true, bulk: false });
    }
}
