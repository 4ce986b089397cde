//! One writer's commits as a line of positions: the step at a position is a pure function of the line's seed, and the
//! state after any position is known.
//!
//! Every step is one commit and stores its position in the server: in a string (`disk`) or in a sorted set (`memory`).
//! A commit over all engines stores it in both, and in a pair of its own that must never differ. So a dump of any
//! server shows the position of each writer, and the rest of the writer's keys must equal what the line predicts. Some
//! keys hold sums over all steps, so that a missing step is detected whatever came after it. When commits after a
//! position were lost, the line forks there: later steps are different.

use super::super::client::{Client, Command, cmd, elements, text};
use super::super::dump::{Content, Dump};
use super::super::model::{Model, Step};
use super::super::workload::Workload;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redis::Value;
use std::ops::Range;
use std::sync::Arc;

/// Number of positions between two stored states.
const CHECKPOINT_EVERY: u64 = 256;
/// Base of absolute expiries in milliseconds since the Unix epoch: the year 2100, so that none of them expires.
const FAR_FUTURE_MS: u64 = 4_102_444_800_000;
/// Prefix of mayfly keys: short-lived keys, each written once.
const MAYFLY: &str = "fly:";
/// Bytes of most large values. The machines keep what the archive or a replica lacks on small devices, and the speed of
/// the computer determines the number of commits in a round.
const LARGE: Range<usize> = 50_000..200_000;
/// Bytes of a value that does not fit into a chunk.
const LARGER_THAN_A_CHUNK: usize = 5 << 20;

/// The kind of a writer's commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Commands over all types.
    Mixed,
    /// Keys that expire within seconds; the deletion of each key is one more commit.
    Mayfly,
}

/// The commits of one writer.
#[derive(Clone)]
pub(crate) struct Line {
    /// Number of the writer.
    pub writer: usize,
    /// The kind of its commands.
    pub kind: Kind,
    seed: u64,
    /// The position at which the line forked from its parent; its own steps come after this position.
    pub start: u64,
    /// Whether the first step deletes everything that the writer's keys held.
    begins_anew: bool,
    workload: Arc<Workload>,
    /// The state at `start` and after every [`CHECKPOINT_EVERY`] steps.
    checkpoints: Vec<Arc<Model>>,
}

impl Line {
    /// Creates the line of a writer.
    pub(crate) fn new(writer: usize, kind: Kind, seed: u64) -> Self {
        let workload = Arc::new(Workload::of_writer(seed ^ writer as u64, &prefix(writer), FAR_FUTURE_MS));
        Self { writer, kind, seed, start: 0, begins_anew: false, workload, checkpoints: vec![Arc::default()] }
    }

    /// Returns a line that shares everything up to a position with this line, and nothing after it.
    pub(crate) fn fork(&self, at: u64, seed: u64) -> Self {
        let checkpoints = vec![Arc::new(self.model_at(at))];
        Self { seed, start: at, begins_anew: false, checkpoints, ..self.clone() }
    }

    /// Returns a line that first deletes the writer's keys.
    pub(crate) fn anew(&self, after: u64, seed: u64) -> Self {
        Self { seed, start: after, begins_anew: true, checkpoints: vec![Arc::default()], ..self.clone() }
    }

