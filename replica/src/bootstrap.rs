//! Fills an empty directory as a replica's: from the archive if it holds any history, otherwise from the primary.
//!
//! A base from the primary arrives as the objects of an archive. It is stored as an archive in a scratch directory
//! below the replica's directory and restored from there, so that one code path with one set of checks builds a
//! directory from a base. Guarantees: the directory is whole, or it is empty.

use crate::link::{Connected, connect};
use crate::primary_address::PrimaryAddress;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedReadHalf;
use walferry::archive::config::{ArchiveUrl, S3Settings};
use walferry::archive::epochs::{self, EpochRecord, EpochTree};
use walferry::archive::identity;
use walferry::archive::layout::ObjectName;
use walferry::archive::listing::Listing;
use walferry::archive::store::{Archive, Opening};
use walferry::cluster::ClusterId;
use walferry::config::Config;
use walferry::csn::{CommitTime, Csn, Epoch, HistoryHash, Incarnation};
use walferry::directory::{DataDir, EpochStart, Identity, LastRole};
use walferry::error::{Error, Result};
use walferry::io::{Io, StdIo};
use walferry::restore::{self, progress};
use walferry::ship::message::{self, BaseBegin, BaseFile, Challenge, Hello, Message, Resume};
use walferry::ship::wire::Receiver;

