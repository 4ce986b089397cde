//! Completes a base whose engines were cut at different commits, so that restoring from the base needs no chunks.
//!
//! Guarantees: published objects are never changed. The commits between the cuts are stored beside the base's files,
//! under names derived from their content; then a strict manifest is created, which supersedes the earlier manifest. An
//! interruption at any step leaves a base that can be restored from as before. Several nodes may repair one base at the
//! same time; the first manifest wins. A repair holds about two chunks of commits in memory.

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
use crate::log::reader::LogCursor;
use crate::record::CommitRecord;
use crate::snapshot::completion::CompletionBuilder;
use crate::snapshot::manifest::{FileRef, Level, Manifest};
use crate::snapshot::mover::{create_manifest, is_whole};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// The origin of the commits between the cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// This node's logs.
    Logs,
    /// The archive's chunks.
    Archive,
}

/// The outcome of a repair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Repair {
    /// This call made the base strict.
    Done {
        /// The origin of the commits.
        source: Source,
        /// Bytes that were added to the archive.
        bytes: u64,
    },
    /// The base was already strict: another node was first.
    Whole,
}

/// Returns the bases on the line of `epoch` that are marked for repair (level eventual) and were not repaired. Costs
/// one LIST, and a GET or two for each base whose engines were cut at different commits.
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

/// Repairs a base. `logs` is a node that has the commits up to the base's csn and may hold them in its logs. If `logs`
/// is `None`, or if the logs do not reach back far enough, the repair reads the archive's chunks.
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

/// Reports whether a base has a complete strict manifest; a torn manifest does not count.
async fn has_whole(archive: &Archive, base: BaseName) -> Result<bool> {
    let found = archive.get_sensible(&ObjectName::BaseManifest(base), |found| is_whole(found)).await?;
    Ok(found.is_some_and(|found| is_whole(&found)))
}

fn gap(start: BaseStart) -> Error {
    let found = "nothing".to_owned();
    Error::Gap { what: "the logs".to_owned(), expected: start.after.next(), found }
}

/// Stores the commits between the cuts and returns references to the new files.
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
    /// Reads both logs on a separate thread, at most one slice ahead.
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

/// Passes the commits between the cuts to `take` in slices, until `take` returns false. Blocking.
fn read_logs(committer: &Committer, start: BaseStart, take: impl Fn(Arc<[CommitRecord]>) -> bool) -> Result<()> {
    let BaseStart { base, after } = start;
    if committer.watermarks.committed.get() < base.csn {
        return Err(gap(start));
    }
    let from = LogCursor { csn: after, ..committer.log_cursor(after)? };
    let (reader, end) = committer.log_reader();
    let (mut slice, mut bytes) = (Vec::new(), 0);
    for commit in reader.commits(from, LogCursor { csn: base.csn, ..end })? {
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
