//! Bounds of score ranges and lexical ranges, and the ranks between them.

use super::super::definition::Fail;
use super::super::errors;
use super::super::number::parse_f64;
use crate::engine::memory::Zset;
use crate::engine::memory::zset::Edge;
use std::ops::Range;

/// The scores between two bounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct ScoreRange {
    min: ScoreBound,
    max: ScoreBound,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct ScoreBound {
    score: f64,
    /// Whether the score itself is outside the range.
    is_open: bool,
}

impl ScoreRange {
    /// Reads both bounds: each a number, with `(` before it if the bound is open.
    pub(super) fn parse(min: &[u8], max: &[u8]) -> Result<Self, Fail> {
        let range = ScoreBound::parse(min).zip(ScoreBound::parse(max)).map(|(min, max)| Self { min, max });
        Ok(range.ok_or(errors::MIN_MAX_NOT_A_FLOAT)?)
    }

    /// Returns the ranks of the members in the range.
    pub(super) fn ranks(&self, zset: &Zset) -> Range<u64> {
        let start = zset.rank_of_score(self.min.score, if self.min.is_open { Edge::After } else { Edge::Before });
        let end = zset.rank_of_score(self.max.score, if self.max.is_open { Edge::Before } else { Edge::After });
        start..end.max(start)
    }
}

impl ScoreBound {
    fn parse(text: &[u8]) -> Option<Self> {
        let (text, is_open) = text.strip_prefix(b"(").map_or((text, false), |rest| (rest, true));
        Some(Self { score: parse_score(text)?, is_open })
    }
}

/// Reads a bound as C's `strtod` does: blanks before the number are skipped, an empty text is 0, and a number that is
/// too large is infinite.
fn parse_score(text: &[u8]) -> Option<f64> {
    let text = text.trim_ascii_start();
    if text.is_empty() {
        return Some(0.0);
    }
    let score = parse_f64(text).or_else(|| std::str::from_utf8(text).ok()?.parse().ok())?;
    (!score.is_nan()).then_some(score)
}

/// The members between two bounds, in a set whose scores are all equal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LexRange<'a> {
    min: LexBound<'a>,
    max: LexBound<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LexBound<'a> {
    /// Below every member.
    Lowest,
    /// Above every member.
    Highest,
    /// A bound that belongs to the range.
    Closed(&'a [u8]),
    /// A bound that is outside the range.
    Open(&'a [u8]),
}

impl<'a> LexRange<'a> {
    /// Reads both bounds: each `-`, `+`, or a member with `[` or `(` before it.
    pub(super) fn parse(min: &'a [u8], max: &'a [u8]) -> Result<Self, Fail> {
        let range = LexBound::parse(min).zip(LexBound::parse(max)).map(|(min, max)| Self { min, max });
        Ok(range.ok_or(errors::MIN_MAX_NOT_A_STRING)?)
    }

    /// Returns the ranks of the members in the range.
    pub(super) fn ranks(&self, zset: &Zset) -> Range<u64> {
        let start = self.min.rank(zset, Edge::Before);
        let end = self.max.rank(zset, Edge::After);
        start..end.max(start)
    }
}

impl<'a> LexBound<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        match text {
            b"-" => Some(Self::Lowest),
            b"+" => Some(Self::Highest),
            [b'[', member @ ..] => Some(Self::Closed(member)),
            [b'(', member @ ..] => Some(Self::Open(member)),
            _ => None,
        }
    }

    /// Returns the number of members below the bound. `closed` is the edge of a member at which a closed bound lies.
    fn rank(self, zset: &Zset, closed: Edge) -> u64 {
        let open = if closed == Edge::Before { Edge::After } else { Edge::Before };
        match self {
            Self::Lowest => 0,
            Self::Highest => zset.len(),
            Self::Closed(member) => zset.rank_of_lex(member, closed),
            Self::Open(member) => zset.rank_of_lex(member, open),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zset(pairs: &[(&str, f64)]) -> Zset {
        let mut zset = Zset::new();
        pairs.iter().for_each(|(member, score)| {
            let _ = zset.insert(member.as_bytes(), *score);
        });
        zset
    }

    fn by_score(zset: &Zset, min: &str, max: &str) -> Range<u64> {
        ScoreRange::parse(min.as_bytes(), max.as_bytes()).unwrap().ranks(zset)
    }

    fn by_lex(zset: &Zset, min: &str, max: &str) -> Range<u64> {
        LexRange::parse(min.as_bytes(), max.as_bytes()).unwrap().ranks(zset)
    }

    #[test]
    fn score_bounds_are_open_or_closed() {
        let zset = zset(&[("a", f64::NEG_INFINITY), ("b", 1.0), ("c", 1.0), ("d", 2.5), ("e", f64::INFINITY)]);
        assert_eq!(by_score(&zset, "-inf", "+inf"), 0..5);
        assert_eq!(by_score(&zset, "(-inf", "(inf"), 1..4);
        assert_eq!(by_score(&zset, "1", "2.5"), 1..4);
        assert_eq!(by_score(&zset, "(1", "2.5"), 3..4);
        assert_eq!(by_score(&zset, "1", "(2.5"), 1..3);
        assert_eq!(by_score(&zset, " 1", "( 2.5"), 1..3);
        assert_eq!(by_score(&zset, "-1e999", "1e999"), 0..5);
        for (min, max) in [("(1", "(1"), ("(1", "1"), ("1", "(1"), ("2", "1"), ("inf", "-inf"), ("", "")] {
            assert!(by_score(&zset, min, max).is_empty(), "{min} {max}");
        }
        for text in ["x", "nan", "(nan", "1 ", "((1", "[1", "1(", "\u{e9}"] {
            assert!(ScoreRange::parse(text.as_bytes(), b"1").is_err(), "{text}");
            assert!(ScoreRange::parse(b"1", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn lexical_bounds_are_open_or_closed() {
        let zset = zset(&[("", 0.0), ("a", 0.0), ("b", 0.0), ("c", 0.0)]);
        assert_eq!(by_lex(&zset, "-", "+"), 0..4);
        assert_eq!(by_lex(&zset, "[a", "(c"), 1..3);
        assert_eq!(by_lex(&zset, "(a", "[c"), 2..4);
        assert_eq!(by_lex(&zset, "[", "[bb"), 0..3);
        for (min, max) in [("+", "-"), ("(a", "(a"), ("[b", "[a"), ("+", "+"), ("-", "-")] {
            assert!(by_lex(&zset, min, max).is_empty(), "{min} {max}");
        }
        for text in ["", "a", "-a", "+a", "--"] {
            assert!(LexRange::parse(text.as_bytes(), b"+").is_err(), "{text}");
            assert!(LexRange::parse(b"-", text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_lexical_range_of_different_scores_stays_within_the_set() {
        let members: Vec<String> = (0..1000).map(|number| format!("{:03}", number * 7919 % 1000)).collect();
        let pairs: Vec<_> = members.iter().enumerate().map(|(score, member)| (member.as_str(), score as f64)).collect();
        let zset = zset(&pairs);
        for bound in ["[500", "(001", "[999", "(", "-", "+"] {
            let ranks = by_lex(&zset, bound, "[700");
            assert!(ranks.start <= ranks.end && ranks.end <= 1000, "{ranks:?}");
        }
    }
}
