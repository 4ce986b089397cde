//! Commands against a database in a temporary directory, through sessions as connections run them.
//!
//! What is compared with a real redis-server is in the end-to-end suite; here is what needs the inside: commits counted,
//! effects within one EXEC, expiry by a clock that need not pass.

use super::args::OwnedArgs;
use super::client::{Client, ClientCard};
use super::host::{Host, InfoSection, MarkCard, Progress, Role, Task, TaskReply};
use super::reply::{Out, Protocol};
use super::session::Session;
use crate::commit::committer::{Committer, Start};
use crate::commit::gate::Gate;
use crate::commit::sync::Syncer;
use crate::config::{AppendFsync, Config};
use crate::csn::Csn;
use crate::engine::disk::{Disk, DiskOptions};
use crate::engine::keyspace::Keyspace;
use crate::engine::memory::Memory;
use crate::error::Result;
use crate::io::{Io, StdIo};
use crate::log::durable::DurableMark;
use crate::log::envelope::Position;
use crate::log::oplog::OpLog;
use futures::future::BoxFuture;
use std::sync::Arc;
use tempfile::TempDir;

/// A node without a network: a database and one client.
pub struct Node {
    committer: Option<Committer>,
    host: TestHost,
    client: Client,
    _dir: TempDir,
}

impl Node {
    /// An empty database.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let io: Arc<dyn Io> = Arc::new(StdIo);
        let path = |name: &str| dir.path().join(name);
        let disk = Arc::new(Disk::open(&path("db"), &path("wal"), DiskOptions::default()).unwrap());
        let oplog = OpLog::open(Arc::clone(&io), &path("oplog"), 1 << 20).unwrap();
        let (mark, _) = DurableMark::open(Arc::clone(&io), dir.path()).unwrap();
        let gate = Arc::new(Gate::default());
        let start = Start {
            disk: Arc::clone(&disk),
            oplog,
            memory: Memory::new(),
            position: Position::default(),
            known: Vec::new(),
        };
        let committer = Committer::new(start, Arc::clone(&gate), |_, watermarks| {
            Syncer::start(AppendFsync::No, disk, io, mark, Arc::clone(watermarks), gate)
        });
        let client = Client::new(1, String::new(), String::new(), false);
        Self { committer: Some(committer), host: TestHost(Arc::default()), client, _dir: dir }
    }

    /// The committer.
    pub fn committer(&self) -> &Committer {
        self.committer.as_ref().expect("present until drop")
    }

    /// Changes keys directly, as one commit.
    pub fn change(&self, now_ms: u64, change: impl FnOnce(&mut Keyspace<'_>)) {
        let mut turn = self.committer().turn();
        change(&mut turn.keyspace(now_ms));
        turn.commit();
        turn.write().unwrap();
    }

    /// The last commit.
    pub fn last(&self) -> Csn {
        self.committer().turn().position().csn
    }

    /// Runs requests as one pipeline. The replies with line ends shown as `|`.
    pub fn pipeline(&mut self, requests: &[OwnedArgs]) -> String {
        let committer = self.committer.as_ref().expect("present until drop");
        let mut out = Out::new(self.client.protocol);
        let mut session = Session::new(committer, &self.host, &mut self.client, &mut out);
        for request in requests {
            session.run(request.as_args());
        }
        if let Some(open) = session.finish().open {
            committer.write_open_group();
            let outcome = committer.groups.outcome(open.group).expect("its group was written");
            if let Err(error) = outcome {
                open.fail(&error, &mut out);
            }
        }
        out.as_bytes().escape_ascii().to_string().replace("\\r\\n", "|").replace("\\'", "'")
    }

    /// Runs one request, its words separated by blanks; `""` is an empty one.
    pub fn run(&mut self, request: &str) -> String {
        self.pipeline(&[words(request)])
    }

    /// Checks the replies to requests, run one by one.
    pub fn check(&mut self, exchanges: &[(&str, &str)]) {
        for (request, reply) in exchanges {
            assert_eq!(self.run(request), *reply, "{request}");
        }
    }

    /// Runs requests as one transaction. The reply of EXEC.
    pub fn transaction(&mut self, requests: &[&str]) -> String {
        self.run("MULTI");
        for request in requests {
            assert_eq!(self.run(request), "+QUEUED|", "{request}");
        }
        self.run("EXEC")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(committer) = self.committer.take() {
            committer.syncer.stop();
        }
    }
}

