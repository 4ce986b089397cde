//! Serves clients from the moment at which a node's role has begun until the node is asked to stop.
//!
//! Guarantees: a stop ends the clients' connections, lets the role finish (a replica applies what it received, a
//! primary archives what it can), syncs the logs, and marks the directory as closed in good order.

use super::chores;
use super::metrics::metrics;
use super::running::Node;
use crate::config::Config;
use crate::error::Result;
use crate::server::lane::Service;
use crate::server::{http, listener};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves clients until the node is asked to stop, then stops the node in good order. Calls `ready` when clients are
/// served.
pub async fn serve(node: &Arc<Node>, clients: TcpListener, ready: impl FnOnce(&Arc<Node>)) -> Result<()> {
    let core = &node.core;
    serve_metrics(node).await?;
    node.bases.start_schedule();
    node.compacting.start_schedule();
    node.pruning.start_schedule();
    let chores = chores::start(core, &node.snapshots, &node.key_counter);
    let threads = client_threads(&core.config());
    let service = Arc::new(Service {
        committer: Arc::clone(&core.committer),
        host: Arc::clone(node) as _,
        registry: Arc::clone(&node.registry),
        runtime: tokio::runtime::Handle::current(),
    });
    let serving = tokio::spawn(listener::serve(clients, service, threads, core.stopping()));
    ready(node);
    let mut stopping = core.stopping();
    let _ = stopping.wait_for(|stop| *stop).await;
    tracing::info!("stopping");
    let _ = serving.await;
    let _ = tokio::task::spawn_blocking(move || chores.map(std::thread::JoinHandle::join)).await;
    if let Some(link) = core.link() {
        link.stop().await;
    }
    if let Some(primary) = core.primary() {
        primary.stop().await;
    }
    stop(node).await
}

/// Serves metrics on their port, if one is configured.
async fn serve_metrics(node: &Arc<Node>) -> Result<()> {
    let config = node.core.config();
    if config.metrics_port == 0 {
        return Ok(());
    }
    let listener = listener::bind(&config.bind, config.metrics_port).await?;
    let shown = Arc::downgrade(node);
    let render = Arc::new(move || shown.upgrade().map_or_else(String::new, |node| metrics(&node)));
    tokio::spawn(http::serve(listener, render, node.core.stopping()));
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

/// Syncs the logs, writes a memory image so that the next start is quick, and closes the directory.
async fn stop(node: &Arc<Node>) -> Result<()> {
    let closing = Arc::clone(node);
    let closed = tokio::task::spawn_blocking(move || {
        let (core, snapshots) = (&closing.core, &closing.snapshots);
        let watermarks = &core.committer.watermarks;
        let has_new = watermarks.committed.get() > snapshots.newest_image().position.csn;
        if has_new {
            snapshots.write_image();
        }
        core.committer.stop_log_thread();
        core.committer.syncer.stop();
        let is_synced = watermarks.durable.get() >= watermarks.committed.get();
        core.change_identity(|identity| identity.is_clean = is_synced)
    });
    closed.await.expect("closing does not panic")?;
    tracing::info!(csn = node.core.committer.watermarks.committed.get().0, "stopped");
    Ok(())
}
