//! The shipping of a primary: cuts chunks, uploads them and feeds replicas.
//!
//! Guarantees: only commits that continue the archive's history are archived. An archive that cannot be read is never
//! treated as empty. The content of the spool and of the archive determines where cutting continues. If the logs do not
//! reach back that far, the node publishes a base at once, so that history continues from there.

use super::marks::MarkKeeper;
use super::merging::Merging;
use super::node::Node;
use super::second_archive::Second;
use crate::archive::config::{ArchiveUrl, S3Settings, Secret};
use crate::archive::crypt::KeyRing;
use crate::archive::crypt::keys::ARCHIVE_KEY_VARIABLE;
use crate::archive::epochs;
use crate::archive::lineage::Lineage;
use crate::archive::listing::{BaseStart, Listing};
use crate::archive::merge::{Ledger, LedgerSource};
use crate::archive::store::{Archive, Opening};
use crate::archive::thinned::Thinned;
use crate::archive::uploader::{Uploader, UploaderSettings, UploaderStatus};
use crate::cluster::ClusterId;
use crate::command::host::Host;
use crate::commit::committer::Committer;
use crate::commit::gate::RefusalReason;
use crate::config::Config;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::directory::EpochStart;
use crate::error::{Error, Result};
use crate::history::archive_figures::ArchiveFigures;
use crate::history::catch_up::CatchUp;
use crate::history::line::{History, line_end};
use crate::history::reach::Reach;
use crate::history::torn::drop_torn;
use crate::log::reader::LogPosition;
use crate::log::recovery::MissingCommits;
use crate::position::Position;
use crate::record::CommitRecord;
use crate::ship::cutter::{CutFrom, Cutter};
use crate::ship::feed::{FeedHost, Feeds};
use crate::ship::source::Continuity;
use crate::ship::spool::Spool;
use crate::ship::wire::{Hello, Refuse, Sender};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Limit on the time that a stop waits for the archive to receive the cut chunks.
const STOP_UPLOAD_MAX: Duration = Duration::from_secs(10);

/// The archive side of a primary.
pub struct ArchiveSide {
    /// Cuts chunks.
    pub cutter: Arc<Cutter>,
    /// Holds chunks until they are archived.
    pub spool: Arc<Spool>,
    /// The status of the uploader.
    pub uploader: watch::Receiver<UploaderStatus>,
    /// Holds the error that ended uploading. Set after the gate was closed, so that writes are refused by then.
    ended: watch::Receiver<Option<Arc<Error>>>,
    /// Whether the uploader checks the fence before each acknowledgement; follows `archive-ack`.
    fence_each_ack: Arc<AtomicBool>,
    /// Merges the uploaded chunks.
    pub merging: Merging,
    /// The second archive; `None` if none is configured.
    pub second: Option<Arc<Second>>,
    /// Writes the records of marks.
    pub marks: Arc<MarkKeeper>,
    /// Whether the logs did not reach back to the archive's end, so that restorable history begins with the next base.
    pub began_with_hole: bool,
    task: JoinHandle<()>,
}

/// The shipping of a primary.
pub struct Shipping {
    node: Arc<Node>,
    /// The connected replicas.
    pub feeds: Arc<Feeds>,
    /// The archive side; `None` if no archive is configured.
    pub archive: Option<ArchiveSide>,
}

/// Opens the configured archive with its keys; `None` if none is configured.
pub fn open_archive(config: &Config, opening: Opening) -> Result<Option<Archive>> {
    if config.archive.is_empty() {
        return Ok(None);
    }
    let keys = KeyRing::configured(&config.archive_key_file, ARCHIVE_KEY_VARIABLE)?;
    open_url(config, &config.archive, opening).map(|archive| Some(archive.with_keys(keys)))
}

/// Opens the archive at `url` with the configured S3 settings and without keys.
pub fn open_url(config: &Config, url: &str, opening: Opening) -> Result<Archive> {
    Archive::open(&ArchiveUrl::from_str(url)?, &s3_settings(config), opening)
}

fn s3_settings(config: &Config) -> S3Settings {
    let mut s3 = S3Settings::default();
    let set = |to: &mut Option<String>, value: &str| {
        if !value.is_empty() {
            *to = Some(value.to_owned());
        }
    };
    set(&mut s3.endpoint, &config.s3_endpoint);
    set(&mut s3.region, &config.s3_region);
    set(&mut s3.access_key_id, &config.s3_access_key_id);
    if !config.s3_secret_access_key.is_empty() {
        s3.secret_access_key = Some(Secret::new(config.s3_secret_access_key.clone()));
    }
    if config.s3_allow_http {
        s3.allow_http = Some(true);
    }
    s3
}

