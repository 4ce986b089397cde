//! The messages between a primary's feed and a replica's link, and the proofs that both know the shared secret.
//!
//! Bodies of control messages are JSON; fields that a peer does not know are ignored. A chunk and a part of a base are
//! raw bytes. The primary speaks first. [`super::wire`] sends and receives messages.
//!
//! Guarantees: with a shared secret, each side must prove that it knows the secret. This does not keep out an attacker
//! who can change bytes on the way: the connection is not encrypted.

use crate::chunk::RAW_BYTES_MAX;
use crate::cluster::ClusterId;
use crate::config::COMMIT_BYTES_MAX;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, Incarnation};
use crate::directory::EpochStart;
use crate::error::Error;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of the protocol.
pub const VERSION: u32 = 2;
/// Longest chunk message: the largest commit and the commits before it in the chunk, if nothing compresses, and what
/// sections, blocks and entries add (a block of 1 MiB has a head of a few bytes).
const CHUNK_BYTES_MAX: usize = COMMIT_BYTES_MAX as usize + 16 * RAW_BYTES_MAX;
/// Longest control message.
const CONTROL_BYTES_MAX: usize = 1 << 20;
/// Longest part of a base's file.
pub const PART_BYTES: usize = 4 << 20;

/// The first message, sent by the primary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Challenge {
    /// Version of the protocol.
    pub version: u32,
    /// Random text; the replica's proof covers it.
    pub nonce: String,
}

/// The replica's answer to the challenge: its identity and its position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Version of the protocol.
    pub version: u32,
    /// Cluster of the replica; `None` while it is empty.
    pub cluster: Option<ClusterId>,
    /// Node number of the replica.
    pub node: String,
    /// The newest epoch in the replica's history.
    pub epoch: Epoch,
    /// Incarnation of that epoch.
    pub incarnation: Incarnation,
    /// Csn of the replica's last commit; 0 if the replica is empty.
    pub csn: Csn,
    /// History hash after the replica's last commit.
    pub hash: HistoryHash,
    /// Time of the replica's last commit; 0 if the replica is empty.
    pub time: CommitTime,
    /// Whether the replica reads the archive by itself.
    pub has_archive: bool,
    /// Port of the replica for clients.
    pub port: u16,
    /// Random text; the primary's proof covers it.
    #[serde(default)]
    pub nonce: String,
    /// Keyed hash of the challenge under the shared secret; empty without a secret.
    pub proof: String,
}

/// An answer of the primary: the stream continues after the replica's csn.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Resume {
    /// Cluster of the primary.
    pub cluster: ClusterId,
    /// Epochs that made the primary's commits.
    pub history: Vec<EpochStart>,
    /// Keyed hash of the replica's nonce under the shared secret; empty without a secret.
    #[serde(default)]
    pub proof: String,
}

/// An answer of the primary: the archive has the commits after the replica's csn, but the primary does not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GoToArchive {
    /// Csn up to which the archive is complete.
    pub archived: Csn,
}

/// An answer of the primary: a base follows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseBegin {
    /// Cluster of the primary.
    pub cluster: ClusterId,
    /// Epochs that made the primary's commits.
    pub history: Vec<EpochStart>,
    /// Keyed hash of the replica's nonce under the shared secret; empty without a secret.
    #[serde(default)]
    pub proof: String,
}

/// A file of the base begins; its parts follow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseFile {
    /// Name that the object would have in an archive.
    pub name: String,
    /// Length of the file in bytes.
    pub bytes: u64,
}

/// An answer of the primary: it does not serve this replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refuse {
    /// Whether no later attempt of the replica can succeed.
    pub is_final: bool,
    /// Text for operators: what was expected, what was found, what to do.
    pub reason: String,
    /// A newer epoch that the primary knows of, if that is the reason.
    pub newer_epoch: Option<Epoch>,
}

impl Refuse {
    /// Returns the error of the refused replica; `primary` is the primary's address.
    #[must_use]
    pub fn into_error(self, primary: impl fmt::Display) -> Error {
        Error::RefusedByPrimary { primary: primary.to_string(), reason: self.reason, is_final: self.is_final }
    }
}

/// The primary's state. Sent also on an idle link, so that the replica knows its true lag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Epoch of the primary.
    pub epoch: Epoch,
    /// The primary's last commit that may be shipped.
    pub committed: Csn,
    /// The last commit that was sent over this connection.
    pub sent: Csn,
    /// History hash after `sent`, in the primary's history.
    pub hash: HistoryHash,
    /// Whether the primary has an archive.
    pub archives: bool,
    /// The primary's archived watermark; 0 without an archive.
    pub archived: Csn,
    /// The primary's commit clock.
    pub time: CommitTime,
    /// Lowest csn of the base that this replica is asked to publish; 0 if none is asked for.
    #[serde(default)]
    pub wants_base: Csn,
}

/// Whether a replica publishes bases to the archive, and the last base it published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Publishing {
    /// Whether the replica would publish a base if it was asked.
    pub is_willing: bool,
    /// Whether the replica is publishing a base.
    pub is_busy: bool,
    /// Csn of the last base that the replica published; 0 if there is none.
    pub csn: Csn,
    /// Epoch of the last published base.
    pub epoch: Epoch,
    /// The commit after which a restore from the last published base needs chunks.
    pub after: Csn,
}

/// An acknowledgement: how far the replica has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// The replica's last commit that readers see.
    pub applied: Csn,
    /// The replica's last commit that is synced.
    pub durable: Csn,
    /// State of the replica's bases in the archive.
    #[serde(default)]
    pub publishing: Publishing,
}

