//! The retention policy in the words of users: `7d fine, hourly 30d, daily 1y`.
//!
//! Pure. `7d fine` means that each commit of the last seven days stays restorable. `hourly 30d` means that one state of
//! each hour of the last thirty days stays restorable: the last state of the hour that is kept as a restore point. The
//! same holds for `daily`, `weekly` (from Monday), `monthly`, and `every 6h 14d` for any other length. Hours, days,
//! weeks and months are those of UTC. An empty policy keeps everything. States older than the longest time given are
//! removed; marks and the newest base never are.

use crate::csn::CommitTime;
use crate::error::{Error, Result};
use chrono::{DateTime, Datelike, Utc};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Description of a valid policy, for error messages.
pub const ACCEPTS: &str = "a policy such as '7d fine, hourly 30d, daily 1y': first how long every commit is kept \
                           (TIME fine), then any of hourly, daily, weekly, monthly or 'every TIME', each with a TIME; \
                           TIME is a number and s, m, h, d, w or y; empty keeps everything";

const SECOND: u64 = 1_000_000;
const DAY: u64 = 24 * 3600 * SECOND;
/// Days from the Monday before the Unix epoch to the epoch, which was a Thursday.
const EPOCH_WEEKDAY: u64 = 3;

/// How long commits and restore points are kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keep {
    /// The ages up to which restore points are kept; `None` keeps everything for ever.
    windows: Option<Windows>,
}

/// A policy that does not keep everything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Windows {
    /// How long every commit is kept.
    pub fine: Duration,
    /// Restore points that are kept beyond `fine`.
    pub tiers: Vec<Tier>,
}

/// One restore point is kept for each period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tier {
    /// The period.
    pub period: Period,
    /// How long the restore points are kept.
    pub span: Duration,
}

/// A division of time into periods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Period {
    /// Periods of this length, counted from the Unix epoch; the length is not zero.
    Every(Duration),
    /// Weeks from Monday to Sunday.
    Week,
    /// Months of the calendar.
    Month,
}

impl Period {
    const HOUR: Self = Self::Every(Duration::from_secs(3600));
    const DAY: Self = Self::Every(Duration::from_secs(24 * 3600));

    /// Returns the number of the period that `time` lies in.
    #[must_use]
    pub fn of(self, time: CommitTime) -> u64 {
        match self {
            Self::Every(length) => time.0 / micros(length).max(1),
            Self::Week => (time.0 / DAY + EPOCH_WEEKDAY) / 7,
            Self::Month => {
                let seconds = i64::try_from(time.0 / SECOND).unwrap_or(i64::MAX);
                let date = DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
                u64::try_from(date.year()).unwrap_or_default() * 12 + u64::from(date.month0())
            }
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::HOUR => f.write_str("hourly"),
            Self::DAY => f.write_str("daily"),
            Self::Every(length) => write!(f, "every {}", text(length)),
            Self::Week => f.write_str("weekly"),
            Self::Month => f.write_str("monthly"),
        }
    }
}

/// Returns a duration in microseconds.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Keep {
    /// Returns the times after which states are removed; `None` if the policy keeps everything.
    #[must_use]
    pub fn windows(&self) -> Option<&Windows> {
        self.windows.as_ref()
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(windows) = &self.windows else { return Ok(()) };
        write!(f, "{} fine", text(windows.fine))?;
        windows.tiers.iter().try_for_each(|tier| write!(f, ", {} {}", tier.period, text(tier.span)))
    }
}

impl FromStr for Keep {
    type Err = Error;

