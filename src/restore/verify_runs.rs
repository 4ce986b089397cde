//! Verifies the compacted runs of an archive.

use super::progress::{Meter, Phase, ProgressSink};
use super::verify_file::{check_file, unknown_epoch};
use super::verify_report::VerifyReport;
use crate::archive::layout::ObjectName;
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::cluster::ClusterId;
use crate::error::{Error, Result};
use crate::history::continuity::Continuity;
use crate::history::line::{full_name, read_run_manifest};

/// Checks the manifest of every run and the lengths and hashes of its files.
pub(super) async fn check_runs(
    archive: &Archive,
    listing: &Listing,
    cluster: ClusterId,
    progress: &ProgressSink,
    continuity: &mut Continuity,
    report: &mut VerifyReport,
) -> Result<()> {
    let files = listing.runs.values().flat_map(|run| run.files.values());
    let meter = Meter::begin(progress, Phase::Runs, files.map(|stored| stored.size).sum());
    report.runs_unfinished = listing.runs.values().filter(|run| run.manifest.is_none()).count() as u64;
    for run in listing.whole_runs() {
        let name = ObjectName::RunManifest(run);
        let manifest = read_run_manifest(archive, cluster, run).await;
        if manifest.as_ref().is_err_and(Error::is_cut_off) {
            report.runs_unfinished += 1;
            report.note_cut_off(&name);
            continue;
        }
        report.runs += 1;
        let manifest = match manifest {
            Ok(manifest) => manifest,
            Err(error) => {
                report.note(&name, Err(error))?;
                continue;
            }
        };
        if listing.epochs.get(run.epoch).is_none() {
            report.note(&name, Err(unknown_epoch(&full_name(archive, &name), run.epoch)))?;
        }
        continuity.note(run.first.prev(), run.epoch, manifest.hash_before, &name);
        continuity.note(run.last, run.epoch, manifest.hash_after, &name);
        report.run_files += manifest.files();
        report.run_bytes += manifest.bytes();
        for (object, bytes, blake3) in manifest.objects() {
            let outcome = check_file(archive, listing, &object, bytes, blake3, &meter).await;
            report.note(&object, outcome)?;
        }
    }
    Ok(())
}
