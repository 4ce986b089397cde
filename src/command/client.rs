//! State of one client that lasts from request to request.

use super::args::OwnedArgs;
use super::client_card::ClientCard;
use super::host::Task;
use super::reply::Protocol;
use crate::engine::watch::Touched;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Largest number of bytes of the commands that MULTI queues.
pub const QUEUE_BYTES_MAX: usize = 1 << 30;

/// State of one client.
#[derive(Debug)]
pub struct Client {
    /// Number of the connection.
    pub id: u64,
    /// Address of the client.
    pub addr: String,
    /// Address of the server that the client connected to.
    pub local_addr: String,
    /// Name set with CLIENT SETNAME; empty if there is none.
    pub name: String,
    /// Protocol version of the replies.
    pub protocol: Protocol,
    /// Whether the client has authenticated or need not.
    pub is_authenticated: bool,
    /// Time of the connection in milliseconds since the Unix epoch.
    pub connected_ms: u64,
    /// Name of the last command.
    pub last_command: &'static str,
    /// Commands queued since MULTI; `None` outside a transaction.
    pub queue: Option<Queue>,
    /// Flag that a change of a watched key sets; `None` if no key is watched.
    pub watched: Option<Touched>,
    /// Task that the connection must await before the next request.
    pub task: Option<Task>,
    /// Read that waits for commits. Its reply is not written yet.
    pub blocked: Option<Blocked>,
    /// Whether EXEC is running this client's commands. No command blocks then.
    pub is_in_exec: bool,
    /// Whether the connection must be closed after its replies were sent.
    pub closes: bool,
}

/// A read that waits for commits.
#[derive(Debug)]
pub struct Blocked {
    /// The request to run after each commit. Arguments that depend on the time of the first run are replaced by their
    /// values.
    pub request: OwnedArgs,
    /// Longest time to wait; `None` means without limit.
    pub timeout: Option<Duration>,
}

/// Commands queued by MULTI.
#[derive(Debug, Default)]
pub struct Queue {
    /// The requests in order. Each of them names a command with a fitting number of arguments.
    pub requests: Vec<OwnedArgs>,
    /// Bytes of all queued arguments.
    pub bytes: usize,
    /// Bytes of the rows that the arguments of the writes can become.
    pub row_bytes: usize,
    /// Whether a command was refused, so that EXEC aborts.
    pub is_broken: bool,
    /// Whether any of the commands writes.
    pub has_writes: bool,
    /// Whether any of the commands may enlarge the stored data.
    pub grows: bool,
}

impl Client {
    /// Makes a client that has just connected.
    #[must_use]
    pub fn new(id: u64, addr: String, local_addr: String, needs_password: bool) -> Self {
        Self {
            id,
            addr,
            local_addr,
            name: String::new(),
            protocol: Protocol::Resp2,
            is_authenticated: !needs_password,
            connected_ms: crate::clock::now_millis(),
            last_command: "NULL",
            queue: None,
            watched: None,
            task: None,
            blocked: None,
            is_in_exec: false,
            closes: false,
        }
    }

    /// Returns the flag that this client's WATCH passes to the keyspace.
    pub fn watch_flag(&mut self) -> Touched {
        Arc::clone(self.watched.get_or_insert_with(|| Arc::new(AtomicBool::new(false))))
    }

    /// Reports whether a watched key was changed since WATCH.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.watched.as_ref().is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    /// Returns what CLIENT INFO and CLIENT LIST show of this client.
    #[must_use]
    pub fn card(&self) -> ClientCard {
        ClientCard {
            id: self.id,
            addr: self.addr.clone(),
            local_addr: self.local_addr.clone(),
            name: self.name.clone(),
            resp: if self.protocol == Protocol::Resp3 { 3 } else { 2 },
            connected_ms: self.connected_ms,
            seen_ms: crate::clock::now_millis(),
            last_command: self.last_command,
            queued: self.queue.as_ref().map(|queue| queue.requests.len()),
        }
    }
}
