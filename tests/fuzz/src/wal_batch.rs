//! Write batches with their envelopes, which come from RocksDB's WAL.

use super::Target;
use bytes::Bytes;
use walferry::engine::batch::{self, HEADER_LEN, Record, Records};
use walferry::engine::key::CSN_KEY;
use walferry::log::envelope;
use walferry::record::CommitRecord;

pub(crate) const TARGET: Target = Target { name: "wal_batch", decode, check, repair, seeds };

/// Offsets in an envelope, from `src/log/FORMAT.md`.
const ENVELOPE_MAGIC: &[u8] = b"WFCM";
const EPOCH: usize = 6;
const CSN: usize = 10;
const TIME: usize = 18;
const HASH: usize = 26;
const ENVELOPE_HEAD: usize = 42;

fn decode(data: &[u8]) -> usize {
    let _ = envelope::disassemble(&Bytes::copy_from_slice(data));
    Records::new(data).for_each(drop);
    0
}

fn check(data: &[u8]) {
    let mut at = 0;
    let mut records = Records::new(data);
    while records.next().is_some() {
        assert!(records.offset() > at && records.offset() <= data.len(), "a walk goes forward");
        at = records.offset();
    }
    let Ok(commits) = envelope::disassemble(&Bytes::copy_from_slice(data)) else { return };
    for commit in &commits {
        let _ = batch::validate(&commit.disk, commit.disk_ops);
    }
    let on_disk: Vec<CommitRecord> = commits.into_iter().filter(CommitRecord::touches_disk).collect();
    if let Some(again) = envelope::assemble(&on_disk, &[]) {
        let read = envelope::disassemble(&again.into()).expect("an assembled batch");
        assert!(read == on_disk, "commits changed on their way");
    }
}

/// Repairs the csn key at the end, which must agree with the last envelope.
fn repair(data: &mut Vec<u8>) {
    let Some(body) = data.get(HEADER_LEN..) else { return };
    let heads = Records::new(body).filter_map(|record| match record {
        Ok(Record::LogData(data)) if data.starts_with(ENVELOPE_MAGIC) => data.get(..ENVELOPE_HEAD),
        _ => None,
    });
    let Some(head) = heads.last() else { return };
    let position =
        [&head[CSN..CSN + 8], &head[TIME..TIME + 8], &head[EPOCH..EPOCH + 4], &head[HASH..HASH + 8]].concat();
    let mut end = Vec::new();
    batch::push_put(&mut end, batch::Family::Default, CSN_KEY, &position);
    let place = data.len() - end.len().min(data.len());
    if data[place..].starts_with(&end[..2 + CSN_KEY.len()]) {
        data.truncate(place);
        data.extend_from_slice(&end);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let commits = super::commits(100, true);
    let mut records = Records::new(&commits[0].disk);
    records.next();
    let first = 0..records.offset();
    let plain = [&commits[..], &commits[..1], &commits[2..3]].map(|commits| (commits, &[][..]));
    let superseded = (&commits[..], std::slice::from_ref(&first));
    let all = plain.into_iter().chain([superseded]);
    all.map(|(commits, superseded)| envelope::assemble(commits, superseded).expect("disk effects")).collect()
}
