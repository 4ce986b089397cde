//! Changes of a hash and of a set.
//!
//! | tag | change | fields after the key |
//! |---|---|---|
//! | 32 | put fields | pairs of field and value |
//! | 33 | remove fields | fields |
//! | 48 | add members | members |
//! | 49 | remove members | members |
//!
//! Putting fields and adding members creates the key if it does not exist; the other changes need the key. A key whose
//! hash or set becomes empty is removed.

use super::codec::{Reader, Sequence, put_bytes, put_sequence};
use super::{Change, Encoder, divergence, wrong_type};
use crate::engine::memory::slot::{Slot, Type};
use crate::error::Result;

const PUT_FIELDS: u8 = 32;
const REMOVE_FIELDS: u8 = 33;
const ADD_MEMBERS: u8 = 48;
const REMOVE_MEMBERS: u8 = 49;

/// A change of one hash or set. The fields are listed in the table above.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(missing_docs, reason = "the table above has them")]
pub enum ElementsChange<'a> {
    PutFields { pairs: Sequence<'a, (&'a [u8], &'a [u8])> },
    RemoveFields { fields: Sequence<'a, &'a [u8]> },
    AddMembers { members: Sequence<'a, &'a [u8]> },
    RemoveMembers { members: Sequence<'a, &'a [u8]> },
}

impl Encoder<'_> {
    /// Sets fields of a hash. There must be at least one pair of field and value.
    pub fn put_fields<'e>(&mut self, key: &[u8], pairs: impl ExactSizeIterator<Item = (&'e [u8], &'e [u8])>) {
        self.head(PUT_FIELDS, key);
        put_sequence(self.ops, pairs, |out, (field, value)| {
            put_bytes(out, field);
            put_bytes(out, value);
        });
    }

    /// Removes fields of a hash, which must exist. There must be at least one.
    pub fn remove_fields<'e>(&mut self, key: &[u8], fields: impl ExactSizeIterator<Item = &'e [u8]>) {
        self.head(REMOVE_FIELDS, key);
        put_sequence(self.ops, fields, put_bytes);
    }

    /// Adds members to a set. There must be at least one.
    pub fn add_members<'e>(&mut self, key: &[u8], members: impl ExactSizeIterator<Item = &'e [u8]>) {
        self.head(ADD_MEMBERS, key);
        put_sequence(self.ops, members, put_bytes);
    }

    /// Removes members of a set, which must exist. There must be at least one.
    pub fn remove_members<'e>(&mut self, key: &[u8], members: impl ExactSizeIterator<Item = &'e [u8]>) {
        self.head(REMOVE_MEMBERS, key);
        put_sequence(self.ops, members, put_bytes);
    }
}

impl<'a> Change<'a> for ElementsChange<'a> {
    fn read(tag: u8, from: &mut Reader<'a>) -> Result<Option<Self>> {
        Ok(Some(match tag {
            PUT_FIELDS => Self::PutFields { pairs: from.sequence()? },
            REMOVE_FIELDS => Self::RemoveFields { fields: from.sequence()? },
            ADD_MEMBERS => Self::AddMembers { members: from.sequence()? },
            REMOVE_MEMBERS => Self::RemoveMembers { members: from.sequence()? },
            _ => return Ok(None),
        }))
    }

    fn create(self, key: &[u8]) -> Option<Slot> {
        match self {
            Self::PutFields { pairs } => {
                let mut pairs = pairs.iter();
                let (field, value) = pairs.next().expect("a sequence is never empty");
                let mut slot = Slot::hash(key, 0, field, value);
                for (field, value) in pairs {
                    slot.set_field(field, value);
                }
                Some(slot)
            }
            Self::AddMembers { members } => {
                let mut members = members.iter();
                let mut slot = Slot::set(key, 0, members.next().expect("a sequence is never empty"));
                for member in members {
                    slot.add_member(member);
                }
                Some(slot)
            }
            Self::RemoveFields { .. } | Self::RemoveMembers { .. } => None,
        }
    }

    fn apply(self, slot: &mut Slot) -> Result<()> {
        let wanted = match self {
            Self::PutFields { .. } | Self::RemoveFields { .. } => Type::Hash,
            Self::AddMembers { .. } | Self::RemoveMembers { .. } => Type::Set,
        };
        if slot.value_type() != wanted {
            return Err(wrong_type(slot, wanted));
        }
        match self {
            Self::PutFields { pairs } => pairs.iter().for_each(|(field, value)| {
                slot.set_field(field, value);
            }),
            Self::AddMembers { members } => members.iter().for_each(|member| {
                slot.add_member(member);
            }),
            Self::RemoveFields { fields } => {
                for field in fields.iter() {
                    if !slot.remove_field(field) {
                        return Err(divergence(slot.key(), "the hash lacks a field that is removed"));
                    }
                }
            }
            Self::RemoveMembers { members } => {
                for member in members.iter() {
                    if !slot.remove_member(member) {
                        return Err(divergence(slot.key(), "the set lacks a member that is removed"));
                    }
                }
            }
        }
        Ok(())
    }
}
