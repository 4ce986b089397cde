//! Reads and merges chunks, uploads the merged chunks, and removes their parts.
//!
//! Guarantees: memory is bounded by [`KNOWN_MAX`] names, by the commits of one chunk and by [`READS_IN_FLIGHT_MAX`]
//! parts; whatever ends a round, the next round continues. A part that cannot be read is left as it is and named in the log.

use super::plan::{Known, MergePlan, Rules, is_full, plan};
use crate::archive::chunk_put::{Placed, compare_commits};
use crate::archive::layout::{ChunkName, ObjectName};
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::archive::uploader::ArchivedChunk;
use crate::chunk::{Chunk, ChunkHeader, ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::csn::CommitTime;
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use crate::retention::superseded::Superseded;
use crate::retention::sweep::{Reason, Removal, is_pinned, sweep};
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::atomic::AtomicBool;

/// Largest number of chunks that a merger knows: more than two days of one chunk a second. The chunks with the lowest
/// epoch and csns are forgotten first.
const KNOWN_MAX: usize = 200_000;

/// Largest number of parts being read at a time.
pub(super) const READS_IN_FLIGHT_MAX: usize = 8;

/// Largest number of commits in a merged chunk. Without this limit, millions of commits without effects would fit.
const COMMITS_MAX: usize = 1 << 17;

/// Largest number of merged parts that wait for their removal. Beyond it the oldest parts are left to the next
/// listing.
const RETIRED_MAX: usize = 200_000;

/// Result of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Round {
    /// Merged chunks that were made.
    pub merged: u64,
    /// Chunks from which the merged chunks were made.
    pub parts: u64,
    /// Stored bytes of these parts.
    pub bytes_before: u64,
    /// Stored bytes of the merged chunks.
    pub bytes_after: u64,
    /// Chunks removed because a wider one holds their commits.
    pub deleted: u64,
    /// Chunks that wait for the end of the grace period or of a reader pin.
    pub waiting: u64,
    /// Chunks that could not be read, or whose commits differ from those of a wider chunk; they are left as they are.
    pub damaged: u64,
}

impl Round {
    /// Adds the result of a later round. The number of waiting chunks is that of the later round.
    pub fn add(&mut self, other: Self) {
        self.merged += other.merged;
        self.parts += other.parts;
        self.bytes_before += other.bytes_before;
        self.bytes_after += other.bytes_after;
        self.deleted += other.deleted;
        self.damaged += other.damaged;
        self.waiting = other.waiting;
    }
}

/// Merges the chunks of one archive.
pub struct Merger {
    archive: Archive,
    /// The chunks in the archive that this merger knows of; each was confirmed or listed.
    known: BTreeMap<ChunkName, Known>,
    encoder: Encoder,
    retired: VecDeque<Retired>,
}

/// A merged chunk and its parts, which are removed after the grace period.
struct Retired {
    wider: ChunkName,
    /// Length of the wider chunk in bytes.
    bytes: u64,
    /// Time since which the wider chunk is there, in milliseconds since the Unix epoch.
    made_ms: u64,
    parts: Vec<Removal>,
}

/// A chunk and its commits.
type Part = (Chunk, Vec<CommitRecord>);

/// Adjacent parts that have been read.
#[derive(Default)]
struct Batch {
    names: Vec<ChunkName>,
    commits: Vec<CommitRecord>,
    link: ChunkLink,
    raw_bytes: u64,
    bytes: u64,
}

impl Merger {
    /// Creates a merger that knows the chunks of a listing.
    #[must_use]
    pub fn new(archive: Archive, listing: &Listing) -> Self {
        let mut merger = Self {
            archive,
            known: BTreeMap::new(),
            encoder: Encoder::new(Profile::default()),
            retired: VecDeque::new(),
        };
        for (name, stored) in &listing.chunks {
            let since_ms = u64::try_from(stored.modified.timestamp_millis()).unwrap_or_default();
            merger.note(*name, Known { bytes: stored.size, since_ms, is_closed: false });
        }
        merger
    }

    /// Adds a chunk that is in the archive.
    pub fn note(&mut self, name: ChunkName, known: Known) {
        self.known.insert(name, known);
        while self.known.len() > KNOWN_MAX {
            self.known.pop_first();
        }
    }

