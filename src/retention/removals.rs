//! Finds the objects to remove, given the objects that stay: chunks, runs, bases, SSTs that no remaining manifest
//! names, and pins that have expired.
//!
//! Pure. An object that is younger than the grace period and that nothing refers to may belong to a base that is being
//! uploaded, or be an SST that such a base shares. Such an object stays.

use super::material::Facts;
use super::plan::{Kept, View};
use super::sweep::{Reason, Removal};
use crate::archive::layout::{BaseName, ObjectName, RunName};
use crate::archive::listing::{BaseObjects, BaseStart, Stored};
use crate::plain_name::PlainName;
use std::collections::{BTreeSet, HashSet};

fn removal(object: ObjectName, stored: &Stored, why: Reason) -> Removal {
    Removal { object, bytes: stored.size, why }
}

fn all_files(
    objects: &BaseObjects,
    file: impl Fn(&PlainName) -> ObjectName,
    why: Reason,
) -> impl Iterator<Item = Removal> {
    objects.files.iter().map(move |(name, stored)| removal(file(name), stored, why))
}

/// SSTs that remaining manifests refer to.
#[derive(Default)]
struct Referred<'m> {
    objects: HashSet<&'m ObjectName>,
    /// Whether a manifest cannot be read. Such a manifest may refer to any SST.
    is_unknown: bool,
}

impl<'m> View<'m> {
    /// Returns the objects to remove, in no particular order.
    pub(super) fn removals(&self, kept: &Kept, remarks: &mut Vec<String>) -> Vec<Removal> {
        let mut removals = self.chunk_removals(kept, remarks);
        let mut referred = Referred::default();
        for (base, objects) in &self.listing.bases {
            removals.extend(self.base_removals(*base, objects, kept, &mut referred));
        }
        for (run, objects) in &self.listing.runs {
            removals.extend(self.run_removals(*run, objects, kept));
        }
        if referred.is_unknown {
            let remark = "no SST is removed, because the SSTs of a manifest that cannot be read are unknown. Check \
                          the manifest with walferry verify. If it cannot be repaired, remove the manifest.json of \
                          that base";
            remarks.push(remark.to_owned());
        } else {
            removals.extend(self.sst_removals(&referred));
        }
        removals.extend(self.pin_removals());
        let cut_off = self.material.cut_off.iter().filter(|(_, stored)| self.is_past_grace(stored));
        removals.extend(cut_off.map(|(name, stored)| removal(name.clone(), stored, Reason::Orphan)));
        let outdated = self.listing.thinned.range(..self.material.thinned.number);
        removals
            .extend(outdated.map(|(number, stored)| removal(ObjectName::Thinned(*number), stored, Reason::Outdated)));
        removals
    }

    fn chunk_removals(&self, kept: &Kept, remarks: &mut Vec<String>) -> Vec<Removal> {
        let mut removals = Vec::new();
        let mut unknown_epochs = BTreeSet::new();
        for (chunk, stored) in &self.listing.chunks {
            if self.listing.epochs.get(chunk.epoch).is_none() {
                unknown_epochs.insert(chunk.epoch);
            } else if !kept.chunks.contains(chunk) {
                let why = if self.replaced.contains(chunk) { Reason::Replaced } else { Reason::BeyondPolicy };
                removals.push(removal(ObjectName::Chunk(*chunk), stored, why));
            }
        }
        if let Some(epoch) = unknown_epochs.first() {
            remarks.push(format!("the archive has chunks of epoch {epoch}, which has no record; they are not removed"));
        }
        removals
    }