/// Returns, ascending, the csns at which stretches end that the archive holds without a gap: the stretch from the first
/// commit on, and the stretches from each base or compacted run on. Omits an end from which a run leads on, because the
/// run replaces the following chunks, and an end in the thinned range, because pruned commits are not archived again.
/// The last end is always included, so the result is never empty.
async fn archived_stretches(archive: &Archive, listing: &Listing, lineage: &Lineage) -> Result<Vec<Csn>> {
    let bases: Vec<BaseStart> = listing.base_starts().filter(|start| lineage.contains(start.base)).collect();
    let starts: BTreeSet<(Csn, Csn)> =
        bases.iter().map(|start| (start.after, start.base.csn)).chain([<_>::default()]).collect();
    let by_chunks = starts.into_iter().map(|(after, csn)| (csn, archived_contiguously(listing, lineage, after)));
    // A base with two cuts is usable only with the chunks between them.
    let by_chunks = by_chunks.filter(|(csn, end)| end >= csn).map(|(_, end)| end);
    let reach = Reach::of(listing, lineage, bases.iter().copied());
    let ends: BTreeSet<Csn> = by_chunks.chain(reach.ranges.iter().map(|range| range.until)).collect();
    let run_leads_on =
        |end: &Csn| listing.whole_runs().any(|run| run.first.prev() == *end && lineage.contains_run(run));
    let thinned = Thinned::listed(archive, listing).await?.until(lineage);
    let last = ends.last().copied();
    let is_owed = |end: &Csn| (*end >= thinned && !run_leads_on(end)) || Some(*end) == last;
    Ok(ends.into_iter().filter(is_owed).collect())
}

/// Lists the archive and returns the listing without torn chunks, and the line of `epoch`, which this node has claimed.
pub(super) async fn read_listing(archive: &Archive, epoch: Epoch) -> Result<(Listing, Lineage)> {
    let mut listing = Listing::read(archive).await?;
    let lineage = Lineage::of(&listing.epochs, epoch).ok_or_else(|| Error::StoreContract {
        url: archive.url().to_owned(),
        detail: format!(
            "does not list epoch {epoch}, which this node has claimed: its listings are stale. Try again later"
        ),
    })?;
    drop_torn(archive, &mut listing, &lineage).await?;
    Ok((listing, lineage))
}

/// Returns the last commit of this line of history that a listing can restore.
pub(super) async fn archived_until(archive: &Archive, listing: &Listing, lineage: &Lineage) -> Result<Csn> {
    let stretches = archived_stretches(archive, listing, lineage).await?;
    Ok(stretches.last().copied().expect("the first commit has an epoch"))
}

/// Returns the last commit of `lineage` that chunks reach from `after` without a gap.
fn archived_contiguously(listing: &Listing, lineage: &Lineage, after: Csn) -> Csn {
    lineage.cover(listing.chunks.keys().copied(), after).reachable(after)
}

/// Returns the end of an archived stretch behind a gap above `until`, if its writer may have reported the stretch as
/// archived: it begins with a base, and chunks follow the base. A base alone, or a chunk whose predecessors were still
/// being uploaded, was never reported as archived.
fn archived_behind_a_gap(listing: &Listing, lineage: &Lineage, until: Csn) -> Option<Csn> {
    let bases = listing.base_starts().filter(|start| start.base.csn > until && lineage.contains(start.base));
    let ends = bases.map(|start| (start.base.csn, archived_contiguously(listing, lineage, start.after)));
    ends.filter(|(base, end)| end > base).map(|(_, end)| end).max()
}

impl Shipping {
    /// Starts shipping under the node's current epoch.
    pub async fn start(node: &Arc<Node>) -> Result<Arc<Self>> {
        let host: Arc<dyn FeedHost> = Arc::clone(node) as _;
        let watermarks = &node.committer.watermarks;
        let feeds =
            Feeds::new(host, node.source.clone(), watermarks.committed.subscribe(), watermarks.durable.subscribe());
        let archive = match &node.archive {
            Some(archive) => Some(ArchiveSide::start(node, archive).await?),
            None => None,
        };
        let shipping = Arc::new(Self { node: Arc::clone(node), feeds: Arc::new(feeds), archive });
        node.shipping.store(Some(Arc::clone(&shipping)));
        Ok(shipping)
    }

