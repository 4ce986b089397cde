//! Recognizes a port for clients where a replication port was expected.

use crate::primary_address::PrimaryAddress;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use walferry::error::Error;

/// Longest duration of the probe.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// Largest number of bytes read of the answer.
const ANSWER_BYTES_MAX: usize = 64;

/// Returns an error that names the mistake if the address is a port for clients. The probe sends PING over a
/// connection of its own. A replication port closes such a connection, and the result is `None`.
pub(crate) async fn port_for_clients(primary: &PrimaryAddress) -> Option<Error> {
    let answer = timeout(PROBE_MAX, answer_to_ping(primary)).await.ok()?.ok()?;
    // The answer to PING is PONG, or an error such as NOAUTH.
    let speaks_resp = answer.starts_with(b"+PONG") || answer.starts_with(b"-");
    let detail = format!(
        "{primary} is a port for clients: it speaks the Redis protocol. Name the primary's replication port, which \
         INFO on this port shows as repl_port (default 6380)"
    );
    speaks_resp.then(|| Error::Config { key: "primary".to_owned(), detail })
}

async fn answer_to_ping(primary: &PrimaryAddress) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((primary.host.as_str(), primary.port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    let len = stream.read(&mut answer).await?;
    Ok(answer[..len].to_vec())
}
