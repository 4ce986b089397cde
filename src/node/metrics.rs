//! The metrics of a node, in the text format of Prometheus.

use super::figures::{Figures, archive, commits, serving};
use super::running::Node;
use super::safety::Safety;
use crate::metrics::Exposition;

/// Returns the metrics of a node.
#[must_use]
pub(super) fn metrics(node: &Node) -> String {
    let mut figures = Figures::Metrics(Exposition::default());
    let (out, core) = (&mut figures, &node.core);
    let archiving = core.primary().and_then(|primary| primary.archiving());
    let safety = Safety::of(core, &node.bases, archiving.as_ref());
    let (is_archiving, second) = (archiving.is_some(), archiving.as_ref().and_then(|status| status.second.clone()));
    serving::process(out, core);
    commits::watermarks(out, core, &safety);
    if is_archiving {
        commits::restorable(out, core, &safety);
    }
    if let Some(archive) = &core.archive {
        archive::requests(out, core, archive);
    }
    archive::uploads(out, core, archiving);
    if let Some(second) = second {
        archive::second(out, core, second);
    }
    archive::compacting(out, core, &node.compacting);
    archive::pruning(out, core, &node.pruning);
    archive::bases(out, &node.bases);
    serving::replication(out, core);
    serving::stats(out, node);
    serving::clients(out, core, &node.registry);
    serving::memory(out, core);
    serving::persistence(out, node);
    commits::refusal(out, core);
    match figures {
        Figures::Metrics(exposition) => exposition.finish(),
        Figures::Info(_) => String::new(),
    }
}
