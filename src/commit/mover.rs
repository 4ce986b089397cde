//! The mover: keeps the keys in memory within their budget, and brings disk keys that are used again to memory.
//!
//! Guarantees: every move is part of a commit; the writer lock is held for a limited number of keys and for a limited
//! time. Moves to memory keep within a bandwidth. A key moves to memory only if there is room, or if it is used clearly
//! more often than the key that leaves for it, so that equally hot keys do not take turns.

use super::committer::Committer;
use super::sweep::{leave, unlocked};
use crate::config::RoutingPolicy;
use crate::engine::memory::{Memory, Slot, SmallBytes, Type};
use crate::engine::meta::Home;
use crate::engine::moves::{MOVED_BYTES_MAX, MOVED_STRING_BYTES_MAX, can_move_to_disk};
use crate::error::Result;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Keys that are moved while the writer lock is held once, at most.
const KEYS_PER_TURN: usize = 32;
/// Bytes that the moves of one turn may take in the op-log, except for the last of them.
const FRAMES_PER_TURN: usize = 4 << 20;
/// Time that the writer lock is held, after which no further key is moved.
const TURN_TIME: Duration = Duration::from_micros(500);
/// Time of one look, after which no further turn begins.
const LOOK_TIME: Duration = Duration::from_millis(15);
/// Keys that are compared to find one that leaves memory.
const SAMPLED: usize = 16;
/// Shards that are looked at for a sample, at most.
const SHARDS_SAMPLED_MAX: usize = 64;
/// When memory exceeds its budget, moves make this part of the budget free.
const FREED_PART: usize = 128;
/// Accesses by which a key on disk must exceed a key in memory to take its place.
const ACCESSES_AHEAD: u32 = 2;
/// Bytes that the ops and rows of a move take beside key and value, at most.
const MOVE_BYTES: usize = 256;
/// Factor by which the rows of elements can exceed the bytes of the value in memory, as long as keys are short.
const ROW_FACTOR: usize = 16;

/// A key that may leave memory.
struct Victim {
    key: SmallBytes,
    /// Number of accesses lately.
    count: u32,
    /// Bytes that its move takes in the op-log, at most.
    frame_bytes: usize,
}

impl Victim {
    fn of(slot: &Slot, count: u32) -> Self {
        // A member of a set of integers becomes a row with a long key.
        let factor = if slot.value_type() == Type::String { 1 } else { ROW_FACTOR };
        let frame_bytes = MOVE_BYTES + 2 * slot.key().len() + slot.memory_bytes() * factor;
        Self { key: SmallBytes::from(slot.key()), count, frame_bytes }
    }
}

impl Committer {
    /// Moves a key by hand, in a commit of its own. Returns whether it moved.
    pub fn move_key(&self, key: &[u8], to: Home, now_ms: u64) -> Result<bool> {
        let mut guard = self.lock_writer();
        let moved = guard
            .reserve(key.len() + MOVE_BYTES + (MOVED_BYTES_MAX * ROW_FACTOR).max(MOVED_STRING_BYTES_MAX))
            .and_then(|()| unlocked(guard.keyspace(now_ms).move_key(key, to)));
        guard.commit();
        leave(self, guard);
        let moved = moved?;
        self.write_open_group();
        let (up, down) = if to == Home::Memory { (moved, false) } else { (false, moved) };
        self.memory().tracker().note_moves(up.into(), down.into());
        Ok(moved)
    }
}

/// Moves keys of one committer.
pub struct Mover {
    committer: Arc<Committer>,
    random: u64,
    /// Bytes that may move to memory now.
    allowance: u64,
    looked: Instant,
}

impl Mover {
    /// Makes a mover that has not moved anything yet.
    #[must_use]
    pub fn new(committer: Arc<Committer>) -> Self {
        Self { committer, random: 0x9E37_79B9_7F4A_7C15, allowance: 0, looked: Instant::now() }
    }

