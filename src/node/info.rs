//! INFO: Redis' sections and field names, and walferry's own section.

use super::roles::{ArchivingStatus, SecondStatus};
use super::running::Node;
use super::safety::{Safety, age_of_next, clock_ahead_us, replica_lag};
use crate::allocator;
use crate::clock::Moment;
use crate::command::host::InfoSection;
use crate::commit::room;
use crate::directory::Identity;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Returns all sections, in Redis' order.
pub(super) fn sections(node: &Node) -> Vec<InfoSection> {
    vec![
        ("Server", server(node)),
        ("Clients", clients(node)),
        ("Memory", memory(node)),
        ("Persistence", persistence(node)),
        ("Stats", stats(node)),
        ("Replication", replication(node)),
        ("CPU", cpu()),
        ("Keyspace", keyspace(node)),
        ("Walferry", walferry(node)),
    ]
}

type Fields = Vec<(String, String)>;

fn fields<const N: usize>(pairs: [(&str, String); N]) -> Fields {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn server(node: &Node) -> Fields {
    let uptime = node.core.started.elapsed().as_secs();
    fields([
        ("redis_version", crate::command::server_info::REDIS_VERSION.to_owned()),
        ("walferry_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("redis_mode", "standalone".to_owned()),
        ("os", format!("Linux {}", rustix::system::uname().release().to_string_lossy())),
        ("arch_bits", usize::BITS.to_string()),
        ("process_id", std::process::id().to_string()),
        ("run_id", node.core.identity().node),
        ("tcp_port", node.core.config().port.0.to_string()),
        ("uptime_in_seconds", uptime.to_string()),
        ("uptime_in_days", (uptime / 86_400).to_string()),
    ])
}

fn clients(node: &Node) -> Fields {
    let registry = &node.registry;
    fields([
        ("connected_clients", registry.len().to_string()),
        ("maxclients", registry.limit(node.core.config().maxclients.0).to_string()),
        ("blocked_clients", "0".to_owned()),
    ])
}

/// Returns the resident bytes of this process.
pub(super) fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

/// Formats bytes with a unit, as Redis does.
fn human(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let mut amount = bytes as f64;
    let mut nth = 0;
    while amount >= 1024.0 && nth + 1 < units.len() {
        amount /= 1024.0;
        nth += 1;
    }
    if nth == 0 { format!("{bytes}B") } else { format!("{amount:.2}{}", units[nth]) }
}

/// Returns the memory section. `used_memory` is the size of all allocations, as in Redis, including those of RocksDB,
/// caches and connections. `maxmemory` limits only `memory_engine_bytes`, because deleting keys reduces nothing else.
fn memory(node: &Node) -> Fields {
    let engines = node.core.committer.memory_bytes() as u64;
    let rows = node.core.committer.disk().rows().bytes() as u64;
    let (dataset, resident) = (engines + rows, resident_bytes());
    let used = allocator::allocated_bytes().unwrap_or(resident).max(dataset);
    let maxmemory = node.core.config().maxmemory.0;
    fields([
        ("used_memory", used.to_string()),
        ("used_memory_human", human(used)),
        ("used_memory_rss", resident.to_string()),
        ("used_memory_rss_human", human(resident)),
        ("used_memory_overhead", (used - dataset).to_string()),
        ("used_memory_dataset", dataset.to_string()),
        ("memory_engine_bytes", engines.to_string()),
        ("row_cache_bytes", rows.to_string()),
        ("maxmemory", maxmemory.to_string()),
        ("maxmemory_human", human(maxmemory)),
        ("maxmemory_policy", "noeviction".to_owned()),
    ])
}

fn persistence(node: &Node) -> Fields {
    let last = node.bases.last();
    fields([
        ("loading", "0".to_owned()),
        ("rdb_bgsave_in_progress", u8::from(node.snapshots.is_busy()).to_string()),
        ("rdb_last_save_time", node.snapshots.last_save().to_string()),
        ("rdb_last_bgsave_status", if last.error.is_some() { "err" } else { "ok" }.to_owned()),
        ("aof_enabled", "1".to_owned()),
        (
            "aof_last_write_status",
            if node.core.committer.gate.stands(crate::commit::gate::RefusalReason::Broken) { "err" } else { "ok" }
                .to_owned(),
        ),
        ("log_bytes", node.core.committer.log_bytes().to_string()),
        ("disk_free_bytes", room::free_bytes(node.core.dir.root()).unwrap_or_default().to_string()),
        ("image_csn", node.snapshots.newest_image().position.csn.to_string()),
    ])
}

fn stats(node: &Node) -> Fields {
    let registry = &node.registry;
    fields([
        ("total_connections_received", registry.accepted().to_string()),
        ("total_commands_processed", node.commands.load(Ordering::Relaxed).to_string()),
        ("rejected_connections", registry.rejected().to_string()),
    ])
}

fn replication(node: &Node) -> Fields {
    let committed = node.core.committer.watermarks.committed.get();
    let mut all = Vec::new();
    match node.core.link().filter(|_| node.core.is_replica()) {
        Some(link) => {
            let status = link.status();
            let heard = status.heard.map_or_else(|| node.core.started.elapsed(), Moment::elapsed);
            all.extend(fields([
                ("role", "slave".to_owned()),
                ("master_host", status.host),
                ("master_port", status.port.to_string()),
                ("master_link_status", if status.state == "connected" { "up" } else { "down" }.to_owned()),
                ("master_last_io_seconds_ago", heard.as_secs().to_string()),
                ("master_sync_in_progress", u8::from(status.state == "sync").to_string()),
                ("slave_read_only", "1".to_owned()),
                ("slave_repl_offset", committed.to_string()),
                ("primary_csn", status.primary_csn.to_string()),
                ("lag_commits", status.primary_csn.since(committed).to_string()),
                ("lag_ms", status.lag_ms.to_string()),
                ("link_source", status.source.to_owned()),
                ("link_last_error", status.last_error),
            ]));
        }
        None => all.extend(fields([("role", "master".to_owned())])),
    }
    let feeds = node.core.feeds();
    all.push(("connected_slaves".to_owned(), feeds.len().to_string()));
    for (nth, feed) in feeds.iter().enumerate() {
        let line = format!(
            "ip={},port={},state={},offset={},lag={},lag_commits={},lag_ms={},lag_bytes={},durable={}",
            feed.address,
            feed.port,
            feed.state,
            feed.ack.applied,
            feed.seen.elapsed().as_secs(),
            committed.since(feed.ack.applied),
            rounded_up_ms(replica_lag(&node.core, feed)),
            feed.in_flight_bytes,
            feed.ack.durable
        );
        all.push((format!("slave{nth}"), line));
    }
    all.extend(fields([
        ("master_replid", replication_id(&node.core.identity())),
        ("master_repl_offset", committed.to_string()),
    ]));
    all
}

/// Returns the name of this node's history in the form of Redis' replication id, 40 digits: half of the cluster's id,
/// then the incarnation and the number of the epoch.
fn replication_id(identity: &Identity) -> String {
    let (cluster, current) = (identity.cluster.to_string(), identity.current());
    format!("{}{}{:08x}", &cluster[..16], current.incarnation, current.epoch.0)
}

fn cpu() -> Fields {
    // /proc/self/stat: fields 14 and 15 are user and system time in clock ticks.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |nth: usize| after_name.split(' ').nth(nth).and_then(|t| t.parse::<f64>().ok()).unwrap_or_default();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    fields([
        ("used_cpu_sys", format!("{:.6}", ticks(12) / per_second)),
        ("used_cpu_user", format!("{:.6}", ticks(11) / per_second)),
    ])
}

