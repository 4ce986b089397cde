//! Recovery, step by step: a history over all engines is cut off at every record of both logs, and within some
//! records, and the result of the next start is compared with a simple model of the design's rule.

#[path = "recovery/crash.rs"]
mod crash;
#[path = "recovery/history.rs"]
mod history;

use crash::{Cut, Record, batches, change, crash as crash_at, cuts, files, frames, left};
use history::{Action, Actions, Image, Node, State, engines, follow, groups, observe, open};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use walferry::commit::committer::Group;
use walferry::csn::{Csn, Epoch, WalSeq};
use walferry::error::{Error, Result};
use walferry::log::reader::LogCursor;
use walferry::log::recovery::{CutPoint, MissingCommits, Recovered, disk_position};
use walferry::record::CommitRecord;

/// Number of records at the end of each log that are cut one by one.
const RECORDS: usize = 12;

/// The committed history, from csn 1 on.
#[derive(Clone, Default)]
struct History {
    /// The actions of each commit; empty for a lost commit.
    actions: Vec<Actions>,
    /// The record of each commit, as the logs contain it.
    records: Vec<CommitRecord>,
    /// Csns of the commits that were written to both logs.
    crossing: BTreeSet<Csn>,
}

/// The commits that a start must find, according to the design.
#[derive(Debug)]
struct Expected {
    target: Csn,
    lost: Vec<RangeInclusive<Csn>>,
    cut: u64,
    redone: u64,
    state: State,
    /// Highest csn with effects on disk.
    on_disk: Csn,
}

impl History {
    fn last(&self) -> Csn {
        Csn(self.actions.len() as u64)
    }

    fn state(&self) -> State {
        let mut state = State::new();
        self.actions.iter().for_each(|actions| follow(&mut state, actions));
        state
    }

    fn record(&self, csn: Csn) -> &CommitRecord {
        &self.records[csn.0 as usize - 1]
    }

    /// Returns for each commit whether it has effects on disk, and in memory.
    fn engines(&self) -> Vec<(bool, bool)> {
        let mut state = State::new();
        let both = self.actions.iter().map(|actions| {
            let found = engines(&state, actions);
            follow(&mut state, actions);
            found
        });
        both.collect()
    }

    /// Applies the rule: C is the end of the unbroken sequence of csns that are in one of the logs or in the image.
    /// The engines end at C, or at RocksDB's csn if that is higher; csns missing in between are lost.
    fn expect(&self, in_wal: &BTreeSet<Csn>, in_oplog: &BTreeSet<Csn>, image: Csn) -> Expected {
        let is_there = |csn: Csn| csn <= image || in_wal.contains(&csn) || in_oplog.contains(&csn);
        let all = || (1..=self.last().0).map(Csn);
        let unbroken = all().take_while(|&csn| is_there(csn)).last().unwrap_or_default();
        let rocksdb = in_wal.last().copied().unwrap_or_default();
        let target = unbroken.max(rocksdb);
        let missing: Vec<_> = all().filter(|&csn| csn <= target && !is_there(csn)).collect();
        let ranges = missing.chunk_by(|a, b| a.next() == *b).map(|run| run[0]..=run[run.len() - 1]);
        let is_cross = |csn: &Csn| self.crossing.contains(csn);
        let stands_once = |csn: &Csn| in_wal.contains(csn) != in_oplog.contains(csn);
        let mut state = State::new();
        let mut on_disk = Csn::ZERO;
        for csn in all().filter(|csn| *csn <= target && !missing.contains(csn)) {
            follow(&mut state, &self.actions[csn.0 as usize - 1]);
            if self.record(csn).touches_disk() {
                on_disk = csn;
            }
        }
        Expected {
            target,
            lost: ranges.collect(),
            cut: all().filter(|&csn| csn > target && is_there(csn)).count() as u64,
            redone: all().filter(|csn| *csn <= target && *csn > image && is_cross(csn) && stands_once(csn)).count()
                as u64,
            state,
            on_disk,
        }
    }

