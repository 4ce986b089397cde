//! Segments are created, filled, sealed, cut, purged and read, also when steps fail.

use super::super::testing::{no_op, on_both, on_disk, on_list};
use super::*;
use crate::io::StdIo;
use crate::io::testing::{Faults, Step};
use rustix::io::Errno;

const SEGMENT_BYTES: u64 = 1024;

fn open(io: &Arc<Faults>, dir: &Path) -> OpLog {
    OpLog::open(Arc::<Faults>::clone(io), dir, SEGMENT_BYTES).unwrap()
}

/// Returns an op-log with frames 1 to `last`, each appended on its own.
fn filled(io: &Arc<Faults>, dir: &Path, last: u64) -> OpLog {
    let mut log = open(io, dir);
    for csn in 1..=last {
        log.append(&[on_list(csn)]).unwrap();
    }
    log
}

fn read(log: &OpLog, after: u64, until: u64) -> Result<Vec<u64>> {
    let commits = log.reader().commits(Csn(after), Csn(until))?;
    commits.map(|commit| commit.map(|commit| commit.csn.0)).collect()
}

fn segments(dir: &Path) -> Vec<u32> {
    segment::list(&StdIo, dir).unwrap().into_iter().map(|id| id.0).collect()
}

#[test]
fn frames_come_back_over_segments_and_after_a_reopen() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    let log = filled(&io, dir.path(), 40);
    assert!(segments(dir.path()).len() > 3);
    let check = |log: &OpLog| {
        assert_eq!(log.last(), Csn(40));
        let all: Vec<_> = log.reader().commits(Csn::ZERO, Csn(40)).unwrap().map(Result::unwrap).collect();
        assert_eq!(all, (1..=40).map(on_list).collect::<Vec<_>>());
        assert_eq!(read(log, 17, 23).unwrap(), (18..=23).collect::<Vec<_>>());
        assert!(read(log, 40, u64::MAX).unwrap().is_empty());
    };
    check(&log);
    drop(log);
    let mut log = open(&io, dir.path());
    check(&log);
    log.append(&[on_list(41), on_disk(42), on_both(43), no_op(44)]).unwrap();
    assert_eq!(read(&log, 40, 44).unwrap(), [41, 43, 44], "a commit of the disk engines alone has no frame");
}

#[test]
fn a_frame_larger_than_a_segment_gets_one_of_its_own() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    let mut log = filled(&io, dir.path(), 1);
    let large = CommitRecord { disk: vec![7; 5000].into(), ..on_list(2) };
    log.append(std::slice::from_ref(&large)).unwrap();
    log.append(&[on_list(3)]).unwrap();
    drop(log);
    let log = open(&io, dir.path());
    let commits: Vec<_> = log.reader().commits(Csn::ZERO, Csn(3)).unwrap().map(Result::unwrap).collect();
    assert_eq!(commits, [on_list(1), large, on_list(3)]);
    assert_eq!(segments(dir.path()), [1, 2, 3]);
}

#[test]
fn purging_removes_whole_sealed_segments_and_leaves_a_gap_that_is_told() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    let mut log = filled(&io, dir.path(), 40);
    let before = log.bytes();
    assert_eq!(log.purge_until(Csn(1)).unwrap(), 0);
    let freed = log.purge_until(Csn(25)).unwrap();
    assert_eq!((freed > 0, log.bytes()), (true, before - freed));
    assert_eq!(read(&log, 25, 40).unwrap(), (26..=40).collect::<Vec<_>>());
    let gap = read(&log, 0, 40).unwrap_err();
    assert!(matches!(gap, Error::Gap { expected: Csn(1), .. }), "{gap}");
    log.purge_until(Csn(40)).unwrap();
    assert_eq!(segments(dir.path()).len(), 1, "the active segment stays");
    drop(log);
    assert_eq!(open(&io, dir.path()).last(), Csn(40));
}

#[test]
fn what_is_cut_off_never_comes_back() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    for cut in [0, 1, 5, 20, 38, 39] {
        let dir = dir.path().join(cut.to_string());
        let mut log = filled(&io, &dir, 40);
        log.truncate_above(Csn(cut)).unwrap();
        assert_eq!((log.last(), read(&log, 0, u64::MAX).unwrap()), (Csn(cut), (1..=cut).collect::<Vec<_>>()));
        drop(log);
        let mut log = open(&io, &dir);
        assert_eq!(log.last(), Csn(cut));
        // The frame is as long as the one that was cut off, so that the old frames after it would fit.
        log.append(&[on_list(cut + 1)]).unwrap();
        drop(log);
        assert_eq!(read(&open(&io, &dir), 0, u64::MAX).unwrap(), (1..=cut + 1).collect::<Vec<_>>());
    }
}

