//! The net change of the disk engines: the last put or delete of each key, and the range deletes, which apply first.
//!
//! Guarantees: memory is bounded by one sorted batch. Full sorted batches move to a scratch database, whose files are merged
//! when the delta is written. Each range delete is kept once: rows written after a range delete are among the puts.

use super::{EngineDelta, Span};
use crate::engine::batch::{Family, Record, Records};
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::memory::Memory;
use crate::engine::sorted::{self, Form, SortedBatch, SortedFile, SortedFileWriter, TAG_PUT};
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Bounds of a delta on its memory and its files. The default is what a node uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Bounds of a sorted batch.
    pub batch: sorted::Bounds,
    /// Largest number of bytes of keys and values in one file.
    pub file_bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { batch: sorted::Bounds::default(), file_bytes_max: 64 << 20 }
    }
}

/// Block cache size in bytes of the scratch database. Small, because the database is read once.
const CACHE_BYTES: usize = 8 << 20;

/// A deleted range of keys in one family, from `from` (inclusive) to `to` (exclusive).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RangeDelete {
    /// The column family.
    pub family: Family,
    /// The first deleted key.
    pub from: Vec<u8>,
    /// The end of the range: the first key that is not deleted.
    pub to: Vec<u8>,
}

/// The net change of the disk engines, written to files.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskFiles {
    /// Ranges to delete first.
    pub ranges: Vec<RangeDelete>,
    /// Files to ingest after that; the files of one family do not overlap.
    pub files: Vec<SortedFile>,
}

/// The net change of the disk engines; see the module's text.
pub struct DiskDelta {
    bounds: Bounds,
    span: Span,
    batch: SortedBatch,
    ranges: BTreeSet<RangeDelete>,
    /// Directory of the scratch database, which is created when it is needed.
    scratch: PathBuf,
    spill: Option<Spill>,
    operations: u64,
    bytes: u64,
}

/// The scratch database that holds the full sorted batches.
struct Spill {
    disk: Disk,
    batches: u64,
}

impl DiskDelta {
    /// Begins an empty delta after `after`. `scratch` is a directory for this delta only; it need not exist.
    #[must_use]
    pub fn begin(after: Position, scratch: PathBuf, bounds: Bounds) -> Self {
        let (span, batch) = (Span::begin(after), SortedBatch::within(bounds.batch));
        Self { bounds, span, batch, ranges: BTreeSet::new(), scratch, spill: None, operations: 0, bytes: 0 }
    }

    /// Writes the change as files into `dir`, which must exist, and removes the scratch directory.
    pub fn write(mut self, dir: &Path) -> Result<DiskFiles> {
        let mut files = Vec::new();
        self.note_ranges()?;
        if self.spill.is_some() {
            self.spill()?;
        }
        for family in Family::ALL {
            match &self.spill {
                None => files.extend(self.batch.write(family, Form::Plain, &|part| file_path(dir, family, part))?),
                Some(spill) => merge(&spill.disk, family, dir, self.bounds.file_bytes_max, &mut files)?,
            }
        }
        drop(self.spill.take());
        if self.scratch.exists() {
            std::fs::remove_dir_all(&self.scratch).map_err(Error::io("remove", &self.scratch))?;
        }
        Ok(DiskFiles { ranges: self.ranges.into_iter().collect(), files })
    }

    fn note_ranges(&mut self) -> Result<()> {
        for record in Records::new(self.batch.ranges()) {
            if let Record::DeleteRange(family, from, to) = record? {
                self.ranges.insert(RangeDelete { family, from: from.to_vec(), to: to.to_vec() });
            }
        }
        Ok(())
    }

    /// Moves the sorted batch into the scratch database.
    fn spill(&mut self) -> Result<()> {
        self.note_ranges()?;
        let spill = match &mut self.spill {
            Some(spill) => spill,
            None => {
                let options = DiskOptions { cache_bytes: CACHE_BYTES, compaction: false, ..DiskOptions::default() };
                let disk = Disk::open(&self.scratch.join("db"), &self.scratch.join("wal"), options)?;
                self.spill.insert(Spill { disk, batches: 0 })
            }
        };
        self.batch.take().ingest_as(Form::Tagged, &spill.disk, &self.scratch, spill.batches)?;
        spill.batches += 1;
        Ok(())
    }
}

impl EngineDelta for DiskDelta {
    fn span(&self) -> &Span {
        &self.span
    }

    fn push(&mut self, commit: &CommitRecord, _: &Memory) -> Result<()> {
        self.span.advance(commit)?;
        if commit.touches_disk() {
            self.batch.push(&commit.disk, commit.disk_ops)?;
            self.operations += u64::from(commit.disk_ops);
            self.bytes += commit.disk.len() as u64;
            if self.batch.is_full() {
                self.spill()?;
            }
        }
        Ok(())
    }

    fn keys(&self) -> u64 {
        self.operations
    }
}

fn file_path(dir: &Path, family: Family, nth: usize) -> PathBuf {
    dir.join(format!("{}-{nth:06}.sst", family.name()))
}

/// Writes one family of the scratch database to files of at most `bytes_max` bytes and one row in `dir`.
fn merge(disk: &Disk, family: Family, dir: &Path, bytes_max: u64, files: &mut Vec<SortedFile>) -> Result<()> {
    let mut cursor = disk.db().raw_iterator_cf(disk.family(family));
    cursor.seek_to_first();
    let (mut writer, mut nth): (Option<SortedFileWriter>, usize) = (None, 0);
    while let Some((key, tagged)) = cursor.item() {
        let file = match &mut writer {
            Some(file) => file,
            None => writer.insert(SortedFileWriter::create(family, file_path(dir, family, nth))?),
        };
        let (tag, value) = tagged.split_first().expect("every value here has a tag");
        file.push(key, (*tag == TAG_PUT).then_some(value))?;
        if file.bytes() >= bytes_max {
            files.extend(writer.take().map(SortedFileWriter::finish).transpose()?);
            nth += 1;
        }
        cursor.next();
    }
    cursor.status().map_err(Error::rocks("read a sorted batch"))?;
    files.extend(writer.map(SortedFileWriter::finish).transpose()?);
    Ok(())
}
