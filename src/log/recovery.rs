//! Brings both logs and the engines to one state when a node starts after a crash.
//!
//! Let C be the largest csn such that every csn up to it is in one of the logs. Guarantees: all engines end at the
//! same csn. Cross-engine commits up to that csn are whole on both sides. Commits above C are removed from both sides;
//! but if RocksDB is already beyond C, the missing commits are fetched, or filled with no-op commits and reported as
//! lost. Memory ops that depend on lost commits and do not fit without them are left out and reported, too. Commits
//! that survive above a lost one get new history hashes: frames in the op-log record them, and readers prefer those
//! frames to the WAL.

use super::envelope;
use super::oplog::{self, OpLog};
use super::oplog_reader;
use super::reader::LogCursor;
use super::salvage;
use super::wal::{self, WalCommits};
use crate::csn::{Csn, WalSeq};
use crate::engine::batch::Family;
use crate::engine::disk::Disk;
use crate::engine::key::CSN_KEY;
use crate::engine::memory::{self, Memory};
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Number of commits that are applied to the keys in memory at a time.
const BATCH_COMMITS: usize = 1024;

/// The outcome of a recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Position of the last commit of the recovered state.
    pub position: Position,
    /// Sequence at the end of the WAL.
    pub wal_seq: WalSeq,
    /// Number of commits that one log lacked and got from the other.
    pub redone: u64,
    /// Number of commits above C that were cut off.
    pub cut: u64,
    /// Ranges of commits that could not be found anywhere and were filled with no-ops. If not empty, a new epoch must
    /// start.
    pub lost: Vec<RangeInclusive<Csn>>,
    /// Commits that survived only in RocksDB's WAL and lost some of their memory ops, because those ops depend on lost
    /// commits. If not empty, a new epoch must start.
    pub unfit: Vec<Csn>,
}

/// A source of missing commits: an archive or a replica of the same epoch.
pub trait MissingCommits {
    /// Returns those commits of the range that the source has, in csn order; possibly none. None of them may touch the
    /// disk engines: RocksDB holds those that do.
    fn fetch(&self, range: RangeInclusive<Csn>) -> Result<Vec<CommitRecord>>;
}

/// Returns the position of the last commit in RocksDB.
pub fn disk_position(disk: &Disk) -> Result<Position> {
    disk.get(Family::Default, CSN_KEY)?.map_or(Ok(Position::default()), |value| Position::decode(&value))
}

/// The point in history at which a memory image was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CutPoint {
    /// Position of the last commit that the image holds.
    pub position: Position,
    /// Sequence at the end of the WAL when the image was cut.
    pub wal_seq: WalSeq,
}

impl CutPoint {
    /// Returns where the logs must be read on to continue the image.
    #[must_use]
    pub fn log_cursor(&self) -> LogCursor {
        LogCursor { csn: self.position.csn, wal_seq: self.wal_seq }
    }
}

/// Losses of earlier recoveries, and the way to note new ones.
pub struct Losses<'a> {
    /// The last commit before the first one that an earlier recovery may have replaced since the last epoch began;
    /// `None` if none was replaced.
    pub intact_until: Option<Csn>,
    /// Is called, before the first commit is replaced, with the last commit before it. Once a no-op is in the log,
    /// nothing else tells that a commit was lost.
    pub note: &'a mut dyn FnMut(Csn) -> Result<()>,
}

/// Brings `memory`, which was loaded from an image cut at `image`, and both logs to one csn. Returns
/// [`Error::OtherHistory`] if the logs do not hold one history.
pub fn recover(
    disk: &Arc<Disk>,
    oplog: &mut OpLog,
    memory: &Memory,
    image: CutPoint,
    missing: Option<&dyn MissingCommits>,
    losses: Losses<'_>,
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
    let mut logs = Both::open(disk, oplog, image, Csn(u64::MAX))?;
    let (frames_until, batches_until, position) = (oplog.last(), on_disk.csn, image.position);
    let mut replay = Replay {
        disk,
        oplog,
        memory,
        frames_until,
        batches_until,
        position,
        intact_until: losses.intact_until.unwrap_or(Csn(u64::MAX)),
        disk_tip: None,
        on_disk,
        redone: 0,
        unfit: Vec::new(),
    };
    replay.apply_intact(&mut logs)?;
    let survey = Survey::of(logs, replay.position.csn, on_disk.csn)?;
    let mut fetched = BTreeMap::new();
    let mut lost = Vec::new();
    for range in survey.missing {
        let found = missing.map_or(Ok(Vec::new()), |source| source.fetch(range.clone()))?;
        if let Some(foreign) = found.iter().find(|commit| commit.touches_disk()) {
            let detail = "has disk effects that RocksDB lacks, although RocksDB is ahead of the frame: the frame \
                          belongs to another history";
            return Err(Error::corrupt("fetched commit", format!("csn {}", foreign.csn), detail));
        }
        fetched.extend(found.into_iter().map(|commit| (commit.csn, commit)));
        lost.extend(without(range, &fetched));
    }
    if let Some(first) = lost.first() {
        replay.intact_until = replay.intact_until.min(first.start().prev());
        (losses.note)(replay.intact_until)?;
    }
    replay.oplog.truncate_above(survey.target)?;
    replay.frames_until = replay.oplog.last();
    if replay.position.csn < survey.target {
        let rest = CutPoint { position: replay.position, ..image };
        replay.apply_rest(Both::open(disk, replay.oplog, rest, survey.target)?, fetched, survey.target)?;
    }
    if replay.intact_until < survey.target {
        // A power cut must not lose the new hashes: the WAL holds other ones.
        replay.oplog.sync()?;
    }
    replay.correct_disk_position()?;
    let Replay { position, redone, unfit, .. } = replay;
    Ok(Recovered { position, wal_seq: disk.wal_seq(), redone, cut: survey.above, lost, unfit })
}

