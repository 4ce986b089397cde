//! Routing: the choice of the home of a new key.
//!
//! Guarantees: a choice depends only on what the primary knows when it makes a commit; the commit records the outcome,
//! so replicas and restores never choose.

use super::meta::Home;
use crate::config::RoutingPolicy;

/// A new value starts in memory if it takes at most this part of the budget.
const VALUE_PART: usize = 256;
/// Largest number of bytes of a new value that starts in memory whatever the budget is.
const VALUE_BYTES_MIN: usize = 64 << 10;
/// New values start in memory until this part of the budget is left.
const SPARE_PART: usize = 32;

/// How homes are chosen at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Routing {
    /// The policy.
    pub policy: RoutingPolicy,
    /// Bytes that the keys in memory take.
    pub memory_bytes: usize,
    /// Bytes that they should take at most.
    pub memory_bytes_max: usize,
}

impl Routing {
    /// Returns the home of a new string, hash or set whose value has `bytes`.
    #[must_use]
    pub fn home_of_new(self, bytes: usize) -> Home {
        let is_small = bytes <= VALUE_BYTES_MIN.max(self.memory_bytes_max / VALUE_PART);
        let is_for_memory = self.policy == RoutingPolicy::Access && is_small && self.has_room();
        if is_for_memory { Home::Memory } else { Home::Disk }
    }

    /// Reports whether there is room in memory for new keys. A part of the budget stays free for keys that grow and for
    /// keys that move from disk.
    #[must_use]
    pub fn has_room(self) -> bool {
        self.memory_bytes < self.memory_bytes_max - self.memory_bytes_max / SPARE_PART
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_new_values_start_in_memory_while_there_is_room() {
        let access = Routing { policy: RoutingPolicy::Access, memory_bytes: 0, memory_bytes_max: 1 << 20 };
        assert_eq!(access.home_of_new(VALUE_BYTES_MIN), Home::Memory);
        assert_eq!(access.home_of_new(VALUE_BYTES_MIN + 1), Home::Disk);
        let large = Routing { memory_bytes_max: 10 << 30, ..access };
        assert_eq!(large.home_of_new((10 << 30) / VALUE_PART), Home::Memory);
        assert_eq!(Routing { memory_bytes: 1020 << 10, ..access }.home_of_new(1), Home::Disk);
        assert_eq!(Routing { memory_bytes: 900 << 10, ..access }.home_of_new(1), Home::Memory);
        assert_eq!(Routing { policy: RoutingPolicy::Type, ..access }.home_of_new(1), Home::Disk);
    }
}