fn keyspace(node: &Node) -> Fields {
    let keys = node.key_counter.told();
    if keys == 0 {
        return Vec::new();
    }
    fields([("db0", format!("keys={keys},expires=0,avg_ttl=0"))])
}

fn walferry(node: &Node) -> Fields {
    let watermarks = &node.core.committer.watermarks;
    let identity = node.core.identity();
    let mut all = fields([
        ("cluster_id", identity.cluster.to_string()),
        ("node_id", identity.node.clone()),
        ("epoch", identity.epoch().to_string()),
        ("epoch_incarnation", node.core.identity().current().incarnation.to_string()),
        ("committed_csn", watermarks.committed.get().to_string()),
        ("history_hash", node.core.committer.position().hash.to_string()),
        ("durable_csn", watermarks.durable.get().to_string()),
        ("archived_csn", watermarks.archived.get().to_string()),
        ("clock_ahead_ms", (clock_ahead_us(&node.core) / 1000).to_string()),
        ("appendfsync", node.core.committer.syncer.mode().to_string()),
        ("repl_port", node.core.config().repl_port.0.to_string()),
    ]);
    let refusal = node.core.committer.gate.refusal();
    let reason = refusal.map(|(obstacle, reason)| format!("{} {reason}", obstacle.code()));
    all.push(("writes_refused".to_owned(), reason.unwrap_or_default()));
    all.extend(archive(node));
    all.extend(compacting(node));
    all.extend(pruning(node));
    all.extend(fields([
        ("io_backend", node.core.backends.description.clone()),
        ("io_backend_reason", node.core.backends.reason.clone()),
    ]));
    all
}

