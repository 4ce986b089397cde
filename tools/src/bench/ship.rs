//! `bench ship`: the cost of replicas and archives for the primary, and the lag of both.

use super::common::Common;
use super::load::{self, Shape, Until};
use super::report::{Chart, Kind, Point, Report, Rounds, Section, Series};
use super::server::{Launch, Program, Server};
use super::{serve, workload};
use crate::exit::Failure;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Throughput with replica and archive, replica lag, chunk sizes, time to drain, a replica that was away
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Operations sent at once on a connection
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pipeline: u64,
    /// The load: a command or mix of `bench serve`
    #[arg(long, default_value = "SET")]
    test: String,
    /// Archive to measure beside file://; the settings for S3 come from the AWS_* environment
    #[arg(long, value_name = "s3://BUCKET/PREFIX")]
    s3: Option<String>,
}

/// Pause between two samples of the lag.
const LOOK: Duration = Duration::from_millis(20);
/// Longest wait until a replica has everything.
const PATIENCE: Duration = Duration::from_secs(600);

/// The consumers that are attached to a primary: a replica, an archive, both or neither.
#[derive(Clone)]
struct Attached {
    name: String,
    program: Program,
    replica: bool,
    archive: Option<String>,
}

/// Figures of one run.
struct Shown {
    rate: f64,
    seconds: f64,
    /// Samples: seconds since the start of the run, and lag in milliseconds.
    lag: Vec<(f64, f64)>,
    drain_seconds: f64,
    archive_lag_ms: Vec<f64>,
    chunks: f64,
    stored: f64,
    raw: f64,
}

impl Shown {
    /// Returns the operations per second, over the time until the replica had all of them.
    fn replicated_rate(&self) -> f64 {
        self.rate * self.seconds / (self.seconds + self.drain_seconds)
    }
}

/// Measures all alternatives and returns the report.
pub(super) fn run(args: &Args) -> Result<(Report, Common), Failure> {
    let common = &args.common;
    let mut report = common.report("ship");
    let mut alternatives = Vec::new();
    let mut attach = |name: &str, program, replica, archive: Option<&str>| {
        let archive = archive.map(str::to_owned);
        alternatives.push(Attached { name: name.into(), program, replica, archive });
    };
    attach("walferry alone", Program::Walferry, false, None);
    attach("walferry + replica", Program::Walferry, true, None);
    attach("walferry + file archive", Program::Walferry, false, Some("file"));
    attach("walferry + replica + file archive", Program::Walferry, true, Some("file"));
    if let Some(url) = &args.s3 {
        attach("walferry + S3 archive", Program::Walferry, false, Some(url));
        attach("walferry + replica + S3 archive", Program::Walferry, true, Some(url));
    }
    if common.programs().contains(&Program::Redis) {
        attach("redis alone", Program::Redis, false, None);
        attach("redis + replica", Program::Redis, true, None);
    }
    let (full, rates) = measure_all(args, &alternatives, &[])?;
    report.add(full);
    let half: Vec<u64> = rates.iter().map(|rate| (rate / 2.0) as u64).collect();
    let (half, _) = measure_all(args, &alternatives, &half)?;
    report.add(half);
    report.add(away(args)?);
    Ok((report, common.clone()))
}

