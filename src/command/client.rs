//! One client's state: what its requests leave behind on the connection.

use super::args::OwnedArgs;
use super::host::Task;
use super::reply::Protocol;
use super::table::Command;
use crate::engine::watch::Touched;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
    /// A read that waits for commits; its reply is not written yet.
    pub blocked: Option<Blocked>,
    /// Whether EXEC is running this client's commands: nothing blocks there.
    pub is_in_exec: bool,
    /// Whether the connection is to be closed after its replies were sent.
    pub closes: bool,
}

/// A read that waits for commits.
#[derive(Debug)]
pub struct Blocked {
    /// The request to run again, with everything resolved that depends on when it was asked.
    pub request: OwnedArgs,
    /// How long it may wait; none: for ever.
    pub timeout: Option<Duration>,
}

/// Commands queued by MULTI.
#[derive(Debug, Default)]
pub struct Queue {
    /// In order.
    pub commands: Vec<(&'static Command, OwnedArgs)>,
    /// Bytes of all of them.
    pub bytes: usize,
    /// Bytes of the rows that their arguments become.
    pub row_bytes: usize,
    /// Whether one was refused, so that EXEC aborts.
    pub is_broken: bool,
    /// Whether any of them writes.
    pub has_writes: bool,
    /// Whether any of them may make what is stored larger.
    pub grows: bool,
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
            blocked: None,
            is_in_exec: false,
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

    /// What CLIENT INFO and CLIENT LIST show of it.
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
            queued: self.queue.as_ref().map(|queue| queue.commands.len()),
        }
    }
}

/// A client as others see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCard {
    /// Number of the connection.
    pub id: u64,
    /// Peer address.
    pub addr: String,
    /// Local address.
    pub local_addr: String,
    /// CLIENT SETNAME.
    pub name: String,
    /// 2 or 3.
    pub resp: u8,
    /// When it connected, ms since the Unix epoch.
    pub connected_ms: u64,
    /// When it last asked for something, ms since the Unix epoch.
    pub seen_ms: u64,
    /// Its last command's name.
    pub last_command: &'static str,
    /// Commands queued since MULTI.
    pub queued: Option<usize>,
}

impl ClientCard {
    /// The line of CLIENT INFO and CLIENT LIST, with Redis' field names; what walferry does not keep shows as 0.
    #[must_use]
    pub fn line(&self) -> String {
        let seconds_since = |ms: u64| crate::clock::now_millis().saturating_sub(ms) / 1000;
        format!(
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={} db=0 sub=0 psub=0 ssub=0 multi={} qbuf=0 qbuf-free=0 \
             argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={} user=default redir=-1 resp={}",
            self.id,
            self.addr,
            self.local_addr,
            self.name,
            seconds_since(self.connected_ms),
            seconds_since(self.seen_ms),
            if self.queued.is_some() { "x" } else { "N" },
            self.queued.map_or(-1, |queued| queued as i64),
            self.last_command,
            self.resp,
        )
    }
}
