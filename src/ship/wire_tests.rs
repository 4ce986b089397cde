//! Tests of the wire protocol.

use super::super::message::{Ack, GoToArchive, Publishing, Refuse};
use super::*;
use crate::csn::Csn;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn encoded(messages: &[Message]) -> Vec<u8> {
    run(async {
        let mut bytes = Vec::new();
        let mut sender = Sender::new(&mut bytes, "test");
        for message in messages {
            sender.send(message).await.unwrap();
        }
        bytes
    })
}

fn all(bytes: &[u8]) -> Result<Vec<Message>> {
    run(async {
        let mut receiver = Receiver::new(bytes, "test");
        let mut messages = Vec::new();
        while let Some(message) = receiver.receive().await? {
            messages.push(message);
        }
        Ok(messages)
    })
}

#[test]
fn messages_survive_the_wire_and_every_flipped_bit_is_found() {
    let messages = [
        Message::Ack(Ack { applied: Csn(5), durable: Csn(4), publishing: Publishing::default() }),
        Message::Chunk(Bytes::from_static(b"chunk")),
        Message::BaseEnd,
        Message::GoToArchive(GoToArchive { archived: Csn(9) }),
    ];
    let bytes = encoded(&messages);
    assert_eq!(all(&bytes).unwrap(), messages);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(all(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_huge_announcement_is_refused_before_it_is_stored() {
    let mut bytes = encoded(&[Message::BaseEnd]);
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(all(&bytes).unwrap_err().to_string().contains("over the limit"));
}

#[test]
fn a_replica_is_not_listened_to_at_length() {
    let long = Refuse { is_final: true, reason: "x".repeat(FROM_REPLICA_BYTES_MAX), newer_epoch: None };
    for message in [Message::Refuse(long), Message::Chunk(Bytes::from(vec![0; FROM_REPLICA_BYTES_MAX + 1]))] {
        let bytes = encoded(&[message]);
        assert!(all(&bytes).is_ok());
        let received = run(async { Receiver::from_replica(&bytes[..9], "test").receive().await });
        assert!(received.unwrap_err().to_string().contains("over the limit"));
    }
}

#[test]
fn raw_bytes_are_not_shown() {
    for message in [Message::Chunk(Bytes::from(vec![0; 5000])), Message::BasePart(Bytes::from(vec![0; 5000]))] {
        assert!(format!("{message:?}").contains("5000 bytes") && format!("{message:?}").len() < 40);
    }
}
