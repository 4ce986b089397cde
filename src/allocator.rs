//! How much memory the process' allocator has given out: to the memory engines and caches, to RocksDB, to connections.
//!
//! The binary chooses the allocator and says how to ask it; without that nothing is known.

use std::sync::OnceLock;

/// Bytes given out and not taken back; `None` if the allocator does not tell.
type Ask = fn() -> Option<u64>;

static ASK: OnceLock<Ask> = OnceLock::new();

/// Sets how the allocator is asked. The first call counts.
pub fn ask_with(ask: Ask) {
    let _ = ASK.set(ask);
}

/// Bytes that the allocator has given out and not got back; `None` if it is not known.
#[must_use]
pub fn allocated_bytes() -> Option<u64> {
    ASK.get().and_then(|ask| ask())
}
