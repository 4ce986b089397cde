//! The replica side of walferry.
//!
//! ```text
//! bootstrap        fills an empty directory: from the archive, otherwise from the primary
//! link             connects to the primary, follows it, reconnects; catches up from the archive
//! follow           checks chunks and applies them
//! primary_address  the address of the primary's replication port
//! probe            recognizes a port for clients where a replication port was expected
//! lag              how far the replica is behind
//! ```
//!
//! Guarantees: every chunk is verified before any of it is applied; a commit appears in all engines at once. The
//! source of the next commit is chosen by csn and epoch, never by time: the primary's stream, otherwise the archive.

mod bootstrap;
mod follow;
mod lag;
mod link;
mod primary_address;
mod probe;

pub use primary_address::PrimaryAddress;

use std::path::Path;
use std::sync::Arc;
use walferry::archive::opening::open_archive;
use walferry::archive::store::Opening;
use walferry::config::Config;
use walferry::directory::{DataDir, LastRole};
use walferry::error::{Error, Result};
use walferry::node::archive_commits::ArchiveCommits;
use walferry::node::roles::ReplicaLink;
use walferry::node::running::{Node, TakeOver};
use walferry::node::{open, places, serve};
use walferry::server::listener;

/// Runs a replica until it is asked to stop. A promotion calls `take_over`, and the replica continues as a primary.
/// Calls `ready` once clients are served.
pub async fn run(
    root: &Path,
    primary: PrimaryAddress,
    config: Config,
    take_over: TakeOver,
    ready: impl FnOnce(&Arc<Node>),
) -> Result<()> {
    let clients = listener::bind(&config.bind, config.port.0).await?;
    places::require_apart(root, &config)?;
    let archive = open_archive(&config, Opening::Existing)?;
    let dir = DataDir::new(root);
    // A bootstrap that was stopped leaves a partial restore. It began in an empty directory, so nothing of value is
    // lost.
    dir.abandon_restore()?;
    if dir.is_empty()? {
        bootstrap::bootstrap(root, &primary, &config, archive.as_ref()).await?;
    }
    let cluster = match &archive {
        Some(archive) => walferry::archive::identity::read(archive).await?,
        None => None,
    };
    let (dir, lock, identity) = open::claim_directory(root, LastRole::Replica, cluster)?;
    // The second archive is not used before a promotion; a wrong setting is reported here, not during the promotion.
    places::require_own_second(&config, Some(identity.cluster)).await?;
    let (opening, epoch) = (config.clone(), identity.epoch());
    let runtime = tokio::runtime::Handle::current();
    let source = archive.clone().map(|archive| ArchiveCommits { archive, epoch, runtime });
    let recover = move || open::open(dir, lock, identity, &opening, source.as_ref().map(|source| source as _));
    let opened = tokio::task::spawn_blocking(recover).await.expect("opening does not panic")?;
    if opened.identity.may_lack_commits {
        let detail = "a crash has lost commits in the middle of its history, which the primary has and the archive \
                      lacks. Start the replica from an empty directory";
        let what = format!("replica directory {}", root.display());
        return Err(Error::corrupt(what, format!("csn {}", opened.recovered.position.csn), detail));
    }
    let node = Node::new(config, opened, archive, true, take_over);
    node.core.change_identity(|identity| identity.role = LastRole::Replica)?;
    link::require_admission(&node.core, &primary).await?;
    let link = link::Link::start(&node.core, &node.bases, primary);
    node.core.set_link(link as Arc<dyn ReplicaLink>);
    serve::serve(&node, clients, ready).await
}
