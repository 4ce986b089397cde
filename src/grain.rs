//! The commits at which compacted runs begin and end. Retention can keep these commits.
//!
//! Pure. Guarantees: a run ends with the last commit of an hour or a day (UTC, by commit time), or after a number of
//! commits. A run is complete only when a later commit follows it, so that two builders end runs at the same commits.

use crate::csn::CommitTime;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

const HOUR_MICROS: u64 = 3_600_000_000;

/// How much one run holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grain {
    /// The commits of one hour.
    Hour,
    /// The commits of one day.
    Day,
    /// This many commits.
    Commits(u64),
}

impl Grain {
    /// Reports whether a run of `count` commits, the last of them made at `last`, ends before a commit made at `next`.
    #[must_use]
    pub fn ends_between(self, count: u64, last: CommitTime, next: CommitTime) -> bool {
        match self {
            Self::Hour => last.0 / HOUR_MICROS != next.0 / HOUR_MICROS,
            Self::Day => last.0 / (24 * HOUR_MICROS) != next.0 / (24 * HOUR_MICROS),
            Self::Commits(limit) => count >= limit,
        }
    }
}

impl fmt::Display for Grain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hour => f.write_str("hour"),
            Self::Day => f.write_str("day"),
            Self::Commits(count) => write!(f, "commits:{count}"),
        }
    }
}

impl FromStr for Grain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let commits = |count: &str| count.parse().ok().filter(|count| *count > 0).map(Self::Commits);
        let found = match text {
            "hour" => Some(Self::Hour),
            "day" => Some(Self::Day),
            _ => text.strip_prefix("commits:").and_then(commits),
        };
        found.filter(|grain| grain.to_string() == text).ok_or_else(|| Error::Config {
            key: "per".to_owned(),
            detail: format!("{text:?} is not a size of a run; accepted are hour, day and commits:N with N from 1"),
        })
    }
}

impl Serialize for Grain {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Grain {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grains_end_with_hours_days_and_numbers() {
        let at = |text: &str| CommitTime::parse_rfc3339(text).unwrap();
        let (late, next) = (at("2026-11-23T13:59:59.999999Z"), at("2026-11-23T14:00:00Z"));
        assert!(Grain::Hour.ends_between(1, late, next) && !Grain::Day.ends_between(1, late, next));
        assert!(!Grain::Hour.ends_between(1, next, at("2026-11-23T14:59:59Z")));
        assert!(Grain::Day.ends_between(1, at("2026-11-23T23:59:59Z"), at("2026-11-24T00:00:00Z")));
        assert!(Grain::Hour.ends_between(1, late, at("2026-11-24T13:00:00Z")));
        assert!(Grain::Commits(5).ends_between(5, late, late) && !Grain::Commits(5).ends_between(4, late, next));
        for grain in [Grain::Hour, Grain::Day, Grain::Commits(500)] {
            assert_eq!(grain.to_string().parse::<Grain>().unwrap(), grain);
        }
        for text in ["", "week", "commits:0", "commits:", "commits:+5", "Hour"] {
            assert!(text.parse::<Grain>().is_err(), "{text}");
        }
    }
}