fn words(request: &str) -> OwnedArgs {
    request.split_whitespace().map(|word| if word == "\"\"" { "" } else { word }).collect()
}

struct TestHost(Arc<Config>);

impl Host for TestHost {
    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0)
    }

    fn reconfigure(&self, _: &[(String, String)]) -> Result<()> {
        Ok(())
    }

    fn progress(&self) -> Progress {
        Progress::default()
    }

    fn info(&self) -> Vec<InfoSection> {
        Vec::new()
    }

    fn marks(&self) -> Result<Vec<MarkCard>> {
        Ok(Vec::new())
    }

    fn role(&self) -> Role {
        Role::Primary { committed: Csn::ZERO, replicas: Vec::new() }
    }

    fn clients(&self) -> Vec<ClientCard> {
        Vec::new()
    }

    fn start_snapshot(&self) -> Result<()> {
        Ok(())
    }

    fn last_save(&self) -> u64 {
        0
    }

    fn disk_key_count(&self) -> Result<u64> {
        Ok(1_000_000)
    }

    fn is_memory_full(&self) -> bool {
        false
    }

    fn count_command(&self) {}

    fn archive_acknowledged(&self, _: Csn) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn run(&self, _: Task) -> BoxFuture<'_, Result<TaskReply>> {
        Box::pin(async { Ok(TaskReply::Ok) })
    }
}

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value|";

#[test]
fn set_takes_its_options() {
    let mut node = Node::new();
    node.check(&[
        ("SET k v", "+OK|"),
        ("SET k w NX", "$-1|"),
        ("SET k w NX GET", "$1|v|"),
        ("SET n w XX", "$-1|"),
        ("SET n w XX GET", "$-1|"),
        ("GET n", "$-1|"),
        ("SET n w NX GET", "$-1|"),
        ("GET n", "$1|w|"),
        ("SET k w EX 100 GET", "$1|v|"),
        ("TTL k", ":100|"),
        ("SET k x KEEPTTL", "+OK|"),
        ("TTL k", ":100|"),
        ("SET k x", "+OK|"),
        ("TTL k", ":-1|"),
        ("SET k x EX 10 PX 10", "-ERR syntax error|"),
        ("SET k x EX 10 KEEPTTL", "-ERR syntax error|"),
        ("SET k x NX XX", "-ERR syntax error|"),
        ("SET k x EX", "-ERR syntax error|"),
        ("SET k x EX 0", "-ERR invalid expire time in 'set' command|"),
        ("SET k x PX 9223372036854775807", "-ERR invalid expire time in 'set' command|"),
        ("SETEX k -1 x", "-ERR invalid expire time in 'setex' command|"),
        ("PSETEX k x x", "-ERR value is not an integer or out of range|"),
        ("SET k y EXAT 1", "+OK|"),
        ("EXISTS k n n missing", ":2|"),
        ("HSET h f v", ":1|"),
        ("SET h x GET", WRONG_TYPE),
        ("SET h x", "+OK|"),
        ("HGET h f", WRONG_TYPE),
    ]);
}

