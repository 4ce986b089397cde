//! Copies a plan's objects into the target archive.

use super::plan::CopyPlan;
use super::report::{CopyReport, Moved};
use crate::archive::chunk_put::{Placed, compare_commits};
use crate::archive::epochs;
use crate::archive::identity;
use crate::archive::layout::ObjectName;
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing, Stored};
use crate::archive::marks::{self, MarkCreation};
use crate::archive::pins;
use crate::archive::store::Archive;
use crate::cluster::ClusterId;
use crate::error::{Error, Result};
use crate::history::fetch::ChunkFetch;
use crate::history::line::{History, full_name};
use crate::history::reach::Reach;
use crate::history::step::ChunkStep;
use crate::restore::progress::{Meter, Phase, ProgressSink};
use crate::restore::verify::check_chunk;
use crate::snapshot::manifest::Manifest;
use crate::snapshot::mover::{Part, create_manifest, send};
use crate::threads::blocking;
use bytes::Bytes;
use futures::stream::{FuturesOrdered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;

/// Limit on the number of chunks that are being stored at the same time.
const CHUNKS_STORED_MAX: usize = 4;

/// The state of one copy.
struct Transfer<'a> {
    from: &'a Archive,
    to: &'a Archive,
    /// The target's objects: the listing at the start, and the SSTs stored since.
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
        bases: plan.bases().count() as u64,
        skipped: Vec::new(),
        copied: Moved::default(),
        present: Moved::default(),
        marks: 0,
        seconds: 0.0,
    };
    let mut transfer = Transfer { from: &history.archive, to, there, report };
    let missing = plan.bases().map(|start| &manifests[&start]).filter(|manifest| !transfer.has_manifest(manifest));
    let meter = Meter::begin(progress, Phase::Bases, missing.map(Manifest::bytes).sum());
    for start in plan.bases() {
        transfer.copy_base(&manifests[&start], &meter).await?;
    }
    transfer.copy_chunks(plan, progress).await?;
    transfer.copy_marks(history, plan).await?;
    transfer.send_lost(plan, manifests).await?;
    if let Some((_, other)) = epochs::claim_line(to, &plan.epochs).await? {
        return Err(other_history(to, &format!("epoch {} belongs to node {} in the target", other.epoch, other.node)));
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
    /// Reports whether the target holds this manifest. One of the same name with other figures is another node's.
    fn has_manifest(&self, manifest: &Manifest) -> bool {
        self.is_there(&manifest.start().manifest(), manifest.encode().len() as u64)
    }

    fn is_there(&self, object: &ObjectName, bytes: u64) -> bool {
        self.there.stored(object).is_some_and(|stored| stored.size == bytes)
    }

    async fn copy_base(&mut self, manifest: &Manifest, meter: &Meter) -> Result<()> {
        let parts = Part::of_archive(self.from, manifest);
        // A manifest is stored after the files of its base, so the files exist.
        let is_whole = self.has_manifest(manifest);
        let missing: Vec<Part> =
            parts.iter().filter(|part| !is_whole && !self.is_there(&part.object, part.bytes)).cloned().collect();
        let sent = send(self.to, missing.iter().cloned(), &|bytes| meter.add(bytes)).await?;
        if !is_whole {
            // If the target has another manifest of this name, that manifest describes the same base.
            create_manifest(self.to, manifest).await?;
        }
        self.report.copied.files += sent.objects;
        self.report.copied.file_bytes += sent.bytes;
        self.report.present.files += parts.len() as u64 - sent.objects;
        self.report.present.file_bytes += manifest.bytes() - sent.bytes;
        // The next base may share these SSTs.
        for part in missing {
            if let ObjectName::Sst(hash) = part.object {
                let stored = Stored { size: part.bytes, modified: Default::default() };
                self.there.ssts.insert(hash.to_hex().to_string(), stored);
            }
        }
        Ok(())
    }

    /// Sends the files that a prune of the target removed before their manifest was there.
    async fn send_lost(&mut self, plan: &CopyPlan, manifests: &BTreeMap<BaseStart, Manifest>) -> Result<()> {
        pins::wait_for_prunes(self.to).await?;
        self.there = Listing::read(self.to).await?;
        let parts = plan.bases().flat_map(|start| Part::of_archive(self.from, &manifests[&start]));
        let lost: Vec<Part> = parts.filter(|part| !self.is_there(&part.object, part.bytes)).collect();
        send(self.to, lost, &|_| {}).await.map(drop)
    }

    async fn copy_chunks(&mut self, plan: &CopyPlan, progress: &ProgressSink) -> Result<()> {
        let is_there = |step: &ChunkStep| self.is_there(&ObjectName::Chunk(step.chunk), step.bytes);
        let (present, missing): (Vec<ChunkStep>, Vec<ChunkStep>) = plan.chunks().partition(is_there);
        let sum = |steps: &[ChunkStep]| steps.iter().map(|step| step.bytes).sum::<u64>();
        (self.report.present.chunks, self.report.present.chunk_bytes) = (present.len() as u64, sum(&present));
        (self.report.copied.chunks, self.report.copied.chunk_bytes) = (missing.len() as u64, sum(&missing));
        let meter = Meter::begin(progress, Phase::Chunks, sum(&missing));
        let mut fetch = ChunkFetch::new(self.from, missing);
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
    match to.put_chunk(&name, &bytes, &AtomicBool::new(false), compare_commits).await? {
        Placed::There(_) => Ok(()),
        Placed::Taken(_) => {
            let detail =
                "contains other commits under this name than the archive to copy. Name another prefix to copy to";
            Err(Error::Identity { what: full_name(to, &name), detail: detail.to_owned() })
        }
    }
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
