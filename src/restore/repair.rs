//! Completes a base whose engines were cut at different commits, so that it needs no chunks any more.
//!
//! Guarantees: what was published is never changed: the commits between the cuts are stored beside the base's files under
//! names of their content, then a strict manifest is created, which supersedes the one before. Interrupted at any step it
//! leaves a base that can be restored from as before. Several nodes may repair one base at once; the first manifest stays.
//! Holds about two chunks of commits in memory.

use crate::archive::epochs::EpochTree;
use crate::archive::layout::{BaseName, ObjectName};
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing};
use crate::archive::store::Archive;
use crate::chunk::RAW_BYTES_MAX;
use crate::cluster::ClusterId;
use crate::commit::committer::Committer;
use crate::csn::Epoch;
use crate::error::{Error, Result};
use crate::history::catch_up::CatchUp;
use crate::history::line::read_manifest;
use crate::log::reader::LogPosition;
use crate::record::CommitRecord;
use crate::snapshot::completion::CompletionBuilder;
use crate::snapshot::manifest::{FileRef, Level, Manifest};
use crate::snapshot::publish::{create_manifest, is_whole};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Where the commits between the cuts came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// This node's logs.
    Logs,
    /// The archive's chunks.
    Archive,
}

/// What became of a base.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Repair {
    /// It is strict now.
    Done {
        /// Where the commits came from.
        source: Source,
        /// Bytes that were added.
        bytes: u64,
    },
    /// It was strict already: somebody else was there first.
    Whole,
}

