//! `walferry bench`: measures walferry and redis-server on this machine with the same load, in alternating runs.

mod compact;
mod html;
mod load;
mod recover;
mod report;
mod restore;
mod serve;
mod server;
mod ship;
mod snapshot;
mod steady;
mod workload;

use crate::cleanup::{self, Scratch};
use crate::exit::{Done, Failure};
use crate::runtime::run_blocking;
use load::{Shape, Until};
use report::Report;
use server::Program;
use std::path::PathBuf;
use std::time::Duration;
use workload::{Distribution, Workload};

/// Measures this machine: walferry and, where installed, redis-server, side by side; writes JSON and HTML
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(clap::Subcommand)]
enum Bench {
    Serve(serve::Args),
    Ship(ship::Args),
    Snapshot(snapshot::Args),
    Restore(restore::Args),
    Recover(recover::Args),
    Compact(compact::Args),
}

/// Options of every benchmark.
#[derive(clap::Args, Clone)]
struct Common {
    /// Directory for the reports bench-NAME.json and bench-NAME.html
    #[arg(long, default_value = ".", value_name = "DIR")]
    out: PathBuf,
    /// Directory for the servers' data [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Runs of each measurement, walferry and redis-server in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    alternations: u64,
    /// Connections
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    clients: u64,
    /// Distinct keys
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=999_999_999_999))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    value_bytes: u64,
    /// How keys are chosen
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    distribution: Distribution,
    /// When logs are synced: always, everysec or no; the same for both servers
    #[arg(long, default_value = "everysec", value_parser = ["always", "everysec", "no"])]
    appendfsync: String,
    /// Seconds of each measured run
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

/// Operations in one pipeline while a server is filled.
const FILLING_PIPELINE: usize = 64;

impl Common {
    /// Creates a directory for the servers' data, which is removed when dropped.
    fn scratch(&self) -> Result<Scratch, Failure> {
        Ok(Scratch::create(self.data.as_deref())?)
    }

    fn shape(&self, pipeline: usize) -> Shape {
        Shape {
            clients: self.clients as usize,
            pipeline,
            keys: self.keys,
            distribution: self.distribution,
            value_bytes: self.value_bytes as usize,
            rate: 0,
        }
    }

    fn until(&self) -> Until {
        Until::Elapsed(Duration::from_secs(self.seconds))
    }

    /// Returns the programs to measure: redis-server only if it is installed.
    fn programs(&self) -> Vec<Program> {
        if server::has_redis() {
            return vec![Program::Redis, Program::Walferry];
        }
        println!("redis-server is not installed: only walferry is measured");
        vec![Program::Walferry]
    }

    fn report(&self, bench: &'static str) -> Report {
        let pairs = [
            ("clients", self.clients.to_string()),
            ("keys", format!("{} {:?}", self.keys, self.distribution).to_lowercase()),
            ("value bytes", self.value_bytes.to_string()),
            ("appendfsync", self.appendfsync.clone()),
            ("alternations", self.alternations.to_string()),
        ];
        Report::new(bench, pairs.map(|(name, value)| (name.to_owned(), value)).to_vec())
    }

    /// Runs `operations` of a workload on a server at full speed.
    fn fill(&self, port: u16, workload: Workload, operations: u64) -> Result<load::Outcome, String> {
        let shape = Shape { distribution: Distribution::Uniform, ..self.shape(FILLING_PIPELINE) };
        load::run(port, &workload, shape, Until::Operations(operations), 1)
    }
}

/// Runs the benchmark and writes its report.
pub(crate) fn run(args: Args) -> Done {
    let measured = run_blocking(|| measure(args.bench));
    if matches!(measured, Err(Failure::Stopped(_))) {
        cleanup::end_all();
    }
    let (report, common) = measured?;
    Ok(report.write(&common.out)?)
}

fn measure(bench: Bench) -> Result<(Report, Common), Failure> {
    match bench {
        Bench::Serve(args) => serve::run(&args),
        Bench::Ship(args) => ship::run(&args),
        Bench::Snapshot(args) => snapshot::run(&args),
        Bench::Restore(args) => restore::run(&args),
        Bench::Recover(args) => recover::run(&args),
        Bench::Compact(args) => compact::run(&args),
    }
}
