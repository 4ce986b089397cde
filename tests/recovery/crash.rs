//! Crashes of a closed data directory: finds the ends of the records in its logs, and makes copies in which the logs
//! end earlier.
//!
//! Reads the bytes according to `FORMAT.md` and RocksDB's `db/log_format.h`, without the code under test.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use walferry::csn::Csn;

const SEGMENT_HEADER: usize = 64;
const WAL_BLOCK: usize = 32 << 10;
const WAL_RECORD_HEAD: usize = 7;

/// One record of a log: an op-log frame or a write batch.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub file: PathBuf,
    pub bytes: Range<usize>,
    /// Csns of the commits in the record; empty for the batch that RocksDB writes by itself.
    pub csns: Vec<Csn>,
}

/// The end of a log after a crash.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub file: PathBuf,
    pub at: usize,
    /// Number of whole records.
    pub whole: usize,
}

fn word(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Returns the files of a directory with this suffix, sorted by name.
pub(crate) fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == ending));
    files.sort();
    files
}

/// Returns the frames of the op-log.
pub(crate) fn frames(root: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    for file in files(&root.join("oplog"), "oplog") {
        let bytes = fs::read(&file).unwrap();
        let mut at = SEGMENT_HEADER;
        while at + 8 <= bytes.len() && word(&bytes, at) != 0 {
            let end = at + 8 + word(&bytes, at);
            records.push(Record { file: file.clone(), bytes: at..end, csns: vec![Csn(long(&bytes, at + 16))] });
            at = end;
        }
    }
    records
}

/// Returns the batches of the WAL files that are not archived.
pub(crate) fn batches(root: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    for file in files(&root.join("wal"), "log") {
        let bytes = fs::read(&file).unwrap();
        let (mut at, mut begin, mut batch) = (0, 0, Vec::new());
        while at + WAL_RECORD_HEAD <= bytes.len() {
            let left = WAL_BLOCK - at % WAL_BLOCK;
            if left < WAL_RECORD_HEAD {
                at += left;
                continue;
            }
            let length = usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
            let kind = bytes[at + 6];
            if kind == 1 || kind == 2 {
                (begin, batch) = (at, Vec::new());
            }
            at += WAL_RECORD_HEAD;
            batch.extend_from_slice(&bytes[at..at + length]);
            at += length;
            if kind == 1 || kind == 4 {
                records.push(Record { file: file.clone(), bytes: begin..at, csns: csns(&batch) });
            }
        }
    }
    records
}

/// Returns the csns of a batch's envelopes. No key and no value in these tests contains an envelope's magic.
fn csns(batch: &[u8]) -> Vec<Csn> {
    let is_envelope = |&at: &usize| batch[at..].starts_with(b"WFCM\x04");
    (0..batch.len()).filter(is_envelope).map(|at| Csn(long(batch, at + 10))).collect()
}

/// Returns cuts at the end of each of the last `last` records, before the first of them, and within every third.
pub(crate) fn cuts(records: &[Record], last: usize) -> Vec<Cut> {
    let first = records.len().saturating_sub(last);
    let mut cuts = Vec::new();
    for (nth, record) in records.iter().enumerate().skip(first) {
        let cut = |at: usize| Cut { file: record.file.clone(), at, whole: nth };
        let length = record.bytes.len();
        if nth == first || records[nth - 1].file != record.file {
            cuts.push(cut(record.bytes.start));
        }
        if nth % 3 == 0 {
            // A record whose last bytes are zeros is whole without them, because zeros follow in the file.
            let content = &fs::read(&record.file).unwrap()[record.bytes.clone()];
            let last_told = content.iter().rposition(|&byte| byte != 0).unwrap();
            let within = [3, length / 2, last_told][nth / 3 % 3];
            cuts.push(cut(record.bytes.start + within));
        }
        cuts.push(Cut { at: record.bytes.end, whole: nth + 1, ..cut(0) });
    }
    cuts
}

/// Returns the csns of the records that a cut leaves whole.
pub(crate) fn left(records: &[Record], whole: usize) -> impl Iterator<Item = Csn> {
    records[..whole].iter().flat_map(|record| record.csns.iter().copied())
}

/// Copies a data directory; in the copy the op-log is zero after one cut, and the WAL ends at the other.
pub(crate) fn crash(from: &Path, to: &Path, oplog: &Cut, wal: &Cut) {
    copy(from, to);
    let moved = |file: &Path| to.join(file.strip_prefix(from).unwrap());
    for later in files(&to.join("oplog"), "oplog").into_iter().filter(|file| *file > moved(&oplog.file)) {
        fs::remove_file(later).unwrap();
    }
    let mut bytes = fs::read(moved(&oplog.file)).unwrap();
    bytes[oplog.at..].fill(0);
    fs::write(moved(&oplog.file), bytes).unwrap();
    for later in files(&to.join("wal"), "log").into_iter().filter(|file| *file > moved(&wal.file)) {
        fs::remove_file(later).unwrap();
    }
    fs::File::options().write(true).open(moved(&wal.file)).unwrap().set_len(wal.at as u64).unwrap();
}

/// Copies a directory and what is below it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &name);
        } else {
            fs::copy(&path, &name).unwrap();
        }
    }
}

/// Changes bytes of a file.
pub(crate) fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}
