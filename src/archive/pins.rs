//! Pins: what readers of the archive need for a limited time, and which prunes are running.
//!
//! A reader writes a pin before it plans and keeps renewing the pin; a prune leaves everything that a living pin
//! names. Guarantees: a pin that is not renewed ends by itself; a pin ends only when it is over by the clock of its
//! process and by the store's clock. A reader that may not write goes on without a pin: it may then find that an
//! object is gone, and plans again.
//!
//! A prune takes a pin, too. A publisher that has written its manifest waits until the prunes that it finds have ended
//! ([`wait_for_prunes`]), and then checks whether the objects that it shares are still there. This suffices: a prune
//! lists the archive after it took its pin, so either its listing shows the manifest, or the publisher sees the pin.

use super::digested;
use super::identity::ARCHIVE_FORMAT;
use super::layout::{ObjectName, Section};
use super::listing::Stored;
use super::store::Archive;
use crate::clock;
use crate::cluster::ClusterId;
use crate::csn::{CommitTime, Csn, Epoch};
use crate::error::Result;
use crate::plain_name::PlainName;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Time for which a pin holds after its last renewal.
const PIN_HOLDS: Duration = Duration::from_secs(15 * 60);
/// Number of renewals during [`PIN_HOLDS`].
const RENEWALS: u32 = 3;
/// Purpose of a prune's own pin.
pub const PRUNE: &str = "prune";
/// Pause between two checks of a prune that a publisher waits for.
const PRUNE_LOOK: Duration = Duration::from_millis(500);
/// Longest time that an ending process waits for the removal of its pins.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// The objects that a pin holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinRange {
    /// Bases at this csn or above are held, and chunks with commits above it.
    pub from: Csn,
    /// The last commit that the reader needs.
    pub until: Csn,
    /// The line of history that ends in this epoch; `None`: every line.
    pub epoch: Option<Epoch>,
}

impl PinRange {
    /// Everything in the archive, for a reader that has not planned yet.
    pub const ALL: Self = Self { from: Csn::ZERO, until: Csn(u64::MAX), epoch: None };
    /// Nothing, for a pin that only announces a process.
    pub const NOTHING: Self = Self { from: Csn::ZERO, until: Csn::ZERO, epoch: None };
}

/// Content of `pins/<id>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinRecord {
    /// Version of the record.
    pub format: u32,
    /// The pin's ID, as in the object's name: the purpose, and either a random part or the name of a node.
    pub id: String,
    /// Machine and process, for people.
    pub who: String,
    /// Purpose: restore, bootstrap, catch-up, copy, compact or prune.
    pub purpose: String,
    /// The range that the pin holds.
    #[serde(flatten)]
    pub range: PinRange,
    /// Time at which the pin was taken, in microseconds since the Unix epoch by the clock of the pin's process. The
    /// two times below are in the same unit and by the same clock.
    pub created: CommitTime,
    /// Time at which the pin was last renewed.
    pub renewed: CommitTime,
    /// Time at which the pin ends unless it is renewed.
    pub expires: CommitTime,
}

impl PinRecord {
    /// Reports whether the pin holds at `now`. The pin is over only by both clocks: that of its process, and that of
    /// the store, which noted when it received the record.
    #[must_use]
    pub fn holds(&self, stored: &Stored, now: CommitTime) -> bool {
        let lasts = self.expires.0.saturating_sub(self.renewed.0);
        now <= self.expires || now.0 <= stored.time().0.saturating_add(lasts)
    }
}

/// A pin of this process. It is renewed until it is released or dropped.
#[derive(Debug)]
pub struct Pin {
    shared: Arc<Shared>,
    renewal: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    archive: Archive,
    name: ObjectName,
    holds: Duration,
    record: Mutex<PinRecord>,
    renewed: Mutex<Instant>,
}

impl Shared {
    /// Writes the record with a new expiry time.
    async fn renew(&self) -> Result<()> {
        let began = Instant::now();
        let record = {
            let mut record = self.record.lock();
            record.renewed = CommitTime(clock::steady_micros());
            record.expires = CommitTime(record.renewed.0 + self.holds.as_micros() as u64);
            record.clone()
        };
        self.archive.put_verified(&self.name, digested::encode(&record).into()).await?;
        *self.renewed.lock() = began;
        Ok(())
    }
}

impl Pin {
    /// Takes a pin for [`PIN_HOLDS`] and keeps renewing it. Returns an error if this identity may not write.
    pub async fn take(archive: &Archive, purpose: &str, range: PinRange) -> Result<Self> {
        Self::take_for(archive, purpose, range, PIN_HOLDS).await
    }

    /// Takes a pin as [`Pin::take`] does, for the time `holds`.
    pub async fn take_for(archive: &Archive, purpose: &str, range: PinRange, holds: Duration) -> Result<Self> {
        let owner = ClusterId::generate()?.to_string()[..16].to_owned();
        Self::take_as(archive, &owner, purpose, range, holds).await
    }

    /// Takes the one pin that a node has for its prunes. After a crash, [`end_left_behind`] ends this pin.
    pub async fn take_for_prunes_of(archive: &Archive, node: &str) -> Result<Self> {
        Self::take_as(archive, node, PRUNE, PinRange::NOTHING, PIN_HOLDS).await
    }

