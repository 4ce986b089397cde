//! The node on which a primary's feeds run: its history, its archive and its secret, and the bases that it sends.

use super::base_sender;
use crate::archive::epochs;
use crate::cluster::ClusterId;
use crate::csn::Csn;
use crate::directory::EpochStart;
use crate::error::Result;
use crate::node::core::Core;
use crate::node::snapshots::Snapshots;
use crate::ship::feed_host::FeedHost;
use crate::ship::message::{Hello, Refuse};
use crate::ship::wire::Sender;
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;
use tokio::net::tcp::OwnedWriteHalf;

/// The node on which feeds run.
pub(super) struct FeedingNode {
    /// The state of the node.
    pub core: Arc<Core>,
    /// Cuts the bases that are sent.
    pub snapshots: Arc<Snapshots>,
}

impl FeedHost for FeedingNode {
    fn cluster(&self) -> ClusterId {
        self.core.identity().cluster
    }

    fn history(&self) -> Vec<EpochStart> {
        self.core.identity().history
    }

    fn archived(&self) -> Option<Csn> {
        self.core.archived()
    }

    fn secret(&self) -> String {
        self.core.config().repl_secret.clone()
    }

    fn newer_epoch<'a>(&'a self, hello: &'a Hello) -> BoxFuture<'a, Result<Refuse>> {
        async move {
            let own = self.core.identity().epoch();
            // With a shared secret, the replica has proven that it knows the secret; without one, the archive's record
            // is the proof.
            let is_proven = match &self.core.archive {
                _ if !self.secret().is_empty() => true,
                Some(archive) => epochs::read_record(archive, hello.epoch)
                    .await?
                    .is_some_and(|record| record.incarnation == hello.incarnation),
                None => false,
            };
            let (theirs, newer_epoch) = (hello.epoch, Some(hello.epoch));
            if is_proven {
                self.core.fence(hello.epoch, &hello.node);
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
        async move { base_sender::send(&self.core, &self.snapshots, hello, sender).await }.boxed()
    }
}
