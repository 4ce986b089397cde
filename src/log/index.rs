//! A sparse index in memory from csn to a position in both logs, so that catch-up need not read the WAL from its
//! start.

use super::reader::LogCursor;
use crate::csn::Csn;
use std::collections::VecDeque;

/// Least number of commits between two entries.
const SPACING: u64 = 1024;

/// Known positions, in ascending order.
#[derive(Debug, Default)]
pub struct PositionIndex {
    entries: VecDeque<LogCursor>,
}

impl PositionIndex {
    /// Notes a position at or above all earlier ones. Keeps it only if it is at least `SPACING` commits after the
    /// last entry.
    pub fn note(&mut self, position: LogCursor) {
        if self.entries.back().is_none_or(|last| position.csn.since(last.csn) >= SPACING) {
            self.entries.push_back(position);
        }
    }

    /// Returns a log position for `csn` with the WAL sequence of the nearest entry at or below it; `None` if there is
    /// no such entry.
    #[must_use]
    pub fn at_or_below(&self, csn: Csn) -> Option<LogCursor> {
        let behind = self.entries.partition_point(|entry| entry.csn <= csn);
        behind.checked_sub(1).map(|nth| LogCursor { csn, wal_seq: self.entries[nth].wal_seq })
    }

    /// Removes the entries below `csn`, except the one that covers it.
    pub fn purge_until(&mut self, csn: Csn) {
        while self.entries.get(1).is_some_and(|second| second.csn <= csn) {
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csn::WalSeq;

    #[test]
    fn the_nearest_lower_position_is_found_and_purging_keeps_it() {
        let mut index = PositionIndex::default();
        for n in 0..10 {
            index.note(LogCursor { csn: Csn(100 + n * SPACING), wal_seq: WalSeq(n) });
        }
        assert_eq!(index.at_or_below(Csn(99)), None);
        let wanted = Csn(100 + 3 * SPACING + 7);
        assert_eq!(index.at_or_below(wanted), Some(LogCursor { csn: wanted, wal_seq: WalSeq(3) }));
        index.purge_until(wanted);
        assert_eq!(index.at_or_below(wanted).unwrap().wal_seq, WalSeq(3));
        assert_eq!(index.at_or_below(Csn(101)), None);
    }
}
