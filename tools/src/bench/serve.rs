//! `bench serve`: throughput and latency of commands and mixes, for each pipeline length.

use super::common::{Common, FILLING_PIPELINE};
use super::report::{Chart, Kind, Point, Report, Rounds, Section, Series};
use super::server::{Launch, Program, Server};
use super::workload::{COMMANDS, MIXES, PATTERNS, Workload};
use super::{load, steady, workload};
use crate::exit::Failure;
use std::process::Command;

/// Throughput and latency of each command, and of mixes of typical use
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Commands, mixes and patterns, comma separated, or `commands`, `mixes`, `patterns`, `all` [default: all, with
    /// --steady patterns]
    #[arg(long)]
    tests: Option<String>,
    /// Operations sent at once on a connection, comma separated
    #[arg(long, default_value = "1,16,64", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pipeline: Vec<u64>,
    /// Runs each test once, for --seconds, against walferry alone, and fails if its last rate is below 0.9 of its
    /// first
    #[arg(long)]
    steady: bool,
    /// Also runs redis-benchmark's SET and GET against both servers, to check this load generator
    #[arg(long)]
    check: bool,
}

/// Figures of one server under one load, over all runs.
#[derive(Default)]
struct Figures {
    rate: Rounds,
    p50: Rounds,
    p99: Rounds,
    p999: Rounds,
    max: Rounds,
    cpu_us: Rounds,
    own_cpu: Rounds,
}

/// Runs all tests and returns the report.
pub(super) fn run(args: &Args) -> Result<(Report, Common), Failure> {
    let common = &args.common;
    let tests = chosen(args.tests.as_deref().unwrap_or(if args.steady { "patterns" } else { "all" }))?;
    if args.steady {
        return Ok((steady::run(common, &tests, &args.pipeline)?, common.clone()));
    }
    let mut report = common.report("serve");
    let mut memory = Section {
        title: "Memory and disk".into(),
        columns: ["pipeline", "server", "peak RSS bytes", "disk bytes"].map(str::to_owned).to_vec(),
        ..Section::default()
    };
    for &pipeline in &args.pipeline {
        let scratch = common.scratch()?;
        let mut servers = Vec::new();
        for program in common.programs() {
            let launch = Launch::primary(program, &scratch.path().join(program.name()), &common.appendfsync)?;
            servers.push((program, launch.start()?.0));
        }
        report.add(section(common, &servers, &tests, pipeline as usize)?);
        for (program, server) in &servers {
            let (rss, disk) = (server.peak_rss_bytes().to_string(), server.disk_bytes().to_string());
            memory.rows.push(vec![pipeline.to_string(), program.name().into(), rss, disk]);
        }
        if args.check {
            report.add(check(common, &servers, pipeline as usize)?);
        }
    }
    report.add(memory);
    Ok((report, common.clone()))
}

fn chosen(tests: &str) -> Result<Vec<Workload>, Failure> {
    Ok(match tests {
        "all" => COMMANDS.iter().chain(MIXES).chain(PATTERNS).copied().collect(),
        "commands" => COMMANDS.to_vec(),
        "mixes" => MIXES.to_vec(),
        "patterns" => PATTERNS.to_vec(),
        names => {
            let find = |name| {
                workload::find(name).ok_or_else(|| {
                    let all = COMMANDS.iter().chain(MIXES).chain(PATTERNS);
                    let all: Vec<_> = all.map(|workload| workload.name).collect();
                    Failure::Other(format!("test '{name}' does not exist. The tests are {}", all.join(", ")))
                })
            };
            names.split(',').map(find).collect::<Result<_, _>>()?
        }
    })
}

fn section(
    common: &Common,
    servers: &[(Program, Server)],
    tests: &[Workload],
    pipeline: usize,
) -> Result<Section, Failure> {
    let mut section = Section {
        title: format!("Pipeline {pipeline}"),
        notes: vec![
            "Median (least-greatest) of the runs; latency in ms, from a batch's first byte to its last reply; CPU in \
             microseconds of the server per operation, all threads. An operation of a mix or of EXEC is several commands."
                .into(),
            "Load: this generator's CPU by elapsed time; near 1 it would be the bottleneck.".into(),
        ],
        columns: ["test", "server", "ops/s", "ratio", "p50", "p99", "p99.9", "max", "cpu us/op", "load"]
            .map(str::to_owned)
            .to_vec(),
        ..Section::default()
    };
    let mut charts: Vec<(&str, &str, Vec<Series>)> =
        [("Throughput", "operations/s"), ("Latency p99", "ms")].map(|(title, unit)| (title, unit, Vec::new())).into();
    let mut ratios = Vec::new();
    for test in tests {
        let all = measure(common, servers, *test, pipeline)?;
        for ((program, _), figures) in servers.iter().zip(&all) {
            let ratio = figures.rate.ratio(&all[0].rate);
            let is_compared = *program == Program::Walferry && servers.len() > 1;
            section.rows.push(vec![
                test.name.into(),
                program.name().into(),
                figures.rate.show(0),
                if is_compared { ratio.show(2) } else { String::new() },
                figures.p50.show(2),
                figures.p99.show(2),
                figures.p999.show(2),
                figures.max.show(1),
                figures.cpu_us.show(2),
                figures.own_cpu.show(2),
            ]);
            for ((_, _, series), runs) in charts.iter_mut().zip([&figures.rate, &figures.p99]) {
                add(series, program.name(), Point::bar(test.name, runs));
            }
            if is_compared {
                ratios.push(Point::bar(test.name, &ratio));
            }
        }
    }
    if !ratios.is_empty() {
        charts.insert(
            0,
            ("Throughput: walferry by redis-server", "ratio", vec![Series { name: "ratio".into(), points: ratios }]),
        );
    }
    section.charts = charts
        .into_iter()
        .map(|(title, unit, series)| Chart { title: title.into(), unit: unit.into(), kind: Kind::Bars, series })
        .collect();
    Ok(section)
}

