//! The archive side of a primary's shipping: cuts chunks and uploads them.
//!
//! Guarantees: only commits that continue the archive's history are archived. An archive that cannot be read is never
//! treated as empty. The content of the spool and of the archive determines where cutting continues. If the logs do not
//! reach back that far, the node publishes a base at once, so that history continues from there.

use super::archived::{archived_stretches, read_listing};
use super::marks::MarkKeeper;
use super::merging::Merging;
use super::second_archive::Second;
use crate::archive::epochs;
use crate::archive::listing::Listing;
use crate::archive::store::Archive;
use crate::archive::uploader::{Uploader, UploaderSettings, UploaderStatus};
use crate::chunk::ChunkHeader;
use crate::commit::gate::RefusalReason;
use crate::csn::{CommitTime, Csn, Epoch, HistoryHash};
use crate::error::{Error, Result};
use crate::history::archive_figures::ArchiveFigures;
use crate::history::line::{History, line_end};
use crate::history::route::RouteCosts;
use crate::log::reader::LogCursor;
use crate::node::bases::Bases;
use crate::node::core::Core;
use crate::position::Position;
use crate::ship::cutter::{CutFrom, Cutter};
use crate::ship::source::Continuity;
use crate::ship::spool::Spool;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The archive side of a primary.
pub(super) struct ArchiveSide {
    /// Cuts chunks.
    pub cutter: Arc<Cutter>,
    /// Holds chunks until they are archived.
    pub spool: Arc<Spool>,
    /// The status of the uploader.
    pub uploader: watch::Receiver<UploaderStatus>,
    /// Holds the error that ended uploading. Set after the gate was closed, so that writes are refused by then.
    pub(super) ended: watch::Receiver<Option<Arc<Error>>>,
    /// Whether the uploader checks the fence before each acknowledgement; follows `archive-ack`.
    pub(super) fence_each_ack: Arc<AtomicBool>,
    /// Merges the uploaded chunks.
    pub merging: Merging,
    /// The second archive; `None` if none is configured.
    pub second: Option<Arc<Second>>,
    /// Writes the records of marks.
    pub marks: Arc<MarkKeeper>,
    /// Whether the logs did not reach back to the archive's end, so that restorable history begins with the next base.
    pub began_with_hole: bool,
    /// Uploads the chunks.
    pub(super) task: JoinHandle<()>,
}

impl ArchiveSide {
    /// Starts to cut and to upload where the archive ends.
    pub(super) async fn start(core: &Arc<Core>, bases: &Arc<Bases>, archive: &Archive) -> Result<Self> {
        let beginning = Beginning::find(core, archive).await?;
        let Beginning { epoch, archived, needs_base, .. } = beginning;
        core.committer.watermarks.archived.raise(archived);
        let config = core.config();
        let line = if config.archive_2.is_empty() { None } else { Some(epochs::line(archive, epoch).await?) };
        let (spool, cut) = open_spool(core)?;
        let from = beginning.cut_from(core, archive, cut)?;
        let settings = UploaderSettings {
            fence_check_interval: config.fence_check_interval,
            fence_each_ack: config.archive_ack,
            start: core.identity().start.map_or(1, |start| start.number),
            ..UploaderSettings::default()
        };
        if line.is_some() {
            spool.keep_for_second(from.position.csn);
        }
        let (mut uploader, status) = Uploader::new(archive, Arc::clone(&spool), epoch, archived, settings);
        let merging = Merging::start(core, archive, &beginning.listing, uploader.report_archived(), status.clone());
        let (sealed, fence_each_ack) = (uploader.wake(), uploader.fence_each_ack());
        let cutter = Cutter::start(core.source.clone(), Arc::clone(&spool), from, config.archive_interval, sealed);
        let (watched, (ends, ended)) = (Arc::clone(core), watch::channel(None));
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
            bases.request();
        }
        let second = line.map(|line| Second::start(core, &bases.snapshots, &spool, &cutter, line));
        let trusted_after = if needs_base { Csn(u64::MAX) } else { archived };
        let marks = MarkKeeper::start(core, bases, archive, trusted_after).await?;
        Ok(Self {
            cutter,
            spool,
            uploader: status,
            ended,
            fence_each_ack,
            merging,
            second,
            marks,
            began_with_hole: needs_base,
            task,
        })
    }
}

