//! The options of every benchmark, and what follows from them.

use super::load::{self, Shape, Until};
use super::report::Report;
use super::server::{self, Program};
use super::workload::{Distribution, Workload};
use crate::cleanup::Scratch;
use crate::exit::Failure;
use std::path::PathBuf;
use std::time::Duration;

/// Options of every benchmark.
#[derive(clap::Args, Clone)]
pub(super) struct Common {
    /// Directory for the reports bench-NAME.json and bench-NAME.html
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub out: PathBuf,
    /// Directory for the servers' data [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Runs of each measurement, walferry and redis-server in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub alternations: u64,
    /// Connections
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub clients: u64,
    /// Distinct keys
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=999_999_999_999))]
    pub keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub value_bytes: u64,
    /// How keys are chosen
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub distribution: Distribution,
    /// When logs are synced: always, everysec or no; the same for both servers
    #[arg(long, default_value = "everysec", value_parser = ["always", "everysec", "no"])]
    pub appendfsync: String,
    /// Seconds of each measured run
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
}

/// Operations in one pipeline while a server is filled.
pub(super) const FILLING_PIPELINE: usize = 64;

impl Common {
    /// Creates a directory for the servers' data, which is removed when dropped.
    pub(super) fn scratch(&self) -> Result<Scratch, Failure> {
        Ok(Scratch::create(self.data.as_deref())?)
    }

    pub(super) fn shape(&self, pipeline: usize) -> Shape {
        Shape {
            clients: self.clients as usize,
            pipeline,
            keys: self.keys,
            distribution: self.distribution,
            first: 0,
            value_bytes: self.value_bytes as usize,
            rate: 0,
        }
    }

    pub(super) fn until(&self) -> Until {
        Until::Elapsed(Duration::from_secs(self.seconds))
    }

    /// Returns the programs to measure: redis-server only if it is installed.
    pub(super) fn programs(&self) -> Vec<Program> {
        if server::has_redis() {
            return vec![Program::Redis, Program::Walferry];
        }
        println!("redis-server is not installed: only walferry is measured");
        vec![Program::Walferry]
    }

    pub(super) fn report(&self, bench: &'static str) -> Report {
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
    pub(super) fn fill(&self, port: u16, workload: Workload, operations: u64) -> Result<load::Outcome, String> {
        let shape = Shape { distribution: Distribution::Uniform, ..self.shape(FILLING_PIPELINE) };
        load::run(port, &workload, shape, Until::Operations(operations), 1)
    }
}
