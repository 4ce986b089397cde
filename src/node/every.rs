//! Runs a task at an interval. The schedules of bases, compacted runs, prunes and merges use it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Pause between two checks whether a task is due. A setting that changes is noticed within this time.
const LOOK: Duration = Duration::from_millis(500);

/// Runs `task` whenever `interval` has passed since the task last ended, or since the call. Each check asks `interval`
/// anew; `None` means that the task is not due now, however much time has passed. One task runs at a time. Ends when
/// `owner` is dropped.
pub async fn every<T, F: Future<Output = ()>>(
    owner: Weak<T>,
    interval: impl Fn(&T) -> Option<Duration>,
    task: impl Fn(Arc<T>) -> F,
) {
    let mut last = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(owner) = owner.upgrade() else { return };
        if interval(&owner).is_some_and(|interval| last.elapsed() >= interval) {
            task(owner).await;
            last = Instant::now();
        }
    }
}
