//! The life of a cluster as retention sees it, and a model that knows every commit ever made.
//!
//! Times are in steps of a second. The model's definition of "restorable" is deliberately plain: a base and then every
//! commit, one by one, or a run that begins after a restorable commit.

use crate::archive::epochs::{EpochRecord, EpochTree};
use crate::archive::identity::ARCHIVE_FORMAT;
use crate::archive::layout::{BaseName, ChunkName, ObjectName, RunName};
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseObjects, BaseStart, Listing, Stored};
use crate::archive::marks::MarkRecord;
use crate::archive::pins::{PinRange, PinRecord, ReadPin};
use crate::archive::thinned::Thinned;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::keep::{Keep, micros};
use crate::retention::check;
use crate::retention::material::{Facts, Material};
use crate::retention::plan::{PrunePlan, plan};
use crate::retention::sweep::Removal;
use crate::retention::timeline::Span;
use chrono::{DateTime, Utc};
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SECOND: u64 = 1_000_000;
const BIRTH: u64 = 1_790_000_000 * SECOND;

pub(super) struct World {
    now: u64,
    epochs: Vec<EpochRecord>,
    /// The commits of each line, by the line's last epoch: the epoch that made each commit, and its time in
    /// microseconds. Commit n is at index n - 1.
    lines: BTreeMap<Epoch, Vec<(Epoch, u64)>>,
    listing: Listing,
    facts: BTreeMap<BaseStart, Result<Facts, String>>,
    runs: BTreeMap<RunName, Result<Facts, String>>,
    spans: BTreeMap<ChunkName, Span>,
    marks: Vec<MarkRecord>,
    pins: Vec<ReadPin>,
    ssts: u64,
    thinned: Thinned,
}

fn at(micros: u64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros as i64).expect("a time")
}

fn removal(object: ObjectName) -> Removal {
    Removal { object, bytes: 0, why: super::Reason::Orphan }
}

impl World {
    pub(super) fn new(_seed: u64) -> Self {
        let mut world = Self {
            now: BIRTH,
            epochs: vec![EpochRecord::first(Epoch(1), "n".to_owned(), CommitTime(BIRTH))],
            lines: BTreeMap::from([(Epoch(1), Vec::new())]),
            listing: Listing::default(),
            facts: BTreeMap::new(),
            runs: BTreeMap::new(),
            spans: BTreeMap::new(),
            marks: Vec::new(),
            pins: Vec::new(),
            ssts: 0,
            thinned: Thinned::default(),
        };
        world.write(3);
        world
    }

    fn newest(&self) -> Epoch {
        self.epochs.last().expect("there is one").epoch
    }

    fn line(&self) -> &Vec<(Epoch, u64)> {
        &self.lines[&self.newest()]
    }

    fn stored(&self, size: u64) -> Stored {
        Stored { size, modified: at(self.now) }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += micros(time);
    }

    /// Writes `count` commits and archives them as one chunk.
    fn write(&mut self, count: u64) {
        let (epoch, began) = (self.newest(), self.now);
        let line = self.lines.get_mut(&epoch).expect("the newest line");
        let first = Csn(line.len() as u64 + 1);
        for nth in 0..count {
            self.now += SECOND / 4 + nth;
            line.push((epoch, self.now));
        }
        let chunk = ChunkName { epoch, first, last: Csn(line.len() as u64) };
        self.now += SECOND / 10;
        self.listing.chunks.insert(chunk, Stored { size: 100, modified: at(self.now) });
        let first = CommitTime(began + SECOND / 4);
        let last = CommitTime(line.last().expect("just pushed").1);
        self.spans.insert(chunk, Span { first, last });
    }

    /// Publishes a base at the last commit; the base shares an SST with the previous one.
    pub(super) fn publish_base(&mut self) {
        self.publish(0);
    }