/// Runs all alternatives in turn, for the requested number of alternations. `limits` are the operations per second of
/// each alternative; empty: full speed.
fn measure_all(args: &Args, alternatives: &[Attached], limits: &[u64]) -> Result<(Section, Vec<f64>), Failure> {
    let common = &args.common;
    let mut shown: Vec<Vec<Shown>> = alternatives.iter().map(|_| Vec::new()).collect();
    for run in 0..common.alternations {
        for (nth, attached) in alternatives.iter().enumerate() {
            let scratch = common.scratch()?;
            let rate = limits.get(nth).copied().unwrap_or(0);
            shown[nth].push(measure(args, attached, scratch.path(), rate, run)?);
        }
    }
    let mut section = Section {
        title: if limits.is_empty() { "Full load" } else { "Half of the full load" }.into(),
        columns: [
            "attached", "ops/s", "by alone", "lag p50 ms", "lag p99 ms", "lag max ms", "drained s", "replicated ops/s",
            "archive lag max ms", "chunks", "bytes/chunk", "compression",
        ]
        .map(str::to_owned)
        .to_vec(),
        notes: vec![
            "Lag: age of the oldest commit that the replica has not applied, looked at every 20 ms. For redis it is not known in ms.".into(),
            "Replicated: by the time until the replica had everything.".into(),
        ],
        ..Section::default()
    };
    let (mut rates, mut series) = (Vec::new(), Vec::new());
    let mut bars = Vec::new();
    for (attached, runs) in alternatives.iter().zip(&shown) {
        let of = |figure: &dyn Fn(&Shown) -> f64| Rounds(runs.iter().map(figure).collect());
        let rate = of(&|shown| shown.rate);
        let alone = alternatives.iter().position(|other| other.program == attached.program).unwrap_or(0);
        let alone = Rounds(shown[alone].iter().map(|shown| shown.rate).collect());
        let lags =
            |quantile: f64| of(&move |shown: &Shown| quantile_of(shown.lag.iter().map(|(_, lag)| *lag), quantile));
        let knows_lag = attached.replica && attached.program == Program::Walferry;
        let show_if = |is: bool, runs: Rounds, decimals| if is { runs.show(decimals) } else { String::new() };
        let has_archive = attached.archive.is_some();
        section.rows.push(vec![
            attached.name.clone(),
            rate.show(0),
            rate.ratio(&alone).show(2),
            show_if(knows_lag, lags(0.5), 0),
            show_if(knows_lag, lags(0.99), 0),
            show_if(knows_lag, lags(1.0), 0),
            show_if(attached.replica, of(&|shown| shown.drain_seconds), 2),
            show_if(attached.replica, of(&Shown::replicated_rate), 0),
            show_if(has_archive, of(&|shown| quantile_of(shown.archive_lag_ms.iter().copied(), 1.0)), 0),
            show_if(has_archive, of(&|shown| shown.chunks), 0),
            show_if(has_archive, of(&|shown| shown.stored / shown.chunks.max(1.0)), 0),
            show_if(has_archive, of(&|shown| shown.raw / shown.stored.max(1.0)), 2),
        ]);
        rates.push(rate.median());
        serve::add(&mut bars, "throughput", Point::bar(&attached.name, &rate));
        if knows_lag {
            let points = runs[0].lag.iter().map(|&(x, y)| Point::at(x, y)).collect();
            series.push(Series { name: attached.name.clone(), points });
        }
    }
    let chart = |title: &str, unit: &str, kind, series| Chart { title: title.into(), unit: unit.into(), kind, series };
    section.charts.push(chart("Throughput", "operations/s", Kind::Bars, bars));
    section.charts.push(chart("Replica lag over time", "ms", Kind::Line, series));
    Ok((section, rates))
}

fn quantile_of(values: impl Iterator<Item = f64>, quantile: f64) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * quantile).round() as usize).copied().unwrap_or(0.0)
}

/// Starts a primary in `dir`, which only this run uses.
fn primary_of(args: &Args, attached: &Attached, dir: &Path) -> Result<Server, Failure> {
    let launch = Launch::primary(attached.program, &dir.join("primary"), &args.common.appendfsync)?;
    let launch = match attached.archive.as_deref() {
        None => launch,
        Some("file") => launch.with(&["--archive", &format!("file://{}", dir.join("archive").display())]),
        // Each run has its own prefix, because an archive belongs to one cluster.
        Some(url) => {
            let name = dir.file_name().expect("a directory of a run has a name").display();
            launch.with(&["--archive", &format!("{url}/{name}")])
        }
    };
    Ok(launch.start()?.0)
}

