//! `walferry prune`: shows or removes the objects that the retention policy does not keep.

use crate::archive::ArchiveArgs;
use crate::exit::{Done, Failure};
use crate::runtime::run_tool;
use std::str::FromStr;
use std::time::Duration;
use walferry::config::Config;
use walferry::keep::Keep;
use walferry::retention::{PruneOptions, PruneReport, prune};

/// Shows which objects the retention policy does not keep, why, and how many bytes; removes them with --confirm
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// The policy, such as '7d fine, hourly 30d, daily 1y'; without one, only objects that nothing refers to are
    /// removed
    #[arg(long, value_name = "POLICY", default_value = "")]
    keep: String,
    /// Age before which nothing counts as abandoned
    #[arg(long, value_name = "TIME", default_value = "24h")]
    grace: String,
    /// Only show what would be removed (the default)
    #[arg(long, conflicts_with = "confirm")]
    dry_run: bool,
    /// Remove these objects
    #[arg(long)]
    confirm: bool,
    /// Print JSON, every object by name
    #[arg(long)]
    json: bool,
}

/// Prunes, or shows what a prune would remove.
pub(crate) fn run(args: Args) -> Done {
    let (keep, grace) = (Keep::from_str(&args.keep)?, time(&args.grace)?);
    let options = PruneOptions { keep, grace, confirm: args.confirm, node: None };
    let archive = args.archive.open()?;
    let report = run_tool(prune(&archive, &options))?;
    show(&report, args.json);
    match &report.denied {
        None => Ok(()),
        Some(why) => {
            let left = report.removals.len() as u64 - report.removed;
            Err(Failure::Denied(format!("{left} objects could not be removed: {why}")))
        }
    }
}

/// Parses a time in the format of the configuration.
fn time(text: &str) -> Result<Duration, Failure> {
    let mut config = Config::default();
    config.set("prune-grace", text)?;
    Ok(config.prune_grace)
}

fn show(report: &PruneReport, json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(report).expect("a report is plain data"));
        return;
    }
    let policy = if report.keep.is_empty() { "none: everything is kept" } else { &report.keep };
    println!("policy   {policy}");
    for (why, count) in report.promised() {
        println!("keeps    {why}: {count}");
    }
    println!("stays    {} objects, {} bytes", report.objects_kept, report.bytes_kept);
    for ((kind, why), amount) in report.by_kind() {
        println!("goes     {} {kind}, {} bytes: {why}", amount.objects, amount.bytes);
    }
    for remark in &report.remarks {
        println!("remark   {remark}");
    }
    if report.is_confirmed {
        println!("removed  {} objects, {} bytes", report.removed, report.bytes_removed);
    } else {
        let (objects, bytes) = (report.removals.len(), report.bytes_to_remove());
        println!("nothing was removed; --confirm removes {objects} objects with {bytes} bytes");
    }
}
