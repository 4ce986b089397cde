//! Walks over the keys of the disk engines, slot by slot.
//!
//! Guarantees: slots that are known to be empty are skipped, so that a walk over few keys costs little however many
//! keys were deleted. A walk that spans out of time ends between two slots and can be continued there.

use super::batch::Family;
use super::key::{self, SLOTS};
use super::keyspace::{Access, Keyspace};
use super::scan::{Direction, Overlaid, Scan};
use crate::error::{Error, Result};
use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

/// Largest number of slots that are walked between two looks at the clock.
const SPAN_SLOTS_MAX: u16 = 1024;
/// Largest number of empty slots in a row that are walked with the used slots around them: passing the tombstones in
/// them is cheaper than a new scan.
const UNUSED_SLOTS_MAX: u16 = 64;

/// How long [`Keyspace::clear`] searches for a key on disk before it deletes all keys anyway.
const EMPTINESS_TIME: Duration = Duration::from_millis(5);

/// A key that a walk meets.
#[derive(Clone, Copy)]
pub struct Met<'w> {
    /// The slot of the key.
    pub slot: u16,
    /// The stored key of the metadata; a walk can be continued from it.
    pub stored: &'w [u8],
    /// The stored metadata.
    pub meta: &'w [u8],
}

impl<'w> Met<'w> {
    /// Returns the user key.
    #[must_use]
    pub fn key(&self) -> &'w [u8] {
        &self.stored[2..]
    }
}

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walked {
    /// There are no more keys.
    End,
    /// The visitor stopped the walk.
    Stopped,
    /// The deadline passed; the walk can be continued at this slot.
    OutOfTime(u16),
}

impl Keyspace<'_> {
    /// Deletes every key. A home that is found empty gets no effect.
    pub fn clear(&mut self) -> Access<()> {
        for watched in self.held().watches.watched() {
            if !self.find(&watched)?.is_absent() {
                self.touch(&watched);
            }
        }
        let deadline = Instant::now() + EMPTINESS_TIME;
        let walked = self.walk(&[0, 0], deadline, |_| Ok(ControlFlow::Break(())))?;
        let is_disk_empty = walked == Walked::End;
        let held = self.held();
        if !is_disk_empty {
            held.effects.clear();
            held.expiries.clear();
        }
        if !self.memory().is_empty() {
            self.change_unnoticed(|ops| ops.clear())?;
        }
        Ok(())
    }

    /// Calls `visit` for each key from `from` on until `visit` breaks. `from` is a slot number (two bytes, big-endian)
    /// or a stored key. A walk that reaches `deadline` ends at the next slot where it looks at the clock; every call
    /// walks at least one span of slots.
    pub fn walk(
        &self,
        from: &[u8],
        deadline: Instant,
        mut visit: impl FnMut(Met<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<Walked> {
        let range = from.to_vec()..SLOTS.to_be_bytes().to_vec();
        let laid_over = self.overlay().map_or_else(Vec::new, |overlay| overlay.in_range(Family::Default, &range));
        let mut overlaid: Vec<u16> = laid_over.iter().filter_map(|(stored, _)| key::slot_of_meta(stored)).collect();
        overlaid.dedup();
        let (mut from, mut spans) = (range.start, 0);
        while let Some(span) = self.used_span(slot_of(&from)?, &overlaid) {
            if span.start > slot_of(&from)? {
                from = span.start.to_be_bytes().to_vec();
            }
            if spans > 0 && Instant::now() >= deadline {
                return Ok(Walked::OutOfTime(span.start));
            }
            spans += 1;
            if self.walk_span(&from, &span, &laid_over, &mut visit)?.is_break() {
                return Ok(Walked::Stopped);
            }
            if span.end == SLOTS {
                break;
            }
            from = span.end.to_be_bytes().to_vec();
        }
        Ok(Walked::End)
    }

    /// Walks the slots of a span from `from` on, which lies in the span.
    fn walk_span(
        &self,
        from: &[u8],
        span: &Range<u16>,
        laid_over: &[Overlaid<'_>],
        visit: &mut impl FnMut(Met<'_>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        // The walk learns nothing about a slot that it enters in the middle, nor about slots in which groups that may
        // still be taken back changed keys or hide the rows of the database.
        let below = self.overlay().is_none_or(|overlay| !overlay.is_cleared());
        let look = if below { self.disk().rows().slots().look(span.clone()) } else { None };
        let range = from.to_vec()..span.end.to_be_bytes().to_vec();
        let start = laid_over.partition_point(|(stored, _)| *stored < &*range.start);
        let end = laid_over.partition_point(|(stored, _)| *stored < &*range.end);
        let laid_over = laid_over[start..end].to_vec();
        let changed: Vec<u16> = laid_over.iter().filter_map(|(stored, _)| key::slot_of_meta(stored)).collect();
        let mut unseen = span.start + u16::from(from.len() > 2);
        let mut pass = |until: u16| {
            if let Some(look) = &look {
                let unchanged = (unseen..until).filter(|slot| changed.binary_search(slot).is_err());
                unchanged.for_each(|slot| look.found_empty(slot));
            }
            unseen = until.saturating_add(1);
        };
        let mut scan = Scan::over(self.disk().cursor(Family::Default, range), laid_over, below, Direction::Forward);
        while let Some((stored, meta)) = scan.next()? {
            let slot = slot_of(stored)?;
            pass(slot);
            if visit(Met { slot, stored, meta })?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        pass(span.end);
        Ok(ControlFlow::Continue(()))
    }

    /// Returns the next span of slots: slots that may hold keys, and the empty slots between them if they are few.
    /// `overlaid` lists the slots of keys that groups changed, ascending.
    fn used_span(&self, from: u16, overlaid: &[u16]) -> Option<Range<u16>> {
        let slots = self.disk().rows().slots();
        let mut overlaid = overlaid[overlaid.partition_point(|&slot| slot < from)..].iter().copied().peekable();
        let mut is_used = |slot: u16| overlaid.next_if_eq(&slot).is_some() || slots.may_have_keys(slot);
        let start = (from..SLOTS).find(|&slot| is_used(slot))?;
        let mut end = start + 1;
        let mut next = end;
        while next < SLOTS.min(start.saturating_add(SPAN_SLOTS_MAX)) && next - end <= UNUSED_SLOTS_MAX {
            next += 1;
            if is_used(next - 1) {
                end = next;
            }
        }
        Some(start..end)
    }
}

fn slot_of(stored: &[u8]) -> Result<u16> {
    key::slot_of_meta(stored).ok_or_else(|| Error::corrupt("metadata key", "start", "has no slot"))
}
