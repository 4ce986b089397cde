//! Stage 11: restores a data directory, or a part of one, from an archive at any commit.
//!
//! ```text
//! base      files of a base -> engines              follow    follows the plan, or a route around damaged objects
//! runs      files of a run -> engines               apply     commits of chunks -> engines
//! memory    the keys in memory alone at a commit    progress  how far a restore or a verification is
//! verify    checks a whole archive                  verify_runs  checks the compacted runs of an archive
//! copy      copies a range into another archive     repair    completes an eventual base
//! ```
//!
//! Guarantees: a finished directory holds every effect of every commit up to its csn and no effect of a later commit.
//! Until the directory is finished, a marker keeps it from being opened. A directory that is not empty is refused
//! before anything is fetched. The restore does not depend on clocks: expired keys are restored unchanged. A pin
//! protects the objects of the plan from a prune; if an object vanishes nevertheless, the restore plans again, at most
//! three times.
//!
//! Non-goals: choosing an epoch for new writes (the next primary does so), pruning.

mod apply;
mod base;
pub mod copy;
mod follow;
pub(crate) mod memory;
mod options;
pub mod progress;
pub mod repair;
mod runs;
#[cfg(test)]
pub(crate) mod tests;
pub mod verify;
mod verify_file;
mod verify_report;
mod verify_runs;

use crate::archive::lineage::Lineage;
use crate::archive::pins::PinRange;
use crate::archive::store::Archive;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::directory::{DataDir, DirLock, EpochStart, Identity, LastRole};
use crate::engine::memory::Change;
use crate::error::{Error, Kind, Result};
use crate::history::line::History;
use crate::history::plan::Plan;
use crate::history::reader_pin::ReaderPin;
use crate::history::resolve::Planned;
use crate::history::route::RouteCosts;
use crate::history::target::Target;
use crate::io::Io;
use crate::log::recovery::CutPoint;
use crate::position::Position;
use crate::snapshot::local;
use crate::snapshot::manifest::Manifest;
use crate::threads::blocking;
use apply::Engines;
use progress::{Meter, Phase, ProgressSink};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

pub use copy::{CopyOptions, CopyReport, copy};
pub use options::Options;
pub use verify::verify_archive;
pub use verify_report::VerifyReport;

/// Limit on how often a restore plans again because a listed object has vanished.
pub(crate) const REPLANS_MAX: u32 = 3;

/// The result of a restore.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The plan that was carried out.
    pub plan: Plan,
    /// The last commit in the directory.
    pub csn: Csn,
    /// Time of this commit, in microseconds since the Unix epoch.
    pub time: CommitTime,
    /// The epoch that made this commit.
    pub epoch: Epoch,
    /// Bytes of the base's files.
    pub base_bytes: u64,
    /// Stored bytes of the plan's chunks.
    pub log_bytes_stored: u64,
    /// Bytes of the applied chunks before compression.
    pub log_bytes_raw: u64,
    /// Bytes of the plan's runs.
    pub run_bytes: u64,
    /// Commits that were applied from chunks.
    pub commits: u64,
    /// Commits that the applied runs cover.
    pub run_commits: u64,
    /// Objects that were passed over, with reasons, and unusual but harmless events.
    pub remarks: Vec<String>,
    /// Duration of each phase.
    pub seconds: Seconds,
    /// The checks of the finished directory.
    pub checks: Checks,
    /// How often the restore planned again because a listed object had vanished.
    pub replans: u32,
}

/// Duration of the phases, in seconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Seconds {
    /// Listing the archive, resolving the target and planning.
    pub plan: f64,
    /// Fetching and opening the base.
    pub base: f64,
    /// Fetching and applying chunks and runs.
    pub log: f64,
    /// Flushing, checking, and writing the memory image and the identity.
    pub finish: f64,
}

/// Figures of the finished directory; each was compared with its expected value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Checks {
    /// The csn stored in RocksDB; equals the target.
    pub disk_csn: Csn,
    /// The csn of the keys in memory; equals the target.
    pub memory_csn: Csn,
    /// Number of files of the base and of runs whose BLAKE3 hash equals the manifest's.
    pub files_verified: u64,
    /// Number of runs that were applied.
    pub runs_verified: u64,
    /// Number of chunks that were applied: every CRC is right, and the chunks continue one history without a gap.
    pub chunks_verified: u64,
    /// Number of keys in memory.
    pub memory_keys: u64,
    /// Bytes of RocksDB's SST files.
    pub sst_bytes: u64,
}

/// Restores the target of `options` from an archive into a new directory.
pub async fn restore(archive: &Archive, options: Options) -> Result<Report> {
    build(archive, options, LastRole::Restored).await
}

