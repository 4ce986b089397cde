//! `walferry replica`: follows a primary, serves reads, and can be promoted.

use crate::exit::Done;
use crate::node::{NodeArgs, keys_help};
use crate::panics;
use crate::runtime::run_node;
use walferry::primary::takeover::take_over;
use walferry_replica::PrimaryAddress;

/// Runs a replica
#[derive(clap::Args)]
#[command(after_help = keys_help())]
pub(crate) struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// The primary's replication port
    #[arg(long, value_name = "HOST:REPLPORT")]
    primary: String,
}

/// Runs the replica until SIGTERM, SIGINT or SHUTDOWN.
pub(crate) fn run(args: Args) -> Done {
    panics::end_the_process();
    let config = args.node.config()?;
    let primary: PrimaryAddress = args.primary.parse()?;
    run_node(|ready| walferry_replica::run(&args.node.dir, primary, config, take_over, ready))
}
