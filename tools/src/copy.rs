//! `walferry copy`: copies a range of history to another archive, as a self-contained, verified backup.

use crate::archive::{ArchiveArgs, named_file};
use crate::exit::{Done, Failure};
use crate::progress;
use crate::runtime::run_tool;
use std::str::FromStr;
use walferry::archive::config::ArchiveUrl;
use walferry::archive::crypt::KeyRing;
use walferry::archive::crypt::keys::TO_ARCHIVE_KEY_VARIABLE;
use walferry::archive::opening::open_url;
use walferry::archive::store::{Archive, Opening};
use walferry::config::Config;
use walferry::csn::{Csn, Epoch};
use walferry::error::Error;
use walferry::history::target::Target;
use walferry::restore::{CopyOptions, CopyReport, copy};

/// Copies a range of history into another archive; checks every object, and leaves objects alone that are already
/// there
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    #[command(flatten)]
    archive: ArchiveArgs,
    /// Archive to copy to: s3://bucket/prefix or file:///dir. Empty, or an earlier copy of the same cluster
    #[arg(long, value_name = "URL")]
    to: String,
    /// Keys that encrypt the copy [default: those in WALFERRY_TO_ARCHIVE_KEY, else the keys of --archive]
    #[arg(long, value_name = "FILE", conflicts_with = "to_clear")]
    to_archive_key_file: Option<String>,
    /// Do not encrypt the copy although --archive is encrypted
    #[arg(long)]
    to_clear: bool,
    /// S3 endpoint of --to [default: that of --archive]
    #[arg(long, value_name = "URL")]
    to_s3_endpoint: Option<String>,
    /// S3 region of --to [default: that of --archive]. Its credentials, if they are others, come from
    /// WALFERRY_TO_ACCESS_KEY_ID and WALFERRY_TO_SECRET_ACCESS_KEY
    #[arg(long, value_name = "REGION")]
    to_s3_region: Option<String>,
    /// First commit that must be restorable from the copy [default: the first that leads to --until without a gap]
    #[arg(long, value_name = "CSN")]
    from_csn: Option<u64>,
    /// Last commit: latest, csn:N, or time:RFC3339 (the last commit at or before it)
    #[arg(long, value_name = "TARGET", default_value = "latest")]
    until: String,
    /// Follow this epoch's line of history instead of the newest one's
    #[arg(long, value_name = "N")]
    epoch: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Copies, and prints the report.
pub(crate) fn run(args: Args) -> Done {
    let options = CopyOptions {
        from: args.from_csn.map(Csn),
        until: Target::from_str(&args.until)?,
        epoch: args.epoch.map(Epoch),
        progress: progress::bar(),
    };
    let from = args.archive.open()?;
    let to = open_target(&args)?;
    let report = run_tool(copy(&from, &to, options))?;
    show(&report, &args.to, args.json);
    Ok(())
}

/// Opens the target with its keys. Encrypted data is written in clear only with --to-clear.
fn open_target(args: &Args) -> Result<Archive, Failure> {
    let file = named_file("to-archive-key-file", args.to_archive_key_file.as_deref())?;
    let keys = match args.to_clear {
        true => None,
        false => match KeyRing::configured(file, TO_ARCHIVE_KEY_VARIABLE)? {
            Some(keys) => Some(keys),
            None => args.archive.keys.ring()?,
        },
    };
    let same_url = args.to.trim_end_matches('/') == args.archive.archive.trim_end_matches('/');
    if same_url && args.to_s3_endpoint.is_none() {
        let detail = "is the archive to copy from. Name another archive".to_owned();
        return Err(Error::Config { key: "to".to_owned(), detail }.into());
    }
    let (from, to) = (ArchiveUrl::from_str(&args.archive.archive)?, ArchiveUrl::from_str(&args.to)?);
    to.require_apart_from("to", &from, "the archive to copy from,")?;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let config = Config {
        s3_endpoint: args.to_s3_endpoint.clone().unwrap_or_default(),
        s3_region: args.to_s3_region.clone().unwrap_or_default(),
        s3_access_key_id: variable("WALFERRY_TO_ACCESS_KEY_ID"),
        s3_secret_access_key: variable("WALFERRY_TO_SECRET_ACCESS_KEY"),
        ..Config::default()
    };
    Ok(open_url(&config, &args.to, Opening::Create)?.with_keys(keys))
}

fn show(report: &CopyReport, to: &str, json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(report).expect("a report is plain data"));
        return;
    }
    let (copied, present) = (report.copied, report.present);
    println!("copied   to {to} in {:.3} s; cluster {}, epoch {}", report.seconds, report.cluster, report.epoch);
    println!(
        "range    csn {} .. {}: each of these commits can be restored from it",
        report.range.from, report.range.until
    );
    println!(
        "chunks   {} copied, {} bytes; {} there already, {} bytes",
        copied.chunks, copied.chunk_bytes, present.chunks, present.chunk_bytes
    );
    println!(
        "bases    {}: {} files copied, {} bytes; {} there already, {} bytes",
        report.bases, copied.files, copied.file_bytes, present.files, present.file_bytes
    );
    for skipped in &report.skipped {
        println!("skipped  base {}: {}", skipped.base, skipped.why);
    }
    println!("check it with: walferry verify --archive {to}");
}
