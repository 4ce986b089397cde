//! Memory images, which come from the local disk and from bases.

use super::{Target, put, u32_at};
use bytes::Bytes;
use std::collections::BTreeMap;
use walferry::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use walferry::engine::memory::{Change, Encoder, Memory, Slot};
use walferry::error::Result;
use walferry::log::recovery::CutPoint;
use walferry::position::Position;
use walferry::snapshot::image::{BLOCK_RAW_BYTES_MAX, image_parts, read_image};

pub(crate) const TARGET: Target = Target { name: "image", decode, check, repair, seeds };

/// Lengths from `src/snapshot/FORMAT.md`.
const HEADER: usize = 52;
const BLOCK_HEAD: usize = 13;
const FOOTER: u8 = 0xff;
const FOOTER_LEN: usize = 53;

fn read(data: &[u8]) -> Result<(Memory, CutPoint)> {
    read_image(std::iter::once(Ok(Bytes::copy_from_slice(data))), "fuzz")
}

fn decode(data: &[u8]) -> usize {
    drop(read(data));
    let mut raw = 0;
    each_block(data, |block, _| raw += (u32_at(block, 1) as usize).min(BLOCK_RAW_BYTES_MAX));
    raw
}

/// Type, expiry and elements by key; an element has a value, or the bits of its score.
type Content = BTreeMap<Vec<u8>, (&'static str, u64, Vec<(Vec<u8>, Vec<u8>)>)>;

fn content(memory: &Memory) -> Content {
    let value = |slot: &Slot| (slot.value_type().name(), slot.expire_ms(), super::elements(slot));
    memory.cut().iter().map(|slot| (slot.key().to_vec(), value(slot))).collect()
}

fn check(data: &[u8]) {
    let Ok((memory, at)) = read(data) else { return };
    let again: Vec<Bytes> = image_parts(&memory.cut(), at).collect();
    let (read, position) = read_image(again.into_iter().map(Ok), "again").expect("an encoded image");
    assert!(position == at && content(&read) == content(&memory), "an image changed on its way");
}

/// Calls `block` with each block's head and stored bytes; returns the end of the last block.
fn each_block(data: &[u8], mut block: impl FnMut(&[u8], &[u8])) -> usize {
    let mut at = HEADER;
    while at + BLOCK_HEAD <= data.len() && data[at] != FOOTER {
        let body = at + BLOCK_HEAD;
        let stored = (u32_at(data, at + 5) as usize).min(data.len() - body);
        block(&data[at..body], &data[body..body + stored]);
        at = body + stored;
    }
    at
}

/// Repairs the chain of CRCs from the header to the footer.
fn repair(data: &mut Vec<u8>) {
    if data.len() < HEADER {
        return;
    }
    put(data, 0, b"WFIMAGE\n\x03\0\0\0");
    let mut crc = crc32fast::hash(&data[..HEADER - 4]);
    put(data, HEADER - 4, &crc.to_le_bytes());
    let mut crcs = Vec::new();
    let end = each_block(data, |head, stored| {
        let mut next = crc32fast::Hasher::new_with_initial(crc);
        next.update(&head[..BLOCK_HEAD - 4]);
        next.update(stored);
        crc = next.finalize();
        crcs.push((BLOCK_HEAD + stored.len(), crc));
    });
    let mut at = HEADER;
    for (length, crc) in crcs {
        put(data, at + BLOCK_HEAD - 4, &crc.to_le_bytes());
        at += length;
    }
    if data.len() - end >= FOOTER_LEN {
        data.truncate(end + FOOTER_LEN);
        let mut last = crc32fast::Hasher::new_with_initial(crc);
        last.update(&data[end..end + FOOTER_LEN - 4]);
        put(data, end + FOOTER_LEN - 4, &last.finalize().to_le_bytes());
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let at = CutPoint {
        position: Position {
            csn: Csn(42),
            time: CommitTime(1_790_000_000_000_000),
            epoch: Epoch(3),
            hash: HistoryHash(9),
        },
        wal_seq: WalSeq(99),
    };
    let encode = |elements: usize, bulk: usize| {
        let names: Vec<_> = (0..elements).map(|nth| format!("member {nth:03}").into_bytes()).collect();
        let numbers: Vec<_> = (0..elements).map(|nth| nth.to_string().into_bytes()).collect();
        let values: Vec<_> = (0..elements).map(|nth| vec![nth as u8; bulk]).collect();
        let [names, numbers, values] = [&names, &numbers, &values].map(|all| all.iter().map(Vec::as_slice));
        let mut ops = Vec::new();
        let mut encoder = Encoder::new(&mut ops);
        encoder.set_string(b"text", 1_800_000_000_001, &vec![b'x'; elements * bulk]);
        encoder.put_fields(b"user", names.clone().zip(values.clone()));
        encoder.add_members(b"names", names.clone());
        encoder.add_members(b"numbers", numbers);
        encoder.push_back(b"queue", values);
        encoder.set_scores(b"board", names.enumerate().map(|(nth, member)| (member, nth as f64 - 0.5)));
        encoder.expire(b"board", 1_800_000_000_000);
        let memory = Memory::new();
        memory.apply(&ops, Change { csn: Csn(42), hidden: None }).expect("the ops fit");
        image_parts(&memory.cut(), at).collect::<Vec<_>>().concat()
    };
    let empty = image_parts(&Memory::new().cut(), at).collect::<Vec<_>>().concat();
    vec![empty, encode(1, 0), encode(3, 2), encode(40, 9)]
}
