//! All data of a server in comparable form, read with SCAN, the read commands of each type, and the expiry of each
//! key.
//!
//! The reads are not one transaction: the caller first stops the writers, or waits for a watermark.

use super::client::{Client, Command, bytes, cmd, elements, error_text, integer, text};
use redis::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds and sequence number of a stream entry.
pub(crate) type StreamId = (u64, u64);

/// All keys of a server with their content.
pub(crate) type Dump = BTreeMap<Vec<u8>, Dumped>;

/// The content of a key and its expiry.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Dumped {
    /// The value.
    pub content: Content,
    /// Expiry in milliseconds since the Unix epoch; exact, or within [`EXPIRY_TOLERANCE_MS`] where it comes from PTTL.
    pub expires_at_ms: Option<u64>,
}

/// A value of any type; in a sequence where the order is part of the value.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Content {
    /// A string.
    String(Vec<u8>),
    /// A hash.
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// A set.
    Set(BTreeSet<Vec<u8>>),
    /// A list from head to tail.
    List(Vec<Vec<u8>>),
    /// A sorted set in rank order.
    Zset(Vec<(Vec<u8>, f64)>),
    /// A stream's entries in id order: fields and values, flat.
    Stream(Vec<(StreamId, Vec<Vec<u8>>)>),
}

/// Tolerance for relative expiries in milliseconds: they start at a moment that only the server knows.
pub(crate) const EXPIRY_TOLERANCE_MS: u64 = 10_000;

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as u64
}

/// Reads all data of the server.
#[track_caller]
pub(crate) fn dump(client: &mut Client) -> Dump {
    let keys: Vec<Vec<u8>> = scan(client).into_iter().collect();
    let types: Vec<Command> = keys.iter().map(|key| cmd!("TYPE", key)).collect();
    let types: Vec<String> = client.pipeline(&types).iter().map(text).collect();
    // Keys that expired after the scan are left out.
    let (keys, types): (Vec<_>, Vec<_>) = keys.into_iter().zip(types).filter(|(_, kind)| kind != "none").unzip();
    let reads: Vec<Command> = keys.iter().zip(&types).map(|(key, kind)| read_command(key, kind)).collect();
    let values = client.pipeline(&reads);
    let expiries = expiries(client, &keys);
    keys.iter()
        .enumerate()
        // Keys that expired after the TYPE command are left out too: no value but a stream's is empty.
        .filter(|(index, _)| match &values[*index] {
            Value::Nil => false,
            Value::Array(elements) => !elements.is_empty() || types[*index] == "stream",
            _ => true,
        })
        .map(|(index, key)| {
            let content = content(&types[index], &values[index]);
            (key.clone(), Dumped { content, expires_at_ms: expiries[index] })
        })
        .collect()
}

fn scan(client: &mut Client) -> BTreeSet<Vec<u8>> {
    let mut keys = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    loop {
        let reply = client.ok(&cmd!("SCAN", cursor, "COUNT", 1000));
        let [next, found] = elements(&reply) else { panic!("SCAN answered {reply:?}") };
        keys.extend(elements(found).iter().map(bytes));
        cursor = bytes(next);
        if cursor == b"0" {
            return keys;
        }
    }
}

fn read_command(key: &[u8], kind: &str) -> Command {
    match kind {
        "string" => cmd!("GET", key),
        "hash" => cmd!("HGETALL", key),
        "set" => cmd!("SMEMBERS", key),
        "list" => cmd!("LRANGE", key, 0, -1),
        "zset" => cmd!("ZRANGE", key, 0, -1, "WITHSCORES"),
        "stream" => cmd!("XRANGE", key, "-", "+"),
        other => panic!("key {} has type {other}", key.escape_ascii()),
    }
}

fn content(kind: &str, reply: &Value) -> Content {
    assert!(error_text(reply).is_none(), "a {kind} could not be read: {reply:?}");
    match kind {
        "string" => Content::String(bytes(reply)),
        "hash" => Content::Hash(elements(reply).chunks(2).map(|pair| (bytes(&pair[0]), bytes(&pair[1]))).collect()),
        "set" => Content::Set(elements(reply).iter().map(bytes).collect()),
        "list" => Content::List(elements(reply).iter().map(bytes).collect()),
        "zset" => Content::Zset(elements(reply).chunks(2).map(|pair| (bytes(&pair[0]), score(&pair[1]))).collect()),
        _ => Content::Stream(elements(reply).iter().map(entry).collect()),
    }
}

fn entry(reply: &Value) -> (StreamId, Vec<Vec<u8>>) {
    let [id, fields] = elements(reply) else { panic!("a stream entry is {reply:?}") };
    (stream_id(&bytes(id)).expect("a stream id"), elements(fields).iter().map(bytes).collect())
}

/// Parses `ms-seq`.
pub(crate) fn stream_id(text: &[u8]) -> Option<StreamId> {
    let (ms, seq) = std::str::from_utf8(text).ok()?.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}

fn score(reply: &Value) -> f64 {
    let text = text(reply);
    text.parse().unwrap_or_else(|_| panic!("score {text:?} is not a number"))
}

fn expiries(client: &mut Client, keys: &[Vec<u8>]) -> Vec<Option<u64>> {
    let exact: Vec<Command> = keys.iter().map(|key| cmd!("PEXPIRETIME", key)).collect();
    let mut replies = client.pipeline(&exact);
    let mut offset = 0;
    if replies.iter().any(|reply| error_text(reply).is_some()) {
        let relative: Vec<Command> = keys.iter().map(|key| cmd!("PTTL", key)).collect();
        replies = client.pipeline(&relative);
        offset = now_ms();
    }
    replies.iter().map(|reply| u64::try_from(integer(reply)).ok().map(|time| time + offset)).collect()
}

/// Fails the test unless both dumps are equal, naming the first keys that differ.
#[track_caller]
pub(crate) fn assert_same(expected: &Dump, found: &Dump, what: &str) {
    if let Some(report) = difference(expected, found) {
        panic!("{what}: {report}");
    }
}

/// Describes the first keys that differ; `None` if both dumps are equal.
pub(crate) fn difference(expected: &Dump, found: &Dump) -> Option<String> {
    let keys: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let different: Vec<_> = keys.into_iter().filter(|key| !same_key(expected.get(*key), found.get(*key))).collect();
    if different.is_empty() {
        return None;
    }
    let mut report = format!("{} keys differ of {} expected, {} found", different.len(), expected.len(), found.len());
    for key in different.into_iter().take(5) {
        let _ = write!(report, "\n  key '{}'\n    expected {:?}", key.escape_ascii(), expected.get(key));
        let _ = write!(report, "\n    found    {:?}", found.get(key));
    }
    Some(report)
}

fn same_key(expected: Option<&Dumped>, found: Option<&Dumped>) -> bool {
    match (expected, found) {
        (Some(expected), Some(found)) => {
            let expiry = match (expected.expires_at_ms, found.expires_at_ms) {
                (Some(one), Some(other)) => one.abs_diff(other) <= EXPIRY_TOLERANCE_MS,
                (None, None) => true,
                _ => false,
            };
            expiry && expected.content == found.content
        }
        (None, None) => true,
        _ => false,
    }
}