/// Returns the archived commits that do not lie on the newest line; empty if there are none.
fn abandoned(node: &Node) -> String {
    let archive_figures = node.core.archive_figures.lock();
    let told =
        archive_figures.iter().flat_map(|archive_figures| archive_figures.abandoned.iter().map(ToString::to_string));
    told.collect::<Vec<_>>().join("; ")
}

/// Rounds up to whole milliseconds, so that only a zero lag yields 0.
fn rounded_up_ms(lag: Duration) -> String {
    lag.as_micros().div_ceil(1000).to_string()
}

/// Returns which commits can be restored, how much a loss of this machine would cost, and the counts of requests to the
/// archive.
fn safety(node: &Node, archiving: &ArchivingStatus) -> Fields {
    let safety = Safety::of(&node.core, &node.bases, Some(archiving));
    let csn = |csn: Option<crate::csn::Csn>| csn.map_or_else(String::new, |csn| csn.to_string());
    let time = |time: Option<crate::csn::CommitTime>| time.map_or_else(String::new, |time| time.to_string());
    let traffic = node.core.archive.as_ref().map(crate::archive::store::Archive::traffic);
    let count = |counter: fn(&crate::archive::traffic::Traffic) -> &std::sync::atomic::AtomicU64| {
        traffic.map_or(0, |traffic| counter(traffic).load(Ordering::Relaxed)).to_string()
    };
    fields([
        ("restorable_from_csn", csn(safety.restorable_from)),
        ("restorable_from_time", time(safety.restorable_from_time)),
        ("restorable_until_csn", csn(safety.restorable_from.map(|_| safety.archived))),
        ("restorable_until_time", time(safety.restorable_from.and(safety.archived_time))),
        ("abandoned", abandoned(node)),
        ("rpo_ms", rounded_up_ms(safety.rpo.unwrap_or_default())),
        ("archive_puts", count(|traffic| &traffic.puts)),
        ("archive_gets", count(|traffic| &traffic.gets)),
        ("archive_heads", count(|traffic| &traffic.heads)),
        ("archive_lists", count(|traffic| &traffic.lists)),
        ("archive_deletes", count(|traffic| &traffic.deletes)),
        ("archive_retries", count(|traffic| &traffic.retries)),
        ("archive_failures", count(|traffic| &traffic.failures)),
    ])
}

/// Returns the setting and the results of building compacted runs since the start.
fn compacting(node: &Node) -> Fields {
    let compacted = node.compacting.status();
    let per = node.core.config().compact_per;
    fields([
        ("compact_per", per.map_or_else(String::new, |grain| grain.to_string())),
        ("compact_runs", compacted.runs.to_string()),
        ("compact_bytes", compacted.bytes.to_string()),
        ("compacted_until_csn", compacted.until.to_string()),
        ("last_compact_ms", compacted.ended_ms.to_string()),
        ("last_compact_error", compacted.error.unwrap_or_default()),
    ])
}

/// Returns the schedule of prunes and the result of the last one.
fn pruning(node: &Node) -> Fields {
    let (config, last) = (node.core.config(), node.pruning.last());
    fields([
        ("keep", config.keep.to_string()),
        ("prune_interval_ms", config.prune_interval.as_millis().to_string()),
        ("last_prune_ms", last.ended_ms.to_string()),
        ("last_prune_objects", last.removed.to_string()),
        ("last_prune_bytes", last.bytes_removed.to_string()),
        ("last_prune_error", last.error.unwrap_or_default()),
    ])
}

