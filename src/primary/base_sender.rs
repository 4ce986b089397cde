//! Sends a base to a replica that has none and no archive to start from.
//!
//! Guarantees: heartbeats keep the connection alive while the base is cut. A replica that takes the base too slowly is
//! given up, because no other base can be cut meanwhile.

use crate::csn::{Csn, HistoryHash};
use crate::error::{Error, Result};
use crate::node::core::Core;
use crate::node::snapshots::Snapshots;
use crate::ship::feed::{HEARTBEAT_INTERVAL, SEND_DEADLINE, deadline};
use crate::ship::message::{self, BaseBegin, BaseFile, Heartbeat, Hello, Message, PART_BYTES};
use crate::ship::wire::Sender;
use crate::snapshot::base::LocalBase;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::tcp::OwnedWriteHalf;

/// Sending a base is given up if the replica takes it more slowly than this.
const BASE_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// Cuts a base and sends it over the connection of the replica that said `hello`.
pub(super) async fn send(
    core: &Core,
    snapshots: &Arc<Snapshots>,
    hello: &Hello,
    sender: &mut Sender<OwnedWriteHalf>,
) -> Result<()> {
    // The lock guard is dropped after the base.
    let (_base_tools, base) = while_alive(core, sender, &hello.node, snapshots.cut_alone()).await??;
    let bytes: u64 = base.manifest().bytes();
    let allowed = SEND_DEADLINE + Duration::from_secs(bytes / BASE_BYTES_PER_SECOND_MIN);
    match tokio::time::timeout(allowed, send_base(core, hello, sender, &base)).await {
        Ok(sent) => sent,
        Err(_) => Err(Error::Protocol {
            peer: hello.node.clone(),
            detail: format!("did not take a base of {bytes} bytes within {} s", allowed.as_secs()),
        }),
    }
}

/// Runs `work` while heartbeats keep the connection to the replica alive.
async fn while_alive<T>(
    core: &Core,
    sender: &mut Sender<OwnedWriteHalf>,
    peer: &str,
    work: impl Future<Output = T>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
    loop {
        // Cancel-safe: both arms only wait.
        tokio::select! {
            done = &mut work => return Ok(done),
            _ = heartbeat.tick() => {}
        }
        let heartbeat = Heartbeat {
            epoch: core.identity().epoch(),
            committed: core.source.shippable(),
            sent: Csn::ZERO,
            hash: HistoryHash::ZERO,
            archives: core.archive.is_some(),
            archived: core.archived().unwrap_or_default(),
            time: core.source.now(),
            wants_base: Csn::ZERO,
        };
        deadline(peer, sender.send(&Message::Heartbeat(heartbeat))).await?;
    }
}

async fn send_base(core: &Core, hello: &Hello, sender: &mut Sender<OwnedWriteHalf>, base: &LocalBase) -> Result<()> {
    let peer = &*hello.node;
    let identity = core.identity();
    let proof = message::primary_proof(&core.config().repl_secret, hello, identity.cluster);
    let begin = BaseBegin { cluster: identity.cluster, history: identity.history, proof };
    deadline(peer, sender.send(&Message::BaseBegin(begin))).await?;
    let (shared, own) = base.files();
    for file in shared.iter().chain(&own) {
        let begin = BaseFile { name: file.object.to_string(), bytes: file.bytes };
        deadline(peer, sender.send(&Message::BaseFile(begin))).await?;
        let opened = core.backends.bulk.open_read(&file.path)?;
        for start in (0..file.bytes).step_by(PART_BYTES) {
            let length = (file.bytes - start).min(PART_BYTES as u64) as usize;
            let part: Bytes = tokio::task::block_in_place(|| core.backends.bulk.read_at(&opened, start, length))?;
            deadline(peer, sender.send(&Message::BasePart(part))).await?;
        }
    }
    // The manifest is sent last, as it is stored last in an archive.
    let manifest = base.manifest().encode();
    let name = base.manifest().start().manifest().to_string();
    deadline(peer, sender.send(&Message::BaseFile(BaseFile { name, bytes: manifest.len() as u64 }))).await?;
    for part in manifest.chunks(PART_BYTES) {
        deadline(peer, sender.send(&Message::BasePart(Bytes::copy_from_slice(part)))).await?;
    }
    deadline(peer, sender.send(&Message::BaseEnd)).await
}
