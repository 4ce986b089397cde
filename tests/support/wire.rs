//! Replication messages read and written by hand, so that a test can be a peer, or an intercepting proxy.
//!
//! ```text
//! length u32 | crc32 u32 | kind u8 | body        length and CRC cover kind and body; little endian
//! ```

use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub(crate) const CHALLENGE: u8 = 1;
pub(crate) const HELLO: u8 = 2;
pub(crate) const RESUME: u8 = 3;
pub(crate) const GO_TO_ARCHIVE: u8 = 4;
pub(crate) const BASE_BEGIN: u8 = 5;
pub(crate) const BASE_FILE: u8 = 6;
pub(crate) const BASE_PART: u8 = 7;
pub(crate) const BASE_END: u8 = 8;
pub(crate) const CHUNK: u8 = 9;
pub(crate) const HEARTBEAT: u8 = 10;
pub(crate) const ACK: u8 = 11;
pub(crate) const REFUSE: u8 = 12;

/// Offsets in a chunk's header, from `src/chunk/FORMAT.md`.
pub(crate) mod chunk {
    pub(crate) const EPOCH: usize = 12;
    pub(crate) const FIRST: usize = 16;
    pub(crate) const LAST: usize = 24;
    pub(crate) const FIRST_TIME: usize = 32;
    pub(crate) const LAST_TIME: usize = 40;
    pub(crate) const HASH_BEFORE: usize = 64;
    pub(crate) const CRC: usize = 224;
}

const HEAD: usize = 8;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// The kind of message.
    pub kind: u8,
    /// JSON, or raw bytes.
    pub body: Vec<u8>,
}

impl Frame {
    /// Creates a control message.
    pub(crate) fn json(kind: u8, fields: &Value) -> Self {
        Self { kind, body: fields.to_string().into_bytes() }
    }

    /// Returns the fields of a control message.
    #[track_caller]
    pub(crate) fn fields(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a control message is JSON")
    }

    /// Returns the control message with some fields changed.
    pub(crate) fn with(&self, changes: Value) -> Self {
        let mut fields = self.fields();
        let Value::Object(changes) = changes else { panic!("fields to change are an object") };
        changes.into_iter().for_each(|(name, value)| fields[name] = value);
        Self::json(self.kind, &fields)
    }

    /// Returns the chunk with a header field changed and its CRC repaired.
    pub(crate) fn with_header(&self, at: usize, field: &[u8]) -> Self {
        let mut body = self.body.clone();
        body[at..at + field.len()].copy_from_slice(field);
        let crc = crc32fast::hash(&body[..chunk::CRC]);
        body[chunk::CRC..chunk::CRC + 4].copy_from_slice(&crc.to_le_bytes());
        Self { kind: self.kind, body }
    }

    /// Encodes the message.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut content = vec![self.kind];
        content.extend_from_slice(&self.body);
        let mut out = (content.len() as u32).to_le_bytes().to_vec();
        out.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
        out.extend_from_slice(&content);
        out
    }

    /// Sends the message.
    pub(crate) fn send(&self, mut to: &TcpStream) -> io::Result<()> {
        to.write_all(&self.encode())
    }

    /// Receives the next message; an error at the end of the connection.
    pub(crate) fn receive(mut from: &TcpStream) -> io::Result<Self> {
        let mut head = [0; HEAD];
        from.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let mut content = vec![0; length];
        from.read_exact(&mut content)?;
        assert_eq!(crc32fast::hash(&content).to_le_bytes(), head[4..], "the peer sends a CRC that fits");
        Ok(Self { kind: content[0], body: content.split_off(1) })
    }
}

/// A connection to a replication port, as a replica opens it.
pub(crate) struct FakeReplica {
    /// The connection.
    pub stream: TcpStream,
    /// The primary's first message.
    pub challenge: Frame,
}

impl FakeReplica {
    /// Connects and waits for the challenge.
    #[track_caller]
    pub(crate) fn connect(repl_port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", repl_port)).expect("the replication port accepts a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let challenge = Frame::receive(&stream).expect("the primary speaks first");
        assert_eq!(challenge.kind, CHALLENGE);
        Self { stream, challenge }
    }

    /// Sends a message; ignores an error.
    pub(crate) fn send(&self, frame: &Frame) {
        let _ = frame.send(&self.stream);
    }

    /// Waits until the primary closes the connection; returns the last refusal, or an empty text.
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        let mut reason = String::new();
        loop {
            match Frame::receive(&self.stream) {
                Ok(frame) if frame.kind == REFUSE => reason = frame.fields()["reason"].to_string(),
                Ok(_) => {}
                Err(error) => {
                    let is_silent = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                    assert!(!is_silent, "the primary does not close the connection");
                    return reason;
                }
            }
        }
    }

    /// Waits for a message of a kind.
    #[track_caller]
    pub(crate) fn await_kind(&self, kind: u8) -> Frame {
        loop {
            let frame = Frame::receive(&self.stream).expect("the primary goes on");
            if frame.kind == kind {
                return frame;
            }
        }
    }
}

/// Returns the introduction of an empty replica.
pub(crate) fn hello() -> Frame {
    Frame::json(
        HELLO,
        &json!({
            "version": 2, "cluster": null, "node": "0123456789abcdef", "epoch": 1, "incarnation": "0".repeat(16),
            "csn": 0, "hash": "0".repeat(16), "time": 0, "has_archive": true, "port": 1, "nonce": "nonce", "proof": "",
        }),
    )
}

/// Returns an acknowledgement.
pub(crate) fn ack(applied: u64, durable: u64) -> Frame {
    Frame::json(ACK, &json!({ "applied": applied, "durable": durable }))
}
