//! The path of groups through both logs, and the effect of a log that fails.

use super::super::guards::{LogsGuard, WriterGuard};
use super::*;
use crate::commit::groups::GroupNumber;
use crate::config::AppendFsync;
use crate::csn::Epoch;
use crate::engine::batch::Family;
use crate::engine::disk::DiskOptions;
use crate::io::Io;
use crate::io::testing::{Faults, Step};
use crate::log::durable::DurableFile;
use crate::log::recovery::{CutPoint, Losses, Recovered, disk_position, recover};
use crate::log::testing::{chained, on_both, on_disk, on_list};
use rustix::io::Errno;
use std::path::Path;

const SEGMENT_BYTES: u64 = 256 << 10;

#[derive(Default)]
struct Sink(Mutex<Vec<Group>>);

impl CommitSink for Sink {
    fn committed(&self, group: Group) {
        self.0.lock().push(group);
    }
}

/// A committer over a directory of its own, on files that can be made to fail.
pub(in crate::commit) struct Rig {
    pub committer: Arc<Committer>,
    pub io: Arc<Faults>,
    /// Result of the recovery of the directory.
    pub recovered: Recovered,
    sink: Arc<Sink>,
    dir: Arc<tempfile::TempDir>,
}

impl Rig {
    pub(crate) fn new(mode: AppendFsync) -> Self {
        Self::open(mode, Arc::default(), &Arc::new(tempfile::tempdir().unwrap())).unwrap()
    }

    /// Recovers a directory, as the start of a node does.
    pub(crate) fn open(mode: AppendFsync, io: Arc<Faults>, dir: &Arc<tempfile::TempDir>) -> Result<Self> {
        let log_io: Arc<dyn Io> = Arc::<Faults>::clone(&io);
        let options = DiskOptions { cache_bytes: 1 << 20, ..DiskOptions::default() };
        let disk = Arc::new(Disk::open(&dir.path().join("db"), &dir.path().join("wal"), options).unwrap());
        let mut oplog = OpLog::open(Arc::clone(&log_io), &dir.path().join("oplog"), SEGMENT_BYTES)?;
        let (durable_file, _) = DurableFile::open(Arc::clone(&log_io), &dir.path().join("oplog"))?;
        let memory = Memory::new();
        let recovered = recover(
            &disk,
            &mut oplog,
            &memory,
            CutPoint::default(),
            None,
            Losses { intact_until: None, note: &mut |_| Ok(()) },
        )?;
        let gate = Arc::new(Gate::default());
        let position = recovered.position;
        let start = Start { disk: Arc::clone(&disk), oplog, memory, position, known: Vec::new() };
        let committer = Committer::new(start, Arc::clone(&gate), |_, watermarks| {
            Syncer::start(mode, disk, log_io, durable_file, Arc::clone(watermarks), gate)
        });
        let sink = Arc::<Sink>::default();
        committer.attach(Arc::<Sink>::clone(&sink));
        Ok(Self { committer: Arc::new(committer), io, recovered, sink, dir: Arc::clone(dir) })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn groups(&self) -> Vec<Group> {
        self.sink.0.lock().clone()
    }

    pub(crate) fn obstacle(&self) -> Option<RefusalReason> {
        self.committer.gate.refusal().map(|(obstacle, _)| obstacle)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.io.heal();
        self.committer.syncer.stop();
    }
}

/// Makes one commit that sets a string, pushes to a list, or both.
pub(in crate::commit) fn change(turn: &mut WriterGuard<'_>, sets: bool, pushes: bool) -> Option<Csn> {
    let mut keys = turn.keyspace(0);
    if sets {
        keys.put_string(b"string", b"value", 0).unwrap();
    }
    if pushes {
        keys.change_in_memory(b"list", |ops| ops.push_back(b"list", [&b"element"[..]].into_iter())).unwrap();
    }
    turn.commit()
}

#[test]
fn a_group_is_one_batch_and_its_csns_are_dense() {
    let rig = Rig::new(AppendFsync::No);
    let mut turn = rig.committer.lock_logs();
    assert_eq!(turn.write().unwrap(), None, "an empty group is nothing");
    let csns = [(true, false), (false, true), (true, true)].map(|(sets, pushes)| change(&mut turn.guard, sets, pushes));
    assert_eq!(csns, [Some(Csn(1)), Some(Csn(2)), Some(Csn(3))]);
    assert_eq!(change(&mut turn.guard, false, false), None, "a command without effect is no commit");
    assert_eq!(rig.committer.watermarks.committed.get(), Csn::ZERO, "not before it is written");
    assert_eq!(turn.write().unwrap(), Some(Csn(3)));
    assert_eq!(change(&mut turn.guard, false, true), Some(Csn(4)));
    assert_eq!(turn.write().unwrap(), Some(Csn(4)));
    drop(turn);

    let groups = rig.groups();
    let shape: Vec<_> = groups.iter().map(|g| (g.first().0, g.last().0, g.wal_before.0, g.wal_after.0)).collect();
    assert_eq!(shape, [(1, 3, 0, 2), (4, 4, 2, 2)], "what the string was set to last, and the csn key");
    let commits: Vec<_> = groups.iter().flat_map(|group| group.commits.to_vec()).collect();
    assert!(commits.windows(2).all(|pair| pair[0].time <= pair[1].time));
    assert_eq!(commits[2].effect_bytes(), commits[0].effect_bytes() + commits[1].effect_bytes());
    assert_eq!(disk_position(rig.committer.disk()).unwrap().csn, Csn(3));
    assert_eq!(rig.committer.watermarks.committed.get(), Csn(4));
    assert_eq!(rig.committer.memory().len(), 1);
    let (reader, until) = rig.committer.log_reader();
    let read: Vec<_> = reader.commits(LogCursor::default(), until).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, commits);
}