    /// Returns the history after a start with this result.
    fn recovered(mut self, expected: &Expected) -> Self {
        self.actions.truncate(expected.target.0 as usize);
        self.records.truncate(expected.target.0 as usize);
        self.crossing.retain(|csn| *csn <= expected.target);
        for csn in expected.lost.iter().flat_map(|range| range.start().0..=range.end().0) {
            self.actions[csn as usize - 1].clear();
            let lost = &mut self.records[csn as usize - 1];
            *lost = CommitRecord { csn: lost.csn, epoch: lost.epoch, time: lost.time, ..CommitRecord::default() };
        }
        self
    }

    fn commit(&mut self, node: &Node, group: &[Actions]) {
        self.actions.extend_from_slice(group);
        assert_eq!(node.commit(group), self.last(), "csns are dense");
    }

    /// Stops a node and adds its commits to the history.
    fn close(&mut self, node: Node) -> Vec<Group> {
        let groups = node.stop();
        for commit in groups.iter().flat_map(|group| group.commits.iter()) {
            if commit.is_cross_engine() {
                self.crossing.insert(commit.csn);
            }
            self.records.push(commit.clone());
        }
        groups
    }
}

/// A closed data directory and its history.
struct Base {
    root: PathBuf,
    history: History,
    /// Last WAL sequence after each commit.
    ends: Vec<WalSeq>,
}

/// Creates a directory with the whole history.
fn base(root: &Path) -> Base {
    let base = base_of(root, &groups());
    let engines: Vec<_> = base.history.records.iter().map(|r| (r.touches_disk(), r.touches_memory())).collect();
    for kind in [(true, false), (false, true), (true, true)] {
        assert!(engines[engines.len() - 20..].contains(&kind), "{kind:?} is among the last commits");
    }
    base
}

fn base_of(root: &Path, groups: &[Vec<Actions>]) -> Base {
    let root = root.join("base");
    let node = Node::start(&root, open(&root, &Image::default(), None).unwrap(), CutPoint::default());
    let mut history = History::default();
    groups.iter().for_each(|group| history.commit(&node, group));
    assert_eq!(node.observe(), history.state());
    let groups = history.close(node);
    let ends = groups.iter().flat_map(|group| vec![group.wal_after; group.commits.len()]).collect();
    let engines: Vec<_> = history.records.iter().map(|r| (r.touches_disk(), r.touches_memory())).collect();
    assert_eq!(history.engines(), engines, "the model knows which engines a commit touches");
    Base { root, history, ends }
}

impl Base {
    /// Returns a memory image cut at the end of the last group that ends at or before commit `at`.
    fn image(&self, at: usize) -> Image {
        let at = (0..=at).rev().find(|&n| n == 0 || self.ends[n - 1] != self.ends[n]).unwrap();
        let commits = &self.history.records[..at];
        let last = commits.last().map(walferry::position::Position::of);
        let wal_seq = at.checked_sub(1).map_or(WalSeq::ZERO, |nth| self.ends[nth]);
        Image { at: CutPoint { position: last.unwrap_or_default(), wal_seq }, commits: commits.into() }
    }
}

/// One crash of a directory: the records that remain in its logs.
struct Crash<'a> {
    root: &'a Path,
    history: &'a History,
    frames: &'a [Record],
    batches: &'a [Record],
    image: &'a Image,
}

