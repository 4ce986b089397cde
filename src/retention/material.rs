//! Reads everything that a prune decides from.
//!
//! Guarantees: reading costs one LIST, one small GET for each manifest, mark, pin and epoch record, and one for each
//! chunk that the store received before the fine window began. A chunk received later lies within the fine window
//! whatever its header says, because commits are older than their upload. Commits whose time lies in the future count
//! as made when they were uploaded: otherwise a clock that was wrong once would keep them for ever.

use super::timeline::Span;
use crate::archive::identity;
use crate::archive::layout::{ChunkName, ObjectName, RunName};
use crate::archive::listing::{BaseStart, Listing, Stored};
use crate::archive::marks::{self, MarkRecord};
use crate::archive::pins::{self, ReadPin};
use crate::archive::store::Archive;
use crate::archive::thinned::Thinned;
use crate::chunk::ChunkHeader;
use crate::clock::STEP_MIN;
use crate::compacted_run::RunManifest;
use crate::csn::CommitTime;
use crate::error::{Error, Kind, Result};
use crate::history::line::{read_manifest, read_run_manifest};
use crate::keep::{Keep, micros};
use crate::plain_name::PlainName;
use crate::snapshot::manifest::Manifest;
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::collections::BTreeMap;

/// Largest number of small objects that are read in parallel.
const READS_IN_FLIGHT_MAX: usize = 32;

/// Everything a prune plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// The objects of the archive.
    pub listing: Listing,
    /// Facts from the manifests of bases, or the reason why a manifest cannot be read.
    pub facts: BTreeMap<BaseStart, Result<Facts, String>>,
    /// Facts from the manifests of compacted runs, or the reason why a manifest cannot be read.
    pub runs: BTreeMap<RunName, Result<Facts, String>>,
    /// Manifests whose upload was cut off. They are not in `listing`, so their bases and runs count as unfinished.
    pub cut_off: Vec<(ObjectName, Stored)>,
    /// Times of the commits in the chunks that lie before the fine window.
    pub spans: BTreeMap<ChunkName, Span>,
    /// The marks, or the reason why a mark cannot be read.
    pub marks: BTreeMap<PlainName, Result<MarkRecord, String>>,
    /// The pins.
    pub pins: Vec<ReadPin>,
    /// How far history was thinned by earlier prunes.
    pub thinned: Thinned,
    /// The time from which windows and grace are counted, in microseconds since the Unix epoch.
    pub now: CommitTime,
}

/// The part of a manifest that retention needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Commit time of the base's csn, or of the run's last commit.
    pub time: CommitTime,
    /// The objects of the base or run and their lengths in bytes, without the manifest.
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

impl From<&RunManifest> for Facts {
    fn from(manifest: &RunManifest) -> Self {
        let files = manifest.objects().map(|(object, bytes, _)| (object, bytes));
        Self { time: manifest.last_time, files: files.collect() }
    }
}

impl Material {
    /// Reads the material as of `now`.
    pub async fn read(archive: &Archive, keep: &Keep, now: CommitTime) -> Result<Self> {
        let cluster = identity::require(archive).await?;
        let mut listing = Listing::read(archive).await?;
        let of_base = |start| {
            let archive = archive.clone();
            async move { (start, read_manifest(&archive, cluster, start).await.map(|found| Facts::from(&found))) }
        };
        let mut cut_off = Vec::new();
        let (mut facts, unfinished) = read_facts(listing.base_starts().map(of_base).collect()).await?;
        for (start, facts) in &mut facts {
            let Ok(facts) = facts else { continue };
            facts.time = plausible(facts.time, listing.stored(&start.manifest()), now);
        }
        for (start, why) in unfinished {
            let objects = listing.bases.get_mut(&start.base).expect("it was listed");
            let manifest = match start.is_whole() {
                true => objects.manifest.take(),
                false => objects.cuts.remove(&start.after),
            };
            let Some(stored) = manifest else { continue };
            why.confirm(archive, &start.manifest(), &stored).await?;
            if why == Unfinished::CutOff {
                cut_off.push((start.manifest(), stored));
            }
        }
        let of_run = |run| {
            let archive = archive.clone();
            async move { (run, read_run_manifest(&archive, cluster, run).await.map(|found| Facts::from(&found))) }
        };
        let (mut runs, unfinished) = read_facts(listing.whole_runs().map(of_run).collect()).await?;
        for (run, facts) in &mut runs {
            let Ok(facts) = facts else { continue };
            facts.time = plausible(facts.time, listing.stored(&ObjectName::RunManifest(*run)), now);
        }
        for (run, why) in unfinished {
            let manifest = listing.runs.get_mut(&run).expect("it was listed").manifest.take();
            let Some(stored) = manifest else { continue };
            why.confirm(archive, &ObjectName::RunManifest(run), &stored).await?;
            if why == Unfinished::CutOff {
                cut_off.push((ObjectName::RunManifest(run), stored));
            }
        }
        let marks = read_marks(archive, listing.marks.keys().cloned().collect()).await?;
        let pins = pins::read_all(archive, &listing.pins).await?;
        let thinned = Thinned::listed(archive, &listing).await?;
        let spans = read_spans(archive, &listing, keep, now).await?;
        Ok(Self { listing, facts, runs, cut_off, spans, marks, pins, thinned, now })
    }
}