#[test]
fn what_a_group_writes_often_rocksdb_is_told_once_and_the_log_each_time() {
    let rig = Rig::new(AppendFsync::No);
    let row = |turn: &mut LogsGuard<'_>, value: Option<&[u8]>| {
        let effects = &mut turn.writer().effects;
        match value {
            Some(value) => effects.put(Family::Sub, b"row", value),
            None => effects.delete(Family::Sub, b"row"),
        }
        effects.put(Family::Sub, value.unwrap_or(b"deleted"), b"");
        turn.commit().unwrap()
    };
    for group in 0..3_u8 {
        let mut turn = rig.committer.lock_logs();
        for n in 0..5_u8 {
            row(&mut turn, (n != 2).then_some(&[group, n]));
        }
        turn.write().unwrap();
    }
    let disk = rig.committer.disk();
    assert_eq!(disk.get(Family::Sub, b"row").unwrap().as_deref(), Some(&[2, 4][..]));
    let groups = rig.groups();
    let ends: Vec<_> = groups.iter().map(|group| group.wal_after.0).collect();
    assert_eq!(ends, [7, 14, 21], "of each group the last row, five others and the csn key");
    let commits: Vec<_> = groups.iter().flat_map(|group| group.commits.to_vec()).collect();
    assert_eq!(commits.iter().map(|commit| commit.disk_ops).sum::<u32>(), 30);
    let (reader, until) = rig.committer.log_reader();
    let read: Vec<_> = reader.commits(LogCursor::default(), until).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, commits);

    // A replica applies each of the commits, and its logs hold the same commits.
    let replica = Rig::new(AppendFsync::No);
    replica.committer.lock_logs().apply(commits.clone().into()).unwrap();
    let (reader, until) = replica.committer.log_reader();
    let read: Vec<_> = reader.commits(LogCursor::default(), until).unwrap().map(Result::unwrap).collect();
    assert_eq!(read, commits);
    assert_eq!(replica.committer.disk().get(Family::Sub, b"row").unwrap().as_deref(), Some(&[2, 4][..]));
}

#[test]
fn a_failed_op_log_write_stops_writes_before_rocksdb_sees_them() {
    let rig = Rig::new(AppendFsync::No);
    let mut turn = rig.committer.lock_logs();
    change(&mut turn.guard, true, true);
    turn.write().unwrap();
    rig.io.fail(Step::Write, Errno::IO);
    change(&mut turn.guard, true, true);
    turn.write().unwrap_err();
    rig.io.heal();
    assert_eq!(rig.obstacle(), Some(RefusalReason::Broken));
    change(&mut turn.guard, true, true);
    assert!(matches!(turn.write(), Err(Error::NeedsRestart { .. })), "healed or not");
    assert!(matches!(turn.apply([on_disk(2)].into()), Err(Error::NeedsRestart { .. })));
    drop(turn);
    assert_eq!(disk_position(rig.committer.disk()).unwrap().csn, Csn(1));
    assert_eq!((rig.committer.watermarks.committed.get(), rig.groups().len()), (Csn(1), 1));
}