    /// Returns the objects to remove of one base. If the base stays, adds the objects it refers to to `referred`.
    fn base_removals(
        &self,
        base: BaseName,
        objects: &BaseObjects,
        kept: &Kept,
        referred: &mut Referred<'m>,
    ) -> Vec<Removal> {
        let file = |name: &PlainName| ObjectName::BaseFile(base, name.clone());
        let whole = objects.manifest.iter().map(|stored| (BaseStart::whole(base), stored));
        let starts: Vec<(BaseStart, &Stored)> =
            objects.cuts.iter().map(|(&after, stored)| (BaseStart { base, after }, stored)).chain(whole).collect();
        if starts.is_empty() {
            return self.abandoned(objects, file);
        }
        let facts: Option<Vec<&Facts>> =
            starts.iter().map(|(start, _)| self.material.facts.get(start)?.as_ref().ok()).collect();
        let Some(facts) = facts else {
            referred.is_unknown = true;
            return Vec::new();
        };
        let is_broken = starts.iter().all(|(start, _)| !self.is_usable(start));
        let is_young_and_broken = is_broken && starts.iter().any(|(_, manifest)| !self.is_past_grace(manifest));
        if kept.bases.contains(&base) || is_young_and_broken {
            let own: HashSet<&ObjectName> =
                facts.iter().flat_map(|facts| facts.files.iter().map(|(object, _)| object)).collect();
            referred.objects.extend(&own);
            return self.strays(objects, file, &own);
        }
        let manifests = starts.iter().map(|(start, stored)| removal(start.manifest(), stored, Reason::BeyondPolicy));
        manifests.chain(all_files(objects, file, Reason::BeyondPolicy)).collect()
    }

    /// Returns the objects to remove of one run.
    fn run_removals(&self, run: RunName, objects: &BaseObjects, kept: &Kept) -> Vec<Removal> {
        let file = |name: &PlainName| ObjectName::RunFile(run, name.clone());
        let Some(manifest) = &objects.manifest else { return self.abandoned(objects, file) };
        // The files of an unreadable manifest are unknown, so they stay; reporting the damage is up to `verify`.
        let Some(Ok(facts)) = self.material.runs.get(&run) else { return Vec::new() };
        if kept.runs.contains(&run) || !self.is_past_grace(manifest) {
            let own: HashSet<&ObjectName> = facts.files.iter().map(|(object, _)| object).collect();
            return self.strays(objects, file, &own);
        }
        let reference = removal(ObjectName::RunManifest(run), manifest, Reason::BeyondPolicy);
        std::iter::once(reference).chain(all_files(objects, file, Reason::BeyondPolicy)).collect()
    }

    /// Returns the files without a manifest once all are past the grace period, after which no manifest is expected.
    fn abandoned(&self, objects: &BaseObjects, file: impl Fn(&PlainName) -> ObjectName) -> Vec<Removal> {
        let is_abandoned = objects.files.values().all(|stored| self.is_past_grace(stored));
        if is_abandoned { all_files(objects, file, Reason::Orphan).collect() } else { Vec::new() }
    }

    /// Returns the files past the grace period that no manifest beside them names.
    fn strays(
        &self,
        objects: &BaseObjects,
        file: impl Fn(&PlainName) -> ObjectName,
        own: &HashSet<&ObjectName>,
    ) -> Vec<Removal> {
        let strays = objects.files.iter().filter(|(_, stored)| self.is_past_grace(stored));
        let strays = strays.map(|(name, stored)| removal(file(name), stored, Reason::Orphan));
        strays.filter(|stray| !own.contains(&stray.object)).collect()
    }

    fn sst_removals(&self, referred: &Referred<'_>) -> Vec<Removal> {
        let past_grace = self.listing.ssts.iter().filter(|(_, stored)| self.is_past_grace(stored));
        let removals = past_grace.map(|(hash, stored)| {
            let hash = blake3::Hash::from_hex(hash).expect("it was listed by its hash");
            removal(ObjectName::Sst(hash), stored, Reason::Orphan)
        });
        removals.filter(|removal| !referred.objects.contains(&removal.object)).collect()
    }

    fn pin_removals(&self) -> Vec<Removal> {
        let is_over = |pin: &&crate::archive::pins::ReadPin| match &pin.record {
            Ok(record) => !record.holds(&pin.stored, self.material.now),
            Err(_) => self.is_past_grace(&pin.stored),
        };
        let over = self.material.pins.iter().filter(is_over);
        over.map(|pin| removal(ObjectName::Pin(pin.name.clone()), &pin.stored, Reason::PinOver)).collect()
    }
}