/// The commits at which cutting and uploading begin.
struct Beginning {
    /// This node's epoch.
    epoch: Epoch,
    /// This node's last commit.
    position: Position,
    /// The objects in the archive.
    listing: Listing,
    /// The last commit that the archive's chunks state, with its history hash.
    end: Option<(Csn, HistoryHash)>,
    /// The last commit that counts as archived.
    archived: Csn,
    /// Whether the logs do not reach back to the archive's end.
    needs_base: bool,
}

impl Beginning {
    /// Compares the archive with the logs.
    async fn find(core: &Core, archive: &Archive) -> Result<Self> {
        let epoch = core.epoch();
        let (listing, lineage) = read_listing(archive, epoch).await?;
        let stretches = archived_stretches(archive, &listing, &lineage).await?;
        let end = line_end(archive, &listing, &lineage).await?;
        let cluster = core.identity().cluster;
        let history = History { archive: archive.clone(), cluster, listing, lineage, costs: RouteCosts::DEFAULT };
        *core.archive_figures.lock() = Some(ArchiveFigures::of(&history).await);
        let position = core.committer.position();
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
            if owed.is_none() && tokio::task::block_in_place(|| core.source.reaches(end))? {
                owed = Some(end);
            }
        }
        let (archived, needs_base) = (owed.unwrap_or(committed), owed.is_none());
        Ok(Self { epoch, position, listing: history.listing, end, archived, needs_base })
    }

    /// Returns where cutting continues. `cut` is the last chunk in the spool.
    fn cut_from(&self, core: &Core, archive: &Archive, cut: Option<ChunkHeader>) -> Result<CutFrom> {
        let (epoch, archived, end) = (self.epoch, self.archived, self.end);
        let Position { csn, hash, .. } = self.position;
        Ok(match cut {
            _ if self.needs_base => {
                tracing::warn!(
                    committed = csn.0,
                    "the logs do not reach back to the archive's last commit: a base is published, and the commits before \
                     it that the archive lacks are in no archive"
                );
                let wal_seq = core.committer.disk().wal_seq();
                CutFrom { position: LogCursor { csn, wal_seq }, hash, epoch }
            }
            Some(header) => {
                let position = LogCursor { csn: header.last, wal_seq: header.wal_last };
                CutFrom { position, hash: header.hash_after, epoch }
            }
            None => {
                let hash = tokio::task::block_in_place(|| archived_hash(core, archive, archived, end))?;
                CutFrom { position: LogCursor { csn: archived, ..LogCursor::default() }, hash, epoch }
            }
        })
    }
}

/// Opens the spool. Also returns the header of the last chunk that it holds of this node's history.
fn open_spool(core: &Core) -> Result<(Arc<Spool>, Option<ChunkHeader>)> {
    let is_own = |csn, hash| core.source.compare(csn, hash).map(|compared| compared != Continuity::Other);
    let (spool, cut) = Spool::open(
        Arc::clone(&core.backends.bulk),
        &core.dir.spool(),
        core.config().spool_max_bytes.0,
        &core.identity(),
        Arc::clone(&core.committer.gate),
        Arc::clone(&core.committer.watermarks),
        &is_own,
    )?;
    let now = CommitTime(crate::clock::now_micros());
    spool.times().into_iter().for_each(|(csn, time)| core.committer.ages.note_past(csn, time, now));
    Ok((Arc::new(spool), cut))
}

/// Returns the history hash after the commit `archived`, at which cutting continues: the hash that the archive states
/// in `end`, which must equal this node's own, or, if no chunk ends there, the hash from the logs.
fn archived_hash(
    core: &Core,
    archive: &Archive,
    archived: Csn,
    end: Option<(Csn, HistoryHash)>,
) -> Result<HistoryHash> {
    if let Some((csn, hash)) = end.filter(|(csn, _)| *csn == archived) {
        return match core.source.compare(csn, hash)? {
            Continuity::Same => Ok(hash),
            compared => {
                let found = hash;
                let what = format!("{} ({compared:?} by this node's logs)", archive.url());
                let expected = core.committer.history_hash(csn)?.unwrap_or_default();
                Err(Error::OtherHistory { what, csn, expected, found })
            }
        };
    }
    core.committer.history_hash(archived)?.ok_or_else(|| Error::Gap {
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
