//! From one archive into another: a self-contained backup of a range of history, `walferry copy`.
//!
//! ```text
//! plan      which bases, chunks and epoch records; pure
//! transfer  brings them over, each checked on its way
//! ```
//!
//! Guarantees: what is stored in the target was checked while it was copied (chunks to the last op, files of bases by
//! their BLAKE3); data goes before what refers to it, the records of the epochs last, so that a copy that was cut off is
//! nothing anybody restores from, and goes on when it is started again: what is there already is not sent again. Nothing
//! of the target is replaced, and another cluster's archive, or one in which history went another way, is refused. At the
//! end the range can be restored from the target: that is looked at.
//! Memory: some chunks and some pieces of files, whatever the size of the archive.
//! Non-goals: chunks that carry nothing of the range's line of history, bases of other branches, unfinished bases.
//! What the plan names is pinned while it is copied, so that a prune spares it.

mod plan;
mod transfer;

pub use plan::{CopyPlan, Incomplete, plan};

use super::progress::{Meter, Phase, ProgressSink};
use crate::archive::listing::BaseStart;
use crate::archive::pins::PinRange;
use crate::archive::store::Archive;
use crate::cluster::ClusterId;
use crate::csn::{Csn, Epoch};
use crate::error::{Error, Result};
use crate::history::line::History;
use crate::history::plan::SkippedBase;
use crate::history::reach::CsnRange;
use crate::history::reader_pin::ReaderPin;
use crate::history::target::Target;
use crate::snapshot::manifest::Manifest;
use futures::stream::{self, StreamExt};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// Manifests being read at a time.
const MANIFESTS_IN_FLIGHT_MAX: usize = 8;

/// What to copy, and how.
#[derive(Clone)]
pub struct CopyOptions {
    /// First commit that must be restorable from the copy; none: the first that leads to `until` without a gap.
    pub from: Option<Csn>,
    /// The last one.
    pub until: Target,
    /// The epoch whose line of history is followed; none: the newest.
    pub epoch: Option<Epoch>,
    /// Who is told how far it is.
    pub progress: ProgressSink,
}

/// What a copy did.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct CopyReport {
    /// Whose archives they are.
    pub cluster: ClusterId,
    /// The newest epoch in the copied line of history.
    pub epoch: Epoch,
    /// First and last commit that can be restored from the copy.
    #[serde(flatten)]
    pub range: CsnRange,
    /// Bases copied, or there already.
    pub bases: u64,
    /// Bases within the range that are of no use, and why: not copied.
    pub skipped: Vec<SkippedBase>,
    /// What was sent.
    pub copied: Moved,
    /// What was there already.
    pub present: Moved,
    /// Named restore points that are in the target now.
    pub marks: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Objects that make up an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Moved {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes.
    pub chunk_bytes: u64,
    /// Files of bases, without the manifests.
    pub files: u64,
    /// Their bytes.
    pub file_bytes: u64,
}

/// Copies a range of history.
pub async fn copy(from: &Archive, to: &Archive, options: CopyOptions) -> Result<CopyReport> {
    // What is needed is not known yet: everything is held while it is planned.
    let pin = ReaderPin::take(from, "copy", PinRange::ALL).await;
    let outcome = copy_held(from, to, options, &pin).await;
    pin.release().await;
    outcome
}

async fn copy_held(from: &Archive, to: &Archive, options: CopyOptions, pin: &ReaderPin) -> Result<CopyReport> {
    let started = Instant::now();
    Meter::begin(&options.progress, Phase::Plan, 0);
    let history = History::read(from, options.epoch).await?;
    let until = history.plan(&options.until).await?.plan.target;
    let (manifests, skipped) = manifests(&history, until).await?;
    let usable = |start: &BaseStart| manifests.contains_key(start);
    let plan = plan(&history.listing, &history.lineage, usable, options.from, until);
    let plan = plan.map_err(|incomplete| unreachable(&history, incomplete))?;
    pin.change(plan.pin()).await;
    let mut report = transfer::run(&history, to, &plan, &manifests, &options.progress).await?;
    Meter::begin(&options.progress, Phase::Finish, 0);
    transfer::require_restorable(to, &plan).await?;
    report.skipped = skipped.into_iter().filter(|skip| plan.range.contains(skip.base.csn)).collect();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// The manifests of the line's bases up to `until`, and the bases that cannot be used.
async fn manifests(history: &History, until: Csn) -> Result<(BTreeMap<BaseStart, Manifest>, Vec<SkippedBase>)> {
    let on_line = history.listing.base_starts().filter(|start| history.lineage.contains(start.base));
    let reads = on_line.map(|start| async move { (start, history.manifest(start).await) });
    let mut reads = stream::iter(reads).buffered(MANIFESTS_IN_FLIGHT_MAX);
    let (mut manifests, mut skipped) = (BTreeMap::new(), Vec::new());
    while let Some((start, outcome)) = reads.next().await {
        match outcome {
            Ok(manifest) => drop(manifests.insert(start, manifest)),
            Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
                let BaseStart { base, after } = start;
                tracing::warn!(%base, %error, "a base cannot be used and is not copied");
                skipped.push(SkippedBase { base, after, why: error.to_string() });
            }
            Err(error) => return Err(error),
        }
    }
    tracing::debug!(%until, bases = manifests.len(), "manifests read");
    Ok((manifests, skipped))
}

fn unreachable(history: &History, incomplete: Incomplete) -> Error {
    let Incomplete { asked, possible } = incomplete;
    Error::Unreachable {
        target: format!("csn {asked}"),
        reason: format!(
            "{} cannot restore each of these commits of epoch {}'s history",
            history.archive.url(),
            history.lineage.leaf()
        ),
        nearest: possible.map_or_else(|| "none".to_owned(), |range| format!("csn {range}")),
    }
}