/// Creates a replica's directory with the newest state that the archive can restore, even if the archive proves that
/// later commits exist. After an error the directory is as empty as before, so that the next start can begin from
/// scratch.
pub async fn bootstrap(archive: &Archive, dir: &Path, io: Arc<dyn Io>, progress: ProgressSink) -> Result<Report> {
    let options =
        Options { dir: dir.to_owned(), target: Target::Latest, epoch: None, costs: RouteCosts::DEFAULT, io, progress };
    let built = build(archive, options, LastRole::Replica).await;
    // An error of kind `NotEmpty` means that the directory held files of another origin, which must not be removed.
    if built.as_ref().is_err_and(|error| error.kind() != Kind::NotEmpty)
        && let Err(error) = DataDir::new(dir).abandon_restore()
    {
        tracing::warn!(%error, "an unfinished bootstrap could not be removed");
    }
    built
}

async fn build(archive: &Archive, options: Options, role: LastRole) -> Result<Report> {
    require_empty(&DataDir::new(&options.dir))?;
    let purpose = if role == LastRole::Replica { "bootstrap" } else { "restore" };
    // Before the plan exists the needed objects are unknown, so the pin protects everything.
    let pin = ReaderPin::take(archive, purpose, PinRange::ALL).await;
    let outcome = build_held(archive, &options, role, &pin).await;
    let remark = pin.remark.clone();
    pin.release().await;
    outcome.map(|mut report| {
        report.remarks.extend(remark);
        report
    })
}

/// Plans and fills the directory; plans again if a listed object has vanished.
async fn build_held(archive: &Archive, options: &Options, role: LastRole, pin: &ReaderPin) -> Result<Report> {
    let dir = DataDir::new(&options.dir);
    let mut wanted = (options.target.clone(), options.epoch);
    let mut lock: Option<Arc<DirLock>> = None;
    let mut replans = 0;
    loop {
        let mut watch = Stopwatch::start();
        let filled = async {
            let (history, planned) = plan_for(archive, &wanted, role, options).await?;
            // A later round must restore the same commit of the same line, even if the archive has changed.
            wanted = (Target::At(planned.plan.target), Some(planned.plan.leaf));
            pin.change(range_of(&planned)).await;
            let seconds = Seconds { plan: watch.lap(), ..Seconds::default() };
            let lock = match &lock {
                Some(lock) => Arc::clone(lock),
                None => {
                    let taken = Arc::new(dir.lock()?);
                    require_empty(&dir)?;
                    dir.begin_restore()?;
                    Arc::clone(lock.insert(taken))
                }
            };
            fill(&history, planned, &dir, options, role, lock, (watch, seconds)).await
        }
        .await;
        match filled {
            Err(error @ Error::Vanished { .. }) if replans < REPLANS_MAX => {
                replans += 1;
                tracing::warn!(%error, "a prune is under way; the restore is planned again");
                if lock.is_some() {
                    dir.clear_restore()?;
                }
            }
            outcome => return outcome.map(|report| Report { replans, ..report }),
        }
    }
}

async fn plan_for(
    archive: &Archive,
    (target, epoch): &(Target, Option<Epoch>),
    role: LastRole,
    options: &Options,
) -> Result<(History, Planned)> {
    Meter::begin(&options.progress, Phase::Plan, 0);
    let history = History { costs: options.costs, ..History::read(archive, *epoch).await? };
    // The uploads of a live primary arrive out of order, so chunks may be missing for a moment. A replica starts before
    // the missing chunks and catches up from there.
    let latest = match (role, target) {
        (LastRole::Replica, Target::Latest) => history.reach().latest().map(Target::At),
        _ => None,
    };
    let planned = history.plan(latest.as_ref().unwrap_or(target)).await?;
    Ok((history, planned))
}

/// Returns the range of history that a plan reads.
fn range_of(planned: &Planned) -> PinRange {
    let plan = &planned.plan;
    PinRange { from: plan.after(), until: plan.target, epoch: Some(plan.leaf) }
}

