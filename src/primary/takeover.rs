//! Makes a node the writer: the node claims an epoch and a start, in the archive if there is one.
//!
//! Guarantees: a node that succeeds a predecessor first follows the archive's newest line to its end, so that no commit
//! is lost that the predecessor acknowledged as archived. The node reads the archive before the claim and again after
//! it, because the predecessor may write until it sees the claim. A node whose own position does not lie on that line
//! claims nothing unless it is told to abandon the line. An interruption leaves epochs that were claimed but not
//! started: their lines hold no commits, and no node follows them.

use super::accept::listen_for_replicas;
use super::archived::fetch_tail;
use super::shipping::Shipping;
use crate::archive::epochs::{self, Claim, EpochRecord, EpochTree};
use crate::archive::identity;
use crate::archive::lineage::Lineage;
use crate::archive::listing::Listing;
use crate::archive::starts::{self, StartClaim, StartRecord};
use crate::archive::store::Archive;
use crate::command::host::Insistence;
use crate::csn::{CommitTime, Epoch, Incarnation};
use crate::directory::{EpochStart, Identity, LastRole, WriterStart};
use crate::error::{Error, Result};
use crate::history::abandoned::Abandoned;
use crate::history::line::line_end;
use crate::node::bases::Bases;
use crate::node::clock::node_needs_epoch;
use crate::node::core::Core;
use crate::position::Position;
use crate::ship::source::Continuity;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Makes a node that starts as a primary the writer: under its own epoch if no other process can have continued that
/// epoch, otherwise under a new one.
pub async fn begin_writing(core: &Arc<Core>) -> Result<()> {
    let own = core.identity();
    let lies_ahead = node_needs_epoch(core)?;
    let mut needs_epoch = lies_ahead || own.may_lack_commits || own.role != LastRole::Primary;
    if let Some(archive) = &core.archive {
        establish(archive, &own).await?;
        if !needs_epoch {
            claim_own_epoch(archive, core).await?;
            needs_epoch = !claim_start(archive, core).await?;
        }
    }
    if !needs_epoch {
        return core.begin_epoch(own.current());
    }
    // A restored directory must not follow the archive beyond the commit that the operator chose. A directory with a
    // replaced commit must not follow it either, because later commits in the archive build upon the lost one.
    let follows = own.role != LastRole::Restored && own.intact_until.is_none();
    let start = match &core.archive {
        Some(archive) if follows => claim_at_the_end(core, archive, Insistence::default()).await?,
        Some(archive) => claim_next(core, archive, own_parent(archive, core).await?).await?,
        None => next_epoch(core, own.epoch())?,
    };
    tracing::warn!(epoch = start.epoch.0, fork = start.fork.0, "a new epoch starts");
    begin_epoch(core, start).await
}

/// Turns a replica whose link has stopped into a primary under a new epoch.
pub fn take_over(core: Arc<Core>, bases: Arc<Bases>, insistence: Insistence) -> BoxFuture<'static, Result<()>> {
    async move { become_primary(&core, &bases, insistence).await }.boxed()
}

async fn become_primary(core: &Arc<Core>, bases: &Arc<Bases>, insistence: Insistence) -> Result<()> {
    let start = match &core.archive {
        Some(archive) => {
            establish(archive, &core.identity()).await?;
            claim_at_the_end(core, archive, insistence).await?
        }
        None if core.primary_archives() && !insistence.without_archive => {
            let reason = "the primary has an archive and this replica has none. A promotion would abandon the \
                          archived commits that this replica lacks, and would not fence the old primary. Start the \
                          replica with --archive, or force the promotion with walferry promote --without-archive";
            return Err(Error::NotConfigured { reason: reason.to_owned() });
        }
        None => next_epoch(core, core.identity().epoch())?,
    };
    let before = core.identity();
    begin_epoch(core, start).await?;
    // Shipping starts before the first write is accepted, so that no write stays without archiving.
    let shipping = match Shipping::start(core, bases).await {
        Ok(shipping) => shipping,
        Err(error) => {
            // The node is a replica with its previous history again. The epoch stays claimed and holds no commits.
            core.leave_epoch(&before)?;
            return Err(error);
        }
    };
    core.take_writes();
    tracing::info!(epoch = start.epoch.0, fork = start.fork.0, "this node has become a primary");
    listen_for_replicas(core, &shipping.feeds).await
}