    /// Adds a chunk that the uploader has archived.
    pub fn note_archived(&mut self, chunk: ArchivedChunk) {
        let ArchivedChunk { name, bytes, raw_bytes, since_ms } = chunk;
        self.note(name, Known { bytes, since_ms, is_closed: is_full(raw_bytes) });
    }

    /// Excludes a chunk from merging.
    fn close(&mut self, name: &ChunkName) {
        if let Some(known) = self.known.get_mut(name) {
            known.is_closed = true;
        }
    }

    /// Returns the plan of a round at `now_ms` (milliseconds since the Unix epoch).
    #[must_use]
    pub fn plan(&self, rules: Rules, now_ms: u64) -> MergePlan {
        plan(&self.known, rules, now_ms)
    }

    /// Runs one round: merges the planned groups and removes the chunks that have waited for the grace period.
    pub async fn round(&mut self, rules: Rules, now_ms: u64) -> Result<Round> {
        let MergePlan { groups, superseded } = self.plan(rules, now_ms);
        let mut round = Round::default();
        for group in groups {
            self.merge(&group, rules, now_ms, &mut round).await?;
        }
        for found in superseded {
            self.retire_superseded(found, rules, now_ms, &mut round).await?;
        }
        let grace_ms = u64::try_from(rules.grace.as_millis()).unwrap_or(u64::MAX);
        let due = self.retired.partition_point(|retired| retired.made_ms.saturating_add(grace_ms) <= now_ms);
        let mut due: Vec<Retired> = self.retired.drain(..due).collect();
        let removed = self.remove(&mut due, now_ms).await;
        // The parts that were not removed are tried again in the next round.
        due.into_iter().rev().filter(|retired| !retired.parts.is_empty()).for_each(|it| self.retired.push_front(it));
        round.deleted = removed?;
        round.waiting = self.retired.iter().map(|retired| retired.parts.len() as u64).sum();
        Ok(round)
    }

    async fn merge(&mut self, group: &[ChunkName], rules: Rules, now_ms: u64, round: &mut Round) -> Result<()> {
        let archive = self.archive.clone();
        let reads = stream::iter(group.to_vec()).map(move |name| read(archive.clone(), name));
        let mut reads = std::pin::pin!(reads.buffered(READS_IN_FLIGHT_MAX));
        let mut batch = Batch::default();
        while let Some((name, found)) = reads.next().await {
            let Some(part) = self.part_of(name, found?, &batch, round) else {
                self.seal(std::mem::take(&mut batch), rules, now_ms, round).await?;
                continue;
            };
            if !batch.has_room_for(&part.0, part.1.len()) {
                // The batch is sealed because it is full, so two parts suffice.
                self.seal(std::mem::take(&mut batch), Rules { parts_min: 2, ..rules }, now_ms, round).await?;
            }
            batch.push(name, part);
        }
        self.seal(batch, rules, now_ms, round).await
    }

    /// Returns the chunk read under a name as a part of this batch or of the next one; `None` if it is not to be
    /// merged.
    fn part_of(&mut self, name: ChunkName, found: Option<Bytes>, batch: &Batch, round: &mut Round) -> Option<Part> {
        let Some(bytes) = found else {
            // Another merger was faster.
            self.known.remove(&name);
            return None;
        };
        // A single large commit may compress well, but merging it is not worth the memory.
        if ChunkHeader::decode(&bytes, "").is_ok_and(|header| header.raw_len() > RAW_BYTES_MAX as u64) {
            self.close(&name);
            return None;
        }
        match open(bytes, name).and_then(|part| batch.require_continues(name, &part.1).map(|()| part)) {
            Ok(part) => Some(part),
            Err(error) => {
                self.leave_alone(name, &error, round);
                None
            }
        }
    }

    fn leave_alone(&mut self, name: ChunkName, error: &Error, round: &mut Round) {
        tracing::warn!(chunk = %name, %error, "a chunk cannot be merged and is not changed");
        self.close(&name);
        round.damaged += 1;
    }