fn no_op(csn: Csn, after: Position) -> CommitRecord {
    CommitRecord { csn, epoch: after.epoch, time: after.time, ..CommitRecord::default() }
}

/// Returns the parts of a range that were not fetched.
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

/// Both logs side by side. Their union may have gaps.
struct Both {
    wal: Peekable<WalCommits>,
    oplog: Peekable<oplog_reader::Commits>,
}

impl Both {
    fn open(disk: &Arc<Disk>, oplog: &OpLog, from: CutPoint, until: Csn) -> Result<Self> {
        let wal = WalCommits::new(disk, from.wal_seq, disk.wal_seq()).peekable();
        Ok(Self { wal, oplog: oplog.reader().commits(from.position.csn, until)?.peekable() })
    }

    /// Returns the commit with the lowest csn that comes next in either log; the op-log's version if both logs hold
    /// it.
    fn peek(&mut self) -> Result<Option<&CommitRecord>> {
        if self.wal.peek().is_some_and(Result::is_err) {
            return self.wal.next().transpose().map(|_| None);
        }
        if self.oplog.peek().is_some_and(Result::is_err) {
            return self.oplog.next().transpose().map(|_| None);
        }
        let [wal, oplog] =
            [self.wal.peek(), self.oplog.peek()].map(|head| head.and_then(|commit| commit.as_ref().ok()));
        Ok(match (wal, oplog) {
            (Some(wal), Some(oplog)) if wal.csn < oplog.csn => Some(wal),
            (wal, oplog) => oplog.or(wal),
        })
    }

    /// Removes the commit that [`Both::peek`] returns from both logs, and returns it.
    fn take(&mut self) -> Result<Option<CommitRecord>> {
        let Some(csn) = self.peek()?.map(|commit| commit.csn) else { return Ok(None) };
        let is_next = |head: Option<&Result<CommitRecord>>| matches!(head, Some(Ok(commit)) if commit.csn == csn);
        let from_wal = if is_next(self.wal.peek()) { self.wal.next().transpose()? } else { None };
        let from_oplog = if is_next(self.oplog.peek()) { self.oplog.next().transpose()? } else { None };
        Ok(from_oplog.or(from_wal))
    }
}

/// Result of reading both logs beyond the commits that were applied.
struct Survey {
    /// Csn at which the engines will end: C, or RocksDB's csn if that is higher.
    target: Csn,
    /// Ranges between C and RocksDB's csn that neither log holds.
    missing: Vec<RangeInclusive<Csn>>,
    /// Number of commits above the target, which will be cut off.
    above: u64,
}

impl Survey {
    /// Reads the commits in the logs above `after`.
    fn of(mut logs: Both, after: Csn, on_disk: Csn) -> Result<Self> {
        let mut survey = Self { target: after, missing: Vec::new(), above: 0 };
        while let Some(CommitRecord { csn, .. }) = logs.take()? {
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
            // The WAL holds RocksDB's last commit above every image that lacks it: the image's WAL position does not
            // fit its csn.
            return Err(Error::Gap {
                what: "RocksDB's WAL".into(),
                expected: survey.target.next(),
                found: format!("the end, although RocksDB holds csn {on_disk}"),
            });
        }
        Ok(survey)
    }
}

/// Reports whether the op-log lacks the commit's frame, and whether RocksDB lacks its batch, given the last csn of
/// each.
fn lacks(commit: &CommitRecord, frames_until: Csn, batches_until: Csn) -> (bool, bool) {
    let lacks_frame = oplog::belongs(commit) && commit.csn > frames_until;
    (lacks_frame, commit.touches_disk() && commit.csn > batches_until)
}

