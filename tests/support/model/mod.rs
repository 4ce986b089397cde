//! A small model of a Redis keyspace, written to be obviously right: the standard library's collections, a few lines
//! per command, no optimization.
//!
//! The model understands the writes that the [`workload`](super::workload) makes, in upper case and with valid arity.
//! Expiry is absolute and never happens by itself: the workload sets expiries far in the future. Where the server
//! chooses a result (the member of SPOP, the id of `XADD *`), the model takes the result from the reply.

mod collections;
mod sorted;
mod strings;

use super::client::{Command, elements, error_text};
use super::dump::{Content, Dump, Dumped, StreamId};
use redis::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The effect of a step on the keyspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// The server must reply with an error; nothing changed.
    Refused,
    /// The step had nothing to do: it takes no csn.
    Nothing,
    /// A write that changed nothing (`SET` of the same value): the server may use a csn for it or not.
    Rewrote,
    /// The state changed: the step takes exactly one csn.
    Changed,
}

/// One command, or the commands of one MULTI/EXEC.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Step {
    /// Sent on its own.
    Single(Command),
    /// Sent between MULTI and EXEC.
    Group(Vec<Command>),
}

/// The whole keyspace.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Model {
    keys: BTreeMap<Vec<u8>, Entry>,
}

#[derive(Clone, PartialEq, Debug)]
struct Entry {
    value: Stored,
    expires_at_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Debug)]
enum Stored {
    String(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    List(Vec<Vec<u8>>),
    Zset(BTreeMap<Vec<u8>, f64>),
    Stream(Stream),
}

#[derive(Clone, PartialEq, Default, Debug)]
struct Stream {
    entries: BTreeMap<StreamId, Vec<Vec<u8>>>,
    last: StreamId,
}

/// The server must reply with an error.
struct Refused;

/// Whether the command counts as a write.
#[derive(PartialEq)]
enum Wrote {
    Yes,
    No,
}

type Outcome = Result<Wrote, Refused>;

impl From<bool> for Wrote {
    fn from(wrote: bool) -> Self {
        if wrote { Self::Yes } else { Self::No }
    }
}

impl Model {
    /// Returns all keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.keys().map(Vec::as_slice)
    }

    /// Applies one command. `reply` is needed only for commands whose result the server chooses.
    #[track_caller]
    pub(crate) fn apply(&mut self, command: &Command, now_ms: u64, reply: Option<&Value>) -> Effect {
        let before = self.keys.clone();
        let outcome = self.execute(command, now_ms, reply);
        let unchanged = before == self.keys;
        assert!(unchanged || matches!(outcome, Ok(Wrote::Yes)), "the model changed state in a command without effect");
        match outcome {
            Err(Refused) => Effect::Refused,
            Ok(Wrote::No) => Effect::Nothing,
            Ok(Wrote::Yes) if unchanged => Effect::Rewrote,
            Ok(Wrote::Yes) => Effect::Changed,
        }
    }

    /// Applies a step and returns its effect as one commit. With a reply, fails the test unless exactly the commands
    /// that the model refuses were refused.
    #[track_caller]
    pub(crate) fn apply_step(&mut self, step: &Step, now_ms: u64, reply: Option<&Value>) -> Effect {
        match step {
            Step::Single(command) => self.apply_checked(command, now_ms, reply),
            Step::Group(commands) => {
                let replies = reply.map(|reply| {
                    let replies = elements(reply);
                    assert_eq!(replies.len(), commands.len(), "EXEC has a reply for each command, found {reply:?}");
                    replies
                });
                let before = self.keys.clone();
                let mut wrote = false;
                for (index, command) in commands.iter().enumerate() {
                    let effect = self.apply_checked(command, now_ms, replies.map(|replies| &replies[index]));
                    wrote |= matches!(effect, Effect::Changed | Effect::Rewrote);
                }
                match (wrote, before == self.keys) {
                    (false, _) => Effect::Nothing,
                    (true, true) => Effect::Rewrote,
                    (true, false) => Effect::Changed,
                }
            }
        }
    }

    #[track_caller]
    fn apply_checked(&mut self, command: &Command, now_ms: u64, reply: Option<&Value>) -> Effect {
        let before = command.get(1).and_then(|key| self.keys.get(key)).cloned();
        let effect = self.apply(command, now_ms, reply);
        if let Some(reply) = reply {
            let refused = error_text(reply).is_some();
            let shown = super::client::show(command);
            assert_eq!(effect == Effect::Refused, refused, "{shown} was answered with {reply:?}; before: {before:?}");
        }
        effect
    }

    /// Returns the keyspace in comparable form.
    pub(crate) fn dump(&self) -> Dump {
        self.keys.iter().map(|(key, entry)| (key.clone(), entry.dumped())).collect()
    }

    fn execute(&mut self, command: &Command, now_ms: u64, reply: Option<&Value>) -> Outcome {
        let name = std::str::from_utf8(&command[0]).expect("the workload's command names are text");
        let arguments = &command[1..];
        match name {
            "SET" | "SETNX" | "SETEX" | "GETSET" | "GETDEL" | "APPEND" | "SETRANGE" | "MSET" | "INCR" | "DECR"
            | "INCRBY" | "DECRBY" | "INCRBYFLOAT" | "GET" => self.string_command(name, arguments, now_ms),
            "HSET" | "HMSET" | "HSETNX" | "HDEL" | "HINCRBY" | "SADD" | "SREM" | "SPOP" | "LPUSH" | "RPUSH"
            | "LPOP" | "RPOP" | "LSET" | "LREM" | "LTRIM" | "LINSERT" | "RPOPLPUSH" | "LMOVE" => {
                self.collection_command(name, arguments, reply)
            }
            "ZADD" | "ZREM" | "ZINCRBY" | "ZPOPMIN" | "ZPOPMAX" | "ZREMRANGEBYRANK" | "ZREMRANGEBYSCORE" | "XADD"
            | "XDEL" | "XTRIM" => self.sorted_command(name, arguments, reply),
            // A move is a commit if the key was in the other home, and changes no value.
            "WALFERRY" => Ok(Wrote::Yes),
            _ => self.key_command(name, arguments, now_ms),
        }
    }

