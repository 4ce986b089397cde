//! The address of the primary's replication port, as `--primary` takes it.

use walferry::error::{Error, Result};
use walferry::server::address;

/// The address at which the primary listens for replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryAddress {
    /// Host name or IP address; an IPv6 address has no brackets.
    pub host: String,
    /// Replication port of the primary.
    pub port: u16,
}

impl std::str::FromStr for PrimaryAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match address::host_and_port(text) {
            Some((host, port)) => Ok(Self { host: host.to_owned(), port }),
            None => {
                let detail =
                    format!("'{text}' is not HOST:REPLPORT, such as 10.0.0.1:6380, primary:6380 or [::1]:6380");
                Err(Error::Config { key: "primary".into(), detail })
            }
        }
    }
}

impl std::fmt::Display for PrimaryAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&address::with_port(&self.host, self.port))
    }
}
