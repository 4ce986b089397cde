//! Figures of serving: the process, clients, memory, logs and replication.

use super::{Figures, Sample, Value, counter, gauge, names};
use crate::allocator;
use crate::clock::{self, Moment};
use crate::commit::gate::RefusalReason;
use crate::commit::room;
use crate::config::RoutingPolicy;
use crate::directory::Identity;
use crate::node::core::Core;
use crate::node::running::Node;
use crate::node::safety::replica_lag;
use crate::server::registry::Registry;
use crate::ship::feed::FeedStatus;
use std::sync::atomic::Ordering;

/// Takes the version, the role and the start of the process.
pub fn process(out: &mut Figures, core: &Core) {
    let version = Sample { field: "", label: env!("CARGO_PKG_VERSION").to_owned(), value: Value::number(1) };
    let metric = gauge("walferry_build_info", "Version of the running binary, as a label.");
    out.labelled(metric, "version", vec![version]);
    let metric = gauge("walferry_is_primary", "1 on a primary, 0 on a replica.");
    out.metric(metric, Value::number(u8::from(!core.is_replica())));
    let began = clock::now_micros() as f64 / 1e6 - core.started.elapsed().as_secs_f64();
    out.metric(gauge("process_start_time_seconds", "Start of the process, Unix time."), Value::number(began));
}

/// Takes the connected clients.
pub fn clients(out: &mut Figures, core: &Core, registry: &Registry) {
    let metric = gauge("walferry_connections", "Client connections.");
    out.both("connected_clients", metric, Value::number(registry.len()));
    out.text("maxclients", || registry.limit(core.config().maxclients.0));
    out.text("blocked_clients", || 0);
}

/// Takes the counters of connections and commands.
pub fn stats(out: &mut Figures, node: &Node) {
    let metric = counter("walferry_connections_accepted_total", "Client connections accepted.");
    out.both("total_connections_received", metric, Value::number(node.registry.accepted()));
    let metric = counter("walferry_commands_total", "Commands executed.");
    out.both("total_commands_processed", metric, Value::number(node.commands.load(Ordering::Relaxed)));
    let metric = counter("walferry_connections_rejected_total", "Client connections refused for the limit.");
    out.both("rejected_connections", metric, Value::number(node.registry.rejected()));
}

