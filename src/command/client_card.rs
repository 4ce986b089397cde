//! A client as CLIENT INFO and CLIENT LIST show it.

/// A client as CLIENT INFO and CLIENT LIST show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientCard {
    /// Number of the connection.
    pub id: u64,
    /// Address of the client.
    pub addr: String,
    /// Address of the server that the client connected to.
    pub local_addr: String,
    /// Name set with CLIENT SETNAME; empty if there is none.
    pub name: String,
    /// Protocol version: 2 or 3.
    pub resp: u8,
    /// Time of the connection in milliseconds since the Unix epoch.
    pub connected_ms: u64,
    /// Time of the last request in milliseconds since the Unix epoch.
    pub seen_ms: u64,
    /// Name of the last command.
    pub last_command: &'static str,
    /// Number of commands queued since MULTI; `None` outside a transaction.
    pub queued: Option<usize>,
}

impl ClientCard {
    /// Returns the line of CLIENT INFO and CLIENT LIST, with Redis' field names. Fields that walferry does not keep are
    /// 0.
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
