//! Routing: the choice of the home of a new key.
//!
//! Guarantees: a choice depends only on what the primary knows when it makes a commit; the commit records the outcome,
//! so replicas and restores never choose.

use super::meta::Home;
use crate::config::RoutingPolicy;

/// Largest number of bytes of a new value that starts in memory.
pub const MEMORY_VALUE_BYTES_MAX: usize = 64 << 10;

/// How homes are chosen at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Routing {
    /// The policy.
    pub policy: RoutingPolicy,
    /// Whether the memory home is within its budget.
    pub has_room: bool,
}

impl Routing {
    /// Returns the home of a new string, hash or set whose value has `bytes`.
    #[must_use]
    pub fn home_of_new(self, bytes: usize) -> Home {
        let is_for_memory = self.policy == RoutingPolicy::Access && self.has_room && bytes <= MEMORY_VALUE_BYTES_MAX;
        if is_for_memory { Home::Memory } else { Home::Disk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_new_values_start_in_memory_while_there_is_room() {
        let access = Routing { policy: RoutingPolicy::Access, has_room: true };
        assert_eq!(access.home_of_new(MEMORY_VALUE_BYTES_MAX), Home::Memory);
        assert_eq!(access.home_of_new(MEMORY_VALUE_BYTES_MAX + 1), Home::Disk);
        assert_eq!(Routing { has_room: false, ..access }.home_of_new(1), Home::Disk);
        assert_eq!(Routing { policy: RoutingPolicy::Type, ..access }.home_of_new(1), Home::Disk);
    }
}
