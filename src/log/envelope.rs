//! The batch envelope: the form of commits in RocksDB's WAL.
//!
//! A write batch carries one or more commits. Each commit begins with LogData, the envelope: its position and, if it
//! touches the keys in memory too, their ops. The last operation of the batch puts the system key `csn`. So a batch
//! never counts zero operations, every checkpoint holds its own csn, and applying is exactly-once. An operation that a
//! later one in the batch undoes is LogData, too: the log holds it, but the memtables need not. `FORMAT.md` gives the
//! bytes.

use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::engine::batch::{self, Family, HEADER_LEN, Record, Records};
use crate::engine::key::CSN_KEY;
use crate::error::{Error, Result};
use crate::position::Position;
use crate::record::CommitRecord;
use bytes::Bytes;
use std::ops::Range;

const MAGIC: [u8; 4] = *b"WFCM";
const VERSION: u8 = 4;
/// First bytes of LogData that is a superseded operation.
const MAGIC_SUPERSEDED: [u8; 4] = *b"WFSO";
/// Bytes of an envelope before the memory ops.
const ENVELOPE_HEAD: usize = 4 + 1 + 1 + 4 + 8 + 8 + 8 + 4 + 4;
/// Bytes that a superseded operation takes beyond its own, at most: tag, length and magic.
const SUPERSEDED_HEAD_MAX: usize = 1 + 5 + 4;

/// Assembles the write batch of those commits of a group that touch the disk engines. Returns `None` if none does.
///
/// `superseded` gives the byte ranges, ascending, of records whose key a later record puts or deletes. The ranges
/// count through the disk records of all commits, one after the other.
#[must_use]
pub fn assemble(commits: &[CommitRecord], superseded: &[Range<usize>]) -> Option<Vec<u8>> {
    let last = commits.iter().rfind(|commit| commit.touches_disk())?;
    let bytes: usize = commits.iter().filter(|c| c.touches_disk()).map(|c| c.effect_bytes() + ENVELOPE_HEAD + 8).sum();
    let mut out = Vec::with_capacity(HEADER_LEN + bytes + superseded.len() * SUPERSEDED_HEAD_MAX + 64);
    out.resize(HEADER_LEN, 0);
    let mut operations = 0;
    let mut scratch = Vec::with_capacity(ENVELOPE_HEAD);
    let mut superseded = superseded.iter().peekable();
    // Offset of the commit's records among those of all commits.
    let mut start = 0;
    for commit in commits.iter().filter(|commit| commit.touches_disk()) {
        let end = start + commit.disk.len();
        scratch.clear();
        push_envelope(&mut scratch, commit);
        batch::push_log_data(&mut out, &scratch);
        operations += commit.disk_ops;
        let mut copied = start;
        while let Some(record) = superseded.next_if(|record| record.start < end) {
            out.extend_from_slice(&commit.disk[copied - start..record.start - start]);
            scratch.clear();
            scratch.extend_from_slice(&MAGIC_SUPERSEDED);
            scratch.extend_from_slice(&commit.disk[record.start - start..record.end - start]);
            batch::push_log_data(&mut out, &scratch);
            operations -= 1;
            copied = record.end;
        }
        out.extend_from_slice(&commit.disk[copied - start..]);
        start = end;
    }
    batch::push_put(&mut out, Family::Default, CSN_KEY, &Position::of(last).encode());
    out[8..HEADER_LEN].copy_from_slice(&(operations + 1).to_le_bytes());
    Some(out)
}

/// Returns the number of operations of a batch, by which RocksDB's sequence advances.
#[must_use]
pub fn operations(batch: &[u8]) -> u32 {
    u32::from_le_bytes(batch[8..HEADER_LEN].try_into().expect("four bytes"))
}

fn push_envelope(out: &mut Vec<u8>, commit: &CommitRecord) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, 0]);
    out.extend_from_slice(&commit.epoch.0.to_le_bytes());
    out.extend_from_slice(&commit.csn.0.to_le_bytes());
    out.extend_from_slice(&commit.time.0.to_le_bytes());
    out.extend_from_slice(&commit.hash.0.to_le_bytes());
    out.extend_from_slice(&commit.disk_ops.to_le_bytes());
    let len = u32::try_from(commit.memory.len()).expect("effects of a commit are bounded below 4 GiB");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&commit.memory);
}