    async fn take_as(archive: &Archive, owner: &str, purpose: &str, range: PinRange, holds: Duration) -> Result<Self> {
        let id = format!("{purpose}-{owner}");
        let name = ObjectName::Pin(id.parse::<PlainName>()?);
        let now = CommitTime(clock::steady_micros());
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let record = PinRecord {
            format: ARCHIVE_FORMAT,
            id,
            who: format!("{host}, process {}", std::process::id()),
            purpose: purpose.to_owned(),
            range,
            created: now,
            renewed: now,
            expires: now,
        };
        let renewed = Mutex::new(Instant::now());
        let shared = Arc::new(Shared { archive: archive.clone(), name, holds, record: Mutex::new(record), renewed });
        let renewing = Arc::clone(&shared);
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(renewing.holds / RENEWALS).await;
                if let Err(error) = renewing.renew().await {
                    tracing::warn!(pin = %renewing.name, %error, "a pin could not be renewed; the renewal is retried");
                }
            }
        });
        let pin = Self { shared, renewal: Some(renewal) };
        match pin.shared.renew().await {
            Ok(()) => Ok(pin),
            Err(error) => {
                // The failed put may have stored the pin.
                pin.release().await;
                Err(error)
            }
        }
    }

    /// Returns the name of the pin's object.
    #[must_use]
    pub fn name(&self) -> &ObjectName {
        &self.shared.name
    }

    /// Changes the range that the pin holds.
    pub async fn change(&self, range: PinRange) -> Result<()> {
        self.shared.record.lock().range = range;
        self.shared.renew().await
    }

    /// Reports whether other processes may regard the pin as over, because it was not renewed in time.
    #[must_use]
    pub fn has_lapsed(&self) -> bool {
        self.shared.renewed.lock().elapsed() >= self.shared.holds
    }

    /// Ends the pin. If its object cannot be removed, the pin expires by itself.
    pub async fn release(mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
        if let Err(error) = self.shared.archive.delete(&self.shared.name).await {
            tracing::debug!(pin = %self.shared.name, %error, "a pin could not be removed; it expires by itself");
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let Some(renewal) = self.renewal.take() else { return };
        renewal.abort();
        let shared = Arc::clone(&self.shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            ENDING.fetch_add(1, Ordering::SeqCst);
            runtime.spawn(async move {
                let _ = shared.archive.delete(&shared.name).await;
                ENDING.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }
}

/// Number of dropped pins of this process whose objects are not removed yet.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// Waits until the dropped pins are removed, at most a few seconds. Called by a process that is about to end.
pub async fn dropped_pins_end() {
    let began = Instant::now();
    while ENDING.load(Ordering::SeqCst) > 0 && began.elapsed() < ENDS_WITHIN {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends the pin that a prune of this node left behind when the node crashed, so that no publisher waits for it. Called
/// before the node's first prune, by the process that holds the node's directory. If the object cannot be removed, the
/// pin expires by itself.
pub async fn end_left_behind(archive: &Archive, node: &str) {
    let Ok(name) = format!("{PRUNE}-{node}").parse() else { return };
    if let Err(error) = archive.delete(&ObjectName::Pin(name)).await {
        tracing::debug!(archive = archive.url(), %error, "the pin of an earlier prune could not be removed; it \
                                                          expires by itself");
    }
}

/// Reads listed pins. A pin that has vanished since the listing has ended and is left out. A pin that cannot be
/// decoded is returned with its error.
pub async fn read_all(archive: &Archive, listed: &BTreeMap<PlainName, Stored>) -> Result<Vec<ReadPin>> {
    let mut pins = Vec::new();
    for (name, stored) in listed {
        let object = ObjectName::Pin(name.clone());
        match digested::read::<PinRecord>(archive, &object, ARCHIVE_FORMAT).await {
            Ok(Some(record)) => pins.push(ReadPin { name: name.clone(), stored: *stored, record: Ok(record) }),
            Ok(None) => {}
            Err(error) if error.kind() == crate::error::Kind::Integrity => {
                pins.push(ReadPin { name: name.clone(), stored: *stored, record: Err(error.to_string()) });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(pins)
}

/// A pin as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPin {
    /// Name of the pin.
    pub name: PlainName,
    /// Size and age of the pin's object.
    pub stored: Stored,
    /// The pin's record, or why it cannot be decoded.
    pub record: Result<PinRecord, String>,
}

/// Lists and reads the pins.
pub async fn list(archive: &Archive) -> Result<Vec<ReadPin>> {
    let found = archive.list(Section::Pins).await?;
    let listed = found.objects.into_iter().filter_map(|object| match object.name {
        ObjectName::Pin(name) => Some((name, Stored { size: object.size, modified: object.modified })),
        _ => None,
    });
    read_all(archive, &listed.collect()).await
}

/// Returns when every prune that was running at the call has ended, or its pin is over.
pub async fn wait_for_prunes(archive: &Archive) -> Result<()> {
    let mut awaited: Option<Vec<PlainName>> = None;
    loop {
        let now = CommitTime(clock::steady_micros());
        let is_prune = |pin: &ReadPin| match &pin.record {
            Ok(record) => record.purpose == PRUNE && record.holds(&pin.stored, now),
            // A renewal may have been cut off, so an unreadable pin of a prune counts as running.
            Err(_) => {
                pin.name.as_str().starts_with(PRUNE)
                    && now.0 <= pin.stored.time().0.saturating_add(PIN_HOLDS.as_micros() as u64)
            }
        };
        let running: Vec<_> = list(archive).await?.into_iter().filter(is_prune).map(|pin| pin.name).collect();
        let left: Vec<_> = match &awaited {
            Some(awaited) => running.into_iter().filter(|name| awaited.contains(name)).collect(),
            None => running,
        };
        if left.is_empty() {
            return Ok(());
        }
        tracing::info!(prune = %left[0], "waiting for a prune to end");
        awaited = Some(left);
        tokio::time::sleep(PRUNE_LOOK).await;
    }
}

#[cfg(test)]
#[path = "pins_tests.rs"]
mod tests;
