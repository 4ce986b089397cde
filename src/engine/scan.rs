//! Ordered walk over a range of disk keys, with the effects that are not in the database yet laid over its state.

use super::batch::Family;
use super::disk::Disk;
use super::effects::Overlay;
use crate::error::{Error, Result};
use rocksdb::DBRawIterator;
use std::iter::Peekable;
use std::ops::Range;
use std::vec::IntoIter;

/// Which way a scan goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the lowest key up.
    Forward,
    /// From the highest key down.
    Backward,
}

/// A key and the value the groups gave it; none: they deleted the key.
pub(super) type Overlaid<'a> = (&'a [u8], Option<&'a [u8]>);

/// A walk over a key range. It sees one state of the database.
pub struct Scan<'a> {
    cursor: DBRawIterator<'a>,
    /// The groups' effects in the range, in scan order; a deletion has no value.
    overlay: Peekable<IntoIter<Overlaid<'a>>>,
    direction: Direction,
    /// Whether the database's state below the groups counts.
    below: bool,
    /// Whether the cursor stands on a key that was returned already.
    is_used: bool,
}

impl<'a> Scan<'a> {
    /// A scan over `range` (start inclusive, end exclusive).
    #[must_use]
    pub fn new(
        disk: &'a Disk,
        effects: Option<Overlay<'a>>,
        family: Family,
        range: Range<Vec<u8>>,
        direction: Direction,
    ) -> Self {
        let overlay = effects.map_or_else(Vec::new, |effects| effects.in_range(family, &range));
        let below = effects.is_none_or(|effects| !effects.is_cleared());
        Self::over(disk.cursor(family, range), overlay, below, direction)
    }

    /// A scan over a cursor's range, with what was found for it in the groups. `below`: whether the database's state counts.
    pub(super) fn over(
        mut cursor: DBRawIterator<'a>,
        mut overlay: Vec<Overlaid<'a>>,
        below: bool,
        direction: Direction,
    ) -> Self {
        if direction == Direction::Forward {
            cursor.seek_to_first();
        } else {
            cursor.seek_to_last();
            overlay.reverse();
        }
        Self { cursor, overlay: overlay.into_iter().peekable(), direction, below, is_used: false }
    }

    /// The next key and its value; `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "what it returns borrows from the scan")]
    pub fn next(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        loop {
            self.advance_cursor();
            let stored = if self.below { self.cursor.key() } else { None };
            let laid_over = self.overlay.peek().map(|(key, _)| *key);
            let takes_overlay = match (stored, laid_over) {
                (None, None) => {
                    self.cursor.status().map_err(Error::rocks("scan a range"))?;
                    return Ok(None);
                }
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (Some(stored), Some(over)) => {
                    if stored == over {
                        self.is_used = true;
                    }
                    match self.direction {
                        Direction::Forward => over <= stored,
                        Direction::Backward => over >= stored,
                    }
                }
            };
            if !takes_overlay {
                self.is_used = true;
                return Ok(self.cursor.item());
            }
            if let Some((key, Some(value))) = self.overlay.next() {
                return Ok(Some((key, value)));
            }
        }
    }

    fn advance_cursor(&mut self) {
        if std::mem::take(&mut self.is_used) {
            match self.direction {
                Direction::Forward => self.cursor.next(),
                Direction::Backward => self.cursor.prev(),
            }
        }
    }
}
