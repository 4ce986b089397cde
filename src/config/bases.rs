//! Settings of bases: their consistency, and the node that publishes them.

use super::setting::Setting;
use std::fmt;
use std::time::Duration;

/// How far apart the engines of a base may be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// Every engine at one commit: the base contains the commits between its cuts.
    #[default]
    Strict,
    /// At most this much commit time between the cuts; a cut with more is refused.
    Bounded(Duration),
    /// Any distance between the cuts; the base is completed later.
    Eventual,
}

/// The bound of `bounded` without a time.
pub(super) const BOUND: Duration = Duration::from_millis(10);

impl Setting for Consistency {
    fn accepted() -> String {
        "strict, bounded, bounded:TIME (such as bounded:10ms) or eventual".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        match text.split_once(':') {
            None if text == "strict" => Some(Self::Strict),
            None if text == "bounded" => Some(Self::Bounded(BOUND)),
            None if text == "eventual" => Some(Self::Eventual),
            Some(("bounded", bound)) => Duration::parse(bound).map(Self::Bounded),
            _ => None,
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Strict => f.write_str("strict"),
            Self::Bounded(bound) => write!(f, "bounded:{}ms", bound.as_millis()),
            Self::Eventual => f.write_str("eventual"),
        }
    }
}

/// Which node publishes the scheduled bases.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SnapshotFrom {
    /// The primary.
    Primary,
    /// A replica; no node publishes while no replica is able to.
    Replica,
    /// A replica if one is able to publish, otherwise the primary.
    #[default]
    Auto,
}

impl Setting for SnapshotFrom {
    fn accepted() -> String {
        "replica, primary or auto".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Primary, Self::Replica, Self::Auto];
        all.into_iter().find(|from| from.to_string() == text.to_ascii_lowercase())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for SnapshotFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Auto => "auto",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_they_are_shown() {
        for (text, level) in [
            ("strict", Consistency::Strict),
            ("Bounded", Consistency::Bounded(BOUND)),
            ("bounded:250", Consistency::Bounded(Duration::from_millis(250))),
            ("bounded:2s", Consistency::Bounded(Duration::from_secs(2))),
            ("eventual", Consistency::Eventual),
        ] {
            assert_eq!(Consistency::parse(text), Some(level), "{text}");
            assert_eq!(Consistency::parse(&level.show()), Some(level), "{text}");
        }
        for text in ["", "bounded:", "bounded:x", "strict:1", "exact"] {
            assert_eq!(Consistency::parse(text), None, "{text}");
        }
    }
}