    /// Publishes a base with `skew` commits between its cuts.
    fn publish(&mut self, skew: u64) {
        let (epoch, csn) = (self.newest(), Csn(self.line().len() as u64));
        let (made_by, time) = *self.line().last().expect("commits");
        let base = BaseName { csn, epoch: epoch.max(made_by) };
        self.ssts += 1;
        let sst = |number: u64| blake3::hash(&number.to_le_bytes());
        let mut files = vec![(ObjectName::BaseFile(base, "image".parse().expect("plain")), 10)];
        for number in [self.ssts.saturating_sub(1), self.ssts] {
            files.push((ObjectName::Sst(sst(number)), 50));
            let stored = self.stored(50);
            self.listing.ssts.entry(sst(number).to_hex().to_string()).or_insert(stored);
        }
        let start = BaseStart { base, after: Csn(csn.0.saturating_sub(skew)) };
        let (manifest, image) = (self.stored(5), self.stored(10));
        let objects = self.listing.bases.entry(base).or_default();
        objects.files.insert("image".parse().expect("plain"), image);
        match start.is_whole() {
            true => objects.manifest = Some(manifest),
            false => drop(objects.cuts.insert(start.after, manifest)),
        }
        self.facts.insert(start, Ok(Facts { time: CommitTime(time), files }));
    }

    /// Builds a compacted run up to the last commit, from the end of the previous run or from the first commit on.
    fn compact(&mut self) {
        let (lineage, last) = (self.lineage(self.newest()), Csn(self.line().len() as u64));
        let on_line = self.runs.keys().filter(|run| lineage.contains_run(**run)).map(|run| run.last);
        let from = on_line.max().unwrap_or_default();
        let is_held = |csn: u64| self.is_held(&lineage, Csn(csn));
        if from >= last || !(from.0 + 1..=last.0).all(is_held) {
            return;
        }
        let (epoch, time) = *self.line().last().expect("commits");
        let run = RunName { epoch, first: from.next(), last };
        let files = vec![(ObjectName::RunFile(run, "list".parse().expect("plain")), 20)];
        let (manifest, list) = (self.stored(5), self.stored(20));
        let files_there = BTreeMap::from([("list".parse().expect("plain"), list)]);
        let objects = BaseObjects { manifest: Some(manifest), files: files_there, ..BaseObjects::default() };
        self.listing.runs.insert(run, objects);
        self.runs.insert(run, Ok(Facts { time: CommitTime(time), files }));
    }

    fn is_held(&self, lineage: &Lineage, csn: Csn) -> bool {
        self.listing.chunks.keys().any(|chunk| {
            chunk.first <= csn && csn <= chunk.last && lineage.until(chunk.epoch).is_some_and(|until| csn <= until)
        })
    }

    /// Merges two neighbouring chunks of one epoch.
    fn merge(&mut self, random: &mut StdRng) {
        let chunks: Vec<ChunkName> = self.listing.chunks.keys().copied().collect();
        let pairs: Vec<_> = chunks
            .windows(2)
            .filter(|pair| pair[0].epoch == pair[1].epoch && pair[0].last.next() == pair[1].first)
            .collect();
        if pairs.is_empty() {
            return;
        }
        let pair = pairs[random.random_range(0..pairs.len())];
        let wide = ChunkName { last: pair[1].last, ..pair[0] };
        let span = Span { first: self.spans[&pair[0]].first, last: self.spans[&pair[1]].last };
        self.listing.chunks.insert(wide, self.stored(180));
        self.spans.insert(wide, span);
    }

    /// Begins a new epoch at an earlier commit, as a restore or a promotion does.
    fn fork(&mut self, random: &mut StdRng) {
        let parent = self.newest();
        let restorable: Vec<u64> = (1..=self.line().len() as u64).filter(|csn| self.is_restorable(Csn(*csn))).collect();
        let Some(fork) = restorable.iter().rev().nth(random.random_range(0..8).min(restorable.len().saturating_sub(1)))
        else {
            return;
        };
        let commits = self.line()[..*fork as usize].to_vec();
        let (made_by, _) = *commits.last().expect("a fork lies at a commit");
        let epoch = parent.next();
        // A restored directory continues the epoch that made its last commit.
        self.epochs.push(EpochRecord::forked(
            epoch,
            made_by,
            (Csn(*fork), HistoryHash::ZERO),
            "n".to_owned(),
            CommitTime(self.now),
        ));
        self.lines.insert(epoch, commits);
        self.write(1);
    }

    fn mark(&mut self) {
        let csn = Csn(self.line().len() as u64);
        let (epoch, time) = *self.line().last().expect("commits");
        let name = format!("m{}", self.marks.len());
        let record = MarkRecord {
            format: ARCHIVE_FORMAT,
            name,
            csn,
            epoch,
            time: CommitTime(time),
            hash_before: HistoryHash::ZERO,
        };
        self.marks.push(record);
    }

