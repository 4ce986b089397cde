//! `walferry bench`: measures walferry and redis-server on this machine with the same load, in alternating runs.

mod common;
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
mod tiers;
mod workload;

use crate::cleanup;
use crate::exit::{Done, Failure};
use crate::runtime::run_blocking;
use common::Common;
use report::Report;

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
    Tiers(tiers::Args),
}

/// Runs the benchmark and writes its report.
pub(crate) fn run(args: Args) -> Done {
    let measured = run_blocking(|| measure(args.bench));
    if matches!(measured, Err(Failure::Stopped(_))) {
        cleanup::end_all();
    }
    let (report, common) = measured?;
    Ok(report.write(&common.out, &html::page(&report))?)
}

fn measure(bench: Bench) -> Result<(Report, Common), Failure> {
    match bench {
        Bench::Serve(args) => serve::run(&args),
        Bench::Ship(args) => ship::run(&args),
        Bench::Snapshot(args) => snapshot::run(&args),
        Bench::Restore(args) => restore::run(&args),
        Bench::Recover(args) => recover::run(&args),
        Bench::Compact(args) => compact::run(&args),
        Bench::Tiers(args) => tiers::run(&args),
    }
}