/// Carries out a plan in the locked directory.
async fn fill(
    history: &History,
    planned: Planned,
    dir: &DataDir,
    options: &Options,
    role: LastRole,
    lock: Arc<DirLock>,
    (mut watch, mut seconds): (Stopwatch, Seconds),
) -> Result<Report> {
    let engines = begin(history, &planned, dir, options).await?;
    seconds.base = watch.lap();
    let (engines, followed) = follow::follow(history, &planned, engines, options).await?;
    seconds.log = watch.lap();
    Meter::begin(&options.progress, Phase::Finish, 0);
    let identity = identity_of(history, &planned.plan, role)?;
    let plan = planned.plan;
    let base_files = planned.manifest.as_ref().map_or(0, Manifest::file_count);
    let ended = {
        let (io, target, dir) = (Arc::clone(&options.io), plan.target, dir.clone());
        blocking(move || {
            let _locked_until_the_end = lock;
            finish(engines, target, &*io, &dir, &identity)
        })
        .await?
    };
    seconds.finish = watch.lap();
    Ok(Report {
        csn: ended.position.csn,
        time: ended.position.time,
        epoch: ended.position.epoch,
        base_bytes: plan.base_bytes,
        log_bytes_stored: plan.log_bytes,
        log_bytes_raw: followed.applied.raw_bytes,
        run_bytes: plan.run_bytes,
        commits: followed.applied.commits,
        run_commits: followed.run_commits,
        remarks: followed.remarks,
        seconds,
        checks: Checks {
            disk_csn: ended.position.csn,
            memory_csn: ended.position.csn,
            files_verified: base_files + followed.run_files,
            runs_verified: followed.runs,
            chunks_verified: followed.applied.chunks,
            memory_keys: ended.memory_keys,
            sst_bytes: ended.sst_bytes,
        },
        replans: 0,
        plan,
    })
}

fn require_empty(dir: &DataDir) -> Result<()> {
    if dir.is_empty()? {
        return Ok(());
    }
    let detail = "a restore never changes existing files. Name a directory that is empty or does not exist".to_owned();
    Err(Error::NotEmpty { dir: dir.root().to_owned(), detail })
}

/// Opens the engines to start from: the base's engines, or empty ones.
async fn begin(history: &History, planned: &Planned, dir: &DataDir, options: &Options) -> Result<Engines> {
    let Some(manifest) = planned.manifest.clone() else {
        let dir = dir.clone();
        return blocking(move || base::open_empty(&dir)).await;
    };
    for scratch in [dir.db(), dir.base()] {
        options.io.create_dir(&scratch)?;
    }
    let meter = Meter::begin(&options.progress, Phase::Base, manifest.bytes());
    base::fetch(&history.archive, &options.io, dir, &manifest, &meter).await?;
    let (io, dir, archive) = (Arc::clone(&options.io), dir.clone(), history.archive.clone());
    let epoch = history.lineage.epoch_at(manifest.start().after);
    blocking(move || base::open(&*io, &dir, &manifest, &archive, epoch)).await
}

/// The finished directory's position and figures.
struct Ended {
    position: Position,
    memory_keys: u64,
    sst_bytes: u64,
}

/// Checks and completes the directory, then removes the marker. Blocking.
fn finish(mut engines: Engines, target: Csn, io: &dyn Io, dir: &DataDir, identity: &Identity) -> Result<Ended> {
    if engines.position.csn != target {
        let found = format!("the end at csn {}", engines.position.csn);
        return Err(Error::Gap { what: "the restored history".to_owned(), expected: target, found });
    }
    engines.finish()?;
    let Engines { disk, memory, position, .. } = engines;
    let at = CutPoint { position, wal_seq: disk.wal_seq() };
    local::write(io, &dir.image(), &memory.cut(), at)?;
    let ended = Ended { position, memory_keys: memory.len() as u64, sst_bytes: disk.sst_bytes() };
    drop(disk);
    // Clearing hands the values to the thread that frees memory.
    memory.clear(Change { csn: position.csn, hidden: None });
    if dir.base().exists() {
        std::fs::remove_dir_all(dir.base()).map_err(Error::io("remove", &dir.base()))?;
    }
    dir.write_identity(identity)?;
    dir.end_restore()?;
    Ok(ended)
}

fn identity_of(history: &History, plan: &Plan, role: LastRole) -> Result<Identity> {
    let mut identity = Identity::new(history.cluster, role)?;
    identity.history = epochs_until(&history.lineage, plan.target, role);
    Ok(identity)
}

/// Returns the epochs that made the commits up to `csn`; the first epoch is included even if it made none. For a
/// replica, which continues along the line, the result also includes an epoch that begins exactly at `csn`.
fn epochs_until(lineage: &Lineage, csn: Csn, role: LastRole) -> Vec<EpochStart> {
    let is_begun = |fork: Csn| if role == LastRole::Replica { fork <= csn } else { fork < csn };
    let branches = lineage.branches().iter();
    // A branch that a later fork cuts off completely made none of these commits.
    let made_any = branches.filter(|branch| branch.until_inclusive.is_none_or(|until| until > branch.from_exclusive));
    let starts = made_any.map(|branch| EpochStart {
        epoch: branch.epoch,
        incarnation: branch.incarnation,
        fork: branch.from_exclusive,
        hash: branch.fork_hash,
    });
    starts.enumerate().filter(|(nth, start)| *nth == 0 || is_begun(start.fork)).map(|(_, start)| start).collect()
}

/// Measures successive phases.
struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Returns the seconds since the start or the last call.
    fn lap(&mut self) -> f64 {
        let lap = self.0.elapsed().as_secs_f64();
        self.0 = Instant::now();
        lap
    }
}