/// A message. Its debug form, which goes into errors, shows only the number of raw bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`Challenge`].
    Challenge(Challenge),
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Resume`].
    Resume(Resume),
    /// See [`GoToArchive`].
    GoToArchive(GoToArchive),
    /// See [`BaseBegin`].
    BaseBegin(BaseBegin),
    /// See [`BaseFile`].
    BaseFile(BaseFile),
    /// A part of the file that the last [`BaseFile`] announced.
    BasePart(Bytes),
    /// The base is complete.
    BaseEnd,
    /// A chunk, in the same form as in the archive.
    Chunk(Bytes),
    /// See [`Heartbeat`].
    Heartbeat(Heartbeat),
    /// See [`Ack`].
    Ack(Ack),
    /// See [`Refuse`].
    Refuse(Refuse),
}

const CHALLENGE: u8 = 1;
const HELLO: u8 = 2;
const RESUME: u8 = 3;
const GO_TO_ARCHIVE: u8 = 4;
const BASE_BEGIN: u8 = 5;
const BASE_FILE: u8 = 6;
const BASE_PART: u8 = 7;
const BASE_END: u8 = 8;
const CHUNK: u8 = 9;
const HEARTBEAT: u8 = 10;
const ACK: u8 = 11;
const REFUSE: u8 = 12;

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Challenge(body) => body.fmt(f),
            Self::Hello(body) => body.fmt(f),
            Self::Resume(body) => body.fmt(f),
            Self::GoToArchive(body) => body.fmt(f),
            Self::BaseBegin(body) => body.fmt(f),
            Self::BaseFile(body) => body.fmt(f),
            Self::BasePart(bytes) => write!(f, "BasePart({} bytes)", bytes.len()),
            Self::BaseEnd => f.write_str("BaseEnd"),
            Self::Chunk(bytes) => write!(f, "Chunk({} bytes)", bytes.len()),
            Self::Heartbeat(body) => body.fmt(f),
            Self::Ack(body) => body.fmt(f),
            Self::Refuse(body) => body.fmt(f),
        }
    }
}

impl Message {
    pub(super) fn parts(&self) -> (u8, Bytes) {
        fn json(body: &impl Serialize) -> Bytes {
            serde_json::to_vec(body).expect("control messages are plain data").into()
        }
        match self {
            Self::Challenge(body) => (CHALLENGE, json(body)),
            Self::Hello(body) => (HELLO, json(body)),
            Self::Resume(body) => (RESUME, json(body)),
            Self::GoToArchive(body) => (GO_TO_ARCHIVE, json(body)),
            Self::BaseBegin(body) => (BASE_BEGIN, json(body)),
            Self::BaseFile(body) => (BASE_FILE, json(body)),
            Self::BasePart(bytes) => (BASE_PART, bytes.clone()),
            Self::BaseEnd => (BASE_END, Bytes::new()),
            Self::Chunk(bytes) => (CHUNK, bytes.clone()),
            Self::Heartbeat(body) => (HEARTBEAT, json(body)),
            Self::Ack(body) => (ACK, json(body)),
            Self::Refuse(body) => (REFUSE, json(body)),
        }
    }

    pub(super) fn decode(kind: u8, body: Bytes) -> Result<Self, String> {
        fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
            serde_json::from_slice(body).map_err(|error| format!("sent a control message that does not parse: {error}"))
        }
        Ok(match kind {
            CHALLENGE => Self::Challenge(json(&body)?),
            HELLO => Self::Hello(json(&body)?),
            RESUME => Self::Resume(json(&body)?),
            GO_TO_ARCHIVE => Self::GoToArchive(json(&body)?),
            BASE_BEGIN => Self::BaseBegin(json(&body)?),
            BASE_FILE => Self::BaseFile(json(&body)?),
            BASE_PART => Self::BasePart(body),
            BASE_END => Self::BaseEnd,
            CHUNK => Self::Chunk(body),
            HEARTBEAT => Self::Heartbeat(json(&body)?),
            ACK => Self::Ack(json(&body)?),
            REFUSE => Self::Refuse(json(&body)?),
            _ => return Err(format!("sent a message of unknown kind {kind}")),
        })
    }

    pub(super) fn bytes_max(kind: u8) -> usize {
        match kind {
            CHUNK => CHUNK_BYTES_MAX,
            BASE_PART => PART_BYTES,
            _ => CONTROL_BYTES_MAX,
        }
    }
}

/// Returns a replica's proof that it knows the shared secret, or an empty text if there is no secret.
#[must_use]
pub fn proof(secret: &str, challenge: &Challenge, node: &str) -> String {
    if secret.is_empty() {
        return String::new();
    }
    let key = blake3::derive_key("walferry replication link v1", secret.as_bytes());
    blake3::keyed_hash(&key, format!("{}\n{node}", challenge.nonce).as_bytes()).to_hex().to_string()
}

/// Returns a primary's proof that it knows the shared secret, or an empty text if there is no secret.
#[must_use]
pub fn primary_proof(secret: &str, hello: &Hello, cluster: ClusterId) -> String {
    if secret.is_empty() {
        return String::new();
    }
    let key = blake3::derive_key("walferry replication link v1, primary", secret.as_bytes());
    blake3::keyed_hash(&key, format!("{}\n{}\n{cluster}", hello.nonce, hello.node).as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_depends_on_secret_challenge_and_node() {
        let challenge = |nonce: &str| Challenge { version: VERSION, nonce: nonce.into() };
        assert_eq!(proof("", &challenge("n"), "a"), "");
        let proofs = [("s", "n", "a"), ("t", "n", "a"), ("s", "m", "a"), ("s", "n", "b")]
            .map(|(s, n, a)| proof(s, &challenge(n), a));
        assert!(proofs.iter().enumerate().all(|(i, p)| proofs[..i].iter().all(|q| q != p)));
    }
}
