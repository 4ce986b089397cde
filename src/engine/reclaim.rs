//! Frees the disk space of deleted rows.
//!
//! RocksDB keeps deleted rows until compactions meet the tombstones, and starts no compaction on a disk that takes no
//! more writes. `Disk::reclaim` therefore compacts the files step by step. A compaction writes the remaining rows
//! before it removes the old files, so a step begins only if the disk has room for the bytes that the step is estimated
//! to write.
//!
//! Guarantees: only deleted rows are removed; a step that does not fit is left out. Not guaranteed: that an estimate is
//! right. A compaction that runs out of room leaves the files as they were, and RocksDB reports the error.

use super::batch::Family;
use super::disk::{Disk, Orphans};
use crate::error::{Error, Result};
use rocksdb::{CompactOptions, LiveFile};

/// The keys from the first to the second, both inclusive.
type Span = (Vec<u8>, Vec<u8>);

impl Disk {
    /// Flushes the memtables and compacts the files that hold deleted rows, step by step. Calls `room` before each step
    /// and skips the step if `room` returns fewer bytes than the step is estimated to write. Blocks until all steps are
    /// done.
    pub fn reclaim(&self, room: impl Fn() -> u64) -> Result<()> {
        self.flush()?;
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        for family in Family::ALL {
            for (first, last) in steps(&self.files(family)?) {
                let files = overlapping(self.files(family)?, &first, &last);
                let written = if self.is_all_dead(family, &first, &last)? { Some(0) } else { estimate(&files) };
                if written.is_some_and(|bytes| bytes <= room()) {
                    let end = [&last[..], &[0]].concat();
                    self.db().compact_range_cf_opt(self.family(family), Some(first), Some(end), &options);
                }
            }
        }
        Ok(())
    }

    fn files(&self, family: Family) -> Result<Vec<LiveFile>> {
        let files = self.db().live_files().map_err(Error::rocks("list its files"))?;
        Ok(files.into_iter().filter(|file| file.column_family_name == family.name()).collect())
    }

    /// Reports whether no row in a span is left. Elements of deleted collections count as deleted if both the first and
    /// the last key of the span belong to deleted collections: the elements of one large collection fill whole files.
    fn is_all_dead(&self, family: Family, first: &[u8], last: &[u8]) -> Result<bool> {
        let mut cursor = self.cursor(family, first.to_vec()..[last, &[0]].concat());
        cursor.seek_to_first();
        let is_empty = !cursor.valid();
        cursor.status().map_err(Error::rocks("look for remaining rows"))?;
        if is_empty || family == Family::Default {
            return Ok(is_empty);
        }
        let mut orphans = Orphans::of(self);
        Ok(orphans.has(first) && orphans.has(last))
    }
}

/// Returns the spans to compact: the span of each file of the deepest level, or one span over all files if all lie in
/// level 0, where files overlap each other.
fn steps(files: &[LiveFile]) -> Vec<Span> {
    let span = |file: &LiveFile| file.start_key.clone().zip(file.end_key.clone());
    let deepest = files.iter().map(|file| file.level).max().unwrap_or_default();
    let mut spans: Vec<Span> = files.iter().filter(|file| file.level == deepest).filter_map(span).collect();
    spans.sort();
    if deepest > 0 {
        return spans;
    }
    let first = spans.iter().map(|(first, _)| first).min().cloned();
    first.zip(spans.iter().map(|(_, last)| last).max().cloned()).into_iter().collect()
}

fn overlapping(files: Vec<LiveFile>, first: &[u8], last: &[u8]) -> Vec<LiveFile> {
    let overlaps = |file: &LiveFile| {
        let (start, end) = (file.start_key.as_deref(), file.end_key.as_deref());
        start.is_some_and(|start| start <= last) && end.is_some_and(|end| end >= first)
    };
    files.into_iter().filter(overlaps).collect()
}

/// Estimates the bytes that a compaction of these files writes, on the assumption that each tombstone removes one row.
/// `None` if the files hold no tombstone.
fn estimate(files: &[LiveFile]) -> Option<u64> {
    let sum = |of: fn(&LiveFile) -> u64| files.iter().map(of).sum::<u64>();
    let (entries, deletions) = (sum(|file| file.num_entries), sum(|file| file.num_deletions));
    let left = entries.saturating_sub(2 * deletions) as f64 / entries.max(1) as f64;
    (deletions > 0).then(|| (sum(|file| file.size as u64) as f64 * left) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(level: i32, start: &str, end: &str, entries: u64, deletions: u64) -> LiveFile {
        LiveFile {
            column_family_name: String::new(),
            name: String::new(),
            size: 1000,
            level,
            start_key: Some(start.into()),
            end_key: Some(end.into()),
            num_entries: entries,
            num_deletions: deletions,
        }
    }

    #[test]
    fn steps_follow_the_deepest_level_and_cost_what_is_left() {
        let span = |first: &str, last: &str| (first.as_bytes().to_vec(), last.as_bytes().to_vec());
        let upper = [file(0, "a", "m", 10, 0), file(0, "c", "z", 10, 10)];
        assert_eq!(steps(&[]), []);
        assert_eq!(steps(&upper), [span("a", "z")]);
        let all = [&upper[..], &[file(6, "n", "z", 80, 0), file(6, "a", "f", 80, 0)]].concat();
        assert_eq!(steps(&all), [span("a", "f"), span("n", "z")]);
        assert_eq!(overlapping(all.clone(), b"n", b"z").len(), 2);
        assert_eq!(estimate(&all[..1]), None, "nothing was deleted");
        assert_eq!(estimate(&all), Some(4000 * 160 / 180));
        assert_eq!(estimate(&all[1..2]), Some(0));
    }
}
