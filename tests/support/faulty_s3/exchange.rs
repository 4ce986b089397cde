//! One request and its reply, with the fault that the request meets.

use super::Shared;
use super::faults::{Fault, Kind};
use crate::support::http::{Message, read_response};
use std::io::{self, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Time limit for the real server.
const BACKEND_WITHIN: Duration = Duration::from_secs(60);
/// Number of pieces per second in which a throttled reply is sent.
const PIECES_PER_SECOND: u32 = 20;
/// ETag in the reply to an upload that is not stored.
const PRETENDED_ETAG: &str = "\"0123456789abcdef0123456789abcdef\"";

/// The page that a proxy sends with status 200 when it cannot reach the store.
const PAGE: &str = "<html><body>The service is being restarted</body></html>";

/// A request of a client.
pub(super) struct Exchange<'a> {
    pub shared: &'a Shared,
    pub client: &'a TcpStream,
    pub kind: Kind,
    pub request: &'a Message,
}

impl Exchange<'_> {
    /// Replies to the request, or closes the connection with an error.
    pub(super) fn run(&self, fault: Fault) -> io::Result<()> {
        match fault {
            Fault::None => self.answer(&self.forward()?),
            Fault::DropRequest => Err(ended()),
            Fault::LoseReply => self.forward().and(Err(ended())),
            Fault::Status(status) => self.answer(&refusal(status, "InternalError", None)),
            Fault::SlowDown { retry_after_s } => self.answer(&refusal(503, "SlowDown", Some(retry_after_s))),
            Fault::Hang(at_most) => {
                self.shared.hang(at_most);
                Err(ended())
            }
            Fault::Slow(pause) => {
                self.shared.hang(pause);
                self.answer(&self.forward()?)
            }
            Fault::Throttle { bytes_per_second } => self.trickle(&self.forward()?, bytes_per_second),
            Fault::CutUpload => self.cut_upload().and(Err(ended())),
            Fault::StoreHalf => self.answer(&self.store_half()?),
            Fault::StoreHalfLoseReply => self.store_half().and(Err(ended())),
            Fault::Pretend => self.answer(&self.pretended()),
            Fault::Deny => self.answer(&refusal(404, "NoSuchKey", None)),
            Fault::FlipBit(bit) => self.answer(&flipped(self.forward()?, bit)),
            Fault::Page => self.answer(&answered_with(PAGE)),
            Fault::Empty => self.answer(&answered_with("")),
            Fault::CutBody => self.cut_body(&self.forward()?),
            Fault::Stale { newest } => self.answer(&self.without_newest(self.forward()?, newest)),
        }
    }

    fn answer(&self, response: &Message) -> io::Result<()> {
        let mut client = self.client;
        match self.kind {
            // The headers announce a body that is not sent.
            Kind::Head => client.write_all(&response.head()),
            _ => response.send(&mut client),
        }
    }

    /// Forwards the request to the real server.
    fn forward(&self) -> io::Result<Message> {
        let response = self.ask(self.request)?;
        self.note_stored(&response);
        Ok(response)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let backend = TcpStream::connect(("127.0.0.1", self.shared.backend_port))?;
        backend.set_nodelay(true)?;
        backend.set_read_timeout(Some(BACKEND_WITHIN))?;
        Ok(backend)
    }

    /// Each request uses a new connection: a connection that the server closed meanwhile must not look like a fault.
    fn ask(&self, request: &Message) -> io::Result<Message> {
        let mut backend = self.connect()?;
        request.send(&mut backend)?;
        read_response(&mut BufReader::new(backend), request.word(0))
    }

    /// Records stored objects for stale listings. Pins of readers are temporary and do not count.
    fn note_stored(&self, response: &Message) {
        let (path, query) = self.request.word(1).split_once('?').unwrap_or((self.request.word(1), ""));
        let stores = self.kind == Kind::Put || self.kind == Kind::Multipart && query.contains("uploadId=");
        if stores && response.word(1) == "200" && !path.contains("/pins/") {
            let key = path.trim_start_matches('/').to_owned();
            let mut stored = self.shared.stored.lock().unwrap();
            stored.retain(|other| *other != key);
            stored.push(key);
        }
    }

    fn cut_upload(&self) -> io::Result<()> {
        let mut backend = self.connect()?;
        backend.write_all(&self.request.head())?;
        backend.write_all(&self.request.body[..self.request.body.len() / 2])
    }

    /// Stores half of the body with a separate unsigned request, because the client's signature covers the whole body.
    fn store_half(&self) -> io::Result<Message> {
        let half = self.request.body[..self.request.body.len() / 2].to_vec();
        let mut lines = vec![self.request.lines[0].clone(), "Host: 127.0.0.1".to_owned()];
        lines.extend(self.request.header("if-none-match").map(|value| format!("If-None-Match: {value}")));
        let mut request = Message { lines, body: Vec::new() };
        request.set_body(half);
        let response = self.ask(&request)?;
        self.note_stored(&response);
        Ok(response)
    }

    fn pretended(&self) -> Message {
        let mut response =
            Message { lines: vec!["HTTP/1.1 200 OK".to_owned(), format!("ETag: {PRETENDED_ETAG}")], body: Vec::new() };
        let body = match self.kind {
            Kind::Multipart if self.request.word(1).contains("uploadId=") => {
                format!("<CompleteMultipartUploadResult><ETag>{PRETENDED_ETAG}</ETag></CompleteMultipartUploadResult>")
            }
            Kind::Multipart => {
                "<InitiateMultipartUploadResult><UploadId>pretended</UploadId></InitiateMultipartUploadResult>"
                    .to_owned()
            }
            _ => String::new(),
        };
        response.set_body(body.into_bytes());
        response
    }

    fn trickle(&self, response: &Message, bytes_per_second: u32) -> io::Result<()> {
        let mut client = self.client;
        client.write_all(&response.head())?;
        for piece in response.body.chunks((bytes_per_second / PIECES_PER_SECOND).max(1) as usize) {
            client.write_all(piece)?;
            self.shared.hang(Duration::from_secs(1) / PIECES_PER_SECOND);
        }
        Ok(())
    }

    fn cut_body(&self, response: &Message) -> io::Result<()> {
        let mut client = self.client;
        client.write_all(&response.head())?;
        client.write_all(&response.body[..response.body.len() / 2])?;
        Err(ended())
    }

    fn without_newest(&self, mut response: Message, newest: usize) -> Message {
        let stored = self.shared.stored.lock().unwrap();
        let left_out = &stored[stored.len().saturating_sub(newest)..];
        let bucket = self.request.word(1).trim_start_matches('/').split(['/', '?']).next().unwrap_or_default();
        let is_left_out = |entry: &str| {
            let key = entry.split_once("<Key>").and_then(|(_, rest)| rest.split_once("</Key>"));
            key.is_some_and(|(key, _)| left_out.contains(&format!("{bucket}/{key}")))
        };
        let listing = String::from_utf8_lossy(&response.body);
        let mut entries = listing.split("<Contents>");
        let mut kept = entries.next().unwrap_or_default().to_owned();
        for entry in entries {
            let (entry, rest) = entry.split_once("</Contents>").unwrap_or((entry, ""));
            if !is_left_out(entry) {
                kept += &format!("<Contents>{entry}</Contents>");
            }
            kept += rest;
        }
        let kept = kept.into_bytes();
        response.set_body(kept);
        response
    }
}

fn ended() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

fn refusal(status: u16, code: &str, retry_after_s: Option<u32>) -> Message {
    let mut lines = vec![format!("HTTP/1.1 {status} Injected"), "Content-Type: application/xml".to_owned()];
    lines.extend(retry_after_s.map(|seconds| format!("Retry-After: {seconds}")));
    let mut response = Message { lines, body: Vec::new() };
    response.set_body(format!("<Error><Code>{code}</Code><Message>injected</Message></Error>").into_bytes());
    response
}

/// Returns a success with the headers of an object.
fn answered_with(body: &str) -> Message {
    let lines =
        ["HTTP/1.1 200 OK", "Content-Type: text/html", "ETag: \"0\"", "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT"];
    let mut response = Message { lines: lines.map(str::to_owned).to_vec(), body: Vec::new() };
    response.set_body(body.as_bytes().to_vec());
    response
}

/// Flips one bit of the body, if the response is a success and has a body.
fn flipped(mut response: Message, bit: usize) -> Message {
    if response.word(1).starts_with('2') && !response.body.is_empty() {
        let bit = bit % (response.body.len() * 8);
        response.body[bit / 8] ^= 1 << (bit % 8);
    }
    response
}
