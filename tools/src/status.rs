//! `walferry status`: shows the state of a running node or of an archive.

use crate::client::{ReachArgs, info_fields, text};
use crate::exit::Done;
use crate::runtime::runtime;
use crate::{archive, snapshots};
use std::collections::HashMap;
use walferry::clock;
use walferry::history::report::snapshots;

/// Shows the state of a node or an archive
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP, group(clap::ArgGroup::new("what").required(true).args(["port", "archive"])))]
pub(crate) struct Args {
    /// A node, by its port for clients
    #[arg(long)]
    port: Option<u16>,
    #[command(flatten)]
    node: ReachArgs,
    /// An archive: s3://bucket/prefix or file:///dir
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    #[command(flatten)]
    keys: archive::KeyArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the state of the node or of the archive.
pub(crate) fn run(args: Args) -> Done {
    if let Some(url) = &args.archive {
        let archive = archive::open(url, &args.keys)?;
        let report = runtime()?.block_on(snapshots(&archive))?;
        snapshots::show(&report, args.json);
        return Ok(());
    }
    let port = args.port.expect("clap demands one of the two");
    let mut client = args.node.connect(port)?;
    let info = text(&client.call(&["INFO", "replication", "walferry"])?);
    let fields = info_fields(&info);
    if args.json {
        let object: serde_json::Map<_, _> = fields.into_iter().map(|(name, value)| (name, value.into())).collect();
        println!("{}", serde_json::to_string_pretty(&object).expect("texts are plain data"));
        return Ok(());
    }
    in_words(&fields).iter().for_each(|(subject, words)| println!("{subject:<10} {words}"));
    println!();
    for (name, value) in fields {
        println!("{name:<26} {value}");
    }
    Ok(())
}

/// Fields of an INFO reply, by name.
struct Info<'i>(HashMap<&'i str, &'i str>);

impl Info<'_> {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).copied().unwrap_or_default()
    }
}

/// Returns the fields that an operator looks for first, in words: a subject and a statement.
fn in_words(fields: &[(String, String)]) -> Vec<(&'static str, String)> {
    let info = Info(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect());
    let is_primary = info.get("role") == "master";
    let role = if is_primary { "primary" } else { "replica" };
    let (epoch, committed, durable) = (info.get("epoch"), info.get("committed_csn"), info.get("durable_csn"));
    let mut lines = vec![("node", format!("{role} of epoch {epoch}, csn {committed} committed, {durable} durable"))];
    lines.push(match info.get("writes_refused") {
        "" => ("writes", "taken".to_owned()),
        reason => ("writes", format!("REFUSED: {reason}")),
    });
    let ahead_ms: i64 = info.get("clock_ahead_ms").parse().unwrap_or_default();
    if clock::is_step(ahead_ms.saturating_mul(1000)) {
        let (seconds, where_it_is) = (ahead_ms.abs() / 1000, if ahead_ms > 0 { "ahead of" } else { "behind" });
        let advice = "commit times do not follow the clock unless accept-clock-step is yes";
        lines.push(("clock", format!("SET: {seconds} s {where_it_is} commit times; {advice}")));
    }
    if !is_primary {
        let (link, commits, ms) = (info.get("master_link_status"), info.get("lag_commits"), info.get("lag_ms"));
        lines.push(("link", format!("{link} to its primary, {commits} commits and {ms} ms behind")));
    }
    let is_replica = |name: &str| name.strip_prefix("slave").is_some_and(|number| number.parse::<u32>().is_ok());
    let replicas = fields.iter().filter(|(name, _)| is_replica(name));
    lines.extend(replicas.map(|(_, value)| ("replica", value.clone())));
    match info.get("archive") {
        "" => lines.push(("archive", "none: commits that are lost with this machine cannot be restored".to_owned())),
        url => lines.push(("archive", url.to_owned())),
    }
    if !info.get("rpo_ms").is_empty() {
        lines.extend(archive_in_words(&info));
    }
    lines
}

/// Returns what a primary reports about its archive, in words.
fn archive_in_words(info: &Info<'_>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    lines.push(match info.get("restorable_from_csn") {
        "" => ("restorable", "nothing yet".to_owned()),
        from => {
            let at = |time: &str| if time.is_empty() { String::new() } else { format!(" ({time})") };
            let (from_time, until_time) = (at(info.get("restorable_from_time")), at(info.get("restorable_until_time")));
            let until = info.get("restorable_until_csn");
            ("restorable", format!("every commit from csn {from}{from_time} to csn {until}{until_time}"))
        }
    });
    if !info.get("abandoned").is_empty() {
        lines.push(("abandoned", info.get("abandoned").to_owned()));
    }
    let (ms, bytes) = (info.get("rpo_ms"), info.get("spool_bytes"));
    lines.push(("at risk", format!("{ms} ms of commits are not archived; {bytes} bytes in the spool")));
    if !info.get("archive_last_error").is_empty() {
        let failing = if info.get("archive_failures_in_row") == "0" { "last" } else { "FAILING" };
        lines.push(("errors", format!("{failing}: {}", info.get("archive_last_error"))));
    }
    let operations = ["puts", "gets", "heads", "lists", "deletes", "retries", "failures"];
    let counts = operations.map(|operation| format!("{} {operation}", info.get(&format!("archive_{operation}"))));
    lines.push(("requests", counts.join(", ")));
    if info.get("last_base_csn") != "0" {
        let (csn, ms) = (info.get("last_base_csn"), info.get("last_base_took_ms"));
        let (new, shared) = (info.get("last_base_bytes_new"), info.get("last_base_bytes_shared"));
        let pause = info.get("last_base_cut_pause_us");
        lines.push((
            "base",
            format!("csn {csn} in {ms} ms: {new} bytes new, {shared} shared, writers waited {pause} us"),
        ));
    }
    let keep = if info.get("keep").is_empty() { "everything" } else { info.get("keep") };
    let pruned = match (info.get("last_prune_ms"), info.get("last_prune_error")) {
        ("0" | "", _) => "no prune since the start".to_owned(),
        (_, "") => {
            let (objects, bytes) = (info.get("last_prune_objects"), info.get("last_prune_bytes"));
            format!("last prune removed {objects} objects, {bytes} bytes")
        }
        (_, error) => format!("last prune FAILED: {error}"),
    };
    lines.push(("keeps", format!("{keep}; {pruned}")));
    lines
}