    /// Returns the step at a position.
    pub(crate) fn step(&self, position: u64) -> Step {
        let mut rng = StdRng::seed_from_u64(mixed(&[self.seed, self.writer as u64, position]));
        let key = |name: &str| format!("{}{name}", prefix(self.writer));
        let on_disk = cmd!("SET", key("disk"), position);
        let in_memory = cmd!("ZADD", key("memory"), position, "at");
        // A sum over all steps, from several commands: a missing step is visible for ever.
        let share = line_share(self.seed, position);
        let (sum_on_disk, sum_in_memory) =
            (cmd!("INCRBY", key("sum"), share), cmd!("ZINCRBY", key("sums"), share, "of"));
        if self.begins_anew && position == self.start + 1 {
            return Step::Group(self.clearing(on_disk, in_memory));
        }
        let mut everywhere = vec![
            on_disk.clone(),
            in_memory.clone(),
            cmd!("SET", key("cross"), position),
            cmd!("ZADD", key("crossed"), position, "at"),
            sum_on_disk.clone(),
            sum_in_memory.clone(),
        ];
        if self.kind == Kind::Mayfly {
            everywhere.extend(mayfly(&mut rng, &format!("{}{MAYFLY}{position}", prefix(self.writer))));
            return Step::Group(everywhere);
        }
        match (position % 97, rng.random_range(0..100)) {
            (40, _) => {
                let bytes = if position.is_multiple_of(40) { LARGER_THAN_A_CHUNK } else { rng.random_range(LARGE) };
                everywhere.push(cmd!("SET", key("large"), large_value(&mut rng, bytes)));
                Step::Group(everywhere)
            }
            (42, _) => Step::Group(vec![cmd!("DEL", key("large")), sum_on_disk, on_disk]),
            (_, 0..10) => Step::Single(on_disk),
            (_, 10..20) => Step::Single(in_memory),
            (_, 20..28) => Step::Group(vec![
                cmd!("HSET", key("hash"), position % 40, position),
                cmd!("XADD", key("log"), "MAXLEN", "=", 50, format!("{position}-1"), "at", position),
                sum_on_disk,
                on_disk,
            ]),
            (_, 28..36) => Step::Group(vec![
                cmd!("RPUSH", key("queue"), position),
                cmd!("LTRIM", key("queue"), -50, -1),
                sum_in_memory,
                in_memory,
            ]),
            _ => {
                let commands = self.workload.closed_commands(rng.random(), rng.random_range(1..5));
                everywhere.splice(..0, commands);
                Step::Group(everywhere)
            }
        }
    }

    /// Returns commands that delete every key that a line may have written.
    fn clearing(&self, on_disk: Command, in_memory: Command) -> Vec<Command> {
        let own = ["cross", "crossed", "sum", "sums", "large", "hash", "log", "queue", "disk", "memory"];
        let mut keys = cmd!("DEL");
        keys.extend(own.iter().map(|name| format!("{}{name}", prefix(self.writer)).into_bytes()));
        keys.extend_from_slice(self.workload.keys());
        vec![keys, on_disk, in_memory]
    }

    /// Returns the state after the step at a position.
    pub(crate) fn model_at(&self, position: u64) -> Model {
        assert!(position >= self.start, "position {position} lies before this line, which starts at {}", self.start);
        let nth = ((position - self.start) / CHECKPOINT_EVERY).min(self.checkpoints.len() as u64 - 1);
        let mut model = Model::clone(&self.checkpoints[nth as usize]);
        for position in self.start + nth * CHECKPOINT_EVERY + 1..=position {
            apply(&mut model, &self.step(position), None);
        }
        model
    }

    /// Stores the state after a position, if the position is one of every [`CHECKPOINT_EVERY`].
    pub(crate) fn keep(&mut self, position: u64, model: &Model) {
        if position == self.start + CHECKPOINT_EVERY * self.checkpoints.len() as u64 {
            self.checkpoints.push(Arc::new(model.clone()));
        }
    }