/// Adds a point to the series with this name, which is created if missing.
pub(super) fn add(all: &mut Vec<Series>, name: &str, point: Point) {
    match all.iter_mut().find(|series| series.name == name) {
        Some(series) => series.points.push(point),
        None => all.push(Series { name: name.into(), points: vec![point] }),
    }
}

/// Runs one test on all servers in turn, for the requested number of alternations.
fn measure(
    common: &Common,
    servers: &[(Program, Server)],
    test: Workload,
    pipeline: usize,
) -> Result<Vec<Figures>, Failure> {
    let mut all: Vec<Figures> = servers.iter().map(|_| Figures::default()).collect();
    for run in 0..common.alternations {
        for ((_, server), figures) in servers.iter().zip(&mut all) {
            let port = server.launch.port;
            if let Some(preparation) = workload::find(test.prepared_by)
                && (run == 0 || test.name.contains("POP"))
            {
                // With three times as many operations as keys, few keys are left out.
                common.fill(port, preparation, 3 * common.keys)?;
            }
            let cpu_before = server.cpu_seconds();
            let outcome = load::run(port, &test, common.shape(pipeline), common.until(), run + 2)?;
            figures.cpu_us.0.push((server.cpu_seconds() - cpu_before) * 1e6 / outcome.operations as f64);
            figures.rate.0.push(outcome.rate());
            for (runs, quantile) in
                [(&mut figures.p50, 0.5), (&mut figures.p99, 0.99), (&mut figures.p999, 0.999), (&mut figures.max, 1.0)]
            {
                runs.0.push(outcome.latency_ms(quantile));
            }
            figures.own_cpu.0.push(outcome.own_cpu_part);
        }
    }
    for (_, server) in servers {
        // The next test starts with an empty server, so that the order of the tests does not matter.
        server.client()?.call(&["FLUSHALL"])?;
    }
    Ok(all)
}

/// Runs the same load by redis-benchmark and by this generator, in turn.
fn check(common: &Common, servers: &[(Program, Server)], pipeline: usize) -> Result<Section, Failure> {
    let mut section = Section {
        title: format!("Load generator against redis-benchmark, pipeline {pipeline}"),
        columns: ["test", "server", "this", "redis-benchmark", "this by redis-benchmark"].map(str::to_owned).to_vec(),
        ..Section::default()
    };
    for name in ["SET", "GET"] {
        let test = workload::find(name).expect("both are in the table");
        for (program, server) in servers {
            let port = server.launch.port;
            let (mut own, mut other) = (Rounds::default(), Rounds::default());
            for run in 0..common.alternations {
                common.fill(port, workload::find("SET").expect("it is in the table"), FILLING_PIPELINE as u64)?;
                let outcome = load::run(port, &test, common.shape(pipeline), common.until(), run)?;
                own.0.push(outcome.rate());
                other.0.push(redis_benchmark(common, port, name, pipeline, outcome.operations)?);
            }
            let ratio = own.ratio(&other).show(2);
            section.rows.push(vec![name.into(), program.name().into(), own.show(0), other.show(0), ratio]);
        }
    }
    Ok(section)
}

fn redis_benchmark(common: &Common, port: u16, name: &str, pipeline: usize, requests: u64) -> Result<f64, Failure> {
    let [port, clients, requests, keys, bytes, pipeline] =
        [u64::from(port), common.clients, requests, common.keys, common.value_bytes, pipeline as u64]
            .map(|number| number.to_string());
    let output = Command::new("redis-benchmark")
        .args(["-p", &port, "-c", &clients, "-n", &requests, "-r", &keys, "-d", &bytes, "-P", &pipeline])
        .args(["-t", &name.to_lowercase(), "--csv"])
        .output()
        .map_err(|error| Failure::Other(format!("cannot run redis-benchmark: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The output is a header that begins with "test","rps" and a line for the test.
    let rate = text.lines().last().and_then(|line| line.split(',').nth(1)?.trim_matches('"').parse().ok());
    rate.ok_or_else(|| Failure::Other(format!("redis-benchmark said: {text}")))
}
