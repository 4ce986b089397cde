//! Rebuilds a hybrid snapshot from a base and the chunks and runs after it, and publishes it as the next base.
//!
//! Restores into a scratch directory, opens the directory as a node does, and cuts a strict base from it. A base at a
//! commit of the past, or in an archive without nodes, can be made in no other way: a primary on a restored directory
//! begins an epoch, which fences the running primary, and BGSAVE cuts at its newest commit only.
//! Guarantees: those of every base, see [`crate::snapshot::publish`]; another publisher of the same csn causes no
//! conflict. The new base shares the SST files of the old base: the restore fetches them unchanged and puts later
//! effects into new SST files, and only the new files are uploaded. When RocksDB merges SST files (at eight files of a
//! column family), the rewritten files are new too.

use super::open::{claim_directory, open};
use crate::archive::store::Archive;
use crate::config::{Config, Consistency, Memory};
use crate::csn::{Csn, Epoch};
use crate::directory::LastRole;
use crate::error::Result;
use crate::history::route::RouteCosts;
use crate::history::target::Target;
use crate::io::Io;
use crate::restore::progress::ProgressSink;
use crate::restore::restore;
use crate::snapshot::base::{BaseCutter, CutRequest};
use crate::snapshot::publish::Publisher;
use crate::threads::blocking;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Size of an op-log segment in the scratch directory, in bytes; small because no commit is written there.
const SEGMENT_BYTES: u64 = 1 << 20;

/// Options for rebuilding a base.
#[derive(Clone)]
pub struct Options {
    /// The commit of the new base.
    pub target: Target,
    /// The epoch whose line of history is followed; `None` for the newest epoch.
    pub epoch: Option<Epoch>,
    /// The directory to restore into; must be empty or must not exist. The caller removes its content.
    pub dir: PathBuf,
    /// Reads and writes the files of the directory.
    pub io: Arc<dyn Io>,
    /// Receives the progress.
    pub progress: ProgressSink,
}

/// The result of rebuilding a base.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The csn of the base.
    pub csn: Csn,
    /// The epoch that made this commit.
    pub epoch: Epoch,
    /// Whether this call published the base; false if the archive already held a base at this commit.
    pub is_new: bool,
    /// Bytes that the base added to the archive.
    pub bytes_new: u64,
    /// Bytes of SST files that the archive already held.
    pub bytes_shared: u64,
    /// Duration of the restore, in seconds.
    pub restore_seconds: f64,
}

/// Rebuilds a base and publishes it.
pub async fn rebuild(archive: &Archive, options: Options) -> Result<Report> {
    let Options { target, epoch, dir, io, progress } = options;
    let restoring = crate::restore::Options {
        dir: dir.clone(),
        target,
        epoch,
        costs: RouteCosts::DEFAULT,
        io: Arc::clone(&io),
        progress,
    };
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
    // The archive's chunks already reach the base's csn, so the publisher need not wait for them.
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
