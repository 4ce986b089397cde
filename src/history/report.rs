//! What an archive holds and what it can restore: `walferry snapshots`, `walferry status --archive`.

use super::abandoned::Abandoned;
use super::line::History;
use super::plan::as_text;
use super::reach::CsnRange;
use super::times::Times;
use crate::archive::epochs::EpochRecord;
use crate::archive::layout::{BaseName, RunName};
use crate::archive::listing::BaseStart;
use crate::archive::marks;
use crate::archive::store::Archive;
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::error::{Error, Result};
use crate::snapshot::manifest::{CutRecord, Level, Manifest};
use futures::stream::{self, StreamExt};
use serde::Serialize;

/// Manifests being read at a time.
const MANIFESTS_IN_FLIGHT_MAX: usize = 8;

/// What an archive holds.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotsReport {
    /// Whose archive it is.
    pub cluster: ClusterId,
    /// The epoch whose line of history `ranges` and `gaps` are about.
    pub epoch: Epoch,
    /// All bases, by csn.
    pub bases: Vec<BaseReport>,
    /// Restorable commits, ascending: any commit in a range can be restored.
    pub ranges: Vec<RangeReport>,
    /// Commits in whose place a run is: they cannot be restored one by one.
    pub coarse: Vec<CsnRange>,
    /// Commits after the first restorable one that are known to exist but are missing.
    pub gaps: Vec<CsnRange>,
    /// Such commits that the retention policy let go.
    pub thinned: Vec<CsnRange>,
    /// All marks, by name.
    pub marks: Vec<MarkReport>,
    /// All compacted runs that are whole, by first csn.
    pub runs: Vec<RunReport>,
    /// All epochs, oldest first.
    pub epochs: Vec<EpochRecord>,
    /// Commits that lie on no line that is followed.
    pub abandoned: Vec<Abandoned>,
    /// Number of chunks, of all epochs.
    pub chunks: u64,
    /// Bytes of chunks, of all epochs.
    pub chunk_bytes: u64,
    /// Bytes of SSTs, which bases share.
    pub sst_bytes: u64,
}

/// A compacted run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RunReport {
    /// Its first commit.
    pub first: Csn,
    /// Its last commit.
    pub last: Csn,
    /// The generation that made that.
    pub epoch: Epoch,
    /// Whether it lies on the reported line of history.
    pub is_on_line: bool,
    /// Number of its files.
    pub files: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// A base.
#[derive(Clone, Debug, Serialize)]
pub struct BaseReport {
    /// Its name.
    #[serde(serialize_with = "as_text")]
    pub name: BaseName,
    /// The commit it lies at: no engine in it is beyond.
    pub csn: Csn,
    /// The commit after which it needs chunks: lower than its csn if its engines were cut at different commits.
    pub after: Csn,
    /// The history it was cut from.
    pub epoch: Epoch,
    /// Whether it lies on the reported line of history.
    pub is_on_line: bool,
    /// What its manifest tells; none if that cannot be read.
    pub content: Option<BaseContent>,
    /// Why the manifest cannot be read.
    pub problem: Option<String>,
}

/// What a manifest tells.
#[derive(Clone, Debug, Serialize)]
pub struct BaseContent {
    /// Time of the commit it lies at, microseconds since the Unix epoch.
    pub time: CommitTime,
    /// How its engines' positions relate.
    pub level: Level,
    /// How it was cut and by whom.
    pub cut: CutRecord,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes the archive did not have before.
    pub bytes_new: u64,
    /// Bytes of SSTs that an earlier base had brought.
    pub bytes_shared: u64,
}

impl From<&Manifest> for BaseContent {
    fn from(manifest: &Manifest) -> Self {
        Self {
            time: manifest.time,
            level: manifest.level,
            cut: manifest.cut.clone(),
            bytes: manifest.bytes(),
            bytes_new: manifest.bytes_new,
            bytes_shared: manifest.bytes_shared,
        }
    }
}

/// A mark.
#[derive(Clone, Debug, Serialize)]
pub struct MarkReport {
    /// Its name.
    pub name: String,
    /// Its commit; none if the record cannot be read.
    pub csn: Option<Csn>,
    /// The epoch that made it.
    pub epoch: Option<Epoch>,
    /// When, microseconds since the Unix epoch.
    pub time: Option<CommitTime>,
    /// Whether it lies on the reported line of history.
    pub is_on_line: bool,
    /// Why the record cannot be read.
    pub problem: Option<String>,
}