    /// Reports whether chunks go to an archive.
    #[must_use]
    pub fn has_archive(&self) -> bool {
        self.archive.is_some()
    }

    /// Applies changed settings.
    pub fn reconfigure(&self, config: &Config) {
        if let Some(archive) = &self.archive {
            archive.cutter.set_interval(config.archive_interval);
            archive.spool.set_bytes_max(config.spool_max_bytes.0);
            archive.fence_each_ack.store(config.archive_ack, Ordering::Relaxed);
        }
    }

    /// Returns the log position up to which shipping no longer needs the logs; `None` without an archive.
    #[must_use]
    pub fn cut_until(&self) -> Option<LogPosition> {
        self.archive.as_ref().map(|archive| archive.cutter.status().position)
    }

    /// Waits until the archive holds a commit. Returns an error if uploading has ended.
    pub async fn archived(&self, csn: Csn) -> Result<()> {
        let Some(archive) = &self.archive else {
            return Err(Error::NotConfigured { reason: "no archive is configured".into() });
        };
        // The uploader's own status turns earlier, before the gate refuses writes: a client told by it could write
        // again.
        let mut ended = archive.ended.clone();
        // Cancel-safe: both arms only wait.
        tokio::select! {
            () = self.node.committer.watermarks.archived.reached(csn) => Ok(()),
            ended = ended.wait_for(Option::is_some) => {
                let error = ended.ok().and_then(|error| error.clone());
                Err(error.map_or(Error::Stopping, Error::Shared))
            }
        }
    }

    /// Cuts and uploads everything up to `csn` without waiting for the interval.
    pub async fn flush(&self, csn: Csn) -> Result<()> {
        if let Some(archive) = &self.archive {
            archive.cutter.flush(csn);
        }
        self.archived(csn).await
    }

    /// Cuts the remaining commits, waits a limited time for the archive to receive the chunks, and stops.
    pub async fn stop(&self) {
        let Some(archive) = &self.archive else { return };
        let cutter = Arc::clone(&archive.cutter);
        let _ = tokio::task::spawn_blocking(move || cutter.stop()).await;
        let cut = archive.cutter.status().position.csn;
        let second = async {
            if let Some(second) = &archive.second {
                let _ = tokio::time::timeout(STOP_UPLOAD_MAX, second.settled(cut)).await;
                second.stop();
            }
        };
        let first = tokio::time::timeout(STOP_UPLOAD_MAX, self.archived(cut));
        if futures::future::join(first, second).await.0.is_err() {
            tracing::warn!("the archive did not receive all chunks before the stop; the others wait in the spool");
        }
        archive.task.abort();
        archive.marks.stop();
    }
}

