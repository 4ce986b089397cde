//! Opens a data directory: locks it, recovers both logs and the keys in memory, and starts the committer.
//!
//! Guarantees: one process has a directory open; all its engines are at one csn; and the directory belongs to one
//! cluster. Commits that a crash lost are reported by csn range. A directory that is known to have lost durable commits
//! does not open without them.

use crate::archive::store::Archive;
use crate::cluster::ClusterId;
use crate::commit::committer::{Committer, Start};
use crate::commit::gate::Gate;
use crate::commit::sync::Syncer;
use crate::config::Config;
use crate::csn::Csn;
use crate::directory::{DataDir, DirLock, Identity, LastRole, current_boot};
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::memory::Memory;
use crate::error::{Error, Result};
use crate::io::{Backends, Choice, Io};
use crate::log::durable::DurableFile;
use crate::log::oplog::OpLog;
use crate::log::recovery::{self, CutPoint, Losses, MissingCommits, Recovered};
use crate::log::wal;
use crate::snapshot::local;
use crate::threads::join;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// An open data directory.
pub struct Opened {
    /// The directory's paths.
    pub dir: DataDir,
    /// The lock that keeps other processes out.
    pub lock: DirLock,
    /// The identity at the end of opening.
    pub identity: Identity,
    /// The backends that read and write the directory's files.
    pub backends: Backends,
    /// Orders commits and writes them to the logs.
    pub committer: Arc<Committer>,
    /// The position of the image from which memory was loaded.
    pub image: CutPoint,
    /// The result of the recovery.
    pub recovered: Recovered,
    /// The highest csn that was recorded as durable in this directory.
    pub durable_told: Csn,
}

/// Locks a directory and reads its identity. An empty directory becomes a directory of `cluster`, or of a new cluster
/// if `cluster` is `None`.
pub fn claim_directory(
    root: &Path,
    role: LastRole,
    cluster: Option<ClusterId>,
) -> Result<(DataDir, DirLock, Identity)> {
    let dir = DataDir::new(root);
    let lock = dir.lock()?;
    let identity = match dir.identity()? {
        Some(identity) => {
            if let Some(cluster) = cluster.filter(|cluster| *cluster != identity.cluster) {
                let detail = format!(
                    "belongs to cluster {}, the archive to cluster {cluster}. Use the archive of this directory's cluster, or another prefix",
                    identity.cluster
                );
                return Err(Error::Identity { what: format!("data directory {}", root.display()), detail });
            }
            identity
        }
        None if !dir.is_empty()? => {
            let detail =
                "contains files but no walferry.json, so it is not a data directory. Use an empty directory".to_owned();
            return Err(Error::NotEmpty { dir: root.to_owned(), detail });
        }
        None => {
            let cluster = cluster.map_or_else(ClusterId::generate, Ok)?;
            let identity = Identity::new(cluster, role)?;
            dir.write_identity(&identity)?;
            identity
        }
    };
    Ok((dir, lock, identity))
}

