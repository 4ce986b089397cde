//! Copies a range of history from one archive into another, as a self-contained backup: `walferry copy`.
//!
//! ```text
//! plan      which bases, chunks and epoch records; pure
//! transfer  copies and checks them
//! ```
//!
//! Guarantees: every object is checked while it is copied (chunks down to the last op, files of bases by their BLAKE3
//! hashes). An object is stored before the objects that refer to it, and the records of the epochs last, so no restore
//! uses an interrupted copy. A copy that is started again sends only the missing objects. No whole object of the target
//! is replaced. Chunks, bases and epoch records are moved as a primary moves them to its archives: by
//! [`crate::archive::chunk_put`], [`crate::snapshot::mover`] and [`crate::archive::epochs::claim_line`]. The archive of another cluster, or an archive with another history, is refused. At the end the copy checks
//! that the range can be restored from the target. A pin protects the objects of the plan from a prune while they are
//! copied.
//!
//! Memory: a few chunks and a few pieces of files, independent of the size of the archive.
//!
//! Non-goals: chunks without commits of the range's line of history, bases of other branches, unfinished bases.

mod plan;
mod report;
mod transfer;

pub use plan::{CopyPlan, Incomplete, plan};
pub use report::{CopyReport, Moved};

use super::progress::{Meter, Phase, ProgressSink};
use crate::archive::listing::BaseStart;
use crate::archive::pins::PinRange;
use crate::archive::store::Archive;
use crate::csn::{Csn, Epoch};
use crate::error::{Error, Result};
use crate::history::line::History;
use crate::history::plan::SkippedBase;
use crate::history::reader_pin::ReaderPin;
use crate::history::target::Target;
use crate::snapshot::manifest::Manifest;
use futures::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::time::Instant;

/// Limit on the number of manifests that are read at the same time.
const MANIFESTS_IN_FLIGHT_MAX: usize = 8;

/// Options of a copy.
#[derive(Clone)]
pub struct CopyOptions {
    /// First commit that must be restorable from the copy; `None` for the first one that leads to `until` without a
    /// gap.
    pub from: Option<Csn>,
    /// Last commit that must be restorable from the copy.
    pub until: Target,
    /// The epoch whose line of history is followed; `None` for the newest epoch.
    pub epoch: Option<Epoch>,
    /// Receives the progress.
    pub progress: ProgressSink,
}

/// Copies a range of history from one archive into another.
pub async fn copy(from: &Archive, to: &Archive, options: CopyOptions) -> Result<CopyReport> {
    // Before the plan exists the needed objects are unknown, so the pin protects everything.
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

/// Reads the manifests of the line's bases; returns the usable manifests and the unusable bases.
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