#[test]
fn a_group_that_is_open_when_a_write_fails_is_settled_too() {
    let rig = Rig::new(AppendFsync::No);
    let mut turn = rig.committer.lock_logs();
    rig.io.fail(Step::Write, Errno::IO);
    change(&mut turn.guard, true, true);
    turn.write().unwrap_err();
    drop(turn);
    let mut guard = rig.committer.lock_writer();
    change(&mut guard, true, true);
    let open = guard.leave_open().unwrap();
    rig.committer.write_soon();
    assert!(matches!(rig.committer.groups.outcome(open), Some(Err(_))), "whoever waits for it learns it");
}

#[test]
fn a_full_disk_refuses_before_a_command_runs_and_ends_by_itself() {
    let rig = Rig::new(AppendFsync::No);
    let mut turn = rig.committer.lock_logs();
    for (step, bytes) in [(Step::Create, 1 << 20), (Step::Write, 1 << 22)] {
        rig.io.fail(step, Errno::NOSPC);
        turn.reserve(bytes).unwrap_err();
        assert_eq!(rig.obstacle(), Some(RefusalReason::DiskFull));
        rig.io.heal();
        turn.reserve(0).unwrap_err();
        drop(turn);
        rig.committer.look_for_room(rig.dir(), 0);
        assert_eq!(rig.obstacle(), None);
        turn = rig.committer.lock_logs();
        turn.reserve(bytes).unwrap();
    }
    change(&mut turn.guard, true, true);
    assert_eq!(turn.write().unwrap(), Some(Csn(1)));
}

#[test]
fn a_failed_sync_at_the_change_of_segments_is_no_full_disk() {
    let rig = Rig::new(AppendFsync::No);
    let mut turn = rig.committer.lock_logs();
    let large = vec![7; 60 << 10];
    turn.keyspace(0).change_in_memory(b"list", |ops| ops.push_back(b"list", [&large[..]].into_iter())).unwrap();
    turn.commit();
    turn.write().unwrap();
    rig.io.fail(Step::SyncDir, Errno::IO);
    // The new file does not have a segment's name yet. It is created again later, so that its failed sync loses
    // nothing.
    turn.reserve(1 << 20).unwrap_err();
    assert_eq!(rig.obstacle(), Some(RefusalReason::DiskFull));
    rig.io.heal();
    drop(turn);
    rig.committer.look_for_room(rig.dir(), 0);
    let mut turn = rig.committer.lock_logs();
    std::fs::write(rig.dir().join("oplog/spare"), vec![0; SEGMENT_BYTES as usize]).unwrap();
    rig.io.fail(Step::Sync, Errno::IO);
    turn.reserve(80 << 10).unwrap_err();
    assert_eq!(rig.obstacle(), Some(RefusalReason::Broken));
    rig.io.heal();
    turn.reserve(0).unwrap_err();
    assert_eq!(rig.obstacle(), Some(RefusalReason::Broken));
}

#[test]
fn a_group_that_is_given_up_stops_writes() {
    let rig = Rig::new(AppendFsync::No);
    change(&mut rig.committer.lock_writer(), true, false);
    assert_eq!(rig.obstacle(), Some(RefusalReason::Broken));
    assert!(rig.groups().is_empty());
}