fn archive(node: &Node) -> Fields {
    let Some(archive) = &node.core.archive else {
        return fields([("archive", String::new()), ("archive_lag_ms", "0".to_owned())]);
    };
    let mut all = fields([("archive", archive.url().to_owned())]);
    let Some(archiving) = node.core.primary().and_then(|primary| primary.archiving()) else {
        all.extend(fields([("archive_lag_ms", "0".to_owned())]));
        all.extend(bases(node));
        return all;
    };
    let restorable = safety(node, &archiving);
    let ArchivingStatus { spool, cutter, cutter_error, uploader, merging: merges, second, .. } = archiving;
    all.extend(fields([
        ("archive_lag_ms", rounded_up_ms(age_of_next(&node.core, node.core.committer.watermarks.archived.get()))),
        ("archive_last_error", uploader.stopped.or(uploader.last_error).or(cutter_error).unwrap_or_default()),
        ("archive_failures_in_row", uploader.failures_in_row.to_string()),
        ("cut_csn", cutter.position.csn.to_string()),
        ("chunks_cut", cutter.chunks.to_string()),
        ("chunk_raw_bytes", cutter.raw_bytes.to_string()),
        ("chunk_stored_bytes", cutter.stored_bytes.to_string()),
        ("chunks_archived", uploader.chunks_done.to_string()),
        ("spool_chunks", spool.chunks.to_string()),
        ("spool_bytes", spool.bytes.to_string()),
        ("merged_chunks", merges.sum.merged.to_string()),
        ("merged_parts", merges.sum.parts.to_string()),
        ("merged_parts_deleted", merges.sum.deleted.to_string()),
        ("merged_parts_waiting", merges.sum.waiting.to_string()),
        ("merge_last_error", merges.last_error.unwrap_or_default()),
    ]));
    all.extend(bases(node));
    all.extend(restorable);
    if let Some(second) = second {
        let lag = age_of_next(&node.core, second.archived);
        all.extend(archive_2(&node.core.config().archive_2, second, lag));
    }
    all
}

/// Returns the last base and the pending work on bases.
fn bases(node: &Node) -> Fields {
    let base = node.bases.last();
    let report = base.report.as_ref();
    fields([
        ("last_base_csn", report.map_or(0, |report| report.base.csn.0).to_string()),
        ("last_base_bytes_new", report.map_or(0, |report| report.bytes_new).to_string()),
        ("last_base_bytes_shared", report.map_or(0, |report| report.bytes_shared).to_string()),
        ("last_base_cut_pause_us", report.map_or(0, |report| report.cut_pause.as_micros()).to_string()),
        ("last_base_level", report.map_or_else(String::new, |report| report.level.to_string())),
        ("last_base_skew_us", report.map_or(0, |report| report.skew_us).to_string()),
        ("last_base_skew_commits", report.map_or(0, |report| report.skew_commits).to_string()),
        ("last_base_took_ms", report.map_or(0, |report| report.took.as_millis()).to_string()),
        ("last_base_replica", base.publisher),
        ("last_base_error", base.error.unwrap_or_default()),
        ("base_asked_of_replica", node.bases.asked()),
        ("bases_to_repair", node.bases.repairs.waiting().to_string()),
    ])
}

fn archive_2(url: &str, second: SecondStatus, lag: Duration) -> Fields {
    fields([
        ("archive_2", url.to_owned()),
        ("archive_2_state", second.state.to_owned()),
        ("archive_2_csn", second.archived.to_string()),
        ("archive_2_lag_ms", rounded_up_ms(lag)),
        ("archive_2_spool_bytes", second.spool_bytes.to_string()),
        ("archive_2_last_error", second.last_error.unwrap_or_default()),
        ("archive_2_failures_in_row", second.failures_in_row.to_string()),
        ("archive_2_backlogs_dropped", second.drops.to_string()),
        ("archive_2_last_base_csn", second.last_base.map_or(0, |published| published.base.csn.0).to_string()),
        ("archive_2_last_base_error", second.last_base_error.unwrap_or_default()),
    ])
}