/// Returns the resident bytes of this process.
fn resident_bytes() -> u64 {
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

/// Takes the use of memory. `used_memory` is the size of all allocations, as in Redis, including those of RocksDB,
/// caches and connections. `maxmemory` limits only `memory_engine_bytes`, because deleting keys reduces nothing else.
pub fn memory(out: &mut Figures, core: &Core) {
    let engines = core.committer.memory().memory_bytes() as u64;
    let rows = core.committer.disk().rows().bytes() as u64;
    let (dataset, resident, allocated) = (engines + rows, resident_bytes(), allocator::allocated_bytes());
    let used = allocated.unwrap_or(resident).max(dataset);
    let maxmemory = core.config().maxmemory.0;
    out.text("used_memory", || used);
    out.text("used_memory_human", || human(used));
    let metric = gauge("walferry_allocated_bytes", "Bytes that are allocated from the allocator.");
    out.metric(metric, Value::known(allocated));
    let metric = gauge("process_resident_memory_bytes", "Resident bytes of the process.");
    out.both("used_memory_rss", metric, Value::number(resident));
    out.text("used_memory_rss_human", || human(resident));
    out.text("used_memory_overhead", || used - dataset);
    out.text("used_memory_dataset", || dataset);
    let metric = gauge("walferry_memory_engine_bytes", "Bytes that the keys in memory take.");
    out.both("memory_engine_bytes", metric, Value::number(engines));
    let metric = gauge("walferry_keys_in_memory", "Keys in memory.");
    out.both("keys_in_memory", metric, Value::number(core.committer.memory().len() as u64));
    let (to_memory, to_disk) = core.committer.memory().tracker().moves();
    let metric = counter("walferry_moved_to_memory_total", "Keys that moved from disk to memory.");
    out.both("moved_to_memory", metric, Value::number(to_memory));
    let metric = counter("walferry_moved_to_disk_total", "Keys that moved from memory to disk.");
    out.both("moved_to_disk", metric, Value::number(to_disk));
    let (memory_hits, disk_hits) = core.committer.memory().tracker().hits();
    let metric = counter("walferry_memory_hits_total", "Accesses that found their key in memory.");
    out.both("memory_hits", metric, Value::number(memory_hits));
    let metric = counter("walferry_disk_hits_total", "Accesses that found their key on disk.");
    out.both("disk_hits", metric, Value::number(disk_hits));
    out.text("routing", || core.config().routing);
    out.both("row_cache_bytes", gauge("walferry_row_cache_bytes", "Bytes in the row cache."), Value::number(rows));
    let metric = gauge("walferry_memory_limit_bytes", "Bytes that maxmemory allows them; 0: no limit.");
    out.both("maxmemory", metric, Value::number(maxmemory));
    out.text("maxmemory_human", || human(maxmemory));
    out.text("maxmemory_policy", || match core.config().routing {
        RoutingPolicy::Type => "noeviction",
        RoutingPolicy::Access => "demote",
    });
    if let Figures::Metrics(_) = out {
        let help = "Bytes of the indexes and filters of RocksDB's files in memory, about.";
        let bytes = Value::number(core.committer.disk().index_bytes());
        out.metric(gauge("walferry_rocksdb_index_bytes", help), bytes);
    }
}

/// Takes the logs, images and bases on disk.
pub fn persistence(out: &mut Figures, node: &Node) {
    let (core, snapshots) = (&node.core, &node.snapshots);
    let status = |is_bad| if is_bad { "err" } else { "ok" };
    out.text("loading", || 0);
    out.text("rdb_bgsave_in_progress", || u8::from(snapshots.is_busy()));
    out.text("rdb_last_save_time", || snapshots.last_save());
    out.text("rdb_last_bgsave_status", || status(node.bases.last().error.is_some()));
    out.text("aof_enabled", || 1);
    out.text("aof_last_write_status", || status(core.committer.gate.stands(RefusalReason::Broken)));
    let metric = gauge("walferry_log_bytes", "Bytes of both logs on disk.");
    out.both("log_bytes", metric, Value::number(core.committer.log_bytes()));
    out.text("disk_free_bytes", || room::free_bytes(core.dir.root()).unwrap_or_default());
    out.text("image_csn", || snapshots.newest_image().position.csn);
}

/// Takes the link of a replica and the connected replicas.
pub fn replication(out: &mut Figures, core: &Core) {
    let committed = core.committer.watermarks.committed.get();
    match core.link().filter(|_| core.is_replica()) {
        Some(link) => {
            let status = link.status();
            let heard = status.heard.map_or_else(|| core.started.elapsed(), Moment::elapsed);
            out.text(names::ROLE, || "slave");
            out.text("master_host", || &status.host);
            out.text("master_port", || status.port);
            let metric = gauge("walferry_link_up", "1 if the primary's commits arrive.");
            let is_up = Value::condition(status.state == "connected", ["up", "down"]);
            out.both(names::LINK_STATUS, metric, is_up);
            out.text("master_last_io_seconds_ago", || heard.as_secs());
            out.text("master_sync_in_progress", || u8::from(status.state == "sync"));
            out.text("slave_read_only", || 1);
            out.text("slave_repl_offset", || committed);
            let metric = gauge("walferry_link_primary_csn", "The primary's last commit, as last heard.");
            out.both("primary_csn", metric, Value::number(status.primary_csn));
            let metric = gauge(
                "walferry_link_lag_commits",
                "Commits of the primary that this replica has not applied, as last heard.",
            );
            out.both(names::LAG_COMMITS, metric, Value::number(status.primary_csn.since(committed)));
            let help = "Age of the oldest known commit that this replica has not applied; 0 if there is none.";
            out.both(names::LAG_MS, gauge("walferry_link_lag_seconds", help), Value::millis(status.lag_ms));
            out.text("link_source", || status.source);
            out.text("link_last_error", || &status.last_error);
        }
        None => out.text(names::ROLE, || "master"),
    }
    let feeds = core.feeds();
    out.both("connected_slaves", gauge("walferry_replicas", "Connected replicas."), Value::number(feeds.len()));
    replicas(out, core, &feeds);
    out.text("master_replid", || replication_id(&core.identity()));
    out.text("master_repl_offset", || committed);
}

/// A figure of a connected replica.
struct ReplicaFigure {
    /// Name in the replica's line in INFO; empty if the line does not show the figure.
    key: &'static str,
    /// Name and help text of the metric; `None` if there is none.
    metric: Option<(&'static str, &'static str)>,
    read: fn(&Core, &FeedStatus) -> Value,
}

/// The figures of a connected replica, in the order of its line in INFO.
const REPLICA_FIGURES: [ReplicaFigure; 10] = [
    ReplicaFigure { key: "ip", metric: None, read: |_, feed| Value::number(&feed.address) },
    ReplicaFigure { key: "port", metric: None, read: |_, feed| Value::number(feed.port) },
    ReplicaFigure { key: "state", metric: None, read: |_, feed| Value::number(feed.state) },
    ReplicaFigure {
        key: "",
        metric: Some(("walferry_replica_sent_csn", "Last commit sent to a replica.")),
        read: |_, feed| Value::number(feed.sent),
    },
    ReplicaFigure {
        key: "offset",
        metric: Some(("walferry_replica_applied_csn", "Last commit a replica applied.")),
        read: |_, feed| Value::number(feed.ack.applied),
    },
    ReplicaFigure { key: "lag", metric: None, read: |_, feed| Value::number(feed.seen.elapsed().as_secs()) },
    ReplicaFigure {
        key: "lag_commits",
        metric: Some(("walferry_replica_lag_commits", "Commits a replica has not applied.")),
        read: |core, feed| Value::number(core.committer.watermarks.committed.get().since(feed.ack.applied)),
    },
    ReplicaFigure {
        key: "lag_ms",
        metric: Some((
            "walferry_replica_lag_seconds",
            "Age of the oldest commit that a replica has not applied; 0 if there is none.",
        )),
        read: |core, feed| Value::lag(replica_lag(core, feed)),
    },
    ReplicaFigure {
        key: "lag_bytes",
        metric: Some(("walferry_replica_in_flight_bytes", "Bytes sent to a replica and not acknowledged.")),
        read: |_, feed| Value::number(feed.in_flight_bytes),
    },
    ReplicaFigure {
        key: "durable",
        metric: Some(("walferry_replica_acked_csn", "Last commit a replica holds durably.")),
        read: |_, feed| Value::number(feed.ack.durable),
    },
];

/// Takes the connected replicas: a line for each in INFO, a metric with a label for each figure.
fn replicas(out: &mut Figures, core: &Core, feeds: &[FeedStatus]) {
    for (nth, feed) in feeds.iter().enumerate() {
        out.text(&format!("{}{nth}", names::REPLICA), || {
            let shown = REPLICA_FIGURES.iter().filter(|figure| !figure.key.is_empty());
            let pairs = shown.map(|figure| format!("{}={}", figure.key, (figure.read)(core, feed).info));
            pairs.collect::<Vec<_>>().join(",")
        });
    }
    for ReplicaFigure { metric, read, .. } in REPLICA_FIGURES.iter().filter(|_| !feeds.is_empty()) {
        let Some((name, help)) = metric else { continue };
        let sample = |feed: &FeedStatus| Sample {
            field: "",
            label: format!("{}:{}", feed.address, feed.port),
            value: read(core, feed),
        };
        out.labelled(gauge(name, help), "replica", feeds.iter().map(sample).collect());
    }
}

/// Returns the name of this node's history in the form of Redis' replication id, 40 digits: half of the cluster's id,
/// then the incarnation and the number of the epoch.
fn replication_id(identity: &Identity) -> String {
    let (cluster, current) = (identity.cluster.to_string(), identity.current());
    format!("{}{}{:08x}", &cluster[..16], current.incarnation, current.epoch.0)
}
