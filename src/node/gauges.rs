//! The figures of a node: collected once, and shown by INFO and as Prometheus metrics.
//!
//! Guarantees: the figures stay true when nothing happens: archived commits have no age, and unknown figures are
//! omitted. A reported lag is never less than the true lag, however far a replica or an archive is behind and however
//! the clock is set.

use super::pruning::LastPrune;
use super::roles::{ArchivingStatus, SecondStatus};
use super::running::Node;
use super::safety::{Safety, age_of_next, clock_ahead_us, replica_lag};
use crate::clock;
use crate::commit::gate::RefusalReason;
use crate::csn::{CommitTime, Csn};
use crate::history::abandoned::Abandoned;
use crate::metrics::{Exposition, Kind};
use crate::ship::feed::FeedStatus;
use std::sync::atomic::{AtomicU64, Ordering};

fn second_metrics(out: &mut Exposition, second: &SecondStatus, lag: f64) {
    let help = "Last commit that archive-2 holds without a gap, from its last base on.";
    out.gauge("walferry_archive_2_csn", help, second.archived);
    let help = "Age of the oldest commit that archive-2 lacks; 0 if there is none.";
    out.gauge("walferry_archive_2_lag_seconds", help, lag);
    out.gauge("walferry_archive_2_spool_bytes", "Bytes of sealed chunks that wait for archive-2.", second.spool_bytes);
    out.gauge(
        "walferry_archive_2_failures_in_row",
        "Failures of archive-2 in a row; 0 after a success.",
        second.failures_in_row,
    );
    out.counter(
        "walferry_archive_2_backlogs_dropped_total",
        "Times that the backlog of archive-2 was dropped.",
        second.drops,
    );
}

/// Returns the metrics in the text format of Prometheus.
#[must_use]
pub fn metrics(node: &Node) -> String {
    let mut out = Exposition::default();
    let mut build = out.family(Kind::Gauge, "walferry_build_info", "Version of the running binary, as a label.");
    build.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    out.gauge("walferry_is_primary", "1 on a primary, 0 on a replica.", u8::from(!node.core.is_replica()));
    out.gauge("walferry_epoch", "Generation of the writer.", node.core.identity().epoch());
    let uptime = node.core.started.elapsed().as_secs_f64();
    let began = clock::now_micros() as f64 / 1e6 - uptime;
    out.gauge("process_start_time_seconds", "Start of the process, Unix time.", began);
    safety_metrics(node, &mut out);
    archive_metrics(node, &mut out);
    base_metrics(node, &mut out);
    replication_metrics(node, &mut out);
    serving_metrics(node, &mut out);
    out.finish()
}

fn safety_metrics(node: &Node, out: &mut Exposition) {
    let archiving = node.core.primary().and_then(|primary| primary.archiving());
    let safety = Safety::of(&node.core, &node.bases, archiving.as_ref());
    let (committed, time) = safety.committed;
    out.gauge("walferry_committed_csn", "Last commit.", committed);
    let time = Some(seconds(time)).filter(|_| committed > Csn::ZERO);
    out.gauge_if_known("walferry_committed_timestamp_seconds", "Unix time of the last commit.", time);
    let help = "System's clock less the clock that commit times follow, in seconds; more than 60: the system's clock \
             was set, and commit times do not follow it.";
    out.gauge("walferry_clock_ahead_seconds", help, clock_ahead_us(&node.core) as f64 / 1e6);
    out.gauge("walferry_durable_csn", "Last commit that a power cut cannot lose.", safety.durable);
    let help = "Age of the oldest commit that a power cut could lose; 0 if there is none.";
    out.gauge("walferry_durable_lag_seconds", help, safety.durable_lag.as_secs_f64());
    if let Some(rpo) = safety.rpo {
        out.gauge("walferry_archived_csn", "Last commit that the archive holds without a gap.", safety.archived);
        let time = safety.archived_time.map(seconds);
        out.gauge_if_known("walferry_archived_timestamp_seconds", "Unix time of walferry_archived_csn's commit.", time);
        let help = "Age of the oldest commit that is not archived and would be lost with this machine; 0 if there \
                        is none.";
        out.gauge("walferry_rpo_seconds", help, rpo.as_secs_f64());
        let help = "Every commit from this one to walferry_restorable_until_csn can be restored from the archive.";
        out.gauge_if_known("walferry_restorable_from_csn", help, safety.restorable_from);
        let time = safety.restorable_from_time.map(seconds);
        out.gauge_if_known(
            "walferry_restorable_from_timestamp_seconds",
            "Unix time of walferry_restorable_from_csn's commit.",
            time,
        );
        let until = safety.restorable_from.map(|_| safety.archived);
        out.gauge_if_known(
            "walferry_restorable_until_csn",
            "The last commit that can be restored without a gap.",
            until,
        );
        let time = safety.restorable_from.and(safety.archived_time).map(seconds);
        out.gauge_if_known(
            "walferry_restorable_until_timestamp_seconds",
            "Unix time of walferry_restorable_until_csn's commit.",
            time,
        );
    }
}

