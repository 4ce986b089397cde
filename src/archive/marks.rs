//! Marks in the archive: named restore points.
//!
//! Guarantees: a mark is written create-only. Its writer writes it only once the archive can restore its commit, so a
//! name found here can be restored for as long as the mark exists.

use super::digested;
use super::identity::ARCHIVE_FORMAT;
use super::layout::{BaseName, ObjectName};
use super::lineage::Lineage;
use super::store::{Archive, Creation};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::error::{Error, Result};
use crate::plain_name::PlainName;
use crate::position::Position;
use serde::{Deserialize, Serialize};

/// Content of `marks/<name>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MarkRecord {
    /// Version of the record.
    pub format: u32,
    /// The mark's name, as in the object's name.
    pub name: String,
    /// The mark's own commit: a restore to the mark ends with it.
    pub csn: Csn,
    /// The epoch that made the mark.
    pub epoch: Epoch,
    /// Commit time of the mark, in microseconds since the Unix epoch.
    pub time: CommitTime,
    /// History hash after the commit before the mark: the hash of the state that the mark names.
    pub hash_before: HistoryHash,
}

impl MarkRecord {
    /// Returns the record of a mark made at `at`. The hash in `at` is the history hash before the mark's commit.
    #[must_use]
    pub fn new(name: &PlainName, at: Position) -> Self {
        let Position { csn, epoch, time, hash } = at;
        Self { format: ARCHIVE_FORMAT, name: name.to_string(), csn, epoch, time, hash_before: hash }
    }

    /// Reports whether the mark's commit lies on a line of history.
    #[must_use]
    pub fn is_on(&self, lineage: &Lineage) -> bool {
        lineage.contains(BaseName { csn: self.csn, epoch: self.epoch }) && lineage.epoch_at(self.csn) == self.epoch
    }
}

/// Outcome of writing a mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MarkCreation {
    /// The mark is stored, by this call or by an earlier one.
    There,
    /// Another mark has the name.
    Taken(MarkRecord),
}

/// Writes a mark unless its name is taken.
pub async fn create(archive: &Archive, name: &PlainName, record: &MarkRecord) -> Result<MarkCreation> {
    let object = ObjectName::Mark(name.clone());
    if digested::create(archive, &object, record).await? == Creation::Created {
        return Ok(MarkCreation::There);
    }
    let found = read(archive, name).await?.ok_or_else(|| Error::StoreContract {
        url: archive.url().to_owned(),
        detail: format!("refused to create {object} as an existing object, but does not return the object"),
    })?;
    Ok(if found == *record { MarkCreation::There } else { MarkCreation::Taken(found) })
}

/// Returns the mark with this name; `None` if there is none.
pub async fn read(archive: &Archive, name: &PlainName) -> Result<Option<MarkRecord>> {
    let object = ObjectName::Mark(name.clone());
    let found: Option<MarkRecord> = digested::read(archive, &object, ARCHIVE_FORMAT).await?;
    if let Some(found) = found.as_ref().filter(|found| found.name != name.as_str()) {
        return Err(Error::corrupt(
            archive.full_name(&object),
            "name",
            format!("the object contains mark {:?}", found.name),
        ));
    }
    Ok(found)
}
