//! Merging: no commit is lost, whichever request fails and whichever other mergers are at work.

use super::*;
use crate::archive::layout::{ChunkName, ObjectName, Section};
use crate::archive::listing::{Listing, Stored};
use crate::archive::pins::{Pin, PinRange};
use crate::archive::retry_policy::RetryPolicy;
use crate::archive::store::Archive;
use crate::archive::testing::faults::{Fault, FaultStore, QUICK};
use crate::archive::uploader::ArchivedChunk;
use crate::chunk::{Chunk, ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::csn::{CommitTime, Csn, Epoch};
use crate::engine::batch::{Family, push_put};
use crate::error::Result;
use crate::log::testing::chained;
use crate::record::CommitRecord;
use crate::retention::superseded::Superseded;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const HOUR_MS: u64 = 3_600_000;
const RULES: Rules = Rules { parts_min: 2, settle: Duration::ZERO, grace: Duration::from_secs(3600) };

fn name(epoch: u32, first: u64, last: u64) -> ChunkName {
    ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) }
}

fn small(since_ms: u64) -> Known {
    Known { bytes: 1000, since_ms, is_closed: false }
}

fn ranges(names: &[ChunkName]) -> Vec<(u64, u64)> {
    names.iter().map(|name| (name.first.0, name.last.0)).collect()
}

#[test]
fn adjacent_small_chunks_of_one_epoch_make_a_group() {
    let large = Known { bytes: 1 << 20, ..small(0) };
    let closed = Known { is_closed: true, ..small(0) };
    let chunks = BTreeMap::from([
        (name(1, 1, 5), small(0)),
        (name(1, 6, 6), small(0)),
        (name(1, 7, 9), large),
        (name(1, 10, 11), small(0)),
        (name(1, 12, 12), small(0)),
        (name(1, 14, 15), small(0)),
        (name(1, 16, 17), small(0)),
        (name(1, 18, 18), closed),
        (name(1, 19, 19), small(0)),
        (name(2, 20, 20), small(0)),
        (name(2, 21, 25), small(0)),
        (name(2, 26, 26), small(95)),
    ]);
    let rules = Rules { settle: Duration::from_millis(10), ..RULES };
    let found: Vec<_> = plan(&chunks, rules, 100).groups.iter().map(|group| ranges(group)).collect();
    let expected: [&[(u64, u64)]; 4] =
        [&[(1, 5), (6, 6)], &[(10, 11), (12, 12)], &[(14, 15), (16, 17)], &[(20, 20), (21, 25)]];
    assert_eq!(found, expected);
    assert!(plan(&chunks, Rules { parts_min: 3, ..rules }, 100).groups.is_empty());
    assert_eq!(plan(&chunks, Rules { parts_min: 3, ..rules }, 105).groups.len(), 1, "the third has settled");
}

#[test]
fn what_lies_in_a_wider_chunk_goes_after_the_grace_period() {
    let chunks = BTreeMap::from([
        (name(1, 1, 5), small(0)),
        (name(1, 6, 9), small(0)),
        (name(1, 1, 9), small(1000)),
        (name(1, 8, 12), small(0)),
        (name(2, 6, 9), small(0)),
    ]);
    assert_eq!(plan(&chunks, RULES, HOUR_MS + 999), MergePlan::default());
    let found = plan(&chunks, RULES, HOUR_MS + 1000);
    assert!(found.groups.is_empty());
    let parts = vec![name(1, 1, 5), name(1, 6, 9)];
    assert_eq!(found.superseded, [Superseded { wider: name(1, 1, 9), parts }]);
}

proptest! {
    #[test]
    fn plans_keep_their_promises(
        chunks in proptest::collection::btree_map((1..3u32, 1..40u64, 0..6u64), (1..600_000u64, 0..5u64, any::<bool>()), 0..40),
        parts_min in 2..4usize,
    ) {
        let known: BTreeMap<ChunkName, Known> = chunks.into_iter().map(|((epoch, first, more), (bytes, since_ms, is_closed))| {
            (name(epoch, first, first + more), Known { bytes, since_ms, is_closed })
        }).collect();
        let rules = Rules { parts_min, settle: Duration::from_millis(2), grace: Duration::from_millis(1) };
        let found = plan(&known, rules, 4);
        let mut seen = Vec::new();
        for group in &found.groups {
            prop_assert!(group.len() >= parts_min);
            prop_assert!(group.windows(2).all(|pair| pair[0].epoch == pair[1].epoch && pair[0].last.next() == pair[1].first));
            prop_assert!(group.iter().map(|part| known[part].bytes).sum::<u64>() <= RAW_BYTES_MAX as u64);
            prop_assert!(group.iter().all(|part| !known[part].is_closed && known[part].since_ms <= 2));
            seen.extend(group.iter().copied());
        }
        for Superseded { wider, parts } in &found.superseded {
            for part in parts {
                prop_assert!(part != wider && part.epoch == wider.epoch && wider.first <= part.first && part.last <= wider.last);
            }
            seen.extend(parts.iter().copied());
        }
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        prop_assert_eq!(seen.len(), all, "no chunk is in two places");
    }
}