    pub(super) fn pin(&mut self, from: u64, until: u64, holds: Duration) -> (Csn, Csn) {
        let name = format!("restore-{}", self.pins.len());
        let range = PinRange { from: Csn(from), until: Csn(until), epoch: Some(self.newest()) };
        let record = PinRecord {
            format: ARCHIVE_FORMAT,
            id: name.clone(),
            who: "n".to_owned(),
            purpose: "restore".to_owned(),
            range,
            created: CommitTime(self.now),
            renewed: CommitTime(self.now),
            expires: CommitTime(self.now + micros(holds)),
        };
        let name: crate::plain_name::PlainName = name.parse().expect("plain");
        self.listing.pins.insert(name.clone(), self.stored(200));
        self.pins.push(ReadPin { name, stored: self.stored(200), record: Ok(record) });
        (Csn(from), Csn(until))
    }

    /// Writes a few commits, without any other event.
    pub(super) fn live_quietly(&mut self, random: &mut StdRng) {
        self.write(random.random_range(1..6));
        self.now += random.random_range(0..4) * SECOND;
    }

    /// Writes commits, followed by one random event.
    pub(super) fn live(&mut self, random: &mut StdRng) {
        for _ in 0..random.random_range(1..5) {
            self.live_quietly(random);
        }
        match random.random_range(0..14) {
            0..4 => self.publish_base(),
            4 => self.publish(random.random_range(1..6)),
            5 => self.merge(random),
            6 => self.fork(random),
            7 => self.mark(),
            8 => self.now += random.random_range(5..60) * SECOND,
            9 => {
                let file = BaseObjects {
                    manifest: None,
                    cuts: BTreeMap::new(),
                    files: BTreeMap::from([("image".parse().expect("plain"), self.stored(10))]),
                };
                let name = BaseName { csn: Csn(1_000_000 + self.now % 1000), epoch: self.newest() };
                self.listing.bases.insert(name, file);
            }
            10..12 => self.compact(),
            _ => {}
        }
        self.now += SECOND / 2;
    }

    pub(super) fn material(&self, keep: &Keep) -> Material {
        let mut listing = self.listing.clone();
        listing.epochs = EpochTree::from_records(self.epochs.clone(), "world").expect("a tree");
        let marks = self.marks.iter().map(|mark| (mark.name.parse().expect("plain"), Ok(mark.clone())));
        let start = self.now - keep.windows().map_or(0, |windows| micros(windows.fine));
        let is_old = |chunk: &ChunkName| {
            let modified = self.listing.chunks[chunk].modified.timestamp_micros() as u64;
            modified < start && self.spans[chunk].last.0 < start
        };
        let old = self.listing.chunks.keys().filter(|chunk| keep.windows().is_some() && is_old(chunk));
        Material {
            listing,
            facts: self.facts.clone(),
            runs: self.runs.clone(),
            spans: old.map(|chunk| (*chunk, self.spans[chunk])).collect(),
            marks: marks.collect(),
            pins: self.pins.clone(),
            now: CommitTime(self.now),
            thinned: self.thinned.clone(),
            ..Material::default()
        }
    }

    /// Begins to carry a plan out: makes its first `crash` removals.
    pub(super) fn begin(&mut self, planned: &PrunePlan, crash: usize) {
        self.thinned = planned.thinned.clone();
        self.remove(&planned.removals[..crash]);
    }

    pub(super) fn remove(&mut self, removals: &[Removal]) {
        self.listing = check::remaining(&self.listing, removals);
        let starts: BTreeSet<BaseStart> = self.listing.base_starts().collect();
        self.facts.retain(|start, _| starts.contains(start));
        self.runs.retain(|run, _| self.listing.runs.get(run).is_some_and(|objects| objects.manifest.is_some()));
        self.pins.retain(|pin| self.listing.pins.contains_key(&pin.name));
    }

    fn lineage(&self, leaf: Epoch) -> Lineage {
        let tree = EpochTree::from_records(self.epochs.clone(), "world").expect("a tree");
        Lineage::of(&tree, leaf).expect("an epoch")
    }

