//! One client's state: what its requests leave behind on the connection.

use super::args::OwnedArgs;
use super::host::Task;
use super::reply::Protocol;
use crate::engine::watch::Touched;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of commands MULTI may queue.
pub const QUEUE_BYTES_MAX: usize = 1 << 30;

/// A client.
#[derive(Debug)]
pub struct Client {
    /// Number of the connection.
    pub id: u64,
    /// Peer address.
    pub addr: String,
    /// Local address.
    pub local_addr: String,
    /// CLIENT SETNAME.
    pub name: String,
    /// Protocol of its replies.
    pub protocol: Protocol,
    /// Whether it has authenticated, or need not.
    pub is_authenticated: bool,
    /// When it connected, ms since the Unix epoch.
    pub connected_ms: u64,
    /// Its last command's name.
    pub last_command: &'static str,
    /// Commands queued since MULTI; `None` outside of one.
    pub queue: Option<Queue>,
    /// Set once a watched key was touched; `None` if nothing is watched.
    pub watched: Option<Touched>,
    /// What the connection must await before the next request.
    pub task: Option<Task>,
    /// Whether the connection is to be closed after its replies were sent.
    pub closes: bool,
}

/// Commands queued by MULTI.
#[derive(Debug, Default)]
pub struct Queue {
    /// In order.
    pub commands: Vec<OwnedArgs>,
    /// Bytes of all of them.
    pub bytes: usize,
    /// Whether one was refused, so that EXEC aborts.
    pub is_broken: bool,
    /// Whether any of them writes.
    pub has_writes: bool,
}

impl Client {
    /// A client that just connected.
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
            closes: false,
        }
    }

    /// The flag that this client's WATCH hands to the keyspace.
    pub fn watch_flag(&mut self) -> Touched {
        Arc::clone(self.watched.get_or_insert_with(|| Arc::new(AtomicBool::new(false))))
    }

    /// Whether a watched key was touched since WATCH.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.watched.as_ref().is_some_and(|flag| flag.load(Ordering::Acquire))
    }

    /// The line of CLIENT INFO and CLIENT LIST, with Redis' field names.
    #[must_use]
    pub fn line(&self) -> String {
        let multi = self.queue.as_ref().map_or(-1, |queue| queue.commands.len() as i64);
        let age = crate::clock::now_millis().saturating_sub(self.connected_ms) / 1000;
        let resp = if self.protocol == Protocol::Resp3 { 3 } else { 2 };
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={age} idle=0 flags={} db=0 sub=0 psub=0 ssub=0 multi={multi} qbuf=0 \
             qbuf-free=0 argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user=default \
             redir=-1 resp={resp}",
            self.id,
            self.addr,
            self.local_addr,
            self.name,
            if self.queue.is_some() { "x" } else { "N" },
            self.queue.as_ref().map_or(0, |queue| queue.bytes),
            self.last_command,
        )
    }
}
