//! HTTP/1.1 messages as bytes, as far as an S3 client and an S3 server need them.
//!
//! Heads are forwarded unchanged, because requests are signed. A body with chunked encoding is returned as a whole.

use std::io::{self, BufRead, Read, Write};

/// Longest head in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A request or a response.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The first line and the headers, each line without its end.
    pub lines: Vec<String>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Message {
    /// Returns the value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.lines[1..].iter().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// Returns word `nth` of the first line: a request's method and target, or a response's version and status.
    pub(crate) fn word(&self, nth: usize) -> &str {
        self.lines[0].split(' ').nth(nth).unwrap_or_default()
    }

    /// Replaces the body and the headers that state its length.
    pub(crate) fn set_body(&mut self, body: Vec<u8>) {
        let tells_length = |line: &String| {
            let name = line.split(':').next().unwrap_or_default();
            name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
        };
        self.lines.retain(|line| !tells_length(line));
        self.lines.push(format!("Content-Length: {}", body.len()));
        self.body = body;
    }

    /// Returns the bytes of the head.
    pub(crate) fn head(&self) -> Vec<u8> {
        let mut head = self.lines.join("\r\n").into_bytes();
        head.extend_from_slice(b"\r\n\r\n");
        head
    }

    /// Sends the whole message.
    pub(crate) fn send(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.head())?;
        to.write_all(&self.body)?;
        to.flush()
    }
}

/// Reads the next request of a connection; `None` if the client closed it.
pub(crate) fn read_request(from: &mut impl BufRead) -> io::Result<Option<Message>> {
    let Some(lines) = read_head(from)? else { return Ok(None) };
    let mut request = Message { lines, body: Vec::new() };
    request.body = read_body(from, &request, false)?;
    Ok(Some(request))
}

/// Reads the response to a request with this method.
pub(crate) fn read_response(from: &mut impl BufRead, method: &str) -> io::Result<Message> {
    let lines = read_head(from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut response = Message { lines, body: Vec::new() };
    let has_body = method != "HEAD" && !matches!(response.word(1), "204" | "304");
    if has_body {
        let is_chunked = response.header("transfer-encoding").is_some();
        let body = read_body(from, &response, true)?;
        if is_chunked {
            response.set_body(body);
        } else {
            response.body = body;
        }
    }
    Ok(response)
}

fn read_head(from: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut lines = Vec::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        let read = from.take((HEAD_BYTES_MAX - length) as u64).read_line(&mut line)?;
        if read == 0 {
            return if lines.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        length += read;
        match line.trim_end_matches(['\r', '\n']) {
            "" if lines.is_empty() => {}
            "" => return Ok(Some(lines)),
            line => lines.push(line.to_owned()),
        }
    }
}

/// Reads a body by its length, by its chunks, or, in a response, up to the end of the connection.
fn read_body(from: &mut impl BufRead, message: &Message, may_end_with_connection: bool) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if message.header("transfer-encoding").is_some() {
        while read_chunk(from, &mut body)? {}
    } else if let Some(length) = message.header("content-length") {
        body.resize(length.parse().map_err(|_| io::ErrorKind::InvalidData)?, 0);
        from.read_exact(&mut body)?;
    } else if may_end_with_connection {
        from.read_to_end(&mut body)?;
    }
    Ok(body)
}

/// Appends one chunk; returns false after the last chunk.
fn read_chunk(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<bool> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    let size = line.trim().split(';').next().unwrap_or_default();
    let size = usize::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
    let start = body.len();
    body.resize(start + size, 0);
    from.read_exact(&mut body[start..])?;
    from.read_line(&mut line)?;
    Ok(size > 0)
}