#[test]
fn parts_of_strings() {
    let mut node = Node::new();
    node.check(&[
        ("APPEND k Hello", ":5|"),
        ("APPEND k World", ":10|"),
        ("GETRANGE k 0 4", "$5|Hello|"),
        ("GETRANGE k -5 -1", "$5|World|"),
        ("GETRANGE k -100 100", "$10|HelloWorld|"),
        ("GETRANGE k 5 3", "$0||"),
        ("GETRANGE k -1 -5", "$0||"),
        ("GETRANGE missing 0 -1", "$0||"),
        ("GETRANGE k -9223372036854775808 9223372036854775807", "$10|HelloWorld|"),
        ("SETRANGE k 5 Redis", ":10|"),
        ("SETRANGE k 12 x", ":13|"),
        ("GET k", "$13|HelloRedis\\x00\\x00x|"),
        ("SETRANGE k 0 \"\"", ":13|"),
        ("SETRANGE missing 5 \"\"", ":0|"),
        ("EXISTS missing", ":0|"),
        ("SETRANGE k -1 x", "-ERR offset is out of range|"),
        ("SETRANGE k 536870912 x", "-ERR string exceeds maximum allowed size (proto-max-bulk-len)|"),
        ("STRLEN k", ":13|"),
        ("GETDEL k", "$13|HelloRedis\\x00\\x00x|"),
        ("GETSET k a", "$-1|"),
        ("GETSET k b", "$1|a|"),
        ("INCR k", "-ERR value is not an integer or out of range|"),
        ("INCRBYFLOAT k 1", "-ERR value is not a valid float|"),
        ("INCRBYFLOAT f 0.1", "$3|0.1|"),
        ("INCRBYFLOAT f 0.2", "$3|0.3|"),
        ("INCRBYFLOAT f inf", "-ERR increment would produce NaN or Infinity|"),
        ("INCRBY i 9223372036854775807", ":9223372036854775807|"),
        ("INCR i", "-ERR increment or decrement would overflow|"),
        ("DECRBY i -9223372036854775808", "-ERR decrement would overflow|"),
        ("DECR i", ":9223372036854775806|"),
        ("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command|"),
        ("MSET a 1 b 2 a 3", "+OK|"),
        ("MGET a b c", "*3|$1|3|$1|2|$-1|"),
    ]);
}

#[test]
fn counters_keep_their_expiry() {
    let mut node = Node::new();
    node.check(&[
        ("SET n 1 EX 100", "+OK|"),
        ("INCR n", ":2|"),
        ("APPEND n 5", ":2|"),
        ("INCRBYFLOAT n 0.5", "$4|25.5|"),
        ("SETRANGE n 0 3", ":4|"),
        ("TTL n", ":100|"),
        ("GETSET n 0", "$4|35.5|"),
        ("TTL n", ":-1|"),
    ]);
}

#[test]
fn hashes() {
    let mut node = Node::new();
    node.check(&[
        ("HSET h b 2 a 1 b 3", ":2|"),
        ("HLEN h", ":2|"),
        ("HGETALL h", "*4|$1|a|$1|1|$1|b|$1|3|"),
        ("HSET h a", "-ERR wrong number of arguments for 'hset' command|"),
        ("HMSET h c 4 a 5", "+OK|"),
        ("HLEN h", ":3|"),
        ("HSETNX h a 9", ":0|"),
        ("HSETNX h d 9", ":1|"),
        ("HMGET h a x d", "*3|$1|5|$-1|$1|9|"),
        ("HMGET missing a b", "*2|$-1|$-1|"),
        ("HKEYS h", "*4|$1|a|$1|b|$1|c|$1|d|"),
        ("HVALS h", "*4|$1|5|$1|3|$1|4|$1|9|"),
        ("HEXISTS h a", ":1|"),
        ("HEXISTS h x", ":0|"),
        ("HINCRBY h a 5", ":10|"),
        ("HINCRBY h n -1", ":-1|"),
        ("HINCRBYFLOAT h a 0.5", "$4|10.5|"),
        ("HINCRBY h a 5", "-ERR hash value is not an integer|"),
        ("HINCRBYFLOAT h a nan", "-ERR value is not a valid float|"),
        ("HINCRBYFLOAT h a inf", "-ERR value is NaN or Infinity|"),
        ("HDEL h a a x", ":1|"),
        ("HDEL h b c d n", ":4|"),
        ("EXISTS h", ":0|"),
        ("HDEL h b", ":0|"),
        ("HGETALL h", "*0|"),
    ]);
    node.client.protocol = Protocol::Resp3;
    node.check(&[("HGETALL h", "%0|"), ("HSET h a 1", ":1|"), ("HGETALL h", "%1|$1|a|$1|1|"), ("HGET h x", "_|")]);
}