/// Returns commits of a few bytes, or of `bytes` each.
fn commits(first: u64, count: u64, bytes: usize) -> Vec<CommitRecord> {
    let commit = |csn: u64| {
        let mut disk = Vec::new();
        push_put(&mut disk, Family::Default, format!("key {csn}").as_bytes(), &vec![csn as u8; bytes]);
        let (epoch, time) = (Epoch(1), CommitTime(1000 + csn / 3));
        CommitRecord { csn: Csn(csn), epoch, time, disk_ops: 1, disk: disk.into(), ..CommitRecord::default() }
    };
    chained((first..first + count).map(commit))
}

struct Rig {
    store: FaultStore,
    archive: Archive,
    commits: Vec<CommitRecord>,
}

impl Rig {
    /// Creates an archive of chunks with these numbers of commits.
    async fn new(sizes: &[usize], bytes: usize) -> Self {
        let store = FaultStore::default();
        let archive = Archive::over(Arc::new(store.clone()), "faults:///a".to_owned(), "a", None);
        let archive = archive.with_retry_policy(RetryPolicy { attempts: 1, ..QUICK });
        let rig = Self { store, archive, commits: commits(1, sizes.iter().sum::<usize>() as u64, bytes) };
        let mut encoder = Encoder::new(Profile::default());
        let (mut link, mut rest) = (ChunkLink { epoch: Epoch(1), ..ChunkLink::default() }, &rig.commits[..]);
        for &size in sizes {
            let (now, later) = rest.split_at(size);
            let chunk = encoder.encode(now.iter(), link);
            link.hash_before = chunk.header().hash_after;
            let name = ObjectName::Chunk(name(1, now[0].csn.0, now[size - 1].csn.0));
            rig.archive.put_verified(&name, chunk.bytes().clone()).await.unwrap();
            rest = later;
        }
        rig
    }

    /// Returns a merger that has just listed the archive; every chunk is known since time 0.
    async fn listed(&self) -> Merger {
        let mut merger = Merger::new(self.archive.clone(), &Listing::default());
        for (name, known) in self.chunks().await {
            merger.note(name, known);
        }
        merger
    }

    async fn chunks(&self) -> BTreeMap<ChunkName, Known> {
        let found = self.archive.list(Section::Chunks(Epoch(1))).await.unwrap().objects.into_iter();
        let known = |object: crate::archive::store::Object| match object.name {
            ObjectName::Chunk(name) => (name, Known { bytes: object.size, ..small(0) }),
            _ => panic!("only chunks are there"),
        };
        found.map(known).collect()
    }

    async fn names(&self) -> Vec<(u64, u64)> {
        ranges(&self.chunks().await.into_keys().collect::<Vec<_>>())
    }

    async fn chunk(&self, name: ChunkName) -> Chunk {
        let bytes = self.archive.get(&ObjectName::Chunk(name)).await.unwrap().expect("it is there");
        Chunk::open(bytes, "chunk").unwrap()
    }

    /// Asserts that every chunk holds the commits of its name and that the chunks together hold every commit.
    async fn check(&self) {
        let names: Vec<ChunkName> = self.chunks().await.into_keys().collect();
        let mut covered = vec![false; self.commits.len() + 1];
        for name in names {
            let chunk = self.chunk(name).await;
            let found: Vec<CommitRecord> = chunk.commits().collect::<Result<_>>().unwrap();
            assert_eq!(found, self.commits[name.first.0 as usize - 1..name.last.0 as usize], "{name}");
            covered[name.first.0 as usize..=name.last.0 as usize].fill(true);
        }
        assert!(covered[1..].iter().all(|is_there| *is_there), "every commit is there");
    }
}

