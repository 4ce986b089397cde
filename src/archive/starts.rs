//! Starts of a writer: which process may write under an epoch, and how an older process is fenced.
//!
//! Guarantees: each start of a primary claims the next number under its epoch by one create-only object. Of two
//! processes with one identity (a copied directory, an older state of the directory), at most one continues under the
//! epoch; the other finds a start that is not its own. A running writer learns by two GETs, without a LIST, that
//! another process took over: either the next epoch's record or the next start of its own epoch exists.

use super::digested;
use super::epochs::read_record;
use super::identity::ARCHIVE_FORMAT;
use super::layout::ObjectName;
use super::store::{Archive, Creation};
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash, Incarnation};
use crate::directory::WriterStart;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Content of `epochs/<epoch>/<number>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StartRecord {
    /// Version of the record, [`ARCHIVE_FORMAT`].
    pub format: u32,
    /// Epoch that the writer continues.
    pub epoch: Epoch,
    /// The number, as in the object's name.
    pub number: u32,
    /// Random number of this start.
    pub incarnation: Incarnation,
    /// The last commit that the writer had when it started.
    pub csn: Csn,
    /// History hash after commit `csn`.
    pub hash: HistoryHash,
    /// Name of the writer's node.
    pub node: String,
    /// Time of the start by the writer's clock, in microseconds since the Unix epoch.
    pub time: CommitTime,
}

impl StartRecord {
    /// Returns the start that this record describes.
    #[must_use]
    pub fn start(&self) -> WriterStart {
        WriterStart { epoch: self.epoch, number: self.number, incarnation: self.incarnation }
    }
}

/// Outcome of claiming a start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartClaim {
    /// This call claimed the number.
    Claimed,
    /// The number already belonged to this start: the process claimed it and died before it received the answer.
    AlreadyMine,
    /// The number belongs to another process.
    Taken(StartRecord),
}

/// Claims the start number in `record` for this process.
pub async fn claim(archive: &Archive, record: &StartRecord) -> Result<StartClaim> {
    let name = ObjectName::Start(record.epoch, record.number);
    if digested::create(archive, &name, record).await? == Creation::Created {
        return Ok(StartClaim::Claimed);
    }
    let found = read(archive, record.epoch, record.number).await?.ok_or_else(|| Error::StoreContract {
        url: archive.url().to_owned(),
        detail: format!("refused to create {name} as an existing object, but does not return the object. Try again"),
    })?;
    Ok(if found.start() == record.start() { StartClaim::AlreadyMine } else { StartClaim::Taken(found) })
}

/// Returns the record of one start, or `None` if no process claimed it.
pub async fn read(archive: &Archive, epoch: Epoch, number: u32) -> Result<Option<StartRecord>> {
    let name = ObjectName::Start(epoch, number);
    let found: Option<StartRecord> = digested::read(archive, &name, ARCHIVE_FORMAT).await?;
    match found {
        Some(found) if (found.epoch, found.number) != (epoch, number) => {
            let detail = format!("the object contains start {} of epoch {}", found.number, found.epoch);
            Err(Error::corrupt(archive.full_name(&name), "number", detail))
        }
        found => Ok(found),
    }
}

/// Checks whether the writer of epoch `own`, in its start `number`, may go on: [`Error::Fenced`] if the next epoch or
/// the next start of its own epoch was claimed.
pub async fn check_fence(archive: &Archive, own: Epoch, number: u32) -> Result<()> {
    let (epoch, start) = futures::future::join(read_record(archive, own.next()), read(archive, own, number + 1)).await;
    if let Some(newer) = epoch? {
        return Err(Error::Fenced { own, newer: newer.epoch, node: newer.node });
    }
    match start? {
        Some(newer) => {
            let node = format!("{} (by a later start from this data directory or from a copy of it)", newer.node);
            Err(Error::Fenced { own, newer: own, node })
        }
        None => Ok(()),
    }
}
