//! Encodes commits into a chunk's bytes.
//!
//! Guarantees: encoding cannot fail. The caller's duties (dense csns, times that never decrease, payloads that agree
//! with their operation count) are asserted. Beside the output, memory is bounded by one block, however large a commit
//! is.
//!
//! Not here: the choice of the commits that form a chunk.

use super::codec::{BlockCompressor, Profile};
use super::decode::{Block, Chunk};
use super::entry::EntryHead;
use super::header::{BlockHeader, ChunkHeader, Section};
use super::kind::SectionKind;
use super::{BLOCK_RAW_BYTES_MAX, RAW_BYTES_MAX};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, WalSeq};
use crate::record::CommitRecord;
use bytes::Bytes;

/// Bytes of output reserved at the beginning, unless there is a large commit. The output grows if it needs more.
const OUTPUT_BYTES_RESERVED_MAX: usize = 1 << 20;
/// Bytes of output from which on all of it is reserved at the beginning: growing it would need twice its memory for a
/// moment. Reserved pages that are not used take no memory.
const LARGE_BYTES_MIN: usize = 4 * RAW_BYTES_MAX;

/// How a chunk continues its history and the WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChunkLink {
    /// The lineage to which the chunk belongs.
    pub epoch: Epoch,
    /// First RocksDB sequence of the commits; 0 if unknown.
    pub wal_first: WalSeq,
    /// Last RocksDB sequence of the commits; 0 if unknown.
    pub wal_last: WalSeq,
    /// History hash before the first commit.
    pub hash_before: HistoryHash,
}

/// Encodes chunks. Keep one encoder for a stream of chunks: it reuses buffers, contexts, and its knowledge of which
/// data compresses.
pub struct Encoder {
    /// One compressor for each of [`SectionKind::ALL`].
    compressors: [BlockCompressor; SectionKind::COUNT],
    /// Raw bytes of the block that is being filled.
    raw: Vec<u8>,
    /// Output buffer of the compressors.
    scratch: Vec<u8>,
}

impl Encoder {
    /// Makes an encoder that has no knowledge of the data.
    #[must_use]
    pub fn new(profile: Profile) -> Self {
        Self {
            compressors: SectionKind::ALL.map(|kind| BlockCompressor::new(profile, kind)),
            raw: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Encodes all the commits as one chunk. The iterator is cloned: once for the header, once for each section.
    ///
    /// # Panics
    /// If there is no commit, csns are not dense, times decrease, `disk_ops` and `disk` contradict each other, the WAL
    /// range is reversed, or the first commit does not continue the history with `link.hash_before`.
    pub fn encode<'r>(&mut self, commits: impl Iterator<Item = &'r CommitRecord> + Clone, link: ChunkLink) -> Chunk {
        let span = Span::of(commits.clone(), link.hash_before);
        let blocks = span.effect_bytes / BLOCK_RAW_BYTES_MAX;
        let output_bytes = ChunkHeader::ENCODED_LEN + span.effect_bytes + blocks * 2 * BlockHeader::ENCODED_LEN;
        let reserved_max = if output_bytes < LARGE_BYTES_MIN { OUTPUT_BYTES_RESERVED_MAX } else { usize::MAX };
        let mut out = Vec::with_capacity(output_bytes.min(reserved_max));
        out.resize(ChunkHeader::ENCODED_LEN, 0);
        let mut sections = [Section::default(); SectionKind::COUNT];
        let mut blocks = [const { Vec::new() }; SectionKind::COUNT];
        for kind in SectionKind::ALL {
            let mut writer = self.begin_section(kind, &mut out, &span);
            for commit in commits.clone() {
                writer.push_commit(commit);
            }
            (sections[kind.index()], blocks[kind.index()]) = writer.finish();
        }
        let header = ChunkHeader {
            epoch: link.epoch,
            first: span.first,
            last: span.last,
            first_time: span.first_time,
            last_time: span.last_time,
            wal_first: link.wal_first,
            wal_last: link.wal_last,
            hash_before: link.hash_before,
            hash_after: span.hash_after,
            sections,
        };
        let fault = header.fault();
        assert!(fault.is_none(), "a chunk's header must be consistent: {fault:?}");
        out[..ChunkHeader::ENCODED_LEN].copy_from_slice(&header.encode());
        Chunk::encoded(Bytes::from(out), header, blocks)
    }

    pub(super) fn begin_section<'e>(
        &'e mut self,
        kind: SectionKind,
        out: &'e mut Vec<u8>,
        span: &Span,
    ) -> SectionWriter<'e> {
        self.raw.clear();
        SectionWriter {
            kind,
            compressor: &mut self.compressors[kind.index()],
            raw: &mut self.raw,
            scratch: &mut self.scratch,
            out,
            next: span.first,
            time: span.first_time,
            section: Section::default(),
            blocks: Vec::new(),
            crc: crc32fast::Hasher::new(),
        }
    }
}

