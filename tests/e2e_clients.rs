//! Redis' own clients work unchanged, and every command is answered as redis-server 7.0 answers it: the same commands
//! go to both servers, and the replies are compared as bytes.

mod support;

use redis::Value;
use std::process::Command as Program;
use support::client::{Client, Command, cmd};
use support::oracle::Oracle;
use support::process::{Launch, Node};
use support::replies::{Case, Compare, Line, assert_none, parse, run_case};
use support::tool::{Finished, run};

const TABLES: [&str; 9] = [
    include_str!("support/replies/server.txt"),
    include_str!("support/replies/keys.txt"),
    include_str!("support/replies/strings.txt"),
    include_str!("support/replies/hashes.txt"),
    include_str!("support/replies/sets.txt"),
    include_str!("support/replies/lists.txt"),
    include_str!("support/replies/zsets.txt"),
    include_str!("support/replies/streams.txt"),
    include_str!("support/replies/transactions.txt"),
];
const TEMPLATES: &str = include_str!("support/replies/types.txt");

/// Commands that create the keys of every template case, one key of each type; K stands for each of the keys in turn.
const SETUP: &str = "SET string text\nHSET hash f 1\nSADD set m\nRPUSH list e\nZADD zset 1 m\nXADD stream 1-1 f v";
const TARGETS: [&str; 7] = ["missing", "string", "hash", "set", "list", "zset", "stream"];

struct Pair {
    oracle: Oracle,
    _root: tempfile::TempDir,
    subject: Node,
}

impl Pair {
    fn start() -> Self {
        let root = tempfile::tempdir().expect("a temporary directory");
        let subject = Launch::primary(&root.path().join("data")).start();
        Self { oracle: Oracle::start(), _root: root, subject }
    }

    fn ports(&self) -> [u16; 2] {
        [self.oracle.port, self.subject.launch.port]
    }
}

fn table_cases() -> Vec<Case> {
    TABLES.iter().flat_map(|table| parse(table)).collect()
}

/// Returns every template, applied to a missing key and to a key of each type.
fn type_cases() -> Vec<Case> {
    let setup = parse(SETUP).remove(0);
    let templates: Vec<Line> = parse(TEMPLATES).into_iter().flatten().collect();
    let fill = |line: &Line, target: &str| Line {
        command: line.command.iter().map(|word| if word == b"K" { target.into() } else { word.clone() }).collect(),
        compare: line.compare,
    };
    let case = |target: &str, line: &Line| {
        let mut case = setup.clone();
        case.push(fill(line, target));
        case
    };
    TARGETS.iter().flat_map(|target| templates.iter().map(|line| case(target, line))).collect()
}

/// Returns every command of the tables without arguments, and with more arguments than any of them takes.
fn arity_cases() -> Vec<Case> {
    let mut names: Vec<Vec<u8>> = table_cases().into_iter().flatten().map(|line| line.command[0].clone()).collect();
    names.iter_mut().for_each(|name| name.make_ascii_lowercase());
    names.sort();
    names.dedup();
    let answers_alone = ["ping", "info", "time", "role", "lastsave", "bgsave", "hello", "quit", "command"];
    names
        .into_iter()
        .filter(|name| !answers_alone.iter().any(|other| other.as_bytes() == name))
        .map(|name| vec![Line { command: vec![name], compare: Compare::Bytes }])
        .collect()
}

fn compare_all(cases: &[Case], [oracle, subject]: [u16; 2], greeting: Option<&Command>) {
    let differences: Vec<String> = cases.iter().flat_map(|case| run_case(case, oracle, subject, greeting)).collect();
    assert_none(&differences, cases.iter().map(Vec::len).sum());
}

/// Goal: two redis-servers give equal replies to the tables, so that a difference is a fault of the server under test.
#[test]
fn the_tables_have_one_answer_on_redis() {
    let (one, other) = (Oracle::start(), Oracle::start());
    for greeting in [None, Some(cmd!("HELLO", 3))] {
        compare_all(&table_cases(), [one.port, other.port], greeting.as_ref());
        compare_all(&type_cases(), [one.port, other.port], greeting.as_ref());
        compare_all(&arity_cases(), [one.port, other.port], greeting.as_ref());
    }
}

