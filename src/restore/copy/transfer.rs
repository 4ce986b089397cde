//! Copies a plan's objects into the target archive.

use super::{CopyPlan, CopyReport, Moved};
use crate::archive::epochs::{self, Claim};
use crate::archive::identity;
use crate::archive::layout::ObjectName;
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing, Stored};
use crate::archive::marks::{self, MarkCreation};
use crate::archive::put::SINGLE_PUT_BYTES_MAX;
use crate::archive::store::{Archive, Creation};
use crate::chunk::Chunk;
use crate::cluster::ClusterId;
use crate::error::{Error, Result};
use crate::history::fetch::{ChunkFetch, FILES_IN_FLIGHT_MAX};
use crate::history::line::{History, full_name, vanished};
use crate::history::reach::Reach;
use crate::history::step::ChunkStep;
use crate::record::CommitRecord;
use crate::restore::progress::{Meter, Phase, ProgressSink};
use crate::restore::verify::check_chunk;
use crate::snapshot::manifest::Manifest;
use crate::threads::blocking;
use bytes::Bytes;
use futures::stream::{self, FuturesOrdered, StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};

/// Limit on the number of chunks that are being stored at the same time.
const CHUNKS_STORED_MAX: usize = 4;

/// The state of one copy.
struct Transfer<'a> {
    from: &'a Archive,
    to: &'a Archive,
    /// The target's objects: the listing at the start, and the SST files stored since.
    there: Listing,
    report: CopyReport,
}

/// Copies all objects of a plan, each before the objects that refer to it.
pub(super) async fn run(
    history: &History,
    to: &Archive,
    plan: &CopyPlan,
    manifests: &BTreeMap<BaseStart, Manifest>,
    progress: &ProgressSink,
) -> Result<CopyReport> {
    claim_target(to, history.cluster).await?;
    let there = Listing::read(to).await?;
    require_same_history(to, &there, &history.listing)?;
    let report = CopyReport {
        cluster: history.cluster,
        epoch: plan.epochs.last().map_or(history.lineage.leaf(), |record| record.epoch),
        range: plan.range,
        bases: plan.bases.len() as u64,
        skipped: Vec::new(),
        copied: Moved::default(),
        present: Moved::default(),
        marks: 0,
        seconds: 0.0,
    };
    let mut transfer = Transfer { from: &history.archive, to, there, report };
    let missing = plan.bases.iter().filter(|start| !transfer.has_manifest(start)).map(|start| manifests[start].bytes());
    let meter = Meter::begin(progress, Phase::Bases, missing.sum());
    for start in &plan.bases {
        transfer.copy_base(&manifests[start], &meter).await?;
    }
    transfer.copy_chunks(plan, progress).await?;
    transfer.copy_marks(history, plan).await?;
    for record in &plan.epochs {
        if let Claim::Taken(other) = epochs::claim(to, record).await? {
            return Err(other_history(
                to,
                &format!("epoch {} belongs to node {} in the target", other.epoch, other.node),
            ));
        }
    }
    Ok(transfer.report)
}

/// Makes an empty target the cluster's archive; refuses an archive of another cluster.
async fn claim_target(to: &Archive, cluster: ClusterId) -> Result<()> {
    let found = match identity::read(to).await {
        // The bucket does not exist: `establish` creates it or reports the reason.
        Err(Error::Store { source: object_store::Error::NotFound { .. }, .. }) => None,
        found => found?,
    };
    match found {
        Some(other) if other != cluster => Err(Error::Identity {
            what: to.url().to_owned(),
            detail: format!(
                "belongs to cluster {other}, the archive to copy to cluster {cluster}. Name another prefix"
            ),
        }),
        _ => identity::establish(to, cluster).await,
    }
}

/// Refuses a target with an epoch that the source does not have, such as a copy that a primary has continued.
fn require_same_history(to: &Archive, there: &Listing, here: &Listing) -> Result<()> {
    for record in there.epochs.records() {
        if here.epochs.get(record.epoch) != Some(record) {
            let detail = format!(
                "the target has an epoch {} of node {}, which the archive to copy does not have",
                record.epoch, record.node
            );
            return Err(other_history(to, &detail));
        }
    }
    Ok(())
}

fn other_history(to: &Archive, detail: &str) -> Error {
    let detail = format!("the target has another history: {detail}. Name another prefix to copy to");
    Error::Identity { what: to.url().to_owned(), detail }
}

