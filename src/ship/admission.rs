//! Decides how a replica that introduced itself is served.
//!
//! Guarantees: a replica is fed only if it knows the shared secret and its last commit lies on this node's history, as
//! far as this node can tell.

use super::feed_host::FeedHost;
use super::message::{self, Challenge, Hello, Refuse};
use super::source::{CommitSource, Continuity};
use crate::csn::Csn;
use crate::directory::EpochStart;
use crate::error::Result;

/// How a replica that introduced itself is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// The feed sends the commits that follow the replica's csn.
    Resume,
    /// The replica gets a base: it is empty and has no archive to start from.
    Base,
    /// The replica says that its epoch is newer than this node's.
    Newer,
    /// The replica cannot be served.
    Refuse(Refuse),
}

/// Decides how a replica that introduced itself is served. May read a part of the logs.
pub fn admit(host: &dyn FeedHost, source: &CommitSource, hello: &Hello, challenge: &Challenge) -> Result<Admission> {
    let refuse = |is_final, reason: String| Ok(Admission::Refuse(Refuse { is_final, reason, newer_epoch: None }));
    if hello.version != message::VERSION {
        return refuse(
            true,
            format!(
                "the replica speaks protocol version {}, this primary speaks {}. Use the same release on both",
                hello.version,
                message::VERSION
            ),
        );
    }
    if hello.proof != message::proof(&host.secret(), challenge, &hello.node) {
        return refuse(true, "the replica does not know this cluster's repl-secret".into());
    }
    if let Some(cluster) = hello.cluster.filter(|cluster| *cluster != host.cluster()) {
        let own = host.cluster();
        return refuse(
            true,
            format!(
                "the replica's directory belongs to cluster {cluster}, this primary to {own}. Use the right primary, or an empty directory"
            ),
        );
    }
    let history = host.history();
    let own = history.last().expect("a history is never empty").epoch;
    if hello.epoch > own && hello.cluster.is_some() {
        return Ok(Admission::Newer);
    }
    if hello.csn == Csn::ZERO && hello.epoch <= own {
        let resumes = hello.has_archive || source.reaches(Csn::ZERO)?;
        return Ok(if resumes { Admission::Resume } else { Admission::Base });
    }
    admit_at(source, hello, &history)
}

/// Decides whether the replica's last commit lies on this node's history. The history hash tells. If the logs do
/// not reach back to that commit, the epochs decide, until the archive's chunks prove it.
fn admit_at(source: &CommitSource, hello: &Hello, history: &[EpochStart]) -> Result<Admission> {
    let own = history.last().expect("a history is never empty").epoch;
    let continuity = source.compare(hello.csn, hello.hash)?;
    let is_own = |start: &EpochStart| start.epoch == hello.epoch && start.incarnation == hello.incarnation;
    let at = history.iter().position(is_own);
    let shared = at.map(|at| history.get(at + 1).map_or(Csn(u64::MAX), |next| next.fork));
    match continuity {
        Continuity::Same if hello.epoch <= own => return Ok(Admission::Resume),
        Continuity::Unknown if shared.is_some_and(|shared| hello.csn <= shared) => return Ok(Admission::Resume),
        _ => {}
    }
    let position = source.position();
    let found = match continuity {
        Continuity::Ahead => "the replica has commits that this primary does not have".to_owned(),
        Continuity::Same => format!("this primary does not know epoch {}", hello.epoch),
        _ => format!("this primary has other commits up to csn {}", hello.csn),
    };
    Ok(Admission::Refuse(Refuse {
        is_final: true,
        reason: format!(
            "the replica belongs to another history: it is at csn {} of epoch {} ({}) with history hash {}, this \
             primary is at csn {} of epoch {} ({}) with history hash {}; {found}. Keep the replica's directory if its \
             commits matter, and start it from an empty one",
            hello.csn,
            hello.epoch,
            hello.incarnation,
            hello.hash,
            position.csn,
            position.epoch,
            history.last().map(|start| start.incarnation).unwrap_or_default(),
            position.hash,
        ),
        newer_epoch: None,
    }))
}
