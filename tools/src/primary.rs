//! `walferry primary`: serves clients and ships to replicas and to the archive.

use crate::exit::Done;
use crate::node::{NodeArgs, keys_help};
use crate::panics;
use crate::runtime::run_node;

/// Runs a primary
#[derive(clap::Args)]
#[command(after_help = keys_help())]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
}

/// Runs the primary until SIGTERM, SIGINT or SHUTDOWN.
pub(crate) fn run(args: Args) -> Done {
    panics::end_the_process();
    let config = args.node.config()?;
    run_node(|ready| walferry::primary::run(&args.node.dir, config, ready))
}