    /// Uploads a batch as one chunk, unless the batch has too few parts.
    async fn seal(&mut self, batch: Batch, rules: Rules, now_ms: u64, round: &mut Round) -> Result<()> {
        if batch.names.len() < rules.parts_min.max(2) {
            if let [only] = &batch.names[..]
                && is_full(batch.raw_bytes)
            {
                self.close(only);
            }
            return Ok(());
        }
        let name = batch.name();
        let chunk = self.encoder.encode(batch.commits.iter(), batch.link);
        // The chunk may be there: from another merger, or from this one before a crash or a lost reply. A broken one is
        // made anew from its parts, because readers prefer the wider chunk.
        let (object, created) = (ObjectName::Chunk(name), AtomicBool::new(false));
        let placed = self.archive.put_chunk(&object, chunk.bytes(), &created, compare_commits).await?;
        let Placed::There(bytes) = placed else {
            self.leave_alone(name, &other_commits(name), round);
            batch.names.iter().for_each(|part| self.close(part));
            return Ok(());
        };
        let is_closed = is_full(batch.raw_bytes) || batch.commits.len() * 10 >= COMMITS_MAX * 9;
        self.note(name, Known { bytes, since_ms: now_ms, is_closed });
        round.merged += 1;
        round.parts += batch.names.len() as u64;
        round.bytes_before += batch.bytes;
        round.bytes_after += bytes;
        tracing::debug!(chunk = %name, parts = batch.names.len(), bytes, "chunks merged");
        self.retire(name, bytes, batch.names, now_ms);
        Ok(())
    }

    /// Notes that a wider chunk of `bytes` bytes, which is there since `made_ms`, holds the commits of these parts.
    fn retire(&mut self, wider: ChunkName, bytes: u64, parts: Vec<ChunkName>, made_ms: u64) {
        let removal = |part: ChunkName| {
            let bytes = self.known.remove(&part).map_or(0, |known| known.bytes);
            Removal { object: ObjectName::Chunk(part), bytes, why: Reason::Replaced }
        };
        let parts: Vec<Removal> = parts.into_iter().map(removal).collect();
        let at = self.retired.partition_point(|retired| retired.made_ms <= made_ms);
        self.retired.insert(at, Retired { wider, bytes, made_ms, parts });
        while self.retired.iter().map(|retired| retired.parts.len()).sum::<usize>() > RETIRED_MAX {
            self.retired.pop_front();
        }
    }

    /// Removes the parts of merged chunks whose grace period is over; returns the number of removed parts. Leaves in
    /// `due` the parts that are to be tried again: those that a pin holds and, after an error, all.
    async fn remove(&self, due: &mut [Retired], now_ms: u64) -> Result<u64> {
        let mut removals = Vec::new();
        for retired in due.iter_mut() {
            // If another merger or a prune has removed or replaced the wider chunk, the parts are left alone.
            if self.archive.head(&ObjectName::Chunk(retired.wider)).await? != Some(retired.bytes) {
                retired.parts.clear();
            }
            removals.extend(retired.parts.iter().cloned());
        }
        let mut pinned: HashSet<ObjectName> = HashSet::new();
        let now = CommitTime(now_ms.saturating_mul(1000));
        let swept = sweep(&self.archive, &removals, |pins, batch| {
            let is_held = |removal: &Removal| match removal.object {
                ObjectName::Chunk(chunk) => is_pinned(&pins, chunk, now),
                _ => false,
            };
            let (held, free): (Vec<Removal>, Vec<Removal>) = batch.iter().cloned().partition(is_held);
            pinned.extend(held.into_iter().map(|removal| removal.object));
            Ok(free)
        })
        .await?;
        if let Some(denied) = swept.denied {
            return Err(denied);
        }
        due.iter_mut().for_each(|retired| retired.parts.retain(|part| pinned.contains(&part.object)));
        Ok(swept.removed)
    }

    /// Retires chunks that a listing showed beside a wider chunk, if the wider chunk holds their commits.
    async fn retire_superseded(
        &mut self,
        found: Superseded,
        rules: Rules,
        now_ms: u64,
        round: &mut Round,
    ) -> Result<()> {
        let Superseded { wider, parts } = found;
        let archive = self.archive.clone();
        let (_, bytes) = read(archive.clone(), wider).await;
        let Some(bytes) = bytes? else {
            self.known.remove(&wider);
            return Ok(());
        };
        let wider_bytes = bytes.len() as u64;
        let (_, held) = match open(bytes, wider) {
            Ok(opened) => opened,
            Err(error) => {
                self.leave_alone(wider, &error, round);
                return self.repair(wider, &parts, rules, now_ms, round).await;
            }
        };
        let reads = stream::iter(parts).map(move |name| read(archive.clone(), name));
        let mut reads = std::pin::pin!(reads.buffered(READS_IN_FLIGHT_MAX));
        let mut done = Vec::new();
        while let Some((name, found)) = reads.next().await {
            let from = name.first.since(wider.first) as usize;
            let until = name.last.since(wider.first) as usize;
            match found?.map(|bytes| open(bytes, name)).transpose() {
                Ok(None) => drop(self.known.remove(&name)),
                Ok(Some((_, commits))) if commits == held[from..=until] => done.push(name),
                Ok(Some(_)) => self.leave_alone(name, &other_commits(name), round),
                Err(error) => self.leave_alone(name, &error, round),
            }
        }
        let made_ms = self.known.get(&wider).map_or(now_ms, |known| known.since_ms);
        self.retire(wider, wider_bytes, done, made_ms);
        Ok(())
    }

