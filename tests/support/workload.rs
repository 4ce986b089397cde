//! Random mixed commands from a seed: all types over few keys, so that types collide and keys change their engine.
//!
//! The workload makes only what the [`model`](super::model) understands: valid arity, expiries far in the future (or
//! in the past, which deletes), and numbers in quarters, so that floats stay exact.

use super::client::{Command, cmd};
use super::dump::now_ms;
use super::model::{Effect, Model, Step};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Returns the seed of this run: `WALFERRY_SEED`, else the clock. Prints it, so that a failure can be replayed.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("WALFERRY_SEED") {
        Ok(text) => text.parse().expect("WALFERRY_SEED is a number"),
        Err(_) => now_ms(),
    };
    eprintln!("replay with WALFERRY_SEED={seed}");
    seed
}

const FAMILIES: usize = 6;
const STRING: usize = 0;
const HASH: usize = 1;
const SET: usize = 2;
const LIST: usize = 3;
const ZSET: usize = 4;
const STREAM: usize = 5;

/// A generator.
pub(crate) struct Workload {
    rng: StdRng,
    keys: Vec<Vec<u8>>,
    members: Vec<Vec<u8>>,
    /// Base of absolute expiries in milliseconds since the Unix epoch, where commands must not depend on the present
    /// time. `None`: the present time.
    fixed_now_ms: Option<u64>,
}

/// Whether steps may occur whose result the server chooses (SPOP, `XADD *`) or for which it may use no csn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Any step; the reply shows what the server chose.
    Open,
    /// Only steps whose effect is known without a reply.
    Closed,
}

