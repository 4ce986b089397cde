//! Expiry as an effect: which keys are due, and how one is deleted. Only a primary does this; a replica hides what has
//! expired until its primary's deletion arrives.

use super::keyspace::{Access, Keyspace};

/// A key that may be due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Of a memory engine.
    Memory(Vec<u8>),
    /// From the expiry index of the disk engines, with the time it stands under. The key may have got another expiry
    /// since, or none: the index is a hint.
    Disk(u64, Vec<u8>),
}

impl Due {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Memory(key) | Self::Disk(_, key) => key,
        }
    }
}

/// Up to `limit` keys of each engine that were due by the keyspace's clock; index entries below `from_ms` were dealt
/// with before.
pub fn due(keys: &Keyspace<'_>, from_ms: u64, limit: usize) -> Access<Vec<Due>> {
    let memory = keys.memory()?;
    let lists = memory.lists.expired(keys.now_ms, limit);
    let zsets = memory.zsets.expired(keys.now_ms, limit);
    let disk = keys.due(from_ms, limit)?;
    let memory = lists.iter().chain(&zsets).map(|key| Due::Memory(key.to_vec()));
    Ok(memory.chain(disk.into_iter().map(|(at, key)| Due::Disk(at, key))).collect())
}

/// Deletes a key if it has expired, and its entry of the index.
pub fn expire(keys: &mut Keyspace<'_>, due: &Due) -> Access<()> {
    match due {
        Due::Memory(key) => keys.find_to_change(key).map(drop),
        Due::Disk(at_ms, key) => {
            let found = keys.find_to_change(key)?;
            if found.is_absent() || found.expire_ms() != *at_ms {
                keys.forget_expiry(key, *at_ms);
            }
            Ok(())
        }
    }
}