    fn from_str(given: &str) -> Result<Self> {
        let refuse = |detail: String| Error::Config {
            key: "keep".to_owned(),
            detail: format!("{detail}; it must be {ACCEPTS}"),
        };
        if given.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut fine = None;
        let mut tiers: Vec<Tier> = Vec::new();
        for clause in given.split(',') {
            let words: Vec<&str> = clause.split_whitespace().collect();
            let parsed = match words[..] {
                [time, "fine"] if fine.is_none() => {
                    fine = duration(time);
                    fine.map(|_| ())
                }
                ["hourly", span] => tier(Period::HOUR, span).map(|tier| tiers.push(tier)),
                ["daily", span] => tier(Period::DAY, span).map(|tier| tiers.push(tier)),
                ["weekly", span] => tier(Period::Week, span).map(|tier| tiers.push(tier)),
                ["monthly", span] => tier(Period::Month, span).map(|tier| tiers.push(tier)),
                ["every", length, span] => {
                    let length = duration(length).filter(|length| !length.is_zero());
                    length.and_then(|length| tier(Period::Every(length), span)).map(|tier| tiers.push(tier))
                }
                _ => None,
            };
            parsed.ok_or_else(|| refuse(format!("'{}' is not understood", clause.trim())))?;
        }
        let fine = fine.ok_or_else(|| {
            refuse("it does not state for how long every commit is kept (such as '7d fine')".to_owned())
        })?;
        if let Some(tier) = tiers.iter().find(|tier| tier.span <= fine) {
            let reason = format!(
                "'{} {}' has no effect, because every commit of {} is kept",
                tier.period,
                text(tier.span),
                text(fine)
            );
            return Err(refuse(reason));
        }
        Ok(Self { windows: Some(Windows { fine, tiers }) })
    }
}

fn tier(period: Period, span: &str) -> Option<Tier> {
    duration(span).map(|span| Tier { period, span })
}

/// Reads a duration: a number and a unit.
fn duration(given: &str) -> Option<Duration> {
    let digits = given.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = UNITS.iter().find(|(name, _)| *name == &given[digits.len()..])?.1;
    digits.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_secs)
}

/// Units of time in seconds, largest first.
const UNITS: [(&str, u64); 6] =
    [("y", 365 * 24 * 3600), ("w", 7 * 24 * 3600), ("d", 24 * 3600), ("h", 3600), ("m", 60), ("s", 1)];

/// Formats a duration in the form that `duration` reads.
fn text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let fits = |(name, unit): &&(&str, u64)| *name != "w" && seconds > 0 && seconds.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().find(fits).unwrap_or(&UNITS[5]);
    format!("{}{name}", seconds / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> CommitTime {
        CommitTime::parse_rfc3339(text).unwrap()
    }

    #[test]
    fn policies_survive_their_text_form() {
        for text in
            ["", "7d fine", "7d fine, hourly 30d, daily 1y", "10s fine, every 2s 1m, weekly 70d, monthly 5y", "0s fine"]
        {
            assert_eq!(text.parse::<Keep>().unwrap().to_string(), text);
        }
        let keep: Keep = " 1w fine,hourly  30d ".parse().unwrap();
        assert_eq!(keep, "7d fine, every 1h 30d".parse().unwrap());
        assert!("  ".parse::<Keep>().unwrap().windows().is_none());
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for text in [
            "7d",
            "fine",
            "7 fine",
            "7x fine",
            "hourly 30d",
            "7d fine hourly 30d",
            "7d fine, hourly",
            "7d fine, 8d fine",
            "7d fine, yearly 3y",
            "7d fine, every 0s 30d",
            "7d fine, hourly 7d",
            "7d fine,",
            "99999999999999999999y fine",
        ] {
            let error = text.parse::<Keep>().unwrap_err().to_string();
            assert!(error.contains("7d fine, hourly 30d"), "{text}: {error}");
        }
    }

    #[test]
    fn periods_begin_where_the_calendar_says() {
        let same = |period: Period, a: &str, b: &str| period.of(time(a)) == period.of(time(b));
        assert!(same(Period::HOUR, "2026-11-23T14:00:00Z", "2026-11-23T14:59:59Z"));
        assert!(!same(Period::HOUR, "2026-11-23T14:59:59Z", "2026-11-23T15:00:00Z"));
        assert!(!same(Period::DAY, "2026-11-23T23:59:59Z", "2026-11-24T00:00:00Z"));
        assert!(same(Period::Week, "2026-11-23T00:00:00Z", "2026-11-29T23:59:59Z"), "Monday to Sunday");
        assert!(!same(Period::Week, "2026-11-22T23:59:59Z", "2026-11-23T00:00:00Z"));
        assert!(same(Period::Month, "2026-02-01T00:00:00Z", "2026-02-28T23:59:59Z"));
        assert!(!same(Period::Month, "2026-12-31T23:59:59Z", "2027-01-01T00:00:00Z"));
        assert_eq!(Period::Month.of(time("2027-01-01T00:00:00Z")), Period::Month.of(time("2026-12-01T00:00:00Z")) + 1);
    }
}
