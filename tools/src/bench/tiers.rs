//! `bench tiers`: data larger than the memory budget. Shows where accesses find their keys, moves, memory and latency
//! over time, by routing policy, for a skewed load, for a hot set that shifts, for a scan beside it and for growing data.

use super::common::{Common, FILLING_PIPELINE};
use super::load::{self, Outcome, Shape};
use super::report::{Chart, Kind, Point, Report, Section, Series};
use super::serve::add;
use super::server::{Launch, Program, Server};
use super::workload::{self, Distribution, Workload};
use crate::client::{Answer, text};
use crate::exit::Failure;
use redis::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Where accesses find their keys when the data is larger than the memory budget; moves, memory and latency
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Memory budget in percent of the memory that all keys would take
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=200))]
    budget_percent: u64,
    /// Operations of one pipeline
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pipeline: u64,
}

/// Bytes that a key takes in memory beside its value, about.
const KEY_BYTES: u64 = 64;
/// Operations that fill the server, for each key: random keys leave some out.
const FILLS_PER_KEY: u64 = 2;
/// Time between two looks at the figures.
const LOOK: Duration = Duration::from_secs(1);

/// Figures of the server at one moment.
#[derive(Clone, Copy, Default)]
struct Figures {
    memory_hits: f64,
    disk_hits: f64,
    to_memory: f64,
    to_disk: f64,
    memory_bytes: f64,
}

impl Figures {
    fn of(server: &Server) -> Answer<Self> {
        Ok(Self {
            memory_hits: server.number("memory_hits")?,
            disk_hits: server.number("disk_hits")?,
            to_memory: server.number("moved_to_memory")?,
            to_disk: server.number("moved_to_disk")?,
            memory_bytes: server.number("memory_engine_bytes")?,
        })
    }

    /// Returns the part of the accesses since `before` that found their keys in memory, in percent.
    fn hit_percent(&self, before: &Self) -> f64 {
        let (memory, disk) = (self.memory_hits - before.memory_hits, self.disk_hits - before.disk_hits);
        100.0 * memory / (memory + disk).max(1.0)
    }

    fn moves(&self, before: &Self) -> f64 {
        self.to_memory - before.to_memory + self.to_disk - before.to_disk
    }
}

/// A part of the measurement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Zipfian,
    Shifted,
    Scan,
    Growing,
}

impl Phase {
    const ALL: [Self; 4] = [Self::Zipfian, Self::Shifted, Self::Scan, Self::Growing];

    fn name(self) -> &'static str {
        match self {
            Self::Zipfian => "zipfian",
            Self::Shifted => "shifted hot set",
            Self::Scan => "with a scan",
            Self::Growing => "growing data",
        }
    }
}

/// Measures all policies and returns the report.
pub(super) fn run(args: &Args) -> Result<(Report, Common), Failure> {
    let common = &args.common;
    let mut report = common.report("tiers");
    let budget = common.keys * (common.value_bytes + KEY_BYTES) * args.budget_percent / 100;
    let columns = ["routing", "load", "ops/s", "p50 ms", "p99 ms", "hits in memory %", "moves", "memory MB"];
    let mut section = Section {
        title: format!("{} keys, a memory budget of {} MB", common.keys, budget >> 20),
        columns: columns.map(str::to_owned).to_vec(),
        notes: vec![
            "The load is 90 % GET and 10 % SET, keys by Zipf's law with exponent 0.99. 'all in memory' has no limit.".into(),
            "Shifted: the most frequent keys are others than before. With a scan: another client reads every key once. \
             Growing: another client adds new keys."
                .into(),
        ],
        ..Section::default()
    };
    let mut series: [Vec<Series>; 3] = Default::default();
    for (name, routing, maxmemory) in
        [("all in memory", "access", 0), ("access", "access", budget), ("type", "type", budget)]
    {
        let scratch = common.scratch()?;
        let launch = Launch::primary(Program::Walferry, &scratch.path().join("walferry"), &common.appendfsync)?;
        let settings = [format!("routing={routing}"), format!("maxmemory={maxmemory}")];
        let (server, _) = launch.with(&["--set", &settings[0], "--set", &settings[1]]).start()?;
        let set = workload::find("SET").expect("it is in the table");
        common.fill(server.launch.port, set, common.keys * FILLS_PER_KEY)?;
        let mut began = 0.0;
        for phase in Phase::ALL {
            let before = Figures::of(&server)?;
            let (outcome, looks) = measure(args, &server, phase)?;
            let after = Figures::of(&server)?;
            section.rows.push(row(name, phase, &outcome, &before, &after));
            let mut last = before;
            for (at, figures) in looks {
                let x = began + at;
                add(&mut series[0], name, Point::at(x, figures.hit_percent(&last)));
                add(&mut series[1], name, Point::at(x, figures.moves(&last)));
                add(&mut series[2], name, Point::at(x, figures.memory_bytes / f64::from(1 << 20)));
                last = figures;
            }
            began += outcome.elapsed.as_secs_f64();
        }
    }
    let titles =
        [("Accesses that find their key in memory", "%"), ("Moves", "keys a second"), ("Keys in memory", "MB")];
    section.charts = titles
        .into_iter()
        .zip(series)
        .map(|((title, unit), series)| Chart { title: title.into(), unit: unit.into(), kind: Kind::Line, series })
        .collect();
    report.add(section);
    Ok((report, common.clone()))
}

