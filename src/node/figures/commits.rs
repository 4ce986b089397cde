//! Figures of commits: how far they are safe, and which of them can be restored.

use super::{Figures, Sample, Value, gauge, names};
use crate::commit::gate::RefusalReason;
use crate::csn::Csn;
use crate::node::core::Core;
use crate::node::safety::{Safety, clock_ahead_us};

/// Takes the node's identity and its watermarks.
pub fn watermarks(out: &mut Figures, core: &Core, safety: &Safety) {
    let identity = core.identity();
    let (committed, time) = safety.committed;
    let archives = safety.rpo.is_some();
    out.text("cluster_id", || identity.cluster);
    out.text("node_id", || &identity.node);
    out.both(names::EPOCH, gauge("walferry_epoch", "Generation of the writer."), Value::number(identity.epoch()));
    out.text("epoch_incarnation", || identity.current().incarnation);
    out.both(names::COMMITTED_CSN, gauge("walferry_committed_csn", "Last commit."), Value::number(committed));
    let metric = gauge("walferry_committed_timestamp_seconds", "Unix time of the last commit.");
    out.metric(metric, Value::time(Some(time).filter(|_| committed > Csn::ZERO)));
    out.text("history_hash", || core.committer.position().hash);
    let metric = gauge("walferry_durable_csn", "Last commit that a power cut cannot lose.");
    out.both(names::DURABLE_CSN, metric, Value::number(safety.durable));
    let help = "Age of the oldest commit that a power cut could lose; 0 if there is none.";
    out.metric(gauge("walferry_durable_lag_seconds", help), Value::lag(safety.durable_lag));
    let metric = gauge("walferry_archived_csn", "Last commit that the archive holds without a gap.");
    out.both("archived_csn", metric, Value::number(safety.archived).metric_if(archives));
    let metric = gauge("walferry_archived_timestamp_seconds", "Unix time of walferry_archived_csn's commit.");
    out.metric(metric, Value::time(safety.archived_time).metric_if(archives));
    let help = "System's clock less the clock that commit times follow, in seconds; more than 60: the system's clock was set, and commit times do not follow it.";
    let metric = gauge("walferry_clock_ahead_seconds", help);
    out.both(names::CLOCK_AHEAD_MS, metric, Value::difference_us(clock_ahead_us(core)));
    out.text("appendfsync", || core.committer.syncer.mode());
    out.text("repl_port", || core.config().repl_port.0);
}

/// Takes whether writes are refused, and why.
pub fn refusal(out: &mut Figures, core: &Core) {
    let gate = &core.committer.gate;
    let refusal = || gate.refusal().map(|(reason, text)| format!("{} {text}", reason.code())).unwrap_or_default();
    out.text(names::WRITES_REFUSED, refusal);
    let reasons = [
        (RefusalReason::SpoolFull, "spool full"),
        (RefusalReason::DiskLow, "disk low"),
        (RefusalReason::DiskFull, "disk full"),
        (RefusalReason::Replica, "replica"),
        (RefusalReason::Unarchived, "uploading ended"),
        (RefusalReason::Broken, "log broken"),
        (RefusalReason::Fenced, "fenced"),
    ];
    let sample = |(reason, label): (RefusalReason, &str)| {
        let value = Value::number(u8::from(gate.stands(reason)));
        Sample { field: "", label: label.to_owned(), value }
    };
    let metric = gauge("walferry_writes_refused", "1 while writes are refused, by what stands in the way.");
    out.labelled(metric, "obstacle", reasons.into_iter().map(sample).collect());
}

/// Takes which commits can be restored, and what a loss of this machine would cost. Called on a primary with an archive.
pub fn restorable(out: &mut Figures, core: &Core, safety: &Safety) {
    let from = safety.restorable_from;
    let help = "Every commit from this one to walferry_restorable_until_csn can be restored from the archive.";
    out.both(names::RESTORABLE_FROM_CSN, gauge("walferry_restorable_from_csn", help), Value::known(from));
    let metric =
        gauge("walferry_restorable_from_timestamp_seconds", "Unix time of walferry_restorable_from_csn's commit.");
    out.both(names::RESTORABLE_FROM_TIME, metric, Value::time(safety.restorable_from_time));
    let metric = gauge("walferry_restorable_until_csn", "The last commit that can be restored without a gap.");
    out.both(names::RESTORABLE_UNTIL_CSN, metric, Value::known(from.map(|_| safety.archived)));
    let metric =
        gauge("walferry_restorable_until_timestamp_seconds", "Unix time of walferry_restorable_until_csn's commit.");
    out.both(names::RESTORABLE_UNTIL_TIME, metric, Value::time(from.and(safety.archived_time)));
    out.text(names::ABANDONED, || {
        let figures = core.archive_figures.lock();
        let told = figures.iter().flat_map(|figures| figures.abandoned.iter().map(ToString::to_string));
        told.collect::<Vec<_>>().join("; ")
    });
    let help = "Age of the oldest commit that is not archived and would be lost with this machine; 0 if there is none.";
    out.both(names::RPO_MS, gauge("walferry_rpo_seconds", help), Value::lag(safety.rpo.unwrap_or_default()));
}
