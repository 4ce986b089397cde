//! Replication messages, which come from arbitrary peers.

use super::{Target, put, u32_at};
use bytes::Bytes;
use futures::FutureExt;
use walferry::cluster::ClusterId;
use walferry::csn::{CommitTime, Csn, Epoch, HistoryHash, Incarnation};
use walferry::directory::EpochStart;
use walferry::ship::message::{
    Ack, BaseBegin, BaseFile, Challenge, GoToArchive, Heartbeat, Hello, Message, Publishing, Refuse, Resume,
};
use walferry::ship::wire::{Receiver, Sender};

pub(crate) const TARGET: Target = Target { name: "wire", decode, check, repair, seeds };

/// Bytes of length and CRC before a message's kind.
const HEAD: usize = 8;

/// Reads the messages up to the end or the first error. All bytes are present, so no future has to wait.
fn each_message(mut receiver: Receiver<&[u8]>, mut take: impl FnMut(Message)) {
    while let Ok(Some(message)) = receiver.receive().now_or_never().expect("bytes are there") {
        take(message);
    }
}

fn decode(data: &[u8]) -> usize {
    each_message(Receiver::new(data, "fuzz"), drop);
    each_message(Receiver::from_replica(data, "fuzz"), drop);
    0
}

fn encode(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sender = Sender::new(&mut out, "fuzz");
    for message in messages {
        sender.send(message).now_or_never().expect("a vector takes everything").expect("a vector does not fail");
    }
    out
}

fn check(data: &[u8]) {
    let mut messages = Vec::new();
    each_message(Receiver::new(data, "fuzz"), |message| messages.push(message));
    for message in &messages {
        if let Message::Chunk(_) | Message::BasePart(_) = message {
            assert!(format!("{message:?}").len() < 100, "raw bytes are not shown");
        }
    }
    let mut read = Vec::new();
    each_message(Receiver::new(&encode(&messages)[..], "again"), |message| read.push(message));
    assert!(read == messages, "messages changed on their way");
}

/// Repairs the lengths according to the bytes present, and the CRCs.
#[expect(clippy::ptr_arg, reason = "the repairs of other targets change the length")]
fn repair(data: &mut Vec<u8>) {
    let mut at = 0;
    while at + HEAD < data.len() {
        let body = at + HEAD;
        let length = (u32_at(data, at) as usize).clamp(1, data.len() - body);
        let crc = crc32fast::hash(&data[body..body + length]);
        put(data, at, &(length as u32).to_le_bytes());
        put(data, at + 4, &crc.to_le_bytes());
        at = body + length;
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let (cluster, proof) = (ClusterId([7; 16]), "p".repeat(64));
    let start = |epoch, fork, hash| EpochStart {
        epoch: Epoch(epoch),
        incarnation: Incarnation(hash + 1),
        fork: Csn(fork),
        hash: HistoryHash(hash),
    };
    let history = vec![start(1, 0, 0), start(3, 70, 700)];
    let hello = Hello {
        version: 2,
        cluster: Some(cluster),
        node: "0123456789abcdef".into(),
        epoch: Epoch(3),
        incarnation: Incarnation(701),
        csn: Csn(80),
        hash: HistoryHash(800),
        time: CommitTime(1_790_000_000_000_000),
        has_archive: true,
        port: 6379,
        nonce: "n".repeat(32),
        proof: proof.clone(),
    };
    let heartbeat = Heartbeat {
        epoch: Epoch(3),
        committed: Csn(90),
        sent: Csn(89),
        hash: HistoryHash(890),
        archives: true,
        archived: Csn(60),
        time: CommitTime(1_790_000_000_000_001),
        wants_base: Csn(85),
    };
    let publishing = Publishing { is_willing: true, is_busy: false, csn: Csn(79), epoch: Epoch(3), after: Csn(78) };
    let refuse = Refuse { is_final: true, reason: "no \"room\"\n".into(), newer_epoch: Some(Epoch(4)) };
    let conversations = [
        vec![
            Message::Challenge(Challenge { version: 2, nonce: "n".repeat(32) }),
            Message::Resume(Resume { cluster, history: history.clone(), proof: proof.clone() }),
            Message::Chunk(Bytes::from_static(b"not looked at here")),
            Message::Heartbeat(heartbeat),
            Message::GoToArchive(GoToArchive { archived: Csn(60) }),
        ],
        vec![
            Message::BaseBegin(BaseBegin { cluster, history, proof }),
            Message::BaseFile(BaseFile { name: "sst/00.sst".into(), bytes: 5 }),
            Message::BasePart(Bytes::from_static(b"bytes")),
            Message::BaseEnd,
        ],
        vec![Message::Hello(hello), Message::Ack(Ack { applied: Csn(81), durable: Csn(80), publishing })],
        vec![Message::Refuse(refuse)],
    ];
    conversations.iter().map(|messages| encode(messages)).collect()
}
