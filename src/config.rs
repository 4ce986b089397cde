//! Configuration: keys in kebab-case, with Redis' own name where Redis has one.
//!
//! Guarantees: an unknown key, or a value that does not parse, gives an error that says what is accepted; a shown value
//! is the value in force. The sources are, later ones winning: defaults, `--config FILE.toml`, `--set KEY=VALUE`, then
//! `CONFIG SET` for the keys that may change while running. Secrets are never shown.

use crate::error::{Error, Result};
use crate::grain::Grain;
use crate::keep::{self, Keep};
use setting::Setting;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

mod bases;
mod machine;
mod routing;
mod setting;

pub use bases::{Consistency, SnapshotFrom};
pub use routing::RoutingPolicy;

/// When a reply may be sent and when the logs are synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AppendFsync {
    /// Replies wait until both logs are synced.
    Always = 0,
    /// Both logs are synced once a second; replies do not wait for it.
    EverySec = 1,
    /// The OS decides when the logs are synced; replies do not wait for it.
    No = 2,
}

impl Setting for AppendFsync {
    fn accepted() -> String {
        "always, everysec or no".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Always, Self::EverySec, Self::No].into_iter().find(|mode| mode.to_string() == text.to_ascii_lowercase())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for AppendFsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::EverySec => "everysec",
            Self::No => "no",
        })
    }
}

/// Largest number of bytes that can be set: an exabyte. Adding another such number never overflows.
const BYTES_MAX: u64 = 1 << 60;
/// Smallest limit, in bytes, that Redis accepts for the length of an argument and for a client's unread requests.
const QUERY_BYTES_MIN: u64 = 1 << 20;
/// Largest limit, in bytes, that can be set for the length of an argument.
const ARGUMENT_BYTES_MAX: u64 = 2 << 30;
/// Largest size of an op-log segment, in bytes. A new segment is written in full with zeroes, so its size costs time.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Smallest size of an op-log segment, in bytes. With smaller segments every group of commits could need a new one.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Smallest value of `max-commit-bytes`. All formats and messages can carry a commit of [`COMMIT_BYTES_MAX`].
pub const COMMIT_BYTES_MIN: u64 = 1 << 20;
/// Largest value of `max-commit-bytes`, see [`COMMIT_BYTES_MIN`].
pub const COMMIT_BYTES_MAX: u64 = 2 << 30;

/// Bytes of effects that one commit may have.
pub type CommitBytes = Memory<COMMIT_BYTES_MIN, COMMIT_BYTES_MAX>;
/// A number of bytes.
pub type Bytes = Memory<0, BYTES_MAX>;

/// A number of bytes from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Setting for Memory<MIN, MAX> {
    fn accepted() -> String {
        // Without limits of its own, a key has Redis' words.
        if (MIN, MAX) == (0, BYTES_MAX) {
            return "a memory value".to_owned();
        }
        format!("a memory value such as 1000, 64kb, 64mb or 1gb, from {} to {}", shown(MIN), shown(MAX))
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "b" => 1,
            "k" => 1000,
            "kb" => 1 << 10,
            "m" => 1_000_000,
            "mb" => 1 << 20,
            "g" => 1_000_000_000,
            "gb" => 1 << 30,
            _ => return None,
        };
        let bytes = digits.parse::<u64>().ok()?.checked_mul(unit)?;
        (MIN..=MAX).contains(&bytes).then_some(Self(bytes))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Formats a number of bytes as a user writes it.
