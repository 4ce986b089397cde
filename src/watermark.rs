//! Watermarks: how far commits have got, with committed >= durable >= archived.
//!
//! Guarantees: a watermark never falls; a task that waits for a watermark is woken when the watermark is reached.

use crate::csn::Csn;
use tokio::sync::watch;

/// One watermark.
#[derive(Debug)]
pub struct Watermark {
    value: watch::Sender<Csn>,
}

impl Watermark {
    /// Makes a watermark that stands at `csn`.
    #[must_use]
    pub fn new(csn: Csn) -> Self {
        Self { value: watch::Sender::new(csn) }
    }

    /// Returns the csn at which the watermark stands.
    #[must_use]
    pub fn get(&self) -> Csn {
        *self.value.borrow()
    }

    /// Raises the watermark to `csn`; a lower value changes nothing.
    pub fn raise(&self, csn: Csn) {
        self.value.send_if_modified(|value| {
            let rises = csn > *value;
            *value = csn.max(*value);
            rises
        });
    }

    /// Returns once the watermark stands at `csn` or higher. Cancel-safe.
    pub async fn reached(&self, csn: Csn) {
        let mut receiver = self.value.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|value| *value >= csn).await;
    }

    /// Returns a receiver that is notified when the watermark rises. Several rises between two reads are seen as one.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Csn> {
        self.value.subscribe()
    }
}

/// The watermarks of one node.
#[derive(Debug)]
pub struct Watermarks {
    /// Last commit that both logs have handed to the OS and that readers see.
    pub committed: Watermark,
    /// Last commit that is synced in both logs.
    pub durable: Watermark,
    /// Last commit up to which the archive is confirmed to hold all commits from its start, without a gap.
    pub archived: Watermark,
}

impl Watermarks {
    /// Makes the watermarks of a node that starts at `csn`. The archived watermark starts at 0, because nothing is
    /// known to be archived.
    #[must_use]
    pub fn starting_at(csn: Csn) -> Self {
        Self { committed: Watermark::new(csn), durable: Watermark::new(csn), archived: Watermark::new(Csn::ZERO) }
    }
}