/// Goal: parts stay for the grace period and are deleted after it.
#[tokio::test]
async fn merged_chunks_take_the_place_of_their_parts() {
    let rig = Rig::new(&[2, 3, 1, 1, 4, 2, 2], 10).await;
    let mut merger = rig.listed().await;
    let first = merger.round(RULES, 1000).await.unwrap();
    assert_eq!((first.merged, first.parts, first.deleted, first.waiting), (1, 7, 0, 7));
    assert_eq!(rig.names().await.len(), 8);
    rig.check().await;
    assert_eq!(merger.round(RULES, 999 + HOUR_MS).await.unwrap(), Round { waiting: 7, ..Round::default() });
    assert_eq!(merger.round(RULES, 1000 + HOUR_MS).await.unwrap(), Round { deleted: 7, ..Round::default() });
    assert_eq!(rig.names().await, [(1, 15)]);
    rig.check().await;
}

/// Goal: a merged chunk has at most the raw bytes of a full chunk, and a full chunk is not merged again.
#[tokio::test]
async fn merged_chunks_are_full_at_most() {
    let rig = Rig::new(&[1; 30], 400_000).await;
    let mut merger = rig.listed().await;
    let round = merger.round(RULES, 0).await.unwrap();
    assert_eq!((round.merged, round.parts), (3, 30));
    let merged: Vec<_> = rig.names().await.into_iter().filter(|(first, last)| first != last).collect();
    assert_eq!(merged, [(1, 10), (11, 20), (21, 30)]);
    for (first, last) in merged {
        assert!(rig.chunk(name(1, first, last)).await.header().raw_len() <= RAW_BYTES_MAX as u64);
    }
    rig.check().await;
    let again = merger.round(RULES, 2 * HOUR_MS).await.unwrap();
    assert_eq!((again.merged, again.deleted), (0, 30));
    assert_eq!(merger.plan(RULES, 4 * HOUR_MS), MergePlan::default());
}

/// Goal: if any request fails, takes effect without an answer, or lies, no commit is lost, and the next merger, which
/// knows only a listing, ends with the same chunks.
#[tokio::test]
async fn a_crash_at_any_request_is_harmless() {
    for fault in [Fault::Fail, Fault::LoseReply, Fault::Vanish, Fault::Truncate] {
        for at in 0..24 {
            let rig = Rig::new(&[2, 3, 1, 1, 4, 2, 2], 10).await;
            let script = || std::iter::repeat_n(Fault::None, at).chain([fault]);
            let mut merger = rig.listed().await;
            rig.store.script_puts(script().skip(at.min(at / 2)));
            rig.store.script_gets(script());
            // The merger stops where it fails, as if its process had died.
            let _ = merger.round(RULES, 0).await;
            let _ = merger.round(RULES, 2 * HOUR_MS).await;
            rig.store.heal();
            let is_whole = fault != Fault::Truncate;
            if is_whole {
                rig.check().await;
            }
            for now_ms in [0, 2 * HOUR_MS, 4 * HOUR_MS] {
                rig.listed().await.round(RULES, now_ms).await.unwrap();
            }
            // A put that stored half of the bytes is repaired from the parts, which are still there.
            rig.check().await;
            assert_eq!(rig.names().await, [(1, 15)], "{fault:?} at {at}");
        }
    }
}

/// Goal: a chunk that is damaged, or that holds other commits than the wider chunk, is never merged and never deleted,
/// and no merged chunk spans it.
#[tokio::test]
async fn damage_is_left_alone() {
    let rig = Rig::new(&[2, 2, 2, 2, 2], 10).await;
    let bad = ObjectName::Chunk(name(1, 5, 6));
    let mut bytes = rig.archive.get(&bad).await.unwrap().unwrap().to_vec();
    bytes[200] ^= 1;
    rig.archive.put_verified(&bad, bytes.into()).await.unwrap();
    let mut merger = rig.listed().await;
    let round = merger.round(RULES, 0).await.unwrap();
    assert_eq!((round.merged, round.damaged), (2, 1));
    merger.round(RULES, 2 * HOUR_MS).await.unwrap();
    assert_eq!(rig.names().await, [(1, 4), (5, 6), (7, 10)]);
    let foreign =
        chained(commits(7, 4, 10).into_iter().map(|commit| CommitRecord { time: CommitTime(5000), ..commit }));
    let chunk = Encoder::new(Profile::default())
        .encode(foreign[..2].iter(), ChunkLink { epoch: Epoch(1), ..ChunkLink::default() });
    rig.archive.put_verified(&ObjectName::Chunk(name(1, 7, 8)), chunk.bytes().clone()).await.unwrap();
    let round = rig.listed().await.round(RULES, 2 * HOUR_MS).await.unwrap();
    // This merger does not know the damaged chunk yet, so it reports the chunk again.
    assert_eq!((round.deleted, round.damaged), (0, 2));
    assert_eq!(rig.names().await, [(1, 4), (5, 6), (7, 8), (7, 10)]);
}

