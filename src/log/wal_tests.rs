//! RocksDB's WAL is read over several files and at its end, with missing files, and after a power cut.

use super::super::testing::{on_both, on_disk};
use super::*;
use crate::engine::disk::DiskOptions;

fn open(root: &Path) -> Arc<Disk> {
    let options = DiskOptions { cache_bytes: 1 << 20, ..DiskOptions::default() };
    Arc::new(Disk::open(&root.join("db"), &root.join("wal"), options).unwrap())
}

fn write(disk: &Disk, commits: &[CommitRecord]) -> WalSeq {
    disk.write(&envelope::assemble(commits, &[]).unwrap(), true).unwrap();
    disk.wal_seq()
}

/// Makes three files with three batches each. Returns the end of each file, and the commits.
fn three_files(root: &Path) -> (Vec<WalSeq>, Vec<CommitRecord>) {
    let (mut ends, mut commits) = (Vec::new(), Vec::new());
    for file in 0..3 {
        let disk = open(root);
        for nth in 0..3 {
            let first = 1 + 2 * (3 * file + nth);
            let group = [on_disk(first), on_both(first + 1)];
            write(&disk, &group);
            commits.extend(group);
        }
        ends.push(disk.wal_seq());
    }
    (ends, commits)
}

fn read(disk: &Arc<Disk>, after: WalSeq, until: WalSeq) -> Result<Vec<CommitRecord>> {
    WalCommits::new(disk, after, until).collect()
}

#[test]
fn commits_come_back_over_files_and_at_the_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (ends, commits) = three_files(dir.path());
    let disk = open(dir.path());
    assert_eq!(read(&disk, WalSeq::ZERO, ends[2]).unwrap(), commits);
    assert_eq!(read(&disk, ends[0], ends[1]).unwrap(), commits[6..12]);
    assert_eq!(read(&disk, ends[2], ends[2]).unwrap(), []);
    let end = write(&disk, &[on_disk(19)]);
    assert_eq!(read(&disk, ends[2], end).unwrap(), [on_disk(19)]);
    let later = write(&disk, &[on_disk(20), on_disk(21)]);
    assert_eq!(read(&disk, end, later).unwrap(), [on_disk(20), on_disk(21)]);
}

#[test]
fn the_end_missing_is_a_gap_not_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let (ends, commits) = three_files(dir.path());
    let disk = open(dir.path());
    let mut reader = WalCommits::new(&disk, ends[1], WalSeq(ends[2].0 + 1));
    assert_eq!(reader.by_ref().take(6).map(Result::unwrap).collect::<Vec<_>>(), commits[12..]);
    assert!(matches!(reader.next(), Some(Err(Error::Gap { .. }))));
    assert!(reader.next().is_none());
}

#[test]
fn purging_removes_only_files_that_hold_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (ends, commits) = three_files(dir.path());
    let disk = open(dir.path());
    let archive = disk.wal_dir().join("archive");
    let archived = || list(&archive, true).unwrap().len();
    let before = bytes(disk.wal_dir());
    assert_eq!((archived(), purge(disk.wal_dir(), WalSeq(ends[0].0 - 1)).unwrap()), (3, 0));
    let freed = purge(disk.wal_dir(), ends[0]).unwrap();
    assert_eq!((archived(), bytes(disk.wal_dir())), (2, before - freed));
    assert_eq!(read(&disk, ends[0], ends[2]).unwrap(), commits[6..]);
    assert!(matches!(read(&disk, WalSeq::ZERO, ends[2]), Err(Error::Gap { .. })));
    // The last archived file stays until a younger file tells where it ends.
    purge(disk.wal_dir(), ends[2]).unwrap();
    assert_eq!(archived(), 1);
    let end = write(&disk, &[on_disk(19)]);
    purge(disk.wal_dir(), ends[2]).unwrap();
    assert_eq!(archived(), 0);
    assert_eq!(read(&disk, ends[2], end).unwrap(), [on_disk(19)]);
}

#[test]
fn a_file_gone_from_the_middle_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (ends, commits) = three_files(dir.path());
    let disk = open(dir.path());
    let mut files = list(&disk.wal_dir().join("archive"), true).unwrap();
    files.sort_by_key(|file| file.number);
    std::fs::remove_file(&files[1].path).unwrap();
    let mut reader = WalCommits::new(&disk, WalSeq::ZERO, ends[2]);
    assert_eq!(reader.by_ref().take(6).map(Result::unwrap).collect::<Vec<_>>(), commits[..6]);
    assert!(matches!(reader.next(), Some(Err(Error::Gap { .. }))));
    assert_eq!(read(&disk, ends[1], ends[2]).unwrap(), commits[12..]);
}