#[test]
fn sets() {
    let mut node = Node::new();
    node.check(&[
        ("SADD s b a b", ":2|"),
        ("SADD s a", ":0|"),
        ("SCARD s", ":2|"),
        ("SISMEMBER s a", ":1|"),
        ("SISMEMBER s x", ":0|"),
        ("SMEMBERS s", "*2|$1|a|$1|b|"),
        ("SREM s a a x", ":1|"),
        ("SPOP s", "$1|b|"),
        ("EXISTS s", ":0|"),
        ("SPOP s", "$-1|"),
        ("SPOP s 3", "*0|"),
        ("SPOP s -1", "-ERR value is out of range, must be positive|"),
        ("SPOP s 1 1", "-ERR syntax error|"),
        ("SADD s a b c", ":3|"),
        ("SPOP s 0", "*0|"),
        ("SPOP s 9", "*3|$1|a|$1|b|$1|c|"),
        ("TYPE s", "+none|"),
    ]);
    node.client.protocol = Protocol::Resp3;
    node.check(&[("SADD s a", ":1|"), ("SMEMBERS s", "~1|$1|a|"), ("SPOP s 1", "~1|$1|a|"), ("SMEMBERS s", "~0|")]);
}

/// Large sets are popped in steps that go around: everything comes out once.
#[test]
fn a_large_set_is_popped_empty() {
    let mut node = Node::new();
    let members: Vec<String> = (0..2000).map(|member| format!("member:{member:05}")).collect();
    node.run(&format!("SADD s {}", members.join(" ")));
    let mut popped = Vec::new();
    for round in 0.. {
        let reply = if round % 3 == 0 { node.run("SPOP s 17") } else { node.run("SPOP s") };
        let found: Vec<String> =
            reply.split('|').filter(|part| part.starts_with("member")).map(str::to_owned).collect();
        if found.is_empty() {
            break;
        }
        popped.extend(found);
    }
    popped.sort();
    assert_eq!(popped, members);
    node.check(&[("EXISTS s", ":0|")]);
}

#[test]
fn expiry_has_conditions() {
    let mut node = Node::new();
    node.check(&[
        ("EXPIRE k 100", ":0|"),
        ("SET k v", "+OK|"),
        ("TTL k", ":-1|"),
        ("TTL missing", ":-2|"),
        ("EXPIRE k 100 XX", ":0|"),
        ("EXPIRE k 100 GT", ":0|"),
        ("EXPIRE k 100 NX", ":1|"),
        ("EXPIRE k 50 GT", ":0|"),
        ("EXPIRE k 50 LT", ":1|"),
        ("TTL k", ":50|"),
        ("EXPIRE k 50 NX GT", "-ERR NX and XX, GT or LT options at the same time are not compatible|"),
        ("EXPIRE k 50 GT LT", "-ERR GT and LT options at the same time are not compatible|"),
        ("EXPIRE k 50 FOO", "-ERR Unsupported option FOO|"),
        ("EXPIRE k 9223372036854775807", "-ERR invalid expire time in 'expire' command|"),
        ("PEXPIREAT k 4000000000000", ":1|"),
        ("PEXPIRETIME k", ":4000000000000|"),
        ("EXPIRETIME k", ":4000000000|"),
        ("PERSIST k", ":1|"),
        ("PERSIST k", ":0|"),
        ("HSET h f v", ":1|"),
        ("EXPIREAT h 4000000000", ":1|"),
        ("HSET h g v", ":1|"),
        ("EXPIRETIME h", ":4000000000|"),
        ("EXPIRE h -1", ":1|"),
        ("EXISTS h", ":0|"),
        ("EXPIRE k 0", ":1|"),
        ("GET k", "$-1|"),
    ]);
}

