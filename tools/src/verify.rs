//! `walferry verify`: checks every chunk and base of an archive.

use crate::archive::ArchiveArgs;
use crate::exit::{Done, Failure};
use crate::progress;
use crate::runtime::run_tool;
use walferry::restore::{VerifyReport, verify_archive};

/// Checks every chunk and base: checksums, continuity, decoding
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Checks the archive and prints the report; fails if there is a problem or a gap.
pub(crate) fn run(args: Args) -> Done {
    let archive = args.archive.open()?;
    let report = run_tool(verify_archive(&archive, progress::bar()))?;
    show(&report, args.json);
    if report.is_whole() {
        return Ok(());
    }
    let first = report.problems.first().map(|problem| format!("{}: {}", problem.object, problem.what));
    let first =
        first.or_else(|| report.gaps.first().map(|gap| format!("commits {} to {} are missing", gap.from, gap.until)));
    Err(Failure::Integrity(format!(
        "{} problems, {} gaps; first: {}",
        report.problems.len(),
        report.gaps.len(),
        first.unwrap_or_default()
    )))
}

fn show(report: &VerifyReport, json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(report).expect("a report is plain data"));
        return;
    }
    println!("chunks  {} with {} commits, {} bytes", report.chunks, report.commits, report.chunk_bytes);
    println!(
        "bases   {} with {} files, {} bytes; {} unfinished",
        report.bases, report.base_files, report.base_bytes, report.bases_unfinished
    );
    println!(
        "runs    {} with {} files, {} bytes; {} unfinished",
        report.runs, report.run_files, report.run_bytes, report.runs_unfinished
    );
    println!("epochs  {}; foreign objects {}", report.epochs, report.foreign);
    for range in &report.ranges {
        println!("whole   csn {} .. {}", range.from, range.until);
    }
    for coarse in &report.coarse {
        println!("coarse  csn {} .. {}: only as a run", coarse.from, coarse.until);
    }
    for thinned in &report.thinned {
        println!("thinned csn {} .. {}", thinned.from, thinned.until);
    }
    for gap in &report.gaps {
        println!("GAP     csn {} .. {}", gap.from, gap.until);
    }
    for left in &report.abandoned {
        println!("abandoned {left}");
    }
    for problem in &report.problems {
        println!("BAD     {}: {}", problem.object, problem.what);
    }
    if report.is_whole() {
        println!("everything is whole");
    }
}
