//! Figures of the archive: uploads, requests, merging, the second archive, bases, compacted runs and prunes.

use super::{Figures, Sample, Value, counter, gauge, names};
use crate::archive::store::Archive;
use crate::history::abandoned::Abandoned;
use crate::node::bases::Bases;
use crate::node::compacting::Compacting;
use crate::node::core::Core;
use crate::node::pruning::Pruning;
use crate::node::roles::{ArchivingStatus, SecondStatus};
use crate::node::safety::age_of_next;
use std::sync::atomic::{AtomicU64, Ordering};

/// Takes how chunks get into the archive. `archiving` is `None` on a replica and without an archive.
pub fn uploads(out: &mut Figures, core: &Core, archiving: Option<ArchivingStatus>) {
    out.text(names::ARCHIVE, || core.archive.as_ref().map_or("", Archive::url));
    let Some(ArchivingStatus { spool, cutter, cutter_error, uploader, merging, .. }) = archiving else {
        return out.text("archive_lag_ms", || 0);
    };
    out.text("archive_lag_ms", || super::rounded_up_ms(age_of_next(core, core.committer.watermarks.archived.get())));
    let error = uploader.stopped.or(uploader.last_error).or(cutter_error);
    out.text(names::ARCHIVE_LAST_ERROR, || error.unwrap_or_default());
    let metric = gauge("walferry_archive_failures_in_row", "Failed uploads in a row; 0 after a success.");
    out.both(names::ARCHIVE_FAILURES_IN_ROW, metric, Value::number(uploader.failures_in_row));
    out.text("cut_csn", || cutter.position.csn);
    out.both("chunks_cut", counter("walferry_chunks_cut_total", "Chunks cut."), Value::number(cutter.chunks));
    let metric = counter("walferry_chunk_raw_bytes_total", "Bytes of the cut chunks before compression.");
    out.both("chunk_raw_bytes", metric, Value::number(cutter.raw_bytes));
    let metric = counter("walferry_chunk_stored_bytes_total", "Bytes of the cut chunks after compression.");
    out.both("chunk_stored_bytes", metric, Value::number(cutter.stored_bytes));
    let metric = counter("walferry_chunks_archived_total", "Chunks confirmed in the archive.");
    out.both("chunks_archived", metric, Value::number(uploader.chunks_done));
    let metric = gauge("walferry_spool_chunks", "Sealed chunks that wait for the archive.");
    out.both("spool_chunks", metric, Value::number(spool.chunks));
    out.both(
        names::SPOOL_BYTES,
        gauge("walferry_spool_bytes", "Bytes of the sealed chunks that wait for the archive."),
        Value::number(spool.bytes),
    );
    let metric = gauge("walferry_spool_limit_bytes", "Bytes at which writes are refused.");
    out.metric(metric, Value::number(core.config().spool_max_bytes.0));
    let metric = counter("walferry_chunks_merged_total", "Chunks made of smaller ones in the archive.");
    out.both("merged_chunks", metric, Value::number(merging.sum.merged));
    out.text("merged_parts", || merging.sum.parts);
    let metric = counter("walferry_merged_parts_deleted_total", "Smaller chunks deleted after they were merged.");
    out.both("merged_parts_deleted", metric, Value::number(merging.sum.deleted));
    out.text("merged_parts_waiting", || merging.sum.waiting);
    let metric = gauge("walferry_merge_failed", "1 if the last round of merging failed.");
    out.both("merge_last_error", metric, Value::failure(merging.last_error));
}