/// A key that has expired is absent to every command, and is no obstacle to a key of another type.
#[test]
fn expired_keys_are_not_there() {
    let mut node = Node::new();
    let set_up = |node: &mut Node| {
        node.run("FLUSHALL");
        node.check(&[("HSET h f old", ":1|"), ("SET s old", "+OK|")]);
        node.change(1, |keys| {
            keys.change_list(b"l", |ops| ops.push_back(b"l", [&b"x"[..]].into_iter())).unwrap();
            for key in [&b"h"[..], b"s", b"l"] {
                let found = keys.find(key).unwrap();
                keys.set_expire(key, &found, 5).unwrap();
            }
        });
    };
    set_up(&mut node);
    node.check(&[
        ("EXISTS h s l", ":0|"),
        ("KEYS *", "*0|"),
        ("SCAN 0", "*2|$1|0|*0|"),
        ("HGETALL h", "*0|"),
        ("INCR s", ":1|"),
        ("TTL s", ":-1|"),
        ("SADD h m", ":1|"),
        ("HSET l f new", ":1|"),
        ("HGETALL l", "*2|$1|f|$3|new|"),
        ("KEYS *", "*3|$1|s|$1|l|$1|h|"),
    ]);
    set_up(&mut node);
    let before = node.last();
    node.check(&[("RENAME s t", "-ERR no such key|"), ("RENAMENX l t", "-ERR no such key|"), ("TTL l", ":-2|")]);
    assert_eq!(node.last(), before, "a command that fails has no effect");
    node.check(&[
        ("SET l x KEEPTTL", "+OK|"),
        ("TTL l", ":-1|"),
        ("DEL h s", ":0|"),
        ("HSET h f new", ":1|"),
        ("HLEN h", ":1|"),
    ]);
    assert_eq!(node.last().since(before), 3);
}

#[test]
fn what_changes_nothing_is_no_commit() {
    let mut node = Node::new();
    node.run("SADD s a");
    node.run("HSET h f v");
    node.run("SET k v");
    let before = node.last();
    for request in [
        "DEL missing",
        "SADD s a",
        "SREM s x",
        "HDEL h x",
        "HSETNX h f w",
        "SETNX k w",
        "SET k w NX",
        "PERSIST k",
        "EXPIRE missing 1",
        "SPOP s 0",
        "RENAME k k",
        "RENAMENX k h",
        "SETRANGE k 0 \"\"",
        "GETDEL missing",
        "SPOP missing",
    ] {
        node.run(request);
        assert_eq!(node.last(), before, "{request}");
    }
    node.run("HSET h f v");
    assert_eq!(node.last().since(before), 1);
    node.run("MSET a 1 b 2 c 3");
    assert_eq!(node.last().since(before), 2);
    node.run("FLUSHALL");
    node.run("FLUSHALL");
    assert_eq!(node.last().since(before), 3);
}

#[test]
fn keys_are_renamed_whole() {
    let mut node = Node::new();
    node.change(1, |keys| {
        keys.change_list(b"l", |ops| ops.push_back(b"l", [&b"x"[..]].into_iter())).unwrap();
        keys.change_zset(b"z", |ops| ops.set(b"z", [(&b"m"[..], 1.5)].into_iter())).unwrap();
    });
    node.check(&[
        ("HSET h f v g w", ":2|"),
        ("EXPIREAT h 4000000000", ":1|"),
        ("SADD t old", ":1|"),
        ("RENAME h t", "+OK|"),
        ("TYPE h", "+none|"),
        ("HGETALL t", "*4|$1|f|$1|v|$1|g|$1|w|"),
        ("EXPIRETIME t", ":4000000000|"),
        ("RENAMENX t l", ":0|"),
        ("RENAME t l", "+OK|"),
        ("TYPE l", "+hash|"),
        ("HLEN l", ":2|"),
        ("SET s v EX 100", "+OK|"),
        ("RENAME s l", "+OK|"),
        ("TTL l", ":100|"),
        ("RENAME z l", "+OK|"),
        ("TYPE l", "+zset|"),
        ("TTL l", ":-1|"),
        ("EXPIREAT l 4000000000", ":1|"),
        ("RENAMENX l free", ":1|"),
        ("EXPIRETIME free", ":4000000000|"),
        ("RENAME free free", "+OK|"),
        ("RENAME missing x", "-ERR no such key|"),
        ("KEYS *", "*1|$4|free|"),
        ("DBSIZE", ":1|"),
    ]);
}