    /// Moves what should move now. `bandwidth` is the number of bytes a second that may move to memory.
    pub fn look(&mut self, now_ms: u64, bandwidth: u64) -> Result<()> {
        let elapsed = std::mem::replace(&mut self.looked, Instant::now()).elapsed();
        let earned = (bandwidth as f64 * elapsed.as_secs_f64()) as u64;
        self.allowance = self.allowance.saturating_add(earned).min(bandwidth);
        if self.committer.routing().policy == RoutingPolicy::Type {
            return Ok(());
        }
        let deadline = Instant::now() + LOOK_TIME;
        self.make_room(now_ms, deadline)?;
        while Instant::now() < deadline && self.allowance > 0 && self.committer.memory().arrivals().have_room() {
            let Some(key) = self.committer.memory().tracker().take_candidate() else { break };
            self.bring_up(&key, now_ms)?;
        }
        Ok(())
    }

    /// Moves the coldest keys to disk while memory exceeds its budget.
    fn make_room(&mut self, now_ms: u64, deadline: Instant) -> Result<()> {
        let budget = self.committer.memory_bytes_max();
        if self.committer.memory().memory_bytes() <= budget {
            return Ok(());
        }
        let target = budget - budget / FREED_PART;
        while self.committer.memory().memory_bytes() > target && Instant::now() < deadline {
            let (mut victims, mut bytes) = (Vec::new(), 0);
            while victims.len() < KEYS_PER_TURN
                && bytes < FRAMES_PER_TURN
                && let Some(victim) = self.coldest()
            {
                bytes += victim.frame_bytes;
                victims.push(victim);
            }
            if victims.is_empty() {
                break;
            }
            self.move_down(&victims, now_ms)?;
        }
        Ok(())
    }

    fn random(&mut self) -> u64 {
        // xorshift64: the numbers need not be secret.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Returns the key with the fewest accesses among some; `None` if none of them can move.
    fn coldest(&mut self) -> Option<Victim> {
        let committer = Arc::clone(&self.committer);
        let memory: &Memory = committer.memory();
        let (mut coldest, mut seen) = (None::<Victim>, 0);
        for _ in 0..SHARDS_SAMPLED_MAX {
            memory.visit_shard(self.random(), |slot| {
                if seen < SAMPLED && can_move_to_disk(slot) {
                    seen += 1;
                    let count = memory.tracker().count_in_memory(slot.touch());
                    if coldest.as_ref().is_none_or(|coldest| count < coldest.count) {
                        coldest = Some(Victim::of(slot, count));
                    }
                }
                seen < SAMPLED
            });
            if seen >= SAMPLED {
                break;
            }
        }
        coldest
    }

    /// Moves keys to disk in one commit.
    fn move_down(&self, victims: &[Victim], now_ms: u64) -> Result<()> {
        let started = Instant::now();
        let mut guard = self.committer.lock_writer();
        let done = guard.reserve(victims.iter().map(|victim| victim.frame_bytes).sum()).and_then(|()| {
            let mut moved = 0;
            for Victim { key, .. } in victims {
                moved += u64::from(unlocked(guard.keyspace(now_ms).move_to_disk(key))?.is_some());
                if started.elapsed() > TURN_TIME {
                    break;
                }
            }
            self.committer.memory().tracker().note_moves(0, moved);
            Ok(())
        });
        guard.commit();
        leave(&self.committer, guard);
        done
    }

    /// Moves a key to memory, if there is room or a colder key leaves for it.
    fn bring_up(&mut self, key: &[u8], now_ms: u64) -> Result<()> {
        let (memory, budget) = (self.committer.memory(), self.committer.memory_bytes_max());
        let count = memory.tracker().count_on_disk(key);
        let leaves = if memory.memory_bytes() < budget {
            None
        } else {
            match self.coldest() {
                Some(coldest) if coldest.count + ACCESSES_AHEAD <= count => Some(coldest),
                _ => return Ok(()),
            }
        };
        let mut guard = self.committer.lock_writer();
        let done = guard
            .reserve(MOVED_STRING_BYTES_MAX + leaves.as_ref().map_or(0, |coldest| coldest.frame_bytes))
            .and_then(|()| {
                let up = unlocked(guard.keyspace(now_ms).move_to_memory(key))?;
                let mut down = None;
                if let (Some(_), Some(coldest)) = (up, &leaves) {
                    down = unlocked(guard.keyspace(now_ms).move_to_disk(&coldest.key))?;
                }
                self.committer.memory().tracker().note_moves(up.is_some().into(), down.is_some().into());
                Ok(up.unwrap_or_default() as u64)
            });
        guard.commit();
        leave(&self.committer, guard);
        self.allowance = self.allowance.saturating_sub(done?);
        Ok(())
    }
}
