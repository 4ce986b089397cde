//! Threads that are waited for.

use crate::error::Result;
use std::thread::ScopedJoinHandle;

/// What a thread came to; its panic goes on in the caller.
pub fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Runs what blocks beside the async runtime.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