fn archive_metrics(node: &Node, out: &mut Exposition) {
    let Some(archive) = &node.core.archive else { return };
    let traffic = archive.traffic();
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let help = "Requests sent to the archive's object store, repeats included; LIST by pages of 1000.";
    let mut requests = out.family(Kind::Counter, "walferry_archive_requests_total", help);
    for (operation, counter) in [
        ("put", &traffic.puts),
        ("get", &traffic.gets),
        ("head", &traffic.heads),
        ("list", &traffic.lists),
        ("delete", &traffic.deletes),
    ] {
        requests.sample(&[("operation", operation)], get(counter));
    }
    out.counter("walferry_archive_sent_bytes_total", "Bytes of objects sent.", get(&traffic.bytes_sent));
    out.counter("walferry_archive_received_bytes_total", "Bytes of objects received.", get(&traffic.bytes_received));
    out.counter("walferry_archive_retries_total", "Requests that repeated a failed one.", get(&traffic.retries));
    out.counter("walferry_archive_failures_total", "Calls that failed for good.", get(&traffic.failures));
    if let Some(archive_figures) = &*node.core.archive_figures.lock() {
        out.gauge(
            "walferry_archive_objects",
            "Objects in the archive when it was last listed.",
            archive_figures.objects,
        );
        out.gauge("walferry_archive_bytes", "Bytes in the archive when it was last listed.", archive_figures.bytes);
        let abandoned: u64 = archive_figures.abandoned.iter().map(Abandoned::commits).sum();
        let help = "Archived commits that lie on no line of history; INFO walferry lists them.";
        out.gauge("walferry_archive_abandoned_commits", help, abandoned);
        let help = "Unix time of the last listing of the archive (at the start, after a prune).";
        out.gauge("walferry_archive_listed_timestamp_seconds", help, seconds(archive_figures.listed));
    }
    if let Some(archiving) = node.core.primary().and_then(|primary| primary.archiving()) {
        let ArchivingStatus { spool, cutter, uploader, merging: merged, second, .. } = archiving;
        let help = "Failed uploads in a row; 0 after a success.";
        out.gauge("walferry_archive_failures_in_row", help, uploader.failures_in_row);
        out.gauge("walferry_spool_chunks", "Sealed chunks that wait for the archive.", spool.chunks);
        out.gauge("walferry_spool_bytes", "Bytes of the sealed chunks that wait for the archive.", spool.bytes);
        let help = "Bytes at which writes are refused.";
        out.gauge("walferry_spool_limit_bytes", help, node.core.config().spool_max_bytes.0);
        out.counter("walferry_chunks_cut_total", "Chunks cut.", cutter.chunks);
        out.counter("walferry_chunk_raw_bytes_total", "Bytes of the cut chunks before compression.", cutter.raw_bytes);
        out.counter(
            "walferry_chunk_stored_bytes_total",
            "Bytes of the cut chunks after compression.",
            cutter.stored_bytes,
        );
        out.counter("walferry_chunks_archived_total", "Chunks confirmed in the archive.", uploader.chunks_done);
        out.counter("walferry_chunks_merged_total", "Chunks made of smaller ones in the archive.", merged.sum.merged);
        out.counter(
            "walferry_merged_parts_deleted_total",
            "Smaller chunks deleted after they were merged.",
            merged.sum.deleted,
        );
        let help = "1 if the last round of merging failed.";
        out.gauge("walferry_merge_failed", help, u8::from(merged.last_error.is_some()));
        if let Some(second) = second {
            second_metrics(out, &second, age_of_next(&node.core, second.archived).as_secs_f64());
        }
    }
    let compacted = node.compacting.status();
    if compacted.ended_ms > 0 {
        out.counter("walferry_compacted_runs_total", "Compacted runs built since the start.", compacted.runs);
        out.counter(
            "walferry_compacted_bytes_total",
            "Bytes of the compacted runs built since the start.",
            compacted.bytes,
        );
        let help = "Last commit in a compacted run of the size in compact-per.";
        out.gauge("walferry_compacted_until_csn", help, compacted.until.0);
        out.gauge(
            "walferry_compact_failed",
            "1 if the last attempt to build compacted runs failed.",
            u8::from(compacted.error.is_some()),
        );
    }
    let LastPrune { ended_ms, removed, bytes_removed, error } = node.pruning.last();
    if ended_ms > 0 {
        out.gauge(
            "walferry_prune_timestamp_seconds",
            "End of the last scheduled prune, Unix time.",
            ended_ms as f64 / 1e3,
        );
        out.gauge("walferry_prune_removed_objects", "Objects that the last scheduled prune removed.", removed);
        out.gauge("walferry_prune_removed_bytes", "Bytes that the last scheduled prune removed.", bytes_removed);
        out.gauge(
            "walferry_prune_failed",
            "1 if the last scheduled prune failed or might not delete.",
            u8::from(error.is_some()),
        );
    }
}

