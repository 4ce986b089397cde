//! `walferry replica`: follows a primary, serves reads, and can be promoted.

use crate::exit::Done;
use crate::node::{NodeArgs, keys_help, runtime, stop_on_signals};
use walferry::command::host::Host;
use walferry_replica::PrimaryAddress;

/// Runs a replica
#[derive(clap::Args)]
#[command(after_help = keys_help())]
pub struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// The primary's replication port
    #[arg(long, value_name = "HOST:REPLPORT")]
    primary: String,
}

/// Runs until SIGTERM, SIGINT or SHUTDOWN.
pub fn run(args: Args) -> Done {
    let config = args.node.config()?;
    let primary: PrimaryAddress = args.primary.parse()?;
    runtime()?.block_on(async {
        walferry_replica::run(&args.node.dir, primary, config, |node| {
            if let Err(error) = stop_on_signals(node) {
                tracing::warn!(%error, "signals cannot be handled; stop with SHUTDOWN");
            }
            let config = node.config();
            tracing::info!(
                bind = config.bind,
                port = config.port,
                primary = args.primary,
                archive = config.archive,
                "ready"
            );
        })
        .await?;
        Ok(())
    })
}
