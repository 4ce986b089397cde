//! How much memory the allocator of this process has given out: to the keys in memory and caches, to RocksDB, to
//! connections.
//!
//! The binary chooses the allocator and says with [`ask_with`] how to ask it. Without that call the amount is unknown.

use std::sync::OnceLock;

/// Returns the bytes that were given out and not freed, or `None` if the allocator does not tell.
type Ask = fn() -> Option<u64>;

static ASK: OnceLock<Ask> = OnceLock::new();

/// Sets how the allocator is asked. Only the first call has an effect.
pub fn ask_with(ask: Ask) {
    let _ = ASK.set(ask);
}

/// Returns the bytes that the allocator has given out and that were not freed; `None` if the amount is unknown.
#[must_use]
pub fn allocated_bytes() -> Option<u64> {
    ASK.get().and_then(|ask| ask())
}