fn base_metrics(node: &Node, out: &mut Exposition) {
    let last = node.bases.last();
    if let Some(report) = last.report {
        out.gauge("walferry_base_csn", "Commit at which the last base since the start lies.", report.base.csn);
        out.gauge("walferry_base_duration_seconds", "Time that the last base took.", report.took.as_secs_f64());
        out.gauge("walferry_base_new_bytes", "Bytes that the last base sent.", report.bytes_new);
        out.gauge(
            "walferry_base_shared_bytes",
            "Bytes of the last base that the archive had before.",
            report.bytes_shared,
        );
        let help = "Time that writers waited for the cut of the last base.";
        out.gauge("walferry_base_cut_pause_seconds", help, report.cut_pause.as_secs_f64());
    }
    let help = "Eventual bases that wait for their repair, as far as this node knows.";
    out.gauge("walferry_bases_to_repair", help, node.bases.repairs.waiting());
    out.gauge(
        "walferry_base_failed",
        "1 if the last attempt to publish a base failed.",
        u8::from(last.error.is_some()),
    );
}

fn replication_metrics(node: &Node, out: &mut Exposition) {
    let committed = node.core.committer.watermarks.committed.get();
    if let Some(link) = node.core.link().filter(|_| node.core.is_replica()) {
        let status = link.status();
        out.gauge("walferry_link_up", "1 if the primary's commits arrive.", u8::from(status.state == "connected"));
        out.gauge("walferry_link_primary_csn", "The primary's last commit, as last heard.", status.primary_csn);
        let help = "Commits of the primary that this replica has not applied, as last heard.";
        out.gauge("walferry_link_lag_commits", help, status.primary_csn.since(committed));
        let help = "Age of the oldest known commit that this replica has not applied; 0 if there is none.";
        out.gauge("walferry_link_lag_seconds", help, status.lag_ms as f64 / 1e3);
    }
    let feeds = node.core.feeds();
    out.gauge("walferry_replicas", "Connected replicas.", feeds.len());
    if feeds.is_empty() {
        return;
    }
    let named: Vec<_> = feeds.iter().map(|feed| (format!("{}:{}", feed.address, feed.port), feed)).collect();
    let mut each = |name, help: &str, value: &dyn Fn(&FeedStatus) -> f64| {
        let mut family = out.family(Kind::Gauge, name, help);
        named.iter().for_each(|(replica, feed)| family.sample(&[("replica", replica)], value(feed)));
    };
    each("walferry_replica_sent_csn", "Last commit sent to a replica.", &|feed| feed.sent.0 as f64);
    each("walferry_replica_applied_csn", "Last commit a replica applied.", &|feed| feed.ack.applied.0 as f64);
    each("walferry_replica_acked_csn", "Last commit a replica holds durably.", &|feed| feed.ack.durable.0 as f64);
    let help = "Commits a replica has not applied.";
    each("walferry_replica_lag_commits", help, &|feed| committed.since(feed.ack.applied) as f64);
    let help = "Age of the oldest commit that a replica has not applied; 0 if there is none.";
    each("walferry_replica_lag_seconds", help, &|feed| replica_lag(&node.core, feed).as_secs_f64());
    let help = "Bytes sent to a replica and not acknowledged.";
    each("walferry_replica_in_flight_bytes", help, &|feed| feed.in_flight_bytes as f64);
}