#[test]
fn a_spare_segment_is_wanted_once_and_used() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    let mut log = filled(&io, dir.path(), 1);
    assert!(log.wants_spare().is_none());
    for csn in 2..=7 {
        log.append(&[on_list(csn)]).unwrap();
    }
    log.wants_spare().expect("more than half is used").prepare().unwrap();
    assert!(log.wants_spare().is_none() && dir.path().join(SPARE).exists());
    io.fail(Step::Create, Errno::NOSPC);
    for csn in 8..=15 {
        log.append(&[on_list(csn)]).unwrap();
    }
    assert!(!dir.path().join(SPARE).exists());
    assert_eq!((segments(dir.path()), read(&log, 0, 15).unwrap().len()), (vec![1, 2], 15));
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    let mut log = filled(&io, dir.path(), 3);
    for step in [Step::Create, Step::Write, Step::Rename] {
        io.fail(step, Errno::NOSPC);
        log.reserve(2000).unwrap_err();
        assert!(!log.is_broken(), "{step:?}");
        io.heal();
        assert_eq!(read(&log, 0, 9).unwrap(), [1, 2, 3], "{step:?}");
    }
    log.reserve(2000).unwrap();
    log.append(&[on_list(4)]).unwrap();
    drop(log);
    assert_eq!(read(&open(&io, dir.path()), 0, 9).unwrap(), [1, 2, 3, 4]);
}

#[test]
fn a_failed_sync_ends_the_op_log() {
    for step in [Step::Sync, Step::SyncDir] {
        let (dir, io) = (tempfile::tempdir().unwrap(), Arc::<Faults>::default());
        let mut log = filled(&io, dir.path(), 7);
        log.wants_spare().unwrap().prepare().unwrap();
        io.fail(step, Errno::IO);
        log.reserve(600).unwrap_err();
        assert!(log.is_broken());
        io.heal();
        log.reserve(1).unwrap_err();
        log.append(&[on_list(8)]).unwrap_err();
        drop(log);
        let mut log = open(&io, dir.path());
        assert_eq!(read(&log, 0, 9).unwrap(), (1..=7).collect::<Vec<_>>(), "{step:?}");
        log.append(&[on_list(8)]).unwrap();
    }
}

#[test]
fn a_failed_append_leaves_the_end_where_it_was() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    let mut log = filled(&io, dir.path(), 2);
    io.fail(Step::Write, Errno::IO);
    log.append(&[on_list(3)]).unwrap_err();
    io.heal();
    assert_eq!((log.last(), read(&log, 0, 9).unwrap()), (Csn(2), vec![1, 2]));
}

#[test]
fn headers_tell_epoch_and_durable_watermark() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    let mut log = filled(&io, dir.path(), 2);
    log.set_epoch(Epoch(4));
    log.note_durable(Csn(2));
    log.note_durable(Csn(1));
    log.reserve(2000).unwrap();
    drop(log);
    assert_eq!(open(&io, dir.path()).durable_told(), Csn(2));
    let header = Segment::read(&StdIo, dir.path(), SegmentId(2)).unwrap().header;
    assert_eq!(header, SegmentHeader { id: SegmentId(2), epoch: Epoch(4), previous: Csn(2), durable: Csn(2) });
}

#[test]
fn rot_met_while_reading_is_an_error_that_names_the_file() {
    let (dir, io) = (tempfile::tempdir().unwrap(), Arc::default());
    let log = filled(&io, dir.path(), 40);
    let path = segment::path(dir.path(), SegmentId(2));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[HEADER_LEN + 100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = read(&log, 0, 40).unwrap_err();
    assert!(
        matches!(error, Error::Corrupt { .. }) && error.to_string().contains(&path.display().to_string()),
        "{error}"
    );
    let error = OpLog::open(Arc::new(StdIo), dir.path(), SEGMENT_BYTES).unwrap_err();
    assert!(error.to_string().contains(&path.display().to_string()), "{error}");
}
