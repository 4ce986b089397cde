//! Memory images, which come from the local disk and from bases.

use super::{Target, put, u32_at};
use bytes::Bytes;
use std::collections::BTreeMap;
use walferry::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use walferry::engine::memory::{Entry, List, Memory, ZsetBuilder};
use walferry::error::Result;
use walferry::log::recovery::CutPoint;
use walferry::position::Position;
use walferry::snapshot::image::{BLOCK_RAW_BYTES_MAX, image_parts, read_image};

pub(crate) const TARGET: Target = Target { name: "image", decode, check, repair, seeds };

/// Lengths from `src/snapshot/FORMAT.md`.
const HEADER: usize = 52;
const BLOCK_HEAD: usize = 13;
const FOOTER: u8 = 0xff;
const FOOTER_LEN: usize = 29;

fn read(data: &[u8]) -> Result<(Memory, CutPoint)> {
    read_image(std::iter::once(Ok(Bytes::copy_from_slice(data))), "fuzz")
}

fn decode(data: &[u8]) -> usize {
    drop(read(data));
    let mut raw = 0;
    each_block(data, |block, _| raw += (u32_at(block, 1) as usize).min(BLOCK_RAW_BYTES_MAX));
    raw
}

/// Expiry and elements by engine and key; elements of sorted sets with the bits of their scores.
type Content = BTreeMap<(char, Vec<u8>), (u64, Vec<(Vec<u8>, u64)>)>;

fn content(memory: &Memory) -> Content {
    let cut = memory.cut();
    let lists = cut.lists.iter().map(|(key, entry)| {
        let elements = entry.value.iter_from(0).map(|element| (element.to_vec(), 0)).collect();
        (('l', key.to_vec()), (entry.expire_ms, elements))
    });
    let zsets = cut.zsets.iter().map(|(key, entry)| {
        let members = entry.value.iter_from(0).map(|(member, score)| (member.to_vec(), score.to_bits())).collect();
        (('z', key.to_vec()), (entry.expire_ms, members))
    });
    lists.chain(zsets).collect()
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
    put(data, 0, b"WFIMAGE\n\x02\0\0\0");
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
        let mut memory = Memory::new();
        let mut list = List::new();
        (0..elements).for_each(|nth| list.push_back(&vec![nth as u8; bulk]));
        memory.lists.insert(b"queue", Entry { value: list, expire_ms: 0 });
        let mut zset = ZsetBuilder::default();
        (0..elements).for_each(|nth| assert!(zset.push(format!("member {nth:03}").as_bytes(), nth as f64 - 0.5)));
        let value = zset.finish().expect("different members");
        memory.zsets.insert(b"board", Entry { value, expire_ms: 1_800_000_000_000 });
        image_parts(&memory.cut(), at).collect::<Vec<_>>().concat()
    };
    let empty = image_parts(&Memory::new().cut(), at).collect::<Vec<_>>().concat();
    vec![empty, encode(1, 0), encode(3, 2), encode(40, 9)]
}