impl Transfer<'_> {
    fn has_manifest(&self, start: &BaseStart) -> bool {
        self.there.stored(&start.manifest()).is_some()
    }

    fn is_there(&self, object: &ObjectName, bytes: u64) -> bool {
        self.there.stored(object).is_some_and(|stored| stored.size == bytes)
    }

    async fn copy_base(&mut self, manifest: &Manifest, meter: &Meter) -> Result<()> {
        let start = manifest.start();
        let base = start.base;
        let own = manifest.memory.files.iter().chain(&manifest.completion);
        let own = own.map(|file| (file.object(base), file.bytes, file.blake3));
        let disk = manifest.disk.files.iter().map(|file| (file.object(base), file.bytes, file.blake3));
        let all: Vec<_> = disk.chain(own).collect();
        // A manifest is stored after the files of its base, so the files exist.
        let is_whole = self.has_manifest(&start);
        let (present, missing): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(object, bytes, _)| is_whole || self.is_there(object, *bytes));
        let add = |moved: &mut Moved, files: &[(ObjectName, u64, blake3::Hash)]| {
            moved.files += files.len() as u64;
            moved.file_bytes += files.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        };
        add(&mut self.report.present, &present);
        add(&mut self.report.copied, &missing);
        let (from, to) = (self.from, self.to);
        let copies = missing.iter().map(|(object, bytes, blake3)| async move {
            to.put_from_verified(from, object, *bytes, *blake3).await?;
            meter.add(*bytes);
            Ok::<_, Error>(())
        });
        stream::iter(copies).buffer_unordered(FILES_IN_FLIGHT_MAX).try_collect::<()>().await?;
        if !is_whole {
            // If another copy has already stored the manifest, that manifest describes the same base.
            self.to.put_new(&start.manifest(), manifest.encode().into()).await?;
        }
        // The next base may share these SST files.
        for (object, bytes, _) in missing {
            if let ObjectName::Sst(hash) = object {
                let stored = Stored { size: bytes, modified: Default::default() };
                self.there.ssts.insert(hash.to_hex().to_string(), stored);
            }
        }
        Ok(())
    }

    async fn copy_chunks(&mut self, plan: &CopyPlan, progress: &ProgressSink) -> Result<()> {
        let is_there = |step: &&ChunkStep| self.is_there(&ObjectName::Chunk(step.chunk), step.bytes);
        let (present, missing): (Vec<&ChunkStep>, Vec<&ChunkStep>) = plan.chunks.iter().partition(is_there);
        let sum = |steps: &[&ChunkStep]| steps.iter().map(|step| step.bytes).sum::<u64>();
        (self.report.present.chunks, self.report.present.chunk_bytes) = (present.len() as u64, sum(&present));
        (self.report.copied.chunks, self.report.copied.chunk_bytes) = (missing.len() as u64, sum(&missing));
        let meter = Meter::begin(progress, Phase::Chunks, sum(&missing));
        let mut fetch = ChunkFetch::new(self.from, missing.into_iter().copied());
        let mut storing = FuturesOrdered::new();
        while let Some((step, fetched)) = fetch.next().await {
            if storing.len() >= CHUNKS_STORED_MAX {
                storing.next().await.unwrap_or(Ok(()))?;
            }
            storing.push_back(store_chunk(self.from, self.to, step, fetched?));
            meter.add(step.bytes);
        }
        while let Some(stored) = storing.next().await {
            stored?;
        }
        Ok(())
    }

    /// Copies the marks that can be restored from the copy.
    async fn copy_marks(&mut self, history: &History, plan: &CopyPlan) -> Result<()> {
        for name in history.listing.marks.keys() {
            // `None`: the mark was removed after the listing.
            let Some(mark) = marks::read(self.from, name).await? else { continue };
            if !mark.is_on(&history.lineage) || !plan.range.contains(mark.csn) {
                continue;
            }
            if let MarkCreation::Taken(other) = marks::create(self.to, name, &mark).await? {
                let detail = format!("mark {name} of the target is csn {} of epoch {}", other.csn, other.epoch);
                return Err(other_history(self.to, &detail));
            }
            self.report.marks += 1;
        }
        Ok(())
    }
}

/// Checks a chunk in every respect and stores it, unless the target holds a chunk with the same commits.
async fn store_chunk(from: &Archive, to: &Archive, step: ChunkStep, bytes: Bytes) -> Result<()> {
    let name = ObjectName::Chunk(step.chunk);
    let (what, checked) = (full_name(from, &name), bytes.clone());
    blocking(move || check_chunk(checked, step.chunk, &BTreeSet::new(), &what).map(drop)).await?;
    let found = if bytes.len() as u64 <= SINGLE_PUT_BYTES_MAX {
        match to.put_new(&name, bytes.clone()).await? {
            Creation::Created => return Ok(()),
            Creation::Exists => to.get(&name).await?.ok_or_else(|| vanished(to, &name))?,
        }
    } else {
        match to.get(&name).await? {
            None => return to.put_verified(&name, bytes).await,
            Some(found) => found,
        }
    };
    let what = full_name(to, &name);
    blocking(move || {
        let commits = |bytes: Bytes| Chunk::open(bytes, &what)?.commits().collect::<Result<Vec<CommitRecord>>>();
        if bytes == found || commits(bytes)? == commits(found)? {
            return Ok(());
        }
        let detail = "contains other commits under this name than the archive to copy. Name another prefix to copy to";
        Err(Error::Identity { what: what.clone(), detail: detail.to_owned() })
    })
    .await
}

/// Checks that the whole range can be restored from the target.
pub(super) async fn require_restorable(to: &Archive, plan: &CopyPlan) -> Result<()> {
    let listing = Listing::read(to).await?;
    let leaf = plan.epochs.last().and_then(|record| Lineage::of(&listing.epochs, record.epoch));
    let possible = leaf.map(|lineage| {
        let bases = listing.base_starts().filter(|start| lineage.contains(start.base));
        Reach::of(&listing, &lineage, bases)
    });
    let holds = |reach: &Reach| {
        reach.ranges.iter().any(|part| part.contains(plan.range.from) && part.contains(plan.range.until))
    };
    if possible.as_ref().is_some_and(holds) {
        return Ok(());
    }
    let ranges = possible.map_or_else(Vec::new, |reach| reach.ranges);
    Err(Error::Gap {
        what: format!("the copy in {}", to.url()),
        expected: plan.range.from,
        found: format!("only {ranges:?} of csn {}", plan.range),
    })
}
