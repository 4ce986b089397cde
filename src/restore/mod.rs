//! Stage 10: from the archive to a data directory, at any commit: plan, fetch, apply, verify.
//!
//! ```text
//! target    what was asked for          reach     which commits can be had
//! history   one line through a listing  plan      base and chunks; pure
//! resolve   target -> csn -> plan       fetch     objects, many at a time
//! route     the quickest way over       times     commit times          follow the plan, or a way around
//!           chunks and runs; pure       runs      a run's files -> engines
//! base      a base's files              unpack    chunks -> commits     apply  commits -> engines
//! torn      chunks that a writer died over
//! catch_up  commits for a replica       report    what the archive has  verify whether it is whole
//! copy      into another archive         repair    completes an eventual base
//! reader_pin the pin of a reader         archive_figures an archive in few figures
//! abandoned commits on no line that is followed   continuity whether objects tell one history
//! ```
//!
//! Guarantees: a directory that is handed over holds every effect of every commit up to its csn and none beyond; until
//! then it carries a marker that keeps it from being opened. A directory that holds anything is refused before anything
//! is fetched. Clocks play no part: expired keys are restored as they were. What is read is pinned, so that a prune spares
//! it; an object that is gone all the same is planned around, a few times.
//! Non-goals: choosing an epoch for new writes (the next primary does), pruning.

mod apply;
mod base;
pub mod copy;
mod follow;
pub(crate) mod memory;
pub mod progress;
pub mod repair;
mod runs;
#[cfg(test)]
pub(crate) mod tests;
pub mod verify;
mod verify_runs;

use crate::archive::lineage::Lineage;
use crate::archive::pins::PinRange;
use crate::archive::store::Archive;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::directory::{DataDir, DirLock, EpochStart, Identity, LastRole};
use crate::error::{Error, Kind, Result};
use crate::history::line::History;
use crate::history::plan::Plan;
use crate::history::reader_pin::ReaderPin;
use crate::history::resolve::Planned;
use crate::history::target::Target;
use crate::io::Io;
use crate::log::recovery::ImagePosition;
use crate::position::Position;
use crate::snapshot::local;
use crate::snapshot::manifest::Manifest;
use crate::threads::blocking;
use apply::Engines;
use progress::{Meter, Phase, ProgressSink};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use copy::{CopyOptions, CopyReport, copy};
pub use verify::{VerifyReport, verify_archive};

/// Chunks that wait between fetching and unpacking, beside those in flight.
const ARRIVALS_MAX: usize = 1;
/// How often a restore plans again because something that was listed was gone.
pub(crate) const REPLANS_MAX: u32 = 3;

/// What to restore, where to, and how.
#[derive(Clone)]
pub struct Options {
    /// The directory to make. It must be empty or not exist.
    pub dir: PathBuf,
    /// The commit to end at.
    pub target: Target,
    /// The epoch whose line of history is followed; none: the newest.
    pub epoch: Option<Epoch>,
    /// For bulk transfers.
    pub io: Arc<dyn Io>,
    /// Who is told how far it is.
    pub progress: ProgressSink,
}

/// What a restore did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was planned, and done.
    pub plan: Plan,
    /// The last commit of the directory.
    pub csn: Csn,
    /// When it was made, microseconds since the Unix epoch.
    pub time: CommitTime,
    /// The generation that made it.
    pub epoch: Epoch,
    /// Bytes of the base's files.
    pub base_bytes: u64,
    /// Bytes of the chunks.
    pub log_bytes_stored: u64,
    /// Bytes of the chunks before compression.
    pub log_bytes_raw: u64,
    /// Bytes of the runs.
    pub run_bytes: u64,
    /// Commits of chunks applied after the base.
    pub commits: u64,
    /// Commits of the runs that were taken over.
    pub run_commits: u64,
    /// What was passed over on the way, and why, and what was unusual and did no harm.
    pub remarks: Vec<String>,
    /// How long each phase took.
    pub seconds: Seconds,
    /// What the finished directory was checked for.
    pub checks: Checks,
    /// How often it was planned again because a prune had removed what was listed.
    pub replans: u32,
}

/// Seconds of the phases.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Seconds {
    /// Listing, resolving the target, planning.
    pub plan: f64,
    /// Fetching and opening the base.
    pub base: f64,
    /// Fetching and applying chunks and runs.
    pub log: f64,
    /// Flushing, checking, writing image and identity.
    pub finish: f64,
}

/// What was found at the end; each of it was compared with what it must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Checks {
    /// The csn in RocksDB: the target.
    pub disk_csn: Csn,
    /// The csn of the memory engines: the target.
    pub memory_csn: Csn,
    /// Files of the base and of runs whose BLAKE3 is the manifest's.
    pub files_verified: u64,
    /// Runs taken over whole.
    pub runs_verified: u64,
    /// Chunks whose every CRC holds and that continue one history without a gap.
    pub chunks_verified: u64,
    /// Lists.
    pub lists: u64,
    /// Sorted sets.
    pub zsets: u64,
    /// Bytes of RocksDB's files.
    pub sst_bytes: u64,
}