#[test]
fn applied_commits_keep_their_times_and_must_follow() {
    let rig = Rig::new(AppendFsync::No);
    let mut turn = rig.committer.lock_logs();
    let commits = chained([on_disk(1), on_list(2), on_both(3)]);
    assert_eq!(turn.apply(commits.clone().into()).unwrap(), Csn(3));
    let hash = turn.position().hash;
    assert_eq!(hash, commits[2].hash);
    let next = |mut commits: [CommitRecord; 2]| -> Arc<[CommitRecord]> {
        crate::record::chain(hash, &mut commits);
        commits.into()
    };
    assert!(matches!(turn.apply([on_list(5)].into()), Err(Error::Gap { expected: Csn(4), .. })));
    let malformed = CommitRecord { csn: Csn(5), disk_ops: 2, ..on_disk(4) };
    assert!(matches!(turn.apply(next([on_list(4), malformed])), Err(Error::Corrupt { .. })));
    let malformed = CommitRecord { memory: bytes::Bytes::from_static(b"?"), ..on_list(5) };
    assert!(matches!(turn.apply(next([on_list(4), malformed])), Err(Error::Corrupt { .. })));
    let foreign = chained([on_list(4)]);
    assert!(matches!(turn.apply(foreign.into()), Err(Error::OtherHistory { csn: Csn(4), .. })));
    assert_eq!((rig.obstacle(), turn.position().csn), (None, Csn(3)), "refused before it had an effect");
    assert_eq!(rig.committer.memory().get(b"list").unwrap().as_list().unwrap().len(), 2);
    let own = change(&mut turn.guard, false, true);
    turn.write().unwrap();
    drop(turn);
    assert_eq!(own, Some(Csn(4)));
    let (reader, until) = rig.committer.log_reader();
    let read: Vec<_> = reader.commits(LogCursor::default(), until).unwrap().map(Result::unwrap).collect();
    assert_eq!(read[..3], commits);
}

#[test]
fn ops_that_do_not_fit_stop_a_replica() {
    let rig = Rig::new(AppendFsync::No);
    let mut memory = Vec::new();
    crate::engine::memory::Encoder::new(&mut memory).pop_back(b"nothing", 1);
    let commit = CommitRecord { memory: memory.into(), ..on_list(1) };
    rig.committer.lock_logs().apply(chained([commit]).into()).unwrap_err();
    assert_eq!(rig.obstacle(), Some(RefusalReason::Broken));
}

#[test]
fn an_epoch_begins_between_groups() {
    let rig = Rig::new(AppendFsync::No);
    let mut turn = rig.committer.lock_logs();
    turn.set_epoch(Epoch(1));
    change(&mut turn.guard, true, false);
    turn.write().unwrap();
    turn.set_epoch(Epoch(7));
    change(&mut turn.guard, true, true);
    turn.write().unwrap();
    drop(turn);
    let epochs: Vec<_> = rig.groups().iter().map(|group| group.commits[0].epoch.0).collect();
    assert_eq!(epochs, [1, 7]);
    assert_eq!(disk_position(rig.committer.disk()).unwrap().epoch, Epoch(7));
}

#[test]
fn purged_logs_are_known_not_to_reach_back() {
    let rig = Rig::new(AppendFsync::No);
    let mut turn = rig.committer.lock_logs();
    let mut kept = LogCursor::default();
    for round in 0..6 {
        for _ in 0..1024 {
            change(&mut turn.guard, false, true);
        }
        turn.write().unwrap();
        if round == 3 {
            kept = turn.cut_point().log_cursor();
        }
        // Begins a new segment in each round.
        turn.oplog().reserve(220 << 10).unwrap();
    }
    drop(turn);
    let first_after = |csn| {
        let (reader, until) = rig.committer.log_reader();
        let mut commits = reader.commits(rig.committer.log_cursor(csn).unwrap(), until)?;
        commits.next().transpose()
    };
    assert_eq!(first_after(Csn(5)).unwrap().unwrap().csn, Csn(6));
    let before = rig.committer.log_bytes();
    let freed = rig.committer.purge_logs(kept).unwrap();
    assert!(freed > 0 && rig.committer.log_bytes() == before - freed);
    assert!(matches!(first_after(Csn(5)), Err(Error::Gap { .. })), "purged logs are a gap, never a silent skip");
    let (reader, until) = rig.committer.log_reader();
    let after = rig.committer.log_cursor(kept.csn).unwrap();
    assert_eq!(reader.commits(after, until).unwrap().map(Result::unwrap).count() as u64, until.csn.since(kept.csn));
}

/// Waits until a group is settled; fails the test if that takes too long.
fn outcome(rig: &Rig, group: u64) -> Result<()> {
    let patience = std::time::Duration::from_secs(20);
    let deadline = std::time::Instant::now() + patience;
    loop {
        if let Some(outcome) = rig.committer.groups.outcome(GroupNumber(group)) {
            return outcome;
        }
        assert!(std::time::Instant::now() < deadline, "group {group} is not settled after {patience:?}");
        std::thread::yield_now();
    }
}

fn string_in(guard: &mut WriterGuard<'_>) -> bool {
    !guard.keyspace(0).find(b"string").unwrap().is_absent()
}

