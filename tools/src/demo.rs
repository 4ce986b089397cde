//! `walferry demo`: demonstrates walferry on this machine, in a temporary directory, and prints figures.

use crate::cleanup;
use crate::client::{Answer, Client, LOOPBACK, info_fields, text};
use crate::dataset::{self, Dataset};
use crate::exit::{Done, Failure};
use crate::runtime::run_blocking;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Demonstrates a primary, a replica, an archive, a crash and a restore, in a temporary directory
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// Seconds of load
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Keep the temporary directory and say where it is
    #[arg(long)]
    keep: bool,
}

/// Number of connections that write.
const WRITERS: u64 = 4;
/// Rounds in one pipeline. Each round is a handful of commands over all engines.
const ROUNDS_PER_PIPELINE: usize = 16;
/// Number of keys of each type.
const KEYS: u32 = 2_000;
/// Longest wait until a node answers or reaches a csn.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demonstration; fails if the data sets differ.
pub(crate) fn run(args: Args) -> Done {
    let dir = tempfile::Builder::new().prefix("walferry-demo-").tempdir()?;
    let place = dir.path().to_owned();
    let told = run_blocking(move || Ok(Story::new(&place, args.seconds).and_then(Story::tell)?));
    if matches!(told, Err(Failure::Stopped(_))) {
        cleanup::end_all();
    }
    if args.keep {
        println!("kept: {}", dir.keep().display());
    }
    if told? { Ok(()) } else { Err(Failure::Integrity("the data sets differ".into())) }
}

/// A node process. Dropping it kills the process.
struct Node {
    child: Child,
    port: u16,
}

impl Drop for Node {
    fn drop(&mut self) {
        cleanup::end(&mut self.child);
    }
}

impl Node {
    /// Starts this program as a node and waits until the node answers.
    fn start(kind: &str, dir: &Path, port: u16, options: &[String]) -> Answer<Self> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let log = dir.with_extension("log");
        let stderr = std::fs::File::create(&log).map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.arg(kind).arg("--dir").arg(dir).args(["--port", &port.to_string()]).args(options);
        let child = cleanup::spawn(command.stdout(Stdio::null()).stderr(stderr)).map_err(|error| error.to_string())?;
        let mut node = Self { child, port };
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if Client::connect(LOOPBACK, port).and_then(|mut client| client.call(&["PING"])).is_ok() {
                return Ok(node);
            }
            if let Ok(Some(status)) = node.child.try_wait() {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("walferry {kind} ended with {status}:\n{log}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("walferry {kind} did not answer within {} s", PATIENCE.as_secs()))
    }

    fn client(&self) -> Answer<Client> {
        Client::connect(LOOPBACK, self.port)
    }

    fn field(&self, name: &str) -> Answer<String> {
        let info = text(&self.client()?.call(&["INFO"])?);
        Ok(info_fields(&info).into_iter().find(|(field, _)| field == name).map(|(_, value)| value).unwrap_or_default())
    }

    fn csn(&self) -> Answer<u64> {
        self.field("committed_csn")?.parse().map_err(|_| "INFO shows no committed_csn".to_owned())
    }
}

struct Story {
    dir: PathBuf,
    seconds: u64,
    archive: String,
    primary: Node,
    replica: Node,
}

impl Story {
    fn new(dir: &Path, seconds: u64) -> Answer<Self> {
        let ports = free_ports::<4>()?;
        let archive = format!("file://{}", dir.join("archive").display());
        let options =
            |repl: u16| vec!["--repl-port".to_owned(), repl.to_string(), "--archive".to_owned(), archive.clone()];
        println!("walferry demo in {}", dir.display());
        let primary = Node::start("primary", &dir.join("primary"), ports[0], &options(ports[1]))?;
        let mut following = options(ports[3]);
        following.extend(["--primary".to_owned(), format!("127.0.0.1:{}", ports[1])]);
        let replica = Node::start("replica", &dir.join("replica"), ports[2], &following)?;
        println!("1. a primary, a replica, and an archive in a local directory (s3://bucket/prefix works the same)");
        Ok(Self { dir: dir.to_owned(), seconds, archive, primary, replica })
    }

