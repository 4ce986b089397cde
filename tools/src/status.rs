//! `walferry status`: how a running node, or an archive, is doing.

use crate::client::{Client, info_fields, text};
use crate::exit::Done;
use crate::node::runtime;
use crate::{archive, snapshots};
use std::collections::HashMap;
use walferry::restore;

/// Shows how a node or an archive is doing
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP, group(clap::ArgGroup::new("what").required(true).args(["port", "archive"])))]
pub struct Args {
    /// A node on this machine, by its port for clients
    #[arg(long)]
    port: Option<u16>,
    /// An archive: s3://bucket/prefix or file:///dir
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows.
pub fn run(args: Args) -> Done {
    if let Some(url) = &args.archive {
        let archive = archive::open(url)?;
        let report = runtime()?.block_on(restore::snapshots(&archive))?;
        snapshots::show(&report, args.json);
        return Ok(());
    }
    let port = args.port.expect("clap demands one of the two");
    let mut client = Client::connect(port)?;
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

/// The fields an operator looks for first, in words.
fn in_words(fields: &[(String, String)]) -> Vec<(&'static str, String)> {
    let by_name: HashMap<&str, &str> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let get = |name: &str| by_name.get(name).copied().unwrap_or_default();
    let mut lines = Vec::new();
    let role = if get("role") == "master" { "primary" } else { "replica" };
    lines.push((
        "node",
        format!(
            "{role} of epoch {}, csn {} committed, {} durable",
            get("epoch"),
            get("committed_csn"),
            get("durable_csn")
        ),
    ));
    lines.push(match get("writes_refused") {
        "" => ("writes", "taken".to_owned()),
        reason => ("writes", format!("REFUSED: {reason}")),
    });
    if role == "replica" {
        let link = (get("master_link_status"), get("lag_commits"), get("lag_ms"));
        lines.push(("link", format!("{} to its primary, {} commits and {} ms behind", link.0, link.1, link.2)));
    }
    for (name, value) in
        fields.iter().filter(|(name, _)| name.strip_prefix("slave").is_some_and(|rest| rest.parse::<u32>().is_ok()))
    {
        lines.push(("replica", format!("{}: {value}", &name["slave".len()..])));
    }
    if get("archive").is_empty() {
        lines.push(("archive", "none: what is lost with this machine is lost".to_owned()));
        return lines;
    }
    lines.push(("archive", get("archive").to_owned()));
    if get("rpo_ms").is_empty() {
        return lines;
    }
    lines.push(match get("restorable_from_csn") {
        "" => ("restorable", "nothing yet".to_owned()),
        from => (
            "restorable",
            format!(
                "every commit from csn {from} {} to csn {} {}",
                get("restorable_from_time"),
                get("restorable_until_csn"),
                get("restorable_until_time")
            ),
        ),
    });
    lines.push((
        "at risk",
        format!("{} ms of commits are not archived; {} bytes in the spool", get("rpo_ms"), get("spool_bytes")),
    ));
    if !get("archive_last_error").is_empty() {
        let failing = if get("archive_failures_in_row") == "0" { "last" } else { "FAILING" };
        lines.push(("errors", format!("{failing}: {}", get("archive_last_error"))));
    }
    let operations = ["puts", "gets", "heads", "lists", "deletes", "retries", "failures"];
    let counts = operations.map(|operation| format!("{} {operation}", get(&format!("archive_{operation}"))));
    lines.push(("requests", counts.join(", ")));
    if get("last_base_csn") != "0" {
        lines.push((
            "base",
            format!(
                "csn {} in {} ms: {} bytes new, {} shared, writers waited {} us",
                get("last_base_csn"),
                get("last_base_ms"),
                get("last_base_bytes_new"),
                get("last_base_bytes_shared"),
                get("last_base_cut_pause_us")
            ),
        ));
    }
    let keep = if get("keep").is_empty() { "everything" } else { get("keep") };
    let pruned = match (get("last_prune_ms"), get("last_prune_error")) {
        ("0" | "", _) => "no prune since the start".to_owned(),
        (_, "") => {
            format!("last prune removed {} objects, {} bytes", get("last_prune_objects"), get("last_prune_bytes"))
        }
        (_, error) => format!("last prune FAILED: {error}"),
    };
    lines.push(("keeps", format!("{keep}; {pruned}")));
    lines
}
