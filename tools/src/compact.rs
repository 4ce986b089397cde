//! `walferry compact`: merges small chunks, builds compacted runs and rebuilds bases, from the archive alone.

use crate::archive::ArchiveArgs;
use crate::exit::{Done, Failure};
use crate::progress;
use crate::runtime::run_tool;
use serde::Serialize;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use walferry::archive::store::Archive;
use walferry::compact::merge::Round;
use walferry::compact::{chunks, runs};
use walferry::csn::Epoch;
use walferry::grain::Grain;
use walferry::history::target::Target;
use walferry::io::{Backends, Choice, Io, StdIo};
use walferry::node::rebuild;

/// Merges small chunks, builds compacted runs and rebuilds bases, from the archive alone
///
/// Without --merge, --per, --run-commits or --base: merges, and builds a run for each hour.
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Merge small chunks; delete the parts of earlier merges once they have been superseded for --grace
    #[arg(long)]
    merge: bool,
    /// Seconds for which the parts of merged chunks stay, for readers with an older listing
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    grace: u64,
    /// Build a run for each hour or day (UTC) that is over
    #[arg(long, value_parser = ["hour", "day"], conflicts_with = "run_commits")]
    per: Option<String>,
    /// Build a run for each N commits
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    run_commits: Option<u64>,
    /// Restore to --until in a scratch directory and publish the result as a base: for a commit of the past, or an
    /// archive without nodes. Needs no node and begins no epoch; a primary that is started on a restored directory
    /// begins one
    #[arg(long)]
    base: bool,
    /// latest, csn:N or time:RFC3339: no run goes beyond this commit, and a base is built at it
    #[arg(long, default_value = "latest", value_name = "TARGET")]
    until: String,
    /// Follow this epoch's line of history instead of the newest one's
    #[arg(long, value_name = "N")]
    epoch: Option<u32>,
    /// Directory for temporary files [default: the system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Result of the command; a step that was not requested is `None`.
#[derive(Serialize)]
struct Report {
    merge: Option<Round>,
    runs: Option<runs::Report>,
    base: Option<rebuild::Report>,
}

/// Runs the requested steps and prints the report.
pub(crate) fn run(args: Args) -> Done {
    let archive = args.archive.open()?;
    let report = run_tool(compact(&args, &archive))?;
    show(&report, args.json);
    Ok(())
}

async fn compact(args: &Args, archive: &Archive) -> Result<Report, Failure> {
    let is_default = !args.merge && !args.base && args.per.is_none() && args.run_commits.is_none();
    let per_hour = is_default.then_some(Grain::Hour);
    let grain = match (&args.per, args.run_commits) {
        (Some(per), _) => Some(Grain::from_str(per)?),
        (None, commits) => commits.map(Grain::Commits).or(per_hour),
    };
    let (until, epoch) = (Target::from_str(&args.until)?, args.epoch.map(Epoch));
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("walferry-compact-");
    let scratch = match &args.scratch {
        Some(dir) => builder.tempdir_in(dir)?,
        None => builder.tempdir()?,
    };
    args.archive.require_apart(scratch.path(), "the scratch directory")?;
    let io: Arc<dyn Io> = Backends::select(scratch.path(), Choice::Auto)
        .map_or_else(|_| Arc::new(StdIo) as Arc<dyn Io>, |backends| backends.bulk);
    let mut report = Report { merge: None, runs: None, base: None };
    if args.merge || is_default {
        report.merge = Some(chunks::merge(archive, Duration::from_secs(args.grace)).await?);
    }
    if let Some(grain) = grain {
        let (scratch, io) = (scratch.path().to_owned(), Arc::clone(&io));
        let options = runs::Options { grain, until: until.clone(), epoch, scratch, io, progress: progress::bar() };
        report.runs = Some(runs::build(archive, options).await?);
    }
    if args.base {
        let dir = scratch.path().join("base");
        let options = rebuild::Options { target: until, epoch, dir, io, progress: progress::bar() };
        report.base = Some(rebuild::rebuild(archive, options).await?);
    }
    Ok(report)
}

fn show(report: &Report, json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(report).expect("a report is plain data"));
        return;
    }
    if let Some(merge) = &report.merge {
        println!(
            "merged   {} chunks into {}: {} bytes before, {} after; {} superseded chunks deleted, {} wait",
            merge.parts, merge.merged, merge.bytes_before, merge.bytes_after, merge.deleted, merge.waiting
        );
        if merge.damaged > 0 {
            println!("DAMAGED  {} chunks were not changed: see the log, and run walferry verify", merge.damaged);
        }
    }
    if let Some(runs) = &report.runs {
        for run in &runs.runs {
            println!("run      csn {} .. {}: {} bytes for {}", run.run.first, run.run.last, run.bytes, run.raw_bytes);
        }
        println!(
            "runs     {} built, {} commits read; up to csn {}",
            runs.runs.len(),
            runs.commits,
            runs.compacted_until
        );
    }
    match &report.base {
        Some(base) if base.is_new => println!(
            "base     csn {} of epoch {}: {} bytes new, {} shared; restored in {:.1} s",
            base.csn, base.epoch, base.bytes_new, base.bytes_shared, base.restore_seconds
        ),
        Some(base) => println!("base     csn {} of epoch {} existed already", base.csn, base.epoch),
        None => {}
    }
}
