//! INFO: Redis' sections and field names, and walferry's own section.

use super::figures::{Fields, Figures, archive, commits, serving};
use super::running::Node;
use super::safety::Safety;
use crate::command::host::InfoSection;

/// Returns all sections, in Redis' order.
pub(super) fn sections(node: &Node) -> Vec<InfoSection> {
    let core = &node.core;
    let figures = |take: &dyn Fn(&mut Figures)| {
        let mut out = Figures::Info(Fields::new());
        take(&mut out);
        out.into_fields()
    };
    vec![
        ("Server", figures(&|out| server(out, node))),
        ("Clients", figures(&|out| serving::clients(out, core, &node.registry))),
        ("Memory", figures(&|out| serving::memory(out, core))),
        ("Persistence", figures(&|out| serving::persistence(out, node))),
        ("Stats", figures(&|out| serving::stats(out, node))),
        ("Replication", figures(&|out| serving::replication(out, core))),
        ("CPU", figures(&cpu)),
        ("Keyspace", figures(&|out| keyspace(out, node))),
        ("Walferry", figures(&|out| walferry(out, node))),
    ]
}

fn server(out: &mut Figures, node: &Node) {
    let uptime = node.core.started.elapsed().as_secs();
    out.text("redis_version", || crate::command::server_info::REDIS_VERSION);
    out.text("walferry_version", || env!("CARGO_PKG_VERSION"));
    out.text("redis_mode", || "standalone");
    out.text("os", || format!("Linux {}", rustix::system::uname().release().to_string_lossy()));
    out.text("arch_bits", || usize::BITS);
    out.text("process_id", std::process::id);
    out.text("run_id", || node.core.identity().node);
    out.text("tcp_port", || node.core.config().port.0);
    out.text("uptime_in_seconds", || uptime);
    out.text("uptime_in_days", || uptime / 86_400);
}

fn cpu(out: &mut Figures) {
    // /proc/self/stat: fields 14 and 15 are user and system time in clock ticks.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = |nth: usize| after_name.split(' ').nth(nth).and_then(|t| t.parse::<f64>().ok()).unwrap_or_default();
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    out.text("used_cpu_sys", || format!("{:.6}", ticks(12) / per_second));
    out.text("used_cpu_user", || format!("{:.6}", ticks(11) / per_second));
}

fn keyspace(out: &mut Figures, node: &Node) {
    let keys = node.key_counter.told();
    if keys > 0 {
        out.text("db0", || format!("keys={keys},expires=0,avg_ttl=0"));
    }
}

fn walferry(out: &mut Figures, node: &Node) {
    let core = &node.core;
    let archiving = core.primary().and_then(|primary| primary.archiving());
    let safety = Safety::of(core, &node.bases, archiving.as_ref());
    let (is_archiving, second) = (archiving.is_some(), archiving.as_ref().and_then(|status| status.second.clone()));
    commits::watermarks(out, core, &safety);
    commits::refusal(out, core);
    archive::uploads(out, core, archiving);
    if let Some(archive) = &core.archive {
        archive::bases(out, &node.bases);
        if is_archiving {
            commits::restorable(out, core, &safety);
            archive::requests(out, core, archive);
        }
    }
    if let Some(second) = second {
        archive::second(out, core, second);
    }
    archive::compacting(out, core, &node.compacting);
    archive::pruning(out, core, &node.pruning);
    out.text("io_backend", || &core.backends.description);
    out.text("io_backend_reason", || &core.backends.reason);
}