    fn key_command(&mut self, name: &str, arguments: &[Vec<u8>], now_ms: u64) -> Outcome {
        match name {
            "DEL" | "UNLINK" => {
                let before = self.keys.len();
                arguments.iter().for_each(|key| drop(self.keys.remove(key)));
                Ok((self.keys.len() < before).into())
            }
            "FLUSHALL" | "FLUSHDB" => {
                self.keys.clear();
                Ok(Wrote::Yes)
            }
            "EXPIRE" => self.expire(&arguments[0], now_ms as i64 + 1000 * integer(&arguments[1])?, now_ms),
            "PEXPIRE" => self.expire(&arguments[0], now_ms as i64 + integer(&arguments[1])?, now_ms),
            "EXPIREAT" => self.expire(&arguments[0], 1000 * integer(&arguments[1])?, now_ms),
            "PERSIST" => {
                let taken = self.keys.get_mut(&arguments[0]).and_then(|entry| entry.expires_at_ms.take());
                Ok(taken.is_some().into())
            }
            "RENAME" => {
                let entry = self.keys.remove(&arguments[0]).ok_or(Refused)?;
                self.keys.insert(arguments[1].clone(), entry);
                Ok(Wrote::Yes)
            }
            "EXISTS" | "TYPE" | "TTL" | "MGET" => Ok(Wrote::No),
            other => unreachable!("the workload makes no {other}"),
        }
    }

    fn expire(&mut self, key: &[u8], at_ms: i64, now_ms: u64) -> Outcome {
        let Some(entry) = self.keys.get_mut(key) else { return Ok(Wrote::No) };
        if at_ms <= now_ms as i64 {
            self.keys.remove(key);
        } else {
            entry.expires_at_ms = Some(at_ms as u64);
        }
        Ok(Wrote::Yes)
    }

    fn put(&mut self, key: &[u8], value: Stored, expires_at_ms: Option<u64>) {
        self.keys.insert(key.to_vec(), Entry { value, expires_at_ms });
    }

    /// Removes a key whose collection became empty (a stream stays).
    fn drop_if_empty(&mut self, key: &[u8]) {
        let empty = self.keys.get(key).is_some_and(|entry| match &entry.value {
            Stored::Hash(hash) => hash.is_empty(),
            Stored::Set(set) => set.is_empty(),
            Stored::List(list) => list.is_empty(),
            Stored::Zset(zset) => zset.is_empty(),
            Stored::String(_) | Stored::Stream(_) => false,
        });
        if empty {
            self.keys.remove(key);
        }
    }
}

impl Entry {
    fn dumped(&self) -> Dumped {
        let content = match &self.value {
            Stored::String(value) => Content::String(value.clone()),
            Stored::Hash(hash) => Content::Hash(hash.clone()),
            Stored::Set(set) => Content::Set(set.clone()),
            Stored::List(list) => Content::List(list.clone()),
            Stored::Zset(zset) => Content::Zset(sorted::in_rank_order(zset)),
            Stored::Stream(stream) => Content::Stream(stream.entries.clone().into_iter().collect()),
        };
        Dumped { content, expires_at_ms: self.expires_at_ms }
    }
}

/// Access to a key as one type: `existing` refuses another type, `made` also creates a missing key.
macro_rules! typed {
    ($existing:ident, $made:ident, $variant:ident, $type:ty) => {
        impl Model {
            fn $existing(&mut self, key: &[u8]) -> Result<Option<&mut $type>, Refused> {
                match self.keys.get_mut(key).map(|entry| &mut entry.value) {
                    None => Ok(None),
                    Some(Stored::$variant(value)) => Ok(Some(value)),
                    Some(_) => Err(Refused),
                }
            }

            fn $made(&mut self, key: &[u8]) -> Result<&mut $type, Refused> {
                if !self.keys.contains_key(key) {
                    self.put(key, Stored::$variant(<$type>::default()), None);
                }
                self.$existing(key).map(|value| value.expect("just made"))
            }
        }
    };
}

typed!(string, made_string, String, Vec<u8>);
typed!(hash, made_hash, Hash, BTreeMap<Vec<u8>, Vec<u8>>);
typed!(set, made_set, Set, BTreeSet<Vec<u8>>);
typed!(list, made_list, List, Vec<Vec<u8>>);
typed!(zset, made_zset, Zset, BTreeMap<Vec<u8>, f64>);
typed!(stream, made_stream, Stream, Stream);

/// Parses an integer as Redis does: no sign but '-', no leading zeroes, no blanks.
fn integer(text: &[u8]) -> Result<i64, Refused> {
    let number: i64 = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Refused)?;
    if number.to_string().as_bytes() == text { Ok(number) } else { Err(Refused) }
}

fn float(text: &[u8]) -> Result<f64, Refused> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Refused)
}

/// Converts a start and a stop as Redis reads them to a range within `0..length`; empty if they select nothing.
fn range(start: i64, stop: i64, length: usize) -> std::ops::Range<usize> {
    let length = length as i64;
    let from_end = |index: i64| if index < 0 { index + length } else { index };
    let (start, stop) = (from_end(start).max(0), from_end(stop).min(length - 1));
    if start > stop || start >= length { 0..0 } else { start as usize..stop as usize + 1 }
}
