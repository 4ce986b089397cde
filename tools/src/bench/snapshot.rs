//! `bench snapshot`: the cost of a base for the writers while the base is cut and written, compared with redis'
//! BGSAVE.

use super::common::Common;
use super::load::{self, Shape, Until};
use super::report::{Chart, Kind, Point, Report, Rounds, Section};
use super::server::{Launch, Program, Server};
use super::{serve, workload};
use crate::exit::Failure;
use std::time::{Duration, Instant};

/// Commit latency before, during and after a base of a large data set; pause of the cut; extra memory
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Operations that fill the server first: a third strings, a third lists, a third sorted sets
    #[arg(long, default_value_t = 6_000_000)]
    fill: u64,
    /// Operations a second during the measurement
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Fill one sorted set with so many members instead, and add members to this set during the measurement
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    zset_members: u64,
}

/// Random members are chosen below this number, so almost every member is new.
const NEW_MEMBERS: u64 = 999_999_999_999;

impl Args {
    /// Returns the name of the workload that is measured around the base.
    fn workload(&self) -> &'static str {
        if self.zset_members > 0 { "ZADD-members" } else { "EXEC" }
    }

    fn shape(&self) -> Shape {
        let shape = self.common.shape(1);
        Shape { rate: self.rate, keys: if self.zset_members > 0 { NEW_MEMBERS } else { shape.keys }, ..shape }
    }

    fn fill(&self, port: u16) -> Result<(), Failure> {
        if self.zset_members > 0 {
            let test = workload::find("ZADD-members").expect("it is in the table");
            Common { keys: NEW_MEMBERS, ..self.common.clone() }.fill(port, test, self.zset_members)?;
            return Ok(());
        }
        for name in ["SET", "LPUSH-keys", "ZADD-keys"] {
            self.common.fill(port, workload::find(name).expect("it is in the table"), self.fill / 3)?;
        }
        Ok(())
    }
}

/// Pause between two checks whether a base is done.
const LOOK: Duration = Duration::from_millis(20);

/// Latencies in one phase, over all runs.
#[derive(Default)]
struct Phase {
    p50: Rounds,
    p99: Rounds,
    p999: Rounds,
    max: Rounds,
}

impl Phase {
    fn add(&mut self, outcome: &load::Outcome) {
        let all = [(&mut self.p50, 0.5), (&mut self.p99, 0.99), (&mut self.p999, 0.999), (&mut self.max, 1.0)];
        all.into_iter().for_each(|(runs, quantile)| runs.0.push(outcome.latency_ms(quantile)));
    }
}

