//! Each step of the op-log and of its syncs fails in each way, in each durability mode. Then every acknowledged commit
//! is there after a reopen; a refused commit had no effect, or the node has stopped writing; no commit is torn; csns
//! are dense.

use super::super::guards::LogsGuard;
use super::tests::Rig;
use super::*;
use crate::config::AppendFsync;
use crate::csn::Epoch;
use crate::engine::keyspace::Found;
use crate::io::testing::{Case, FAULTS, Faults, Step, each_step, scratch};
use crate::log::testing::{chained, on_both, on_list};
use rustix::io::Errno;
use tempfile::TempDir;

/// Commits of a run: enough for the op-log to begin a second segment.
const COMMITS: u64 = 14;
/// Bytes of each pushed element.
const ELEMENT_BYTES: usize = 24 << 10;

/// Kinds of commits in turn, as (on disk, in memory): both, disk only, memory only.
const KINDS: [(bool, bool); 3] = [(true, true), (true, false), (false, true)];

/// How many commits a run acknowledged and tried.
#[derive(Default)]
struct Told {
    acknowledged: u64,
    /// The last commit that was written, or that failed while it was written.
    attempted: u64,
}

fn kind(csn: u64) -> (bool, bool) {
    KINDS[csn as usize % KINDS.len()]
}

/// Makes the effects of commit `csn`; they differ for each csn.
fn change(turn: &mut LogsGuard<'_>, csn: u64) {
    let (sets, pushes) = kind(csn);
    let mut keys = turn.keyspace(0);
    if sets {
        keys.put_string(b"string", csn.to_string().as_bytes(), 0).unwrap();
    }
    if pushes {
        let mut element = csn.to_string().into_bytes();
        element.resize(ELEMENT_BYTES, b' ');
        keys.change_in_memory(b"list", |ops| ops.push_back(b"list", [&element[..]].into_iter())).unwrap();
    }
    turn.commit().unwrap();
}

/// Returns the content of the engines: the string, and the numbers in the list.
fn state(rig: &Rig) -> (Option<String>, Vec<u64>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().trim().to_owned();
    let mut turn = rig.committer.lock_logs();
    let number = |element: &[u8]| text(element).trim_start_matches("element ").parse().unwrap();
    let list = rig
        .committer
        .memory()
        .get(b"list")
        .map_or_else(Vec::new, |slot| slot.as_list().unwrap().iter_from(0).map(number).collect());
    let string = match turn.keyspace(0).find(b"string").unwrap() {
        Found::String(value) => Some(text(&value.bytes())),
        _ => None,
    };
    (string, list)
}

/// Returns the content that the engines must have after the first `csn` commits.
fn expected(csn: u64) -> (Option<String>, Vec<u64>) {
    let string = (1..=csn).rev().find(|&csn| kind(csn).0).map(|csn| csn.to_string());
    (string, (1..=csn).filter(|&csn| kind(csn).1).collect())
}

fn acknowledged(rig: &Rig, csn: Csn) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(rig.committer.syncer.acknowledged(csn))
}

/// Makes commits until one is refused or all are made.
fn run(case: &Case, mode: AppendFsync, dir: &Arc<TempDir>) -> Told {
    let mut told = Told::default();
    let Ok(rig) = Rig::open(mode, Arc::clone(&case.io), dir) else { return told };
    for csn in 1..=COMMITS {
        let mut turn = rig.committer.lock_logs();
        if let Some(spare) = turn.oplog().wants_spare() {
            let _ = spare.prepare();
        }
        if turn.reserve(ELEMENT_BYTES).is_err() {
            let (obstacle, position) = (rig.obstacle(), turn.position().csn);
            drop(turn);
            assert_eq!(position, Csn(told.attempted), "a refusal has no effect");
            if obstacle == Some(RefusalReason::Broken) || case.is_over() {
                break;
            }
            assert_eq!(obstacle, Some(RefusalReason::DiskFull));
            rig.committer.look_for_room(rig.dir(), 0);
            turn = rig.committer.lock_logs();
            turn.reserve(ELEMENT_BYTES).expect("writes are taken as soon as nothing fails any more");
        }
        change(&mut turn, csn);
        told.attempted = csn;
        let written = turn.write();
        drop(turn);
        if written.is_err() || acknowledged(&rig, Csn(csn)).is_err() {
            assert_eq!(rig.obstacle(), Some(RefusalReason::Broken), "a write that failed half-way is the last");
            break;
        }
        told.acknowledged = csn;
    }
    if rig.obstacle() == Some(RefusalReason::Broken) {
        check_broken(&rig, case.io.left_unsynced(".oplog"));
    } else {
        assert_eq!(told.acknowledged, told.attempted);
    }
    told
}

