//! What a start makes of the two logs after a crash.
//!
//! Let C be the largest csn such that every csn up to it stands in one of the logs. Guarantees: the engines end at the
//! same csn; cross-engine commits up to it are whole on both sides; commits above it are gone from both sides, or, if
//! RocksDB had gone beyond C already, the missing ones are fetched, else filled by no-op commits and reported as lost.
//! Memory ops that build upon lost commits and do not fit without them are left out and reported, too. Commits that
//! survived above a lost one get new history hashes: frames in the op-log tell them, and readers take those.

use super::envelope;
use super::oplog::{self, OpLog};
use super::reader::LogPosition;
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

/// Commits that are brought into the memory engines at a time.
const BATCH_COMMITS: usize = 1024;

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

/// What a start knows of losses before it.
pub struct Losses<'a> {
    /// The last commit below those that an earlier recovery may have replaced since the last epoch began; none if there
    /// are none.
    pub intact_until: Option<Csn>,
    /// Gets, before the first commit is replaced, the last commit below it: once a no-op stands in the log, nothing else
    /// tells that a commit was lost.
    pub note: &'a mut dyn FnMut(Csn) -> Result<()>,
}

/// Brings `memory`, loaded from an image cut at `image`, and both logs to one csn. [`Error::OtherHistory`] if the logs do
/// not hold one history.
pub fn recover(
    disk: &Arc<Disk>,
    oplog: &mut OpLog,
    memory: &mut Memory,
    image: ImagePosition,
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
            let detail =
                "has effects on disk that RocksDB, which is ahead of it, does not know: it is of another history";
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
        let rest = ImagePosition { position: replay.position, ..image };
        replay.apply_rest(Both::open(disk, replay.oplog, rest, survey.target)?, fetched, survey.target)?;
    }
    if replay.intact_until < survey.target {
        // A power cut must not take the new hashes: the WAL tells others.
        replay.oplog.sync()?;
    }
    replay.correct_disk_position()?;
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

    /// The lowest commit that either log holds next; the op-log's if both hold it.
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

    /// Takes the commit that [`Both::peek`] shows out of both logs.
    fn take(&mut self) -> Result<Option<CommitRecord>> {
        let Some(csn) = self.peek()?.map(|commit| commit.csn) else { return Ok(None) };
        let is_next = |head: Option<&Result<CommitRecord>>| matches!(head, Some(Ok(commit)) if commit.csn == csn);
        let from_wal = if is_next(self.wal.peek()) { self.wal.next().transpose()? } else { None };
        let from_oplog = if is_next(self.oplog.peek()) { self.oplog.next().transpose()? } else { None };
        Ok(from_oplog.or(from_wal))
    }
}

/// What the union of both logs holds beyond the commits that were applied.
struct Survey {
    /// Where the engines will end: C, or RocksDB's csn if that lies beyond.
    target: Csn,
    /// Ranges between C and RocksDB's csn that stand in neither log.
    missing: Vec<RangeInclusive<Csn>>,
    /// Commits above the target, which will be cut off.
    above: u64,
}

impl Survey {
    /// Of what the logs hold above `after`.
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

/// Whether the op-log lacks the commit's frame, and RocksDB its batch, if they reach as far as these csns.
fn lacks(commit: &CommitRecord, frames_until: Csn, batches_until: Csn) -> (bool, bool) {
    let lacks_frame = oplog::belongs(commit) && commit.csn > frames_until;
    (lacks_frame, commit.touches_disk() && commit.csn > batches_until)
}

struct Replay<'a> {
    disk: &'a Disk,
    oplog: &'a mut OpLog,
    memory: &'a mut Memory,
    /// How far the op-log reaches, and RocksDB when it was opened.
    frames_until: Csn,
    batches_until: Csn,
    /// Of the last commit that memory holds.
    position: Position,
    redone: u64,
    unfit: Vec<Csn>,
    /// The last commit below the first one that is lost: above it history hashes are computed anew where they do not
    /// continue.
    intact_until: Csn,
    /// What RocksDB's csn key said when it was opened.
    on_disk: Position,
    /// The commit at the csn of RocksDB's csn key, if its history hash is another one than the key says.
    disk_tip: Option<CommitRecord>,
}

impl Replay<'_> {
    /// Brings commits into memory up to the first one that is missing or that a log lacks. Nearly always, that is all.
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
                let commit = logs.take()?.expect("it was shown");
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

    /// Brings the commits up to `target` into the engines and into the logs that lack them.
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
            // Frames that this commit builds upon may be gone together with its own.
            if !salvage::apply(self.memory, &mut commit)? {
                self.unfit.push(commit.csn);
            }
        } else {
            self.memory.apply(&commit)?;
        }
        let hash = commit.hash_after(self.position.hash);
        if commit.csn > self.intact_until && commit.hash != hash {
            // Its hash in the WAL is that of the history with the lost commits.
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

    /// Writes RocksDB's last commit once more, under the history hash that it has since commits before it were lost.
    /// Its operations are the last ones in RocksDB, so carrying them out again changes nothing.
    fn correct_disk_position(&mut self) -> Result<()> {
        // A commit that was redone meanwhile has set the key.
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
