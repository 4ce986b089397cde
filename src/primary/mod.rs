//! What only a primary does: claims the epoch, ships to replicas and to the archive, keeps marks, merges chunks, and
//! fills the second archive. The parts that a replica has, too, are in [`crate::node`].
//!
//! ```text
//! archived                  what the archive holds of this node's line; fetches what the node lacks
//! base_sender, feeding_node what a feed needs of the node; sends bases to replicas
//! marks, merging            records of marks; merging of small chunks
//! second_archive            the uploads to archive-2
//! archive_side, shipping    the uploads to the archive; all shipping
//! accept                    accepts replicas
//! takeover                  makes a node the writer
//! ```
//!
//! Start: look at the archive (an archive that cannot be read is an error, never "empty"); claim the directory;
//! recover; fetch the commits that the archive has beyond the directory; claim the epoch; ship; serve.

mod accept;
mod archive_side;
mod archived;
mod base_sender;
mod feeding_node;
mod marks;
mod merging;
mod second_archive;
mod shipping;
pub mod takeover;

use crate::archive::epochs::EpochTree;
use crate::archive::identity;
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::archive::opening::open_archive;
use crate::archive::store::{Archive, Opening};
use crate::config::Config;
use crate::directory::{DataDir, LastRole};
use crate::error::{Error, Result};
use crate::node::archive_commits::ArchiveCommits;
use crate::node::open::{self, Opened};
use crate::node::running::Node;
use crate::node::{places, serve};
use crate::server::listener;
use shipping::Shipping;
use std::path::Path;
use std::sync::Arc;

/// Opens the directory of a primary and brings it to the end of its history. Clients are not served yet.
pub async fn prepare(root: &Path, config: &Config) -> Result<(Opened, Option<Archive>)> {
    places::require_apart(root, config)?;
    let archive = open_archive(config, Opening::Create)?;
    let (mut cluster, mut tree) = (None, None);
    if let Some(archive) = &archive {
        cluster = identity::read(archive).await?;
        tree = Some(EpochTree::read(archive).await?);
    }
    let is_new = DataDir::new(root).is_empty()?;
    if let Some(cluster) = cluster.filter(|_| is_new) {
        let what = format!("archive {}", config.archive);
        let detail = format!(
            "belongs to cluster {cluster}, but {} is empty. Restore it first (walferry restore), or use another prefix",
            root.display()
        );
        return Err(Error::Identity { what, detail });
    }
    let own = DataDir::new(root).identity()?.map(|identity| identity.cluster);
    places::require_own_second(config, own).await?;
    let (dir, lock, identity) = open::claim_directory(root, LastRole::Primary, cluster)?;
    takeover::check_fence(&identity, tree.as_ref())?;
    let config = config.clone();
    let source = archive.clone();
    let epoch = identity.epoch();
    let runtime = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || {
        let missing = source.map(|archive| ArchiveCommits { archive, epoch, runtime });
        open::open(dir, lock, identity, &config, missing.as_ref().map(|missing| missing as _))
    })
    .await
    .expect("opening does not panic")?;
    let reached = match &archive {
        Some(archive)
            if tree.as_ref().is_some_and(|tree| tree.get(epoch).is_some())
                && opened.identity.role == LastRole::Primary
                // Archived commits that follow a replaced commit build upon the one that was lost, so none of them may
                // be fetched.
                && opened.identity.intact_until.is_none() =>
        {
            let listing = Listing::read(archive).await?;
            match Lineage::of(&listing.epochs, epoch) {
                Some(lineage) => archived::fetch_tail(archive, &listing, &lineage, &opened.committer).await?,
                None => opened.recovered.position.csn,
            }
        }
        _ => opened.recovered.position.csn,
    };
    open::require_durable(&opened, reached, archive.as_ref())?;
    Ok((opened, archive))
}

/// Runs a primary until it is asked to stop. `ready` is called when clients are served.
pub async fn run(root: &Path, config: Config, ready: impl FnOnce(&Arc<Node>)) -> Result<()> {
    // The ports are bound first, because a start that fails on a port in use must not claim an epoch.
    let clients = listener::bind(&config.bind, config.port.0).await?;
    let replicas = listener::bind(&config.bind, config.repl_port.0).await?;
    let (opened, archive) = prepare(root, &config).await?;
    let node = Node::new(config, opened, archive, false, takeover::take_over);
    takeover::begin_writing(&node.core).await?;
    let shipping = Shipping::start(&node.core, &node.bases).await?;
    node.core.take_writes();
    tokio::spawn(accept::accept_replicas(node.core.stopping(), Arc::clone(&shipping.feeds), replicas));
    serve::serve(&node, clients, ready).await
}
