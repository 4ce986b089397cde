//! The report about an archive's content and the commits that it can restore: `walferry snapshots`, `walferry status
//! --archive`.

use super::abandoned::Abandoned;
use super::line::History;
use super::reach::CsnRange;
use super::times::Times;
use crate::archive::epochs::EpochRecord;
use crate::archive::layout::{BaseName, RunName, as_text};
use crate::archive::listing::BaseStart;
use crate::archive::marks;
use crate::archive::store::Archive;
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::error::{Error, Result};
use crate::snapshot::manifest::{CutRecord, Level, Manifest};
use futures::stream::{self, StreamExt};
use serde::Serialize;

/// Limit on the number of manifests that are read at the same time.
const MANIFESTS_IN_FLIGHT_MAX: usize = 8;

/// The content of an archive, seen along one line of history.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotsReport {
    /// The cluster that owns the archive.
    pub cluster: ClusterId,
    /// The epoch whose line of history `ranges` and `gaps` describe.
    pub epoch: Epoch,
    /// All bases, in csn order.
    pub bases: Vec<BaseReport>,
    /// Restorable commits, ascending: every commit in a range can be restored.
    pub ranges: Vec<RangeReport>,
    /// Commits that exist only as part of a run, so that they cannot be restored one by one.
    pub coarse: Vec<CsnRange>,
    /// Commits after the first restorable one that are known to exist but are missing, without those in `thinned`.
    pub gaps: Vec<CsnRange>,
    /// Missing commits that the retention policy removed.
    pub thinned: Vec<CsnRange>,
    /// All marks, in the order of their names.
    pub marks: Vec<MarkReport>,
    /// All complete compacted runs, in the order of their first csn.
    pub runs: Vec<RunReport>,
    /// All epochs, oldest first.
    pub epochs: Vec<EpochRecord>,
    /// Abandoned commits: archived commits that do not lie on the newest line.
    pub abandoned: Vec<Abandoned>,
    /// Number of chunks of all epochs.
    pub chunks: u64,
    /// Bytes of the chunks of all epochs.
    pub chunk_bytes: u64,
    /// Bytes of the SST files, which several bases may share.
    pub sst_bytes: u64,
}

/// A compacted run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RunReport {
    /// The run's first commit.
    pub first: Csn,
    /// The run's last commit.
    pub last: Csn,
    /// The epoch under which the run was built.
    pub epoch: Epoch,
    /// Whether the run lies on the reported line of history.
    pub is_on_line: bool,
    /// Number of the run's files.
    pub files: u64,
    /// Bytes of the run's files.
    pub bytes: u64,
}

/// A base.
#[derive(Clone, Debug, Serialize)]
pub struct BaseReport {
    /// The base's name.
    #[serde(serialize_with = "as_text")]
    pub name: BaseName,
    /// The csn of the base: no engine in the base has later commits.
    pub csn: Csn,
    /// The base needs the chunks after this commit; lower than `csn` if the engines were cut at different commits.
    pub after: Csn,
    /// The epoch of the history from which the base was cut.
    pub epoch: Epoch,
    /// Whether the base lies on the reported line of history.
    pub is_on_line: bool,
    /// Facts from the base's manifest; `None` if the manifest cannot be read.
    pub content: Option<BaseContent>,
    /// Why the manifest cannot be read; `None` if it was read.
    pub problem: Option<String>,
}

/// Facts from a base's manifest.
#[derive(Clone, Debug, Serialize)]
pub struct BaseContent {
    /// Time of the base's commit, in microseconds since the Unix epoch.
    pub time: CommitTime,
    /// The relation between the positions of the base's engines.
    pub level: Level,
    /// How, when and by which node the base was cut.
    pub cut: CutRecord,
    /// Bytes of the base's files.
    pub bytes: u64,
    /// Bytes that this base added to the archive.
    pub bytes_new: u64,
    /// Bytes of the SST files that an earlier base had already brought.
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
    /// The mark's name.
    pub name: String,
    /// The mark's commit; `None` if the record cannot be read.
    pub csn: Option<Csn>,
    /// The epoch of the mark's commit; `None` if the record cannot be read.
    pub epoch: Option<Epoch>,
    /// The mark's commit time, in microseconds since the Unix epoch; `None` if the record cannot be read.
    pub time: Option<CommitTime>,
    /// Whether the mark lies on the reported line of history.
    pub is_on_line: bool,
    /// Why the record cannot be read; `None` if it was read.
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
            // The mark was removed after the listing.
            Ok(None) => {}
            Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
                reports.push(MarkReport { problem: Some(error.to_string()), ..unread });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(reports)
}

/// A range of restorable commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct RangeReport {
    /// The first commit.
    pub from: Csn,
    /// Commit time of `from`, in microseconds since the Unix epoch; `None` if no small read tells it.
    pub from_time: Option<CommitTime>,
    /// The last commit.
    pub until: Csn,
    /// Commit time of `until`, in the same form as `from_time`.
    pub until_time: Option<CommitTime>,
}

fn run_report(history: &History, run: RunName) -> RunReport {
    let files = &history.listing.runs[&run].files;
    let RunName { first, last, epoch } = run;
    let (is_on_line, bytes) = (history.lineage.contains_run(run), files.values().map(|stored| stored.size).sum());
    RunReport { first, last, epoch, is_on_line, files: files.len() as u64, bytes }
}

/// Reports the content of the archive along the line of its newest epoch.
pub async fn snapshots(archive: &Archive) -> Result<SnapshotsReport> {
    let history = History::read(archive, None).await?;
    // The report omits the earlier manifest of a base that was repaired.
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
            // The base was pruned after the listing.
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