/// Goal: the comparison detects a server that replies differently or ends up with other data.
#[test]
fn the_comparison_finds_a_difference() {
    let (one, other) = (Oracle::start(), Oracle::start());
    other.client().ok(&cmd!("CONFIG", "SET", "maxclients", "100"));
    let difference = |script: &str| run_case(&parse(script)[0], one.port, other.port, None).len();
    assert_eq!(difference("CONFIG GET maxclients"), 1, "a reply differs");
    assert_eq!(difference("?CONFIG GET maxclients"), 0, "its kind does not");
    let port = r"EVAL return\sredis.call('SET','port',string.match(redis.call('INFO','server'),'tcp_port:(%d+)')) 0";
    assert_eq!(difference(port), 1, "the replies are the same, the data differs");
}

/// Goal: over RESP2, every command gets the reply of redis-server 7.0, byte for byte.
#[test]
fn every_command_answers_as_redis_does() {
    let pair = Pair::start();
    compare_all(&table_cases(), pair.ports(), None);
}

/// Goal: over RESP3, every command gets the reply of redis-server 7.0, byte for byte.
#[test]
fn every_command_answers_as_redis_does_over_resp3() {
    let pair = Pair::start();
    compare_all(&table_cases(), pair.ports(), Some(&cmd!("HELLO", 3)));
}

/// Goal: a command on a key of its own or another type gives the reply and the data of redis-server.
#[test]
fn every_command_meets_every_type_as_redis_does() {
    let pair = Pair::start();
    compare_all(&type_cases(), pair.ports(), None);
}

/// Goal: a wrong number of arguments gets the reply of redis-server, for every command.
#[test]
fn wrong_arity_is_answered_as_redis_does() {
    let pair = Pair::start();
    compare_all(&arity_cases(), pair.ports(), None);
}

/// Goal: a watched key that another client changes, in any engine and by any command, aborts the transaction exactly
/// when it does so in redis-server.
#[test]
fn a_watched_key_changed_by_another_client_aborts() {
    let pair = Pair::start();
    let changes = "SET K v\nAPPEND K v\nRPUSH K v\nLPOP K\nZADD K 2 m\nZADD K 1 m\nHSET K f w\nSADD K x\nSADD K m\n\
        XADD K 9-9 f v\nDEL K\nDEL other\nEXPIRE K 100\nPERSIST K\nRENAME K other\nRENAME other K\nFLUSHALL\n\
        GET K\nLRANGE K 0 -1\nINCR K\nSREM K nosuch\nHDEL K f\nZREM K m";
    let mut compared = 0;
    for target in TARGETS {
        for change in changes.lines() {
            let change: Vec<Vec<u8>> = change.replace('K', target).split(' ').map(|word| word.into()).collect();
            let [expected, found] = pair.ports().map(|port| watched(port, target, &change));
            assert_eq!(
                found,
                expected,
                "watching {target} while another client does {}",
                support::client::show(&change)
            );
            compared += 1;
        }
    }
    assert!(compared > 100);
}

/// Returns the replies of EXEC after another client's change, and of the read after that.
fn watched(port: u16, target: &str, change: &Command) -> Vec<Value> {
    let connect = || Client::connect(port).expect("the server accepts a connection");
    let (mut watcher, mut other) = (connect(), connect());
    other.ok(&cmd!("FLUSHALL"));
    parse(SETUP)[0].iter().chain(&parse("SET other x")[0]).for_each(|line| drop(other.ok(&line.command)));
    watcher.ok(&cmd!("WATCH", target));
    other.call(change);
    let aborted = watcher.transaction(&[cmd!("SET", "result", "done")]);
    vec![aborted, watcher.call(&cmd!("GET", "result"))]
}