    pub(super) fn is_restorable(&self, csn: Csn) -> bool {
        self.restorable(self.newest()).contains(&csn)
    }

    /// Returns the restorable commits of a line: those reached by a base and then every single commit, or by a run.
    fn restorable(&self, leaf: Epoch) -> BTreeSet<Csn> {
        let lineage = self.lineage(leaf);
        let line = &self.lines[&leaf];
        let is_base = |csn: Csn| {
            self.facts.iter().any(|(start, facts)| {
                let mut between = (start.after.0 + 1..=csn.0).map(Csn);
                start.base.csn == csn
                    && lineage.contains(start.base)
                    && self.is_whole(facts)
                    && between.all(|csn| self.is_held(&lineage, csn))
            })
        };
        let ends_run = |csn: Csn, restorable: &BTreeSet<Csn>| {
            self.runs.iter().any(|(run, facts)| {
                let begins = run.first == Csn(1) || restorable.contains(&run.first.prev());
                run.last == csn && begins && lineage.contains_run(*run) && self.is_whole(facts)
            })
        };
        let mut reached = true;
        let mut restorable = BTreeSet::new();
        for csn in (1..=line.len() as u64).map(Csn) {
            let by_chunk = reached && self.is_held(&lineage, csn);
            reached = is_base(csn) || ends_run(csn, &restorable) || by_chunk;
            if reached {
                restorable.insert(csn);
            }
        }
        restorable
    }

    fn is_whole(&self, facts: &Result<Facts, String>) -> bool {
        let Ok(facts) = facts else { return false };
        facts.files.iter().all(|(object, _)| match object {
            ObjectName::RunFile(run, file) => {
                self.listing.runs.get(run).is_some_and(|objects| objects.files.contains_key(file))
            }
            ObjectName::Sst(hash) => self.listing.ssts.contains_key(hash.to_hex().as_str()),
            ObjectName::BaseFile(base, file) => {
                self.listing.bases.get(base).is_some_and(|objects| objects.files.contains_key(file))
            }
            _ => false,
        })
    }

    pub(super) fn bases_are_whole(&self) -> bool {
        self.facts.values().chain(self.runs.values()).all(|facts| self.is_whole(facts))
    }

    /// Asserts that everything that the wording of the policy promises is restorable.
    pub(super) fn assert_promises(&self, keep: &Keep, when: &str) {
        assert!(self.bases_are_whole() || when.contains("after"), "{when}: a base lacks a file");
        let newest = self.newest();
        for (leaf, line) in &self.lines {
            let restorable = self.restorable(*leaf);
            let shared = self.shared(*leaf);
            let own = |csn: u64| *leaf == newest || csn > shared;
            let commits: Vec<(Csn, u64)> =
                line.iter().enumerate().map(|(at, (_, time))| (Csn(at as u64 + 1), *time)).collect();
            let has = |csn: &Csn| restorable.contains(csn);
            let Some(windows) = keep.windows() else {
                commits
                    .iter()
                    .filter(|(csn, _)| own(csn.0))
                    .for_each(|(csn, _)| assert!(has(csn), "{when}: epoch {leaf} csn {csn}"));
                continue;
            };
            let start = self.now - micros(windows.fine);
            for (csn, time) in commits.iter().filter(|(csn, time)| *time >= start && own(csn.0)) {
                assert!(has(csn), "{when}: fine csn {csn} of epoch {leaf} made at {time}");
            }
            if *leaf == newest {
                assert!(has(&Csn(line.len() as u64)), "{when}: the last commit");
            }
            for tier in &windows.tiers {
                let (first, last) =
                    (tier.period.of(CommitTime(self.now - micros(tier.span))), tier.period.of(CommitTime(start)));
                for number in first..=last {
                    let lies_in = |(_, time): &&(Csn, u64)| tier.period.of(CommitTime(*time)) == number;
                    if commits.iter().filter(lies_in).any(|(csn, _)| own(csn.0)) {
                        let answered = commits.iter().filter(lies_in).any(|(csn, _)| has(csn));
                        assert!(answered, "{when}: epoch {leaf}, {} period {number}", tier.period);
                    }
                }
                let is_before = |(_, time): &&(Csn, u64)| tier.period.of(CommitTime(*time)) <= first;
                if *leaf == newest && commits.iter().any(|commit| is_before(&commit)) {
                    let answered = commits.iter().filter(is_before).any(|(csn, _)| has(csn));
                    assert!(answered, "{when}: the state at the beginning of {}", tier.period);
                }
            }
        }
        for mark in &self.marks {
            assert!(self.restorable(mark.epoch).contains(&mark.csn), "{when}: mark {}", mark.name);
        }
    }