impl ArchiveSide {
    async fn start(node: &Arc<Node>, archive: &Archive) -> Result<Self> {
        let epoch = node.identity().epoch();
        let (listing, lineage) = read_listing(archive, epoch).await?;
        let stretches = archived_stretches(archive, &listing, &lineage).await?;
        let ledger = Arc::new(Ledger::of(&listing));
        let end = line_end(archive, &listing, &lineage).await?;
        let history = History { archive: archive.clone(), cluster: node.identity().cluster, listing, lineage };
        *node.archive_figures.lock() = Some(ArchiveFigures::of(&history).await);
        let position = node.committer.position();
        let committed = position.csn;
        if let Some(&beyond) = stretches.last().filter(|end| **end > committed) {
            return Err(Error::Gap {
                what: "the logs".into(),
                expected: committed.next(),
                found: format!("an archive that reaches csn {beyond} of the same epoch"),
            });
        }
        // A base may have been published before the chunks below it. These chunks are uploaded nevertheless if the logs
        // hold their commits.
        let mut owed = None;
        for end in stretches {
            if owed.is_none() && tokio::task::block_in_place(|| node.source.reaches(end))? {
                owed = Some(end);
            }
        }
        let needs_base = owed.is_none();
        let archived = owed.unwrap_or(committed);
        node.committer.watermarks.archived.raise(archived);
        let config = node.config();
        let line = if config.archive_2.is_empty() { None } else { Some(epochs::line(archive, epoch).await?) };
        let is_own = |csn, hash| node.source.compare(csn, hash).map(|compared| compared != Continuity::Other);
        let (spool, cut) = Spool::open(
            Arc::clone(&node.backends.bulk),
            &node.dir.spool(),
            config.spool_max_bytes.0,
            &node.identity(),
            Arc::clone(&node.committer.gate),
            Arc::clone(&node.committer.watermarks),
            &is_own,
        )?;
        let now = CommitTime(crate::clock::now_micros());
        spool.times().into_iter().for_each(|(csn, time)| node.committer.ages.note_past(csn, time, now));
        let spool = Arc::new(spool);
        let from = match cut {
            _ if needs_base => {
                tracing::warn!(
                    committed = committed.0,
                    "the logs do not reach back to the archive's last commit: a base is published, and the commits \
                     before it that the archive lacks are in no archive"
                );
                let Position { csn, hash, .. } = position;
                let wal_seq = node.committer.disk().wal_seq();
                CutFrom { position: LogPosition { csn, wal_seq }, hash, epoch }
            }
            Some(header) => {
                let position = LogPosition { csn: header.last, wal_seq: header.wal_last };
                CutFrom { position, hash: header.hash_after, epoch }
            }
            None => {
                let hash = tokio::task::block_in_place(|| archived_hash(node, archive, archived, end))?;
                CutFrom { position: LogPosition { csn: archived, ..LogPosition::default() }, hash, epoch }
            }
        };
        let settings = UploaderSettings {
            fence_check_interval: config.fence_check_interval,
            fence_each_ack: config.archive_ack,
            start: node.identity().start.map_or(1, |start| start.number),
            ..UploaderSettings::default()
        };
        if line.is_some() {
            spool.keep_for_second(from.position.csn);
        }
        let source = Arc::new(LedgerSource::new(Arc::clone(&spool), Arc::clone(&ledger)));
        let (uploader, status) = Uploader::new(archive, source, epoch, archived, settings);
        let merging = Merging::start(node, archive, ledger, status.clone());
        let (sealed, fence_each_ack) = (uploader.wake(), uploader.fence_each_ack());
        let cutter = Cutter::start(node.source.clone(), Arc::clone(&spool), from, config.archive_interval, sealed);
        let (watched, (ends, ended)) = (Arc::clone(node), watch::channel(None));
        let task = tokio::spawn(async move {
            let error = uploader.run().await;
            if let Error::Fenced { newer, node, .. } = &error {
                watched.fence(*newer, node);
            } else {
                watched.committer.gate.close(RefusalReason::Unarchived, uploading_ended(&error));
            }
            ends.send_replace(Some(Arc::new(error)));
        });
        if needs_base {
            node.snapshots.request();
        }
        let second = line.map(|line| Second::start(node, &spool, &cutter, line));
        let trusted_after = if needs_base { Csn(u64::MAX) } else { archived };
        let marks = MarkKeeper::start(node, archive, trusted_after).await?;
        let began_with_hole = needs_base;
        Ok(Self {
            cutter,
            spool,
            uploader: status,
            ended,
            fence_each_ack,
            merging,
            second,
            marks,
            began_with_hole,
            task,
        })
    }
}

/// Returns the history hash after the commit `archived`, at which cutting continues: the hash that the archive states
/// in `end`, which must equal this node's own, or, if no chunk ends there, the hash from the logs.
fn archived_hash(
    node: &Node,
    archive: &Archive,
    archived: Csn,
    end: Option<(Csn, HistoryHash)>,
) -> Result<HistoryHash> {
    if let Some((csn, hash)) = end.filter(|(csn, _)| *csn == archived) {
        return match node.source.compare(csn, hash)? {
            Continuity::Same => Ok(hash),
            compared => {
                let found = hash;
                let what = format!("{} ({compared:?} by this node's logs)", archive.url());
                let expected = node.committer.history_hash(csn)?.unwrap_or_default();
                Err(Error::OtherHistory { what, csn, expected, found })
            }
        };
    }
    node.committer.history_hash(archived)?.ok_or_else(|| Error::Gap {
        what: "the logs".into(),
        expected: archived,
        found: "no commit with a history hash at this csn".into(),
    })
}

/// Returns the message to clients after uploading ended for a reason other than a newer epoch.
fn uploading_ended(error: &Error) -> String {
    let advice = match error {
        Error::Identity { .. } => "",
        _ => {
            ". Restart the node: the commits of that chunk are cut again from the logs. If the disk is failing, \
             promote a replica instead"
        }
    };
    format!("uploading to the archive has ended, so writes are refused until a restart: {error}{advice}")
}

