//! `walferry promote`: turns a replica into a primary under a new epoch.

use crate::client::ReachArgs;
use crate::exit::Done;

/// Makes a replica a primary under a new epoch
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// The replica's port for clients
    #[arg(long)]
    port: u16,
    #[command(flatten)]
    node: ReachArgs,
    /// Promote although the replica is not on the archive's newest line, which ends in epoch N: commits of that line
    /// that the replica does not have are then on no line of history
    #[arg(long, value_name = "N")]
    abandon_epoch: Option<u32>,
    /// Promote although the primary has an archive and the replica has none
    #[arg(long)]
    without_archive: bool,
}

/// Promotes the replica and prints the old and the new epoch.
pub(crate) fn run(args: Args) -> Done {
    let mut client = args.node.connect(args.port)?;
    let before = client.call(&["WALFERRY", "CSN"])?;
    let epoch = args.abandon_epoch.map(|epoch| epoch.to_string());
    let mut command = vec!["WALFERRY", "PROMOTE"];
    if let Some(epoch) = &epoch {
        command.extend(["ABANDON-EPOCH", epoch]);
    }
    if args.without_archive {
        command.push("WITHOUT-ARCHIVE");
    }
    client.order(&command)?;
    let after = client.call(&["WALFERRY", "CSN"])?;
    let epoch = |reply: &redis::Value| match reply {
        redis::Value::Array(items) => items.get(1).map(crate::client::text).unwrap_or_default(),
        _ => String::new(),
    };
    println!("epoch {} -> {}: this node is a primary", epoch(&before), epoch(&after));
    Ok(())
}