/// Opens a claimed directory. Blocking; takes the time to read the logs since the last memory image.
pub fn open(
    dir: DataDir,
    lock: DirLock,
    mut identity: Identity,
    config: &Config,
    missing: Option<&dyn MissingCommits>,
) -> Result<Opened> {
    let may_have_lost_a_tail = identity.may_have_lost_a_tail();
    let place = dir.place()?;
    // A copy may lack commits that the original wrote after it was copied, and the original may continue to write.
    let is_copied = identity.place.is_some_and(|before| before != place);
    if is_copied {
        tracing::warn!(dir = %dir.root().display(), "this data directory was copied since its last start");
        // A program that copies files need not sync them, and commits of this node will rely on them.
        dir.sync_file_system()?;
    }
    if !identity.is_clean {
        identity.may_lack_commits = true;
        dir.write_identity(&identity)?;
    }
    let backends = Backends::select(dir.root(), Choice::from_str(&config.io_backend)?)?;
    let options = DiskOptions {
        cache_bytes: config.block_cache_bytes.0 as usize,
        row_cache_bytes: config.row_cache_bytes.0 as usize,
        ..DiskOptions::default()
    };
    wal::sync(&dir.wal())?;
    let open_oplog = || OpLog::open(Arc::clone(&backends.log), &dir.oplog(), config.oplog_segment_bytes.0);
    let (disk, image, oplog) = std::thread::scope(|scope| {
        let (image, oplog) = (scope.spawn(|| load_image(&*backends.bulk, &dir.image())), scope.spawn(open_oplog));
        (Disk::open(&dir.db(), &dir.wal(), options), join(image), join(oplog))
    });
    let (disk, (memory, image), mut oplog) = (Arc::new(disk?), image?, oplog?);
    let (durable_file, told) = DurableFile::open(Arc::clone(&backends.log), &dir.oplog())?;
    let durable = told.csn.max(oplog.durable_told());
    let intact_until = identity.intact_until;
    let mut note = |intact: Csn| {
        identity.intact_until = Some(identity.intact_until.map_or(intact, |before| before.min(intact)));
        dir.write_identity(&identity)
    };
    let losses = Losses { intact_until, note: &mut note };
    let recovered = recovery::recover(&disk, &mut oplog, &memory, image, missing, losses)?;
    report(&recovered, durable);
    // An earlier start may have replaced commits without beginning an epoch.
    let has_holes = identity.intact_until.is_some() || !recovered.unfit.is_empty();
    let has_shrunk = durable > recovered.position.csn || may_have_lost_a_tail || is_copied;
    // A replica that lost only its tail receives the tail from its primary again.
    identity.may_lack_commits = has_holes || (has_shrunk && identity.role != LastRole::Replica);
    oplog.set_epoch(identity.epoch());
    let mut position = recovered.position;
    position.epoch = identity.epoch();
    let gate = Arc::new(Gate::default());
    let known = vec![image.log_cursor()];
    let start = Start { disk: Arc::clone(&disk), oplog, memory, position, known };
    let committer = Committer::new(start, Arc::clone(&gate), |_, watermarks| {
        Syncer::start(config.appendfsync, disk, Arc::clone(&backends.log), durable_file, Arc::clone(watermarks), gate)
    });
    committer.configure_routing(config);
    identity.boot = current_boot();
    identity.place = Some(place);
    identity.is_clean = false;
    dir.write_identity(&identity)?;
    let committer = Arc::new(committer);
    Ok(Opened { dir, lock, identity, backends, committer, image, recovered, durable_told: durable })
}

/// Loads the newest memory image, or returns empty engines if there is none.
fn load_image(io: &dyn Io, dir: &Path) -> Result<(Memory, CutPoint)> {
    io.create_dir(dir)?;
    io.remove_unfinished(dir)?;
    Ok(local::newest(io, dir)?.unwrap_or_else(|| (Memory::new(), CutPoint::default())))
}

fn report(recovered: &Recovered, durable: Csn) {
    let Recovered { position, redone, cut, lost, unfit, .. } = recovered;
    tracing::info!(csn = position.csn.0, epoch = position.epoch.0, redone, cut, "recovered");
    for range in lost {
        tracing::error!(
            first = range.start().0,
            last = range.end().0,
            "commits are lost, because neither the logs nor the archive has them; no-op commits replace them"
        );
    }
    for csn in unfit {
        tracing::error!(csn = csn.0, "a commit was applied in part: some of its ops depend on lost commits");
    }
    if durable > position.csn {
        tracing::error!(
            first = position.csn.next().0,
            last = durable.0,
            "durable commits are missing from the logs: the disk has lost them"
        );
    }
}

/// Returns an error if commits that were durable here are missing and the archive did not have them either.
pub fn require_durable(opened: &Opened, reached: Csn, archive: Option<&Archive>) -> Result<()> {
    if reached >= opened.durable_told {
        return Ok(());
    }
    let archive = archive.map_or_else(
        || "no archive is configured".to_owned(),
        |archive| format!("{} does not have them either", archive.url()),
    );
    Err(Error::Gap {
        what: format!(
            "data directory {} (commits that were durable are missing, and {archive}; promote a replica or restore)",
            opened.dir.root().display()
        ),
        expected: reached.next(),
        found: "the end of both logs".into(),
    })
}
