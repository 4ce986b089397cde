//! The one remover of objects: a prune and a merge decide what goes, and [`sweep`] removes it.
//!
//! Guarantees: an object is removed after every object that refers to it. The pins are read before each batch, and the
//! caller spares what they hold, so a reader that takes its pin during the sweep loses nothing. A crash at any step
//! leaves only objects that the next sweep removes. An identity without the right to delete removes nothing and learns
//! so with one request.
//!
//! Non-goals: pins and marks, each of which is a single record that its own process deletes; deciding what goes.

use crate::archive::layout::{ChunkName, ObjectName, as_text};
use crate::archive::pins::{self, PinRange, ReadPin};
use crate::archive::retry_policy::is_denied;
use crate::archive::store::Archive;
use crate::csn::CommitTime;
use crate::error::{Error, Result};
use futures::{StreamExt, stream};
use serde::{Serialize, Serializer};
use std::fmt;

/// Number of objects removed between two readings of the pins.
const REMOVALS_PER_LOOK: usize = 500;
/// Largest number of removals in parallel.
const REMOVALS_IN_FLIGHT_MAX: usize = 8;

/// Why an object is removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// The policy does not keep the object's commits.
    BeyondPolicy,
    /// A wider chunk holds its commits.
    Replaced,
    /// The object has no manifest, or no manifest names it.
    Orphan,
    /// The pin has expired.
    PinOver,
    /// A later record states how far history is thinned.
    Outdated,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeyondPolicy => "older than the policy keeps",
            Self::Replaced => "a wider chunk holds its commits",
            Self::Orphan => "nothing refers to it",
            Self::PinOver => "the pin has expired",
            Self::Outdated => "a later record repeats it",
        })
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// An object to remove.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Removal {
    /// The object.
    #[serde(serialize_with = "as_text")]
    pub object: ObjectName,
    /// Length in bytes.
    pub bytes: u64,
    /// The reason.
    pub why: Reason,
}

/// The stages of a sweep, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    /// Objects through which other objects are found.
    References,
    /// Chunks, and files of one base or run.
    Data,
    /// Files that several bases may share.
    SharedFiles,
}

impl Removal {
    fn stage(&self) -> Stage {
        match self.object {
            ObjectName::BaseManifest(_)
            | ObjectName::BaseCuts(..)
            | ObjectName::RunManifest(_)
            | ObjectName::Pin(_) => Stage::References,
            ObjectName::Sst(_) => Stage::SharedFiles,
            _ => Stage::Data,
        }
    }
}

/// Brings removals into the order in which a sweep removes them.
pub fn sort(removals: &mut [Removal]) {
    removals.sort_by_key(Removal::stage);
}

/// The result of a sweep: the removed objects.
#[derive(Debug, Default)]
pub struct Swept {
    /// Number of removed objects; an object that was already gone counts.
    pub removed: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// The store's refusal, if this identity may not remove objects; the sweep then ended early.
    pub denied: Option<Error>,
}

/// Removes objects, which must be in the order of [`sort`]. Before each batch, `spare` receives the current pins and
/// the batch and returns the objects of the batch that may still be removed; an error ends the sweep.
pub async fn sweep(
    archive: &Archive,
    removals: &[Removal],
    mut spare: impl FnMut(Vec<ReadPin>, &[Removal]) -> Result<Vec<Removal>>,
) -> Result<Swept> {
    assert!(removals.is_sorted_by_key(Removal::stage), "what refers to an object is removed before the object");
    let mut swept = Swept::default();
    for stage in removals.chunk_by(|one, next| one.stage() == next.stage()) {
        for batch in stage.chunks(REMOVALS_PER_LOOK) {
            let batch = spare(pins::list(archive).await?, batch)?;
            remove(archive, &batch, &mut swept).await?;
            if swept.denied.is_some() {
                return Ok(swept);
            }
        }
    }
    Ok(swept)
}

/// Removes one batch.
async fn remove(archive: &Archive, batch: &[Removal], swept: &mut Swept) -> Result<()> {
    // The first object is removed alone, so that an identity without the right to delete learns it with one request.
    let (first, others) = batch.split_at(batch.len().min(1));
    for part in [first, others] {
        let delete = |removal: Removal| {
            let archive = archive.clone();
            async move { (removal.bytes, archive.delete(&removal.object).await) }
        };
        let deletes: Vec<_> = part.iter().cloned().map(delete).collect();
        let mut done = stream::iter(deletes).buffered(REMOVALS_IN_FLIGHT_MAX);
        while let Some((bytes, outcome)) = done.next().await {
            match outcome {
                Ok(()) => {
                    swept.removed += 1;
                    swept.bytes += bytes;
                }
                Err(error) if matches!(&error, Error::Store { source, .. } if is_denied(source)) => {
                    swept.denied = Some(error);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Reports whether a pin that holds at `now` may need the chunk. The line of the pin is not looked at, so that the
/// answer needs no listing. A pin that cannot be read holds every chunk.
#[must_use]
pub fn is_pinned(pins: &[ReadPin], chunk: ChunkName, now: CommitTime) -> bool {
    let may_need = |range: PinRange| range.from < chunk.last && chunk.first <= range.until;
    pins.iter().any(|pin| match &pin.record {
        Ok(record) => record.holds(&pin.stored, now) && may_need(record.range),
        Err(_) => true,
    })
}
