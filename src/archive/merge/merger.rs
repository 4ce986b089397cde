//! Reads and merges chunks, uploads the merged chunks, and deletes their parts.
//!
//! Guarantees: memory is bounded by the commits of one chunk and by [`READS_IN_FLIGHT_MAX`] parts; whatever ends a
//! round, the next round continues. A part that cannot be read is left as it is and named in the log.

use super::ledger::{Known, Ledger, is_full};
use super::plan::{MergePlan, Rules, Superseded, plan};
use crate::archive::layout::{ChunkName, ObjectName};
use crate::archive::store::{Archive, Creation};
use crate::chunk::{Chunk, ChunkHeader, ChunkLink, Encoder, Profile, RAW_BYTES_MAX};
use crate::error::{Error, Result};
use crate::record::CommitRecord;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// Largest number of parts being read or deleted at a time.
pub(super) const READS_IN_FLIGHT_MAX: usize = 8;

/// Largest number of commits in a merged chunk. Without this limit, millions of commits without effects would fit.
const COMMITS_MAX: usize = 1 << 17;

/// Largest number of merged parts that wait for their deletion. Beyond it the oldest parts are left to the next
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
    /// Chunks deleted because a wider one holds their commits.
    pub deleted: u64,
    /// Chunks that wait for the end of the grace period.
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
    ledger: Arc<Ledger>,
    encoder: Encoder,
    retired: VecDeque<Retired>,
}

/// A merged chunk and its parts, which are deleted after the grace period.
struct Retired {
    wider: ChunkName,
    bytes: u64,
    /// Time at which the merged chunk was made, in milliseconds since the Unix epoch.
    made_ms: u64,
    parts: Vec<ChunkName>,
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
    /// Creates a merger for the chunks in the ledger.
    #[must_use]
    pub fn new(archive: Archive, ledger: Arc<Ledger>) -> Self {
        Self { archive, ledger, encoder: Encoder::new(Profile::default()), retired: VecDeque::new() }
    }

    /// Returns the plan of a round at `now_ms` (milliseconds since the Unix epoch).
    #[must_use]
    pub fn plan(&self, rules: Rules, now_ms: u64) -> MergePlan {
        plan(&self.ledger.chunks(), rules, now_ms)
    }