#[test]
fn groups_on_their_way_are_seen_and_written_in_their_order() {
    let rig = Rig::new(AppendFsync::No);
    rig.committer.start_log_thread();
    let logs_at_rest = rig.committer.logs.lock();
    let mut guard = rig.committer.lock_writer();
    change(&mut guard, true, true);
    assert!(guard.hand_over(), "nothing is on its way");
    assert!(string_in(&mut guard), "what is sealed is seen");
    let mut keys = guard.keyspace(0);
    let found = keys.find(b"string").unwrap();
    keys.delete(b"string", &found).unwrap();
    guard.commit();
    assert!(!string_in(&mut guard), "the open group lies above it");
    assert!(!guard.hand_over(), "a small group waits for the one before");
    assert_eq!(guard.leave_open(), Some(GroupNumber(2)));
    assert!(rig.committer.groups.outcome(GroupNumber(1)).is_none());
    assert_eq!(disk_position(rig.committer.disk()).unwrap().csn, Csn::ZERO);

    drop(logs_at_rest);
    outcome(&rig, 1).unwrap();
    rig.committer.write_soon();
    outcome(&rig, 2).unwrap();
    let mut guard = rig.committer.lock_writer();
    assert!(!string_in(&mut guard));
    assert_eq!(guard.leave_open(), None, "everything is settled");
    let csns: Vec<_> = rig.groups().iter().flat_map(|g| g.commits.to_vec()).map(|commit| commit.csn.0).collect();
    assert_eq!(csns, [1, 2]);
    rig.committer.stop_log_thread();
}

#[test]
fn a_turn_writes_what_is_on_its_way_before_it_begins() {
    let rig = Rig::new(AppendFsync::No);
    rig.committer.start_log_thread();
    for round in 1..=200 {
        let mut guard = rig.committer.lock_writer();
        change(&mut guard, true, true);
        guard.hand_over();
        change(&mut guard, false, true);
        assert!(guard.leave_open().is_some());
        let turn = rig.committer.lock_logs();
        assert_eq!(turn.position().csn, Csn(2 * round));
        assert_eq!(turn.cut_point().position.csn, Csn(2 * round));
    }
    rig.committer.stop_log_thread();
    assert_eq!(disk_position(rig.committer.disk()).unwrap().csn, Csn(399), "the last commit on disk");
}

#[test]
fn a_group_that_fails_on_its_way_fails_all_after_it() {
    let rig = Rig::new(AppendFsync::No);
    rig.committer.start_log_thread();
    rig.io.fail(Step::Write, Errno::IO);
    let mut guard = rig.committer.lock_writer();
    change(&mut guard, true, true);
    guard.hand_over();
    change(&mut guard, true, true);
    assert_eq!(guard.leave_open(), Some(GroupNumber(2)));
    outcome(&rig, 1).unwrap_err();
    rig.io.heal();
    rig.committer.write_open_group();
    outcome(&rig, 2).unwrap_err();
    rig.committer.stop_log_thread();
    assert_eq!(rig.obstacle(), Some(RefusalReason::Broken));
    let mut guard = rig.committer.lock_writer();
    let list = rig.committer.memory().get(b"list").unwrap().as_list().map(crate::engine::memory::List::len);
    assert!(list == Some(2) && string_in(&mut guard), "reads see the failed commits whole, in memory and on disk");
    assert_eq!(guard.leave_open(), None, "and wait for nothing");
    assert!(rig.groups().is_empty() && disk_position(rig.committer.disk()).unwrap().csn == Csn::ZERO);
}

#[test]
fn a_command_that_needs_a_new_segment_gets_it_while_groups_are_on_their_way() {
    let rig = Rig::new(AppendFsync::No);
    rig.committer.start_log_thread();
    let large = vec![7; 100 << 10];
    for _ in 0..20 {
        let mut guard = rig.committer.lock_writer();
        guard.reserve(large.len()).unwrap();
        guard.keyspace(0).change_in_memory(b"list", |ops| ops.push_back(b"list", [&large[..]].into_iter())).unwrap();
        guard.commit();
        guard.hand_over();
        let _ = guard.leave_open();
    }
    rig.committer.stop_log_thread();
    let (reader, until) = rig.committer.log_reader();
    assert_eq!(until.csn, Csn(20));
    assert_eq!(reader.commits(LogCursor::default(), until).unwrap().map(Result::unwrap).count(), 20);
}