impl Crash<'_> {
    /// Returns the csns on disk that are in no WAL file that a crash can cut.
    fn flushed(&self) -> BTreeSet<Csn> {
        let cuttable: BTreeSet<_> = left(self.batches, self.batches.len()).collect();
        let on_disk = self.history.records.iter().filter(|record| record.touches_disk()).map(|record| record.csn);
        on_disk.filter(|csn| !cuttable.contains(csn)).collect()
    }

    /// Makes a copy with cut logs and checks the result of a start on it.
    fn check(&self, to: &Path, oplog: &Cut, wal: &Cut) -> (History, Recovered) {
        crash_at(self.root, to, oplog, wal);
        self.check_copy(to, oplog.whole, wal.whole, &format!("op-log {oplog:?}, wal {wal:?}"))
    }

    /// Checks a start on a damaged copy, a second start after that, and further commits.
    fn check_copy(&self, to: &Path, frames: usize, batches: usize, damage: &str) -> (History, Recovered) {
        let what = format!("{damage}, image {}", self.image.at.position.csn);
        let mut in_wal = self.flushed();
        in_wal.extend(left(self.batches, batches));
        let in_oplog: BTreeSet<_> = left(self.frames, frames).collect();
        let expected = self.history.expect(&in_wal, &in_oplog, self.image.at.position.csn);

        let opened = open(to, self.image, None).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = opened.recovered.clone();
        assert_eq!(found.position.csn, expected.target, "{what}");
        assert_eq!((&found.lost, found.cut, found.redone), (&expected.lost, expected.cut, expected.redone), "{what}");
        let stands_in_wal = |csn: &Csn| in_wal.contains(csn) && !in_oplog.contains(csn);
        assert!(found.unfit.iter().all(stands_in_wal), "{:?}: {what}", found.unfit);
        assert_eq!(observe(&opened.disk, &opened.memory), expected.state, "{what}");
        assert_eq!(disk_position(&opened.disk).unwrap().csn, expected.on_disk, "{what}");
        drop(opened);

        let opened = open(to, self.image, None).unwrap_or_else(|error| panic!("again: {what}: {error}"));
        let again = &opened.recovered;
        assert_eq!((again.position, again.cut, again.redone), (found.position, 0, 0), "again: {what}");
        assert!(again.lost.is_empty() && again.unfit.is_empty(), "again: {what}");
        assert_eq!(observe(&opened.disk, &opened.memory), expected.state, "again: {what}");

        let mut history = self.history.clone().recovered(&expected);
        let node = Node::start(to, opened, self.image.at);
        let first = history.actions.len() + 100;
        for group in [first..first + 2, first + 2..first + 3, first + 3..first + 14] {
            history.commit(&node, &group.map(history::actions).map(without_pops).collect::<Vec<_>>());
        }
        assert_eq!(node.observe(), history.state(), "{what}");
        let (reader, until) = node.committer.log_reader();
        let read = reader.commits(self.image.at.log_cursor(), until).and_then(Iterator::collect::<Result<Vec<_>>>);
        let read = read.unwrap_or_else(|error| panic!("reading: {what}: {error}"));
        for csn in &found.unfit {
            let told = &read[csn.since(self.image.at.position.csn) as usize - 1];
            let whole = &mut history.records[csn.0 as usize - 1];
            assert!(told.memory.len() < whole.memory.len(), "csn {csn}: {what}");
            whole.memory = told.memory.clone();
        }
        history.close(node);
        assert_same(&read, &history.records[self.image.at.position.csn.0 as usize..], &what);
        (history, found)
    }
}

/// Leaves out what removes elements: the history after a crash must not depend on what the crash left.
fn without_pops(mut actions: Actions) -> Actions {
    actions.retain(|action| !matches!(action, Action::Pop(_) | Action::Forget(..)));
    actions
}

/// Asserts that commits are the same; only the time of a lost commit may differ.
fn assert_same(read: &[CommitRecord], written: &[CommitRecord], what: &str) {
    assert_eq!(read.len(), written.len(), "{what}");
    for (read, written) in read.iter().zip(written) {
        assert_eq!((read.csn, read.disk_ops), (written.csn, written.disk_ops), "{what}");
        assert_eq!(history::effects(read), history::effects(written), "csn {}: {what}", read.csn);
        let is_lost = written.effect_bytes() == 0;
        assert!(is_lost || (read.time, read.epoch) == (written.time, written.epoch), "csn {}: {what}", read.csn);
    }
}

/// Runs all `tasks` on two threads; each task has its own directory.
fn in_parallel<T: Sync>(root: &Path, tasks: &[T], run: impl Fn(&T, &Path) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let dir = tempfile::tempdir_in(root).unwrap();
                    run(task, dir.path());
                }
            });
        }
    });
}