/// Makes a new archive this cluster's. If this node's history has several epochs, also writes their records, because
/// commit times may decrease where an epoch forks.
async fn establish(archive: &Archive, own: &Identity) -> Result<()> {
    identity::establish(archive, own.cluster).await?;
    if own.history.len() == 1 || EpochTree::read(archive).await?.newest().is_some() {
        return Ok(());
    }
    let mut parent = None;
    for start in &own.history {
        let record = EpochRecord::new(*start, parent, own.node.clone(), now());
        if let Claim::Taken(taken) = epochs::claim(archive, &record).await? {
            return Err(Error::Fenced { own: own.epoch(), newer: taken.epoch, node: taken.node });
        }
        parent = Some(start.epoch);
    }
    Ok(())
}

/// Begins an epoch that this node has claimed. From then on the epoch's line is the newest one.
async fn begin_epoch(core: &Arc<Core>, start: EpochStart) -> Result<()> {
    if let Some(archive) = &core.archive {
        let first = WriterStart { epoch: start.epoch, number: 1, incarnation: Incarnation::draw()? };
        core.change_identity(|identity| identity.start = Some(first))?;
        if let StartClaim::Taken(other) = starts::claim(archive, &record_of(core, first)).await? {
            return Err(Error::Fenced { own: start.epoch, newer: start.epoch, node: other.node });
        }
    }
    core.begin_epoch(start)
}

/// Returns the epoch after this node's, without an archive to claim it in.
fn next_epoch(core: &Core, own: Epoch) -> Result<EpochStart> {
    node_needs_epoch(core)?;
    let fork = fork_of(core)?;
    EpochStart::draw(own.next(), fork.csn, fork.hash)
}

/// Returns the position where this node's next epoch forks: its last commit, or the last commit before the first
/// replaced one.
fn fork_of(core: &Core) -> Result<Position> {
    let position = core.committer.position();
    let fork = core.identity().fork_at(position.csn);
    if fork == position.csn {
        return Ok(position);
    }
    let hash = tokio::task::block_in_place(|| core.committer.history_hash(fork))?.ok_or_else(|| Error::Gap {
        what: "the logs".into(),
        expected: fork,
        found: "nothing, although commits after it were replaced".into(),
    })?;
    Ok(Position { csn: fork, hash, ..position })
}

/// Claims the next free epoch as a child of `parent`.
async fn claim_next(core: &Core, archive: &Archive, parent: Option<Epoch>) -> Result<EpochStart> {
    let own = core.identity();
    let tree = EpochTree::read(archive).await?;
    let newest = tree.newest().map_or(own.epoch(), |newest| newest.epoch.max(own.epoch()));
    let fork = fork_of(core)?;
    let start = EpochStart::draw(newest.next(), fork.csn, fork.hash)?;
    let record = EpochRecord::new(start, parent, own.node.clone(), now());
    match epochs::claim(archive, &record).await? {
        Claim::Claimed | Claim::AlreadyMine => Ok(start),
        Claim::Taken(taken) => Err(Error::Fenced { own: own.epoch(), newer: taken.epoch, node: taken.node }),
    }
}

/// Returns this node's epoch if it has a record in the archive. Without a record, no commit of its history was archived
/// there, so a new epoch has no parent in this archive.
async fn own_parent(archive: &Archive, core: &Core) -> Result<Option<Epoch>> {
    let own = core.identity().current();
    let tree = EpochTree::read(archive).await?;
    Ok(tree.get(own.epoch).filter(|record| record.incarnation == own.incarnation).map(|record| record.epoch))
}

