//! Finds out which program listens on a port that does not answer like a replication port.

use crate::PrimaryAddress;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use walferry::error::Error;

/// How long the probe may take.
const PROBE_MAX: Duration = Duration::from_secs(2);
/// Longest beginning of an answer that is looked at.
const ANSWER_BYTES_MAX: usize = 64;

/// An error that says so, if a port for clients listens at the address: a connection of its own sends PING there. A
/// replication port ends such a connection.
pub async fn port_for_clients(primary: &PrimaryAddress) -> Option<Error> {
    let answer = timeout(PROBE_MAX, answer_to_ping(primary)).await.ok()?.ok()?;
    // PONG, or an error such as NOAUTH.
    let speaks_resp = answer.starts_with(b"+PONG") || answer.starts_with(b"-");
    let detail = format!(
        "{primary} is a port for clients: it speaks the Redis protocol. Name the primary's replication port (its repl-port, \
         6380 unless it was set; INFO there tells it as repl_port)"
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
