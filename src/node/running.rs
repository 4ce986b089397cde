//! A running node: all of its parts together. [`super::host`] answers the requests of commands to the node.

use super::bases::Bases;
use super::compacting::Compacting;
use super::core::Core;
use super::key_count::KeyCounter;
use super::open::Opened;
use super::pruning::Pruning;
use super::snapshots::Snapshots;
use crate::archive::store::Archive;
use crate::command::host::Insistence;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::server::registry::Registry;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Turns a replica whose link has stopped into a primary. Whoever starts the node provides this function, because the
/// work of a primary is built on top of this module: [`crate::primary::takeover::take_over`].
pub type TakeOver = fn(Arc<Core>, Arc<Bases>, Insistence) -> BoxFuture<'static, Result<()>>;

/// A running promotion or its outcome, shared by all callers that wait for it.
type Promotion = Shared<BoxFuture<'static, Result<(), Arc<Error>>>>;

/// A running node.
pub struct Node {
    /// The state that all parts share.
    pub core: Arc<Core>,
    /// Memory images, and the cutting of bases.
    pub snapshots: Arc<Snapshots>,
    /// Running and pending work on bases.
    pub bases: Arc<Bases>,
    /// Builds compacted runs.
    pub compacting: Arc<Compacting>,
    /// Prunes the archive.
    pub pruning: Arc<Pruning>,
    /// Counts the keys on disk.
    pub(super) key_counter: Arc<KeyCounter>,
    /// The connected clients.
    pub registry: Arc<Registry>,
    /// Number of commands executed since the start.
    pub commands: AtomicU64,
    take_over: TakeOver,
    /// The running or last promotion.
    promotion: Mutex<Option<Promotion>>,
}

impl Node {
    /// Creates a node over an open directory.
    #[must_use]
    pub fn new(
        config: Config,
        opened: Opened,
        archive: Option<Archive>,
        is_replica: bool,
        take_over: TakeOver,
    ) -> Arc<Self> {
        let image = opened.image;
        let core = Core::new(config, opened, archive, is_replica);
        let snapshots = Arc::new(Snapshots::new(Arc::clone(&core), image));
        Arc::new(Self {
            bases: Bases::new(Arc::clone(&core), Arc::clone(&snapshots)),
            snapshots,
            compacting: Compacting::new(Arc::clone(&core)),
            pruning: Pruning::new(Arc::clone(&core)),
            key_counter: KeyCounter::new(Arc::clone(&core.committer)),
            registry: Arc::default(),
            commands: AtomicU64::new(0),
            take_over,
            promotion: Mutex::default(),
            core,
        })
    }

    /// Makes this replica a primary. One promotion runs at a time, on its own task, so that a client that disconnects
    /// does not interrupt it. Later callers wait for the running promotion and receive its outcome.
    pub async fn promote(&self, insistence: Insistence) -> Result<()> {
        let promotion = {
            let mut running = self.promotion.lock();
            match running.as_ref().filter(|promotion| promotion.peek().is_none()) {
                Some(promotion) => promotion.clone(),
                None if !self.core.is_replica() => return Ok(()),
                None => {
                    let (core, bases, take_over) = (Arc::clone(&self.core), Arc::clone(&self.bases), self.take_over);
                    let task = tokio::spawn(async move { promote_once(&core, bases, take_over, insistence).await });
                    let outcome = async move {
                        let guard = task.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
                        guard.map_err(Arc::new)
                    };
                    running.insert(outcome.boxed().shared()).clone()
                }
            }
        };
        promotion.await.map_err(Error::Shared)
    }
}

async fn promote_once(core: &Arc<Core>, bases: Arc<Bases>, take_over: TakeOver, insistence: Insistence) -> Result<()> {
    if let Some(link) = core.link() {
        link.stop().await;
    }
    let taken_over = take_over(Arc::clone(core), bases, insistence).await;
    if taken_over.is_err()
        && let Some(link) = core.link().filter(|_| core.is_replica())
    {
        // The node is still a replica: it follows its primary again and can be promoted later.
        link.resume().await;
    }
    taken_over
}
