//! `walferry status`: shows the state of a running node or of an archive.

use crate::client::{ReachArgs, info_fields, text};
use crate::exit::Done;
use crate::runtime::runtime;
use crate::{archive, snapshots};
use std::collections::HashMap;
use walferry::clock;
use walferry::history::report::snapshots;
use walferry::node::figures::names;

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
    let is_primary = info.get(names::ROLE) == "master";
    let role = if is_primary { "primary" } else { "replica" };
    let (epoch, committed, durable) =
        (info.get(names::EPOCH), info.get(names::COMMITTED_CSN), info.get(names::DURABLE_CSN));
    let mut lines = vec![("node", format!("{role} of epoch {epoch}, csn {committed} committed, {durable} durable"))];
    lines.push(match info.get(names::WRITES_REFUSED) {
        "" => ("writes", "taken".to_owned()),
        reason => ("writes", format!("REFUSED: {reason}")),
    });
    let ahead_ms: i64 = info.get(names::CLOCK_AHEAD_MS).parse().unwrap_or_default();
    if clock::is_step(ahead_ms.saturating_mul(1000)) {
        let (seconds, where_it_is) = (ahead_ms.abs() / 1000, if ahead_ms > 0 { "ahead of" } else { "behind" });
        let advice = "commit times do not follow the clock unless accept-clock-step is yes";
        lines.push(("clock", format!("SET: {seconds} s {where_it_is} commit times; {advice}")));
    }
    if !is_primary {
        let (link, commits, ms) = (info.get(names::LINK_STATUS), info.get(names::LAG_COMMITS), info.get(names::LAG_MS));
        lines.push(("link", format!("{link} to its primary, {commits} commits and {ms} ms behind")));
    }
    let is_replica = |name: &str| name.strip_prefix(names::REPLICA).is_some_and(|number| number.parse::<u32>().is_ok());
    let replicas = fields.iter().filter(|(name, _)| is_replica(name));
    lines.extend(replicas.map(|(_, value)| ("replica", value.clone())));
    match info.get(names::ARCHIVE) {
        "" => lines.push(("archive", "none: commits that are lost with this machine cannot be restored".to_owned())),
        url => lines.push(("archive", url.to_owned())),
    }
    if !info.get(names::RPO_MS).is_empty() {
        lines.extend(archive_in_words(&info));
    }
    lines
}

/// Returns what a primary reports about its archive, in words.
fn archive_in_words(info: &Info<'_>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    lines.push(match info.get(names::RESTORABLE_FROM_CSN) {
        "" => ("restorable", "nothing yet".to_owned()),
        from => {
            let at = |time: &str| if time.is_empty() { String::new() } else { format!(" ({time})") };
            let (from_time, until_time) =
                (at(info.get(names::RESTORABLE_FROM_TIME)), at(info.get(names::RESTORABLE_UNTIL_TIME)));
            let until = info.get(names::RESTORABLE_UNTIL_CSN);
            ("restorable", format!("every commit from csn {from}{from_time} to csn {until}{until_time}"))
        }
    });
    if !info.get(names::ABANDONED).is_empty() {
        lines.push(("abandoned", info.get(names::ABANDONED).to_owned()));
    }
    let (ms, bytes) = (info.get(names::RPO_MS), info.get(names::SPOOL_BYTES));
    lines.push(("at risk", format!("{ms} ms of commits are not archived; {bytes} bytes in the spool")));
    if !info.get(names::ARCHIVE_LAST_ERROR).is_empty() {
        let failing = if info.get(names::ARCHIVE_FAILURES_IN_ROW) == "0" { "last" } else { "FAILING" };
        lines.push(("errors", format!("{failing}: {}", info.get(names::ARCHIVE_LAST_ERROR))));
    }
    let operations = [
        (names::ARCHIVE_PUTS, "puts"),
        (names::ARCHIVE_GETS, "gets"),
        (names::ARCHIVE_HEADS, "heads"),
        (names::ARCHIVE_LISTS, "lists"),
        (names::ARCHIVE_DELETES, "deletes"),
        (names::ARCHIVE_RETRIES, "retries"),
        (names::ARCHIVE_FAILURES, "failures"),
    ];
    let counts = operations.map(|(field, operation)| format!("{} {operation}", info.get(field)));
    lines.push(("requests", counts.join(", ")));
    if info.get(names::LAST_BASE_CSN) != "0" {
        let (csn, ms) = (info.get(names::LAST_BASE_CSN), info.get(names::LAST_BASE_TOOK_MS));
        let (new, shared) = (info.get(names::LAST_BASE_BYTES_NEW), info.get(names::LAST_BASE_BYTES_SHARED));
        let pause = info.get(names::LAST_BASE_CUT_PAUSE_US);
        lines.push((
            "base",
            format!("csn {csn} in {ms} ms: {new} bytes new, {shared} shared, writers waited {pause} us"),
        ));
    }
    let keep = if info.get(names::KEEP).is_empty() { "everything" } else { info.get(names::KEEP) };
    let pruned = match (info.get(names::LAST_PRUNE_MS), info.get(names::LAST_PRUNE_ERROR)) {
        ("0" | "", _) => "no prune since the start".to_owned(),
        (_, "") => {
            let (objects, bytes) = (info.get(names::LAST_PRUNE_OBJECTS), info.get(names::LAST_PRUNE_BYTES));
            format!("last prune removed {objects} objects, {bytes} bytes")
        }
        (_, error) => format!("last prune FAILED: {error}"),
    };
    lines.push(("keeps", format!("{keep}; {pruned}")));
    lines
}
