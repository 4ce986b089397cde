//! What a prune decides from.
//!
//! Guarantees: one LIST, and one small GET for each manifest, mark, pin and epoch record, and for each chunk that the
//! store received before the fine window began. A chunk received later is within it whatever its header says, because
//! commits are older than their upload. Where commits claim to be of the future, they are as old as their upload: a clock
//! that was wrong once must not keep them for ever.

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
use crate::csn::CommitTime;
use crate::error::{Error, Kind, Result};
use crate::history::line::{read_manifest, read_run_manifest};
use crate::keep::{Keep, micros};
use crate::plain_name::PlainName;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::run::RunManifest;
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::collections::BTreeMap;

/// Small objects being read at a time.
const READS_IN_FLIGHT_MAX: usize = 32;

/// Everything a plan is made from.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// What is there.
    pub listing: Listing,
    /// What manifests of bases tell, or why one cannot be read.
    pub facts: BTreeMap<BaseStart, Result<Facts, String>>,
    /// What manifests of compacted runs tell, or why one cannot be read.
    pub runs: BTreeMap<RunName, Result<Facts, String>>,
    /// Manifests that were cut off while they were written, which are not in `listing`: their bases and runs are unfinished.
    pub cut_off: Vec<(ObjectName, Stored)>,
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
    /// Time of the commit the base lies at, or the run ends with.
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

impl From<&RunManifest> for Facts {
    fn from(manifest: &RunManifest) -> Self {
        let files = manifest.objects().map(|(object, bytes, _)| (object, bytes));
        Self { time: manifest.last_time, files: files.collect() }
    }
}

impl Material {
    /// Reads it as of `now`.
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

/// The time of commits that an object holds, as far as it can be true at `now`.
fn plausible(time: CommitTime, stored: Option<&Stored>, now: CommitTime) -> CommitTime {
    match stored {
        Some(stored) if time.0 > now.0.saturating_add(micros(STEP_MIN)) => time.min(stored.time()),
        _ => time,
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

/// Why a manifest that was listed is none: the files beside it are what is left, or what there is so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unfinished {
    /// Another prune has removed it meanwhile.
    Gone,
    /// Its upload was cut off.
    CutOff,
}

impl Unfinished {
    /// Asks once more. The files beside a manifest that is none are removed, so one wrong answer must not be believed: what
    /// is gone must not be there, and what was cut off must be as short as it was listed.
    async fn confirm(self, archive: &Archive, name: &ObjectName, stored: &Stored) -> Result<()> {
        let is_so = match self {
            Self::Gone => archive.head(name).await?.is_none(),
            Self::CutOff => match archive.get(name).await {
                Ok(body) => body.is_none_or(|body| body.len() as u64 == stored.size),
                // What was cut off cannot be decrypted.
                Err(error) if error.is_cut_off() => true,
                Err(error) => return Err(error),
            },
        };
        if is_so {
            return Ok(());
        }
        let detail = format!("does not answer for {name} as it lists it. Nothing is removed; try again later");
        Err(Error::StoreContract { url: archive.url().to_owned(), detail })
    }
}

/// What manifests tell by name, or why one cannot be read.
type AllFacts<N> = BTreeMap<N, Result<Facts, String>>;

/// What manifests tell, and which of them are none.
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
        // None: taken away since it was listed.
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

/// When a chunk's commits were made. None: it is gone, or cannot be read: then it is kept as if it were young, because
/// what it holds is for `verify` to say.
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
