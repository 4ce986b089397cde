//! What a prune decides from.
//!
//! Guarantees: one LIST, and one small GET for each manifest, mark, pin and epoch record, and for each chunk that the
//! store received before the fine window began. A chunk received later is within it whatever its header says, because
//! commits are older than their upload.

use super::timeline::Span;
use crate::archive::identity;
use crate::archive::layout::{BaseName, ChunkName, ObjectName, PlainName};
use crate::archive::listing::Listing;
use crate::archive::marks::{self, MarkRecord};
use crate::archive::pins::{self, ReadPin};
use crate::archive::store::Archive;
use crate::archive::thinned::Thinned;
use crate::chunk::ChunkHeader;
use crate::csn::CommitTime;
use crate::error::{Error, Kind, Result};
use crate::keep::{Keep, micros};
use crate::restore::history::read_manifest;
use crate::snapshot::manifest::Manifest;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;

/// Small objects being read at a time.
const READS_IN_FLIGHT_MAX: usize = 32;

/// Everything a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// What is there.
    pub listing: Listing,
    /// What manifests tell, or why one cannot be read.
    pub facts: BTreeMap<BaseName, Result<Facts, String>>,
    /// Times of the chunks that lie before the fine window.
    pub spans: BTreeMap<ChunkName, Span>,
    /// Marks, or why one cannot be read.
    pub marks: BTreeMap<PlainName, Result<MarkRecord, String>>,
    /// Pins.
    pub pins: Vec<ReadPin>,
    /// How far history is thinned already.
    pub thinned: Thinned,
    /// The time that windows and grace are counted from, microseconds since the Unix epoch.
    pub now: CommitTime,
}

/// What retention needs of a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Time of the commit it lies at.
    pub time: CommitTime,
    /// Its objects and their lengths, without the manifest.
    pub files: Vec<(ObjectName, u64)>,
}

impl From<&Manifest> for Facts {
    fn from(manifest: &Manifest) -> Self {
        let base = manifest.base();
        let own = manifest.memory.files.iter().chain(&manifest.completion);
        let own = own.map(|file| (file.object(base), file.bytes));
        let disk = manifest.disk.files.iter().map(|file| (file.object(base), file.bytes));
        Self { time: manifest.time, files: own.chain(disk).collect() }
    }
}

impl Material {
    /// Reads it as of `now`.
    pub async fn read(archive: &Archive, keep: &Keep, now: CommitTime) -> Result<Self> {
        let cluster = identity::require(archive).await?;
        let mut listing = Listing::read(archive).await?;
        let facts = listing.whole_bases().map(|base| async move {
            let found = read_manifest(archive, cluster, base).await;
            Ok::<_, Error>((base, told(found.map(|manifest| Facts::from(&manifest)))?))
        });
        let facts = stream::iter(facts).buffer_unordered(READS_IN_FLIGHT_MAX).try_collect::<BTreeMap<_, _>>().await?;
        for (base, objects) in &mut listing.bases {
            if facts.get(base).is_some_and(Option::is_none) {
                // Another prune removed it meanwhile: its files are what is left of it.
                objects.manifest = None;
            }
        }
        let facts = facts.into_iter().filter_map(|(base, facts)| facts.map(|facts| (base, facts))).collect();
        let marks = listing.marks.keys().map(|name| async move {
            let found = marks::read(archive, name).await.transpose();
            let found = found.map(told).transpose()?.flatten();
            Ok::<_, Error>(found.map(|found| (name.clone(), found)))
        });
        let marks =
            stream::iter(marks).buffer_unordered(READS_IN_FLIGHT_MAX).try_filter_map(|found| async { Ok(found) });
        let marks = marks.try_collect().await?;
        let pins = pins::read_all(archive, &listing.pins).await?;
        let thinned = if listing.thinned.is_some() { Thinned::read(archive).await? } else { Thinned::default() };
        let spans = read_spans(archive, &listing, keep, now).await?;
        Ok(Self { listing, facts, spans, marks, pins, thinned, now })
    }
}

/// A record that cannot be read is a fact; a failing store ends the reading; `None`: it is gone.
fn told<T>(found: Result<T>) -> Result<Option<Result<T, String>>> {
    match found {
        Ok(found) => Ok(Some(Ok(found))),
        Err(Error::Vanished { .. }) => Ok(None),
        Err(error) if error.kind() == Kind::Integrity => Ok(Some(Err(error.to_string()))),
        Err(error) => Err(error),
    }
}

async fn read_spans(
    archive: &Archive,
    listing: &Listing,
    keep: &Keep,
    now: CommitTime,
) -> Result<BTreeMap<ChunkName, Span>> {
    let Some(windows) = keep.windows() else { return Ok(BTreeMap::new()) };
    let start = now.0.saturating_sub(micros(windows.fine));
    let is_old = |modified: i64| u64::try_from(modified).unwrap_or_default() < start;
    let old = listing.chunks.iter().filter(|(_, stored)| is_old(stored.modified.timestamp_micros()));
    let reads = old.map(|(chunk, _)| async move {
        let name = ObjectName::Chunk(*chunk);
        let Some(bytes) = archive.get_range(&name, 0..ChunkHeader::ENCODED_LEN as u64).await? else { return Ok(None) };
        match ChunkHeader::decode(&bytes, &name.to_string()) {
            Ok(header) => Ok::<_, Error>(Some((*chunk, Span { first: header.first_time, last: header.last_time }))),
            // Kept as if it were young: what it holds is for `verify` to say.
            Err(error) if error.kind() == Kind::Integrity => Ok(None),
            Err(error) => Err(error),
        }
    });
    let spans =
        stream::iter(reads).buffer_unordered(READS_IN_FLIGHT_MAX).try_filter_map(|found| async move { Ok(found) });
    let spans: BTreeMap<ChunkName, Span> = spans.try_collect().await?;
    Ok(spans.into_iter().filter(|(_, span)| span.last.0 < start).collect())
}
