//! The `walferry` command line: one file per subcommand.
//!
//! Output: results on stdout (only JSON with `--json`), logs on stderr, a progress bar on a terminal. [`exit`] has the
//! exit codes.

mod archive;
mod bench;
mod cleanup;
mod client;
mod compact;
mod copy;
mod dataset;
mod demo;
mod dump;
mod exit;
mod help;
mod keygen;
mod mark;
mod node;
mod panics;
mod primary;
mod progress;
mod promote;
mod prune;
mod replica;
mod restore;
mod runtime;
mod snapshots;
mod status;
mod verify;

use clap::{CommandFactory, Parser, Subcommand};
use runtime::run_blocking;
use std::io::IsTerminal;
use std::process::ExitCode;

/// jemalloc suits the load: many small values of few sizes, allocated on one thread and freed on another. RocksDB uses
/// jemalloc, too, because it replaces the C library's `malloc`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Returns the bytes that jemalloc has allocated and not freed; `None` if jemalloc does not report them.
fn allocated_bytes() -> Option<u64> {
    // jemalloc reports the figures of its last epoch, so a new epoch is begun first.
    tikv_jemalloc_ctl::epoch::advance().ok()?;
    tikv_jemalloc_ctl::stats::allocated::read().ok().map(|bytes| bytes as u64)
}

/// WAL-shipping replication for a hybrid, Redis-protocol store: primary, replica, archive, restore to any commit.
#[derive(Parser)]
#[command(name = "walferry", version, propagate_version = true, disable_help_subcommand = true, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Primary(primary::Args),
    Replica(replica::Args),
    Restore(restore::Args),
    Snapshots(snapshots::Args),
    Verify(verify::Args),
    Compact(compact::Args),
    Copy(copy::Args),
    Status(status::Args),
    Prune(prune::Args),
    Mark(mark::Args),
    Promote(promote::Args),
    Dump(dump::Args),
    Keygen(keygen::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Help(help::Args),
}

fn main() -> ExitCode {
    panics::end_without_reader();
    let cli = Cli::parse();
    start_logging();
    walferry::allocator::ask_with(allocated_bytes);
    let done = match cli.command {
        Command::Primary(args) => primary::run(args),
        Command::Replica(args) => replica::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Snapshots(args) => snapshots::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Copy(args) => copy::run(args),
        Command::Status(args) => run_blocking(|| status::run(args)),
        Command::Prune(args) => prune::run(args),
        Command::Mark(args) => run_blocking(|| mark::run(args)),
        Command::Promote(args) => run_blocking(|| promote::run(args)),
        Command::Dump(args) => run_blocking(|| dump::run(args)),
        Command::Keygen(args) => run_blocking(|| keygen::run(args)),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Help(args) => help::run(&args, Cli::command()),
    };
    exit::report(done)
}

/// Starts logging to stderr. `WALFERRY_LOG` selects the messages (tracing's filter syntax, default `info`).
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WALFERRY_LOG").unwrap_or_else(|_| "info".into());
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_target(false)
        // Otherwise tracing would report a stderr that cannot be written (a log file on a full disk) on stderr, and
        // panic.
        .log_internal_errors(false)
        .init();
}