/// Header fields that follow from the commits.
pub(super) struct Span {
    pub first: Csn,
    pub last: Csn,
    pub first_time: CommitTime,
    pub last_time: CommitTime,
    pub hash_after: HistoryHash,
    /// Bytes of the effects in both homes.
    pub effect_bytes: usize,
}

impl Span {
    fn of<'r>(mut commits: impl Iterator<Item = &'r CommitRecord>, hash_before: HistoryHash) -> Self {
        let first = commits.next().expect("a chunk holds at least one commit");
        assert_eq!(first.hash_after(hash_before), first.hash, "csn {} continues the chunk's history", first.csn);
        let mut span = Self {
            first: first.csn,
            last: first.csn,
            first_time: first.time,
            last_time: first.time,
            hash_after: first.hash,
            effect_bytes: 0,
        };
        span.add(first);
        for commit in commits {
            assert_eq!(commit.csn, span.last.next(), "csns in a chunk are dense");
            assert!(commit.time >= span.last_time, "commit times never decrease");
            span.add(commit);
        }
        span
    }

    fn add(&mut self, commit: &CommitRecord) {
        assert_eq!(commit.disk_ops == 0, commit.disk.is_empty(), "operation count and bytes of csn {}", commit.csn);
        self.last = commit.csn;
        self.last_time = commit.time;
        self.hash_after = commit.hash;
        self.effect_bytes += commit.effect_bytes();
    }
}

/// Appends one section's blocks to `out`.
pub(super) struct SectionWriter<'e> {
    kind: SectionKind,
    compressor: &'e mut BlockCompressor,
    /// Raw bytes of the block that is being filled; empty between sections.
    raw: &'e mut Vec<u8>,
    scratch: &'e mut Vec<u8>,
    out: &'e mut Vec<u8>,
    /// Lowest csn that the next entry can have.
    next: Csn,
    /// Commit time of the last entry.
    time: CommitTime,
    section: Section,
    blocks: Vec<Block>,
    /// CRC over the block headers written so far.
    crc: crc32fast::Hasher,
}

impl SectionWriter<'_> {
    /// Writes the commit's entry if the commit belongs into this section. A commit without effects belongs into `wal`.
    fn push_commit(&mut self, commit: &CommitRecord) {
        let payload = match self.kind {
            SectionKind::Wal if commit.touches_memory() && !commit.touches_disk() => return,
            SectionKind::Wal => &commit.disk,
            kind if SectionKind::of_memory_ops(&commit.memory) != Some(kind) => return,
            _ => &commit.memory,
        };
        let head = EntryHead {
            csn_skip: commit.csn.0 - self.next.0,
            time_delta: commit.time.0 - self.time.0,
            disk_ops: if self.kind == SectionKind::Wal { commit.disk_ops } else { 0 },
            payload_len: payload.len() as u64,
        };
        self.next = commit.csn.next();
        self.time = commit.time;
        // An entry that fits into one block is not split, so that decoding the entry copies nothing.
        if self.raw.len() + EntryHead::ENCODED_LEN_MAX + payload.len() > BLOCK_RAW_BYTES_MAX {
            self.end_block();
        }
        head.encode(self.kind, self.raw);
        self.push_bytes(payload);
    }

    pub(super) fn push_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.raw.len() == BLOCK_RAW_BYTES_MAX {
                self.end_block();
            }
            let room = (BLOCK_RAW_BYTES_MAX - self.raw.len()).min(bytes.len());
            self.raw.extend_from_slice(&bytes[..room]);
            bytes = &bytes[room..];
        }
    }

    pub(super) fn end_block(&mut self) {
        if self.raw.is_empty() {
            return;
        }
        let (codec, stored) = self.compressor.compress(self.raw, self.scratch);
        let header = BlockHeader {
            codec,
            raw_len: self.raw.len() as u32,
            stored_len: stored.len() as u32,
            crc: crc32fast::hash(stored),
        };
        let header_bytes = header.encode();
        self.crc.update(&header_bytes);
        self.out.extend_from_slice(&header_bytes);
        let begin = self.out.len();
        self.out.extend_from_slice(stored);
        self.blocks.push(Block { codec, raw_len: self.raw.len(), stored: begin..self.out.len() });
        self.section.blocks += 1;
        self.section.raw_len += self.raw.len() as u64;
        self.section.stored_len += (BlockHeader::ENCODED_LEN + stored.len()) as u64;
        self.raw.clear();
    }

    pub(super) fn finish(mut self) -> (Section, Vec<Block>) {
        self.end_block();
        self.section.blocks_crc = self.crc.finalize();
        (self.section, self.blocks)
    }
}
