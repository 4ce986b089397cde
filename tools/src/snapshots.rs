//! `walferry snapshots`: lists the bases and the restorable ranges of an archive.

use crate::archive::ArchiveArgs;
use crate::exit::Done;
use crate::runtime::run_tool;
use walferry::csn::CommitTime;
use walferry::directory::LastRole;
use walferry::history::report::{BaseContent, BaseReport};
use walferry::history::report::{SnapshotsReport, snapshots};

/// Lists bases and the restorable range: csn and time, from, until, gaps
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads the archive and prints the report.
pub(crate) fn run(args: Args) -> Done {
    let archive = args.archive.open()?;
    let report = run_tool(snapshots(&archive))?;
    show(&report, args.json);
    Ok(())
}

/// Describes a base: its level and the level that was requested, the skew between the cuts of its engines, and the
/// node that cut it.
fn level(base: &BaseReport, content: &BaseContent) -> String {
    let cut = &content.cut;
    let mut text = content.level.to_string();
    if cut.asked != content.level {
        let how = if cut.skew_commits > 0 { "repaired" } else { "nothing was committed between the cuts" };
        text = format!("{text} (asked {}, {how})", cut.asked);
    }
    if base.after < base.csn {
        text = format!("{text}, needs chunks after csn {}", base.after);
    }
    let role = if cut.role == LastRole::Replica { "replica" } else { "primary" };
    format!("{text}, skew {:.1} ms, {} commits, by {role} {}", cut.skew_us as f64 / 1e3, cut.skew_commits, cut.node)
}

/// Prints a report.
pub(crate) fn show(report: &SnapshotsReport, json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(report).expect("a report is plain data"));
        return;
    }
    let time = |time: Option<CommitTime>| time.map_or_else(|| "-".to_owned(), CommitTime::rfc3339);
    println!("cluster    {}, newest epoch {}", report.cluster, report.epoch);
    println!("chunks     {}, {} bytes; SST files {} bytes", report.chunks, report.chunk_bytes, report.sst_bytes);
    for range in &report.ranges {
        println!(
            "restorable csn {} .. {}   {} .. {}",
            range.from,
            range.until,
            time(range.from_time),
            time(range.until_time)
        );
    }
    for run in &report.runs {
        println!(
            "run        csn {} .. {} epoch {}: {} files, {} bytes",
            run.first, run.last, run.epoch, run.files, run.bytes
        );
    }
    for coarse in &report.coarse {
        println!("coarse     csn {} .. {}   only as a run", coarse.from, coarse.until);
    }
    for gap in &report.gaps {
        println!("gap        csn {} .. {}", gap.from, gap.until);
    }
    for thinned in &report.thinned {
        println!("thinned    csn {} .. {}", thinned.from, thinned.until);
    }
    for left in &report.abandoned {
        println!("abandoned  {left}");
    }
    for mark in &report.marks {
        match (mark.csn, mark.epoch) {
            (Some(csn), Some(epoch)) => {
                let branch = if mark.is_on_line { String::new() } else { format!("   left branch: --epoch {epoch}") };
                println!("mark       {} csn {csn} epoch {epoch} {}{branch}", mark.name, time(mark.time));
            }
            _ => println!("mark       {} unusable: {}", mark.name, mark.problem.as_deref().unwrap_or("-")),
        }
    }
    for epoch in &report.epochs {
        println!("epoch      {} forks at csn {}, node {}, {}", epoch.epoch, epoch.fork, epoch.node, epoch.time);
    }
    for base in &report.bases {
        match &base.content {
            Some(content) => println!(
                "base       csn {} epoch {} {} {}, {} bytes ({} new, {} shared)",
                base.csn,
                base.epoch,
                content.time,
                level(base, content),
                content.bytes,
                content.bytes_new,
                content.bytes_shared
            ),
            None => println!(
                "base       csn {} epoch {} unusable: {}",
                base.csn,
                base.epoch,
                base.problem.as_deref().unwrap_or("-")
            ),
        }
    }
}
