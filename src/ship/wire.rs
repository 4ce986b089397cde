//! The replication protocol: how the [`super::message`]s between a primary's feed and a replica's link are sent.
//!
//! ```text
//! length u32 | crc32 u32 | kind u8 | body        length and CRC cover kind and body; little endian
//! ```
//!
//! Guarantees: a message is whole, or there is an error. A peer cannot make this side allocate more than about twice
//! the bytes that it has sent. A message over its limit ends the connection.

use super::message::Message;
use crate::error::{Error, Result};
use bytes::{BufMut, Bytes, BytesMut};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message that a replica has to send. A peer that has proven nothing must not make a primary hold more.
const FROM_REPLICA_BYTES_MAX: usize = 64 << 10;
/// Bounds of the steps in which memory is reserved while a message arrives: each step is as large as the bytes that
/// have arrived, within these bounds.
const RESERVE_STEP_BYTES: std::ops::RangeInclusive<usize> = 16 << 10..=1 << 20;
const HEAD_LEN: usize = 8;
/// Bytes of a message that are sent at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Sends messages to one peer.
pub struct Sender<W> {
    writer: W,
    peer: String,
}

impl<W: AsyncWrite + Unpin> Sender<W> {
    /// Makes a sender over `writer`; `peer` names the peer in errors.
    pub fn new(writer: W, peer: &str) -> Self {
        Self { writer, peer: peer.to_owned() }
    }

    /// Sends one message. Not cancel-safe: a cancelled send leaves a part of a message behind, so that the connection
    /// must be closed.
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        let mut sending = Sending::of(message);
        while self.send_piece(&mut sending).await? {}
        Ok(())
    }

    /// Sends a piece of a message, for messages that may take long. Returns false once all of it was sent. Not
    /// cancel-safe.
    pub async fn send_piece(&mut self, sending: &mut Sending) -> Result<bool> {
        let Sending { head, body } = sending;
        let piece = body.split_to(body.len().min(PIECE_BYTES));
        let error = |source| Error::Net { action: "send to", peer: self.peer.clone(), source };
        self.writer.write_all(&std::mem::take(head)).await.map_err(error)?;
        self.writer.write_all(&piece).await.map_err(error)?;
        if !body.is_empty() {
            return Ok(true);
        }
        self.writer.flush().await.map_err(error)?;
        Ok(false)
    }
}

/// The rest of a message that is being sent.
pub struct Sending {
    head: BytesMut,
    body: Bytes,
}

impl Sending {
    /// Prepares a whole message.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        let (kind, body) = message.parts();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&[kind]);
        crc.update(&body);
        let mut head = BytesMut::with_capacity(HEAD_LEN + 1);
        head.put_u32_le(u32::try_from(body.len() + 1).expect("messages are bounded"));
        head.put_u32_le(crc.finalize());
        head.put_u8(kind);
        Self { head, body }
    }
}

/// Receives messages from one peer.
pub struct Receiver<R> {
    reader: R,
    peer: String,
    buffer: BytesMut,
    /// When the last bytes arrived.
    heard: Instant,
    /// Longest body that is accepted, in bytes, for every kind of message.
    body_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> Receiver<R> {
    /// Makes a receiver over `reader`; `peer` names the peer in errors.
    pub fn new(reader: R, peer: &str) -> Self {
        let (peer, heard) = (peer.to_owned(), Instant::now());
        Self { reader, peer, buffer: BytesMut::new(), heard, body_bytes_max: usize::MAX }
    }

    /// Makes a receiver for a replica's messages, which are short.
    pub fn from_replica(reader: R, peer: &str) -> Self {
        Self { body_bytes_max: FROM_REPLICA_BYTES_MAX, ..Self::new(reader, peer) }
    }

    /// Returns how long no bytes have come from the peer. Parts of a message count. The time is right only while
    /// somebody receives.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Receives the next message. Returns `None` if the peer closed the connection between two messages. Cancel-safe:
    /// bytes that have arrived are kept.
    pub async fn receive(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            let step = self.buffer.len().clamp(*RESERVE_STEP_BYTES.start(), *RESERVE_STEP_BYTES.end());
            self.buffer.reserve(step.min(self.missing()));
            let read = self.reader.read_buf(&mut self.buffer).await;
            let read = read.map_err(|source| Error::Net { action: "receive from", peer: self.peer.clone(), source })?;
            self.heard = Instant::now();
            if read == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(self.broken("closed the connection inside a message".into()))
                };
            }
        }
    }

    fn broken(&self, detail: String) -> Error {
        Error::Protocol { peer: self.peer.clone(), detail }
    }

    /// Returns the bytes that are missing of the message being received; at least 4096.
    fn missing(&self) -> usize {
        let announced =
            self.buffer.first_chunk::<4>().map_or(HEAD_LEN, |len| HEAD_LEN + u32::from_le_bytes(*len) as usize);
        announced.saturating_sub(self.buffer.len()).max(4096)
    }

    fn take_message(&mut self) -> Result<Option<Message>> {
        if self.buffer.len() <= HEAD_LEN {
            return Ok(None);
        }
        let word = |at: usize| u32::from_le_bytes(self.buffer[at..at + 4].try_into().expect("four bytes"));
        let (length, crc, kind) = (word(0) as usize, word(4), self.buffer[HEAD_LEN]);
        if length == 0 || length - 1 > Message::bytes_max(kind).min(self.body_bytes_max) {
            return Err(
                self.broken(format!("announces a message of kind {kind} with {length} bytes, which is over the limit"))
            );
        }
        if self.buffer.len() < HEAD_LEN + length {
            return Ok(None);
        }
        let mut message = self.buffer.split_to(HEAD_LEN + length).split_off(HEAD_LEN).freeze();
        if length > PIECE_BYTES {
            // The rest lies in the same allocation as the message, and would keep all of it alive.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        if crc32fast::hash(&message) != crc {
            return Err(self.broken("sent a message whose CRC does not match".into()));
        }
        let body = message.split_off(1);
        Message::decode(kind, body).map(Some).map_err(|detail| self.broken(detail))
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