/// Makes a log file of batches with these sequences and lengths, each of one operation. `hole` names a block that is
/// left zero.
fn log_file(batches: &[(u64, usize)], hole: Option<usize>) -> (Vec<u8>, Vec<u64>) {
    let (mut out, mut starts) = (Vec::new(), Vec::new());
    for &(sequence, length) in batches {
        let mut batch = sequence.to_le_bytes().to_vec();
        batch.extend_from_slice(&1_u32.to_le_bytes());
        batch.resize(length, 7);
        let mut rest = &batch[..];
        let mut is_first = true;
        while is_first || !rest.is_empty() {
            let room = BLOCK - out.len() % BLOCK;
            if room < RECORD_HEAD {
                out.resize(out.len() + room, 0);
                continue;
            }
            let (now, later) = rest.split_at(rest.len().min(room - RECORD_HEAD));
            if is_first {
                starts.push(out.len() as u64);
            }
            let kind = match (is_first, later.is_empty()) {
                (true, true) => RECORD_FULL,
                (true, false) => RECORD_FIRST,
                (false, false) => 3,
                (false, true) => 4,
            };
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&(now.len() as u16).to_le_bytes());
            out.push(kind);
            out.extend_from_slice(now);
            (rest, is_first) = (later, false);
        }
    }
    if let Some(nth) = hole {
        out[nth * BLOCK..(nth + 1) * BLOCK].fill(0);
    }
    (out, starts)
}

#[test]
fn the_first_batch_above_the_end_is_found_whatever_lies_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000007.log");
    // The batches end 0, 3, 7 and 10 bytes before the end of a block: without room for a head, or with a head cut in
    // two.
    for spare in [0, 3, 7, 10] {
        let lengths = [BLOCK - RECORD_HEAD - spare, 9000, 50_000, 300, 20_000, 40_000];
        let batches: Vec<_> = lengths.iter().zip(10..).map(|(&length, sequence)| (sequence, length)).collect();
        let (bytes, starts) = log_file(&batches, None);
        std::fs::write(&path, &bytes).unwrap();
        for (nth, &(sequence, _)) in batches.iter().enumerate() {
            assert_eq!(first_above(&path, WalSeq(sequence - 1)).unwrap(), Some(starts[nth]), "{spare} {sequence}");
        }
        assert_eq!(first_above(&path, WalSeq(15)).unwrap(), None);
        assert_eq!(first_sequence(&path).unwrap(), Some(WalSeq(10)));
        // Only the first batch is whole; the next whole batch lies after the hole.
        let (bytes, starts) = log_file(&batches, Some(1));
        std::fs::write(&path, &bytes).unwrap();
        let first_behind = starts.iter().find(|&&start| start >= 2 * BLOCK as u64).unwrap();
        let found = first_above(&path, WalSeq(10)).unwrap().unwrap();
        assert!((starts[1]..=*first_behind).contains(&found), "{spare}: {found}");
    }
}

#[test]
fn arbitrary_files_have_no_batches_or_some_but_never_panic() {
    use rand::{RngExt, SeedableRng};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("000007.log");
    for seed in 0..50 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        let length = random.random_range(0..3 * BLOCK);
        let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
        std::fs::write(&path, &bytes).unwrap();
        first_above(&path, WalSeq(seed)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn only_files_before_the_last_are_cut() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    std::fs::create_dir_all(&archive).unwrap();
    let (whole, _) = log_file(&[(1, 100), (2, 100)], None);
    let (torn, starts) = log_file(&[(3, 100), (7, 100)], None);
    std::fs::write(archive.join("000004.log"), &whole).unwrap();
    std::fs::write(archive.join("000006.log"), &torn).unwrap();
    std::fs::write(dir.path().join("000009.log"), &torn).unwrap();
    assert_eq!(cut_above(dir.path(), WalSeq(3)).unwrap(), torn.len() as u64 - starts[1]);
    assert_eq!(std::fs::read(archive.join("000006.log")).unwrap(), torn[..starts[1] as usize]);
    assert_eq!(std::fs::read(archive.join("000004.log")).unwrap(), whole);
    assert_eq!(std::fs::read(dir.path().join("000009.log")).unwrap(), torn);
    assert_eq!(cut_above(dir.path(), WalSeq(3)).unwrap(), 0);
}