async fn read_marks(history: &History) -> Result<Vec<MarkReport>> {
    let mut reports = Vec::new();
    for name in history.listing.marks.keys() {
        let unread =
            MarkReport { name: name.to_string(), csn: None, epoch: None, time: None, is_on_line: false, problem: None };
        match marks::read(&history.archive, name).await {
            Ok(Some(mark)) => reports.push(MarkReport {
                csn: Some(mark.csn),
                epoch: Some(mark.epoch),
                time: Some(mark.time),
                is_on_line: mark.is_on(&history.lineage),
                ..unread
            }),
            // Taken away since it was listed.
            Ok(None) => {}
            Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
                reports.push(MarkReport { problem: Some(error.to_string()), ..unread });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(reports)
}

/// Restorable commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RangeReport {
    /// The first.
    pub from: Csn,
    /// Its time, microseconds since the Unix epoch, if it could be read.
    pub from_time: Option<CommitTime>,
    /// The last.
    pub until: Csn,
    /// Its time, likewise.
    pub until_time: Option<CommitTime>,
}

fn run_report(history: &History, run: RunName) -> RunReport {
    let files = &history.listing.runs[&run].files;
    let RunName { first, last, epoch } = run;
    let (is_on_line, bytes) = (history.lineage.contains_run(run), files.values().map(|stored| stored.size).sum());
    RunReport { first, last, epoch, is_on_line, files: files.len() as u64, bytes }
}

/// What the archive holds, seen from its newest epoch.
pub async fn snapshots(archive: &Archive) -> Result<SnapshotsReport> {
    let history = History::read(archive, None).await?;
    // Of a base that was repaired, what it was before is no news.
    let is_superseded = |start: &BaseStart| !start.is_whole() && history.listing.bases[&start.base].manifest.is_some();
    let starts = history.listing.base_starts().filter(|start| !is_superseded(start));
    let reads = starts.map(|start| {
        let history = &history;
        async move { (start, history.manifest(start).await) }
    });
    let manifests: Vec<_> = stream::iter(reads).buffered(MANIFESTS_IN_FLIGHT_MAX).collect().await;
    let mut bases = Vec::new();
    for (start, outcome) in manifests {
        let (name, after) = (start.base, start.after);
        let is_on_line = history.lineage.contains(name);
        let (content, problem) = match outcome {
            Ok(manifest) => (Some(BaseContent::from(&manifest)), None),
            Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => (None, Some(error.to_string())),
            // Pruned since it was listed.
            Err(Error::Vanished { .. }) => continue,
            Err(error) => return Err(error),
        };
        bases.push(BaseReport { name, csn: name.csn, after, epoch: name.epoch, is_on_line, content, problem });
    }
    let is_usable = |start: &BaseStart| {
        bases.iter().any(|report| (report.name, report.after) == (start.base, start.after) && report.problem.is_none())
    };
    let reach = history.reach_of(is_usable);
    let (thinned, gaps) = reach.gaps_until(history.thinned_until().await?);
    let marks = read_marks(&history).await?;
    let mut times = Times::of(&history);
    let mut ranges = Vec::new();
    for CsnRange { from, until } in reach.ranges {
        let (from_time, until_time) = (times.time_of(from).await, times.time_of(until).await);
        ranges.push(RangeReport { from, from_time, until, until_time });
    }
    Ok(SnapshotsReport {
        cluster: history.cluster,
        epoch: history.lineage.leaf(),
        bases,
        ranges,
        coarse: reach.coarse,
        gaps,
        thinned,
        marks,
        runs: history.listing.whole_runs().map(|run| run_report(&history, run)).collect(),
        epochs: history.listing.epochs.records().cloned().collect(),
        abandoned: Abandoned::all(&history.listing),
        chunks: history.listing.chunks.len() as u64,
        chunk_bytes: history.listing.chunks.values().map(|stored| stored.size).sum(),
        sst_bytes: history.listing.ssts.values().map(|stored| stored.size).sum(),
    })
}