/// Takes the requests to the archive, and what its last listing showed.
pub fn requests(out: &mut Figures, core: &Core, archive: &Archive) {
    let traffic = archive.traffic();
    let get = |counter: &AtomicU64| Value::number(counter.load(Ordering::Relaxed));
    let operations = [
        (names::ARCHIVE_PUTS, "put", &traffic.puts),
        (names::ARCHIVE_GETS, "get", &traffic.gets),
        (names::ARCHIVE_HEADS, "head", &traffic.heads),
        (names::ARCHIVE_LISTS, "list", &traffic.lists),
        (names::ARCHIVE_DELETES, "delete", &traffic.deletes),
    ];
    let samples = operations.map(|(field, label, count)| Sample { field, label: label.to_owned(), value: get(count) });
    let help = "Requests sent to the archive's object store, repeats included; LIST by pages of 1000.";
    out.labelled(counter("walferry_archive_requests_total", help), "operation", samples.into());
    let metric = counter("walferry_archive_sent_bytes_total", "Bytes of objects sent.");
    out.metric(metric, get(&traffic.bytes_sent));
    let metric = counter("walferry_archive_received_bytes_total", "Bytes of objects received.");
    out.metric(metric, get(&traffic.bytes_received));
    let metric = counter("walferry_archive_retries_total", "Requests that repeated a failed one.");
    out.both(names::ARCHIVE_RETRIES, metric, get(&traffic.retries));
    let metric = counter("walferry_archive_failures_total", "Calls that failed for good.");
    out.both(names::ARCHIVE_FAILURES, metric, get(&traffic.failures));
    if let Some(figures) = &*core.archive_figures.lock() {
        let metric = gauge("walferry_archive_objects", "Objects in the archive when it was last listed.");
        out.metric(metric, Value::number(figures.objects));
        let metric = gauge("walferry_archive_bytes", "Bytes in the archive when it was last listed.");
        out.metric(metric, Value::number(figures.bytes));
        let abandoned: u64 = figures.abandoned.iter().map(Abandoned::commits).sum();
        let help = "Archived commits that lie on no line of history; INFO walferry lists them.";
        out.metric(gauge("walferry_archive_abandoned_commits", help), Value::number(abandoned));
        let help = "Unix time of the last listing of the archive (at the start, after a prune).";
        out.metric(gauge("walferry_archive_listed_timestamp_seconds", help), Value::time(Some(figures.listed)));
    }
}

/// Takes the state of the second archive.
pub fn second(out: &mut Figures, core: &Core, second: SecondStatus) {
    out.text("archive_2", || core.config().archive_2.clone());
    out.text("archive_2_state", || second.state);
    let help = "Last commit that archive-2 holds without a gap, from its last base on.";
    out.both("archive_2_csn", gauge("walferry_archive_2_csn", help), Value::number(second.archived));
    let help = "Age of the oldest commit that archive-2 lacks; 0 if there is none.";
    let lag = Value::lag(age_of_next(core, second.archived));
    out.both("archive_2_lag_ms", gauge("walferry_archive_2_lag_seconds", help), lag);
    let metric = gauge("walferry_archive_2_spool_bytes", "Bytes of sealed chunks that wait for archive-2.");
    out.both("archive_2_spool_bytes", metric, Value::number(second.spool_bytes));
    out.text("archive_2_last_error", || second.last_error.unwrap_or_default());
    let metric = gauge("walferry_archive_2_failures_in_row", "Failures of archive-2 in a row; 0 after a success.");
    out.both("archive_2_failures_in_row", metric, Value::number(second.failures_in_row));
    let metric =
        counter("walferry_archive_2_backlogs_dropped_total", "Times that the backlog of archive-2 was dropped.");
    out.both("archive_2_backlogs_dropped", metric, Value::number(second.drops));
    out.text("archive_2_last_base_csn", || second.last_base.map_or(0, |published| published.base.csn.0));
    out.text("archive_2_last_base_error", || second.last_base_error.unwrap_or_default());
}

