//! Writes the records of marks into the archive as soon as the archive can restore the marked commits.
//!
//! A mark is made as a commit; its record is written when the archive holds that commit. Guarantees: a record is
//! written only when its commit can be restored. If a crash or a promotion prevents a record, the next primary writes
//! it from the marks in its own history. Costs one LIST of the marks at the start, and no request while no mark is
//! made.

use crate::archive::layout::{ObjectName, Section};
use crate::archive::marks::{self, MarkCreation, MarkRecord};
use crate::archive::store::Archive;
use crate::command::host::TaskReply;
use crate::commit::marks::Mark;
use crate::config::AppendFsync;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::history::line::History;
use crate::history::reach::Reach;
use crate::node::bases::Bases;
use crate::node::core::Core;
use crate::plain_name::PlainName;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Pause after a failure of the archive, and between two checks whether a base was published.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// Keeps the marks of a primary's archive.
pub(super) struct MarkKeeper {
    archive: Archive,
    /// The marks in the archive; the value is `None` until the record was read.
    known: Mutex<BTreeMap<PlainName, Option<MarkRecord>>>,
    /// Archived commits above this csn can be restored; for the others, the archive is read.
    trusted_after: AtomicU64,
    wake: Notify,
    /// Locked while a record is written or removed.
    changing: tokio::sync::Mutex<()>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The marks that a round could not write.
#[derive(Default)]
struct Left {
    /// Whether marks wait until the archive holds their commits.
    waits_for_archive: bool,
    /// Whether marks lie where the archive lacks commits, so that they wait for the next base.
    waits_for_base: bool,
}

impl MarkKeeper {
    /// Starts to keep the node's marks.
    pub(super) async fn start(
        core: &Arc<Core>,
        bases: &Arc<Bases>,
        archive: &Archive,
        trusted_after: Csn,
    ) -> Result<Arc<Self>> {
        let found = archive.list(Section::Marks).await?;
        let names = found.objects.into_iter().filter_map(|object| match object.name {
            ObjectName::Mark(name) => Some((name, None)),
            _ => None,
        });
        let keeper = Arc::new(Self {
            archive: archive.clone(),
            known: Mutex::new(names.collect()),
            trusted_after: AtomicU64::new(trusted_after.0),
            wake: Notify::new(),
            changing: tokio::sync::Mutex::default(),
            task: Mutex::default(),
        });
        let (own, core, bases) = (Arc::clone(&keeper), Arc::downgrade(core), Arc::clone(bases));
        *keeper.task.lock() = Some(tokio::spawn(async move { own.run(core, bases).await }));
        Ok(keeper)
    }

    /// Stops the task.
    pub(super) fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }

    async fn run(&self, core: Weak<Core>, bases: Arc<Bases>) {
        // The end of the last base at the last successful round; `None` before that round.
        let mut looked_at: Option<Option<Instant>> = None;
        let mut is_failing = false;
        loop {
            let Some(core) = core.upgrade() else { return };
            let mut archived = core.committer.watermarks.archived.subscribe();
            let base = bases.last().ended;
            let round = self.round(&core, looked_at != Some(base)).await;
            drop(core);
            let left = match round {
                Ok(left) => {
                    is_failing = false;
                    looked_at = Some(base);
                    left
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "a mark could not be written to the archive; the upload is retried");
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            // Cancel-safe: all arms only wait.
            tokio::select! {
                () = self.wake.notified() => {}
                _ = archived.changed(), if left.waits_for_archive => {}
                () = tokio::time::sleep(RETRY_PAUSE), if left.waits_for_base => {}
            }
        }
    }

    /// Writes the records that are due. `may_look` says whether reading the archive can show a change.
    async fn round(&self, core: &Core, may_look: bool) -> Result<Left> {
        let mut left = Left::default();
        if core.committer.gate.leaves_archive_alone() {
            return Ok(left);
        }
        let mut reach: Option<Reach> = None;
        for mark in tokio::task::block_in_place(|| core.committer.marks())? {
            if matches!(self.known.lock().get(&mark.name), Some(Some(_))) {
                continue;
            }
            let archived = core.committer.watermarks.archived.get();
            if mark.at.csn > archived {
                left.waits_for_archive = true;
                continue;
            }
            if mark.at.csn.0 <= self.trusted_after.load(Ordering::Relaxed) {
                if !may_look {
                    left.waits_for_base = true;
                    continue;
                }
                let reach = match &mut reach {
                    Some(reach) => reach,
                    None => {
                        let history = History::read(&self.archive, Some(core.identity().epoch())).await?;
                        reach.insert(history.reach())
                    }
                };
                if reach.contains(archived) {
                    self.trusted_after.fetch_min(archived.0, Ordering::Relaxed);
                }
                if !reach.contains(mark.at.csn) {
                    left.waits_for_base = true;
                    continue;
                }
            }
            self.store(core, &mark).await?;
        }
        Ok(left)
    }

    async fn store(&self, core: &Core, mark: &Mark) -> Result<()> {
        let _changing = self.changing.lock().await;
        if tokio::task::block_in_place(|| core.committer.find_mark(&mark.name))?.as_ref() != Some(mark) {
            return Ok(());
        }
        let record = MarkRecord::new(&mark.name, mark.at);
        let stored = match marks::create(&self.archive, &mark.name, &record).await? {
            MarkCreation::There => record,
            MarkCreation::Taken(other) => {
                tracing::error!(mark = %mark.name, csn = %mark.at.csn, other = %other.csn, epoch = %other.epoch, "the \
                    archive has another mark of this name, so this node's mark is not in the archive");
                other
            }
        };
        self.known.lock().insert(mark.name.clone(), Some(stored));
        Ok(())
    }

    /// Returns, as text, whether a restore can find a mark by its name.
    pub(super) fn state(&self, mark: &Mark) -> String {
        match self.known.lock().get(&mark.name) {
            Some(Some(found)) if (found.csn, found.epoch) == (mark.at.csn, mark.at.epoch) => "yes".to_owned(),
            Some(Some(other)) => {
                format!("never: the archive's mark of this name is csn {} of epoch {}", other.csn, other.epoch)
            }
            _ => "not yet".to_owned(),
        }
    }
}

/// `WALFERRY MARK`: commits a mark of this name, which names the state after its own commit.
pub(super) async fn mark(core: &Core, keeper: Option<&MarkKeeper>, name: PlainName) -> Result<TaskReply> {
    let made = tokio::task::block_in_place(|| {
        let is_own = core.committer.find_mark(&name)?.is_some();
        if !is_own && keeper.is_some_and(|keeper| keeper.known.lock().contains_key(&name)) {
            let reason = format!(
                "mark {name} is taken: the archive has a mark of this name on another line of history. Choose \
                     another name, or remove that mark with WALFERRY UNMARK {name}"
            );
            return Err(Error::Conflict { reason });
        }
        core.committer.make_mark(&name)
    })?;
    if let Some(keeper) = keeper {
        keeper.wake.notify_one();
    }
    acknowledge(core, made.at.csn).await?;
    Ok(TaskReply::Csn(made.at.csn))
}

/// `WALFERRY UNMARK`: removes a mark. Removes the archive's record first: after a crash in between, the mark still
/// exists and the next primary writes its record again.
pub(super) async fn unmark(core: &Core, keeper: Option<&MarkKeeper>, name: PlainName) -> Result<TaskReply> {
    let _changing = match keeper {
        Some(keeper) => Some(keeper.changing.lock().await),
        None => None,
    };
    let was_archived = match keeper {
        Some(keeper) if keeper.known.lock().contains_key(&name) => {
            keeper.archive.delete(&ObjectName::Mark(name.clone())).await?;
            keeper.known.lock().remove(&name);
            true
        }
        _ => false,
    };
    let removed = tokio::task::block_in_place(|| core.committer.remove_mark(&name))?;
    match removed {
        Some(csn) => acknowledge(core, csn).await?,
        None if was_archived => {}
        None => return Err(Error::Unknown { reason: format!("mark {name} does not exist") }),
    }
    Ok(TaskReply::Ok)
}

/// Waits until a commit is as safe as the reply to a write requires.
async fn acknowledge(core: &Core, csn: Csn) -> Result<()> {
    if core.committer.syncer.mode() == AppendFsync::Always {
        core.committer.syncer.acknowledged(csn).await?;
    }
    if core.config().archive_ack {
        core.archive_acknowledged(csn).await?;
    }
    Ok(())
}