fn serving_metrics(node: &Node, out: &mut Exposition) {
    let registry = &node.registry;
    out.counter("walferry_commands_total", "Commands executed.", node.commands.load(Ordering::Relaxed));
    out.gauge("walferry_connections", "Client connections.", registry.len());
    out.counter("walferry_connections_accepted_total", "Client connections accepted.", registry.accepted());
    out.counter(
        "walferry_connections_rejected_total",
        "Client connections refused for the limit.",
        registry.rejected(),
    );
    let help = "Bytes that are allocated from the allocator.";
    out.gauge_if_known("walferry_allocated_bytes", help, crate::allocator::allocated_bytes());
    let help = "Bytes that lists and sorted sets hold.";
    out.gauge("walferry_memory_engine_bytes", help, node.core.committer.memory_bytes());
    let help = "Bytes that maxmemory allows them; 0: no limit.";
    out.gauge("walferry_memory_limit_bytes", help, node.core.config().maxmemory.0);
    out.gauge("walferry_row_cache_bytes", "Bytes in the row cache.", node.core.committer.disk().rows().bytes());
    let help = "Bytes of the indexes and filters of RocksDB's files in memory, about.";
    out.gauge("walferry_rocksdb_index_bytes", help, node.core.committer.disk().index_bytes());
    out.gauge("process_resident_memory_bytes", "Resident bytes of the process.", super::info::resident_bytes());
    out.gauge("walferry_log_bytes", "Bytes of both logs on disk.", node.core.committer.log_bytes());
    let help = "1 while writes are refused, by reason.";
    let mut refused = out.family(Kind::Gauge, "walferry_writes_refused", help);
    for (obstacle, name) in [
        (RefusalReason::SpoolFull, "spool full"),
        (RefusalReason::DiskLow, "disk low"),
        (RefusalReason::DiskFull, "disk full"),
        (RefusalReason::Replica, "replica"),
        (RefusalReason::Unarchived, "uploading ended"),
        (RefusalReason::Broken, "log broken"),
        (RefusalReason::Fenced, "fenced"),
    ] {
        refused.sample(&[("obstacle", name)], u8::from(node.core.committer.gate.stands(obstacle)));
    }
}

fn seconds(time: CommitTime) -> f64 {
    time.0 as f64 / 1e6
}
