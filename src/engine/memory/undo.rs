//! Undo of a commit's changes of the memory engines, for the time before it is known whether the commit will happen.
//!
//! Ops do not tell what was there before them, so the content at the commit's start is kept as a cut. Taking a cut
//! costs microseconds, and the first change of each shard after the cut copies the shard's table. Hence only commits
//! that may have to be taken back use an undo.

use super::cut::Cut;
use super::dictionary::Dictionary;
use super::entry::Value;
use super::op::{ListOps, Scope, ZsetOps};
use super::{Memory, MemoryCut};
use crate::error::Result;

/// Whether the commit that is being made can be taken back.
#[derive(Default)]
pub enum Undo {
    /// The commit cannot be taken back.
    #[default]
    Off,
    /// The commit can be taken back; it has not changed the memory engines yet.
    Armed,
    /// The commit can be taken back: the cut holds the memory engines as they were before the commit.
    Cut(MemoryCut),
}

impl Undo {
    /// Takes the cut before the first change. Must be called before each change of the memory engines.
    pub fn before_change(&mut self, memory: &Memory) {
        if matches!(self, Self::Armed) {
            *self = Self::Cut(memory.cut());
        }
    }
}

impl Memory {
    /// Takes back encoded ops, which must be all ops that were applied since the cut was made.
    pub fn take_back(&mut self, cut: &MemoryCut, lists: &[u8], zsets: &[u8]) -> Result<()> {
        for op in ListOps::new(lists) {
            self.lists.take_back(op?.scope(), &cut.lists);
        }
        for op in ZsetOps::new(zsets) {
            self.zsets.take_back(op?.scope(), &cut.zsets);
        }
        Ok(())
    }
}

impl<V: Value> Dictionary<V> {
    fn take_back(&mut self, scope: Scope<'_>, cut: &Cut<V>) {
        match scope {
            Scope::Key(key) => self.take_back_key(key, cut),
            Scope::Rename { from, to } => [from, to].into_iter().for_each(|key| self.take_back_key(key, cut)),
            Scope::All => {
                self.clear();
                cut.iter().for_each(|(key, entry)| self.insert(key, entry.clone()));
            }
        }
    }

    fn take_back_key(&mut self, key: &[u8], cut: &Cut<V>) {
        match cut.get(key) {
            Some(entry) => self.insert(key, entry.clone()),
            None => {
                self.delete(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing as random_ops;
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// Returns all keys with their expiries and values, sorted.
    fn content(memory: &Memory) -> Vec<String> {
        let lists = memory
            .lists
            .iter()
            .map(|(key, list)| format!("{key:?} {} {:?}", list.expire_ms, list.value.iter_from(0).collect::<Vec<_>>()));
        let zsets = memory
            .zsets
            .iter()
            .map(|(key, zset)| format!("{key:?} {} {:?}", zset.expire_ms, zset.value.iter_from(0).collect::<Vec<_>>()));
        let mut all: Vec<_> = lists.chain(zsets).collect();
        all.sort();
        all
    }

    /// Goal: taking back any ops that were applied since a cut restores content, expiries and counters.
    #[test]
    fn what_was_applied_since_a_cut_is_taken_back() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut memory = Memory::new();
            for _ in 0..20 {
                random_ops::lists(&mut random, &mut memory);
                random_ops::zsets(&mut random, &mut memory);
            }
            let (before, bytes, due) = (content(&memory), memory.memory_bytes(), memory.lists.expired(9, 99));
            let mut undo = Undo::Armed;
            undo.before_change(&memory);
            let (mut lists, mut zsets) = (Vec::new(), Vec::new());
            for _ in 0..8 {
                undo.before_change(&memory);
                lists.extend(random_ops::lists(&mut random, &mut memory));
                zsets.extend(random_ops::zsets(&mut random, &mut memory));
            }
            let Undo::Cut(cut) = undo else { panic!("it was armed") };
            memory.take_back(&cut, &lists, &zsets).unwrap();
            assert_eq!(content(&memory), before, "seed {seed}");
            memory.lists.check();
            memory.zsets.check();
            assert_eq!(memory.lists.expired(9, 99), due, "seed {seed}");
            // Tables that grew since the cut may keep their size.
            assert!(memory.memory_bytes() >= bytes / 2, "seed {seed}");
        }
    }
}