/// The commands of one transaction see what those before them did, although nothing is in the database yet.
#[test]
fn a_transaction_sees_its_own_effects() {
    let mut node = Node::new();
    node.check(&[("HSET h old 1 both 1", ":2|"), ("SADD s old", ":1|"), ("SET k v", "+OK|")]);
    let reply = node.transaction(&["HSET h new 2 both 2", "HDEL h old", "HGETALL h", "HLEN h", "SMEMBERS s", "DBSIZE"]);
    assert_eq!(reply, "*6|:1|:1|*4|$4|both|$1|2|$3|new|$1|2|:2|*1|$3|old|:3|");
    let reply = node.transaction(&[
        "DEL h",
        "HSET h a 1",
        "DEL h",
        "HSET h b 2",
        "HGETALL h",
        "SPOP s",
        "SADD s x",
        "SMEMBERS s",
    ]);
    assert_eq!(reply, "*8|:1|:1|:1|:1|*2|$1|b|$1|2|$3|old|:1|*1|$1|x|");
    node.check(&[("HGETALL h", "*2|$1|b|$1|2|"), ("SMEMBERS s", "*1|$1|x|")]);
    let reply =
        node.transaction(&["RENAME h i", "HSET h c 3", "RENAME i h", "HGETALL h", "SET h x", "SADD h2 m", "KEYS *"]);
    assert_eq!(reply, "*7|+OK|:1|+OK|*2|$1|b|$1|2|+OK|:1|*4|$1|s|$2|h2|$1|k|$1|h|");
    let reply = node.transaction(&["FLUSHALL", "KEYS *", "HSET h z 1", "HGETALL h", "SCAN 0", "DBSIZE"]);
    assert_eq!(reply, "*6|+OK|*0|:1|*2|$1|z|$1|1|*2|$1|0|*1|$1|h|:1|");
    node.check(&[("HGETALL h", "*2|$1|z|$1|1|"), ("KEYS *", "*1|$1|h|")]);
    let pipeline = ["SET p 1", "INCR p", "DEL h", "HSET h q 1", "HGETALL h", "DEL h", "HGETALL h"].map(words);
    assert_eq!(node.pipeline(&pipeline), "+OK|:2|:1|:1|*2|$1|q|$1|1|:1|*0|");
}

/// Every change of a key is seen by who watches it, those that leave its metadata alone included.
#[test]
fn watchers_see_every_change() {
    let mut node = Node::new();
    node.change(1, |keys| keys.change_list(b"l", |ops| ops.push_back(b"l", [&b"x"[..]].into_iter())).unwrap());
    node.check(&[("HSET h f v", ":1|"), ("SADD s m", ":1|")]);
    for (key, change) in [
        ("h", "HSET h f w"),
        ("h", "HINCRBY h n 1"),
        ("h", "HINCRBY h n 1"),
        ("h", "EXPIRE h 100"),
        ("k", "SET k v"),
        ("s", "SREM s m"),
        ("m", "RENAME l m"),
        ("m", "RENAME m l"),
        ("i", "RENAME h i"),
        ("k", "FLUSHALL"),
    ] {
        node.run(&format!("WATCH {key}"));
        node.run(change);
        assert_eq!(node.transaction(&["PING"]), "*-1|", "{change}");
    }
}

fn items(reply: &str) -> (String, Vec<String>) {
    let mut bulks =
        reply.split('|').filter(|part| !part.starts_with(['*', '$']) && !part.is_empty()).map(str::to_owned);
    (bulks.next().unwrap(), bulks.collect())
}

/// Goes through a whole iteration; what it returned, sorted.
fn iterate(node: &mut Node, command: impl Fn(&str) -> String) -> (usize, Vec<String>) {
    let (mut cursor, mut steps, mut all) = ("0".to_owned(), 0, Vec::new());
    loop {
        let (next, found) = items(&node.run(&command(&cursor)));
        all.extend(found);
        steps += 1;
        if next == "0" {
            all.sort();
            return (steps, all);
        }
        cursor = next;
    }
}