/// Applies the commits that the archive holds on `lineage` without a gap after the committer's last commit; returns the
/// last one's csn. Returns [`Error::Gap`] if the archive's writer may have reported commits behind a gap as archived,
/// and [`Error::OtherHistory`] if the archive's commits do not continue the committer's history.
pub async fn fetch_tail(
    archive: &Archive,
    listing: &Listing,
    lineage: &Lineage,
    committer: &Arc<Committer>,
) -> Result<Csn> {
    let position = committer.position();
    let mut tail = CatchUp::contiguous(archive, listing, lineage, position);
    if let Some(end) = archived_behind_a_gap(listing, lineage, tail.until()) {
        let (what, expected) = (archive.url().to_owned(), tail.until().next());
        return Err(Error::Gap { what, expected, found: format!("a base after a gap, and commits up to csn {end}") });
    }
    if tail.until() > position.csn {
        tracing::warn!(
            committed = position.csn.0,
            until = tail.until().0,
            "the archive holds commits that the logs lack: they are fetched"
        );
    }
    while let Some(commits) = tail.next().await? {
        tokio::task::block_in_place(|| committer.lock_logs().apply(commits))?;
    }
    Ok(committer.watermarks.committed.get())
}

/// Looks for commits in the archive that the recovery misses.
pub struct ArchiveCommits {
    /// The archive to read.
    pub archive: Archive,
    /// The epoch whose line of history contains the commits.
    pub epoch: Epoch,
    /// Runs the requests, because the recovery blocks.
    pub runtime: tokio::runtime::Handle,
}

impl MissingCommits for ArchiveCommits {
    fn fetch(&self, range: RangeInclusive<Csn>) -> Result<Vec<CommitRecord>> {
        self.runtime.block_on(async {
            let listing = Listing::read(&self.archive).await?;
            let Some(lineage) = Lineage::of(&listing.epochs, self.epoch) else { return Ok(Vec::new()) };
            let mut found = Vec::new();
            let mut commits = CatchUp::contiguous(&self.archive, &listing, &lineage, range.start().prev());
            while let Some(next) = commits.next().await? {
                let is_beyond = next.last().is_some_and(|commit| commit.csn >= *range.end());
                found.extend(next.iter().filter(|commit| range.contains(&commit.csn)).cloned());
                if is_beyond {
                    break;
                }
            }
            Ok(found)
        })
    }
}

impl FeedHost for Node {
    fn cluster(&self) -> ClusterId {
        self.identity().cluster
    }

    fn history(&self) -> Vec<EpochStart> {
        self.identity().history
    }

    fn archived(&self) -> Option<Csn> {
        self.archive.as_ref().map(|_| self.committer.watermarks.archived.get())
    }

    fn secret(&self) -> String {
        self.config().repl_secret.clone()
    }

    fn newer_epoch<'a>(&'a self, hello: &'a Hello) -> BoxFuture<'a, Result<Refuse>> {
        async move {
            let own = self.identity().epoch();
            // With a shared secret, the replica has proven that it knows the secret; without one, the archive's record
            // is the proof.
            let is_proven = match &self.archive {
                _ if !self.secret().is_empty() => true,
                Some(archive) => epochs::read_record(archive, hello.epoch)
                    .await?
                    .is_some_and(|record| record.incarnation == hello.incarnation),
                None => false,
            };
            let (theirs, newer_epoch) = (hello.epoch, Some(hello.epoch));
            if is_proven {
                self.fence(hello.epoch, &hello.node);
                let reason = format!(
                    "the replica has epoch {theirs}, and this node has the older epoch {own}: this node is fenced"
                );
                return Ok(Refuse { is_final: true, reason, newer_epoch });
            }
            let reason = format!(
                "the replica states epoch {theirs}, and this primary has epoch {own}; nothing proves the newer \
                 epoch. Use one repl-secret on all nodes, or one archive"
            );
            Ok(Refuse { is_final: false, reason, newer_epoch })
        }
        .boxed()
    }

    fn send_base<'a>(&'a self, hello: &'a Hello, sender: &'a mut Sender<OwnedWriteHalf>) -> BoxFuture<'a, Result<()>> {
        async move { self.snapshots.send(&self.arc(), hello, sender).await }.boxed()
    }
}