struct Replay<'a> {
    disk: &'a Disk,
    oplog: &'a mut OpLog,
    memory: &'a Memory,
    /// Last csn in the op-log, and in RocksDB when it was opened.
    frames_until: Csn,
    batches_until: Csn,
    /// Position of the last commit that memory holds.
    position: Position,
    redone: u64,
    unfit: Vec<Csn>,
    /// The last commit before the first lost one. Above it, a history hash that does not continue the one before is
    /// computed anew.
    intact_until: Csn,
    /// The position in RocksDB's csn key when RocksDB was opened.
    on_disk: Position,
    /// The commit at the csn of RocksDB's csn key, if its history hash differs from the one in the key.
    disk_tip: Option<CommitRecord>,
}

impl Replay<'_> {
    /// Applies commits to memory, up to the first one that is missing or that a log lacks. Nearly always this is all
    /// of them.
    fn apply_intact(&mut self, logs: &mut Both) -> Result<()> {
        let Self { memory, position, frames_until, batches_until, intact_until, on_disk, disk_tip, .. } = self;
        let mut take = || -> Result<Option<CommitRecord>> {
            while let Some(commit) = logs.peek()? {
                let is_new = commit.csn > position.csn;
                let is_intact =
                    commit.csn <= *intact_until && lacks(commit, *frames_until, *batches_until) == (false, false);
                if is_new && !(commit.csn == position.csn.next() && is_intact) {
                    break;
                }
                let commit = logs.take()?.expect("the commit was looked at before");
                if is_new {
                    commit.require_continues(position.hash, "a commit in the logs")?;
                    *position = Position::of(&commit);
                    if commit.csn == on_disk.csn && commit.hash != on_disk.hash {
                        *disk_tip = Some(commit.clone());
                    }
                    return Ok(Some(commit));
                }
            }
            Ok(None)
        };
        let mut failed = None;
        let failing = || {
            take().unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        };
        let mut commits = std::iter::from_fn(failing).fuse();
        let batches = std::iter::from_fn(|| {
            let batch: Arc<[CommitRecord]> = commits.by_ref().take(BATCH_COMMITS).collect();
            (!batch.is_empty()).then_some(batch)
        });
        memory::replay(memory, batches).map_err(|misfit| misfit.error)?;
        failed.map_or(Ok(()), Err)
    }

    /// Applies the commits up to `target` to the engines, and writes them into the logs that lack them.
    fn apply_rest(&mut self, mut logs: Both, mut fetched: BTreeMap<Csn, CommitRecord>, target: Csn) -> Result<()> {
        while self.position.csn < target {
            let csn = self.position.csn.next();
            while logs.peek()?.is_some_and(|commit| commit.csn < csn) {
                logs.take()?;
            }
            let in_logs = match logs.peek()? {
                Some(commit) if commit.csn == csn => logs.take()?,
                _ => None,
            };
            let commit = in_logs.or_else(|| fetched.remove(&csn)).unwrap_or_else(|| no_op(csn, self.position));
            self.step(commit)?;
        }
        Ok(())
    }

    fn step(&mut self, mut commit: CommitRecord) -> Result<()> {
        let (mut lacks_frame, lacks_batch) = lacks(&commit, self.frames_until, self.batches_until);
        self.redone += u64::from(commit.touches_disk() && (lacks_frame || lacks_batch));
        if lacks_frame {
            // Earlier frames that this commit depends on may be lost together with its own.
            if !salvage::apply(self.memory, &mut commit)? {
                self.unfit.push(commit.csn);
            }
        } else {
            self.memory.apply_commit(&commit)?;
        }
        let hash = commit.hash_after(self.position.hash);
        if commit.csn > self.intact_until && commit.hash != hash {
            // The hash in the WAL is that of the history with the lost commits.
            (commit.hash, lacks_frame) = (hash, true);
        }
        commit.require_continues(self.position.hash, "a commit in the logs")?;
        self.position = Position::of(&commit);
        if lacks_frame {
            self.oplog.append_in_place(&commit)?;
        }
        if commit.csn == self.on_disk.csn && commit.hash != self.on_disk.hash {
            self.disk_tip = Some(commit.clone());
        }
        if lacks_batch && let Some(batch) = envelope::assemble(std::slice::from_ref(&commit), &[]) {
            self.disk.write(&batch, true)?;
        }
        Ok(())
    }

    /// Writes RocksDB's last commit again, with the history hash that it has since commits before it were lost. Its
    /// operations are the last ones in RocksDB, so that repeating them changes nothing.
    fn correct_disk_position(&mut self) -> Result<()> {
        // A commit that was redone in RocksDB has already set the key.
        let Some(commit) = self.disk_tip.take().filter(|commit| commit.csn == self.batches_until) else {
            return Ok(());
        };
        if disk_position(self.disk)?.csn == commit.csn
            && let Some(batch) = envelope::assemble(std::slice::from_ref(&commit), &[])
        {
            self.disk.write(&batch, true)?;
        }
        Ok(())
    }
}
