//! Pins: what readers of the archive need for a limited time, and prunes that are under way.
//!
//! A reader writes a pin before it plans and keeps renewing it; prune leaves everything a living pin names. Guarantees: a
//! pin that nobody renews ends by itself; one ends only when it is over by its own clock and by the store's. A reader that
//! may not write goes on without one: it may then meet an object that is gone, and plans again.
//!
//! A prune pins itself, too. A publisher that has written its manifest waits for the prunes it finds to end and then looks
//! whether what it shares is still there ([`wait_for_prunes`]): either the prune's listing, made after its pin, shows the
//! manifest, or the publisher sees the prune.

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

/// How long a pin holds after its last renewal.
pub const PIN_HOLDS: Duration = Duration::from_secs(15 * 60);
/// Renewals in that time.
const RENEWALS: u32 = 3;
/// Purpose of a prune's own pin.
pub const PRUNE: &str = "prune";
/// Pause between two looks at a prune that is waited for.
const PRUNE_LOOK: Duration = Duration::from_millis(500);
/// How long a process that ends waits for the removal of its pins.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// What a pin holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinRange {
    /// A base at this csn or above; and chunks with commits above it.
    pub from: Csn,
    /// The last commit needed.
    pub until: Csn,
    /// The line of history; none: every one.
    pub epoch: Option<Epoch>,
}

impl PinRange {
    /// Everything there is: while a reader does not know yet what it needs.
    pub const ALL: Self = Self { from: Csn::ZERO, until: Csn(u64::MAX), epoch: None };
    /// Nothing: a pin that only says who is at work.
    pub const NOTHING: Self = Self { from: Csn::ZERO, until: Csn::ZERO, epoch: None };
}

/// Content of `pins/<id>.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PinRecord {
    /// Version of the record.
    pub format: u32,
    /// As in the object's name: the purpose, and a random part or whose it is.
    pub id: String,
    /// Machine and process.
    pub who: String,
    /// What for: restore, bootstrap, catch-up, copy, compact, prune.
    pub purpose: String,
    /// What it holds.
    #[serde(flatten)]
    pub range: PinRange,
    /// When it was made, microseconds since the Unix epoch by its maker's clock; likewise the others.
    pub created: CommitTime,
    /// When it was last renewed.
    pub renewed: CommitTime,
    /// When it ends unless it is renewed.
    pub expires: CommitTime,
}

impl PinRecord {
    /// Whether it holds at `now`: neither over by its maker's clock nor by the store's, which wrote down when it came.
    #[must_use]
    pub fn holds(&self, stored: &Stored, now: CommitTime) -> bool {
        let lasts = self.expires.0.saturating_sub(self.renewed.0);
        now <= self.expires || now.0 <= stored.time().0.saturating_add(lasts)
    }
}

/// A pin of this process. Renewed until it is released or dropped.
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
    /// Writes the record with a new end.
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
    /// Takes a pin for [`PIN_HOLDS`] and renews it. An error if this identity may not write.
    pub async fn take(archive: &Archive, purpose: &str, range: PinRange) -> Result<Self> {
        Self::take_for(archive, purpose, range, PIN_HOLDS).await
    }

    /// As [`Pin::take`], for another time.
    pub async fn take_for(archive: &Archive, purpose: &str, range: PinRange, holds: Duration) -> Result<Self> {
        let owner = ClusterId::generate()?.to_string()[..16].to_owned();
        Self::take_as(archive, &owner, purpose, range, holds).await
    }

    /// Takes the one pin that a node has for its prunes, which [`end_left_behind`] ends.
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
                    tracing::warn!(pin = %renewing.name, %error, "a pin could not be renewed; it is tried again");
                }
            }
        });
        let pin = Self { shared, renewal: Some(renewal) };
        match pin.shared.renew().await {
            Ok(()) => Ok(pin),
            Err(error) => {
                // It may be there all the same.
                pin.release().await;
                Err(error)
            }
        }
    }

    /// Its object.
    #[must_use]
    pub fn name(&self) -> &ObjectName {
        &self.shared.name
    }

    /// Changes what it holds.
    pub async fn change(&self, range: PinRange) -> Result<()> {
        self.shared.record.lock().range = range;
        self.shared.renew().await
    }

    /// Whether it may be over for others: it was not renewed in time.
    #[must_use]
    pub fn has_lapsed(&self) -> bool {
        self.shared.renewed.lock().elapsed() >= self.shared.holds
    }

    /// Ends it. What cannot be removed now ends by itself.
    pub async fn release(mut self) {
        if let Some(renewal) = self.renewal.take() {
            renewal.abort();
        }
        if let Err(error) = self.shared.archive.delete(&self.shared.name).await {
            tracing::debug!(pin = %self.shared.name, %error, "a pin could not be removed; it ends by itself");
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

/// Dropped pins of this process that are not removed yet.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// Waits until the pins that were dropped are removed, but not for long: for a process that is about to end.
pub async fn dropped_pins_end() {
    let began = Instant::now();
    while ENDING.load(Ordering::SeqCst) > 0 && began.elapsed() < ENDS_WITHIN {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Ends the pin of a prune that a crash of this node cut off, so that nobody waits for it. Called before the node's first
/// prune, by whoever holds the node's directory. One that cannot be removed ends by itself.
pub async fn end_left_behind(archive: &Archive, node: &str) {
    let Ok(name) = format!("{PRUNE}-{node}").parse() else { return };
    if let Err(error) = archive.delete(&ObjectName::Pin(name)).await {
        tracing::debug!(archive = archive.url(), %error, "the pin of an earlier prune, if there is one, ends by itself");
    }
}

/// Reads listed pins. One that vanished has ended; one that cannot be read is an error of its own.
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
    /// Its name.
    pub name: PlainName,
    /// Size and age.
    pub stored: Stored,
    /// Its record, or why it cannot be read.
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

/// Returns when every prune that is under way now has ended, or its pin is over.
pub async fn wait_for_prunes(archive: &Archive) -> Result<()> {
    let mut awaited: Option<Vec<PlainName>> = None;
    loop {
        let now = CommitTime(clock::steady_micros());
        let is_prune = |pin: &ReadPin| match &pin.record {
            Ok(record) => record.purpose == PRUNE && record.holds(&pin.stored, now),
            // Its renewal was cut off, perhaps.
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
