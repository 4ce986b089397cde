//! Builds compacted runs from chunks.
//!
//! Reads the memory part of a base, the memory parts of runs, and chunks. Needs memory for the lists and sorted sets at
//! the time of the run, the keys and members that one run touches, one sorted run (64 MiB) and the chunks in flight;
//! and disk space in a scratch directory for the operations of one run. Guarantees: a run ends where [`Grain`] says; at
//! each base, so that a run begins at every base; and where an epoch begins at an earlier time. An hour or a day is
//! built only after a later commit proves that it is over. Building continues after the newest run of the same grain.

use crate::archive::layout::RunName;
use crate::archive::pins::PinRange;
use crate::archive::store::Archive;
use crate::cluster::ClusterId;
use crate::compacted_run::{LocalRun, PublishedRun, RunBuilder, publish};
use crate::csn::{Csn, Epoch};
use crate::engine::memory::Memory;
use crate::error::{Error, Result};
use crate::grain::Grain;
use crate::history::catch_up::CatchUp;
use crate::history::line::History;
use crate::history::reader_pin::ReaderPin;
use crate::history::target::Target;
use crate::io::Io;
use crate::position::Position;
use crate::record::CommitRecord;
use crate::restore::REPLANS_MAX;
use crate::restore::memory::memory_at;
use crate::restore::progress::{Meter, Phase, ProgressSink};
use crate::threads::blocking;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

/// Options for building runs.
#[derive(Clone)]
pub struct Options {
    /// The commits at which runs end.
    pub grain: Grain,
    /// No run extends beyond this target.
    pub until: Target,
    /// The epoch whose line of history is compacted; `None` for the newest epoch.
    pub epoch: Option<Epoch>,
    /// An existing directory for temporary files; everything created in the directory is removed.
    pub scratch: PathBuf,
    /// Reads and writes the temporary files.
    pub io: Arc<dyn Io>,
    /// Receives the progress.
    pub progress: ProgressSink,
}

/// The result of building runs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    /// The new runs, in csn order.
    pub runs: Vec<PublishedRun>,
    /// Number of commits read.
    pub commits: u64,
    /// The last commit in a run of this grain, including the new runs.
    pub compacted_until: Csn,
}

/// Builds the missing runs. A pin protects the objects that are read.
pub async fn build(archive: &Archive, options: Options) -> Result<Report> {
    let pin = ReaderPin::take(archive, "compact", PinRange::ALL).await;
    let mut report = Report::default();
    let mut again = 0;
    let built = loop {
        match go_on(archive, &options, &mut report).await {
            Err(error @ Error::Vanished { .. }) if again < REPLANS_MAX => {
                again += 1;
                tracing::warn!(%error, "a prune is under way; the building of runs continues with a new listing");
            }
            outcome => break outcome,
        }
    };
    pin.release().await;
    built.map(|()| report)
}

/// Lists the archive and builds the missing runs.
async fn go_on(archive: &Archive, options: &Options, report: &mut Report) -> Result<()> {
    let history = History::read(archive, options.epoch).await?;
    let until = match &options.until {
        Target::Latest => Csn(u64::MAX),
        target => history.plan(target).await?.plan.target,
    };
    let done = compacted_until(&history, options.grain).await?;
    let total = history.listing.chunks.values().map(|stored| stored.size).sum();
    let meter = Arc::new(Meter::begin(&options.progress, Phase::Runs, total));
    report.compacted_until = done;
    for start in starts(&history, done) {
        if start >= until {
            break;
        }
        let (state, at) = memory_at(&history, start, &meter).await?;
        let bases = history.listing.whole_bases().filter(|base| history.lineage.contains(*base));
        let work = Work {
            scratch: options.scratch.clone(),
            io: Arc::clone(&options.io),
            cluster: history.cluster,
            grain: options.grain,
            bases: bases.map(|base| base.csn).collect(),
            until,
            state,
            at,
            builder: None,
        };
        stretch(&history, work, &meter, report).await?;
    }
    Ok(())
}

