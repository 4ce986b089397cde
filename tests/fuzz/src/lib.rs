//! Fuzz targets: for each decoder of bytes from a peer, a disk or an object store, its input and the properties that
//! must hold. `../fuzz_targets` runs the targets under cargo-fuzz. `../../fuzzing.rs` runs them in CI over the corpus
//! beside this directory and mutations of it, and counts their allocations.
//!
//! A decoder must not panic on any bytes, must not hold more memory than its input justifies, and must accept only
//! what its encoder produces.

pub(crate) mod chunk;
pub(crate) mod image;
pub(crate) mod manifest;
pub(crate) mod memory_ops;
pub(crate) mod object_name;
pub(crate) mod oplog;
pub(crate) mod resp;
pub(crate) mod wal_batch;
pub(crate) mod wire;

/// One decoder under test.
pub(crate) struct Target {
    /// Name of the cargo-fuzz target and of the directory in the corpus.
    pub name: &'static str,
    /// Decodes only. Returns the number of decompressed bytes, for which the input justifies memory beside its own
    /// length.
    pub decode: fn(&[u8]) -> usize,
    /// Decodes, and panics if the accepted value is not what the encoder produces.
    pub check: fn(&[u8]),
    /// Repairs the checksums, as far as the bytes have the right shape: a decoder reads nothing behind a wrong
    /// checksum.
    pub repair: fn(&mut Vec<u8>),
    /// Returns inputs that the encoder produces, as a beginning.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub(crate) const ALL: [&Target; 9] = [
    &chunk::TARGET,
    &image::TARGET,
    &manifest::TARGET,
    &memory_ops::TARGET,
    &object_name::TARGET,
    &oplog::TARGET,
    &resp::TARGET,
    &wal_batch::TARGET,
    &wire::TARGET,
];

impl Target {
    /// Checks the input unchanged, and with repaired checksums.
    pub(crate) fn check_both(&self, data: &[u8]) {
        (self.check)(data);
        let mut repaired = data.to_vec();
        (self.repair)(&mut repaired);
        if repaired != data {
            (self.check)(&repaired);
        }
    }
}

/// Repairs nothing: for formats without a checksum.
pub(crate) fn nothing_to_repair(_: &mut Vec<u8>) {}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(crate) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Returns the elements of a value: names or bytes, with their values or the bits of their scores.
pub(crate) fn elements(slot: &walferry::engine::memory::Slot) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pair = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
    if let Some(hash) = slot.as_hash() {
        return hash.iter_from(0).map(|element| element.with(pair)).collect();
    }
    if let Some(set) = slot.as_set() {
        return set.iter_from(0).map(|element| element.with(pair)).collect();
    }
    if let Some(list) = slot.as_list() {
        return list.iter_from(0).map(|element| (element.to_vec(), Vec::new())).collect();
    }
    if let Some(zset) = slot.as_zset() {
        return zset.iter_from(0).map(|(member, score)| (member.to_vec(), score.to_le_bytes().to_vec())).collect();
    }
    let mut bytes = Vec::new();
    slot.as_string().expect("there is no other type").read(0..u64::MAX, &mut bytes);
    vec![(bytes, Vec::new())]
}

/// Returns commits over both homes and all types for seeds, with `bulk` bytes of values that compress or not.
pub(crate) fn commits(bulk: usize, compresses: bool) -> Vec<walferry::record::CommitRecord> {
    use walferry::csn::{CommitTime, Csn, Epoch, HistoryHash};
    use walferry::engine::batch::{self, Family};
    use walferry::engine::memory::Encoder;
    let value: Vec<u8> = (0..bulk)
        .map(|i| if compresses { b'x' } else { (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] })
        .collect();
    let mut commits: Vec<_> = (1..=6_u64)
        .map(|csn| {
            let (mut disk, mut memory) = (Vec::new(), Vec::new());
            let mut disk_ops = 0;
            if csn % 2 == 1 {
                batch::push_put(&mut disk, Family::Default, b"\0\x01key", &value);
                batch::push_delete(&mut disk, Family::Sub, b"\0\x02gone");
                batch::push_delete_range(&mut disk, Family::Stream, b"\0\x03a", b"\0\x03b");
                disk_ops = 3;
            }
            let mut ops = Encoder::new(&mut memory);
            if csn % 4 == 0 {
                ops.set_string(b"text", 1_800_000_000_000, &value);
                ops.put_fields(b"user", [(&b"name"[..], &b"Ada"[..]), (b"age", b"36")].into_iter());
                ops.add_members(b"tags", [&b"12"[..], b"blue"].into_iter());
            }
            if csn % 3 != 1 {
                ops.push_back(b"queue", [&value[..], b"two"].into_iter());
                ops.set_element(b"queue", 0, b"one");
                ops.remove_elements(b"queue", [1].into_iter());
            }
            if csn % 3 != 2 && csn > 1 {
                ops.set_scores(b"board", [(&b"low"[..], f64::NEG_INFINITY), (b"mid", -0.5)].into_iter());
                ops.remove_ranks(b"board", 0, 1);
            }
            walferry::record::CommitRecord {
                csn: Csn(csn),
                epoch: Epoch(3),
                time: CommitTime(1_790_000_000_000_000 + csn * 10),
                hash: HistoryHash::ZERO,
                disk_ops,
                disk: disk.into(),
                memory: memory.into(),
            }
        })
        .collect();
    walferry::record::chain(HistoryHash(7), &mut commits);
    commits
}
