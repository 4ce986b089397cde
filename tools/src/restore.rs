//! `walferry restore`: makes a data directory at any commit of the past, from the archive alone.

use crate::archive::ArchiveArgs;
use crate::exit::Done;
use crate::progress;
use crate::runtime::run_tool;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use walferry::csn::{CommitTime, Epoch};
use walferry::history::line::History;
use walferry::history::resolve::Planned;
use walferry::history::route::RouteCosts;
use walferry::history::target::Target;
use walferry::io::{Backends, Choice, Io, StdIo};
use walferry::restore::{Options, Report, restore};

/// Restores a data directory to any commit, from the archive alone
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Directory to make; must be empty or not exist
    #[arg(long)]
    dir: PathBuf,
    /// latest, csn:N (that commit included), time:RFC3339 (the last commit at or before it), or mark:NAME
    #[arg(long, default_value = "latest")]
    to: String,
    /// Follow this epoch's line of history instead of the newest one's
    #[arg(long, value_name = "N")]
    epoch: Option<u32>,
    /// Only show the plan
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Plans, and restores unless `--dry-run` is given.
pub(crate) fn run(args: Args) -> Done {
    let target = Target::from_str(&args.to)?;
    let epoch = args.epoch.map(Epoch);
    let archive = args.archive.open()?;
    args.archive.require_apart(&args.dir, "the directory to restore into,")?;
    run_tool(async {
        if args.dry_run {
            let planned = History::read(&archive, epoch).await?.plan(&target).await?;
            show_plan(&planned, args.json);
            return Ok(());
        }
        let options = Options {
            dir: args.dir.clone(),
            target,
            epoch,
            costs: RouteCosts::DEFAULT,
            io: bulk_io(&args.dir),
            progress: progress::bar(),
        };
        let report = restore(&archive, options).await?;
        show_report(&report, &args.dir, args.json);
        Ok::<_, walferry::error::Error>(())
    })
}

/// Returns the faster I/O backend for the file system of the target's nearest existing ancestor.
fn bulk_io(dir: &Path) -> Arc<dyn Io> {
    let parent = dir.ancestors().skip(1).find(|parent| parent.is_dir()).unwrap_or(Path::new("."));
    Backends::select(parent, Choice::Auto).map_or_else(|_| Arc::new(StdIo) as Arc<dyn Io>, |backends| backends.bulk)
}

fn show_plan(planned: &Planned, json: bool) {
    let plan = &planned.plan;
    if json {
        println!("{}", serde_json::to_string_pretty(plan).expect("a plan is plain data"));
        return;
    }
    println!("target   csn {} of epoch {}", plan.target, plan.epoch);
    match plan.base() {
        Some(base) => println!("base     csn {} of epoch {}, {} bytes", base.csn, base.epoch, plan.base_bytes),
        None => println!("base     none: from the first commit"),
    }
    println!("chunks   {}, {} bytes, {} commits", plan.chunks().count(), plan.log_bytes, plan.commits());
    for run in plan.runs() {
        println!("run      csn {} .. {}, {} files, {} bytes", run.run.first, run.run.last, run.files, run.bytes);
    }
    let chunks_alone = match plan.estimate_chunks_ms {
        Some(ms) if plan.run_bytes > 0 => format!("; chunks alone {:.3} s", ms as f64 / 1e3),
        None => "; chunks alone cannot reach the target".to_owned(),
        Some(_) => String::new(),
    };
    println!("estimate {:.3} s from the base to the target{chunks_alone}", plan.estimate_ms as f64 / 1e3);
    println!("objects  {}, {} bytes in all", plan.objects, plan.bytes());
    for skipped in &plan.skipped_runs {
        println!("skipped  run {}: {}", skipped.run, skipped.why);
    }
    for skipped in &plan.skipped {
        println!("skipped  base {}: {}", skipped.base, skipped.why);
    }
    for left in &plan.abandoned {
        println!("abandoned {left}");
    }
    for lost in &plan.lost {
        println!("gap      commits {} to {} are missing", lost.from, lost.until);
    }
}

fn show_report(report: &Report, dir: &Path, json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(report).expect("a report is plain data"));
        return;
    }
    let seconds = report.seconds;
    let per_second = |amount: f64, time: f64| if time > 0.0 { amount / time } else { 0.0 };
    println!(
        "restored {} to csn {} of epoch {}, committed {}",
        dir.display(),
        report.csn,
        report.epoch,
        CommitTime(report.time.0)
    );
    println!("base     {} bytes in {:.3} s", report.base_bytes, seconds.base);
    println!(
        "log      {} commits, {} bytes ({} raw) in {:.3} s: {:.0} commits/s, {:.1} MB/s raw",
        report.commits,
        report.log_bytes_stored,
        report.log_bytes_raw,
        seconds.log,
        per_second(report.commits as f64, seconds.log),
        per_second(report.log_bytes_raw as f64 / 1e6, seconds.log)
    );
    if report.checks.runs_verified > 0 {
        let runs = report.checks.runs_verified;
        println!("runs     {runs} in the place of {} commits, {} bytes", report.run_commits, report.run_bytes);
    }
    for left in &report.plan.abandoned {
        println!("abandoned, and not restored: {left}");
    }
    println!(
        "checked  {} files, {} chunks; csn {} in RocksDB and in memory",
        report.checks.files_verified, report.checks.chunks_verified, report.checks.disk_csn
    );
    if report.replans > 0 {
        println!("replans  {}: a prune had removed listed objects", report.replans);
    }
    for remark in &report.remarks {
        println!("remark   {remark}");
    }
    println!("start it with: walferry primary --dir {} --archive URL   (a new epoch begins)", dir.display());
}
