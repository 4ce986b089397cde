//! When commits become durable in each mode, and the effect of a failed sync.

use super::super::committer::tests::{Rig, change};
use super::*;
use crate::io::testing::{Faults, Step};
use rustix::io::Errno;

/// Timeout, far longer than any wait in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.expect("within the patience of a test")
}

fn commit(rig: &Rig, sets: bool, pushes: bool) -> Csn {
    let mut turn = rig.committer.lock_logs();
    change(&mut turn.guard, sets, pushes);
    turn.write().unwrap().unwrap()
}

fn told(rig: &Rig) -> Durable {
    DurableFile::open(Arc::new(Faults::default()), &rig.dir().join("oplog")).unwrap().1
}

#[tokio::test]
async fn always_replies_after_both_logs_are_synced() {
    let rig = Rig::new(AppendFsync::Always);
    for (sets, pushes) in [(true, false), (false, true), (true, true)] {
        let csn = commit(&rig, sets, pushes);
        soon(rig.committer.syncer.acknowledged(csn)).await.unwrap();
        assert!(rig.committer.watermarks.durable.get() >= csn);
        assert_eq!(rig.committer.syncer.shippable(), csn);
    }
}

#[tokio::test]
async fn everysec_replies_at_once_and_syncs_within_its_interval() {
    let rig = Rig::new(AppendFsync::EverySec);
    let csn = commit(&rig, true, true);
    soon(rig.committer.syncer.acknowledged(csn)).await.unwrap();
    assert_eq!(rig.committer.syncer.shippable(), csn);
    let started = Instant::now();
    soon(rig.committer.watermarks.durable.reached(csn)).await;
    assert!(started.elapsed() < 3 * SYNC_INTERVAL);
}

#[test]
fn stopping_syncs_what_is_left_and_marks_it() {
    let rig = Rig::new(AppendFsync::No);
    rig.committer.lock_logs().set_epoch(crate::csn::Epoch(3));
    let csn = commit(&rig, true, true);
    assert_eq!((rig.committer.watermarks.durable.get(), told(&rig).csn), (Csn::ZERO, Csn::ZERO));
    rig.committer.syncer.stop();
    assert_eq!(rig.committer.watermarks.durable.get(), csn);
    assert_eq!(told(&rig), Durable { csn, epoch: crate::csn::Epoch(3) });
}

#[tokio::test]
async fn always_syncs_at_once_where_that_is_quick_and_the_thread_marks_it() {
    let rig = Rig::new(AppendFsync::Always);
    let mut csn = Csn::ZERO;
    for (sets, pushes) in [(true, false), (false, true), (true, true)] {
        rig.committer.syncer.is_quick.store(true, Ordering::Relaxed);
        csn = commit(&rig, sets, pushes);
        assert_eq!(rig.committer.watermarks.durable.get(), csn, "without waiting for another thread");
    }
    let marked = async {
        while told(&rig).csn < csn {
            tokio::time::sleep(SYNC_POLL).await;
        }
    };
    soon(marked).await;
}

#[tokio::test]
async fn a_slow_sync_is_waited_for_once_and_then_left_to_the_thread() {
    let rig = Rig::new(AppendFsync::Always);
    let syncer = &rig.committer.syncer;
    syncer.is_quick.store(true, Ordering::Relaxed);
    let running = syncer.synced.lock();
    let csn = commit(&rig, true, true);
    assert!(!syncer.is_quick.load(Ordering::Relaxed) && rig.committer.watermarks.durable.get() < csn);
    drop(running);
    soon(syncer.acknowledged(csn)).await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_refuses_writes_and_fails_who_waits() {
    for is_quick in [false, true] {
        a_failed_sync_refuses_writes(is_quick).await;
    }
}

async fn a_failed_sync_refuses_writes(is_quick: bool) {
    let rig = Rig::new(AppendFsync::Always);
    let first = commit(&rig, false, true);
    soon(rig.committer.syncer.acknowledged(first)).await.unwrap();
    rig.io.fail(Step::Sync, Errno::IO);
    rig.committer.syncer.is_quick.store(is_quick, Ordering::Relaxed);
    let lost = commit(&rig, true, true);
    let error = soon(rig.committer.syncer.acknowledged(lost)).await.unwrap_err();
    assert!(matches!(error, Error::NeedsRestart { .. }), "{error}");
    assert_eq!((rig.obstacle(), rig.committer.watermarks.durable.get()), (Some(RefusalReason::Broken), first));
    rig.io.heal();
    let mut turn = rig.committer.lock_logs();
    change(&mut turn.guard, true, false);
    assert!(matches!(turn.write(), Err(Error::NeedsRestart { .. })), "healed or not");
    drop(turn);
    soon(rig.committer.syncer.acknowledged(lost)).await.unwrap_err();
    soon(rig.committer.syncer.acknowledged(first)).await.unwrap();
    rig.committer.syncer.stop();
    assert!(told(&rig).csn <= first, "nothing is marked that was not synced");
}

#[tokio::test]
async fn who_waits_for_a_mode_that_ends_is_not_forgotten() {
    for mode in [AppendFsync::EverySec, AppendFsync::No] {
        let rig = Rig::new(AppendFsync::No);
        let csn = commit(&rig, true, true);
        // The wait begins under `always`, before the sync thread has seen that mode.
        rig.committer.syncer.mode.store(AppendFsync::Always as u8, Ordering::Relaxed);
        let mut wait = std::pin::pin!(rig.committer.syncer.acknowledged(csn));
        assert!(futures::poll!(&mut wait).is_pending());
        rig.committer.syncer.set_mode(mode);
        soon(wait).await.unwrap();
        assert_eq!(rig.committer.syncer.mode(), mode);
    }
}

#[test]
fn a_sync_that_is_asked_for_is_done_in_every_mode_or_fails() {
    for mode in [AppendFsync::Always, AppendFsync::EverySec, AppendFsync::No] {
        let rig = Rig::new(mode);
        let csn = commit(&rig, true, true);
        rig.committer.syncer.sync_until(csn).unwrap();
        assert!(rig.committer.watermarks.durable.get() >= csn);
        rig.committer.syncer.sync_until(csn).unwrap();
    }
    let rig = Rig::new(AppendFsync::No);
    commit(&rig, true, true);
    rig.io.fail(Step::Sync, Errno::IO);
    let csn = commit(&rig, true, true);
    rig.committer.syncer.sync_until(csn).unwrap_err();
}