/// Checks that a node which has stopped writing does not start again when the disk heals, says what to do, and raises
/// no watermark.
fn check_broken(rig: &Rig, is_unsynced: bool) {
    rig.io.heal();
    rig.committer.look_for_room(rig.dir(), 0);
    let reason = rig.committer.gate.reason(RefusalReason::Broken).expect("it stands");
    assert!(reason.contains("until a restart") && reason.contains("carry out a step on"), "{reason}");
    let durable = rig.committer.watermarks.durable.get();
    let mut turn = rig.committer.lock_logs();
    if turn.reserve(0).is_ok() {
        tests::change(&mut turn.guard, true, true);
        turn.write().unwrap_err();
    }
    turn.apply([on_list(turn.position().csn.0 + 1)].into()).unwrap_err();
    drop(turn);
    rig.committer.syncer.stop();
    if is_unsynced {
        assert_eq!(rig.committer.watermarks.durable.get(), durable, "nothing is called durable after a failed sync");
    }
}

/// Opens the directory on files that do not fail and compares the content with `told`.
fn check(dir: &Arc<TempDir>, told: &Told) {
    let rig = Rig::open(AppendFsync::No, Arc::default(), dir).unwrap();
    let csn = rig.recovered.position.csn.0;
    assert!(
        (told.acknowledged..=told.attempted).contains(&csn),
        "{csn} of {} to {}",
        told.acknowledged,
        told.attempted
    );
    assert!(rig.recovered.lost.is_empty() && rig.recovered.unfit.is_empty());
    assert_eq!(state(&rig), expected(csn), "at csn {csn}");
    let (reader, until) = rig.committer.log_reader();
    let commits = reader.commits(LogCursor::default(), until).unwrap().map(|commit| commit.unwrap().csn.0);
    assert_eq!(commits.collect::<Vec<_>>(), (1..=csn).collect::<Vec<_>>());
    let mut turn = rig.committer.lock_logs();
    turn.reserve(ELEMENT_BYTES).unwrap();
    change(&mut turn, csn + 1);
    assert_eq!(turn.write().unwrap(), Some(Csn(csn + 1)));
}

fn each_step_under(mode: AppendFsync) {
    each_step(&FAULTS, |case| {
        let dir = Arc::new(scratch());
        let told = run(case, mode, &dir);
        assert!(case.io.has_struck() || told.acknowledged == COMMITS);
        check(&dir, &told);
    });
}

/// Goal: under `always` no acknowledged commit is lost, whichever step fails.
#[test]
fn always_survives_every_failing_step() {
    each_step_under(AppendFsync::Always);
}

/// Goal: under `everysec` no acknowledged commit is lost, whichever step fails, as long as the machine stays up.
#[test]
fn everysec_survives_every_failing_step() {
    each_step_under(AppendFsync::EverySec);
}

/// Goal: under `no` no acknowledged commit is lost, whichever step fails, as long as the machine stays up.
#[test]
fn no_survives_every_failing_step() {
    each_step_under(AppendFsync::No);
}

/// Goal: a replica whose op-log cannot grow refuses a group before the group has any effect, and applies the same
/// group once there is room.
#[test]
fn a_replica_without_room_applies_nothing_and_goes_on_later() {
    let rig = Rig::new(AppendFsync::No);
    rig.io.fail(Step::Create, Errno::NOSPC);
    let group: Arc<[CommitRecord]> = chained([on_both(1), on_list(2)]).into();
    let error = rig.committer.lock_logs().apply(Arc::clone(&group)).unwrap_err();
    assert!(error.to_string().contains("Free space"), "{error}");
    assert_eq!(rig.obstacle(), Some(RefusalReason::DiskFull));
    assert_eq!(state(&rig), (None, Vec::new()), "nothing is applied");
    rig.io.heal();
    rig.committer.lock_logs().apply(Arc::clone(&group)).unwrap_err();
    rig.committer.look_for_room(rig.dir(), 0);
    assert_eq!(rig.committer.lock_logs().apply(group).unwrap(), Csn(2));
}

