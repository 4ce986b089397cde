//! Each step of the op-log fails in each way. Then every appended frame is there after a reopen, a refused append had
//! no effect, and the end of the log can be found.

use super::super::testing::on_list;
use super::*;
use crate::io::StdIo;
use crate::io::testing::{Case, FAULTS, each_step, scratch};

const SEGMENT_BYTES: u64 = 1024;
/// Frames of a run: enough for several segments.
const FRAMES: u64 = 36;
/// Csn up to which frames are purged during a run.
const PURGED: u64 = 12;
/// Bytes of a reservation that needs a new segment.
const LARGE: usize = 1000;

/// How many frames a run appended.
#[derive(Default)]
struct Told {
    appended: u64,
    /// Whether the last append failed, so that its frame may or may not be there.
    is_unsure: bool,
}

/// Fills an op-log as the committer does: reserves room, then appends a frame. Ends at the first append that fails.
fn fill(case: &Case, dir: &Path) -> Told {
    let mut told = Told::default();
    let Ok(mut log) = OpLog::open(case.io(), dir, SEGMENT_BYTES) else { return told };
    for csn in 1..=FRAMES {
        if let Some(spare) = log.wants_spare() {
            let _ = spare.prepare();
        }
        // A large command is refused; smaller ones may go on.
        let wanted = if csn % 5 == 0 { LARGE } else { 100 };
        if log.reserve(wanted).is_err() {
            assert_eq!(log.last(), Csn(told.appended), "a refusal has no effect");
            if log.is_broken() {
                assert!(log.reserve(1).is_err() && log.append(&[on_list(csn)]).is_err(), "nothing before a reopen");
                return told;
            }
            if !case.is_over() {
                log.reserve(wanted).expect("room again, as soon as nothing fails any more");
            }
        }
        if log.append(&[on_list(csn)]).is_err() {
            told.is_unsure = true;
            return told;
        }
        told.appended = csn;
        if csn % PURGED == 0 && log.purge_until(Csn(PURGED)).is_err() && !case.is_over() {
            log.purge_until(Csn(PURGED)).expect("purging goes on, as soon as nothing fails any more");
        }
    }
    assert!(case.is_over() || log.sealed.front().is_none_or(|oldest| oldest.last > Csn(PURGED)));
    told
}

/// Returns the csns of the frames in the log, from the first that was not purged.
fn frames(log: &OpLog) -> Vec<u64> {
    let after = if log.last() > Csn(PURGED) { Csn(PURGED) } else { Csn::ZERO };
    let commits = log.reader().commits(after, Csn(u64::MAX)).unwrap();
    commits.map(|commit| commit.unwrap().csn.0).collect()
}

/// Goal: a failing step, at whatever place, loses no appended frame, and no refused frame appears later.
#[test]
fn frames_survive_every_failing_step() {
    each_step(&FAULTS, |case| {
        let dir = scratch();
        let told = fill(case, dir.path());
        let mut log = OpLog::open(Arc::new(StdIo), dir.path(), SEGMENT_BYTES).unwrap();
        let last = log.last().0;
        let unsure = u64::from(told.is_unsure);
        assert!((told.appended..=told.appended + unsure).contains(&last), "{} appended, {last} there", told.appended);
        // Recovery does the same: it cuts off everything after the end for good.
        log.truncate_above(Csn(last)).unwrap();
        log.append(&[on_list(last + 1)]).unwrap();
        let first = if last >= PURGED { PURGED + 1 } else { 1 };
        assert_eq!(frames(&log), (first..=last + 1).collect::<Vec<_>>());
        drop(log);
        let log = OpLog::open(Arc::new(StdIo), dir.path(), SEGMENT_BYTES).unwrap();
        assert_eq!(log.last(), Csn(last + 1));
    });
}

/// Goal: a cut that failed half-way can be repeated, and no frame above it comes back.
#[test]
fn a_cut_that_failed_is_made_again() {
    const CUT: u64 = 9;
    each_step(&FAULTS, |case| {
        let dir = scratch();
        let mut log = OpLog::open(Arc::new(StdIo), dir.path(), SEGMENT_BYTES).unwrap();
        (1..=FRAMES).for_each(|csn| assert!(log.append(&[on_list(csn)]).unwrap() > 0));
        drop(log);
        let cut = OpLog::open(case.io(), dir.path(), SEGMENT_BYTES).and_then(|mut log| log.truncate_above(Csn(CUT)));
        assert_eq!(cut.is_err(), case.io.has_struck());
        let mut log = OpLog::open(Arc::new(StdIo), dir.path(), SEGMENT_BYTES).unwrap();
        assert!(log.last() >= Csn(CUT));
        log.truncate_above(Csn(CUT)).unwrap();
        log.append(&[on_list(CUT + 1)]).unwrap();
        drop(log);
        let log = OpLog::open(Arc::new(StdIo), dir.path(), SEGMENT_BYTES).unwrap();
        assert_eq!(frames(&log), (1..=CUT + 1).collect::<Vec<_>>());
    });
}
