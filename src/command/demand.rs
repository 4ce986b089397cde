//! How large the effects of a request can be, as far as that shows before the request runs, and what must be reserved
//! for it.
//!
//! The arguments of most requests show that their effects are small, and such requests need nothing. The effects of
//! other requests are bounded while they are gathered (`max-commit-bytes`). A request that could exceed the bound after
//! it has changed a key in memory runs in a way that can be taken back.

use super::args::Args;
use super::client::Queue;
use super::definition::{Command, Flag, Table};
use crate::commit::guards::WriterGuard;
use crate::config::{COMMIT_BYTES_MAX, COMMIT_BYTES_MIN};
use crate::engine::keyspace::{Access, Found, Keyspace};

/// Bytes of effects up to which a request needs no reservation.
const SMALL_BYTES_MAX: usize = COMMIT_BYTES_MIN as usize;

/// Largest number of bytes of a row beside the user's key and the element: slot, generation, lengths, metadata.
const ROW_OVERHEAD_BYTES: usize = 64;
/// Largest number of effects for one row. Before a key is set, its old value may be deleted and its expiry be
/// forgotten; a transaction may delete what it has set.
const EFFECTS_PER_ROW: usize = 4;

/// The log room and the bound that a writing request needs before it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Demand {
    /// Bytes to ask [`crate::commit::guards::WriterGuard::reserve`] for.
    pub room_bytes: usize,
    /// Whether the effects are bounded while they are gathered.
    pub is_bounded: bool,
    /// Whether it must be possible to take the effects back.
    pub can_be_taken_back: bool,
}

/// Returns the bytes of the rows that a command's arguments can become. Each argument may become a row that repeats the
/// key.
#[must_use]
pub(super) fn row_bytes(args: Args<'_>) -> usize {
    rows_of(args, byte_len(args))
}

fn rows_of(args: Args<'_>, bytes: usize) -> usize {
    let key_bytes = args.try_get(1).map_or(0, <[u8]>::len);
    bytes.saturating_add(args.len().saturating_mul(key_bytes + ROW_OVERHEAD_BYTES))
}

fn byte_len(args: Args<'_>) -> usize {
    args.iter().map(<[u8]>::len).sum()
}

fn is_large(row_bytes: usize) -> bool {
    row_bytes > SMALL_BYTES_MAX / EFFECTS_PER_ROW
}

impl Demand {
    /// Returns the demand of one command.
    pub(super) fn of_command(command: &Command, args: Args<'_>, turn: &mut WriterGuard<'_>) -> Self {
        let bytes = byte_len(args);
        let rows = rows_of(args, bytes);
        if is_large(rows) {
            let room_bytes = room(bytes, rows, reaches_memory(command, args, &turn.keyspace(0)));
            return Self { room_bytes, is_bounded: true, can_be_taken_back: true };
        }
        // Other commands ask for room before their first effect. The commands that are usually quick are left out,
        // because this would slow them down.
        let is_bounded = command.has(Flag::Copies) || command.has(Flag::Multiplies);
        let can_be_taken_back =
            command.has(Flag::Multiplies) && !command.has(Flag::Fast) && !command.has(Flag::DenyOom);
        Self { room_bytes: bytes, is_bounded, can_be_taken_back }
    }

    /// Returns the demand of the commands that MULTI has queued.
    pub(super) fn of_queue(queue: &Queue, table: &Table, turn: &mut WriterGuard<'_>, now_ms: u64) -> Access<Self> {
        let keys = turn.keyspace(now_ms);
        let mut rows = queue.row_bytes;
        for (command, args) in table.queued(queue) {
            if is_large(rows) {
                break;
            }
            if command.has(Flag::Multiplies) {
                rows = usize::MAX;
            } else if command.has(Flag::Copies) {
                let held = match args.try_get(1).map(|key| keys.find(key)).transpose()? {
                    Some(Found::String(value)) => value.len(),
                    _ => 0,
                };
                rows = rows.saturating_add(held + queue.bytes);
            }
        }
        if !is_large(rows) {
            return Ok(Self { room_bytes: queue.bytes, is_bounded: false, can_be_taken_back: false });
        }
        let reaches_memory = table.queued(queue).any(|(command, args)| reaches_memory(command, args, &keys));
        let room_bytes = room(queue.bytes, queue.row_bytes, reaches_memory);
        Ok(Self { room_bytes, is_bounded: true, can_be_taken_back: true })
    }
}

/// Returns the room for the op-log frame of a large request. If keys in memory take part, the frame holds all
/// effects.
fn room(bytes: usize, row_bytes: usize, reaches_memory: bool) -> usize {
    if reaches_memory { bytes.max(row_bytes.min(COMMIT_BYTES_MAX as usize) / 2) } else { 0 }
}

/// Reports whether a command may change keys in memory.
fn reaches_memory(command: &Command, args: Args<'_>, keys: &Keyspace<'_>) -> bool {
    keys.grows_memory()
        || matches!(command.group, "list" | "sorted-set")
        || command.keys_in(args).any(|key| keys.memory().get(key).is_some())
}
