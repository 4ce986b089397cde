//! Marks: named restore points, each a commit of its own.
//!
//! A mark is a system key of the disk engines. So it is as durable as any commit, reaches every replica, is in every
//! later base, and comes back with a restore. Guarantees: a name stands for one commit; FLUSHALL leaves marks in
//! place; marks do not count as keys. The archive is told about marks by the primary's mark keeper, not here.

use super::committer::Committer;
use crate::csn::Csn;
use crate::engine::batch::Family;
use crate::engine::key;
use crate::error::{Error, Result};
use crate::plain_name::PlainName;
use crate::position::Position;

/// A named restore point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The name, unique among the marks of a node.
    pub name: PlainName,
    /// Position of the mark's own commit. The named state is the state before that commit, and the history hash is the
    /// one before it.
    pub at: Position,
}

impl Committer {
    /// Returns all marks, by name.
    pub fn marks(&self) -> Result<Vec<Mark>> {
        let mut cursor = self.disk().cursor(Family::Default, key::mark_range());
        cursor.seek_to_first();
        let mut marks = Vec::new();
        while let Some((key, value)) = cursor.item() {
            let name = key::parse_mark(key).and_then(|name| name.parse().ok());
            let name =
                name.ok_or_else(|| Error::corrupt("RocksDB", "a mark's key", "does not contain a valid name"))?;
            marks.push(Mark { name, at: Position::decode(value)? });
            cursor.next();
        }
        cursor.status().map_err(Error::rocks("read the marks"))?;
        Ok(marks)
    }

    /// Returns the mark with this name, if there is one.
    pub fn find_mark(&self, name: &PlainName) -> Result<Option<Mark>> {
        let stored = self.disk().get(Family::Default, &key::mark(name.as_str()))?;
        stored.map(|value| Ok(Mark { name: name.clone(), at: Position::decode(&value)? })).transpose()
    }

    /// Names the present state by a commit. Blocks. Returns [`Error::Conflict`] if the name is taken.
    pub fn make_mark(&self, name: &PlainName) -> Result<Mark> {
        let mut turn = self.lock_logs();
        if let Some(Mark { at, .. }) = self.find_mark(name)? {
            let reason = format!("mark {name} is taken: it names csn {} of {}. Choose another name", at.csn, at.time);
            return Err(Error::Conflict { reason });
        }
        turn.reserve(0)?;
        let at = turn.commit_with(|effects, at| {
            effects.put(Family::Default, &key::mark(name.as_str()), &at.encode());
        });
        turn.write()?;
        Ok(Mark { name: name.clone(), at })
    }

    /// Removes a mark by a commit, and returns the commit's csn; `None` if there is no mark with this name. Blocks.
    pub fn remove_mark(&self, name: &PlainName) -> Result<Option<Csn>> {
        let mut turn = self.lock_logs();
        if self.find_mark(name)?.is_none() {
            return Ok(None);
        }
        turn.reserve(0)?;
        turn.commit_with(|effects, _| effects.delete(Family::Default, &key::mark(name.as_str())));
        turn.write()
    }
}

#[cfg(test)]
mod tests {
    use super::super::committer::tests::{Rig, change};
    use super::*;
    use crate::config::AppendFsync;

    fn name(text: &str) -> PlainName {
        text.parse().unwrap()
    }

    #[test]
    fn a_mark_is_a_commit_that_tells_of_itself_and_outlives_flushall() {
        let rig = Rig::new(AppendFsync::Always);
        let committer = &rig.committer;
        let mut turn = committer.lock_logs();
        change(&mut turn.guard, true, true).unwrap();
        turn.write().unwrap();
        drop(turn);
        let before = committer.position().hash;
        let mark = committer.make_mark(&name("b")).unwrap();
        assert_eq!(mark.at, Position { hash: before, ..committer.position() });
        assert_eq!(mark.at.csn, Csn(2));
        let taken = committer.make_mark(&name("b")).unwrap_err().to_string();
        assert!(taken.contains("csn 2") && taken.contains("taken"), "{taken}");
        let mut turn = committer.lock_logs();
        turn.keyspace(0).clear().unwrap();
        turn.commit().unwrap();
        turn.write().unwrap();
        drop(turn);
        let other = committer.make_mark(&name("a")).unwrap();
        assert_eq!(committer.marks().unwrap(), [other.clone(), mark.clone()]);
        assert_eq!(committer.find_mark(&name("b")).unwrap(), Some(mark));
        assert_eq!(committer.remove_mark(&name("b")).unwrap(), Some(Csn(5)));
        assert_eq!(committer.remove_mark(&name("b")).unwrap(), None);
        assert_eq!(committer.marks().unwrap(), [other]);
    }
}
