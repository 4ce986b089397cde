//! `walferry status`: how a running node, or an archive, is doing.

use crate::client::{Client, info_fields, text};
use crate::exit::Done;
use crate::node::runtime;
use crate::{archive, snapshots};
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
    #[command(flatten)]
    keys: archive::KeyArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Shows.
pub fn run(args: Args) -> Done {
    if let Some(url) = &args.archive {
        let archive = archive::open(url, &args.keys)?;
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
    for (name, value) in fields {
        println!("{name:<26} {value}");
    }
    Ok(())
}