    /// Returns the last commit that a line has in common with the newest line.
    fn shared(&self, leaf: Epoch) -> u64 {
        let (line, newest) = (&self.lines[&leaf], self.line());
        line.iter().zip(newest).take_while(|(a, b)| a == b).count() as u64
    }

    fn planned(&self, keep: &Keep, grace: Duration) -> (Material, PrunePlan) {
        let material = self.material(keep);
        let planned = plan(&material, keep, grace);
        (material, planned)
    }

    /// Asserts that each remaining chunk is needed, unless another object may replace it.
    pub(super) fn assert_no_garbage(&self, keep: &Keep, grace: Duration, when: &str) {
        let limit = self.now - micros(grace) - 1;
        let is_old = |stored: &Stored| (stored.modified.timestamp_micros() as u64) < limit;
        let (material, mut planned) = self.planned(keep, grace);
        let overlaps = |a: &ChunkName, b: &ChunkName| a.epoch == b.epoch && a.first <= b.last && b.first <= a.last;
        for chunk in self.listing.chunks.keys() {
            let is_alone = self.listing.chunks.keys().filter(|other| overlaps(chunk, other)).count() == 1;
            // A base at the chunk's only commit makes the chunk needless for a restore, but not for a replica that
            // follows the log.
            let is_doubled = chunk.first == chunk.last && self.facts.keys().any(|start| start.base.csn == chunk.last);
            // Runs, and chunks between the cuts of a base, may give two ways to one commit.
            let is_plain = self.runs.is_empty() && self.facts.keys().all(BaseStart::is_whole);
            if is_alone && !is_doubled && is_plain {
                planned.removals = vec![removal(ObjectName::Chunk(*chunk))];
                assert!(check::check(&material, &planned).is_err(), "{when}: nothing needs {chunk}");
            }
        }
        for objects in self.listing.bases.values().chain(self.listing.runs.values()) {
            let is_orphan = objects.manifest.is_none() && objects.cuts.is_empty() && objects.files.values().all(is_old);
            assert!(!is_orphan, "{when}: an abandoned base stays");
        }
        let named: BTreeSet<String> = self
            .facts
            .values()
            .flat_map(|facts| facts.as_ref().expect("readable").files.iter().map(|(object, _)| object.to_string()))
            .collect();
        for (hash, stored) in &self.listing.ssts {
            let is_orphan = !named.contains(&format!("sst/{hash}.sst")) && is_old(stored);
            assert!(!is_orphan, "{when}: an SST that nothing names stays");
        }
    }

    /// Returns how many of the remaining chunks and manifests the check refuses to remove.
    pub(super) fn removals_that_lose(&self, keep: &Keep, grace: Duration) -> usize {
        let chunks = self.listing.chunks.keys().map(|chunk| ObjectName::Chunk(*chunk));
        let bases = self.facts.keys().map(BaseStart::manifest);
        let runs = self.runs.keys().map(|run| ObjectName::RunManifest(*run));
        let mut lost = 0;
        let (material, mut planned) = self.planned(keep, grace);
        for object in chunks.chain(bases).chain(runs) {
            planned.removals = vec![removal(object.clone())];
            let is_refused = check::check(&material, &planned).is_err();
            let mut after = Self {
                epochs: self.epochs.clone(),
                lines: self.lines.clone(),
                listing: self.listing.clone(),
                facts: self.facts.clone(),
                runs: self.runs.clone(),
                spans: self.spans.clone(),
                marks: self.marks.clone(),
                pins: self.pins.clone(),
                thinned: self.thinned.clone(),
                ..*self
            };
            after.remove(&planned.removals);
            let broken =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| after.assert_promises(keep, "after")));
            assert!(is_refused || broken.is_ok(), "the check lets {object} go");
            lost += usize::from(is_refused);
        }
        lost
    }
}
