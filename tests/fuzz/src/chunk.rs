//! Chunks, which come from the primary, the spool and the archive.

use super::{Target, put, u32_at, u64_at};
use bytes::Bytes;
use walferry::chunk::{Chunk, ChunkHeader, ChunkLink, Encoder, Profile};
use walferry::csn::{HistoryHash, WalSeq};
use walferry::error::Result;
use walferry::record::CommitRecord;

pub(crate) const TARGET: Target = Target { name: "chunk", decode, check, repair, seeds };

const PROFILES: [Profile; 2] = [Profile::Link, Profile::Archive { zstd_level: 1 }];

/// Offsets from `src/chunk/FORMAT.md`.
const HASH_AFTER: usize = 72;
const SECTIONS: usize = 80;
const SECTION_LEN: usize = 36;
const HEADER_CRC: usize = 224;
const SECTION_KINDS: usize = 4;
const BLOCK_HEAD: usize = 13;

fn decode(data: &[u8]) -> usize {
    let Ok(chunk) = Chunk::open(Bytes::copy_from_slice(data), "fuzz") else { return 0 };
    for commit in chunk.commits() {
        if commit.is_err() {
            break;
        }
    }
    chunk.header().raw_len() as usize
}

fn check(data: &[u8]) {
    if let Ok(header) = ChunkHeader::decode(data, "fuzz") {
        assert_eq!(header.encode()[..], data[..ChunkHeader::ENCODED_LEN]);
    }
    let Ok(chunk) = Chunk::open(Bytes::copy_from_slice(data), "fuzz") else { return };
    let Ok(commits) = chunk.commits().collect::<Result<Vec<CommitRecord>>>() else { return };
    let header = chunk.header();
    let dense = commits.iter().zip(header.first.0..).all(|(commit, csn)| commit.csn.0 == csn);
    assert!(dense && commits.len() as u64 == header.commit_count(), "csns {header:?}");
    let link = ChunkLink {
        epoch: header.epoch,
        wal_first: header.wal_first,
        wal_last: header.wal_last,
        hash_before: header.hash_before,
    };
    for profile in PROFILES {
        let again = Encoder::new(profile).encode(commits.iter(), link);
        let opened = Chunk::open(again.bytes().clone(), "again").expect("an encoded chunk opens");
        let read: Vec<CommitRecord> = opened.commits().map(|commit| commit.expect("an encoded commit")).collect();
        assert!(read == commits, "commits of {header:?} changed on their way");
    }
}

/// Repairs the block CRCs, the section table according to the blocks present, and the header's CRC.
#[expect(clippy::ptr_arg, reason = "the repairs of other targets change the length")]
fn repair(data: &mut Vec<u8>) {
    if data.len() < ChunkHeader::ENCODED_LEN {
        return;
    }
    let mut begin = ChunkHeader::ENCODED_LEN;
    for kind in 0..SECTION_KINDS {
        let entry = SECTIONS + kind * SECTION_LEN;
        let left = data.len() - begin;
        let told = usize::try_from(u64_at(data, entry + 20)).unwrap_or(usize::MAX);
        let stored = if kind == SECTION_KINDS - 1 { left } else { told.min(left) };
        let (blocks, raw, crc) = repair_blocks(&mut data[begin..begin + stored]);
        put(data, entry, &[kind as u8 + 1, 0, 0, 0]);
        put(data, entry + 4, &blocks.to_le_bytes());
        put(data, entry + 8, &crc.to_le_bytes());
        put(data, entry + 12, &raw.to_le_bytes());
        put(data, entry + 20, &(stored as u64).to_le_bytes());
        put(data, entry + 28, &(begin as u64).to_le_bytes());
        begin += stored;
    }
    put(data, 0, b"WFCHUNK\n");
    put(data, 8, &[4, 0, 0, 0]);
    seal(data);
    if let Some(hash) = hash_after(data) {
        put(data, HASH_AFTER, &hash.to_le_bytes());
        seal(data);
    }
}

/// Repairs the header's CRC.
fn seal(data: &mut [u8]) {
    let crc = crc32fast::hash(&data[..HEADER_CRC]);
    put(data, HEADER_CRC, &crc.to_le_bytes());
}

/// Returns the history hash after the last commit, if the commits decode and the header has another hash; the error
/// text contains the right one.
fn hash_after(data: &[u8]) -> Option<u64> {
    let chunk = Chunk::open(Bytes::copy_from_slice(data), "fuzz").ok()?;
    let error = chunk.commits().find_map(Result::err)?.to_string();
    let (_, found) = error.split_once("the history hash of its commits is ")?;
    u64::from_str_radix(found.get(..16)?, 16).ok()
}

/// Repairs the blocks of a section; returns their number, their raw bytes, and the CRC of their heads.
fn repair_blocks(section: &mut [u8]) -> (u32, u64, u32) {
    let (mut blocks, mut raw, mut at) = (0, 0, 0);
    let mut heads = crc32fast::Hasher::new();
    while at + BLOCK_HEAD <= section.len() {
        let left = section.len() - at - BLOCK_HEAD;
        let stored = (u32_at(section, at + 5) as usize).min(left);
        let body = at + BLOCK_HEAD;
        let crc = crc32fast::hash(&section[body..body + stored]);
        put(section, at + 5, &(stored as u32).to_le_bytes());
        put(section, at + 9, &crc.to_le_bytes());
        heads.update(&section[at..body]);
        raw += u64::from(u32_at(section, at + 1));
        blocks += 1;
        at = body + stored;
    }
    (blocks, raw, if blocks == 0 { 0 } else { heads.finalize() })
}

fn seeds() -> Vec<Vec<u8>> {
    let link = ChunkLink {
        epoch: walferry::csn::Epoch(3),
        wal_first: WalSeq(10),
        wal_last: WalSeq(19),
        hash_before: HistoryHash(7),
    };
    let merged = ChunkLink { wal_first: WalSeq(0), wal_last: WalSeq(0), ..link };
    let shapes = [(8, true), (3_000, true), (700, false)];
    let encode = |profile, (bulk, compresses), link| {
        Encoder::new(profile).encode(super::commits(bulk, compresses).iter(), link).bytes().to_vec()
    };
    let cut = PROFILES.into_iter().flat_map(|profile| shapes.map(|shape| encode(profile, shape, link)));
    cut.chain([encode(PROFILES[1], shapes[0], merged)]).collect()
}
