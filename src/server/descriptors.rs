//! File descriptors: each client takes one, and enough of them must be left for the engines, the logs and the feeds.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// File descriptors kept for everything but clients, mainly for RocksDB's table files.
const RESERVED: u64 = 4_608;

/// Raises this process' limit of open files as far as the system allows, and returns how many clients fit beside
/// everything else. Where the limit is low, clients get half of it.
#[must_use]
fn clients_max() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    limit - RESERVED.min(limit / 2)
}

/// Returns [`clients_max`], and logs a warning if `wanted` clients are more than that.
#[must_use]
pub(super) fn make_room(wanted: u64) -> u64 {
    let fitting = clients_max();
    if fitting < wanted {
        tracing::warn!(
            maxclients = wanted,
            fitting,
            "maxclients exceeds the limit of open files (ulimit -n): fewer clients are accepted"
        );
    }
    fitting
}