#[test]
fn scan_returns_every_key_of_every_engine_once() {
    let mut node = Node::new();
    let mut names: Vec<String> = (0..300).map(|name| format!("key:{name:03}")).collect();
    for (nth, name) in names.iter().enumerate() {
        match nth % 4 {
            0 => drop(node.run(&format!("SET {name} v"))),
            1 => drop(node.run(&format!("SADD {name} v"))),
            2 => node.change(1, |keys| {
                let key = name.as_bytes();
                keys.change_list(key, |ops| ops.push_back(key, [&b"x"[..]].into_iter())).unwrap();
            }),
            _ => node.change(1, |keys| {
                let key = name.as_bytes();
                keys.change_zset(key, |ops| ops.set(key, [(&b"m"[..], 1.0)].into_iter())).unwrap();
            }),
        }
    }
    for count in [1, 7, 1000] {
        let (steps, all) = iterate(&mut node, |cursor| format!("SCAN {cursor} COUNT {count}"));
        assert_eq!(all, names);
        assert_eq!(steps == 1, count == 1000, "{steps} steps of {count}");
    }
    let (_, sets) = iterate(&mut node, |cursor| format!("SCAN {cursor} TYPE SET MATCH key:*1"));
    let expected: Vec<String> = (0..300).filter(|n| n % 4 == 1 && n % 10 == 1).map(|n| format!("key:{n:03}")).collect();
    assert_eq!(sets, expected);
    let (_, lists) = iterate(&mut node, |cursor| format!("SCAN {cursor} TYPE list"));
    assert_eq!(lists.len(), 75);
    names.truncate(10);
    let (_, found) = items(&format!("0|{}", node.run("KEYS key:00?")));
    assert_eq!(found.len(), names.len());
    node.check(&[
        ("SCAN x", "-ERR invalid cursor|"),
        ("SCAN 0 COUNT 0", "-ERR syntax error|"),
        ("SCAN 0 COUNT x", "-ERR value is not an integer or out of range|"),
        ("SCAN 0 MATCH", "-ERR syntax error|"),
    ]);
    assert_eq!(items(&node.run("SCAN 18446744073709551615")), ("0".into(), vec![]));
}

#[test]
fn elements_are_scanned_in_steps() {
    let mut node = Node::new();
    node.check(&[
        ("SADD small c a b", ":3|"),
        ("SSCAN small 0 COUNT 1", "*2|$1|0|*3|$1|a|$1|b|$1|c|"),
        ("SSCAN small 0 MATCH [ab]", "*2|$1|0|*2|$1|a|$1|b|"),
        ("SSCAN missing 0 nonsense", "*2|$1|0|*0|"),
        ("SSCAN small 0 nonsense", "-ERR syntax error|"),
        ("SSCAN small 0 TYPE x", "-ERR syntax error|"),
        ("HSCAN small 0", WRONG_TYPE),
        ("HSCAN missing x", "-ERR invalid cursor|"),
        ("HSET h f v", ":1|"),
        ("HSCAN h 0", "*2|$1|0|*2|$1|f|$1|v|"),
        ("HSCAN h 12345", "-ERR invalid cursor|"),
    ]);
    let members: Vec<String> = (0..2000).map(|member| format!("m{member:04}")).collect();
    node.run(&format!("SADD large {}", members.join(" ")));
    let (steps, all) = iterate(&mut node, |cursor| format!("SSCAN large {cursor} COUNT 150"));
    assert_eq!((steps, all), (14, members));
}

/// Goal: an EXEC that is refused for want of room ends its transaction, like any other EXEC.
#[test]
fn a_refused_exec_ends_its_transaction() {
    let mut node = Node::new();
    std::fs::remove_dir_all(node._dir.path().join("oplog")).unwrap();
    let refusal = node.transaction(&["SET a 1"]);
    assert!(refusal.starts_with("-EXECABORT") && refusal.contains("the op-log cannot grow"), "{refusal}");
    node.check(&[("GET a", "$-1|"), ("EXEC", "-ERR EXEC without MULTI|")]);
}
