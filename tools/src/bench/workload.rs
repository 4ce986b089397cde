//! The workloads: each command as a template, and mixes of typical use.

use clap::ValueEnum;

/// Digits of a number in a request.
pub(super) const DIGITS: usize = 12;

/// How keys are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Distribution {
    /// Every key is equally likely.
    Uniform,
    /// A few keys are very frequent: Zipf's law, exponent 0.99.
    Zipfian,
}

/// A piece of a request.
pub(super) enum Part {
    /// Fixed bytes.
    Bytes(Vec<u8>),
    /// A number of [`DIGITS`] digits.
    Number(Number),
}

/// A number in a request, chosen when the request is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Number {
    /// A random key number.
    Key,
    /// A random number below this limit.
    Below(u64),
    /// The number of the connection.
    Client,
    /// The number of operations that the connection sent before this one, minus this amount, but at least 0.
    Sent(u64),
}

/// A command, a mix or a pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    /// Name on the command line and in reports.
    pub name: &'static str,
    /// Template of one operation: commands separated by `;`. `{key}` is a random key number, `{member}` a random
    /// number below [`MEMBERS`], `{value}` a value, `{small}` a value of 16 bytes, `{client}` the number of the
    /// connection, `{n}` the number of the operation on the connection, `{n-100}` the number of an earlier operation.
    template: &'static str,
    /// Name of the workload that fills the server before this one is measured; empty if there is none.
    pub prepared_by: &'static str,
}

/// Distinct members and fields of a large collection.
const MEMBERS: u64 = 1_000_000;

const fn workload(name: &'static str, template: &'static str, prepared_by: &'static str) -> Workload {
    Workload { name, template, prepared_by }
}

/// Single commands.
pub(super) const COMMANDS: &[Workload] = &[
    workload("SET", "SET key:{key} {value}", ""),
    workload("GET", "GET key:{key}", "SET"),
    workload("INCR", "INCR counter:{key}", ""),
    workload("MSET", "MSET key:{key} {value} key:{key} {value} key:{key} {value} key:{key} {value}", ""),
    workload("HSET", "HSET hash f:{member} {value}", ""),
    workload("HGET", "HGET hash f:{member}", "HSET"),
    workload("HGETALL", "HGETALL user:{key}", "user"),
    workload("SADD", "SADD set m:{member}", ""),
    workload("LPUSH", "LPUSH list {value}", ""),
    workload("LPOP", "LPOP list", "LPUSH"),
    workload("RPOP", "RPOP list", "LPUSH"),
    workload("LRANGE", "LRANGE list 0 99", "LPUSH"),
    workload("LPUSH-keys", "LPUSH list:{key} {value}", ""),
    workload("LPOP-keys", "LPOP list:{key}", "LPUSH-keys"),
    workload("ZADD", "ZADD zset {member} m:{member}", ""),
    workload("ZRANGE", "ZRANGE zset 0 9", "ZADD"),
    workload("ZRANK", "ZRANK zset m:{member}", "ZADD"),
    workload("ZADD-keys", "ZADD zset:{key} {member} m", ""),
    workload("ZRANK-keys", "ZRANK zset:{key} m", "ZADD-keys"),
    workload("XADD", "XADD stream * field {value}", ""),
    workload("XREAD", "XREAD COUNT 10 STREAMS stream 0", "XADD"),
    workload("EXEC", "MULTI;SET key:{key} {value};LPUSH list:{key} {small};ZADD zset:{key} {member} m;EXEC", ""),
];

/// Mixes of typical use.
pub(super) const MIXES: &[Workload] = &[
    workload("session", "GET session:{key};SET session:{key} {value} EX 1800;GET session:{key};GET session:{key}", ""),
    workload("queue", "LPUSH jobs:{key} {value};RPOP jobs:{key}", ""),
    workload("leaderboard", "ZADD board {member} player:{member};ZRANK board player:{member};ZRANGE board 0 9", ""),
    workload("events", "XADD events MAXLEN ~ 10000 * type view body {value}", ""),
    workload("cart", "HSET cart:{key} item:{member} 1;HGETALL cart:{key};EXPIRE cart:{key} 86400", ""),
    workload(
        "transaction",
        "MULTI;SET account:{key} {member};LPUSH ledger:{key} {small};ZADD totals {member} account:{key};EXEC",
        "",
    ),
];

