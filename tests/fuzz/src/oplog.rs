//! Op-log segments and their frames, which come from the local disk.

use super::{Target, put, u32_at, u64_at};
use bytes::Bytes;
use walferry::csn::{Csn, Epoch, SegmentId};
use walferry::log::frame;
use walferry::log::segment::{HEADER_LEN, Segment, SegmentHeader};

pub(crate) const TARGET: Target = Target { name: "oplog", decode, check, repair, seeds };

/// Offsets from `src/log/FORMAT.md`.
const SEGMENT_ID: usize = 12;
const FRAME_PREFIX: usize = 8;
const FRAME_HEAD: usize = 52;

fn segment(data: &[u8]) -> Option<Segment> {
    let id = SegmentId(u32_at(data.get(..HEADER_LEN)?, SEGMENT_ID));
    Segment::parse(Bytes::copy_from_slice(data), id, "fuzz").ok()
}

fn decode(data: &[u8]) -> usize {
    if let Some(segment) = segment(data) {
        segment.frames().for_each(drop);
    }
    0
}

fn check(data: &[u8]) {
    let Some(segment) = segment(data) else { return };
    let header = segment.header;
    assert_eq!(SegmentHeader::decode(&header.encode(), "again").expect("an encoded header"), header);
    let mut previous = header.previous;
    for (at, frame) in segment.frames() {
        assert!(frame.previous == previous && frame.commit.csn > previous, "csns of the frame at {at}");
        previous = frame.commit.csn;
        let mut again = Vec::new();
        frame::encode(&mut again, header.id, frame.previous, &frame.commit);
        let at = at as usize;
        assert!(again == data[at..at + frame.len], "the frame at {at} is not what its commit encodes to");
    }
}

/// Repairs each frame's position in the segment and its CRC, and the header's CRC.
#[expect(clippy::ptr_arg, reason = "the repairs of other targets change the length")]
fn repair(data: &mut Vec<u8>) {
    if data.len() < HEADER_LEN {
        return;
    }
    put(data, 0, b"WFOPLOG\x1A\x03\0\0\0");
    let crc = crc32fast::hash(&data[..HEADER_LEN - 4]);
    put(data, HEADER_LEN - 4, &crc.to_le_bytes());
    let id = u32_at(data, SEGMENT_ID).to_le_bytes();
    let mut previous = u64_at(data, 24);
    let mut at = HEADER_LEN;
    // A length of zero is the end of the log.
    while at + FRAME_PREFIX + FRAME_HEAD <= data.len() && u32_at(data, at) != 0 {
        let body = at + FRAME_PREFIX;
        let length = (u32_at(data, at) as usize).clamp(FRAME_HEAD, data.len() - body);
        put(data, at, &(length as u32).to_le_bytes());
        put(data, body, &id);
        put(data, body + 32, &previous.to_le_bytes());
        previous = u64_at(data, body + 8);
        let crc = crc32fast::hash(&data[body..body + length]);
        put(data, at + 4, &crc.to_le_bytes());
        at = body + length;
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let encode = |bulk, zeroes| {
        let header = SegmentHeader { id: SegmentId(4), epoch: Epoch(3), previous: Csn::ZERO, durable: Csn::ZERO };
        let mut out = header.encode().to_vec();
        let mut previous = Csn::ZERO;
        for commit in super::commits(bulk, true) {
            frame::encode(&mut out, header.id, previous, &commit);
            previous = commit.csn;
        }
        out.resize(out.len() + zeroes, 0);
        out
    };
    vec![encode(8, 0), encode(8, 200), encode(500, 64)]
}
