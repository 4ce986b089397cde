//! Answers `GET /metrics`. No other part of HTTP is served.
//!
//! Guarantees: the number of connections, the bytes of a request and the time for a request are bounded. Each
//! connection serves one request.

use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// Connections served at the same time. Further connections wait to be accepted.
const CONNECTIONS_MAX: usize = 8;
/// Bytes of the longest request.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// Time for one request, from the acceptance of its connection to the end of the answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after the system refused to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes the text of an answer.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves requests until `stop` turns true.
pub async fn serve(listener: TcpListener, render: Render, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        // Cancel-safe: both arms only wait.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let render = Arc::clone(&render);
                tokio::spawn(async move {
                    // A client that is too slow, or that leaves, gets no answer.
                    let _ = timeout(REQUEST_DEADLINE, answer(stream, &render)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a metrics connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, render: &Render) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        if request.len() >= REQUEST_BYTES_MAX || stream.read_buf(&mut request).await? == 0 {
            return respond(&mut stream, "400 Bad Request", "text/plain", "send one GET request\n").await;
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    match (words.next(), words.next().map(|path| path.split('?').next().unwrap_or_default())) {
        (Some("GET"), Some("/metrics")) => {
            let render = Arc::clone(render);
            let text = tokio::task::spawn_blocking(move || render()).await.unwrap_or_default();
            respond(&mut stream, "200 OK", crate::metrics::CONTENT_TYPE, &text).await
        }
        (Some("GET"), _) => respond(&mut stream, "404 Not Found", "text/plain", "there is only /metrics\n").await,
        _ => respond(&mut stream, "405 Method Not Allowed", "text/plain", "only GET\n").await,
    }
}

async fn respond(stream: &mut TcpStream, status: &str, content_type: &str, body: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(port: u16, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_metrics_are_served_and_nothing_unbounded_is_read() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = watch::Sender::new(false);
        let serving = tokio::spawn(serve(listener, Arc::new(|| "walferry_epoch 1\n".to_owned()), stop.subscribe()));
        let answer = ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nwalferry_epoch 1\n"),
            "{answer}"
        );
        assert!(answer.contains("version=0.0.4") && answer.contains("Content-Length: 17"), "{answer}");
        assert!(ask(port, b"GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(port, b"POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        assert!(ask(port, &[b'x'; REQUEST_BYTES_MAX]).await.starts_with("HTTP/1.1 400"));
        for _ in 0..CONNECTIONS_MAX * 2 {
            assert!(ask(port, b"GET /metrics?x=1 HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        }
        stop.send_replace(true);
        serving.await.unwrap();
    }
}
