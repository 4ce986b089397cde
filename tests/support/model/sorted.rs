//! Sorted sets and streams.

use super::super::client::bytes;
use super::super::dump::{StreamId, stream_id};
use super::{Model, Outcome, Refused, Stream, Wrote, float, integer, range};
use redis::Value;
use std::collections::BTreeMap;

/// Returns the members sorted by score, then by their bytes.
pub(super) fn in_rank_order(zset: &BTreeMap<Vec<u8>, f64>) -> Vec<(Vec<u8>, f64)> {
    let mut ranked: Vec<_> = zset.iter().map(|(member, score)| (member.clone(), *score)).collect();
    ranked.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
    ranked
}

impl Model {
    pub(super) fn sorted_command(&mut self, name: &str, arguments: &[Vec<u8>], reply: Option<&Value>) -> Outcome {
        let key = &arguments[0];
        let outcome = match name {
            "ZADD" => self.add_scores(arguments),
            "ZINCRBY" => {
                let delta = float(&arguments[1])?;
                self.zset(key)?;
                self.increase(key, &arguments[2], delta)
            }
            "ZREM" | "ZPOPMIN" | "ZPOPMAX" | "ZREMRANGEBYRANK" | "ZREMRANGEBYSCORE" => {
                self.remove_members(name, arguments)
            }
            "XADD" => self.add_entry(arguments, reply),
            "XDEL" => {
                let Some(stream) = self.stream(key)? else { return Ok(Wrote::No) };
                let before = stream.entries.len();
                for id in &arguments[1..] {
                    stream.entries.remove(&stream_id(id).expect("the workload makes whole ids"));
                }
                Ok((stream.entries.len() < before).into())
            }
            _ => {
                let Some(stream) = self.stream(key)? else { return Ok(Wrote::No) };
                let before = stream.entries.len();
                stream.trim(&arguments[1], &arguments[3]);
                Ok((stream.entries.len() < before).into())
            }
        };
        self.drop_if_empty(key);
        outcome
    }

    fn add_scores(&mut self, arguments: &[Vec<u8>]) -> Outcome {
        let key = &arguments[0];
        let options: Vec<&[u8]> = arguments[1..]
            .iter()
            .map(Vec::as_slice)
            .take_while(|word| matches!(*word, b"NX" | b"XX" | b"GT" | b"LT" | b"CH" | b"INCR"))
            .collect();
        let has = |option: &[u8]| options.contains(&option);
        self.zset(key)?;
        let mut wrote = false;
        for pair in arguments[1 + options.len()..].chunks(2) {
            let (delta, member) = (float(&pair[0])?, &pair[1]);
            let current = self.zset(key)?.and_then(|zset| zset.get(member)).copied();
            let score = if has(b"INCR") { current.unwrap_or(0.0) + delta } else { delta };
            let allowed = match current {
                None => !has(b"XX"),
                Some(current) => !has(b"NX") && (!has(b"GT") || score > current) && (!has(b"LT") || score < current),
            };
            // Redis adds before it compares.
            if score.is_nan() && !has(b"NX") {
                return Err(Refused);
            }
            if allowed && current != Some(score) {
                self.made_zset(key)?.insert(member.clone(), score);
                wrote = true;
            }
        }
        Ok(wrote.into())
    }

    fn increase(&mut self, key: &[u8], member: &[u8], delta: f64) -> Outcome {
        let current = self.zset(key)?.and_then(|zset| zset.get(member)).copied();
        let score = current.unwrap_or(0.0) + delta;
        if score.is_nan() {
            return Err(Refused);
        }
        self.made_zset(key)?.insert(member.to_vec(), score);
        Ok(Wrote::Yes)
    }

    fn remove_members(&mut self, name: &str, arguments: &[Vec<u8>]) -> Outcome {
        let Some(zset) = self.zset(&arguments[0])? else { return Ok(Wrote::No) };
        let ranked = in_rank_order(zset);
        let argument = |index: usize| arguments.get(index).map_or(Ok(1), |number| integer(number));
        let removed: Vec<Vec<u8>> = match name {
            "ZREM" => arguments[1..].to_vec(),
            "ZPOPMIN" => ranked.iter().take(argument(1)? as usize).map(|pair| pair.0.clone()).collect(),
            "ZPOPMAX" => ranked.iter().rev().take(argument(1)? as usize).map(|pair| pair.0.clone()).collect(),
            "ZREMRANGEBYRANK" => {
                ranked[range(argument(1)?, argument(2)?, ranked.len())].iter().map(|pair| pair.0.clone()).collect()
            }
            _ => {
                let (low, high) = (float(&arguments[1])?, float(&arguments[2])?);
                let inside = ranked.iter().filter(|pair| pair.1 >= low && pair.1 <= high);
                inside.map(|pair| pair.0.clone()).collect()
            }
        };
        let before = zset.len();
        zset.retain(|member, _| !removed.contains(member));
        Ok((zset.len() < before).into())
    }

    /// `XADD key [NOMKSTREAM] [MAXLEN|MINID = threshold] id field value ...`
    fn add_entry(&mut self, arguments: &[Vec<u8>], reply: Option<&Value>) -> Outcome {
        let key = &arguments[0];
        let mut at = 1;
        let no_make = arguments[at] == b"NOMKSTREAM";
        at += usize::from(no_make);
        let trim = matches!(arguments[at].as_slice(), b"MAXLEN" | b"MINID").then(|| (at, at + 2));
        at += if trim.is_some() { 3 } else { 0 };
        if arguments[at] == b"0-0" {
            return Err(Refused);
        }
        if self.stream(key)?.is_none() && no_make {
            return Ok(Wrote::No);
        }
        let last = self.stream(key)?.map_or((0, 0), |stream| stream.last);
        let id = next_id(&arguments[at], last, reply)?;
        let stream = self.made_stream(key)?;
        stream.entries.insert(id, arguments[at + 1..].to_vec());
        stream.last = id;
        if let Some((strategy, threshold)) = trim {
            stream.trim(&arguments[strategy], &arguments[threshold]);
        }
        Ok(Wrote::Yes)
    }
}

impl Stream {
    fn trim(&mut self, strategy: &[u8], threshold: &[u8]) {
        if strategy == b"MINID" {
            let minimum = stream_id(threshold).expect("the workload makes whole ids");
            self.entries.retain(|id, _| *id >= minimum);
        } else {
            let kept: usize = std::str::from_utf8(threshold).ok().and_then(|text| text.parse().ok()).expect("a length");
            while self.entries.len() > kept {
                self.entries.pop_first();
            }
        }
    }
}

/// Returns the id of a new entry: for `*` the server's reply; `ms-*` and `ms-seq` must be greater than the last id.
fn next_id(asked: &[u8], last: StreamId, reply: Option<&Value>) -> Result<StreamId, Refused> {
    let id = if asked == b"*" {
        let answered = bytes(reply.expect("the server chooses the id"));
        let id = stream_id(&answered).expect("XADD answers with an id");
        assert!(id > last, "XADD's id {id:?} comes after {last:?}");
        id
    } else if let Some(ms) = asked.strip_suffix(b"-*") {
        let ms: u64 = std::str::from_utf8(ms).ok().and_then(|text| text.parse().ok()).expect("milliseconds");
        (ms, if ms == last.0 { last.1 + 1 } else { 0 })
    } else {
        stream_id(asked).expect("the workload makes whole ids")
    };
    if id > last { Ok(id) } else { Err(Refused) }
}