    /// Runs one round: merges the planned groups and deletes the chunks that have waited for the grace period.
    pub async fn round(&mut self, rules: Rules, now_ms: u64) -> Result<Round> {
        let MergePlan { groups, superseded } = self.plan(rules, now_ms);
        let mut round = Round::default();
        for group in groups {
            self.merge(&group, rules, now_ms, &mut round).await?;
        }
        for found in superseded {
            self.remove_superseded(found, now_ms, &mut round).await?;
        }
        self.remove_retired(rules, now_ms, &mut round).await?;
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
                self.seal(std::mem::take(&mut batch), rules.parts_min, now_ms, round).await?;
                continue;
            };
            if !batch.has_room_for(&part.0, part.1.len()) {
                // The batch is sealed because it is full, so two parts suffice.
                self.seal(std::mem::take(&mut batch), 2, now_ms, round).await?;
            }
            batch.push(name, part);
        }
        self.seal(batch, rules.parts_min, now_ms, round).await
    }

    /// Returns the chunk read under a name as a part of this batch or of the next one; `None` if it is not to be
    /// merged.
    fn part_of(&self, name: ChunkName, found: Option<Bytes>, batch: &Batch, round: &mut Round) -> Option<Part> {
        let Some(bytes) = found else {
            // Another merger was faster.
            self.ledger.forget(&name);
            return None;
        };
        // A single large commit may compress well, but merging it is not worth the memory.
        if ChunkHeader::decode(&bytes, "").is_ok_and(|header| header.raw_len() > RAW_BYTES_MAX as u64) {
            self.ledger.close(&name);
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

    fn leave_alone(&self, name: ChunkName, error: &Error, round: &mut Round) {
        tracing::warn!(chunk = %name, %error, "a chunk cannot be merged and is not changed");
        self.ledger.close(&name);
        round.damaged += 1;
    }

    /// Uploads a batch as one chunk, unless the batch has too few parts.
    async fn seal(&mut self, batch: Batch, parts_min: usize, now_ms: u64, round: &mut Round) -> Result<()> {
        if batch.names.len() < parts_min.max(2) {
            if let [only] = &batch.names[..]
                && is_full(batch.raw_bytes)
            {
                self.ledger.close(only);
            }
            return Ok(());
        }
        let name = batch.name();
        let chunk = self.encoder.encode(batch.commits.iter(), batch.link);
        let Some(bytes) = self.store(name, &chunk, &batch).await? else {
            self.leave_alone(name, &other_commits(name), round);
            batch.names.iter().for_each(|part| self.ledger.close(part));
            return Ok(());
        };
        let is_closed = is_full(batch.raw_bytes) || batch.commits.len() * 10 >= COMMITS_MAX * 9;
        self.ledger.note(name, Known { bytes, since_ms: now_ms, is_closed });
        batch.names.iter().for_each(|part| self.ledger.forget(part));
        round.merged += 1;
        round.parts += batch.names.len() as u64;
        round.bytes_before += batch.bytes;
        round.bytes_after += bytes;
        tracing::debug!(chunk = %name, parts = batch.names.len(), bytes, "chunks merged");
        self.retired.push_back(Retired { wider: name, bytes, made_ms: now_ms, parts: batch.names });
        while self.retired.iter().map(|retired| retired.parts.len()).sum::<usize>() > RETIRED_MAX {
            self.retired.pop_front();
        }
        Ok(())
    }

    /// Stores a merged chunk, or finds that it is already there: from another merger, or from this one before a crash
    /// or a lost reply. Returns the stored length; `None` if other commits lie under the chunk's name.
    async fn store(&self, name: ChunkName, chunk: &Chunk, batch: &Batch) -> Result<Option<u64>> {
        let (object, bytes) = (ObjectName::Chunk(name), chunk.bytes().len() as u64);
        if self.archive.put_new(&object, chunk.bytes().clone()).await? == Creation::Created {
            return Ok(Some(bytes));
        }
        let (_, found) = read(self.archive.clone(), name).await;
        let Some(found) = found? else {
            let detail = format!("refused to create {name} as an existing object, but does not return the object");
            return Err(Error::StoreContract { url: self.archive.url().to_owned(), detail });
        };
        let found_bytes = found.len() as u64;
        match open(found, name) {
            Ok((_, commits)) => Ok((commits == batch.commits).then_some(found_bytes)),
            // Readers prefer the wider chunk, so an unreadable one must not stay.
            Err(error) => {
                tracing::warn!(chunk = %name, %error, "a merged chunk is damaged; it is made again from its parts");
                self.archive.put_verified(&object, chunk.bytes().clone()).await?;
                Ok(Some(bytes))
            }
        }
    }

    /// Deletes the parts of merged chunks whose grace period is over.
    async fn remove_retired(&mut self, rules: Rules, now_ms: u64, round: &mut Round) -> Result<()> {
        let grace_ms = u64::try_from(rules.grace.as_millis()).unwrap_or(u64::MAX);
        while let Some(retired) =
            self.retired.front().filter(|retired| retired.made_ms.saturating_add(grace_ms) <= now_ms)
        {
            // If another merger or a prune has removed or replaced the wider chunk, the parts are left alone.
            if self.archive.head(&ObjectName::Chunk(retired.wider)).await? == Some(retired.bytes) {
                round.deleted += delete(&self.archive, &retired.parts).await?;
            }
            self.retired.pop_front();
        }
        Ok(())
    }

    /// Deletes chunks that a listing showed beside a wider chunk, if the wider chunk holds their commits.
    async fn remove_superseded(&mut self, found: Superseded, now_ms: u64, round: &mut Round) -> Result<()> {
        let Superseded { wider, parts } = found;
        let (_, bytes) = read(self.archive.clone(), wider).await;
        let Some(bytes) = bytes? else {
            self.ledger.forget(&wider);
            return Ok(());
        };
        let (_, held) = match open(bytes, wider) {
            Ok(opened) => opened,
            Err(error) => {
                self.leave_alone(wider, &error, round);
                return self.repair(wider, &parts, now_ms, round).await;
            }
        };
        let reads = stream::iter(parts).map(|name| read(self.archive.clone(), name));
        let mut reads = std::pin::pin!(reads.buffered(READS_IN_FLIGHT_MAX));
        let mut done = Vec::new();
        while let Some((name, found)) = reads.next().await {
            let from = name.first.since(wider.first) as usize;
            let until = name.last.since(wider.first) as usize;
            match found?.map(|bytes| open(bytes, name)).transpose() {
                Ok(None) => self.ledger.forget(&name),
                Ok(Some((_, commits))) if commits == held[from..=until] => done.push(name),
                Ok(Some(_)) => self.leave_alone(name, &other_commits(name), round),
                Err(error) => self.leave_alone(name, &error, round),
            }
        }
        round.deleted += delete(&self.archive, &done).await?;
        done.iter().for_each(|name| self.ledger.forget(name));
        Ok(())
    }

    /// Replaces an unreadable wider chunk by one made from its parts, if the parts are there.
    async fn repair(&mut self, wider: ChunkName, parts: &[ChunkName], now_ms: u64, round: &mut Round) -> Result<()> {
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
        if next == wider.last.next() { self.seal(batch, 2, now_ms, round).await } else { Ok(()) }
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

async fn delete(archive: &Archive, names: &[ChunkName]) -> Result<u64> {
    let deletes = names.iter().map(|name| {
        let (archive, name) = (archive.clone(), ObjectName::Chunk(*name));
        async move { archive.delete(&name).await }
    });
    let deletes: Vec<_> = deletes.collect();
    stream::iter(deletes).buffer_unordered(READS_IN_FLIGHT_MAX).try_collect::<()>().await?;
    Ok(names.len() as u64)
}
