//! What a start makes of the two logs after a crash.
//!
//! Let C be the largest csn such that every csn up to it stands in one of the logs. Guarantees: the engines end at the
//! same csn; cross-engine commits up to it are whole on both sides; commits above it are gone from both sides, or, if
//! RocksDB had gone beyond C already, the missing ones are fetched, else filled by no-op commits and reported as lost.
//! Memory ops that build upon lost commits and do not fit without them are left out and reported, too.

use super::envelope::{self, Position};
use super::fitting;
use super::oplog::{self, OpLog};
use super::reader::LogPosition;
use super::wal::{self, WalCommits};
use crate::csn::{Csn, WalSeq};
use crate::engine::batch::Family;
use crate::engine::disk::Disk;
use crate::engine::key::CSN_KEY;
use crate::engine::memory::Memory;
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What recovery found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The last commit of the recovered state.
    pub position: Position,
    /// End of the WAL.
    pub wal_seq: WalSeq,
    /// Commits that belong in both logs, of which one lacked them and got them from the other.
    pub redone: u64,
    /// Commits that stood in the op-log above C and were cut off.
    pub cut: u64,
    /// Ranges of commits nobody had, filled by no-ops. Not empty: a new epoch must start.
    pub lost: Vec<RangeInclusive<Csn>>,
    /// Commits that survived only in RocksDB's log and of which memory ops were left out, because they build upon lost
    /// commits. Not empty: a new epoch must start.
    pub unfit: Vec<Csn>,
}

/// Where missing commits may be had: an archive or a replica of the same epoch.
pub trait MissingCommits {
    /// The commits of the range that can be had, in csn order; fewer, or none, if they cannot. None of them touches the
    /// disk engines: what did stands in RocksDB.
    fn fetch(&self, range: RangeInclusive<Csn>) -> Result<Vec<CommitRecord>>;
}

/// Position of the last commit in RocksDB.
pub fn disk_position(disk: &Disk) -> Result<Position> {
    disk.get(Family::Default, CSN_KEY)?.map_or(Ok(Position::default()), |value| Position::decode(&value))
}

/// A memory image's place in history.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImagePosition {
    /// The last commit the image holds.
    pub position: Position,
    /// End of the WAL when it was cut.
    pub wal_seq: WalSeq,
}

impl ImagePosition {
    /// Where reading the logs goes on.
    #[must_use]
    pub fn in_logs(&self) -> LogPosition {
        LogPosition { csn: self.position.csn, wal_seq: self.wal_seq }
    }
}

/// Brings `memory`, loaded from an image cut at `image`, and both logs to one csn. Before the first commit is replaced
/// `note_loss` gets the last commit that is not: once the no-op stands in the log, nobody can tell any more.
pub fn recover(
    disk: &Arc<Disk>,
    oplog: &mut OpLog,
    memory: &mut Memory,
    image: ImagePosition,
    missing: Option<&dyn MissingCommits>,
    note_loss: &mut dyn FnMut(Csn) -> Result<()>,
) -> Result<Recovered> {
    let on_disk = disk_position(disk)?;
    if disk.wal_seq() < image.wal_seq {
        let found = format!(
            "its end at sequence {}, although the memory image at csn {} was cut at {}",
            disk.wal_seq(),
            image.position.csn,
            image.wal_seq
        );
        return Err(Error::Gap { what: "RocksDB".into(), expected: on_disk.csn.next(), found });
    }
    wal::cut_above(disk.wal_dir(), disk.wal_seq())?;
    let survey = Survey::of(Both::open(disk, oplog, image, Csn(u64::MAX))?, image.position.csn, on_disk.csn)?;
    let mut fetched = BTreeMap::new();
    let mut lost = Vec::new();
    for range in survey.missing {
        let found = missing.map_or(Ok(Vec::new()), |source| source.fetch(range.clone()))?;
        if let Some(foreign) = found.iter().find(|commit| commit.touches_disk()) {
            let detail =
                "has effects on disk that RocksDB, which is ahead of it, does not know: it is of another history";
            return Err(Error::corrupt("fetched commit", format!("csn {}", foreign.csn), detail));
        }
        fetched.extend(found.into_iter().map(|commit| (commit.csn, commit)));
        lost.extend(without(range, &fetched));
    }
    if let Some(first) = lost.first() {
        note_loss(first.start().prev())?;
    }
    oplog.truncate_above(survey.target)?;
    let mut logs = Both::open(disk, oplog, image, survey.target)?;
    let mut replay =
        Replay { disk, oplog, memory, on_disk: on_disk.csn, position: image.position, redone: 0, unfit: Vec::new() };
    for csn in (image.position.csn.next().0..=survey.target.0).map(Csn) {
        let commit = match logs.take(csn)? {
            Some(commit) => commit,
            None => fetched.remove(&csn).unwrap_or_else(|| no_op(csn, replay.position)),
        };
        replay.step(commit)?;
    }
    let Replay { position, redone, unfit, .. } = replay;
    Ok(Recovered { position, wal_seq: disk.wal_seq(), redone, cut: survey.above, lost, unfit })
}

