//! The settings of routing.

use super::setting::Setting;
use std::fmt;

/// The policy that chooses the homes of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RoutingPolicy {
    /// By type: strings, hashes, sets and streams live on disk, lists and sorted sets in memory.
    Type = 0,
    /// By access: small new values start in memory while there is room; the coldest keys move to disk when memory is
    /// full, and disk keys that are read again move to memory.
    Access = 1,
}

impl RoutingPolicy {
    const ALL: [Self; 2] = [Self::Type, Self::Access];

    /// Returns the policy of a number that was made with `as u8`.
    #[must_use]
    pub fn of_number(number: u8) -> Self {
        if number == Self::Type as u8 { Self::Type } else { Self::Access }
    }
}

impl Setting for RoutingPolicy {
    fn accepted() -> String {
        "type or access".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.to_string().eq_ignore_ascii_case(text))
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for RoutingPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "type",
            Self::Access => "access",
        })
    }
}