/// Returns the time of an object's commits: the upload time, where the commit time lies in the future of `now`.
fn plausible(time: CommitTime, stored: Option<&Stored>, now: CommitTime) -> CommitTime {
    match stored {
        Some(stored) if time.0 > now.0.saturating_add(micros(STEP_MIN)) => time.min(stored.time()),
        _ => time,
    }
}

/// Separates an unreadable record, which is a fact to plan with, from a failing store, which is an error. `None`: the
/// record was removed.
fn told<T>(found: Result<T>) -> Result<Option<Result<T, String>>> {
    match found {
        Ok(found) => Ok(Some(Ok(found))),
        Err(Error::Vanished { .. }) => Ok(None),
        Err(error) if error.kind() == Kind::Integrity => Ok(Some(Err(error.to_string()))),
        Err(error) => Err(error),
    }
}

/// Why a listed manifest cannot be used: its base or run is partly removed, or was never completed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unfinished {
    /// Another prune removed the manifest after it was listed.
    Gone,
    /// The upload of the manifest was cut off.
    CutOff,
}

impl Unfinished {
    /// Asks the store a second time. The files beside an unusable manifest are removed, so one wrong reply must not be
    /// believed: a manifest that is gone must not exist, and one that was cut off must be as short as listed.
    /// [`Error::StoreContract`] if the replies differ.
    async fn confirm(self, archive: &Archive, name: &ObjectName, stored: &Stored) -> Result<()> {
        let is_so = match self {
            Self::Gone => archive.head(name).await?.is_none(),
            Self::CutOff => match archive.get(name).await {
                Ok(body) => body.is_none_or(|body| body.len() as u64 == stored.size),
                // A manifest that was cut off cannot be decrypted.
                Err(error) if error.is_cut_off() => true,
                Err(error) => return Err(error),
            },
        };
        if is_so {
            return Ok(());
        }
        let detail =
            format!("lists {name}, but gives other data about it on request. Nothing is removed. Try again later");
        Err(Error::StoreContract { url: archive.url().to_owned(), detail })
    }
}

/// Facts of the manifests by name, or the reason why a manifest cannot be read.
type AllFacts<N> = BTreeMap<N, Result<Facts, String>>;

/// Returns the facts of all manifests, and the manifests that cannot be used.
async fn read_facts<N: Ord>(
    reads: Vec<impl Future<Output = (N, Result<Facts>)>>,
) -> Result<(AllFacts<N>, Vec<(N, Unfinished)>)> {
    let mut reading = stream::iter(reads).buffer_unordered(READS_IN_FLIGHT_MAX);
    let (mut facts, mut unfinished) = (BTreeMap::new(), Vec::new());
    while let Some((name, found)) = reading.next().await {
        if found.as_ref().is_err_and(Error::is_cut_off) {
            unfinished.push((name, Unfinished::CutOff));
            continue;
        }
        match told(found)? {
            Some(found) => drop(facts.insert(name, found)),
            None => unfinished.push((name, Unfinished::Gone)),
        }
    }
    Ok((facts, unfinished))
}

async fn read_marks(
    archive: &Archive,
    names: Vec<PlainName>,
) -> Result<BTreeMap<PlainName, Result<MarkRecord, String>>> {
    let mut marks = BTreeMap::new();
    for name in names {
        // `None`: the mark was removed after it was listed.
        let Some(found) = marks::read(archive, &name).await.transpose() else { continue };
        if let Some(found) = told(found)? {
            marks.insert(name, found);
        }
    }
    Ok(marks)
}

async fn read_spans(
    archive: &Archive,
    listing: &Listing,
    keep: &Keep,
    now: CommitTime,
) -> Result<BTreeMap<ChunkName, Span>> {
    let Some(windows) = keep.windows() else { return Ok(BTreeMap::new()) };
    let start = now.0.saturating_sub(micros(windows.fine));
    let mut old = Vec::new();
    for (chunk, stored) in &listing.chunks {
        if stored.time().0 < start {
            old.push(*chunk);
        }
    }
    let read = |chunk| {
        let archive = archive.clone();
        async move { (chunk, read_span(&archive, chunk).await) }
    };
    let reads: Vec<_> = old.into_iter().map(read).collect();
    let mut reading = stream::iter(reads).buffer_unordered(READS_IN_FLIGHT_MAX);
    let mut spans = BTreeMap::new();
    while let Some((chunk, span)) = reading.next().await {
        let Some(span) = span? else { continue };
        let stored = listing.chunks.get(&chunk);
        let span = Span { first: plausible(span.first, stored, now), last: plausible(span.last, stored, now) };
        if span.last.0 < start {
            spans.insert(chunk, span);
        }
    }
    Ok(spans)
}

/// Returns when a chunk's commits were made. `None` if the chunk is gone or cannot be read; an unreadable chunk is
/// kept as if it lay in the fine window, because reporting damage is up to `verify`.
async fn read_span(archive: &Archive, chunk: ChunkName) -> Result<Option<Span>> {
    let name = ObjectName::Chunk(chunk);
    let is_header = |bytes: &Bytes| ChunkHeader::decode(bytes, "").is_ok();
    let read = archive.get_range_sensible(&name, 0..ChunkHeader::ENCODED_LEN as u64, is_header).await;
    let header = read.and_then(|bytes| bytes.map(|bytes| ChunkHeader::decode(&bytes, &name.to_string())).transpose());
    match header {
        Ok(header) => Ok(header.map(|header| Span { first: header.first_time, last: header.last_time })),
        Err(error) if error.kind() == Kind::Integrity => Ok(None),
        Err(error) => Err(error),
    }
}
