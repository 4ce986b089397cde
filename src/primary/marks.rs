//! Writes the records of marks into the archive as soon as the archive can restore the marked commits.
//!
//! A mark is made as a commit; its record is written when the archive holds that commit. Guarantees: a record is
//! written only when its commit can be restored. If a crash or a promotion prevents a record, the next primary writes
//! it from the marks in its own history. Costs one LIST of the marks at the start, and no request while no mark is
//! made.

use super::node::Node;
use crate::archive::layout::{ObjectName, Section};
use crate::archive::marks::{self, MarkCreation, MarkRecord};
use crate::archive::store::Archive;
use crate::command::host::{Host, MarkCard, TaskReply};
use crate::commit::marks::Mark;
use crate::config::AppendFsync;
use crate::csn::Csn;
use crate::error::{Error, Result};
use crate::history::line::History;
use crate::history::reach::Reach;
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
pub struct MarkKeeper {
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
    pub(super) async fn start(node: &Arc<Node>, archive: &Archive, trusted_after: Csn) -> Result<Arc<Self>> {
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
        let (own, node) = (Arc::clone(&keeper), Arc::downgrade(node));
        *keeper.task.lock() = Some(tokio::spawn(async move { own.run(node).await }));
        Ok(keeper)
    }

    /// Stops the task.
    pub(super) fn stop(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }

    async fn run(&self, node: Weak<Node>) {
        // `LastBase::ended` at the last successful round; `None` before that round.
        let mut looked_at: Option<Option<Instant>> = None;
        let mut is_failing = false;
        loop {
            let Some(node) = node.upgrade() else { return };
            let mut archived = node.committer.watermarks.archived.subscribe();
            let base = node.snapshots.last().ended;
            let round = self.round(&node, looked_at != Some(base)).await;
            drop(node);
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
    async fn round(&self, node: &Node, may_look: bool) -> Result<Left> {
        let mut left = Left::default();
        if node.committer.gate.leaves_archive_alone() {
            return Ok(left);
        }
        let mut reach: Option<Reach> = None;
        for mark in tokio::task::block_in_place(|| node.committer.marks())? {
            if matches!(self.known.lock().get(&mark.name), Some(Some(_))) {
                continue;
            }
            let archived = node.committer.watermarks.archived.get();
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
                        let history = History::read(&self.archive, Some(node.identity().epoch())).await?;
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
            self.store(node, &mark).await?;
        }
        Ok(left)
    }

    async fn store(&self, node: &Node, mark: &Mark) -> Result<()> {
        let _changing = self.changing.lock().await;
        if tokio::task::block_in_place(|| node.committer.find_mark(&mark.name))?.as_ref() != Some(mark) {
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
    fn state(&self, mark: &Mark) -> String {
        match self.known.lock().get(&mark.name) {
            Some(Some(found)) if (found.csn, found.epoch) == (mark.at.csn, mark.at.epoch) => "yes".to_owned(),
            Some(Some(other)) => {
                format!("never: the archive's mark of this name is csn {} of epoch {}", other.csn, other.epoch)
            }
            _ => "not yet".to_owned(),
        }
    }
}

impl Node {
    /// `WALFERRY MARK`: commits a mark of this name, which names the state after its own commit.
    pub(super) async fn mark(&self, name: PlainName) -> Result<TaskReply> {
        if let Some(refused) = self.write_refusal() {
            return Ok(refused);
        }
        let shipping = self.shipping.load_full();
        let keeper = shipping.as_ref().and_then(|shipping| shipping.archive.as_ref()).map(|side| &side.marks);
        let made = tokio::task::block_in_place(|| {
            let is_own = self.committer.find_mark(&name)?.is_some();
            if !is_own && keeper.is_some_and(|keeper| keeper.known.lock().contains_key(&name)) {
                let reason = format!(
                    "mark {name} is taken: the archive has a mark of this name on another line of history. Choose \
                     another name, or remove that mark with WALFERRY UNMARK {name}"
                );
                return Err(Error::Conflict { reason });
            }
            self.committer.make_mark(&name)
        })?;
        if let Some(keeper) = keeper {
            keeper.wake.notify_one();
        }
        self.acknowledge(made.at.csn).await?;
        Ok(TaskReply::Csn(made.at.csn))
    }

    /// `WALFERRY UNMARK`: removes a mark. Removes the archive's record first: after a crash in between, the mark still
    /// exists and the next primary writes its record again.
    pub(super) async fn unmark(&self, name: PlainName) -> Result<TaskReply> {
        if let Some(refused) = self.write_refusal() {
            return Ok(refused);
        }
        let shipping = self.shipping.load_full();
        let keeper = shipping.as_ref().and_then(|shipping| shipping.archive.as_ref()).map(|side| &side.marks);
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
        let removed = tokio::task::block_in_place(|| self.committer.remove_mark(&name))?;
        match removed {
            Some(csn) => self.acknowledge(csn).await?,
            None if was_archived => {}
            None => return Err(Error::Unknown { reason: format!("mark {name} does not exist") }),
        }
        Ok(TaskReply::Ok)
    }

    /// Waits until a commit is as safe as the reply to a write requires.
    async fn acknowledge(&self, csn: Csn) -> Result<()> {
        if self.committer.syncer.mode() == AppendFsync::Always {
            self.committer.syncer.acknowledged(csn).await?;
        }
        if self.config().archive_ack {
            self.archive_acknowledged(csn).await?;
        }
        Ok(())
    }

    fn write_refusal(&self) -> Option<TaskReply> {
        let (obstacle, reason) = self.committer.gate.refusal()?;
        Some(TaskReply::Refused(format!("{} {reason}", obstacle.code())))
    }

    /// Returns the marks of this node's history and whether the archive has them.
    pub(super) fn mark_cards(&self) -> Result<Vec<MarkCard>> {
        let shipping = self.shipping.load();
        let keeper = shipping.as_ref().and_then(|shipping| shipping.archive.as_ref()).map(|side| &side.marks);
        let state = |mark: &Mark| match keeper {
            Some(keeper) => keeper.state(mark),
            None if self.archive.is_some() => "ask the primary".to_owned(),
            None => "no archive".to_owned(),
        };
        let marks = self.committer.marks()?;
        Ok(marks.into_iter().map(|mark| MarkCard { archived: state(&mark), name: mark.name, at: mark.at }).collect())
    }
}
