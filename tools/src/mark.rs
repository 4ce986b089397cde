//! `walferry mark`: gives the current state a name for a later restore.

use crate::client::{ReachArgs, text};
use crate::exit::Done;

/// Creates a mark: a name by which the present state can be restored later
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// The primary's port for clients
    #[arg(long)]
    port: u16,
    #[command(flatten)]
    node: ReachArgs,
    /// 1 to 128 letters, digits, '.', '_' or '-', not beginning with a dot
    name: String,
}

/// Writes the mark and prints its csn.
pub(crate) fn run(args: Args) -> Done {
    let mut client = args.node.connect(args.port)?;
    let csn = client.order(&["WALFERRY", "MARK", &args.name])?;
    println!("mark {} is csn {}; restore it with --to mark:{}", args.name, text(&csn), args.name);
    Ok(())
}
