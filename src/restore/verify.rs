//! Verifies an archive: `walferry verify`.
//!
//! Reads every object. Guarantees: memory is bounded, except for one memory image, which is built to prove that it can
//! be built. Problems are collected and do not stop the verification. A failure of the object store ends it with an
//! error, because an unread object is not verified. Does not open RocksDB's files: the hash proves their content.

use super::base::Compare;
use super::memory::base_memory;
use super::progress::{Meter, Phase, ProgressSink};
use super::verify_file::{check_file, check_listed, unknown_epoch};
use super::verify_report::{Problem, VerifyReport};
use super::verify_runs::check_runs;
use crate::archive::identity;
use crate::archive::layout::{ChunkName, ObjectName, Section};
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::archive::thinned::Thinned;
use crate::chunk::Chunk;
use crate::cluster::ClusterId;
use crate::csn::{Csn, HistoryHash};
use crate::engine::batch;
use crate::engine::memory::Ops;
use crate::error::{Error, Result};
use crate::history::abandoned::Abandoned;
use crate::history::continuity::Continuity;
use crate::history::fetch::ChunkFetch;
use crate::history::line::{full_name, read_manifest};
use crate::history::reach::Reach;
use crate::history::step::ChunkStep;
use crate::history::unpack::check_name;
use crate::snapshot::manifest::Manifest;
use bytes::Bytes;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Reads an archive and checks every object in it.
pub async fn verify_archive(archive: &Archive, progress: ProgressSink) -> Result<VerifyReport> {
    let cluster = identity::require(archive).await?;
    let mut report = VerifyReport::default();
    let listing = match Listing::read(archive).await {
        Ok(listing) => listing,
        Err(error @ (Error::Corrupt { .. } | Error::Version { .. })) => {
            // Without the tree of epochs no other object can be judged.
            let what = format!("{error}; nothing else was checked");
            report.problems.push(Problem { object: "epochs".to_owned(), what });
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    report.epochs = listing.epochs.records().count() as u64;
    report.foreign = listing.foreign;
    let mut continuity = Continuity::of(&listing);
    check_chunks(archive, &listing, &progress, &mut continuity, &mut report).await?;
    check_bases(archive, &listing, cluster, &progress, &mut continuity, &mut report).await?;
    check_runs(archive, &listing, cluster, &progress, &mut continuity, &mut report).await?;
    for (object, what) in continuity.faults(&listing) {
        report.problems.push(Problem { object: object.to_string(), what });
    }
    report.abandoned = Abandoned::all(&listing);
    if let Some(lineage) = Lineage::newest(&listing.epochs) {
        let starts = listing.base_starts().filter(|start| lineage.contains(start.base));
        let reach = Reach::of(&listing, &lineage, starts);
        let thinned = Thinned::listed(archive, &listing).await?;
        for &number in listing.thinned.range(thinned.number + 1..).map(|(number, _)| number) {
            report.note_cut_off(&ObjectName::Thinned(number));
        }
        (report.thinned, report.gaps) = reach.gaps_until(thinned.until(&lineage));
        (report.ranges, report.coarse) = (reach.ranges, reach.coarse);
    }
    Ok(report)
}

async fn check_chunks(
    archive: &Archive,
    listing: &Listing,
    progress: &ProgressSink,
    continuity: &mut Continuity,
    report: &mut VerifyReport,
) -> Result<()> {
    let boundaries = Arc::new(continuity.boundaries.clone());
    let total = listing.chunks.values().map(|stored| stored.size).sum();
    let meter = Meter::begin(progress, Phase::Chunks, total);
    let steps = listing.chunks.iter().map(|(&chunk, stored)| ChunkStep {
        chunk,
        use_from: chunk.first,
        use_until: chunk.last,
        bytes: stored.size,
    });
    let mut fetch = ChunkFetch::new(archive, steps);
    let mut newer = Vec::new();
    while let Some((step, fetched)) = fetch.next().await {
        let chunk = step.chunk;
        if matches!(fetched, Err(Error::Corrupt { .. })) && was_merged(archive, chunk, &mut newer).await? {
            continue;
        }
        let name = ObjectName::Chunk(chunk);
        meter.add(step.bytes);
        report.chunks += 1;
        report.chunk_bytes += step.bytes;
        let what = full_name(archive, &name);
        let boundaries = Arc::clone(&boundaries);
        let is_epoch_known = listing.epochs.get(chunk.epoch).is_some();
        let outcome = match fetched {
            Ok(bytes) => {
                crate::threads::blocking(move || {
                    let checked = check_chunk(bytes, chunk, &boundaries, &what)?;
                    if is_epoch_known { Ok(checked) } else { Err(unknown_epoch(&what, chunk.epoch)) }
                })
                .await
            }
            Err(error) => Err(error),
        };
        let outcome = outcome.map(|checked| {
            report.commits += checked.commits;
            for (csn, hash) in checked.hashes {
                continuity.note(csn, chunk.epoch, hash, &name);
            }
        });
        report.note(&name, outcome)?;
    }
    Ok(())
}

/// Reports whether a listed chunk no longer exists because it was merged into a wider chunk. `newer` caches the last
/// listing.
async fn was_merged(archive: &Archive, chunk: ChunkName, newer: &mut Vec<ChunkName>) -> Result<bool> {
    let is_wider = |wider: &ChunkName| {
        *wider != chunk && wider.epoch == chunk.epoch && wider.first <= chunk.first && chunk.last <= wider.last
    };
    if archive.head(&ObjectName::Chunk(chunk)).await?.is_some() {
        return Ok(false);
    }
    if !newer.iter().any(is_wider) {
        let found = archive.list(Section::Chunks(chunk.epoch)).await?.objects.into_iter();
        let names =
            found.filter_map(|object| if let ObjectName::Chunk(name) = object.name { Some(name) } else { None });
        *newer = names.collect();
    }
    Ok(newer.iter().any(is_wider))
}

/// The result of checking a chunk.
pub(super) struct CheckedChunk {
    commits: u64,
    /// The history hashes after the requested commits that the chunk holds, and the hash before its first commit.
    hashes: Vec<(Csn, HistoryHash)>,
}

/// Checks a chunk in every respect and returns its history hashes after the commits in `boundaries`.
pub(super) fn check_chunk(
    bytes: Bytes,
    name: ChunkName,
    boundaries: &BTreeSet<Csn>,
    what: &str,
) -> Result<CheckedChunk> {
    let chunk = Chunk::open(bytes, what)?;
    check_name(&chunk, name, what)?;
    let header = chunk.header();
    let mut hashes = vec![(header.first.prev(), header.hash_before)];
    for commit in chunk.commits() {
        let commit = commit?;
        let checked = batch::validate(&commit.disk, commit.disk_ops).and_then(|()| Ops::validate(&commit.memory));
        checked.map_err(|error| Error::corrupt(what, format!("csn {}", commit.csn), error.to_string()))?;
        if boundaries.contains(&commit.csn) {
            hashes.push((commit.csn, commit.hash));
        }
    }
    Ok(CheckedChunk { commits: header.commit_count(), hashes })
}

async fn check_bases(
    archive: &Archive,
    listing: &Listing,
    cluster: ClusterId,
    progress: &ProgressSink,
    continuity: &mut Continuity,
    report: &mut VerifyReport,
) -> Result<()> {
    let own = listing.bases.values().flat_map(|base| base.files.values());
    let total = own.chain(listing.ssts.values()).map(|stored| stored.size).sum();
    let meter = Arc::new(Meter::begin(progress, Phase::Bases, total));
    let mut ssts_checked = HashSet::new();
    report.bases_unfinished =
        listing.bases.values().filter(|base| base.manifest.is_none() && base.cuts.is_empty()).count() as u64;
    for start in listing.base_starts() {
        let (base, name) = (start.base, start.manifest());
        let manifest = read_manifest(archive, cluster, start).await;
        if manifest.as_ref().is_err_and(Error::is_cut_off) {
            report.bases_unfinished += 1;
            report.note_cut_off(&name);
            continue;
        }
        report.bases += u64::from(start.is_whole() || listing.bases[&start.base].manifest.is_none());
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => {
                report.note(&name, Err(error))?;
                continue;
            }
        };
        if listing.epochs.get(base.epoch).is_none() {
            report.note(&name, Err(unknown_epoch(&full_name(archive, &name), base.epoch)))?;
        }
        continuity.note(manifest.csn, base.epoch, manifest.hash, &name);
        continuity.note(manifest.memory.csn, base.epoch, manifest.memory.hash, &name);
        for file in &manifest.disk.files {
            let object = file.object(base);
            if file.shared && !ssts_checked.insert(file.blake3) {
                continue;
            }
            report.base_files += 1;
            report.base_bytes += file.bytes;
            let outcome = check_file(archive, listing, &object, file.bytes, file.blake3, &meter).await;
            report.note(&object, outcome)?;
        }
        let own = manifest.memory.files.len() + manifest.completion.len();
        report.base_files += own as u64;
        report.base_bytes +=
            manifest.memory.files.iter().chain(&manifest.completion).map(|file| file.bytes).sum::<u64>();
        let outcome = check_memory(archive, listing, &manifest, &meter).await;
        report.note(&name, outcome)?;
    }
    Ok(())
}

/// Builds the keys in memory from the memory image and the completion, as a restore does.
async fn check_memory(archive: &Archive, listing: &Listing, manifest: &Manifest, meter: &Arc<Meter>) -> Result<()> {
    let base = manifest.base();
    for file in manifest.memory.files.iter().chain(&manifest.completion) {
        check_listed(archive, listing, &file.object(base), file.bytes)?;
    }
    base_memory(archive, manifest, meter, Compare::Digests).await.map(drop)
}
