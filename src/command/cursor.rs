//! Cursors of HSCAN and SSCAN, and of SCAN within a slot of very many keys: numbers that stand for the name at which an
//! iteration continues.
//!
//! Guarantees: the table is bounded and holds the newest cursors. A cursor that was dropped, or was given out before a
//! restart, is unknown: numbers begin at the time of the process' start, so that none is given out twice.

use hashbrown::HashMap;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::LazyLock;

/// Cursors kept.
const CURSORS_MAX: usize = 4096;
/// Microseconds of the process' life for each cursor that it may give out, so that numbers stay below 48 bits.
const MICROS_PER_CURSOR: u64 = 16;
/// Bytes of names kept, unless a single name is longer.
const NAME_BYTES_MAX: usize = 16 << 20;

static CURSORS: LazyLock<Mutex<Cursors>> =
    LazyLock::new(|| Mutex::new(Cursors::starting_at(crate::clock::now_micros() / MICROS_PER_CURSOR)));

/// The newest cursors.
#[derive(Default)]
struct Cursors {
    names: HashMap<u64, Vec<u8>>,
    /// Numbers of the cursors, oldest first.
    order: VecDeque<u64>,
    /// Bytes of all names.
    bytes: usize,
    next: u64,
}

impl Cursors {
    /// Makes an empty table whose first cursor gets the number `first`, or 1 if that is 0.
    fn starting_at(first: u64) -> Self {
        Self { next: first.max(1), ..Self::default() }
    }

    fn keep(&mut self, name: Vec<u8>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += name.len();
        self.names.insert(number, name);
        self.order.push_back(number);
        while self.order.len() > 1 && (self.order.len() > CURSORS_MAX || self.bytes > NAME_BYTES_MAX) {
            let oldest = self.order.pop_front().expect("more than one is kept");
            self.bytes -= self.names.remove(&oldest).map_or(0, |name| name.len());
        }
        number
    }
}

/// Returns a new cursor, never 0, for an iteration that continues at `name`.
pub(super) fn keep(name: Vec<u8>) -> u64 {
    CURSORS.lock().keep(name)
}

/// Returns the name at which a cursor's iteration continues; `None` if the cursor is unknown.
pub(super) fn find(cursor: u64) -> Option<Vec<u8>> {
    CURSORS.lock().names.get(&cursor).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cursors_are_kept() {
        let mut cursors = Cursors::starting_at(0);
        let numbers: Vec<u64> = (0..CURSORS_MAX + 2).map(|name| cursors.keep(name.to_string().into())).collect();
        assert_eq!((numbers[0], numbers[1]), (1, 2));
        assert!(!cursors.names.contains_key(&numbers[1]));
        assert_eq!(cursors.names[&numbers[2]], b"2");
        assert_eq!(cursors.names.len(), CURSORS_MAX);
        let large = cursors.keep(vec![0; NAME_BYTES_MAX + 1]);
        assert_eq!((cursors.order.len(), cursors.names[&large].len()), (1, cursors.bytes));
        cursors.keep(Vec::new());
        assert_eq!((cursors.order.len(), cursors.bytes), (1, 0));
    }
}