/// Restores an archive to a target.
pub async fn restore(archive: &Archive, options: Options) -> Result<Report> {
    build(archive, options, LastRole::Restored).await
}

/// Makes a replica's directory: the newest state the archive can give, even if it knows of later commits. On an error the
/// directory is as empty as before, so that the next start begins anew.
pub async fn bootstrap(archive: &Archive, dir: &Path, io: Arc<dyn Io>, progress: ProgressSink) -> Result<Report> {
    let options = Options { dir: dir.to_owned(), target: Target::Latest, epoch: None, io, progress };
    let built = build(archive, options, LastRole::Replica).await;
    // What was there before is somebody else's.
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
    // What is needed is not known yet: everything is held while it is planned.
    let pin = ReaderPin::take(archive, purpose, PinRange::ALL).await;
    let outcome = build_held(archive, &options, role, &pin).await;
    let remark = pin.remark.clone();
    pin.release().await;
    outcome.map(|mut report| {
        report.remarks.extend(remark);
        report
    })
}

/// Plans and fills the directory; plans again if something listed is gone.
async fn build_held(archive: &Archive, options: &Options, role: LastRole, pin: &ReaderPin) -> Result<Report> {
    let dir = DataDir::new(&options.dir);
    let mut wanted = (options.target.clone(), options.epoch);
    let mut lock: Option<Arc<DirLock>> = None;
    let mut replans = 0;
    loop {
        let mut watch = Stopwatch::start();
        let filled = async {
            let (history, planned) = plan_for(archive, &wanted, role, options).await?;
            // The same commit of the same line, whatever happens meanwhile.
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
    let history = History::read(archive, *epoch).await?;
    // Uploads of a live primary arrive out of order: a replica starts before such a hole and reads on when it is filled.
    let latest = match (role, target) {
        (LastRole::Replica, Target::Latest) => history.reach().latest().map(Target::At),
        _ => None,
    };
    let planned = history.plan(latest.as_ref().unwrap_or(target)).await?;
    Ok((history, planned))
}

/// What a plan reads.
fn range_of(planned: &Planned) -> PinRange {
    let plan = &planned.plan;
    PinRange { from: plan.after, until: plan.target, epoch: Some(plan.leaf) }
}

/// Carries a plan out in the locked directory.
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
            lists: ended.lists,
            zsets: ended.zsets,
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
    let detail = "a restore never touches what is there. Name a directory that is empty or does not exist".to_owned();
    Err(Error::NotEmpty { dir: dir.root().to_owned(), detail })
}

/// The engines to start from: the base's, or empty ones.
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

/// What the finished directory holds.
struct Ended {
    position: Position,
    lists: u64,
    zsets: u64,
    sst_bytes: u64,
}

/// Makes the directory whole and takes the marker away. Blocking.
fn finish(mut engines: Engines, target: Csn, io: &dyn Io, dir: &DataDir, identity: &Identity) -> Result<Ended> {
    if engines.position.csn != target {
        let found = format!("the end at csn {}", engines.position.csn);
        return Err(Error::Gap { what: "the restored history".to_owned(), expected: target, found });
    }
    engines.finish()?;
    let Engines { disk, mut memory, position, .. } = engines;
    let at = ImagePosition { position, wal_seq: disk.wal_seq() };
    local::write(io, &dir.image(), &memory.cut(), at)?;
    let ended = Ended {
        position,
        lists: memory.lists.len() as u64,
        zsets: memory.zsets.len() as u64,
        sst_bytes: disk.sst_bytes(),
    };
    drop(disk);
    // Another thread frees what they held.
    memory.lists.clear();
    memory.zsets.clear();
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

/// The generations that made the commits up to `csn`, the first one even if it made none. A replica, which goes on along
/// the line, also has the one that begins right there.
fn epochs_until(lineage: &Lineage, csn: Csn, role: LastRole) -> Vec<EpochStart> {
    let is_begun = |fork: Csn| if role == LastRole::Replica { fork <= csn } else { fork < csn };
    let branches = lineage.branches().iter();
    // A branch that a later fork cuts off whole made none of these commits.
    let made_any = branches.filter(|branch| branch.until_inclusive.is_none_or(|until| until > branch.from_exclusive));
    let starts = made_any.map(|branch| EpochStart {
        epoch: branch.epoch,
        incarnation: branch.incarnation,
        fork: branch.from_exclusive,
        hash: branch.fork_hash,
    });
    starts.enumerate().filter(|(nth, start)| *nth == 0 || is_begun(start.fork)).map(|(_, start)| start).collect()
}

/// Measures phases one after another.
struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Seconds since the start or the last lap.
    fn lap(&mut self) -> f64 {
        let lap = self.0.elapsed().as_secs_f64();
        self.0 = Instant::now();
        lap
    }
}
