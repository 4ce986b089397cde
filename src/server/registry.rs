//! The list of connected clients.

use crate::command::client_card::ClientCard;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The connected clients, and counters of accepted and refused connections.
#[derive(Debug, Default)]
pub struct Registry {
    clients: Mutex<BTreeMap<u64, Arc<Mutex<ClientCard>>>>,
    accepted: AtomicU64,
    rejected: AtomicU64,
    /// Number of clients that the process has file descriptors for; 0 until serving begins.
    fitting: AtomicU64,
    /// Number of clients that were accepted and have not left. Some of them may not have reached their lane.
    seated: AtomicU64,
}

impl Registry {
    /// Returns the cards of all connected clients, ordered by client number.
    #[must_use]
    pub fn cards(&self) -> Vec<ClientCard> {
        self.clients.lock().values().map(|card| card.lock().clone()).collect()
    }

    /// Returns the number of connected clients.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.lock().len()
    }

    /// Reports whether no client is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of connections accepted since the start.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Returns the number of clients allowed at the same time: `maxclients`, or fewer if the process lacks file
    /// descriptors.
    #[must_use]
    pub fn limit(&self, maxclients: u64) -> u64 {
        maxclients.min(self.fitting.load(Ordering::Relaxed))
    }

    /// Returns the number of connections refused because of the limit.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// Sets the number of clients that the process has file descriptors for.
    pub(super) fn set_fitting(&self, clients: u64) {
        self.fitting.store(clients, Ordering::Relaxed);
    }

    /// Takes a place for one more client. Returns false, and counts a refused connection, if there is none. Only the
    /// accepting task takes places.
    pub(super) fn take_seat(&self, maxclients: u64) -> bool {
        let is_free = self.seated.load(Ordering::Relaxed) < self.limit(maxclients);
        let count = if is_free { &self.seated } else { &self.rejected };
        count.fetch_add(1, Ordering::Relaxed);
        is_free
    }

    /// Gives a client's place back.
    pub(super) fn leave_seat(&self) {
        self.seated.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts an accepted connection, and returns its number. The first connection has the number 1.
    pub(super) fn next_id(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds a client to the list. Returns the client's card, which its connection keeps up to date.
    pub(super) fn enter(&self, card: ClientCard) -> Arc<Mutex<ClientCard>> {
        let (id, card) = (card.id, Arc::new(Mutex::new(card)));
        self.clients.lock().insert(id, Arc::clone(&card));
        card
    }

    /// Removes a client from the list.
    pub(super) fn remove(&self, id: u64) {
        self.clients.lock().remove(&id);
    }
}