/// Returns the last commit in a run of this grain on the line; 0 if there is none.
async fn compacted_until(history: &History, grain: Grain) -> Result<Csn> {
    let mut runs: Vec<RunName> =
        history.listing.whole_runs().filter(|run| history.lineage.contains_run(*run)).collect();
    runs.sort_by_key(|run| run.last);
    while let Some(run) = runs.pop() {
        match history.run_manifest(run).await {
            Ok(manifest) if manifest.grain == grain => return Ok(run.last),
            Ok(_) => {}
            Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
                tracing::warn!(%run, %error, "a compacted run cannot be read; it is built again");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Csn::ZERO)
}

/// Returns the csns at or after `done` from which chunks lead on and whose state can be restored.
fn starts(history: &History, done: Csn) -> Vec<Csn> {
    let chunks = || history.listing.chunks.keys().copied();
    let leads_on = |start: &Csn| history.lineage.cover(chunks(), *start).reachable(*start) > *start;
    let begin = |from: Csn| if from == Csn(1) { Csn::ZERO } else { from };
    let ranges = history.reach().ranges.into_iter().filter(|range| range.until >= done);
    ranges.map(|range| begin(range.from).max(done)).filter(leads_on).collect()
}

/// Builds the runs of a stretch of chunks without a gap.
async fn stretch(history: &History, mut work: Work, meter: &Arc<Meter>, report: &mut Report) -> Result<()> {
    let mut commits = CatchUp::of(history, work.at).await?;
    while let Some(next) = commits.next().await? {
        meter.add(next.iter().map(|commit| commit.effect_bytes() as u64).sum());
        report.commits += next.len() as u64;
        let finished;
        (work, finished) = blocking(move || {
            let finished = work.take(&next)?;
            Ok((work, finished))
        })
        .await?;
        publish_all(history, finished, report).await?;
        if work.at.csn >= work.until {
            break;
        }
    }
    let last = blocking(move || work.end()).await?;
    publish_all(history, last.into_iter().collect(), report).await
}

async fn publish_all(history: &History, finished: Vec<LocalRun>, report: &mut Report) -> Result<()> {
    for run in finished {
        report.runs.push(publish(&history.archive, &run).await?);
        report.compacted_until = run.manifest().last;
        blocking(move || {
            drop(run);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The state of building one stretch.
struct Work {
    scratch: PathBuf,
    io: Arc<dyn Io>,
    cluster: ClusterId,
    grain: Grain,
    /// Csns of bases; a run ends at each of them.
    bases: BTreeSet<Csn>,
    until: Csn,
    /// The keys in memory after the commit `at`.
    state: Memory,
    at: Position,
    builder: Option<RunBuilder>,
}

impl Work {
    /// Adds the next commits; returns the completed runs.
    fn take(&mut self, commits: &[CommitRecord]) -> Result<Vec<LocalRun>> {
        let mut finished = Vec::new();
        let until = self.until;
        for commit in commits.iter().take_while(|commit| commit.csn <= until) {
            if let Some(builder) = &self.builder
                && (self.ends_here()
                    || commit.time < self.at.time
                    || self.grain.ends_between(builder.span().commits(), self.at.time, commit.time))
            {
                finished.extend(self.finish()?);
            }
            let builder = match &mut self.builder {
                Some(builder) => builder,
                None => {
                    let dir = self.scratch.join(format!("run-{}", commit.csn));
                    self.builder.insert(RunBuilder::begin(dir, self.cluster, self.grain, self.at)?)
                }
            };
            builder.push(commit, &self.state)?;
            self.at = Position::of(commit);
        }
        Ok(finished)
    }

    /// Returns the last run if it is complete without a later commit.
    fn end(mut self) -> Result<Option<LocalRun>> {
        let is_full = match (self.grain, &self.builder) {
            (Grain::Commits(limit), Some(builder)) => builder.span().commits() >= limit,
            _ => false,
        };
        if is_full || self.ends_here() { self.finish() } else { Ok(None) }
    }

    fn ends_here(&self) -> bool {
        self.bases.contains(&self.at.csn)
    }

    fn finish(&mut self) -> Result<Option<LocalRun>> {
        let builder = self.builder.take();
        builder.map(|builder| builder.finish(&self.io, &self.state)).transpose()
    }
}
