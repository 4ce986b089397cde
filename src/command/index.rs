//! Positions in ordered values as clients give them: 0 is the first, -1 the last.

use std::ops::Range;

/// Returns the position that an index means in a value of length `len`; `None` if there is no element.
#[must_use]
pub(super) fn at(index: i64, len: u64) -> Option<u64> {
    let position = if index < 0 { len.checked_sub(index.unsigned_abs())? } else { index.unsigned_abs() };
    (position < len).then_some(position)
}

/// Returns the positions from `start` to `stop`, both inclusive, that exist in a value of length `len`.
#[must_use]
pub(super) fn range(start: i64, stop: i64, len: u64) -> Range<u64> {
    let start = if start < 0 { len.saturating_sub(start.unsigned_abs()) } else { start.unsigned_abs().min(len) };
    let end = if stop < 0 { (len + 1).saturating_sub(stop.unsigned_abs()) } else { (stop.unsigned_abs() + 1).min(len) };
    start..end.max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes the range with Redis' own arithmetic.
    fn expected(mut start: i64, mut stop: i64, len: i64) -> Vec<u64> {
        start = if start < 0 { (start + len).max(0) } else { start };
        stop = if stop < 0 { stop + len } else { stop.min(len - 1) };
        (start..=stop).map(|position| position as u64).collect()
    }

    #[test]
    fn positions_are_those_of_redis() {
        for len in 0..5 {
            for start in -7..7 {
                assert_eq!(
                    at(start, len as u64),
                    expected(start, start, len).first().copied().filter(|_| start >= -len)
                );
                for stop in -7..7 {
                    let found = range(start, stop, len as u64);
                    assert!(found.end <= len as u64, "{start} {stop} {len}");
                    assert_eq!(found.collect::<Vec<_>>(), expected(start, stop, len), "{start} {stop} {len}");
                }
            }
        }
    }

    #[test]
    fn extreme_indexes_mean_the_ends() {
        assert_eq!(range(i64::MIN, i64::MAX, 3), 0..3);
        assert!(range(i64::MAX, i64::MIN, 3).is_empty());
        assert_eq!((at(i64::MIN, 3), at(i64::MAX, 3)), (None, None));
    }
}