/// Goal: whatever each log lost at its end, the engines end at one csn, commits are whole, and losses are reported.
#[test]
fn every_cut_of_both_logs_recovers_as_the_rule_says() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let (frames, batches) = (frames(&base.root), batches(&base.root));
    let images = [Image::default(), base.image(frames.len() / 2)];
    let mut tasks = Vec::new();
    for (n, oplog) in cuts(&frames, RECORDS).into_iter().enumerate() {
        for (m, wal) in cuts(&batches, RECORDS).into_iter().enumerate() {
            tasks.push((oplog.clone(), wal, &images[(n + m) % 2]));
        }
    }
    let seen: Mutex<[u64; 4]> = Mutex::default();
    in_parallel(dir.path(), &tasks, |(oplog, wal, image), to| {
        let crash = Crash { root: &base.root, history: &base.history, frames: &frames, batches: &batches, image };
        let (_, found) = crash.check(to, oplog, wal);
        let found = [found.lost.len() as u64, found.unfit.len() as u64, found.redone, found.cut];
        seen.lock().iter_mut().zip(found).for_each(|(sum, found)| *sum += found);
    });
    let seen = seen.into_inner();
    eprintln!("{} combinations; ranges lost, commits unfit, redone and cut: {seen:?}", tasks.len());
    assert!(seen.iter().all(|&sum| sum > 20), "each outcome was met: {seen:?}");
}

/// Goal: records after a hole, which reached the disk before earlier ones, never reappear, whatever is written later.
#[test]
fn what_lies_behind_a_hole_is_gone_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let (frames, batches) = (frames(&base.root), batches(&base.root));
    let image = Image::default();
    let crash = Crash { root: &base.root, history: &base.history, frames: &frames, batches: &batches, image: &image };
    let holes: Vec<_> = (2..10).map(|back| (frames.len() - back, batches.len() - back)).collect();
    in_parallel(dir.path(), &holes, |&(frame, batch), to| {
        // A sealed segment was synced: only the last segment can have a hole.
        let frame = if frames[frame].file == frames[frames.len() - 1].file { frame } else { frames.len() };
        crash::copy(&base.root, to);
        let hole = |record: &Record| {
            change(&to.join(record.file.strip_prefix(&base.root).unwrap()), |bytes| {
                bytes[record.bytes.clone()].fill(0)
            });
        };
        frames.get(frame).map(&hole);
        hole(&batches[batch]);
        crash.check_copy(to, frame, batch, &format!("holes at frame {frame} and batch {batch}"));
    });
}

/// Goal: records after a missing block of RocksDB's WAL never reappear, although RocksDB's reader can resynchronize
/// there.
#[test]
fn what_lies_behind_a_missing_block_of_the_wal_is_gone_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let wide = |nth: usize| vec![Action::Set("string a", format!("{nth} {}", "x".repeat(3000)))];
    let mut groups: Vec<_> = (0..60).map(|nth| vec![wide(nth)]).collect();
    groups.insert(30, vec![vec![Action::Push("list a", "only in the op-log".to_owned())]]);
    let base = base_of(dir.path(), &groups);
    let (frames, batches) = (frames(&base.root), batches(&base.root));
    let image = Image::default();
    let crash = Crash { root: &base.root, history: &base.history, frames: &frames, batches: &batches, image: &image };
    for (from, to) in [(32 << 10, 64 << 10), (40_000, 98_304), (65_536, 65_536 + 4096)] {
        let copy = dir.path().join(format!("hole {from}"));
        crash::copy(&base.root, &copy);
        let wal = copy.join(batches[0].file.strip_prefix(&base.root).unwrap());
        change(&wal, |bytes| bytes[from..to].fill(0));
        let whole = batches.iter().position(|batch| batch.bytes.end > from).unwrap();
        crash.check_copy(&copy, frames.len(), whole, &format!("hole from {from} to {to}"));
    }
}