/// Claims the next epoch at the end of the archive's newest line.
async fn claim_at_the_end(core: &Arc<Core>, archive: &Archive, insistence: Insistence) -> Result<EpochStart> {
    // Epochs that this call claimed with a fork that turned out to be too early.
    let mut discarded = BTreeSet::new();
    loop {
        let listing = Listing::read(archive).await?;
        let (followed, parent) = match newest_line(&listing, &discarded) {
            None => (None, None),
            Some(line) => match follow_to_the_end(core, archive, &listing, &line).await {
                Ok(parent) => (Some(line.leaf()), Some(parent)),
                Err(Left::Failed(error)) => return Err(error),
                Err(Left::Elsewhere(why)) => {
                    let abandoned = Abandoned::of_line(&listing, &line, core.identity().history.as_slice());
                    if insistence.abandon_epoch != Some(line.leaf()) {
                        return Err(would_abandon(archive, &line, &why, &abandoned));
                    }
                    tracing::warn!(epoch = line.leaf().0, %why, "the archive's newest line is abandoned, as the \
                        operator asked");
                    (None, own_parent(archive, core).await?)
                }
            },
        };
        node_needs_epoch(core)?;
        let start = claim_next(core, archive, parent).await?;
        discarded.insert(start.epoch);
        // Between the listing and the claim, the predecessor may have archived and acknowledged further commits.
        let listing = Listing::read(archive).await?;
        let Some(line) = newest_line(&listing, &discarded).filter(|line| Some(line.leaf()) == followed) else {
            if parent.is_none() && newest_line(&listing, &discarded).is_none() || insistence.abandon_epoch.is_some() {
                return Ok(start);
            }
            continue;
        };
        let beyond = line.cover(listing.chunks.keys().copied(), start.fork).reachable(start.fork);
        if beyond <= start.fork {
            return Ok(start);
        }
        tracing::warn!(
            fork = start.fork.0,
            beyond = beyond.0,
            "the old primary continued to archive during the takeover: this node takes over these commits"
        );
    }
}

/// Returns the newest line of the epochs that are not in `without`.
fn newest_line(listing: &Listing, without: &BTreeSet<Epoch>) -> Option<Lineage> {
    let others = listing.epochs.without(without);
    Lineage::newest(&others)
}

/// Why a node is not at the end of a line.
enum Left {
    /// The node's position does not lie on the line.
    Elsewhere(String),
    /// An error interrupted following the line.
    Failed(Error),
}

/// Brings this node to the end of a line that contains its position. Returns the epoch of the node's last commit there:
/// the line's epoch, or an earlier one if the writer of the line archived nothing and the archive ends before that
/// epoch.
async fn follow_to_the_end(
    core: &Arc<Core>,
    archive: &Archive,
    listing: &Listing,
    line: &Lineage,
) -> Result<Epoch, Left> {
    let (own, position) = (core.identity(), core.committer.position());
    let starts = line.starts();
    if let Some(fault) = own.fault_in(&starts, position.csn) {
        return Err(Left::Elsewhere(fault));
    }
    let end = line_end(archive, listing, line).await.map_err(Left::Failed)?;
    if let Some((csn, hash)) = end.filter(|(csn, _)| *csn <= position.csn) {
        let compared = tokio::task::block_in_place(|| core.source.compare(csn, hash)).map_err(Left::Failed)?;
        if compared == Continuity::Other {
            return Err(Left::Elsewhere(format!(
                "this node has other commits up to csn {csn}, where the archive ends"
            )));
        }
    }
    if !own.is_same_history(&starts) {
        core.adopt_history(&starts).map_err(Left::Failed)?;
    }
    match fetch_tail(archive, listing, line, &core.committer).await {
        Ok(_) => {}
        Err(error @ Error::OtherHistory { .. }) => return Err(Left::Elsewhere(error.to_string())),
        Err(error) => return Err(Left::Failed(error)),
    }
    let end = core.committer.position().csn;
    let reached = starts.iter().rfind(|start| start.fork <= end).expect("a line begins at csn 0");
    Ok(reached.epoch)
}