impl Workload {
    /// Creates the workload of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut keys: Vec<Vec<u8>> = (0..12).map(|number| format!("key:{number}").into_bytes()).collect();
        keys.extend([b"{tag}one".to_vec(), b"{tag}two".to_vec(), Vec::new(), vec![0], vec![0xff; 3]]);
        keys.extend((0..7).map(|_| (0..rng.random_range(1..24)).map(|_| rng.random()).collect()));
        let mut members: Vec<Vec<u8>> = (0..5).map(|number| format!("m{number}").into_bytes()).collect();
        members.extend((0..4).map(|number| number.to_string().into_bytes()));
        members.extend([Vec::new(), b"\r\n".to_vec(), vec![0, 0xff]]);
        Self { rng, keys, members, fixed_now_ms: None }
    }

    /// Creates the workload of one of several writers: every key begins with `prefix`, no command touches another key,
    /// and no command depends on the moment at which it is made or sent, because expiries count from `now_ms`.
    pub(crate) fn of_writer(seed: u64, prefix: &str, now_ms: u64) -> Self {
        let mut workload = Self::new(seed);
        workload.fixed_now_ms = Some(now_ms);
        workload.keys.iter_mut().for_each(|key| drop(key.splice(..0, prefix.bytes())));
        workload
    }

    /// Returns all keys that the commands touch.
    pub(crate) fn keys(&self) -> &[Vec<u8>] {
        &self.keys
    }

    /// Returns commands over the same keys from another seed; their effect is known without a reply.
    pub(crate) fn closed_commands(&self, seed: u64, count: usize) -> Vec<Command> {
        let (keys, members, rng) = (self.keys.clone(), self.members.clone(), StdRng::seed_from_u64(seed));
        let mut seeded = Self { rng, keys, members, ..*self };
        (0..count).map(|_| seeded.command(Choice::Closed)).collect()
    }

    /// Returns the random generator, for choices that must replay with the workload.
    pub(crate) fn rng(&mut self) -> &mut StdRng {
        &mut self.rng
    }

    /// Returns the next step.
    pub(crate) fn next(&mut self, choice: Choice) -> Step {
        if self.rng.random_bool(0.15) {
            let length = self.rng.random_range(1..6);
            Step::Group((0..length).map(|_| self.command(choice)).collect())
        } else {
            Step::Single(self.command(choice))
        }
    }

    /// Returns a move of a key that the commands touch to one of its homes.
    pub(crate) fn next_move(&mut self) -> Step {
        let key = self.keys[self.rng.random_range(0..self.keys.len())].clone();
        Step::Single(cmd!("WALFERRY", "MOVE", key, if self.rng.random_bool(0.5) { "memory" } else { "disk" }))
    }

    /// Returns the next step whose effect is known beforehand, csn included; applies it to `model`.
    pub(crate) fn next_certain(&mut self, model: &mut Model) -> Step {
        loop {
            let step = self.next(Choice::Closed);
            let mut after = model.clone();
            if after.apply_step(&step, now_ms(), None) != Effect::Rewrote {
                *model = after;
                return step;
            }
        }
    }

    fn command(&mut self, choice: Choice) -> Command {
        loop {
            let command = self.any_command(choice);
            if self.fixed_now_ms.is_none() || !(is_relative(&command) || command[0].starts_with(b"FLUSH")) {
                return command;
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.fixed_now_ms.unwrap_or_else(now_ms)
    }

    fn any_command(&mut self, choice: Choice) -> Command {
        match self.rng.random_range(0..100) {
            0..22 => self.string(),
            22..34 => self.hash(),
            34..46 => self.set(choice),
            46..62 => self.list(),
            62..78 => self.zset(),
            78..88 => self.stream(choice),
            _ => self.generic(),
        }
    }

    fn string(&mut self) -> Command {
        let (key, value) = (self.key_for(STRING), self.value());
        let number = self.rng.random_range(-50..50);
        match self.rng.random_range(0..19) {
            0..3 => cmd!("SET", key, value),
            3 => cmd!("SET", key, value, "EX", self.seconds()),
            4 => cmd!("SET", key, value, "PX", 1000 * self.seconds()),
            5 => cmd!("SET", key, value, "PXAT", self.now_ms() + 1000 * self.seconds()),
            6 => cmd!("SET", key, value, "NX"),
            7 => cmd!("SET", key, value, "XX", "KEEPTTL"),
            8 => cmd!("SET", key, value, "GET"),
            9 => cmd!("SETNX", key, value),
            10 => cmd!("SETEX", key, self.seconds(), value),
            11 => cmd!("GETSET", key, value),
            12 => cmd!("GETDEL", key),
            13 => cmd!("APPEND", key, format!("+{number}x")),
            14 => cmd!("SETRANGE", key, self.rng.random_range(0..40), "range"),
            15 => cmd!("MSET", key, value, self.key_for(STRING), self.value()),
            16 => self.pick(&[cmd!("INCR", key), cmd!("DECR", key)]),
            17 => self.pick(&[cmd!("INCRBY", key, number), cmd!("DECRBY", key, number)]),
            _ => cmd!("INCRBYFLOAT", key, f64::from(number) / 4.0),
        }
    }

    fn hash(&mut self) -> Command {
        let (key, field) = (self.key_for(HASH), self.member());
        match self.rng.random_range(0..6) {
            0..2 => cmd!("HSET", key, field, self.value(), self.member(), self.value()),
            2 => cmd!("HMSET", key, field, self.value()),
            3 => cmd!("HSETNX", key, field, self.value()),
            4 => cmd!("HDEL", key, field, self.member(), self.member()),
            _ => cmd!("HINCRBY", key, field, self.rng.random_range(-9..9)),
        }
    }

    fn set(&mut self, choice: Choice) -> Command {
        let (key, member) = (self.key_for(SET), self.member());
        match self.rng.random_range(0..7) {
            0..4 => cmd!("SADD", key, member, self.member(), self.member()),
            4 if choice == Choice::Open => cmd!("SPOP", key),
            5 if choice == Choice::Open => cmd!("SPOP", key, self.rng.random_range(1..5)),
            _ => cmd!("SREM", key, member, self.member()),
        }
    }

    fn list(&mut self) -> Command {
        let (key, element) = (self.key_for(LIST), self.member());
        let index = self.rng.random_range(-4..5);
        match self.rng.random_range(0..14) {
            0..2 => cmd!("LPUSH", key, element, self.value()),
            2..5 => cmd!("RPUSH", key, element, self.member(), self.member(), self.member(), self.member()),
            5 => cmd!("LPOP", key),
            6 => cmd!("RPOP", key, self.rng.random_range(1..4)),
            7 => cmd!("LSET", key, index, element),
            8 => cmd!("LREM", key, self.rng.random_range(-2..3), element),
            9 => cmd!("LTRIM", key, self.rng.random_range(-15..3), self.rng.random_range(-3..20)),
            10 => cmd!("LINSERT", key, self.pick(&["BEFORE", "AFTER"]), element, self.value()),
            11 => cmd!("RPOPLPUSH", key, self.key_for(LIST)),
            _ => {
                let (from, to) = (self.pick(&["LEFT", "RIGHT"]), self.pick(&["LEFT", "RIGHT"]));
                cmd!("LMOVE", key, self.key_for(LIST), from, to)
            }
        }
    }

    fn zset(&mut self) -> Command {
        let (key, member, score) = (self.key_for(ZSET), self.member(), self.score());
        match self.rng.random_range(0..15) {
            0..5 => cmd!("ZADD", key, score, member, self.score(), self.member(), self.score(), self.member()),
            5 => cmd!("ZADD", key, self.pick(&["NX", "XX", "GT", "LT"]), score, member),
            6 => cmd!("ZADD", key, "XX", "GT", "CH", score, member, self.score(), self.member()),
            7 => cmd!("ZADD", key, self.pick(&["NX", "XX", "LT", "CH"]), "INCR", score, member),
            8 => cmd!("ZREM", key, member, self.member()),
            9 | 10 => cmd!("ZINCRBY", key, score, member),
            11 => cmd!("ZPOPMIN", key),
            12 => cmd!("ZPOPMAX", key, self.rng.random_range(1..4)),
            13 => cmd!("ZREMRANGEBYRANK", key, self.rng.random_range(-4..6), self.rng.random_range(-3..6)),
            _ => cmd!("ZREMRANGEBYSCORE", key, self.rng.random_range(-20..10), self.rng.random_range(-10..20)),
        }
    }

    fn stream(&mut self, choice: Choice) -> Command {
        let (key, field, value) = (self.key_for(STREAM), self.member(), self.value());
        let ms = self.rng.random_range(0..60);
        let id = format!("{ms}-{}", self.rng.random_range(0..9));
        match self.rng.random_range(0..10) {
            0 if choice == Choice::Open => cmd!("XADD", key, "*", field, value),
            0..3 => cmd!("XADD", key, id, field, value),
            3 => cmd!("XADD", key, format!("{ms}-*"), field, value, self.member(), self.value()),
            4 => cmd!("XADD", key, "NOMKSTREAM", "MAXLEN", "=", self.rng.random_range(1..6), id, field, value),
            5 => cmd!("XADD", key, "MINID", "=", id, format!("{}-1", ms + 5), field, value),
            6 | 7 => cmd!("XDEL", key, id, format!("{ms}-0"), format!("{ms}-1")),
            8 => cmd!("XTRIM", key, "MAXLEN", "=", self.rng.random_range(0..6)),
            _ => cmd!("XTRIM", key, "MINID", "=", id),
        }
    }

    fn generic(&mut self) -> Command {
        let key = self.key();
        match self.rng.random_range(0..400) {
            0 => cmd!("FLUSHALL"),
            1 => cmd!("FLUSHDB"),
            2..80 => cmd!("DEL", key, self.key()),
            80..110 => cmd!("UNLINK", key),
            110..160 => cmd!("EXPIRE", key, self.seconds()),
            160..190 => cmd!("PEXPIRE", key, 1000 * self.seconds()),
            190..220 => cmd!("EXPIREAT", key, self.now_ms() / 1000 + self.seconds()),
            220..230 => cmd!("EXPIREAT", key, 1),
            230..260 => cmd!("PERSIST", key),
            260..360 => cmd!("RENAME", key, self.key()),
            360..380 => cmd!("MGET", key, self.key()),
            _ => cmd!("EXISTS", key, self.key()),
        }
    }

    /// Returns a key that mostly holds the family's type, so that collections grow; sometimes any key.
    fn key_for(&mut self, family: usize) -> Vec<u8> {
        if self.rng.random_bool(0.2) {
            return self.key();
        }
        let homes = self.keys.len() / FAMILIES;
        self.keys[family + FAMILIES * self.rng.random_range(0..homes)].clone()
    }

    fn key(&mut self) -> Vec<u8> {
        self.keys[self.rng.random_range(0..self.keys.len())].clone()
    }

    fn member(&mut self) -> Vec<u8> {
        self.members[self.rng.random_range(0..self.members.len())].clone()
    }

    /// Returns a small number, or bytes that do not begin a number; sometimes larger than a block or a cache line.
    fn value(&mut self) -> Vec<u8> {
        let length = match self.rng.random_range(0..40) {
            0..15 => return self.rng.random_range(-99..1000).to_string().into_bytes(),
            15..38 => self.rng.random_range(0..40),
            38 => self.rng.random_range(200..600),
            _ => self.rng.random_range(4000..20_000),
        };
        let mut value = b"v".to_vec();
        value.extend((0..length).map(|_| self.rng.random::<u8>()));
        value
    }

    fn score(&mut self) -> String {
        match self.rng.random_range(0..20) {
            0 => "inf".to_owned(),
            1 => "-inf".to_owned(),
            _ => (f64::from(self.rng.random_range(-60..60)) / 4.0).to_string(),
        }
    }

    /// Returns an expiry beyond any test; two of these differ by more than the tolerance of the comparison.
    fn seconds(&mut self) -> u64 {
        1_000_000 + 60 * self.rng.random_range(0..10_000)
    }

    fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.rng.random_range(0..choices.len())].clone()
    }
}

/// Reports whether a command sets an expiry that counts from the moment of its execution.
fn is_relative(command: &Command) -> bool {
    let by_name = ["SETEX", "EXPIRE", "PEXPIRE"].iter().any(|name| command[0] == name.as_bytes());
    by_name || (command[0] == b"SET" && command[3..].iter().any(|option| option == b"EX" || option == b"PX"))
}
