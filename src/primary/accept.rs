//! Accepts the connections of replicas.

use crate::error::Result;
use crate::node::core::Core;
use crate::server::listener;
use crate::ship::feed::Feeds;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Accepts and feeds replicas until the node stops.
pub(super) async fn accept_replicas(mut stopping: watch::Receiver<bool>, feeds: Arc<Feeds>, replicas: TcpListener) {
    loop {
        // Cancel-safe: both arms only wait.
        let accepted = tokio::select! {
            accepted = replicas.accept() => accepted,
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let feeds = Arc::clone(&feeds);
                tokio::spawn(async move { feeds.serve(stream).await });
            }
            Err(error) => {
                tracing::warn!(%error, "a replica's connection could not be accepted");
                tokio::time::sleep(listener::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Opens the replication port of a replica that was promoted: the configured port, or a free one if another process of
/// this machine (perhaps the old primary) has that port. INFO shows the port.
pub(super) async fn listen_for_replicas(core: &Core, feeds: &Arc<Feeds>) -> Result<()> {
    let config = core.config();
    let replicas = match listener::bind(&config.bind, config.repl_port.0).await {
        Ok(replicas) => replicas,
        Err(error) => {
            tracing::warn!(%error, "the replication port is taken; a free port is used");
            listener::bind(&config.bind, 0).await?
        }
    };
    let port = replicas.local_addr().map_or(0, |address| address.port());
    core.set_repl_port(port);
    tracing::info!(port, "listening for replicas");
    tokio::spawn(accept_replicas(core.stopping(), Arc::clone(feeds), replicas));
    Ok(())
}
