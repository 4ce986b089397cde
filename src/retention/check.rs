//! Checks that every promise can be restored after a plan is carried out.
//!
//! Pure. Each promise that can be restored before the prune is planned over the listing that would remain, as a
//! restore would plan it.

use super::material::Material;
use super::plan::{PrunePlan, View, missing_file};
use super::sweep::Removal;
use crate::archive::layout::ObjectName;
use crate::archive::listing::{BaseObjects, Listing};
use crate::csn::{Csn, Epoch};
use crate::history::reach::Reach;
use std::collections::BTreeMap;
use std::time::Duration;

/// Returns the listing after a plan was carried out.
#[must_use]
pub(super) fn remaining(listing: &Listing, removals: &[Removal]) -> Listing {
    let mut left = listing.clone();
    for removal in removals {
        match &removal.object {
            ObjectName::Chunk(chunk) => {
                left.chunks.remove(chunk);
            }
            ObjectName::BaseManifest(base) => {
                left.bases.entry(*base).and_modify(|objects| objects.manifest = None);
            }
            ObjectName::BaseCuts(base, after) => {
                left.bases.entry(*base).and_modify(|objects| {
                    objects.cuts.remove(after);
                });
            }
            ObjectName::BaseFile(base, file) => {
                left.bases.entry(*base).and_modify(|objects| {
                    objects.files.remove(file);
                });
            }
            ObjectName::RunManifest(run) => {
                left.runs.entry(*run).and_modify(|objects| objects.manifest = None);
            }
            ObjectName::RunFile(run, file) => {
                left.runs.entry(*run).and_modify(|objects| {
                    objects.files.remove(file);
                });
            }
            ObjectName::Sst(hash) => {
                left.ssts.remove(hash.to_hex().as_str());
            }
            ObjectName::Pin(pin) => {
                left.pins.remove(pin);
            }
            ObjectName::Thinned(number) => {
                left.thinned.remove(number);
            }
            ObjectName::Mark(_) | ObjectName::Identity | ObjectName::Epoch(_) | ObjectName::Start(..) => {
                unreachable!("a plan never removes this kind of object")
            }
        }
    }
    let is_any =
        |objects: &BaseObjects| objects.manifest.is_some() || !objects.cuts.is_empty() || !objects.files.is_empty();
    left.bases.retain(|_, objects| is_any(objects));
    left.runs.retain(|_, objects| is_any(objects));
    left
}

/// Plans every promised point over the listing that would remain. `Err` names a point that could not be restored.
pub fn check(material: &Material, plan: &PrunePlan) -> Result<(), String> {
    let before = View::of(material, Duration::ZERO);
    let left = remaining(&material.listing, &plan.removals);
    let mut reaches: BTreeMap<Epoch, (Reach, Reach)> = BTreeMap::new();
    for promise in &plan.promises {
        let lineage = before.lineage(promise.leaf);
        let (was, will) = reaches
            .entry(promise.leaf)
            .or_insert_with(|| (before.reach(&material.listing, &lineage), before.reach(&left, &lineage)));
        for range in &was.ranges {
            let from = range.from.max(promise.commits.from);
            let until = range.until.min(promise.commits.until);
            if from > until {
                continue;
            }
            let lost = |csn: Csn| format!("csn {csn} of epoch {}'s history ({})", promise.leaf, promise.why);
            if !will.ranges.iter().any(|range| range.contains(from) && range.contains(until)) {
                return Err(lost(from));
            }
            for csn in [from, until] {
                let planned = before.plan_to(&left, &lineage, csn);
                let planned = planned.map_err(|short| format!("{}: {}", lost(csn), short.reason))?;
                let base = planned.start().and_then(|start| material.facts.get(&start));
                let runs = planned.runs().filter_map(|step| material.runs.get(&step.run));
                let used = base.into_iter().chain(runs).filter_map(|facts| facts.as_ref().ok());
                if let Some(missing) = used.into_iter().find_map(|facts| missing_file(&left, facts)) {
                    return Err(format!("{}: {missing}", lost(csn)));
                }
            }
        }
    }
    Ok(())
}