fn no_op(csn: Csn, after: Position) -> CommitRecord {
    CommitRecord { csn, epoch: after.epoch, time: after.time, ..CommitRecord::default() }
}

/// The parts of a range that were not fetched.
fn without(range: RangeInclusive<Csn>, fetched: &BTreeMap<Csn, CommitRecord>) -> Vec<RangeInclusive<Csn>> {
    let mut parts: Vec<RangeInclusive<Csn>> = Vec::new();
    for csn in (range.start().0..=range.end().0).map(Csn).filter(|csn| !fetched.contains_key(csn)) {
        match parts.last_mut() {
            Some(part) if part.end().next() == csn => *part = *part.start()..=csn,
            _ => parts.push(csn..=csn),
        }
    }
    parts
}

/// Both logs side by side, without the demand that their union be dense.
struct Both {
    wal: Peekable<WalCommits>,
    oplog: Peekable<oplog::Commits>,
}

impl Both {
    fn open(disk: &Arc<Disk>, oplog: &OpLog, from: ImagePosition, until: Csn) -> Result<Self> {
        let wal = WalCommits::new(disk, from.wal_seq, disk.wal_seq()).peekable();
        Ok(Self { wal, oplog: oplog.reader().commits(from.position.csn, until)?.peekable() })
    }

    /// The lowest csn that either log holds next.
    fn next_csn(&mut self) -> Result<Option<Csn>> {
        if let Some(failed) = self.wal.next_if(Result::is_err) {
            return failed.map(|_| None);
        }
        if let Some(failed) = self.oplog.next_if(Result::is_err) {
            return failed.map(|_| None);
        }
        let csn_of = |head: Option<&Result<CommitRecord>>| head.and_then(|commit| commit.as_ref().ok()).map(|c| c.csn);
        let heads = [csn_of(self.wal.peek()), csn_of(self.oplog.peek())];
        Ok(heads.into_iter().flatten().min())
    }

    /// The commit `csn` out of whichever log holds it, passing over lower ones.
    fn take(&mut self, csn: Csn) -> Result<Option<CommitRecord>> {
        while let Some(next) = self.next_csn()?.filter(|&next| next <= csn) {
            let is_next = |commit: &Result<CommitRecord>| commit.as_ref().is_ok_and(|c| c.csn == next);
            let from_wal = self.wal.next_if(is_next).transpose()?;
            let from_oplog = self.oplog.next_if(is_next).transpose()?;
            if next == csn {
                return Ok(from_oplog.or(from_wal));
            }
        }
        Ok(None)
    }
}

/// What the union of both logs holds.
struct Survey {
    /// Where the engines will end: C, or RocksDB's csn if that lies beyond.
    target: Csn,
    /// Ranges between C and RocksDB's csn that stand in neither log.
    missing: Vec<RangeInclusive<Csn>>,
    /// Commits above the target, which will be cut off.
    above: u64,
}

impl Survey {
    fn of(mut logs: Both, image: Csn, on_disk: Csn) -> Result<Self> {
        let mut survey = Self { target: image, missing: Vec::new(), above: 0 };
        while let Some(csn) = logs.next_csn()? {
            let _ = logs.take(csn)?;
            if csn <= survey.target {
                continue;
            }
            if csn == survey.target.next() {
                survey.target = csn;
            } else if csn <= on_disk {
                survey.missing.push(survey.target.next()..=csn.prev());
                survey.target = csn;
            } else {
                survey.above += 1;
            }
        }
        if on_disk > survey.target {
            // RocksDB's own position always stands in its WAL, unless WAL files below the image were asked for.
            return Err(Error::Gap {
                what: "RocksDB's WAL".into(),
                expected: survey.target.next(),
                found: format!("the end, although RocksDB holds csn {on_disk}"),
            });
        }
        Ok(survey)
    }
}

struct Replay<'a> {
    disk: &'a Disk,
    oplog: &'a mut OpLog,
    memory: &'a mut Memory,
    /// RocksDB's csn when it was opened.
    on_disk: Csn,
    position: Position,
    redone: u64,
    unfit: Vec<Csn>,
}

impl Replay<'_> {
    fn step(&mut self, mut commit: CommitRecord) -> Result<()> {
        self.position = Position { csn: commit.csn, time: commit.time, epoch: commit.epoch };
        let lacks_frame = oplog::belongs(&commit) && commit.csn > self.oplog.last();
        let lacks_batch = commit.touches_disk() && commit.csn > self.on_disk;
        self.redone += u64::from(commit.touches_disk() && (lacks_frame || lacks_batch));
        if lacks_frame {
            // Frames that this commit builds upon may be gone together with its own.
            if !fitting::apply(self.memory, &mut commit)? {
                self.unfit.push(commit.csn);
            }
            self.oplog.append_in_place(&commit)?;
        } else {
            self.memory.apply_lists(&commit.lists)?;
            self.memory.apply_zsets(&commit.zsets)?;
        }
        if lacks_batch && let Some(batch) = envelope::assemble(std::slice::from_ref(&commit)) {
            self.disk.write(&batch, true)?;
        }
        Ok(())
    }
}
