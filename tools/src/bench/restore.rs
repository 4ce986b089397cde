//! `bench restore`: the speed of restoring a log and a base, compared with redis-server loading the same data.

use super::common::Common;
use super::report::{Chart, Kind, Point, Report, Rounds, Section};
use super::server::{Launch, Program};
use super::workload::Workload;
use super::{serve, workload};
use crate::client::Answer;
use crate::exit::Failure;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Restore of a log and of a base: disk only, memory only, mixed, many tiny commits
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Operations in the log
    #[arg(long, default_value_t = 1_000_000)]
    operations: u64,
    /// Threads for the restore, comma separated; fewer than the machine has are given with taskset
    #[arg(long, default_value = "1,2", value_delimiter = ',')]
    threads: Vec<u64>,
}

/// The logs: their names in the report, and the workloads that produce them.
const LOGS: [(&str, &str); 4] =
    [("disk only", "SET"), ("memory only", "LPUSH-keys"), ("mixed", "EXEC"), ("many tiny commits", "INCR")];

/// Measures all logs and returns the report.
pub(super) fn run(args: &Args) -> Result<(Report, Common), Failure> {
    let common = &args.common;
    let mut report = common.report("restore");
    let mut section = Section {
        title: "Restore".into(),
        columns: ["data", "how", "threads", "seconds", "commits/s", "MB/s raw"].map(str::to_owned).to_vec(),
        notes: vec![
            "walferry: the whole command, from an archive in a directory, checks included; a base has no commits. \
             redis-server: from the start of the process to its first PONG, from its AOF and from its RDB of the same commands."
                .into(),
        ],
        ..Section::default()
    };
    let mut series = Vec::new();
    for (what, name) in LOGS {
        let test = workload::find(name).expect("it is in the table");
        for program in common.programs() {
            let rows = match program {
                Program::Walferry => walferry(args, test)?,
                Program::Redis => redis(args, test)?,
            };
            for Measured { how, threads, seconds, commits, raw_mb } in rows {
                let per_second = |amount: f64| Rounds(seconds.0.iter().map(|seconds| amount / seconds).collect());
                let [rate, speed] = [commits, raw_mb].map(per_second);
                let show = |amount: f64, runs: &Rounds| if amount > 0.0 { runs.show(0) } else { String::new() };
                section.rows.push(vec![
                    what.into(),
                    how.clone(),
                    threads.to_string(),
                    seconds.show(2),
                    show(commits, &rate),
                    show(raw_mb, &speed),
                ]);
                if commits > 0.0 {
                    serve::add(&mut series, &format!("{how}, {threads} threads"), Point::bar(what, &rate));
                }
            }
        }
    }
    let (title, unit) = ("Restore of a log".to_owned(), "commits/s".to_owned());
    section.charts.push(Chart { title, unit, kind: Kind::Bars, series });
    report.add(section);
    Ok((report, common.clone()))
}

struct Measured {
    how: String,
    threads: u64,
    seconds: Rounds,
    commits: f64,
    raw_mb: f64,
}

fn walferry(args: &Args, test: Workload) -> Result<Vec<Measured>, Failure> {
    let common = &args.common;
    let scratch = common.scratch()?;
    let archive = format!("file://{}", scratch.path().join("archive").display());
    let launch = Launch::primary(Program::Walferry, &scratch.path().join("primary"), &common.appendfsync)?;
    let (server, _) = launch.with(&["--archive", &archive]).start()?;
    common.fill(server.launch.port, test, args.operations)?;
    server.client()?.call(&["WALFERRY", "ARCHIVE", "FLUSH"])?;
    let log = restores(args, &archive, scratch.path(), "log")?;
    server.client()?.call(&["WALFERRY", "SNAPSHOT", "STRICT"])?;
    server.stop()?;
    let base = restores(args, &archive, scratch.path(), "base")?;
    Ok(log.into_iter().chain(base).collect())
}

fn restores(args: &Args, archive: &str, dir: &Path, what: &str) -> Result<Vec<Measured>, Failure> {
    let mut all = Vec::new();
    for &threads in &args.threads {
        let mut seconds = Rounds::default();
        let mut last = serde_json::Value::Null;
        for _ in 0..args.common.alternations {
            let to = dir.join("restored");
            let started = Instant::now();
            last = restore(archive, &to, threads)?;
            seconds.0.push(started.elapsed().as_secs_f64());
            std::fs::remove_dir_all(&to)?;
        }
        let number = |field: &str| last[field].as_f64().unwrap_or(0.0);
        let commits = number("commits");
        let raw_bytes = if commits > 0.0 { number("log_bytes_raw") } else { number("base_bytes") };
        let how = format!("walferry {what}");
        all.push(Measured { how, threads, seconds, commits, raw_mb: raw_bytes / 1e6 });
    }
    Ok(all)
}

fn restore(archive: &str, to: &Path, threads: u64) -> Answer<serde_json::Value> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let cores = format!("0-{}", threads.saturating_sub(1));
    let output = Command::new("taskset")
        .args(["-c", &cores])
        .arg(program)
        .args(["restore", "--archive", archive, "--to", "latest", "--json", "--dir"])
        .arg(to)
        .output()
        .map_err(|error| format!("cannot run taskset: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn redis(args: &Args, test: Workload) -> Result<Vec<Measured>, Failure> {
    let common = &args.common;
    let scratch = common.scratch()?;
    let launch = Launch::primary(Program::Redis, &scratch.path().join("redis"), &common.appendfsync)?;
    // A rewritten file would hold the state instead of the commands.
    let (mut server, _) = launch.with(&["--auto-aof-rewrite-percentage", "0"]).start()?;
    common.fill(server.launch.port, test, args.operations)?;
    let mut aof = Rounds::default();
    for _ in 0..common.alternations {
        let (again, took) = server.stop()?.start()?;
        aof.0.push(took.as_secs_f64());
        server = again;
    }
    server.client()?.call(&["SAVE"])?;
    let mut rdb = Rounds::default();
    for _ in 0..common.alternations {
        let (again, took) = server.stop()?.with(&["--appendonly", "no"]).start()?;
        rdb.0.push(took.as_secs_f64());
        server = again;
    }
    let (commits, raw_mb) = (args.operations as f64, 0.0);
    Ok(vec![
        Measured { how: "redis AOF".into(), threads: 1, seconds: aof, commits, raw_mb },
        Measured { how: "redis RDB".into(), threads: 1, seconds: rdb, commits: 0.0, raw_mb },
    ])
}
