//! `walferry primary`: serves clients, ships to replicas and to the archive.

use crate::exit::Done;
use crate::node::{NodeArgs, keys_help, runtime, stop_on_signals};
use walferry::command::host::Host;

/// Runs a primary
#[derive(clap::Args)]
#[command(after_help = keys_help())]
pub struct Args {
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs until SIGTERM, SIGINT or SHUTDOWN.
pub fn run(args: Args) -> Done {
    let config = args.node.config()?;
    runtime()?.block_on(async {
        walferry::primary::run(&args.node.dir, config, |node| {
            if let Err(error) = stop_on_signals(node) {
                tracing::warn!(%error, "signals cannot be handled; stop with SHUTDOWN");
            }
            let config = node.config();
            tracing::info!(
                bind = config.bind,
                port = config.port,
                repl_port = config.repl_port,
                archive = config.archive,
                "ready"
            );
        })
        .await?;
        Ok(())
    })
}
