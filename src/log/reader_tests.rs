//! Both logs are read as one, densely, or there is an error.

use super::super::envelope;
use super::super::oplog::OpLog;
use super::super::testing::{chained, no_op, on_both, on_disk, on_list};
use super::*;
use crate::engine::disk::DiskOptions;
use crate::io::StdIo;
use std::path::Path;

/// Writes groups of commits to the logs to which they belong. Returns the end of the WAL after each group.
fn write(root: &Path, groups: &[Vec<CommitRecord>]) -> (LogReader, OpLog, Vec<WalSeq>) {
    let options = DiskOptions { cache_bytes: 1 << 20, ..DiskOptions::default() };
    let disk = Arc::new(Disk::open(&root.join("db"), &root.join("wal"), options).unwrap());
    let mut oplog = OpLog::open(Arc::new(StdIo), &root.join("oplog"), 1024).unwrap();
    let mut ends = Vec::new();
    for group in groups {
        oplog.append(group).unwrap();
        envelope::assemble(group, &[]).into_iter().for_each(|batch| disk.write(&batch, true).unwrap());
        ends.push(disk.wal_seq());
    }
    (LogReader::new(disk, oplog.reader()), oplog, ends)
}

fn at(csn: u64, wal_seq: WalSeq) -> LogCursor {
    LogCursor { csn: Csn(csn), wal_seq }
}

fn groups() -> Vec<Vec<CommitRecord>> {
    let groups = [
        vec![on_disk(1)],
        vec![on_list(2)],
        vec![on_both(3), on_list(4), on_disk(5), on_both(6)],
        vec![no_op(7)],
        vec![on_list(8), on_list(9)],
        vec![on_disk(10), on_list(11)],
    ];
    let mut all = chained(groups.concat()).into_iter();
    groups.iter().map(|group| all.by_ref().take(group.len()).collect()).collect()
}

/// Goal: if the logs hold two histories, the error names the first commit of the other history.
#[test]
fn a_commit_of_another_history_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut groups = groups();
    groups[2][2] = chained([on_disk(5)]).remove(0);
    let (reader, _oplog, ends) = write(dir.path(), &groups);
    let mut commits = reader.commits(LogCursor::default(), at(11, ends[5])).unwrap();
    assert_eq!(commits.by_ref().take(4).map(Result::unwrap).count(), 4);
    assert!(matches!(commits.next(), Some(Err(Error::OtherHistory { csn: Csn(5), .. }))));
}

fn read(reader: &LogReader, after: LogCursor, until: LogCursor) -> Result<Vec<CommitRecord>> {
    reader.commits(after, until)?.collect()
}

#[test]
fn the_union_is_dense_whatever_log_holds_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let groups = groups();
    let (reader, _oplog, ends) = write(dir.path(), &groups);
    let end = *ends.last().unwrap();
    let all: Vec<_> = groups.concat();
    for after in 0..=11 {
        // The end of the WAL before the commit's own group is always low enough, and so is the WAL's start.
        let group = groups.iter().position(|group| group.iter().any(|commit| commit.csn == Csn(after + 1)));
        let before = group.and_then(|group| group.checked_sub(1)).map_or(WalSeq::ZERO, |group| ends[group]);
        for wal_seq in [WalSeq::ZERO, before] {
            assert_eq!(read(&reader, at(after, wal_seq), at(11, end)).unwrap(), all[after as usize..], "{after}");
        }
    }
    assert_eq!(read(&reader, at(0, WalSeq::ZERO), at(4, ends[2])).unwrap(), all[..4], "a part of a group");
}

#[test]
fn a_commit_in_neither_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut groups = groups();
    groups[2].remove(1);
    let (reader, _oplog, ends) = write(dir.path(), &groups);
    let mut commits = reader.commits(LogCursor::default(), at(11, ends[5])).unwrap();
    assert_eq!(commits.by_ref().take(3).map(Result::unwrap).collect::<Vec<_>>(), groups.concat()[..3]);
    match commits.next() {
        Some(Err(Error::Gap { expected: Csn(4), found, .. })) => assert_eq!(found, "5"),
        other => panic!("{other:?}"),
    }
    assert!(commits.next().is_none());
    let beyond = read(&reader, at(9, ends[4]), at(12, ends[5])).unwrap_err();
    assert!(matches!(&beyond, Error::Gap { expected: Csn(12), found, .. } if found == "the end"), "{beyond}");
}

#[test]
fn what_a_recovery_left_out_of_a_commit_stays_out() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, mut oplog, ends) = write(dir.path(), &[vec![on_disk(1)]]);
    reader.disk.write(&envelope::assemble(&[on_both(2)], &[]).unwrap(), true).unwrap();
    oplog.append_in_place(&on_disk(2)).unwrap();
    let read = read(&reader, at(1, ends[0]), at(2, reader.disk.wal_seq())).unwrap();
    assert_eq!(read, [on_disk(2)]);
}