/// Takes the last base and the pending work on bases.
pub fn bases(out: &mut Figures, bases: &Bases) {
    let last = bases.last();
    let report = last.report.as_ref();
    let metric = gauge("walferry_base_csn", "Commit at which the last base since the start lies.");
    out.both(names::LAST_BASE_CSN, metric, Value::known_or_0(report.map(|report| report.base.csn)));
    let metric = gauge("walferry_base_new_bytes", "Bytes that the last base sent.");
    out.both(names::LAST_BASE_BYTES_NEW, metric, Value::known_or_0(report.map(|report| report.bytes_new)));
    let metric = gauge("walferry_base_shared_bytes", "Bytes of the last base that the archive had before.");
    out.both(names::LAST_BASE_BYTES_SHARED, metric, Value::known_or_0(report.map(|report| report.bytes_shared)));
    let metric = gauge("walferry_base_cut_pause_seconds", "Time that writers waited for the cut of the last base.");
    out.both(names::LAST_BASE_CUT_PAUSE_US, metric, Value::took_us(report.map(|report| report.cut_pause)));
    out.text("last_base_level", || report.map_or_else(String::new, |report| report.level.to_string()));
    out.text("last_base_skew_us", || report.map_or(0, |report| report.skew_us));
    out.text("last_base_skew_commits", || report.map_or(0, |report| report.skew_commits));
    let metric = gauge("walferry_base_duration_seconds", "Time that the last base took.");
    out.both(names::LAST_BASE_TOOK_MS, metric, Value::took_ms(report.map(|report| report.took)));
    out.text("last_base_replica", || &last.publisher);
    let metric = gauge("walferry_base_failed", "1 if the last attempt to publish a base failed.");
    out.both("last_base_error", metric, Value::failure(last.error.clone()));
    out.text("base_asked_of_replica", || bases.asked());
    let help = "Eventual bases that wait for their repair, as far as this node knows.";
    out.both("bases_to_repair", gauge("walferry_bases_to_repair", help), Value::number(bases.repairs.waiting()));
}

/// Takes the setting and the results of building compacted runs since the start.
pub fn compacting(out: &mut Figures, core: &Core, compacting: &Compacting) {
    let compacted = compacting.status();
    let is_shown = core.archive.is_some() && compacted.ended_ms > 0;
    out.text("compact_per", || core.config().compact_per.map_or_else(String::new, |grain| grain.to_string()));
    let metric = counter("walferry_compacted_runs_total", "Compacted runs built since the start.");
    out.both("compact_runs", metric, Value::number(compacted.runs).metric_if(is_shown));
    let metric = counter("walferry_compacted_bytes_total", "Bytes of the compacted runs built since the start.");
    out.both("compact_bytes", metric, Value::number(compacted.bytes).metric_if(is_shown));
    let help = "Last commit in a compacted run of the size in compact-per.";
    let until = Value::number(compacted.until).metric_if(is_shown);
    out.both("compacted_until_csn", gauge("walferry_compacted_until_csn", help), until);
    out.text("last_compact_ms", || compacted.ended_ms);
    let metric = gauge("walferry_compact_failed", "1 if the last attempt to build compacted runs failed.");
    out.both("last_compact_error", metric, Value::failure(compacted.error).metric_if(is_shown));
}

/// Takes the schedule of prunes and the result of the last one.
pub fn pruning(out: &mut Figures, core: &Core, pruning: &Pruning) {
    let last = pruning.last();
    let is_shown = core.archive.is_some() && last.ended_ms > 0;
    out.text(names::KEEP, || core.config().keep.clone());
    out.text("prune_interval_ms", || core.config().prune_interval.as_millis());
    let metric = gauge("walferry_prune_timestamp_seconds", "End of the last scheduled prune, Unix time.");
    out.both(names::LAST_PRUNE_MS, metric, Value::millis(last.ended_ms).metric_if(is_shown));
    let metric = gauge("walferry_prune_removed_objects", "Objects that the last scheduled prune removed.");
    out.both(names::LAST_PRUNE_OBJECTS, metric, Value::number(last.removed).metric_if(is_shown));
    let metric = gauge("walferry_prune_removed_bytes", "Bytes that the last scheduled prune removed.");
    out.both(names::LAST_PRUNE_BYTES, metric, Value::number(last.bytes_removed).metric_if(is_shown));
    let metric = gauge("walferry_prune_failed", "1 if the last scheduled prune failed or might not delete.");
    out.both(names::LAST_PRUNE_ERROR, metric, Value::failure(last.error).metric_if(is_shown));
}
