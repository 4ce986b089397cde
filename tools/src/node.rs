//! The options that `primary` and `replica` share.

use crate::archive::named_file;
use crate::exit::Failure;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use walferry::config::{Config, When};
use walferry::error::Error;
use walferry::io::Choice;
use walferry::node::running::Node;

/// Options of a node.
#[derive(clap::Args)]
pub(crate) struct NodeArgs {
    /// Data directory; created if it does not exist
    #[arg(long)]
    pub dir: PathBuf,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long)]
    bind: Option<String>,
    /// Port for clients [default: 6379]
    #[arg(long)]
    port: Option<u16>,
    /// Port for replicas; a replica opens it when it is promoted [default: 6380]
    #[arg(long)]
    repl_port: Option<u16>,
    /// Port of Prometheus metrics (GET /metrics) [default: none]
    #[arg(long)]
    metrics_port: Option<u16>,
    /// Archive: s3://bucket/prefix or file:///dir. S3 settings come from the AWS_* environment and ~/.aws
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// Keys that encrypt the archive, one ID HEX64 a line, the first for new objects [default: those in
    /// WALFERRY_ARCHIVE_KEY, else no encryption]
    #[arg(long, value_name = "FILE")]
    archive_key_file: Option<String>,
    /// Settings in a TOML file, one KEY = VALUE a line
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// One setting; may be repeated and wins over the file
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl NodeArgs {
    /// Returns the effective settings: defaults, then the file, then `--set`, then the options with names of their
    /// own; later ones win.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let mut config = Config::default();
        if let Some(path) = &self.config {
            let text = std::fs::read_to_string(path).map_err(|error| Error::Config {
                key: path.display().to_string(),
                detail: format!("cannot be read: {error}"),
            })?;
            config.set_toml(&text)?;
        }
        for pair in &self.set {
            require_key_file(pair)?;
            config.set_pair(pair)?;
        }
        let port = |port: Option<u16>| port.map(|port| port.to_string());
        let named = [
            ("bind", self.bind.clone()),
            ("port", port(self.port)),
            ("repl-port", port(self.repl_port)),
            ("metrics-port", port(self.metrics_port)),
            ("archive", self.archive.clone()),
        ];
        for (key, value) in named {
            value.map_or(Ok(()), |value| config.set(key, &value))?;
        }
        if let Some(file) = &self.archive_key_file {
            config.archive_key_file = named_file("archive-key-file", Some(file))?.to_owned();
        }
        // Checked here, before the data directory is touched.
        Choice::from_str(&config.io_backend)?;
        Ok(config)
    }
}

/// Refuses a setting whose key file has an empty name.
fn require_key_file(pair: &str) -> Result<(), Failure> {
    match pair.split_once('=') {
        Some((key, value)) if key.trim().ends_with("-key-file") => named_file(key.trim(), Some(value)).map(drop),
        _ => Ok(()),
    }
}

/// Returns the list of configuration keys for `--help`.
pub(crate) fn keys_help() -> String {
    let mut help =
        "Configuration keys (--set KEY=VALUE, or in --config FILE.toml; * may change while running, by CONFIG SET):\n"
            .to_owned();
    let defaults = Config::default();
    for doc in Config::KEYS {
        let star = if doc.when == When::Running { '*' } else { ' ' };
        let default = defaults
            .get(doc.name)
            .filter(|value| !value.is_empty())
            .map_or_else(String::new, |value| format!(" [default: {value}]"));
        help.push_str(&format!(" {star} {:<26} {}{default}\n", doc.name, doc.doc));
    }
    help + "\n" + crate::exit::HELP
}

/// Logs that the node serves clients.
pub(crate) fn announce(node: &Arc<Node>) {
    let config = node.core.config();
    tracing::info!(bind = config.bind, port = config.port.0, archive = config.archive, "ready");
}