/// Goal: damage in synced data is an error that names the file; nothing is skipped.
#[test]
fn rot_in_a_sealed_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let frames = frames(&base.root);
    let segments = files(&base.root.join("oplog"), "oplog");
    assert!(segments.len() >= 3, "there are sealed segments");
    let sealed: Vec<_> = frames.iter().filter(|frame| frame.file != segments[segments.len() - 1]).collect();
    for (nth, frame) in sealed.iter().enumerate() {
        let copy = dir.path().join(format!("rot {nth}"));
        crash::copy(&base.root, &copy);
        let segment = copy.join(frame.file.strip_prefix(&base.root).unwrap());
        change(&segment, |bytes| bytes[frame.bytes.start + nth * 7 % frame.bytes.len()] ^= 1 << (nth % 8));
        let error = refusal(&copy, &Image::default());
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(&segment.display().to_string()), "{error}");
        assert!(error.to_string().contains(&format!("byte {}", frame.bytes.start)), "{error}");
    }
    let copy = dir.path().join("removed");
    crash::copy(&base.root, &copy);
    std::fs::remove_file(copy.join("oplog").join(segments[1].file_name().unwrap())).unwrap();
    let error = refusal(&copy, &Image::default());
    assert!(matches!(error, Error::Gap { .. }), "{error}");
}

fn refusal(root: &Path, image: &Image) -> Error {
    open(root, image, None).err().expect("a directory that is not whole")
}

/// Goal: a WAL file missing from the middle is a gap for a reader that needs it, and no error for other readers.
#[test]
fn a_missing_wal_file_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("node");
    let mut history = History::default();
    let mut files_of_starts = Vec::new();
    let mut images = Vec::new();
    for start in 0..3 {
        let node = Node::start(&root, open(&root, &Image::default(), None).unwrap(), CutPoint::default());
        for nth in 0..4 {
            history.commit(&node, &[vec![Action::Set("string a", format!("{start} {nth}"))]]);
        }
        history.close(node);
        files_of_starts.extend(files(&root.join("wal"), "log"));
        let opened = open(&root, &Image::default(), None).unwrap();
        let at = CutPoint { position: opened.recovered.position, wal_seq: opened.recovered.wal_seq };
        images.push(Image { at, commits: history.records.clone().into() });
    }
    let archived = |nth: usize| root.join("wal/archive").join(files_of_starts[nth].file_name().unwrap());
    std::fs::remove_file(archived(1)).unwrap();
    let error = refusal(&root, &Image::default());
    assert!(matches!(error, Error::Gap { .. }), "{error}");
    let error = refusal(&root, &images[0]);
    assert!(matches!(error, Error::Gap { .. }), "{error}");
    let opened = open(&root, &images[1], None).unwrap();
    assert_eq!(observe(&opened.disk, &opened.memory), history.state());
    let node = Node::start(&root, opened, images[1].at);
    let (reader, until) = node.committer.log_reader();
    let read = |after| reader.commits(after, until).and_then(Iterator::collect::<Result<Vec<_>>>);
    assert!(matches!(read(LogCursor::default()), Err(Error::Gap { .. })));
    assert_eq!(read(images[1].at.log_cursor()).unwrap(), history.records[8..]);
    let before_the_hole = node.committer.log_cursor(Csn(3)).unwrap();
    assert!(matches!(read(before_the_hole), Err(Error::Gap { .. })), "a hole is never passed over");
    node.stop();
}

/// A source that has some commits, or refuses to return any.
struct Source(Vec<CommitRecord>);

impl MissingCommits for Source {
    fn fetch(&self, range: RangeInclusive<Csn>) -> Result<Vec<CommitRecord>> {
        Ok(self.0.iter().filter(|commit| range.contains(&commit.csn)).cloned().collect())
    }
}

/// Makes a directory whose op-log lost its last frames while RocksDB kept everything; returns the csns lost by that.
fn ahead(dir: &Path) -> (Base, PathBuf, Vec<Csn>) {
    let base = base(dir);
    let (frames, batches) = (frames(&base.root), batches(&base.root));
    let copy = dir.join("ahead");
    let oplog = cuts(&frames, RECORDS)[0].clone();
    let wal = cuts(&batches, 1).pop().unwrap();
    crash_at(&base.root, &copy, &oplog, &wal);
    let in_wal: BTreeSet<_> = left(&batches, wal.whole).collect();
    let last = in_wal.last().copied().unwrap();
    let missing = left(&frames, frames.len()).skip(oplog.whole).filter(|csn| !in_wal.contains(csn) && *csn < last);
    let missing: Vec<_> = missing.collect();
    assert!(missing.len() > 2);
    (base, copy, missing)
}