/// Splits a write batch from the WAL into its commits. Effects are slices of `batch`, except the disk records of a
/// commit of which some are superseded.
pub fn disassemble(batch: &Bytes) -> Result<Vec<CommitRecord>> {
    if batch.len() < HEADER_LEN {
        return Err(Error::corrupt(
            "write batch",
            "header",
            format!("{} bytes instead of {HEADER_LEN} or more", batch.len()),
        ));
    }
    let body = batch.slice(HEADER_LEN..);
    let mut commits: Vec<CommitRecord> = Vec::new();
    let mut records = Records::new(&body);
    // Offset of the commit's records, or of those after its last superseded record.
    let mut start = 0;
    // The commit's records before `start`.
    let mut before: Vec<u8> = Vec::new();
    let mut found = 0;
    let mut position = None;
    loop {
        let at = records.offset();
        let record = records.next().transpose()?;
        let superseded = match record {
            Some(Record::LogData(bytes)) => bytes.strip_prefix(&MAGIC_SUPERSEDED),
            _ => None,
        };
        let is_position = matches!(record, Some(Record::Put(Family::Default, CSN_KEY, _)));
        let ends = is_position || superseded.is_none() && matches!(record, None | Some(Record::LogData(_)));
        if let Some(commit) = commits.last_mut()
            && ends
            && position.is_none()
        {
            commit.disk = if before.is_empty() {
                body.slice(start..at)
            } else {
                before.extend_from_slice(&body[start..at]);
                std::mem::take(&mut before).into()
            };
            expect_operations(commit, found)?;
        }
        match record {
            None => break,
            Some(_) if position.is_some() => {
                return Err(Error::corrupt("write batch", at, "continues after its csn key"));
            }
            Some(Record::LogData(_))
                if let Some(operation) = superseded
                    && !commits.is_empty() =>
            {
                batch::validate(operation, 1)?;
                before.extend_from_slice(&body[start..at]);
                before.extend_from_slice(operation);
                (start, found) = (records.offset(), found + 1);
            }
            Some(Record::LogData(bytes)) => {
                commits.push(parse_envelope(&body.slice_ref(bytes))?);
                (start, found) = (records.offset(), 0);
            }
            Some(Record::Put(Family::Default, CSN_KEY, value)) => position = Some(Position::decode(value)?),
            Some(_) if commits.is_empty() => {
                return Err(Error::corrupt("write batch", at, "has an operation before its first envelope"));
            }
            Some(_) => found += 1,
        }
    }
    let last = commits.last().map(Position::of);
    if last.is_none() || position != last {
        return Err(Error::corrupt(
            "write batch",
            "end",
            format!("the csn key states {position:?}, but the last envelope states {last:?}"),
        ));
    }
    Ok(commits)
}

fn expect_operations(commit: &CommitRecord, found: u32) -> Result<()> {
    if commit.disk_ops == found {
        return Ok(());
    }
    let detail = format!("announces {} operations, but holds {found}", commit.disk_ops);
    Err(Error::corrupt("WAL envelope", format!("csn {}", commit.csn), detail))
}

