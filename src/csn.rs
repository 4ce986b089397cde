//! Numbers of places in history. Each is a newtype, so that a commit number is never mistaken for a WAL sequence.
//!
//! Guarantees: a [`Csn`] is dense (1, 2, 3 ...), and `Csn::ZERO` means "before the first commit"; the text form made by
//! `padded` has a fixed width, so that names sort in the order of their positions.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

macro_rules! position {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $width:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $raw);

        impl $name {
            /// The position before the first one.
            pub const ZERO: Self = Self(0);

            /// Returns the position that follows this one. Panics at the end of the number range.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("position overflow"))
            }

            /// Returns the decimal form of fixed width, for names that must sort by position.
            #[must_use]
            pub fn padded(self) -> String {
                format!(concat!("{:0", $width, "}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

position!(
    /// Commit sequence number: global over all engines, dense, starting at 1. A gap is corruption.
    Csn, u64, "20"
);
position!(
    /// Generation of the writer. A promotion, a restore, or a recovery that lost a tail starts a new one.
    Epoch, u32, "8"
);
position!(
    /// RocksDB's own sequence number. It advances by one for each operation in a write batch.
    WalSeq, u64, "20"
);
position!(
    /// Number of an op-log segment file in its directory.
    SegmentId, u32, "10"
);

macro_rules! hex_word {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let number = u64::from_str_radix(text, 16).ok().filter(|_| is_hex);
                number.map(Self).ok_or_else(|| format!("{text:?} is not 16 hexadecimal digits"))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

hex_word!(
    /// History hash: a chained hash over the effects of all commits up to one csn. Two histories with the same csn and
    /// the same history hash hold the same commits. The hash before the first commit is zero. Text form: 16 hexadecimal
    /// digits. See [`crate::record::CommitRecord::hash_after`] for what it covers.
    HistoryHash
);
hex_word!(
    /// Random number that distinguishes two writers that took the same epoch number, and two starts of one writer. Text
    /// form: 16 hexadecimal digits.
    Incarnation
);

impl HistoryHash {
    /// The hash before the first commit.
    pub const ZERO: Self = Self(0);
}

impl Csn {
    /// Returns the position before this one; `ZERO` stays `ZERO`.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Returns the number of commits after `earlier` up to and including this one; 0 if `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Time of a commit: microseconds since the Unix epoch. It never decreases from one csn to the next, except where an
/// epoch began at the present time because the commit times before it lay in the future.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitTime(pub u64);

impl CommitTime {
    /// Formats the time as RFC 3339 in UTC with microseconds, for messages and JSON; `-` for a time outside chrono's
    /// range.
    #[must_use]
    pub fn rfc3339(self) -> String {
        i64::try_from(self.0)
            .ok()
            .and_then(chrono::DateTime::<chrono::Utc>::from_timestamp_micros)
            .map_or_else(|| "-".to_owned(), |t| t.to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
    }

    /// Reads RFC 3339 with a time zone. Returns `None` if the text has another form or lies before 1970.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let time = chrono::DateTime::parse_from_rfc3339(text).ok()?;
        u64::try_from(time.timestamp_micros()).ok().map(Self)
    }

    /// Returns whole milliseconds since the Unix epoch, the unit of Redis expiry.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.0 / 1000
    }
}

impl fmt::Display for CommitTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padded_names_sort_as_positions() {
        assert!(Csn(9).padded() < Csn(10).padded());
        assert_eq!(Csn(u64::MAX).padded().len(), 20);
        assert_eq!(Epoch(7).padded(), "00000007");
    }

    #[test]
    fn commit_time_survives_its_text_form() {
        let time = CommitTime(1_790_000_000_123_456);
        assert_eq!(CommitTime::parse_rfc3339(&time.rfc3339()), Some(time));
        assert_eq!(
            CommitTime::parse_rfc3339("2026-11-23T00:00:00+02:00"),
            CommitTime::parse_rfc3339("2026-11-22T22:00:00Z")
        );
    }
}
