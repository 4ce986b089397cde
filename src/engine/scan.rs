//! Ordered scan over a range of disk keys. Effects that are not in the database yet are laid over the state of the
//! database.

use super::batch::Family;
use super::disk::Disk;
use super::effects::Overlay;
use crate::error::{Error, Result};
use rocksdb::DBRawIterator;
use std::iter::Peekable;
use std::ops::Range;
use std::vec::IntoIter;

/// Direction of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the lowest key up.
    Forward,
    /// From the highest key down.
    Backward,
}

/// A key and the value that the groups gave it; `None`: the groups deleted the key.
pub(super) type Overlaid<'a> = (&'a [u8], Option<&'a [u8]>);

/// A scan over a key range. It sees one state of the database.
pub struct Scan<'a> {
    cursor: DBRawIterator<'a>,
    /// The groups' effects in the range, in scan order; a deletion has no value.
    overlay: Peekable<IntoIter<Overlaid<'a>>>,
    direction: Direction,
    /// Whether rows of the database are visible, that is, no group deleted all keys.
    below: bool,
    /// Whether the cursor stands on a key that was returned or is hidden by the overlay.
    is_used: bool,
}

impl<'a> Scan<'a> {
    /// Returns a scan over `range` (start inclusive, end exclusive).
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

    /// Returns a scan over a cursor's range. `overlay` holds the groups' effects in the range, ascending; `below` says
    /// whether rows of the database are visible.
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

    /// Returns the next key and its value; `None` at the end.
    #[expect(clippy::should_implement_trait, reason = "the returned value borrows from the scan")]
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
