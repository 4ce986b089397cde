//! Wires the stages into a primary: the order of start and stop. No other module knows all others.
//!
//! Start: look at the archive (an archive that cannot be read is an error, never "empty"); claim the directory;
//! recover; fetch the commits that the archive has beyond the directory; claim the epoch; ship; serve. Stop: end the
//! clients' connections; cut and archive the remaining commits; sync the logs; mark the directory as closed in good
//! order.

pub mod bases;
mod chores;
mod clock;
pub mod compacting;
pub mod gauges;
mod info;
mod key_count;
pub mod marks;
mod merging;
pub mod node;
pub mod open;
pub mod places;
pub mod pruning;
mod reclaiming;
mod schedule;
pub mod second_archive;
pub mod shipping;
pub mod snapshots;
pub mod takeover;

use crate::archive::epochs::EpochTree;
use crate::archive::identity;
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::archive::store::{Archive, Opening};
use crate::command::host::Host;
use crate::config::Config;
use crate::directory::LastRole;
use crate::error::{Error, Result};
use crate::server::{http, listener};
use node::Node;
use open::Opened;
use shipping::Shipping;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Opens the directory of a primary and brings it to the end of its history. Clients are not served yet.
pub async fn prepare(root: &Path, config: &Config) -> Result<(Opened, Option<Archive>)> {
    places::require_apart(root, config)?;
    let archive = shipping::open_archive(config, Opening::Create)?;
    let (mut cluster, mut tree) = (None, None);
    if let Some(archive) = &archive {
        cluster = identity::read(archive).await?;
        tree = Some(EpochTree::read(archive).await?);
    }
    let is_new = crate::directory::DataDir::new(root).is_empty()?;
    if let Some(cluster) = cluster.filter(|_| is_new) {
        let what = format!("archive {}", config.archive);
        let detail = format!(
            "belongs to cluster {cluster}, but {} is empty. Restore it first (walferry restore), or use another prefix",
            root.display()
        );
        return Err(Error::Identity { what, detail });
    }
    let own = crate::directory::DataDir::new(root).identity()?.map(|identity| identity.cluster);
    second_archive::check(config, own).await?;
    let (dir, lock, identity) = open::claim_directory(root, LastRole::Primary, cluster)?;
    takeover::check_fence(&identity, tree.as_ref())?;
    let config = config.clone();
    let source = archive.clone();
    let epoch = identity.epoch();
    let runtime = tokio::runtime::Handle::current();
    let opened = tokio::task::spawn_blocking(move || {
        let missing = source.map(|archive| shipping::ArchiveCommits { archive, epoch, runtime });
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
                Some(lineage) => shipping::fetch_tail(archive, &listing, &lineage, &opened.committer).await?,
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
    let node = Node::new(config, opened, archive, false);
    takeover::begin_writing(&node).await?;
    Shipping::start(&node).await?;
    node.take_writes();
    tokio::spawn(accept_replicas(Arc::clone(&node), replicas));
    serve(&node, clients, ready).await
}

/// Serves clients until the node is asked to stop, then stops the node in good order.
pub async fn serve(node: &Arc<Node>, clients: TcpListener, ready: impl FnOnce(&Arc<Node>)) -> Result<()> {
    serve_metrics(node).await?;
    compacting::start(node);
    pruning::start(node);
    let chores = chores::start(node);
    let threads = client_threads(&node.config());
    let serving = tokio::spawn(listener::serve(clients, node.service(), threads, node.stopping()));
    ready(node);
    let mut stopping = node.stopping();
    let _ = stopping.wait_for(|stop| *stop).await;
    tracing::info!("stopping");
    let _ = serving.await;
    let _ = tokio::task::spawn_blocking(move || chores.map(std::thread::JoinHandle::join)).await;
    if let Some(link) = node.link() {
        link.stop().await;
    }
    let shipping = node.shipping.load_full();
    if let Some(shipping) = shipping {
        shipping.stop().await;
    }
    stop(node).await
}

/// Serves metrics on their port, if one is configured.
async fn serve_metrics(node: &Arc<Node>) -> Result<()> {
    let config = node.config();
    if config.metrics_port == 0 {
        return Ok(());
    }
    let listener = listener::bind(&config.bind, config.metrics_port).await?;
    let shown = Arc::downgrade(node);
    let render = Arc::new(move || shown.upgrade().map_or_else(String::new, |node| node.metrics()));
    tokio::spawn(http::serve(listener, render, node.stopping()));
    Ok(())
}

/// Returns the number of threads that serve clients. By default half of the cores are left to RocksDB, shipping and
/// snapshots.
fn client_threads(config: &Config) -> usize {
    match config.client_threads.0 as usize {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).max(1),
        threads => threads,
    }
}

/// Accepts and feeds replicas until the node stops.
async fn accept_replicas(node: Arc<Node>, replicas: TcpListener) {
    let mut stopping = node.stopping();
    loop {
        // Cancel-safe: both arms only wait.
        let accepted = tokio::select! {
            accepted = replicas.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        match (accepted, node.shipping.load_full()) {
            (Ok((stream, _)), Some(shipping)) => {
                let feeds = Arc::clone(&shipping.feeds);
                tokio::spawn(async move { feeds.serve(stream).await });
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                tracing::warn!(%error, "a replica's connection could not be accepted");
                tokio::time::sleep(listener::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Opens the replication port of a replica that was promoted: the configured port, or a free one if another process of
/// this machine (perhaps the old primary) has that port. INFO shows the port.
async fn listen_for_replicas(node: &Arc<Node>) -> Result<()> {
    let config = node.config();
    let replicas = match listener::bind(&config.bind, config.repl_port.0).await {
        Ok(replicas) => replicas,
        Err(error) => {
            tracing::warn!(%error, "the replication port is taken; a free port is used");
            listener::bind(&config.bind, 0).await?
        }
    };
    let port = replicas.local_addr().map_or(0, |address| address.port());
    node.set_repl_port(port);
    tracing::info!(port, "listening for replicas");
    tokio::spawn(accept_replicas(Arc::clone(node), replicas));
    Ok(())
}

/// Syncs the logs, writes a memory image so that the next start is quick, and closes the directory.
async fn stop(node: &Arc<Node>) -> Result<()> {
    let closing = Arc::clone(node);
    let closed = tokio::task::spawn_blocking(move || {
        let has_new = closing.committer.watermarks.committed.get() > closing.snapshots.newest_image().position.csn;
        if has_new {
            closing.snapshots.write_image(&closing);
        }
        closing.committer.stop_log_thread();
        closing.committer.syncer.stop();
        let is_synced = closing.committer.watermarks.durable.get() >= closing.committer.watermarks.committed.get();
        closing.change_identity(|identity| identity.is_clean = is_synced)
    });
    closed.await.expect("closing does not panic")?;
    tracing::info!(csn = node.committer.watermarks.committed.get().0, "stopped");
    Ok(())
}
