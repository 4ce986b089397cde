//! Accepts client connections, up to a limit, and knows who is connected.

use super::connection::{self, Service};
use super::frame::Limits;
use crate::command::client::{Client, ClientCard};
use crate::command::reply::Out;
use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Pause after the system refused to accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is connected, and how many were.
#[derive(Debug, Default)]
pub struct Registry {
    clients: Mutex<BTreeMap<u64, Arc<Mutex<ClientCard>>>>,
    accepted: AtomicU64,
    rejected: AtomicU64,
}

impl Registry {
    /// Every connected client, by number.
    #[must_use]
    pub fn cards(&self) -> Vec<ClientCard> {
        self.clients.lock().values().map(|card| card.lock().clone()).collect()
    }

    /// Connected clients.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.lock().len()
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections accepted since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Connections refused because of the limit.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

/// Binds a listening socket.
pub async fn bind(address: &str, port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((address, port)).await;
    listener.map_err(|source| Error::Net { action: "listen on", peer: format!("{address}:{port}"), source })
}

/// Serves clients until `stop` turns true.
pub async fn serve(listener: TcpListener, service: Arc<Service>, mut stop: watch::Receiver<bool>) {
    loop {
        // Both arms only wait.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => admit(stream, &service, stop.clone()),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(stream: TcpStream, service: &Arc<Service>, stop: watch::Receiver<bool>) {
    let registry = &service.registry;
    let config = service.host.config();
    if registry.len() as u64 >= config.maxclients {
        registry.rejected.fetch_add(1, Ordering::Relaxed);
        let mut out = Out::new(crate::command::reply::Protocol::Resp2);
        out.error("ERR max number of clients reached");
        let _ = stream.try_write(out.as_bytes());
        return;
    }
    let _ = stream.set_nodelay(true);
    let id = registry.accepted.fetch_add(1, Ordering::Relaxed) + 1;
    let address =
        |address: std::io::Result<std::net::SocketAddr>| address.map_or_else(|_| "?:0".to_owned(), |a| a.to_string());
    let client =
        Client::new(id, address(stream.peer_addr()), address(stream.local_addr()), !config.requirepass.is_empty());
    let limits = Limits {
        bulk_bytes_max: config.proto_max_bulk_len.0 as usize,
        query_buffer_bytes_max: config.client_query_buffer_limit.0 as usize,
        ..Limits::default()
    };
    let card = Arc::new(Mutex::new(client.card()));
    registry.clients.lock().insert(id, Arc::clone(&card));
    let service = Arc::clone(service);
    tokio::spawn(async move {
        connection::serve(stream, client, &service, limits, &card, stop).await;
        service.registry.clients.lock().remove(&id);
    });
}