    fn tell(self) -> Answer<bool> {
        let half = Duration::from_secs(self.seconds) / 2;
        let first = self.load(half, 1)?;
        let middle_csn = self.primary.csn()?;
        let middle = dataset::read(&mut self.primary.client()?)?;
        let base = self.primary.client()?.call(&["WALFERRY", "SNAPSHOT", "STRICT"])?;
        let second = self.load(half, 2)?;
        let lag = first.lag_ms.max(second.lag_ms);
        let writes = (first.writes + second.writes) as f64 / (first.seconds + second.seconds);
        println!(
            "2. {:.0} write commands/s over all six types and MULTI across engines, {WRITERS} connections; replica lag at most {lag} ms under it",
            writes
        );
        println!("3. a base was published at csn {} while the primary stayed up", text(&base));
        let last_csn = self.primary.csn()?;
        let drained = Instant::now();
        self.wait_for_replica(last_csn)?;
        println!(
            "4. the replica had everything {} ms after the load ended: csn {last_csn}",
            drained.elapsed().as_millis()
        );
        self.primary.client()?.call(&["WALFERRY", "ARCHIVE", "FLUSH"])?;
        self.tell_archive()?;
        let before = dataset::read(&mut self.primary.client()?)?;

        let Self { dir, archive, mut primary, replica, .. } = self;
        primary.child.kill().and_then(|()| primary.child.wait()).map_err(|error| error.to_string())?;
        let on_replica = dataset::read(&mut replica.client()?)?;
        println!("6. the primary was killed (SIGKILL)");
        let mut verdict = compare("   the replica against the primary before the kill", &before, &on_replica);
        let latest = restore(&dir, &archive, "latest")?;
        verdict &= compare("   restored to latest against the primary before the kill", &before, &latest);
        let past = restore(&dir, &archive, &format!("csn:{middle_csn}"))?;
        verdict &=
            compare(&format!("   restored to csn {middle_csn} against the primary at that time"), &middle, &past);
        println!("verdict: {}", if verdict { "all data sets are equal" } else { "DIFFERENT" });
        Ok(verdict)
    }

    fn tell_archive(&self) -> Answer<()> {
        let number = |name: &str| -> Answer<f64> { Ok(self.primary.field(name)?.parse().unwrap_or(0.0)) };
        let (raw, stored) = (number("chunk_raw_bytes")?, number("chunk_stored_bytes")?);
        println!(
            "5. the archive holds {:.0} chunks with {stored:.0} bytes for {raw:.0} bytes of effects: ratio {:.2}",
            number("chunks_archived")?,
            if stored > 0.0 { raw / stored } else { 0.0 }
        );
        Ok(())
    }

