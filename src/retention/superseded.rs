//! Finds the chunks whose place a wider chunk has taken. Pure.
//!
//! The only rule for this in the crate: merging deletes such chunks once it has compared their commits, and a prune
//! removes them even if it keeps their commits.

use crate::archive::layout::ChunkName;
use std::cmp::Reverse;

/// Chunks that lie within one wider chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superseded {
    /// The wider chunk.
    pub wider: ChunkName,
    /// The chunks within the wider one, by csn; never empty.
    pub parts: Vec<ChunkName>,
}

/// Returns the chunks all of whose commits lie in one wider chunk of the same epoch. Only chunks for which `counts`
/// returns true count as wider ones: those that have been there for the grace period.
pub fn superseded(chunks: impl IntoIterator<Item = ChunkName>, counts: impl Fn(&ChunkName) -> bool) -> Vec<Superseded> {
    // This order puts a chunk behind every other chunk that contains it.
    let mut ordered: Vec<ChunkName> = chunks.into_iter().collect();
    ordered.sort_by_key(|chunk| (chunk.epoch, chunk.first, Reverse(chunk.last)));
    let mut found: Vec<Superseded> = Vec::new();
    let mut widest: Option<ChunkName> = None;
    for chunk in ordered {
        match widest.filter(|wider| wider.epoch == chunk.epoch) {
            Some(wider) if chunk.last <= wider.last => match found.last_mut().filter(|last| last.wider == wider) {
                Some(last) => last.parts.push(chunk),
                None => found.push(Superseded { wider, parts: vec![chunk] }),
            },
            _ if counts(&chunk) => widest = Some(chunk),
            same_epoch => widest = same_epoch,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csn::{Csn, Epoch};

    fn name(epoch: u32, first: u64, last: u64) -> ChunkName {
        ChunkName { epoch: Epoch(epoch), first: Csn(first), last: Csn(last) }
    }

    #[test]
    fn only_one_wider_chunk_of_the_same_epoch_that_counts_supersedes() {
        let chunks = [name(1, 1, 100), name(1, 1, 50), name(1, 10, 20), name(1, 40, 60), name(2, 10, 20)];
        let young = name(1, 1, 100);
        let told = |counts: &dyn Fn(&ChunkName) -> bool| -> Vec<(ChunkName, usize)> {
            superseded(chunks, counts).iter().map(|found| (found.wider, found.parts.len())).collect()
        };
        assert_eq!(told(&|_| true), [(name(1, 1, 100), 3)]);
        assert_eq!(told(&|chunk| *chunk != young), [(name(1, 1, 50), 1)]);
        assert_eq!(told(&|_| false), []);
    }
}
