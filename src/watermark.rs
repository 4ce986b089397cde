//! Watermarks: how far commits have got. committed >= durable >= archived.
//!
//! Guarantees: a watermark never falls; who waits for one is woken when it is reached.

use crate::csn::Csn;
use tokio::sync::watch;

/// One watermark.
#[derive(Debug)]
pub struct Watermark {
    value: watch::Sender<Csn>,
}

impl Watermark {
    /// A watermark that stands at `csn`.
    #[must_use]
    pub fn new(csn: Csn) -> Self {
        Self { value: watch::Sender::new(csn) }
    }

    /// Where it stands.
    #[must_use]
    pub fn get(&self) -> Csn {
        *self.value.borrow()
    }

    /// Raises it to `csn`; a lower value changes nothing.
    pub fn raise(&self, csn: Csn) {
        self.value.send_if_modified(|value| {
            let rises = csn > *value;
            *value = csn.max(*value);
            rises
        });
    }

    /// Returns once it stands at `csn` or higher. Cancel-safe.
    pub async fn reached(&self, csn: Csn) {
        let mut receiver = self.value.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|value| *value >= csn).await;
    }

    /// A receiver that sees every rise.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Csn> {
        self.value.subscribe()
    }
}

/// The watermarks of one node.
#[derive(Debug)]
pub struct Watermarks {
    /// In both logs, as far as the OS is concerned, and visible to readers.
    pub committed: Watermark,
    /// Synced in both logs.
    pub durable: Watermark,
    /// Confirmed in the archive, without a gap from the archive's start.
    pub archived: Watermark,
}

impl Watermarks {
    /// All at the csn a node starts with; nothing is known to be archived yet.
    #[must_use]
    pub fn starting_at(csn: Csn) -> Self {
        Self { committed: Watermark::new(csn), durable: Watermark::new(csn), archived: Watermark::new(Csn::ZERO) }
    }
}
