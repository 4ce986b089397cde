//! Threads that are waited for.

use std::thread::ScopedJoinHandle;

/// What a thread came to; its panic goes on in the caller.
pub fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