/// Patterns that create and remove many elements, so that a server may slow down the longer they run.
pub(super) const PATTERNS: &[Workload] = &[
    workload("sessions", "SET session:{key} {value} EX 5;GET session:{key};EXPIRE session:{key} 5", ""),
    workload("expiring", "SET s:{key} {value} EX 10", ""),
    workload("rate-limiter", "INCR rate:{key};EXPIRE rate:{key} 10", ""),
    workload("lock", "SET lock:{client}:{n} {small} NX PX 30000;DEL lock:{client}:{n}", ""),
    workload("set-queue", "SADD work job:{client}:{n};SPOP work", ""),
    workload(
        "stream-queue",
        "XADD work:{client} {n}-1 job {value};XREAD COUNT 10 STREAMS work:{client} 0;XDEL work:{client} {n-100}-1",
        "",
    ),
    workload("stream-trim", "XADD log:{client} MAXLEN 100 * job {value};XRANGE log:{client} - + COUNT 10", ""),
    workload("job-hash", "HSET work:{client} job:{n} {value};HDEL work:{client} job:{n-50};HGETALL work:{client}", ""),
    workload(
        "delayed-queue",
        "ZADD work:{client} {n} job:{n};ZRANGEBYSCORE work:{client} -inf {n-100} LIMIT 0 10;ZREM work:{client} job:{n-100}",
        "",
    ),
    workload("set-delete", "SET k:{client}:{n} {value};DEL k:{client}:{n-100};GET k:{client}:{n}", ""),
    workload("set-delete-scan", "SET k:{client}:{n} {value};DEL k:{client}:{n-100};SCAN 0 COUNT 10", ""),
];

/// Workloads that only prepare others.
const PREPARATIONS: &[Workload] = &[
    workload("user", "HSET user:{key} name {small} mail {small} city {small}", ""),
    workload("ZADD-members", "ZADD zset {member} m:{key}", ""),
    workload(
        "GET90",
        "GET key:{key};GET key:{key};GET key:{key};GET key:{key};GET key:{key};GET key:{key};GET key:{key};GET key:{key};\
         GET key:{key};SET key:{key} {value}",
        "",
    ),
    workload("SET-new", "SET new:{client}:{n} {value}", ""),
];

/// Returns the workload with this name; case does not matter.
pub(super) fn find(name: &str) -> Option<Workload> {
    let mut all = COMMANDS.iter().chain(MIXES).chain(PATTERNS).chain(PREPARATIONS);
    all.find(|workload| workload.name.eq_ignore_ascii_case(name)).copied()
}

impl Workload {
    /// Returns the number of replies to one operation.
    pub(super) fn replies(self) -> usize {
        self.template.split(';').count()
    }

    /// Returns one operation as RESP, in pieces.
    pub(super) fn parts(self, value_bytes: usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut bytes = Vec::new();
        for command in self.template.split(';') {
            let words: Vec<&str> = command.split(' ').collect();
            bytes.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
            for word in words {
                push_word(&mut parts, &mut bytes, word, value_bytes);
            }
        }
        parts.push(Part::Bytes(bytes));
        parts
    }
}

fn number(name: &str) -> Number {
    match name {
        "key" => Number::Key,
        "member" => Number::Below(MEMBERS),
        "client" => Number::Client,
        "n" => Number::Sent(0),
        earlier => {
            let less = earlier.strip_prefix("n-").and_then(|less| less.parse().ok());
            Number::Sent(less.expect("a template names a known number"))
        }
    }
}

fn push_word(parts: &mut Vec<Part>, bytes: &mut Vec<u8>, word: &str, value_bytes: usize) {
    let value = |length: usize| -> Vec<u8> {
        // This text compresses like small JSON documents.
        b"{\"id\":48213,\"name\":\"Ada\",\"city\":\"Reykjavik\"},".iter().copied().cycle().take(length).collect()
    };
    match word {
        "{value}" | "{small}" => {
            let value = value(if word == "{small}" { 16 } else { value_bytes });
            bytes.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
            bytes.extend_from_slice(&value);
        }
        word => {
            let texts: Vec<&str> = word.split(['{', '}']).collect();
            let numbers = texts.len() / 2;
            let length = texts.iter().step_by(2).map(|text| text.len()).sum::<usize>() + numbers * DIGITS;
            bytes.extend_from_slice(format!("${length}\r\n").as_bytes());
            // Each pair is a text and, except at the end, the name of the number after it.
            for pair in texts.chunks(2) {
                bytes.extend_from_slice(pair[0].as_bytes());
                if let Some(name) = pair.get(1) {
                    parts.push(Part::Bytes(std::mem::take(bytes)));
                    parts.push(Part::Number(number(name)));
                }
            }
        }
    }
    bytes.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid_resp_and_every_preparation_exists() {
        for workload in COMMANDS.iter().chain(MIXES).chain(PATTERNS).chain(PREPARATIONS) {
            let mut bytes = Vec::new();
            for part in workload.parts(10) {
                match part {
                    Part::Bytes(part) => bytes.extend(part),
                    Part::Number(_) => bytes.extend([b'7'; DIGITS]),
                }
            }
            let mut rest = &bytes[..];
            let mut parser = redis::Parser::new();
            for _ in 0..workload.replies() {
                parser.parse_value(&mut rest).unwrap_or_else(|error| panic!("{}: {error}", workload.name));
            }
            assert!(rest.is_empty(), "{}", workload.name);
            assert!(workload.prepared_by.is_empty() || find(workload.prepared_by).is_some(), "{}", workload.name);
        }
    }
}