fn shown(bytes: u64) -> String {
    let units = [("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10)];
    let unit = units.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    unit.map_or_else(|| bytes.to_string(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Number<const MIN: u64, const MAX: u64>(pub u64);

impl<const MIN: u64, const MAX: u64> Setting for Number<MIN, MAX> {
    fn accepted() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|number| (MIN..=MAX).contains(number)).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// The port of an optional listener; 0 means that there is no listener.
impl Setting for u16 {
    fn accepted() -> String {
        "a port from 1 to 65535, or 0 for none".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A port to listen on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Port(pub u16);

impl Setting for Port {
    fn accepted() -> String {
        "a port from 1 to 65535".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|port| *port > 0).map(Self)
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// Longest time that can be set: a hundred years. Adding it to a time of the clock never overflows.
const TIME_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Setting for Duration {
    fn accepted() -> String {
        "a time such as 250 (ms), 250ms, 10s, 5m, 2h or 1d, and at most 36500d".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(unit).map(Self::from_millis).filter(|time| *time <= TIME_MAX)
    }

    fn show(&self) -> String {
        self.as_millis().to_string()
    }
}

impl Setting for bool {
    fn accepted() -> String {
        "yes or no".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "yes" | "true" => Some(true),
            "no" | "false" => Some(false),
            _ => None,
        }
    }

    fn show(&self) -> String {
        if *self { "yes" } else { "no" }.to_owned()
    }
}

impl Setting for Keep {
    fn accepted() -> String {
        keep::ACCEPTS.to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// The size of the compacted runs that a node builds; `None` if it builds none.
impl Setting for Option<Grain> {
    fn accepted() -> String {
        "hour, day, commits:N or empty".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn show(&self) -> String {
        self.map_or_else(String::new, |grain| grain.to_string())
    }
}

impl Setting for String {
    fn accepted() -> String {
        "a text".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// When a key may be set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Also while running, by `CONFIG SET`.
    Running,
    /// Only before the start.
    Start,
    /// Only before the start; the value is never shown.
    Secret,
}

/// A configuration key as `walferry primary --help` and the README list it.
#[derive(Clone, Copy, Debug)]
pub struct KeyDoc {
    /// Name of the key.
    pub name: &'static str,
    /// When the key can be set.
    pub when: When,
    /// The effect of the key, with its unit.
    pub doc: &'static str,
}

macro_rules! configuration {
    ($($field:ident $name:literal: $type:ty = $default:expr, $when:ident, $doc:literal;)*) => {
        /// All settings of a node.
        #[derive(Clone, PartialEq, Eq)]
        pub struct Config {
            $(#[doc = $doc] pub $field: $type,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl Config {
            /// All keys with their docs.
            pub const KEYS: &[KeyDoc] = &[$(KeyDoc { name: $name, when: When::$when, doc: $doc },)*];

            /// Sets a key from text.
            pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
                match key {
                    $($name => self.$field = parse(key, value)?,)*
                    _ => return Err(unknown(key)),
                }
                Ok(())
            }

            /// Returns a key's value as text; `None` if there is no such key. A secret gives an empty text.
            #[must_use]
            pub fn get(&self, key: &str) -> Option<String> {
                match key {
                    $($name => Some(if When::$when == When::Secret { String::new() } else { self.$field.show() }),)*
                    _ => None,
                }
            }
        }
    };
}

configuration! {
    bind "bind": String = "127.0.0.1".into(), Start, "Address to listen on, for clients and for replicas.";
    port "port": Port = Port(6379), Start, "Port for clients.";
    repl_port "repl-port": Port = Port(6380), Start, "Port for replicas.";
    archive "archive": String = String::new(), Start, "Archive URL: s3://bucket/prefix or file:///dir; empty: none.";
    archive_key_file "archive-key-file": String = String::new(), Start, "File with the keys that encrypt the archive, one ID HEX64 a line, the first for new objects; empty: WALFERRY_ARCHIVE_KEY, else the archive is not encrypted.";
    archive_2 "archive-2": String = String::new(), Start, "URL of a second archive, which receives the same chunks and bases; its failures delay no write; empty: none.";
    archive_2_key_file "archive-2-key-file": String = String::new(), Start, "File with the keys that encrypt archive-2, as archive-key-file; empty: WALFERRY_ARCHIVE_2_KEY, else the keys of the first archive.";
    maxclients "maxclients": Number<1, 4_294_967_295> = Number(10_000), Running, "Largest number of client connections at a time.";
    tcp_keepalive "tcp-keepalive": Number<0, 32_767> = Number(300), Running, "Seconds of silence after which the system probes whether a client is still there; 0: never.";
    timeout "timeout": Number<0, 4_294_967_295> = Number(0), Running, "Seconds after which an idle client is disconnected; 0: never. A change counts from a client's next request on.";
    move_bandwidth "move-bandwidth": Bytes = Memory(32 << 20), Running, "Bytes a second of keys that may move from disk to memory.";
    maxmemory "maxmemory": Bytes = Memory(machine::keys_bytes()), Running, "Bytes that the keys in memory may take (default: 40 % of the machine's memory). Beyond it, routing 'access' moves the coldest keys to disk, and writes that grow memory are refused if that cannot keep up; 0: no limit.";
    routing "routing": RoutingPolicy = RoutingPolicy::Access, Running, "How homes of keys are chosen. type: strings, hashes, sets and streams on disk, lists and sorted sets in memory. access: small and often used values in memory, others on disk.";
    proto_max_bulk_len "proto-max-bulk-len": Memory<QUERY_BYTES_MIN, ARGUMENT_BYTES_MAX> = Memory(512 << 20), Start, "Bytes of the longest argument.";
    client_query_buffer_limit "client-query-buffer-limit": Memory<QUERY_BYTES_MIN, BYTES_MAX> = Memory(1 << 30), Start, "Bytes of received requests that are kept for one client.";
    requirepass "requirepass": String = String::new(), Secret, "Password that clients must give with AUTH; empty: none.";
    repl_secret "repl-secret": String = String::new(), Secret, "Shared secret that a replica must prove to its primary; empty: none.";
    appendfsync "appendfsync": AppendFsync = AppendFsync::EverySec, Running, "When the logs are synced: always, everysec or no.";
    archive_ack "archive-ack": bool = false, Running, "Whether a write's reply waits until the archive holds it.";
    block_cache_bytes "block-cache-bytes": Bytes = Memory(256 << 20), Start, "RocksDB's block cache.";
    row_cache_bytes "row-cache-bytes": Bytes = Memory(512 << 20), Start, "Rows of the disk engines (values, fields, members) kept in memory as they were last read or written.";
    client_threads "client-threads": Number<0, 1024> = Number(0), Start, "Threads that serve clients; 0: half as many as there are cores.";
    io_backend "io-backend": String = "auto".into(), Start, "How log, spool and image files are read and written: auto, uring or std.";
    oplog_segment_bytes "oplog-segment-bytes": Memory<SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX> = Memory(32 << 20), Start, "Size of an op-log segment.";
    image_log_bytes "image-log-bytes": Bytes = Memory(256 << 20), Running, "Log bytes after which a new memory image is written, which bounds the time of a restart; at least as many bytes as lists and sorted sets have in memory.";
    ring_bytes "ring-bytes": Bytes = Memory(64 << 20), Start, "Bytes of the newest commits kept in memory for feeds and the cutter.";
    archive_interval "archive-interval": Duration = Duration::from_secs(1), Running, "Age of the oldest commit at which a chunk is cut although it is not full.";
    spool_max_bytes "spool-max-bytes": Bytes = Memory(4 << 30), Running, "Bytes of sealed chunks that may wait for the archive; beyond them writes are refused.";
    max_commit_bytes "max-commit-bytes": CommitBytes = Memory(1 << 30), Running, "Bytes of effects that one command, or one MULTI/EXEC, may have; a command with more is refused and changes nothing. Each field of a hash, member of a set and entry of a stream counts with its key's name.";
    min_free_bytes "min-free-bytes": Bytes = Memory(64 << 20), Running, "Free bytes on the data directory's file system below which writes are refused, except writes that free space; 0: no limit.";
    snapshot_interval "snapshot-interval": Duration = Duration::from_secs(24 * 3600), Running, "Time between bases published to the archive; 0: by size of log only.";
    snapshot_max_log_bytes "snapshot-max-log-bytes": Bytes = Memory(1 << 30), Running, "Archived log bytes since the last base after which the next one is published; 0: by time only.";
    snapshot_consistency "snapshot-consistency": Consistency = Consistency::Strict, Running, "Commit time by which a base's engines may be cut apart: strict (none), bounded:TIME (such as bounded:10ms) or eventual (any).";
    snapshot_from "snapshot-from": SnapshotFrom = SnapshotFrom::Auto, Running, "The node that publishes the bases that are due: replica, primary or auto (a replica if one can). A replica with the value primary publishes none.";
    archive_bandwidth "archive-bandwidth": Bytes = Memory(0), Running, "Bytes per second that the upload of bases may send to the archive; chunks are not limited; 0: no limit.";
    merge_interval "merge-interval": Duration = Duration::from_secs(600), Running, "Time between two rounds in which small chunks in the archive are merged into full ones; 0: never.";
    merge_grace "merge-grace": Duration = Duration::from_secs(3600), Running, "Time for which chunks stay in the archive after they were merged, for readers with an older listing.";
    compact_per "compact-per": Option<Grain> = None, Running, "Size of the compacted runs that this node builds when their commits are complete: hour, day or commits:N; empty: it builds none.";
    keep "keep": Keep = Keep::default(), Running, "Policy by which a prune keeps restore points, such as '7d fine, hourly 30d, daily 1y'; empty: everything is kept.";
    prune_interval "prune-interval": Duration = Duration::ZERO, Running, "Time between prunes of the archive by this node; 0: never.";
    prune_grace "prune-grace": Duration = Duration::from_secs(24 * 3600), Running, "Age up to which a prune removes no object as unreferenced; it must be longer than any base takes to publish.";
    accept_clock_step "accept-clock-step": bool = false, Running, "Whether commit times follow the system's clock after it was set by more than a minute: forward at once, back by a new epoch at the next start or promotion. The value is yes for one start, or until commit times have followed; with no, commit times continue evenly.";
    metrics_port "metrics-port": u16 = 0, Start, "Port of Prometheus metrics (GET /metrics), on the address of bind; 0: none.";
    fence_check_interval "fence-check-interval": Duration = Duration::from_secs(5), Start, "Time between two checks for a newer epoch in the archive.";
    s3_endpoint "s3-endpoint": String = String::new(), Start, "S3 endpoint, an http:// or https:// URL; empty: AWS_ENDPOINT_URL, else that of the AWS profile, else AWS.";
    s3_region "s3-region": String = String::new(), Start, "S3 region; empty: AWS_REGION, else that of the AWS profile.";
    s3_access_key_id "s3-access-key-id": String = String::new(), Start, "S3 access key; empty: AWS_ACCESS_KEY_ID, else the AWS profile (~/.aws), else the role of the container or the instance.";
    s3_secret_access_key "s3-secret-access-key": String = String::new(), Secret, "S3 secret key; empty: AWS_SECRET_ACCESS_KEY.";
    archive_2_s3_endpoint "archive-2-s3-endpoint": String = String::new(), Start, "S3 endpoint of archive-2; empty: that of the first archive.";
    archive_2_s3_region "archive-2-s3-region": String = String::new(), Start, "S3 region of archive-2; empty: that of the first archive.";
    archive_2_s3_access_key_id "archive-2-s3-access-key-id": String = String::new(), Start, "S3 access key for archive-2; empty: that of the first archive.";
    archive_2_s3_secret_access_key "archive-2-s3-secret-access-key": String = String::new(), Secret, "S3 secret key for archive-2; empty: that of the first archive.";
    s3_allow_http "s3-allow-http": bool = false, Start, "Whether an http:// endpoint may be used; also AWS_ALLOW_HTTP.";
}

fn parse<T: Setting>(key: &str, value: &str) -> Result<T> {
    T::parse(value)
        .ok_or_else(|| Error::Config { key: key.to_owned(), detail: format!("argument must be {}", T::accepted()) })
}

fn unknown(key: &str) -> Error {
    let names: Vec<_> = Config::KEYS.iter().map(|doc| doc.name).collect();
    Error::Config {
        key: key.to_owned(),
        detail: format!("this key does not exist. The keys are: {}", names.join(", ")),
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for doc in Self::KEYS.iter().filter(|doc| doc.when != When::Secret) {
            map.entry(&doc.name, &self.get(doc.name).unwrap_or_default());
        }
        map.finish()
    }
}

impl Config {
    /// Sets a key while running. Returns an error if the key may not change then.
    pub fn change(&mut self, key: &str, value: &str) -> Result<()> {
        match Self::KEYS.iter().find(|doc| doc.name == key) {
            Some(doc) if doc.when != When::Running => {
                Err(Error::Config { key: key.to_owned(), detail: "can be set only at the start".into() })
            }
            _ => self.set(key, value),
        }
    }

    /// Sets one `KEY=VALUE`.
    pub fn set_pair(&mut self, pair: &str) -> Result<()> {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::Config { key: pair.to_owned(), detail: "is not KEY=VALUE".into() })?;
        self.set(key.trim(), value.trim())
    }

    /// Sets all keys of the top level of a TOML file.
    pub fn set_toml(&mut self, text: &str) -> Result<()> {
        let table = toml::Table::from_str(text)
            .map_err(|error| Error::Config { key: "configuration file".into(), detail: error.to_string() })?;
        for (key, value) in table {
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Boolean(true) => "yes".to_owned(),
                toml::Value::Boolean(false) => "no".to_owned(),
                toml::Value::Integer(number) => number.to_string(),
                other => {
                    return Err(Error::Config { key, detail: format!("a {} is not a valid value", other.type_str()) });
                }
            };
            self.set(&key, &value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_takes_back_what_it_shows() {
        let mut config = Config::default();
        for doc in Config::KEYS {
            let shown = config.get(doc.name).unwrap();
            config.set(doc.name, &shown).unwrap();
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn units_are_redis_units() {
        let mut config = Config::default();
        config
            .set_toml("maxmemory = \"1gb\"\narchive-interval = \"250ms\"\nappendfsync = \"always\"\nport = 7000")
            .unwrap();
        assert_eq!((config.maxmemory, config.archive_interval), (Memory(1 << 30), Duration::from_millis(250)));
        config.set_pair("snapshot-interval=2h").unwrap();
        assert_eq!(config.get("snapshot-interval").unwrap(), "7200000");
    }

    #[test]
    fn what_is_wrong_is_refused_with_what_is_right() {
        let mut config = Config::default();
        assert!(config.set("apendfsync", "always").unwrap_err().to_string().contains("appendfsync"));
        assert!(config.set("appendfsync", "sometimes").unwrap_err().to_string().contains("everysec"));
        assert!(config.set_toml("port = [1]").is_err());
        assert!(config.change("port", "1").unwrap_err().to_string().contains("start"));
        config.set("requirepass", "hidden").unwrap();
        assert!(!format!("{config:?}").contains("hidden"));
        assert_eq!(config.get("requirepass").as_deref(), Some(""));
    }
}
