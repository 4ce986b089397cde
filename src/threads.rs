//! Runs threads and waits for their results.

use crate::error::Result;
use std::thread::ScopedJoinHandle;

/// Waits for a thread and returns its result. A panic of the thread continues in the caller.
pub fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs blocking work beside the async runtime and returns its result. A panic of the work continues in the caller.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
