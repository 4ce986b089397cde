//! Routing: the choice of the home of a new key.
//!
//! Guarantees: a choice depends only on what the primary knows when it makes a commit; the commit records the outcome,
//! so replicas and restores never choose.

use super::meta::Home;

/// Largest number of bytes of a new value that starts in memory.
pub const MEMORY_VALUE_BYTES_MAX: usize = 64 << 10;

/// A policy that chooses homes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Policy {
    /// By type: strings, hashes, sets and streams live on disk, lists and sorted sets in memory.
    Type = 0,
    /// By access: small new values start in memory while there is room; the coldest keys move to disk when memory is
    /// full, and disk keys that are read again move to memory.
    #[default]
    Access = 1,
}

/// How homes are chosen at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Routing {
    /// The policy.
    pub policy: Policy,
    /// Whether the memory home is within its budget.
    pub has_room: bool,
}

impl Routing {
    /// Returns the home of a new string, hash or set whose value has `bytes`.
    #[must_use]
    pub fn home_of_new(self, bytes: usize) -> Home {
        let is_for_memory = self.policy == Policy::Access && self.has_room && bytes <= MEMORY_VALUE_BYTES_MAX;
        if is_for_memory { Home::Memory } else { Home::Disk }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_new_values_start_in_memory_while_there_is_room() {
        let access = Routing { policy: Policy::Access, has_room: true };
        assert_eq!(access.home_of_new(MEMORY_VALUE_BYTES_MAX), Home::Memory);
        assert_eq!(access.home_of_new(MEMORY_VALUE_BYTES_MAX + 1), Home::Disk);
        assert_eq!(Routing { has_room: false, ..access }.home_of_new(1), Home::Disk);
        assert_eq!(Routing { policy: Policy::Type, ..access }.home_of_new(1), Home::Disk);
    }
}