/// Measures all servers and returns the report.
pub(super) fn run(args: &Args) -> Result<(Report, Common), Failure> {
    let common = &args.common;
    let mut report = common.report("snapshot");
    let mut latency = Section {
        title: format!("Latency of {} around a base", args.workload()),
        columns: ["server", "phase", "p50 ms", "p99 ms", "p99.9 ms", "max ms"].map(str::to_owned).to_vec(),
        notes: vec![format!("{} operations a second, one at a time on each connection.", args.rate)],
        ..Section::default()
    };
    let mut cost = Section {
        title: "The base".into(),
        columns: ["server", "took s", "cut pause us", "memory before", "extra at its peak"].map(str::to_owned).to_vec(),
        notes: vec!["Redis' pause is that of its fork; its extra memory is that of both processes.".into()],
        ..Section::default()
    };
    let mut bases = Section {
        title: "Successive bases".into(),
        columns: ["base", "took s", "bytes new", "bytes shared", "commits since the one before"]
            .map(str::to_owned)
            .to_vec(),
        notes: vec!["What is new: SSTs that the archive did not have, and the image of the keys in memory.".into()],
        ..Section::default()
    };
    let mut series = Vec::new();
    for program in common.programs() {
        let scratch = common.scratch()?;
        let launch = Launch::primary(program, &scratch.path().join(program.name()), &common.appendfsync)?;
        let launch = match program {
            Program::Walferry => {
                launch.with(&["--archive", &format!("file://{}", scratch.path().join("archive").display())])
            }
            Program::Redis => launch,
        };
        let (server, _) = launch.start()?;
        args.fill(server.launch.port)?;
        let mut phases = [Phase::default(), Phase::default(), Phase::default()];
        let mut last_csn = 0.0;
        let [mut took, mut pause, mut before, mut extra] = [const { Rounds(Vec::new()) }; 4];
        for run in 0..common.alternations {
            phases[0].add(&load_for(args, &server, common.seconds, run)?);
            server.reset_peak_rss();
            let rss = server.peak_rss_bytes();
            let (outcome, seconds) = during(args, &server, program, run)?;
            phases[1].add(&outcome);
            took.0.push(seconds);
            if program == Program::Walferry {
                let csn = server.number("last_base_csn")?;
                let bytes = |field| server.number(field).map(|bytes| format!("{bytes:.0}"));
                let (new, shared) = (bytes("last_base_bytes_new")?, bytes("last_base_bytes_shared")?);
                let commits = format!("{:.0}", csn - last_csn);
                bases.rows.push(vec![(run + 1).to_string(), format!("{seconds:.2}"), new, shared, commits]);
                last_csn = csn;
            }
            before.0.push(rss as f64);
            let child = if program == Program::Redis { server.number("rdb_last_cow_size")? } else { 0.0 };
            extra.0.push(server.peak_rss_bytes().saturating_sub(rss) as f64 + child);
            pause.0.push(server.number(match program {
                Program::Walferry => "last_base_cut_pause_us",
                Program::Redis => "latest_fork_usec",
            })?);
            phases[2].add(&load_for(args, &server, common.seconds, run)?);
        }
        for (name, Phase { p50, p99, p999, max }) in ["before", "during", "after"].into_iter().zip(&phases) {
            let cells = [program.name().into(), name.to_owned(), p50.show(2), p99.show(2), p999.show(2), max.show(1)];
            latency.rows.push(cells.to_vec());
            serve::add(&mut series, program.name(), Point::bar(name, p999));
        }
        let cells = [program.name().into(), took.show(2), pause.show(0), before.show(0), extra.show(0)];
        cost.rows.push(cells.to_vec());
    }
    latency.charts.push(Chart { title: "Latency p99.9".into(), unit: "ms".into(), kind: Kind::Bars, series });
    report.add(latency);
    report.add(cost);
    report.add(bases);
    Ok((report, common.clone()))
}

fn load_for(args: &Args, server: &Server, seconds: u64, seed: u64) -> Result<load::Outcome, Failure> {
    let test = workload::find(args.workload()).expect("it is in the table");
    Ok(load::run(server.launch.port, &test, args.shape(), Until::Elapsed(Duration::from_secs(seconds)), seed + 1)?)
}

/// Runs the load while a base is made; also returns the seconds that the base took.
fn during(args: &Args, server: &Server, program: Program, seed: u64) -> Result<(load::Outcome, f64), Failure> {
    std::thread::scope(|scope| {
        let base = scope.spawn(|| -> Result<f64, Failure> {
            let mut started = Instant::now();
            match program {
                Program::Walferry => {
                    server.client()?.call(&["WALFERRY", "SNAPSHOT", "STRICT"])?;
                }
                Program::Redis => {
                    // Redis refuses a BGSAVE while it rewrites its AOF.
                    while server.number("aof_rewrite_in_progress")? > 0.0 {
                        std::thread::sleep(LOOK);
                    }
                    started = Instant::now();
                    server.client()?.call(&["BGSAVE"])?;
                    while server.number("rdb_bgsave_in_progress")? > 0.0 {
                        std::thread::sleep(LOOK);
                    }
                }
            }
            Ok(started.elapsed().as_secs_f64())
        });
        let outcome = load_for(args, server, args.common.seconds, seed + 100);
        let seconds = base.join().expect("the base's thread does not panic")?;
        Ok((outcome?, seconds))
    })
}