fn measure(args: &Args, attached: &Attached, dir: &Path, rate: u64, run: u64) -> Result<Shown, Failure> {
    let common = &args.common;
    let test =
        workload::find(&args.test).ok_or_else(|| Failure::Other(format!("test '{}' does not exist", args.test)))?;
    let primary = primary_of(args, attached, dir)?;
    let replica = match attached.replica {
        true => Some(Launch::replica_of(&primary.launch, &dir.join("replica"))?.start()?.0),
        false => None,
    };
    if let Some(replica) = &replica {
        caught_up(&primary, replica)?;
    }
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let (mut lag, mut archive_lag_ms) = (Vec::new(), Vec::new());
    let outcome = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) && attached.program == Program::Walferry {
                if let Some(replica) = &replica {
                    lag.push((started.elapsed().as_secs_f64(), replica.number("lag_ms").unwrap_or(0.0)));
                }
                if attached.archive.is_some() {
                    archive_lag_ms.push(primary.number("archive_lag_ms").unwrap_or(0.0));
                }
                std::thread::sleep(LOOK);
            }
        });
        let shape = Shape { rate, ..common.shape(args.pipeline as usize) };
        let outcome = load::run(primary.launch.port, &test, shape, common.until(), run + 1);
        stop.store(true, Ordering::Relaxed);
        watching.join().expect("a look does not panic");
        outcome
    })?;
    let drained = Instant::now();
    if let Some(replica) = &replica {
        caught_up(&primary, replica)?;
    }
    let drain_seconds = drained.elapsed().as_secs_f64();
    if attached.archive.is_some() {
        primary.client()?.call(&["WALFERRY", "ARCHIVE", "FLUSH"])?;
    }
    let [chunks, stored, raw] =
        ["chunks_archived", "chunk_stored_bytes", "chunk_raw_bytes"].map(|field| primary.number(field).unwrap_or(0.0));
    let (rate, seconds) = (outcome.rate(), outcome.elapsed.as_secs_f64());
    Ok(Shown { rate, seconds, lag, drain_seconds, archive_lag_ms, chunks, stored, raw })
}

/// Waits until the replica has everything; returns the time that it took.
fn caught_up(primary: &Server, replica: &Server) -> Result<Duration, Failure> {
    let started = Instant::now();
    let position = |server: &Server, is_primary: bool| {
        server.number(if is_primary { "master_repl_offset" } else { "slave_repl_offset" })
    };
    while started.elapsed() < PATIENCE {
        let wanted = position(primary, true)?;
        if replica.info("master_link_status")? == "up" && position(replica, false)? >= wanted {
            return Ok(started.elapsed());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Failure::Other(format!("the replica did not catch up within {} s", PATIENCE.as_secs())))
}

/// Measures a replica that was stopped while the primary took a load: the time until the replica has everything.
fn away(args: &Args) -> Result<Section, Failure> {
    let common = &args.common;
    let mut section = Section {
        title: "A replica that was away during a full load".into(),
        columns: ["server", "operations missed", "caught up s"].map(str::to_owned).to_vec(),
        ..Section::default()
    };
    let test =
        workload::find(&args.test).ok_or_else(|| Failure::Other(format!("test '{}' does not exist", args.test)))?;
    for program in common.programs() {
        let (mut seconds, mut missed) = (Rounds::default(), Rounds::default());
        for run in 0..common.alternations {
            let scratch = common.scratch()?;
            let attached = Attached { name: String::new(), program, replica: true, archive: None };
            let primary = primary_of(args, &attached, scratch.path())?;
            let replica = Launch::replica_of(&primary.launch, &scratch.path().join("replica"))?.start()?.0;
            caught_up(&primary, &replica)?;
            let replica = replica.stop()?;
            let shape = common.shape(args.pipeline as usize);
            let outcome =
                load::run(primary.launch.port, &test, shape, Until::Elapsed(Duration::from_secs(common.seconds)), run)?;
            let started = Instant::now();
            let (replica, _) = replica.start()?;
            caught_up(&primary, &replica)?;
            seconds.0.push(started.elapsed().as_secs_f64());
            missed.0.push(outcome.operations as f64);
        }
        section.rows.push(vec![program.name().into(), missed.show(0), seconds.show(2)]);
    }
    Ok(section)
}
