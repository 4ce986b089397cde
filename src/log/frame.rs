//! One op-log frame: the stored form of a commit with memory ops, or of a commit without any effect.
//!
//! Guarantees: a frame is accepted only if its CRC, its segment and its place in the csn chain match. So zeroes,
//! remains of a cut-off tail, and frames of another segment all mark the end of the log. `FORMAT.md` gives the bytes.

use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, SegmentId};
use crate::record::CommitRecord;
use bytes::Bytes;

/// Bytes of length and CRC before a frame's body.
const PREFIX_LEN: usize = 8;
/// Bytes of a frame's body before the ops.
const HEAD_LEN: usize = 4 + 4 + 8 + 8 + 8 + 8 + 4 + 4 + 4;

/// Returns the bytes that a commit takes as a frame.
#[must_use]
pub fn encoded_len(commit: &CommitRecord) -> usize {
    PREFIX_LEN + HEAD_LEN + commit.effect_bytes()
}

/// Appends the frame of `commit`, which follows the frame of `previous` in the op-log.
pub fn encode(out: &mut Vec<u8>, segment: SegmentId, previous: Csn, commit: &CommitRecord) {
    let start = out.len();
    let body_len =
        u32::try_from(encoded_len(commit) - PREFIX_LEN).expect("effects of a commit are bounded below 4 GiB");
    let section = |bytes: &Bytes| (bytes.len() as u32).to_le_bytes();
    out.extend_from_slice(&body_len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&segment.0.to_le_bytes());
    out.extend_from_slice(&commit.epoch.0.to_le_bytes());
    out.extend_from_slice(&commit.csn.0.to_le_bytes());
    out.extend_from_slice(&commit.time.0.to_le_bytes());
    out.extend_from_slice(&commit.hash.0.to_le_bytes());
    out.extend_from_slice(&previous.0.to_le_bytes());
    out.extend_from_slice(&commit.disk_ops.to_le_bytes());
    out.extend_from_slice(&section(&commit.memory));
    out.extend_from_slice(&section(&commit.disk));
    out.extend_from_slice(&commit.memory);
    out.extend_from_slice(&commit.disk);
    let crc = crc32fast::hash(&out[start + PREFIX_LEN..]);
    out[start + 4..start + PREFIX_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The commit. It has disk effects only if it is a cross-engine commit.
    pub commit: CommitRecord,
    /// Csn of the frame before this one in the op-log.
    pub previous: Csn,
    /// Bytes of the frame in the segment.
    pub len: usize,
}

/// Decodes the frame at the offset `start` of `bytes`. Returns `None` if there is no valid frame of this segment.
#[must_use]
pub fn decode(bytes: &Bytes, start: usize, segment: SegmentId) -> Option<Frame> {
    let (prefix, rest) = bytes.get(start..)?.split_first_chunk::<PREFIX_LEN>()?;
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let body_len = word(prefix, 0) as usize;
    let body = rest.get(..body_len).filter(|body| body.len() >= HEAD_LEN)?;
    if crc32fast::hash(body) != word(prefix, 4) || word(body, 0) != segment.0 {
        return None;
    }
    let long = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    let lengths = [word(body, 44), word(body, 48)].map(|n| n as usize);
    if lengths.iter().try_fold(HEAD_LEN, |sum, &n| sum.checked_add(n)) != Some(body_len) {
        return None;
    }
    let mut at = start + PREFIX_LEN + HEAD_LEN;
    let [memory, disk] = lengths.map(|length| {
        at += length;
        bytes.slice(at - length..at)
    });
    let commit = CommitRecord {
        epoch: Epoch(word(body, 4)),
        csn: Csn(long(8)),
        time: CommitTime(long(16)),
        hash: HistoryHash(long(24)),
        disk_ops: word(body, 40),
        disk,
        memory,
    };
    let previous = Csn(long(32));
    (commit.csn > previous).then_some(Frame { commit, previous, len: PREFIX_LEN + body_len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn commit(memory: Vec<u8>, disk: Vec<u8>) -> CommitRecord {
        CommitRecord {
            csn: Csn(9),
            epoch: Epoch(2),
            time: CommitTime(5),
            hash: HistoryHash(0x0123_4567_89ab_cdef),
            disk_ops: 1,
            disk: disk.into(),
            memory: memory.into(),
        }
    }

    proptest! {
        #[test]
        fn frames_survive_a_round_trip(memory: Vec<u8>, disk: Vec<u8>) {
            let commit = commit(memory, disk);
            let mut bytes = Vec::new();
            encode(&mut bytes, SegmentId(4), Csn(7), &commit);
            prop_assert_eq!(bytes.len(), encoded_len(&commit));
            bytes.extend_from_slice(b"what follows");
            let bytes = Bytes::from(bytes);
            prop_assert_eq!(decode(&bytes, 0, SegmentId(5)), None);
            let frame = decode(&bytes, 0, SegmentId(4)).unwrap();
            prop_assert_eq!(frame, Frame { len: encoded_len(&commit), commit, previous: Csn(7) });
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes.into(), 0, SegmentId(1));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_ends_the_log() {
        let mut bytes = Vec::new();
        encode(&mut bytes, SegmentId(4), Csn(7), &commit(vec![1, 2, 3], vec![4, 5, 6]));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped.into(), 0, SegmentId(4)), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decode(&Bytes::copy_from_slice(&bytes[..len]), 0, SegmentId(4)), None, "cut at {len}");
        }
    }
}
