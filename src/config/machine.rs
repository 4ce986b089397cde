//! The memory of the machine, from which the default of `maxmemory` follows.

use std::fs;

/// Part of the machine's memory that the keys in memory may take by default, in percent. The rest is for RocksDB,
/// connections, replies, and the copies that a snapshot keeps.
const KEYS_PERCENT: u64 = 40;
/// Budget of a machine whose memory is unknown, in bytes.
const UNKNOWN_BYTES: u64 = 1 << 30;

/// Returns the bytes that the keys in memory may take by default.
pub(super) fn keys_bytes() -> u64 {
    memory_bytes().map_or(UNKNOWN_BYTES, |bytes| bytes / 100 * KEYS_PERCENT)
}

/// Returns the bytes of memory that this process may use: those of the machine, or the limit of its control group.
fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|info| {
        let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|limit| limit.trim().parse().ok());
    machine.into_iter().chain(group).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_a_part_of_the_memory() {
        let (all, keys) = (memory_bytes().unwrap(), keys_bytes());
        assert!(keys > 0 && keys < all, "{keys} of {all} bytes");
    }
}