/// Goal: missing commits that a replica or the archive has are not lost.
#[test]
fn missing_commits_that_can_be_fetched_are_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (base, root, missing) = ahead(dir.path());
    let source = Source(base.history.records.clone());
    let wanted = Source(source.0.iter().filter(|commit| missing.contains(&commit.csn)).cloned().collect());
    let opened = open(&root, &Image::default(), Some(&wanted)).unwrap();
    assert!(opened.recovered.lost.is_empty() && opened.recovered.unfit.is_empty());
    let last = opened.recovered.position.csn;
    let mut history = base.history.clone();
    history.actions.truncate(last.0 as usize);
    assert_eq!(observe(&opened.disk, &opened.memory), history.state());
    let node = Node::start(&root, opened, CutPoint::default());
    let (reader, until) = node.committer.log_reader();
    let read: Vec<_> = reader.commits(LogCursor::default(), until).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, base.history.records[..last.0 as usize], "epochs and times included");
    node.stop();
}

/// Goal: with a source that has only some of the missing commits, exactly the other missing commits are lost.
#[test]
fn a_source_with_holes_loses_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let (base, root, missing) = ahead(dir.path());
    let source = Source(
        base.history.records.iter().filter(|c| c.csn != missing[1] && missing.contains(&c.csn)).cloned().collect(),
    );
    let recovered = open(&root, &Image::default(), Some(&source)).unwrap().recovered;
    assert_eq!(recovered.lost, [missing[1]..=missing[1]]);
}

/// Goal: commits from another history are refused, not mixed in.
#[test]
fn a_source_of_another_history_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (base, root, missing) = ahead(dir.path());
    let foreign = base.history.records.iter().find(|commit| commit.touches_disk()).unwrap();
    let foreign = CommitRecord { csn: missing[0], epoch: Epoch(9), ..foreign.clone() };
    let error = open(&root, &Image::default(), Some(&Source(vec![foreign]))).err().expect("another history");
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

/// Goal: a memory image beyond RocksDB's csn is not combined with the older RocksDB.
#[test]
fn an_image_ahead_of_rocksdb_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let (frames, batches) = (frames(&base.root), batches(&base.root));
    let copy = dir.path().join("copy");
    crash_at(&base.root, &copy, cuts(&frames, 1).last().unwrap(), &cuts(&batches, 4)[0]);
    let error = refusal(&copy, &base.image(base.history.records.len() - 2));
    assert!(matches!(error, Error::Gap { .. }), "{error}");
    assert!(error.to_string().contains("memory image"), "{error}");
}

/// Goal: a crash after a recovery that lost commits recovers by the same rule.
#[test]
fn a_crash_after_a_recovery_recovers_as_the_rule_says() {
    let dir = tempfile::tempdir().unwrap();
    let base = base(dir.path());
    let (first_frames, first_batches) = (frames(&base.root), batches(&base.root));
    let image = Image::default();
    let crash = Crash {
        root: &base.root,
        history: &base.history,
        frames: &first_frames,
        batches: &first_batches,
        image: &image,
    };
    let starts = [(3, 0), (0, 2), (5, 4)].map(|(oplog, wal)| {
        let oplog = cuts(&first_frames, RECORDS)[oplog].clone();
        let wal = cuts(&first_batches, RECORDS).into_iter().rev().nth(wal).unwrap();
        (oplog, wal)
    });
    for (nth, (oplog, wal)) in starts.iter().enumerate() {
        let root = dir.path().join(format!("once {nth}"));
        let (history, _) = crash.check(&root, oplog, wal);
        let (frames, batches) = (frames(&root), batches(&root));
        let crash = Crash { root: &root, history: &history, frames: &frames, batches: &batches, image: &image };
        let pairs: Vec<_> = cuts(&frames, 5)
            .into_iter()
            .flat_map(|oplog| cuts(&batches, 3).into_iter().map(move |wal| (oplog.clone(), wal)))
            .collect();
        in_parallel(dir.path(), &pairs, |(oplog, wal), to| {
            crash.check(to, oplog, wal);
        });
    }
}