fn parse_envelope(bytes: &Bytes) -> Result<CommitRecord> {
    let corrupt = |detail: String| Error::corrupt("WAL envelope", "head", detail);
    let Some((head, _)) = bytes.split_first_chunk::<ENVELOPE_HEAD>() else {
        return Err(corrupt(format!("{} bytes instead of {ENVELOPE_HEAD} or more", bytes.len())));
    };
    if head[..4] != MAGIC {
        return Err(corrupt(format!("has the magic {:02x?} instead of {MAGIC:02x?}", &head[..4])));
    }
    if head[4] != VERSION {
        return Err(Error::Version { what: "WAL envelope".into(), found: head[4].into(), known: VERSION.into() });
    }
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let memory = word(38) as usize;
    if ENVELOPE_HEAD.checked_add(memory) != Some(bytes.len()) {
        return Err(corrupt(format!("the length {memory} does not fill {} bytes", bytes.len())));
    }
    Ok(CommitRecord {
        epoch: Epoch(word(6)),
        csn: Csn(long(10)),
        time: CommitTime(long(18)),
        hash: HistoryHash(long(26)),
        disk_ops: word(34),
        disk: Bytes::new(),
        memory: bytes.slice(ENVELOPE_HEAD..),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commit(csn: u64, puts: &[(Vec<u8>, Vec<u8>)], memory: Vec<u8>) -> CommitRecord {
        let mut disk = Vec::new();
        for (key, value) in puts {
            batch::push_put(&mut disk, Family::Sub, key, value);
        }
        CommitRecord {
            csn: Csn(csn),
            epoch: Epoch(3),
            time: CommitTime(1000 + csn),
            hash: HistoryHash(csn << 40 | 7),
            disk_ops: puts.len() as u32,
            disk: disk.into(),
            memory: memory.into(),
        }
    }

    /// Returns the byte ranges of the records of some commits.
    fn places(commits: &[CommitRecord]) -> Vec<Range<usize>> {
        let all: Vec<u8> = commits.iter().flat_map(|commit| commit.disk.iter().copied()).collect();
        let mut records = Records::new(&all);
        let mut start = 0;
        let mut place = || {
            records.next()?.unwrap();
            Some(std::mem::replace(&mut start, records.offset())..records.offset())
        };
        std::iter::from_fn(&mut place).collect()
    }

    proptest! {
        #[test]
        fn commits_survive_the_wal(
            groups in proptest::collection::vec((proptest::collection::vec(any::<(Vec<u8>, Vec<u8>)>(), 1..4), any::<Vec<u8>>()), 1..6),
            superseded in any::<u32>(),
        ) {
            let commits: Vec<_> = groups.into_iter().enumerate().map(|(i, (puts, lists))| commit(i as u64 + 1, &puts, lists)).collect();
            let count: u32 = commits.iter().map(|c| c.disk_ops).sum();
            // `assemble` does not check that keys match, so any records will do.
            let places = places(&commits).into_iter().enumerate();
            let superseded: Vec<_> = places.filter(|(nth, _)| superseded & (1 << nth) != 0).map(|(_, place)| place).collect();
            let bytes = assemble(&commits, &superseded).unwrap();
            prop_assert_eq!(operations(&bytes) as usize, count as usize - superseded.len() + 1);
            let operations = Records::new(&bytes[HEADER_LEN..]).filter(|record| !matches!(record, Ok(Record::LogData(_))));
            prop_assert_eq!(operations.count(), count as usize - superseded.len() + 1);
            prop_assert_eq!(disassemble(&bytes.into()).unwrap(), commits);
        }

        #[test]
        fn arbitrary_batches_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4)) {
            let _ = disassemble(&bytes.into());
            let mut valid = assemble(&[commit(1, &[(vec![1], vec![2])], vec![3; 9]), commit(2, &[(vec![], vec![])], vec![])], std::slice::from_ref(&(0..6))).unwrap();
            for (at, byte) in flips {
                let at = at.index(valid.len());
                valid[at] = byte;
            }
            let _ = disassemble(&valid.into());
        }
    }

    #[test]
    fn commits_without_disk_effects_stay_out_of_the_wal() {
        let memory_only = commit(1, &[], vec![1]);
        assert_eq!(assemble(std::slice::from_ref(&memory_only), &[]), None);
        let both = [memory_only, commit(2, &[(vec![1], vec![])], vec![])];
        let found = disassemble(&assemble(&both, &[]).unwrap().into()).unwrap();
        assert_eq!(found, both[1..]);
    }

    #[test]
    fn a_superseded_operation_is_one_of_a_commit() {
        let superseded = |operation: &[u8]| [&MAGIC_SUPERSEDED, operation].concat();
        let mut csn_key = Vec::new();
        batch::push_put(&mut csn_key, Family::Default, CSN_KEY, &Position::default().encode());
        let put = commit(1, &[(vec![1], vec![2])], vec![]);
        let mut good = assemble(std::slice::from_ref(&put), &[]).unwrap();
        for (operation, complaint) in [
            (&b""[..], "announces 1 operations, but holds 0"),
            (&put.disk.repeat(2), "announces 1 operations, but holds 2"),
            (b"\x07", "record tag"),
            (&csn_key, "csn key"),
        ] {
            let mut bytes = vec![0; HEADER_LEN];
            let mut envelope = Vec::new();
            push_envelope(&mut envelope, &put);
            batch::push_log_data(&mut bytes, &envelope);
            batch::push_log_data(&mut bytes, &superseded(operation));
            let error = disassemble(&bytes.into()).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
        let mut first = vec![0; HEADER_LEN];
        batch::push_log_data(&mut first, &superseded(&put.disk));
        assert!(disassemble(&first.into()).unwrap_err().to_string().contains("WAL envelope"));
        batch::push_log_data(&mut good, &superseded(&put.disk));
        assert!(disassemble(&good.into()).unwrap_err().to_string().contains("after its csn key"));
    }
}