    fn wait_for_replica(&self, csn: u64) -> Answer<()> {
        let started = Instant::now();
        while self.replica.csn()? < csn {
            if started.elapsed() > PATIENCE {
                return Err(format!("the replica did not reach csn {csn}: {}", self.replica.field("link_last_error")?));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn load(&self, time: Duration, seed: u64) -> Answer<Load> {
        let stop = AtomicBool::new(false);
        let started = Instant::now();
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|nth| {
                    scope.spawn({
                        let stop = &stop;
                        move || write_until(stop, self.primary.port, seed * WRITERS + nth)
                    })
                })
                .collect();
            let mut lag_ms = 0;
            while started.elapsed() < time {
                lag_ms = lag_ms.max(self.replica.field("lag_ms")?.parse().unwrap_or(0));
                std::thread::sleep(Duration::from_millis(50));
            }
            stop.store(true, Ordering::Relaxed);
            let counts: Answer<Vec<u64>> =
                writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect();
            Ok(Load { writes: counts?.iter().sum(), seconds: started.elapsed().as_secs_f64(), lag_ms })
        })
    }
}

struct Load {
    writes: u64,
    seconds: f64,
    lag_ms: u64,
}

/// Writes all types and transactions across engines until `stop` is set; returns the number of answered write
/// commands.
fn write_until(stop: &AtomicBool, port: u16, seed: u64) -> Answer<u64> {
    let mut client = Client::connect(LOOPBACK, port)?;
    let mut random = StdRng::seed_from_u64(seed);
    let mut writes = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut commands = Vec::new();
        for _ in 0..ROUNDS_PER_PIPELINE {
            commands.extend(round(&mut random));
        }
        let replies = client.pipeline(&commands)?;
        if let Some(redis::Value::ServerError(error)) =
            replies.iter().find(|reply| matches!(reply, redis::Value::ServerError(_)))
        {
            return Err(format!("a write was refused: {} {}", error.code(), error.details().unwrap_or_default()));
        }
        writes += (ROUNDS_PER_PIPELINE * 10) as u64;
    }
    Ok(writes)
}

/// Returns one round: ten writes, three of them in one transaction across engines.
fn round(random: &mut StdRng) -> Vec<Vec<Vec<u8>>> {
    let mut key = |kind: &str| format!("{kind}:{}", random.random_range(0..KEYS));
    let keys = [key("user"), key("cart"), key("tags"), key("queue"), key("board"), key("account"), key("events")];
    let [user, cart, tags, queue, board, account, events] = keys;
    let number = random.random_range(0..1_000_000).to_string();
    let profile = format!("{{\"id\":{number},\"name\":\"user {number}\",\"city\":\"Reykjavik\",\"visits\":{number}}}");
    let lines: [&[&str]; 12] = [
        &["SET", &user, &profile],
        &["HSET", &cart, "item", &number, "count", "2"],
        &["SADD", &tags, &number],
        &["LPUSH", &queue, &number],
        &["LTRIM", &queue, "0", "99"],
        &["ZADD", &board, &number, "player"],
        &["XADD", &events, "MAXLEN", "100", "*", "event", &number],
        &["MULTI"],
        &["SET", &account, &number],
        &["LPUSH", "ledger", &number],
        &["ZADD", "totals", &number, &account],
        &["EXEC"],
    ];
    lines.iter().map(|line| line.iter().map(|word| word.as_bytes().to_vec()).collect()).collect()
}

/// Restores to `target`, starts a node on the result, and reads its whole data set.
fn restore(dir: &Path, archive: &str, target: &str) -> Answer<Dataset> {
    let to = dir.join(format!("restored-{}", target.replace(':', "-")));
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let started = Instant::now();
    let output = Command::new(program)
        .args(["restore", "--archive", archive, "--to", target, "--json", "--dir"])
        .arg(&to)
        .output();
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    println!(
        "7. restore to {target}: {:.2} s for a base of {} bytes and {} commits of log",
        started.elapsed().as_secs_f64(),
        report["base_bytes"],
        report["commits"]
    );
    let [port, repl] = free_ports()?;
    let node = Node::start("primary", &to, port, &["--repl-port".to_owned(), repl.to_string()])?;
    dataset::read(&mut node.client()?)
}

fn compare(what: &str, expected: &Dataset, found: &Dataset) -> bool {
    let difference = dataset::first_difference(expected, found);
    match &difference {
        None => println!("{what}: equal, {} keys", expected.len()),
        Some(key) => println!("{what}: DIFFERENT, first at key {key} ({} and {} keys)", expected.len(), found.len()),
    }
    difference.is_none()
}

fn free_ports<const N: usize>() -> Answer<[u16; N]> {
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let ports: Vec<u16> = listeners.iter().filter_map(|listener| Some(listener.local_addr().ok()?.port())).collect();
    ports.try_into().map_err(|_| "no free ports".to_owned())
}
