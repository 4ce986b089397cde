//! The tombstones that RocksDB keeps: each walk over a range passes those that lie in it, until a compaction drops
//! them.
//!
//! RocksDB starts compactions by bytes, and tombstones have few. Where few keys live and many are deleted (a queue,
//! locks), a walk would soon pass thousands of tombstones for each key that it finds. A compaction costs little there,
//! because few keys live.

use super::batch::Family;
use super::disk::Disk;
use crate::error::{Error, Result};
use rocksdb::properties::{NUM_DELETES_ACTIVE_MEM_TABLE, NUM_DELETES_IMM_MEM_TABLES};
use rocksdb::{BottommostLevelCompaction, CompactOptions};

/// Up to this number, the tombstones of a family are never too many.
const DELETIONS_MIN: u64 = 8 << 10;
/// Above the minimum, this many tombstones for each living entry are still acceptable.
const DELETIONS_FACTOR: u64 = 2;

/// Reports whether a family has too many tombstones.
fn are_too_many(deletions: u64, living: u64) -> bool {
    deletions > DELETIONS_MIN.max(DELETIONS_FACTOR * living)
}

impl Disk {
    /// Returns the families that have too many tombstones for the number of their living entries.
    pub fn worn_families(&self) -> Result<Vec<Family>> {
        let in_memtables = Family::ALL.map(|family| {
            let number = |name| self.db().property_int_value_cf(self.family(family), name).ok().flatten().unwrap_or(0);
            number(NUM_DELETES_ACTIVE_MEM_TABLE) + number(NUM_DELETES_IMM_MEM_TABLES)
        });
        let mut counts = Family::ALL.map(|family| (family, in_memtables[family as usize], 0));
        for file in self.db().live_files().map_err(Error::rocks("list its files"))? {
            if let Some((_, deletions, living)) =
                counts.iter_mut().find(|(family, ..)| family.name() == file.column_family_name)
            {
                *deletions += file.num_deletions;
                *living += file.num_entries.saturating_sub(file.num_deletions);
            }
        }
        let worn = counts.into_iter().filter(|&(_, deletions, living)| are_too_many(deletions, living));
        Ok(worn.map(|(family, ..)| family).collect())
    }

    /// Compacts a whole family, so that its tombstones are dropped. Automatic compactions may run meanwhile.
    pub fn drop_deletions(&self, family: Family) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        // Also rewrites files that are at the bottommost level already, because a file that is only moved there keeps
        // its tombstones.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db().compact_range_cf_opt(self.family(family), None::<&[u8]>, None::<&[u8]>, &options);
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{HEADER_LEN, push_delete, push_put};
    use super::super::disk::DiskOptions;
    use super::*;

    fn write(disk: &Disk, keys: std::ops::Range<u32>, push: impl Fn(&mut Vec<u8>, &[u8])) {
        let mut batch = vec![0; HEADER_LEN];
        batch[8..12].copy_from_slice(&(keys.len() as u32).to_le_bytes());
        keys.for_each(|key| push(&mut batch, &key.to_be_bytes()));
        disk.write(&batch, true).unwrap();
    }

    #[test]
    fn a_family_is_worn_until_its_deletions_were_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(&dir.path().join("db"), &dir.path().join("wal"), DiskOptions::default()).unwrap();
        let most = DELETIONS_MIN as u32;
        write(&disk, 0..most + 2, |batch, key| {
            push_put(batch, Family::Default, key, b"value");
        });
        write(&disk, 0..most, |batch, key| {
            push_delete(batch, Family::Default, key);
        });
        assert_eq!(disk.worn_families().unwrap(), []);
        write(&disk, most..most + 1, |batch, key| {
            push_delete(batch, Family::Default, key);
        });
        assert_eq!(disk.worn_families().unwrap(), [Family::Default]);
        disk.flush().unwrap();
        assert_eq!(disk.worn_families().unwrap(), [Family::Default], "in a file, too");
        disk.drop_deletions(Family::Default);
        assert_eq!(disk.worn_families().unwrap(), []);
        assert_eq!(disk.get(Family::Default, &(most + 1).to_be_bytes()).unwrap().as_deref(), Some(&b"value"[..]));
        assert_eq!(disk.get(Family::Default, &most.to_be_bytes()).unwrap().as_deref(), None);
    }
}