/// Goal: a recovery that fails half-way loses nothing and can be repeated, whichever step of it fails.
#[test]
fn recovery_survives_every_failing_step() {
    each_step(&FAULTS, |case| {
        let dir = Arc::new(scratch());
        let rig = Rig::open(AppendFsync::No, Arc::<Faults>::default(), &dir).unwrap();
        for csn in 1..=6 {
            let mut turn = rig.committer.lock_logs();
            change(&mut turn, csn);
            turn.write().unwrap();
        }
        let mut turn = rig.committer.lock_logs();
        let before = turn.position().hash;
        let oplog = turn.oplog();
        // A cross-engine commit that RocksDB lacks, and a commit after a hole, which recovery must cut off.
        let mut redone = CommitRecord { csn: Csn(7), epoch: Epoch::ZERO, ..on_both(7) };
        crate::record::chain(before, [&mut redone]);
        oplog.append(&[redone, on_list(9)]).unwrap();
        drop(turn);
        drop(rig);
        let recovered = Rig::open(AppendFsync::No, Arc::clone(&case.io), &dir).map(|rig| rig.recovered.clone());
        assert_eq!(recovered.is_err(), case.io.has_struck());
        let rig = Rig::open(AppendFsync::No, Arc::default(), &dir).unwrap();
        assert_eq!((rig.recovered.position.csn, rig.recovered.lost.len()), (Csn(7), 0));
        assert_eq!(rig.committer.lock_logs().oplog().last(), Csn(7));
        let (string, list) = state(&rig);
        assert_eq!((string.as_deref(), list), (Some("value 7"), [expected(6).1, vec![7]].concat()));
    });
}

/// Goal: if there is no room for a later one of several commits under one lock guard, as expiry makes them, the
/// commits before it are written; writes are taken again once there is room.
#[test]
fn a_turn_that_runs_out_of_room_has_written_what_it_did() {
    for error in [Errno::NOSPC, Errno::IO] {
        let rig = Rig::new(AppendFsync::No);
        let expire_all = || -> Result<()> {
            let mut turn = rig.committer.lock_logs();
            for csn in 1..=COMMITS {
                turn.reserve(ELEMENT_BYTES)?;
                change(&mut turn, csn);
            }
            turn.write().map(drop)
        };
        rig.committer.lock_logs().reserve(2 * ELEMENT_BYTES).unwrap();
        rig.io.fail(Step::Create, error);
        let refusal = expire_all().unwrap_err().to_string();
        assert!(refusal.contains("the op-log cannot grow"), "{refusal}");
        assert_eq!(rig.obstacle(), Some(RefusalReason::DiskFull), "{refusal}");
        let written = rig.committer.lock_logs().position().csn.0;
        assert!((1..COMMITS).contains(&written), "{written}");
        assert_eq!(rig.committer.watermarks.committed.get(), Csn(written));
        assert_eq!(state(&rig), expected(written));
        rig.io.heal();
        rig.committer.look_for_room(rig.dir(), 0);
        assert_eq!(rig.obstacle(), None);
        let mut turn = rig.committer.lock_logs();
        turn.reserve(ELEMENT_BYTES).unwrap();
        change(&mut turn, written + 1);
        assert_eq!(turn.write().unwrap(), Some(Csn(written + 1)));
    }
}

/// Goal: effects of a command that ended half-way, without a commit, stop writes: they are in memory and would be
/// lost.
#[test]
fn effects_without_a_commit_stop_writes() {
    let rig = Rig::new(AppendFsync::No);
    {
        let mut turn = rig.committer.lock_logs();
        change(&mut turn, 1);
        turn.keyspace(0).put_string(b"string", b"half-way", 0).unwrap();
    }
    assert_eq!(rig.obstacle(), Some(RefusalReason::Broken));
}

/// Goal: a group that follows a lost group is never logged.
#[test]
#[should_panic(expected = "dense csn order")]
fn commits_behind_a_hole_are_not_logged() {
    let rig = Rig::new(AppendFsync::No);
    let disk = Arc::clone(rig.committer.disk());
    let _ = rig.committer.lock_logs().logs.write(&disk, &[on_both(2)], &[], Rows::Store);
}
