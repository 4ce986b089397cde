//! The targets of a restore.

use crate::csn::{CommitTime, Csn};
use crate::error::{Error, Result};
use crate::plain_name::PlainName;
use std::fmt;
use std::str::FromStr;

/// A point in history as the user states it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Target {
    /// The last commit that can be restored; an error if the archive proves that later commits exist. A listing that
    /// omits exactly the newest chunks looks the same as an archive that ends before them, and cannot be detected.
    #[default]
    Latest,
    /// The commit with this csn.
    At(Csn),
    /// The last commit at or before this time.
    Before(CommitTime),
    /// The commit of the mark with this name.
    Mark(PlainName),
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |digits: &str| digits.parse().ok().map(Csn).filter(|csn| *csn > Csn::ZERO).map(Self::At);
        let found = match text.split_once(':') {
            None if text == "latest" => Some(Self::Latest),
            Some(("csn", csn)) => number(csn),
            Some(("time", time)) => CommitTime::parse_rfc3339(time).map(Self::Before),
            Some(("mark", name)) => name.parse().ok().map(Self::Mark),
            _ => None,
        };
        found.ok_or_else(|| Error::Config {
            key: "target".to_owned(),
            detail: format!(
                "{text:?} is not a restore target; accepted are latest, csn:N with N from 1, time:T with T in RFC \
                 3339 with its zone, such as time:2026-11-23T14:05:00Z, and mark:NAME"
            ),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::At(csn) => write!(f, "csn:{csn}"),
            Self::Before(time) => write!(f, "time:{time}"),
            Self::Mark(name) => write!(f, "mark:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_survive_their_text_form() {
        let time = CommitTime(1_790_000_000_123_456);
        for target in [Target::Latest, Target::At(Csn(7)), Target::Before(time), Target::Mark("a.b-c".parse().unwrap())]
        {
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
        assert_eq!(
            "time:2026-11-23T02:00:00+02:00".parse::<Target>().unwrap().to_string(),
            "time:2026-11-23T00:00:00.000000Z"
        );
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for text in [
            "",
            "Latest",
            "7",
            "csn:",
            "csn:0",
            "csn:-1",
            "csn:x",
            "time:",
            "time:2026-11-23",
            "time:1790000000",
            "mark:",
            "mark:a/b",
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(matches!(error, Error::Config { .. }) && error.to_string().contains("csn:N"), "{text}: {error}");
        }
    }
}
