//! `walferry keygen`: generates a key for an encrypted archive.

use crate::exit::Done;
use walferry::archive::crypt::keys::{Key, KeyId};

/// Prints a new line for a key file
#[derive(clap::Args)]
#[command(after_help = crate::exit::HELP)]
pub(crate) struct Args {
    /// Name of the key: 1 to 32 letters, digits, '.', '_', '-' [default: a random one]
    #[arg(long)]
    id: Option<String>,
}

/// Generates a key and prints its line.
pub(crate) fn run(args: Args) -> Done {
    let id = args.id.map(|id| id.parse::<KeyId>()).transpose()?;
    println!("{}", Key::generate(id)?.line());
    Ok(())
}