    /// Replaces an unreadable wider chunk by one made from its parts, if the parts are there.
    async fn repair(
        &mut self,
        wider: ChunkName,
        parts: &[ChunkName],
        rules: Rules,
        now_ms: u64,
        round: &mut Round,
    ) -> Result<()> {
        let rules = Rules { parts_min: 2, ..rules };
        let mut batch = Batch::default();
        let mut next = wider.first;
        for name in parts {
            if name.first != next {
                continue;
            }
            let (_, found) = read(self.archive.clone(), *name).await;
            let Some(part) = self.part_of(*name, found?, &batch, round) else { return Ok(()) };
            batch.push(*name, part);
            next = name.last.next();
        }
        if next == wider.last.next() { self.seal(batch, rules, now_ms, round).await } else { Ok(()) }
    }
}

impl Batch {
    fn name(&self) -> ChunkName {
        let (first, last) = (self.names[0], self.names[self.names.len() - 1]);
        ChunkName { last: last.last, ..first }
    }

    fn has_room_for(&self, part: &Chunk, commits: usize) -> bool {
        self.names.is_empty()
            || (self.raw_bytes + part.header().raw_len() <= RAW_BYTES_MAX as u64
                && self.commits.len() + commits <= COMMITS_MAX)
    }

    /// Checks that a chunk's commits follow those of the batch, in time and in history.
    fn require_continues(&self, name: ChunkName, commits: &[CommitRecord]) -> Result<()> {
        let Some((last, first)) = self.commits.last().zip(commits.first()) else { return Ok(()) };
        if last.time > first.time {
            return Err(Error::corrupt(
                name.to_string(),
                "header",
                "its commits are older than those of the chunk before it",
            ));
        }
        first.require_continues(last.hash, &name.to_string())
    }

    fn push(&mut self, name: ChunkName, (part, commits): Part) {
        let header = part.header();
        if self.names.is_empty() {
            self.link = ChunkLink { epoch: header.epoch, hash_before: header.hash_before, ..ChunkLink::default() };
        }
        self.raw_bytes += header.raw_len();
        self.bytes += part.bytes().len() as u64;
        self.names.push(name);
        self.commits.extend(commits);
    }
}

async fn read(archive: Archive, name: ChunkName) -> (ChunkName, Result<Option<Bytes>>) {
    // One wrong answer must not decide: a chunk that was found damaged is excluded from later rounds.
    let found = archive.get_sensible(&ObjectName::Chunk(name), |bytes| open_chunk(bytes.clone(), name).is_ok()).await;
    (name, found)
}

/// Opens a chunk and checks it against its name. The commits are not read.
fn open_chunk(bytes: Bytes, name: ChunkName) -> Result<Chunk> {
    let what = name.to_string();
    let chunk = Chunk::open(bytes, &what)?;
    let header = chunk.header();
    if (header.epoch, header.first, header.last) != (name.epoch, name.first, name.last) {
        let detail = format!("csn {} to {} of epoch {}", header.first, header.last, header.epoch);
        return Err(Error::corrupt(what, "header", format!("its name does not match its header: {detail}")));
    }
    Ok(chunk)
}

/// Opens a chunk, checks it against its name and reads its commits.
fn open(bytes: Bytes, name: ChunkName) -> Result<Part> {
    let chunk = open_chunk(bytes, name)?;
    let commits = chunk.commits().collect::<Result<Vec<CommitRecord>>>()?;
    Ok((chunk, commits))
}

fn other_commits(name: ChunkName) -> Error {
    Error::corrupt(name.to_string(), "content", "two chunks hold different commits under the same csns")
}