/// The bases on the line of `epoch` that are marked as needing repair and were not repaired. One LIST, and a GET for each
/// base whose engines were cut at different commits.
pub async fn unrepaired(archive: &Archive, cluster: ClusterId, epoch: Epoch) -> Result<Vec<BaseStart>> {
    let listing = Listing::read(archive).await?;
    let Some(lineage) = Lineage::of(&listing.epochs, epoch) else { return Ok(Vec::new()) };
    let is_open = |start: &BaseStart| !start.is_whole() && lineage.contains(start.base);
    let mut found = Vec::new();
    for start in listing.base_starts().filter(is_open) {
        if listing.bases[&start.base].manifest.is_some() && has_whole(archive, start.base).await? {
            continue;
        }
        match read_manifest(archive, cluster, start).await {
            Ok(manifest) if manifest.level == Level::Eventual => found.push(start),
            Ok(_) => {}
            Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
                tracing::warn!(base = %start.base, %error, "a base cannot be repaired");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Repairs a base. `logs`: a node that holds the commits up to the base's csn and may still have them in its logs;
/// without one, or if they do not reach back, the archive's chunks are read.
pub async fn repair(
    archive: &Archive,
    cluster: ClusterId,
    start: BaseStart,
    logs: Option<&Arc<Committer>>,
) -> Result<Repair> {
    if start.is_whole() || has_whole(archive, start.base).await? {
        return Ok(Repair::Whole);
    }
    let manifest = read_manifest(archive, cluster, start).await?;
    let from_logs = match logs {
        Some(committer) => completion_of(archive, &manifest, Commits::of_logs(committer, start)).await,
        None => Err(gap(start)),
    };
    let (source, files) = match from_logs {
        Ok(files) => (Source::Logs, files),
        Err(Error::Gap { .. }) => {
            let commits = Commits::of_archive(archive, &manifest).await?;
            (Source::Archive, completion_of(archive, &manifest, commits).await?)
        }
        Err(error) => return Err(error),
    };
    let bytes = files.iter().map(|file| file.bytes).sum();
    if !create_manifest(archive, &manifest.completed(files)).await? {
        return Ok(Repair::Whole);
    }
    tracing::info!(csn = %start.base.csn, epoch = %start.base.epoch, ?source, bytes, "base repaired");
    Ok(Repair::Done { source, bytes })
}

/// Whether a base has a strict manifest. A torn one is none.
async fn has_whole(archive: &Archive, base: BaseName) -> Result<bool> {
    let found = archive.get_sensible(&ObjectName::BaseManifest(base), |found| is_whole(found)).await?;
    Ok(found.is_some_and(|found| is_whole(&found)))
}

fn gap(start: BaseStart) -> Error {
    let found = "nothing".to_owned();
    Error::Gap { what: "the logs".to_owned(), expected: start.after.next(), found }
}

/// Stores the commits between the cuts.
async fn completion_of(archive: &Archive, manifest: &Manifest, mut commits: Commits) -> Result<Vec<FileRef>> {
    let start = manifest.start();
    let mut builder = CompletionBuilder::new(start.after, start.base.csn, start.base.epoch);
    let mut files = Vec::new();
    while !builder.is_complete()
        && let Some(next) = commits.next().await?
    {
        let full: Vec<(FileRef, Bytes)>;
        (builder, full) = crate::threads::blocking(move || {
            let pushed = next.iter().map(|commit| builder.push(commit.clone()));
            let full = pushed.filter_map(Result::transpose).collect::<Result<_>>()?;
            Ok((builder, full))
        })
        .await?;
        for file in full {
            files.push(store(archive, start, file).await?);
        }
    }
    if let Some(last) = builder.finish()? {
        files.push(store(archive, start, last).await?);
    }
    Ok(files)
}

async fn store(archive: &Archive, start: BaseStart, (file, content): (FileRef, Bytes)) -> Result<FileRef> {
    archive.put_verified(&file.object(start.base), content).await?;
    Ok(file)
}

/// Commits in dense csn order, in slices of about one chunk.
enum Commits {
    Logs(mpsc::Receiver<Result<Arc<[CommitRecord]>>>),
    Archive(Box<CatchUp>),
}

impl Commits {
    /// Reads both logs on a thread of its own, which waits when it is one slice ahead.
    fn of_logs(committer: &Arc<Committer>, start: BaseStart) -> Self {
        let committer = Arc::clone(committer);
        let (slices, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let send = |slice: Result<Arc<[CommitRecord]>>| slices.blocking_send(slice).is_ok();
            if let Err(error) = read_logs(&committer, start, |slice| send(Ok(slice))) {
                send(Err(error));
            }
        });
        Self::Logs(receiver)
    }

    async fn of_archive(archive: &Archive, manifest: &Manifest) -> Result<Self> {
        let start = manifest.start();
        let tree = EpochTree::read(archive).await?;
        let lineage = Lineage::of(&tree, start.base.epoch).ok_or_else(|| gap(start))?;
        let after = manifest.start_position(lineage.epoch_at(start.after));
        CatchUp::open(archive, &lineage, after).await.map(|commits| Self::Archive(Box::new(commits)))
    }

    async fn next(&mut self) -> Result<Option<Arc<[CommitRecord]>>> {
        match self {
            Self::Logs(slices) => slices.recv().await.transpose(),
            Self::Archive(commits) => commits.next().await,
        }
    }
}

/// Gives the commits between the cuts in slices, until `take` refuses. Blocking.
fn read_logs(committer: &Committer, start: BaseStart, take: impl Fn(Arc<[CommitRecord]>) -> bool) -> Result<()> {
    let BaseStart { base, after } = start;
    if committer.watermarks.committed.get() < base.csn {
        return Err(gap(start));
    }
    let from = LogPosition { csn: after, ..committer.log_position(after)? };
    let (reader, end) = committer.log_reader();
    let (mut slice, mut bytes) = (Vec::new(), 0);
    for commit in reader.commits(from, LogPosition { csn: base.csn, ..end })? {
        let commit: CommitRecord = commit?;
        bytes += size_of::<CommitRecord>() + commit.effect_bytes();
        let is_last = commit.csn == base.csn;
        slice.push(commit);
        if bytes >= RAW_BYTES_MAX || is_last {
            bytes = 0;
            if !take(std::mem::take(&mut slice).into()) {
                break;
            }
        }
    }
    Ok(())
}