/// Builds the refusal of a promotion that would abandon commits.
fn would_abandon(archive: &Archive, line: &Lineage, why: &str, abandoned: &[Abandoned]) -> Error {
    let told: Vec<String> = abandoned.iter().map(ToString::to_string).collect();
    let told = if told.is_empty() { "no archived commits".to_owned() } else { told.join("; ") };
    let epoch = line.leaf();
    let reason = format!(
        "this node does not lie on the newest line of {}, which ends in epoch {epoch}: {why}. A promotion would \
         abandon {told}. Promote a node that follows epoch {epoch}, start this node as a replica of the writer of \
         that epoch, or force the promotion with walferry promote --abandon-epoch {epoch}",
        archive.url()
    );
    Error::Conflict { reason }
}

/// Checks that the archive's record of this node's epoch is this node's own, and writes the record if there is none.
async fn claim_own_epoch(archive: &Archive, core: &Core) -> Result<()> {
    let own = core.identity();
    let (current, tree) = (own.current(), EpochTree::read(archive).await?);
    let fenced = |record: &EpochRecord| {
        Err(Error::Fenced { own: current.epoch, newer: record.epoch, node: record.node.clone() })
    };
    match tree.get(current.epoch) {
        Some(record) if record.incarnation == current.incarnation => Ok(()),
        Some(record) => fenced(record),
        None => {
            let parent = own.history.iter().rev().nth(1).map(|start| start.epoch);
            let parent = parent.filter(|parent| tree.get(*parent).is_some());
            match epochs::claim(archive, &EpochRecord::new(current, parent, own.node.clone(), now())).await? {
                Claim::Claimed | Claim::AlreadyMine => Ok(()),
                Claim::Taken(taken) => fenced(&taken),
            }
        }
    }
}

/// Claims the next start under this node's own epoch. Returns false if a start exists that this directory does not
/// know: then another process has started from a copy of this directory, or from the original of this copy.
async fn claim_start(archive: &Archive, core: &Core) -> Result<bool> {
    let own = core.identity();
    let epoch = own.epoch();
    let known = own.start.filter(|start| start.epoch == epoch);
    // The start that the identity names may not have been claimed yet, so it is claimed first.
    let first = WriterStart { epoch, number: 1, incarnation: Incarnation::draw()? };
    let mut next = known.unwrap_or(first);
    loop {
        core.change_identity(|identity| identity.start = Some(next))?;
        match starts::claim(archive, &record_of(core, next)).await? {
            StartClaim::Claimed => return Ok(true),
            StartClaim::AlreadyMine => {
                next = WriterStart { number: next.number + 1, incarnation: Incarnation::draw()?, ..next };
            }
            StartClaim::Taken(other) => {
                tracing::warn!(
                    epoch = epoch.0,
                    start = next.number,
                    node = other.node,
                    csn = other.csn.0,
                    "another process has started under this epoch: this directory is a copy of that process's \
                     directory, or an older state of it"
                );
                return Ok(false);
            }
        }
    }
}

fn record_of(core: &Core, start: WriterStart) -> StartRecord {
    let position = core.committer.position();
    StartRecord {
        format: identity::ARCHIVE_FORMAT,
        epoch: start.epoch,
        number: start.number,
        incarnation: start.incarnation,
        csn: position.csn,
        hash: position.hash,
        node: core.identity().node,
        time: now(),
    }
}

fn now() -> CommitTime {
    CommitTime(crate::clock::now_micros())
}

/// Checks that a directory is not fenced, before anything is opened.
pub fn check_fence(own: &Identity, tree: Option<&EpochTree>) -> Result<()> {
    own.require_unfenced()?;
    // The directory of a replica follows the newest line before it writes.
    match tree.and_then(EpochTree::newest_started).filter(|_| own.role == LastRole::Primary) {
        Some(newest) if newest.epoch > own.epoch() => {
            Err(Error::Fenced { own: own.epoch(), newer: newest.epoch, node: newest.node.clone() })
        }
        _ => Ok(()),
    }
}