    /// Compares a server's keys of this writer with the line; returns the position, or the first difference.
    pub(crate) fn find_in(&self, all: &Dump) -> Result<u64, String> {
        let is_own = |key: &[u8]| key.starts_with(prefix(self.writer).as_bytes());
        let own: Dump =
            all.iter().filter(|(key, _)| is_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        let position = position_in(&own, &prefix(self.writer));
        if position < self.start {
            return Err(format!(
                "writer {}: is at {position}, before its line, which starts at {}",
                self.writer, self.start
            ));
        }
        let is_lasting = |key: &[u8]| !key.starts_with(format!("{}{MAYFLY}", prefix(self.writer)).as_bytes());
        let lasting: Dump = own.into_iter().filter(|(key, _)| self.kind == Kind::Mixed || is_lasting(key)).collect();
        let mut expected = self.model_at(position).dump();
        expected.retain(|key, _| self.kind == Kind::Mixed || is_lasting(key));
        match super::super::dump::difference(&expected, &lasting) {
            None => Ok(position),
            Some(difference) => Err(format!("writer {} at position {position}: {difference}", self.writer)),
        }
    }
}

/// Returns the prefix of all keys of a writer.
pub(crate) fn prefix(writer: usize) -> String {
    format!("w{writer}:")
}

/// Returns the keys of a dump that belong to no writer.
pub(crate) fn foreign_keys(all: &Dump, writers: usize) -> Vec<String> {
    let is_known = |key: &&Vec<u8>| (0..writers).any(|writer| key.starts_with(prefix(writer).as_bytes()));
    all.keys().filter(|key| !is_known(key)).map(|key| key.escape_ascii().to_string()).collect()
}

/// Applies a step to a model; with a reply, checks which commands were refused.
pub(crate) fn apply(model: &mut Model, step: &Step, reply: Option<&Value>) {
    model.apply_step(step, FAR_FUTURE_MS, reply);
}

/// Returns the commands that read a writer's position and its pair.
pub(crate) fn reads(writer: usize) -> Vec<Command> {
    let key = |name: &str| format!("{}{name}", prefix(writer));
    vec![
        cmd!("GET", key("disk")),
        cmd!("ZSCORE", key("memory"), "at"),
        cmd!("GET", key("cross")),
        cmd!("ZSCORE", key("crossed"), "at"),
    ]
}

/// Returns the position in the replies to [`reads`], or a description of a torn transaction.
pub(crate) fn position_read(replies: &[Value]) -> Result<u64, String> {
    let number = |reply: &Value| match reply {
        Value::Nil => Ok(0),
        reply @ (Value::BulkString(_) | Value::Double(_) | Value::SimpleString(_)) => {
            text(reply).parse::<u64>().map_err(|_| format!("{reply:?} is no position"))
        }
        other => Err(format!("{other:?} is no position")),
    };
    let numbers = replies.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    if numbers[2] != numbers[3] {
        return Err(format!(
            "torn: a commit over all engines is at {} on disk and at {} in memory",
            numbers[2], numbers[3]
        ));
    }
    Ok(numbers[0].max(numbers[1]))
}

/// Reads the position of each writer on a server in one transaction.
pub(crate) fn positions(client: &mut Client, writers: usize) -> Result<Vec<u64>, String> {
    let commands: Vec<Command> = (0..writers).flat_map(reads).collect();
    let reply = client.transaction(&commands);
    elements(&reply).chunks(reads(0).len()).map(position_read).collect()
}

fn position_in(own: &Dump, prefix: &str) -> u64 {
    let content = |name: &str| own.get(format!("{prefix}{name}").as_bytes()).map(|dumped| &dumped.content);
    let on_disk = match content("disk") {
        Some(Content::String(text)) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
        _ => None,
    };
    let in_memory = match content("memory") {
        Some(Content::Zset(members)) => members.first().map(|(_, score)| *score as u64),
        _ => None,
    };
    on_disk.unwrap_or(0).max(in_memory.unwrap_or(0))
}

/// Returns the number that a step adds to its writer's sums.
fn line_share(seed: u64, position: u64) -> u64 {
    mixed(&[seed, position]) % (1 << 20)
}

/// Returns commands that write a key of one of three types with a short expiry.
fn mayfly(rng: &mut StdRng, key: &str) -> Vec<Command> {
    let expires = cmd!("PEXPIRE", key, rng.random_range(50..1_500));
    match rng.random_range(0..3) {
        0 => vec![cmd!("SET", key, "v"), expires],
        1 => vec![cmd!("RPUSH", key, "v"), expires],
        _ => vec![cmd!("ZADD", key, 1, "v"), expires],
    }
}

/// Returns a value of which half compresses well.
fn large_value(rng: &mut StdRng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|nth| if nth % 64 < 32 { b'x' } else { rng.random() }).collect()
}

/// Mixes several numbers into one.
pub(crate) fn mixed(numbers: &[u64]) -> u64 {
    let mix = |state: u64, number: &u64| {
        // The finalizer of SplitMix64.
        let z = (state ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    numbers.iter().fold(0, mix)
}