/// Pause between two attempts.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a primary that sends nothing of its base is given up.
const PART_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Fills the empty directory `root`. Retries until a primary sends a whole base or a history, or fails for good.
pub(crate) async fn bootstrap(
    root: &Path,
    primary: &PrimaryAddress,
    config: &Config,
    archive: Option<&Archive>,
) -> Result<()> {
    if let Some(archive) = archive
        && holds_history(archive).await?
    {
        tracing::info!(archive = archive.url(), "bootstrapping from the archive");
        return restore_from(archive, root).await;
    }
    let node = ClusterId::generate()?.to_string()[..16].to_owned();
    loop {
        match from_primary(root, primary, config, archive.is_some(), &node).await {
            Ok(()) => return Ok(()),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => tracing::warn!(%primary, %error, "bootstrapping failed; it is retried"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Reports whether a retry cannot help, because this machine or a setting must change.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::RefusedByPrimary { is_final: true, .. }
            | Error::NotConfigured { .. }
            | Error::Stopping
            | Error::NeedsRestart { .. }
            | Error::NoRoom { .. }
            | Error::Io { .. }
            | Error::NotEmpty { .. }
            | Error::Version { .. }
            | Error::Config { .. }
    )
}

async fn from_primary(
    root: &Path,
    primary: &PrimaryAddress,
    config: &Config,
    has_archive: bool,
    node: &str,
) -> Result<()> {
    let hello = |challenge: &Challenge, nonce| Hello {
        version: message::VERSION,
        cluster: None,
        node: node.to_owned(),
        epoch: Epoch(1),
        incarnation: Incarnation::default(),
        csn: Csn::ZERO,
        hash: HistoryHash::ZERO,
        time: CommitTime(0),
        has_archive,
        port: config.port.0,
        nonce,
        proof: message::proof(&config.repl_secret, challenge, node),
    };
    // Both halves of the connection stay open until the base is here: a proxy may close a half-closed connection.
    let Connected { receiver, answer, sender: _open, .. } = connect(primary, &config.repl_secret, hello).await?;
    let broken = |detail: String| Error::Protocol { peer: primary.to_string(), detail };
    match answer {
        Message::Resume(resume) => begin_empty(root, resume, node),
        Message::BaseBegin(base) => {
            new_identity(base.cluster, &base.history)?;
            tracing::info!(%primary, "bootstrapping from a base that the primary sends");
            let scratch = DataDir::new(root).bootstrap();
            let received = receive_base(&scratch, base, receiver, primary).await;
            let restored = match received {
                Ok(archive) => restore_anew(&archive, root).await,
                Err(error) => Err(error),
            };
            // A failed restore has removed the scratch directory already.
            if scratch.exists() {
                std::fs::remove_dir_all(&scratch).map_err(Error::io("remove", &scratch))?;
            }
            restored
        }
        Message::Refuse(refuse) => Err(refuse.into_error(primary)),
        other => Err(broken(format!("expected a history or a base, got {other:?}"))),
    }
}

/// Returns the identity of a replica without commits that follows a primary with `history`.
fn new_identity(cluster: ClusterId, history: &[EpochStart]) -> Result<Identity> {
    let mut identity = Identity::new(cluster, LastRole::Replica)?;
    if let Some(fault) = identity.fault_in(history, Csn::ZERO) {
        return Err(Error::corrupt("history from the primary", "epochs", fault));
    }
    identity.history = history.to_vec();
    Ok(identity)
}

/// Initializes a directory without commits.
fn begin_empty(root: &Path, resume: Resume, node: &str) -> Result<()> {
    let mut identity = new_identity(resume.cluster, &resume.history)?;
    identity.node = node.to_owned();
    let dir = DataDir::new(root);
    let _lock = dir.lock()?;
    dir.write_identity(&identity)
}

/// Restores the base that a primary sent. Empties the directory again if that fails, so that the next attempt can
/// begin.
async fn restore_anew(archive: &Archive, root: &Path) -> Result<()> {
    let restored = restore_from(archive, root).await;
    let has_begun = restored.as_ref().is_err_and(|error| !matches!(error, Error::NotEmpty { .. }));
    if has_begun {
        DataDir::new(root).clear()?;
    }
    restored
}

async fn holds_history(archive: &Archive) -> Result<bool> {
    if identity::read(archive).await?.is_none() {
        return Ok(false);
    }
    let listing = Listing::read(archive).await?;
    let holds_any = !listing.chunks.is_empty() || listing.whole_bases().next().is_some();
    Ok(holds_any)
}

async fn restore_from(archive: &Archive, root: &Path) -> Result<()> {
    let io: Arc<dyn Io> = Arc::new(StdIo);
    let report = restore::bootstrap(archive, root, io, progress::silent()).await?;
    tracing::info!(csn = report.csn.0, epoch = report.epoch.0, "bootstrapped");
    Ok(())
}

/// Stores the objects that the primary sends as an archive in a local directory.
async fn receive_base(
    scratch: &Path,
    base: BaseBegin,
    mut receiver: Receiver<OwnedReadHalf>,
    primary: &PrimaryAddress,
) -> Result<Archive> {
    if scratch.exists() {
        std::fs::remove_dir_all(scratch).map_err(Error::io("remove", scratch))?;
    }
    let url = ArchiveUrl::File { dir: std::path::absolute(scratch).map_err(Error::io("resolve", scratch))? };
    let archive = Archive::open(&url, &S3Settings::default(), Opening::Create)?;
    identity::establish(&archive, base.cluster).await?;
    claim_history(&archive, &base.history).await?;
    let broken = |detail: String| Error::Protocol { peer: primary.to_string(), detail };
    loop {
        match next_part(&mut receiver, primary).await? {
            Some(Message::BaseFile(file)) => receive_file(scratch, &file, &mut receiver, primary).await?,
            Some(Message::BaseEnd) => return Ok(archive),
            Some(other) => return Err(broken(format!("expected a file of the base, got {other:?}"))),
            None => return Err(broken("closed the connection before the base was complete".into())),
        }
    }
}

/// Returns the next message of a base; an error after [`PART_SILENCE_MAX`] without one.
async fn next_part(receiver: &mut Receiver<OwnedReadHalf>, primary: &PrimaryAddress) -> Result<Option<Message>> {
    let received = tokio::time::timeout(PART_SILENCE_MAX, receiver.receive()).await;
    received.unwrap_or_else(|_| {
        let detail = format!("sent nothing of its base for {} s", PART_SILENCE_MAX.as_secs());
        Err(Error::Protocol { peer: primary.to_string(), detail })
    })
}

async fn claim_history(archive: &Archive, history: &[EpochStart]) -> Result<()> {
    let time = CommitTime(walferry::clock::now_micros());
    let mut parent = None;
    for start in history {
        let record = EpochRecord::new(*start, parent, String::new(), time);
        epochs::claim(archive, &record).await?;
        parent = Some(start.epoch);
    }
    EpochTree::read(archive).await.map(drop)
}

async fn receive_file(
    scratch: &Path,
    file: &BaseFile,
    receiver: &mut Receiver<OwnedReadHalf>,
    primary: &PrimaryAddress,
) -> Result<()> {
    let broken = |detail: String| Error::Protocol { peer: primary.to_string(), detail };
    let name = ObjectName::parse(&file.name)
        .ok_or_else(|| broken(format!("sent a file named {:?}, which no base has", file.name)))?;
    let path = scratch.join(name.to_string());
    let parent = path.parent().expect("object names lie below the archive");
    tokio::fs::create_dir_all(parent).await.map_err(Error::io("create directory", parent))?;
    let mut output = tokio::fs::File::create(&path).await.map_err(Error::io("create", &path))?;
    let mut missing = file.bytes;
    while missing > 0 {
        match next_part(receiver, primary).await? {
            Some(Message::BasePart(part)) if part.len() as u64 <= missing => {
                missing -= part.len() as u64;
                output.write_all(&part).await.map_err(Error::io("write", &path))?;
            }
            other => return Err(broken(format!("expected {missing} more bytes of {}, got {other:?}", file.name))),
        }
    }
    output.flush().await.map_err(Error::io("write", &path))
}
