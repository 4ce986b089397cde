//! The trait of the node on which a feed runs: the questions that a feed asks the node.

use super::message::{Hello, Refuse};
use super::wire::Sender;
use crate::cluster::ClusterId;
use crate::csn::Csn;
use crate::directory::EpochStart;
use crate::error::Result;
use futures::future::BoxFuture;
use tokio::net::tcp::OwnedWriteHalf;

/// The node on which a feed runs.
pub trait FeedHost: Send + Sync {
    /// Returns the cluster.
    fn cluster(&self) -> ClusterId;

    /// Returns the epochs that made this node's commits, oldest first; never empty.
    fn history(&self) -> Vec<EpochStart>;

    /// Returns the archived watermark, or `None` without an archive.
    fn archived(&self) -> Option<Csn>;

    /// Returns the shared secret, or an empty text if there is none.
    fn secret(&self) -> String;

    /// Handles a replica that says that its epoch is newer than this node's. If there is proof of the newer epoch, this
    /// node stops taking writes. Returns the answer to the replica.
    fn newer_epoch<'a>(&'a self, hello: &'a Hello) -> BoxFuture<'a, Result<Refuse>>;

    /// Sends a base, from which the replica that said `hello` bootstraps.
    fn send_base<'a>(&'a self, hello: &'a Hello, sender: &'a mut Sender<OwnedWriteHalf>) -> BoxFuture<'a, Result<()>>;
}
