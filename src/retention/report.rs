//! The report of a prune.

use super::material::Material;
use super::plan::PrunePlan;
use super::sweep::{Reason, Removal};
use super::timeline::{Promise, Why};
use crate::archive::layout::ObjectName;
use crate::csn::CommitTime;
use serde::Serialize;
use std::collections::BTreeMap;

/// The report of a prune: its plan, and the removals that it made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PruneReport {
    /// The policy; an empty policy keeps everything.
    pub keep: String,
    /// The time for which the plan was made, in microseconds since the Unix epoch.
    pub now: CommitTime,
    /// Whether objects were to be removed, or only shown.
    pub is_confirmed: bool,
    /// The objects to remove, in the order of removal.
    pub removals: Vec<Removal>,
    /// The commits that stay restorable.
    pub promises: Vec<Promise>,
    /// Number of objects that stay.
    pub objects_kept: u64,
    /// Bytes of the objects that stay.
    pub bytes_kept: u64,
    /// How many of `removals` were removed, from the first on.
    pub removed: u64,
    /// Bytes of the removed objects.
    pub bytes_removed: u64,
    /// Why this identity may not remove the remaining objects; `None` if it may.
    pub denied: Option<String>,
    /// Remarks for the operator.
    pub remarks: Vec<String>,
}

/// Objects of one kind that are removed for one reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    /// Number of objects.
    pub objects: u64,
    /// Bytes of the objects.
    pub bytes: u64,
}

impl PruneReport {
    pub(super) fn new(keep: String, material: &Material, plan: &PrunePlan, is_confirmed: bool) -> Self {
        let listing = &material.listing;
        let own = listing.bases.values().chain(listing.runs.values());
        let own = own.flat_map(|own| own.manifest.iter().chain(own.cuts.values()).chain(own.files.values()));
        let others = listing.chunks.values().chain(listing.ssts.values());
        let small = listing.marks.values().chain(listing.pins.values()).chain(listing.thinned.values());
        let (objects, bytes) =
            own.chain(others).chain(small).fold((0, 0), |(objects, bytes), stored| (objects + 1, bytes + stored.size));
        let going: u64 = plan.removals.iter().map(|removal| removal.bytes).sum();
        Self {
            keep,
            now: material.now,
            is_confirmed,
            removals: plan.removals.clone(),
            promises: plan.promises.clone(),
            objects_kept: objects - plan.removals.len() as u64,
            bytes_kept: bytes - going,
            removed: 0,
            bytes_removed: 0,
            denied: None,
            remarks: plan.remarks.clone(),
        }
    }

    /// Returns the objects to remove, counted by kind of object and reason.
    #[must_use]
    pub fn by_kind(&self) -> BTreeMap<(&'static str, Reason), Amount> {
        let mut amounts: BTreeMap<_, Amount> = BTreeMap::new();
        for removal in &self.removals {
            let amount = amounts.entry((kind(&removal.object), removal.why)).or_default();
            amount.objects += 1;
            amount.bytes += removal.bytes;
        }
        amounts
    }

    /// Returns the number of promises for each reason.
    #[must_use]
    pub fn promised(&self) -> BTreeMap<&Why, u64> {
        let mut counts = BTreeMap::new();
        for promise in &self.promises {
            *counts.entry(&promise.why).or_default() += 1;
        }
        counts
    }

    /// Returns the bytes of all objects to remove.
    #[must_use]
    pub fn bytes_to_remove(&self) -> u64 {
        self.removals.iter().map(|removal| removal.bytes).sum()
    }
}

fn kind(object: &ObjectName) -> &'static str {
    match object {
        ObjectName::Chunk(_) => "chunks",
        ObjectName::BaseManifest(_) | ObjectName::BaseCuts(..) => "bases",
        ObjectName::RunManifest(_) => "runs",
        ObjectName::RunFile(..) => "run files",
        ObjectName::BaseFile(..) => "base files",
        ObjectName::Sst(_) => "SSTs",
        ObjectName::Pin(_) => "pins",
        ObjectName::Mark(_) => "marks",
        ObjectName::Identity | ObjectName::Epoch(_) | ObjectName::Start(..) | ObjectName::Thinned(_) => "records",
    }
}
