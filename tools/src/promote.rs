//! `walferry promote`: a replica becomes a primary under a new epoch.

use crate::client::Client;
use crate::exit::Done;

/// Makes a replica a primary under a new epoch
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub struct Args {
    /// The replica's port for clients, on this machine
    #[arg(long)]
    port: u16,
}

/// Promotes.
pub fn run(args: Args) -> Done {
    let mut client = Client::connect(args.port)?;
    let before = client.call(&["WALFERRY", "CSN"])?;
    client.call(&["REPLICAOF", "NO", "ONE"])?;
    let after = client.call(&["WALFERRY", "CSN"])?;
    let epoch = |reply: &redis::Value| match reply {
        redis::Value::Array(items) => items.get(1).map(crate::client::text).unwrap_or_default(),
        _ => String::new(),
    };
    println!("epoch {} -> {}: this node is a primary now", epoch(&before), epoch(&after));
    Ok(())
}
