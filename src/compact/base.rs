//! Rebuilds a hybrid snapshot from a base and what follows it, and publishes it as the next base.
//!
//! Restores into a scratch directory, opens it as a primary would and cuts a strict base there. Guarantees: as of any
//! base, see [`crate::snapshot::publish`]; another publisher of the same csn is no conflict. What is shared: the SSTs of
//! the base it began with are fetched as they are, and what follows lies in SSTs of its own, so that the new base
//! uploads only those, until so many have gathered that RocksDB merges them (eight of a column family): then those that
//! are rewritten are new.

use crate::archive::store::Archive;
use crate::config::{Config, Consistency, Memory};
use crate::csn::{Csn, Epoch};
use crate::directory::LastRole;
use crate::error::Result;
use crate::history::target::Target;
use crate::io::Io;
use crate::primary::open::{claim_directory, open};
use crate::restore::progress::ProgressSink;
use crate::restore::restore;
use crate::snapshot::base::{BaseCutter, CutRequest};
use crate::snapshot::publish::Publisher;
use crate::threads::blocking;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Size of an op-log segment in the scratch directory, where nothing is written to it.
const SEGMENT_BYTES: u64 = 1 << 20;

/// What to rebuild.
#[derive(Clone)]
pub struct Options {
    /// The commit the base is to lie at.
    pub target: Target,
    /// The epoch whose line of history is followed; none: the newest.
    pub epoch: Option<Epoch>,
    /// A directory to restore into; it must be empty or not exist. What is made in it is left to the caller to remove.
    pub dir: PathBuf,
    /// For bulk transfers.
    pub io: Arc<dyn Io>,
    /// Who is told how far it is.
    pub progress: ProgressSink,
}

/// What was rebuilt.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The commit the base lies at.
    pub csn: Csn,
    /// The generation that made it.
    pub epoch: Epoch,
    /// Whether the base is new: else the archive had one there.
    pub is_new: bool,
    /// Bytes that the archive did not have.
    pub bytes_new: u64,
    /// Bytes of SSTs that it had.
    pub bytes_shared: u64,
    /// Seconds for the restore.
    pub restore_seconds: f64,
}

/// Rebuilds and publishes a base.
pub async fn rebuild(archive: &Archive, options: Options) -> Result<Report> {
    let Options { target, epoch, dir, io, progress } = options;
    let restoring = crate::restore::Options { dir: dir.clone(), target, epoch, io: Arc::clone(&io), progress };
    let restored = restore(archive, restoring).await?;
    let base = blocking(move || {
        let (dir, lock, identity) = claim_directory(&dir, LastRole::Restored, None)?;
        let (cluster, node) = (identity.cluster, identity.node.clone());
        let config = Config { oplog_segment_bytes: Memory(SEGMENT_BYTES), ..Config::default() };
        let opened = open(dir.clone(), lock, identity, &config, None)?;
        let request = CutRequest { consistency: Consistency::Strict, node, role: LastRole::Restored };
        let cut = BaseCutter::new(io, &dir, cluster).cut(&opened.committer, &request);
        opened.committer.syncer.stop();
        cut
    })
    .await?;
    let manifest = base.manifest();
    let (csn, epoch) = (manifest.csn, manifest.epoch);
    // It was made of what is there.
    let published = Publisher::new(archive.clone()).publish(base, async { Ok(()) }).await?;
    let seconds = restored.seconds;
    Ok(Report {
        csn,
        epoch,
        is_new: published.is_some(),
        bytes_new: published.map_or(0, |published| published.bytes_new),
        bytes_shared: published.map_or(0, |published| published.bytes_shared),
        restore_seconds: seconds.plan + seconds.base + seconds.log + seconds.finish,
    })
}