/// Goal: INFO has Redis' sections and walferry's own section, with its fields.
#[test]
fn info_has_the_sections_and_fields_of_both() {
    let pair = Pair::start();
    let mut client = pair.subject.client();
    client.ok(&cmd!("SET", "a", 1));
    let text = support::client::text(&client.ok(&cmd!("INFO")));
    for section in ["Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU", "Keyspace", "Walferry"]
    {
        assert!(text.lines().any(|line| line == format!("# {section}")), "INFO has no section {section}\n{text}");
    }
    let info = client.info();
    for field in [
        "redis_version",
        "redis_mode",
        "process_id",
        "tcp_port",
        "uptime_in_seconds",
        "connected_clients",
        "used_memory",
        "loading",
        "role",
        "total_commands_processed",
        "cluster_id",
        "epoch",
        "committed_csn",
        "durable_csn",
        "archived_csn",
        "archive_lag_ms",
        "io_backend",
        "io_backend_reason",
    ] {
        assert!(info.get(field).is_some_and(|value| !value.is_empty()), "INFO has no field {field}\n{text}");
    }
    assert_eq!(info["committed_csn"], client.watermarks().committed.to_string());
    assert!(info["db0"].starts_with("keys=1,"), "found {}", info["db0"]);
}

/// Goal: redis-cli prints the same for both servers, given commands of each type.
#[test]
fn redis_cli_prints_the_same() {
    let pair = Pair::start();
    let input = "SET a 'hello world'\nGET a\nINCR n\nRPUSH l 1 2 3\nLRANGE l 0 -1\nZADD z 1 a 2 b\n\
        ZRANGE z 0 -1 WITHSCORES\nHSET h f v\nHGETALL h\nSADD s m\nSMEMBERS s\nXADD x 1-1 f v\nXRANGE x - +\n\
        MULTI\nSET a 1\nRPUSH l 4\nEXEC\nGET\nNOSUCH\nLPUSH a 1\nDBSIZE\n";
    same_output(&pair, |port| run(redis_cli(port).arg("--no-raw"), input));
    same_output(&pair, |port| run(redis_cli(port).arg("-3"), input));
    same_output(&pair, |port| {
        let mut found = run(redis_cli(port).args(["--scan", "--count", "1000"]), "");
        let mut keys: Vec<&str> = found.stdout.lines().collect();
        keys.sort_unstable();
        found.stdout = keys.join("\n");
        found
    });
}

/// Goal: mass insertion by `redis-cli --pipe` arrives completely.
#[test]
fn redis_cli_pipes_many_commands() {
    let pair = Pair::start();
    let input: String =
        (0..20_000).map(|number| format!("SET key:{number} {number}\r\nRPUSH list {number}\r\n")).collect();
    let finished = run(redis_cli(pair.subject.launch.port).arg("--pipe"), &input).expect(0);
    finished.says("errors: 0, replies: 40000");
    assert_eq!(support::client::integer(&pair.subject.client().ok(&cmd!("LLEN", "list"))), 20_000);
    assert_eq!(support::client::integer(&pair.subject.client().ok(&cmd!("DBSIZE"))), 20_001);
}

fn redis_cli(port: u16) -> Program {
    let mut program = Program::new("redis-cli");
    program.args(["-p", &port.to_string()]);
    program
}

fn same_output(pair: &Pair, program: impl Fn(u16) -> Finished) {
    let [expected, found] = pair.ports().map(program);
    assert_eq!(found.stdout, expected.stdout);
    assert_eq!((found.code, found.stderr), (expected.code, expected.stderr));
}

/// Goal: redis-benchmark runs all its tests, with and without pipelining, without an error or a warning.
#[test]
fn redis_benchmark_runs_without_errors() {
    let pair = Pair::start();
    let port = pair.subject.launch.port.to_string();
    let tests = "ping_inline,ping_mbulk,set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange,mset";
    for extra in [&["-t", tests][..], &["-t", tests, "-P", "16"], &["XADD", "stream", "*", "f", "v"]] {
        let mut program = Program::new("redis-benchmark");
        program.args(["-p", &port, "-n", "1000", "-q", "-r", "1000"]).args(extra);
        let finished = run(&mut program, "").expect(0);
        let output = format!("{}{}", finished.stdout, finished.stderr);
        assert!(output.contains("requests per second"), "{output}");
        let bad =
            ["ERR", "Error", "error", "WARNING", "WRONGTYPE", "warning"].iter().find(|word| output.contains(**word));
        assert!(bad.is_none(), "{output}");
    }
}

/// Goal: a program written for redis-py prints the same for both servers.
#[test]
fn redis_py_works_unchanged() {
    let pair = Pair::start();
    same_output(&pair, |port| {
        let mut program = Program::new("python3");
        program.args(["-c", include_str!("support/redis_client.py"), &port.to_string()]);
        run(&mut program, "").expect(0)
    });
}