/// Goal: two mergers with different views, interleaved in every way, never delete the last copy of a commit.
#[tokio::test]
async fn two_mergers_at_once_are_harmless() {
    for order in 0..64_u32 {
        let rig = Rig::new(&[1, 2, 1, 2, 1, 2], 10).await;
        let mut one = rig.listed().await;
        let mut two = Merger::new(rig.archive.clone(), &Listing::default());
        for (name, known) in rig.chunks().await.into_iter().skip(order as usize % 3) {
            two.note(name, known);
        }
        for step in 0..6_u64 {
            let merger = if order >> step & 1 == 0 { &mut one } else { &mut two };
            merger.round(RULES, step * HOUR_MS / 2).await.unwrap();
            rig.check().await;
        }
        rig.listed().await.round(RULES, 10 * HOUR_MS).await.unwrap();
        rig.check().await;
    }
}

/// Goal: if another process removed the wider chunk, the parts are kept.
#[tokio::test]
async fn parts_stay_if_the_wider_chunk_is_gone() {
    let rig = Rig::new(&[2, 3], 10).await;
    let mut merger = rig.listed().await;
    merger.round(RULES, 0).await.unwrap();
    rig.archive.delete(&ObjectName::Chunk(name(1, 1, 5))).await.unwrap();
    assert_eq!(merger.round(RULES, 2 * HOUR_MS).await.unwrap().deleted, 0);
    assert_eq!(rig.names().await, [(1, 2), (3, 5)]);
}

/// Goal: a chunk that the uploader archived is known with its length and time, and a full one is not merged.
#[tokio::test]
async fn what_was_archived_is_known() {
    let mut merger = Rig::new(&[], 10).await.listed().await;
    let (bytes, since_ms) = (40, 1234);
    let archived = |first, last, raw_bytes| ArchivedChunk { name: name(1, first, last), bytes, raw_bytes, since_ms };
    merger.note_archived(archived(1, 4, 50));
    merger.note_archived(archived(5, 9, RAW_BYTES_MAX as u64));
    merger.note_archived(archived(10, 11, 50));
    merger.note_archived(archived(12, 13, 50));
    let groups = |now_ms| merger.plan(RULES, now_ms).groups;
    assert!(groups(1233).is_empty(), "younger than the settle time of zero");
    assert_eq!(groups(1234), [[name(1, 10, 11), name(1, 12, 13)]]);
}

/// Goal: parts whose commits a reader pin names stay until the pin is released.
#[tokio::test]
async fn pinned_parts_stay() {
    let rig = Rig::new(&[2, 3, 1, 1, 4, 2, 2], 10).await;
    let mut merger = rig.listed().await;
    let now_ms = crate::clock::now_millis();
    merger.round(RULES, now_ms).await.unwrap();
    // The pin holds for longer than the grace period.
    let range = PinRange { from: Csn(6), until: Csn(11), epoch: Some(Epoch(1)) };
    let pin = Pin::take_for(&rig.archive, "restore", range, Duration::from_secs(3 * 3600)).await.unwrap();
    let round = merger.round(RULES, now_ms + HOUR_MS).await.unwrap();
    assert_eq!((round.deleted, round.waiting), (5, 2));
    assert_eq!(rig.names().await, [(1, 15), (7, 7), (8, 11)]);
    // A merger that knows only a listing spares the parts, too.
    let round = rig.listed().await.round(RULES, now_ms + HOUR_MS).await.unwrap();
    assert_eq!((round.deleted, round.waiting), (0, 2));
    pin.release().await;
    assert_eq!(merger.round(RULES, now_ms + HOUR_MS).await.unwrap(), Round { deleted: 2, ..Round::default() });
    assert_eq!(rig.names().await, [(1, 15)]);
    rig.check().await;
}

/// Goal: a merger of a listing knows the names, lengths and ages of the chunks.
#[tokio::test]
async fn a_listing_is_known() {
    let modified = chrono::DateTime::from_timestamp_millis(1234).unwrap();
    let mut listing = Listing::default();
    listing.chunks.insert(name(1, 1, 4), Stored { size: 40, modified });
    listing.chunks.insert(name(1, 5, 6), Stored { size: 512 << 10, modified });
    listing.chunks.insert(name(1, 7, 7), Stored { size: (512 << 10) + 1, modified });
    let merger = Merger::new(Rig::new(&[], 10).await.archive, &listing);
    assert!(merger.plan(RULES, 1233).groups.is_empty());
    assert_eq!(merger.plan(RULES, 1234).groups, [[name(1, 1, 4), name(1, 5, 6)]]);
}
