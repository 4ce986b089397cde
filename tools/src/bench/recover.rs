//! `bench recover`: the duration of a restart after SIGKILL.

use super::common::Common;
use super::report::{Chart, Kind, Point, Report, Rounds, Section};
use super::server::Launch;
use super::{serve, workload};
use crate::exit::Failure;

/// Restart after SIGKILL, by the amount written since the start
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Operations before the kill, comma separated
    #[arg(long, default_value = "1000000,4000000", value_delimiter = ',')]
    operations: Vec<u64>,
    /// The loads: commands or mixes of `bench serve`, comma separated
    #[arg(long, default_value = "SET,LPUSH-keys,ZADD-keys,EXEC", value_delimiter = ',')]
    tests: Vec<String>,
}

/// Runs all tests and returns the report.
pub(super) fn run(args: &Args) -> Result<(Report, Common), Failure> {
    let common = &args.common;
    let mut report = common.report("recover");
    for name in &args.tests {
        let test = workload::find(name).ok_or_else(|| Failure::Other(format!("test '{name}' does not exist")))?;
        let mut section = Section {
            title: format!("Restart after SIGKILL: {name}"),
            columns: ["operations", "server", "bytes on disk", "until it serves, s"].map(str::to_owned).to_vec(),
            notes: vec!["From the start of the process to its first PONG.".into()],
            ..Section::default()
        };
        let mut series = Vec::new();
        for &operations in &args.operations {
            for program in common.programs() {
                let (mut seconds, mut bytes) = (Rounds::default(), Rounds::default());
                for _ in 0..common.alternations {
                    let scratch = common.scratch()?;
                    let dir = scratch.path().join(program.name());
                    let (server, _) = Launch::primary(program, &dir, &common.appendfsync)?.start()?;
                    common.fill(server.launch.port, test, operations)?;
                    let launch = server.kill();
                    bytes.0.push(super::server::bytes_below(&dir) as f64);
                    let (server, took) = launch.start()?;
                    seconds.0.push(took.as_secs_f64());
                    drop(server);
                }
                let cells = [operations.to_string(), program.name().into(), bytes.show(0), seconds.show(2)];
                section.rows.push(cells.to_vec());
                serve::add(&mut series, program.name(), Point::bar(format!("{operations} operations"), &seconds));
            }
        }
        let (title, unit) = ("Time until it serves".to_owned(), "s".to_owned());
        section.charts.push(Chart { title, unit, kind: Kind::Bars, series });
        report.add(section);
    }
    Ok((report, common.clone()))
}