fn row(name: &str, phase: Phase, outcome: &Outcome, before: &Figures, after: &Figures) -> Vec<String> {
    vec![
        name.to_owned(),
        phase.name().to_owned(),
        format!("{:.0}", outcome.rate()),
        format!("{:.2}", outcome.latency_ms(0.5)),
        format!("{:.2}", outcome.latency_ms(0.99)),
        format!("{:.1}", after.hit_percent(before)),
        format!("{:.0}", after.moves(before)),
        format!("{:.0}", after.memory_bytes / f64::from(1 << 20)),
    ]
}

/// Runs the load of a phase. Returns its outcome, and the figures at moments of it, in seconds since its start.
fn measure(args: &Args, server: &Server, phase: Phase) -> Result<(Outcome, Vec<(f64, Figures)>), Failure> {
    let common = &args.common;
    let test = workload::find("GET90").expect("it is in the table");
    let first = if phase == Phase::Zipfian { 0 } else { common.keys / 2 };
    let shape = Shape { distribution: Distribution::Zipfian, first, ..common.shape(args.pipeline as usize) };
    let (started, is_over) = (Instant::now(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut looks = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK);
                looks.push((started.elapsed().as_secs_f64(), Figures::of(server)?));
            }
            Ok::<_, String>(looks)
        });
        let beside = scope.spawn(|| match phase {
            Phase::Scan => read_all(server, &is_over),
            Phase::Growing => grow(common, server),
            Phase::Zipfian | Phase::Shifted => Ok(()),
        });
        let outcome = load::run(server.launch.port, &test, shape, common.until(), 2);
        is_over.store(true, Ordering::Relaxed);
        let looks = looking.join().expect("looking does not panic")?;
        beside.join().expect("the other client does not panic")?;
        Ok((outcome?, looks))
    })
}

/// Reads every key once, as a backup job does, until the load is over.
fn read_all(server: &Server, is_over: &AtomicBool) -> Answer<()> {
    let mut client = server.client()?;
    let mut cursor = "0".to_owned();
    while !is_over.load(Ordering::Relaxed) {
        let reply = client.call(&["SCAN", &cursor, "COUNT", "1000"])?;
        let Some((next, keys)) = scanned(&reply) else { return Err("SCAN has another reply".into()) };
        for key in &keys {
            client.call(&["GET", key])?;
        }
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    Ok(())
}

/// Returns the cursor and the keys in a reply of SCAN.
fn scanned(reply: &Value) -> Option<(String, Vec<String>)> {
    let Value::Array(parts) = reply else { return None };
    let [cursor, Value::Array(keys)] = &parts[..] else { return None };
    Some((text(cursor), keys.iter().map(text).collect()))
}

/// Adds new keys for as long as the load runs.
fn grow(common: &Common, server: &Server) -> Answer<()> {
    let shape = Shape { distribution: Distribution::Uniform, clients: 2, ..common.shape(FILLING_PIPELINE) };
    let new: Workload = workload::find("SET-new").expect("it is in the table");
    load::run(server.launch.port, &new, shape, common.until(), 3).map(drop)
}
