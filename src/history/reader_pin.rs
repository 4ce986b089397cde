//! The pin that protects the archive's objects from removal while a reader works.
//!
//! Guarantees: a reader whose credentials do not permit writing can read without a pin.

use crate::archive::pins::{Pin, PinRange};
use crate::archive::store::Archive;

/// A reader pin; empty if the pin could not be written, for example for want of permission.
pub struct ReaderPin {
    pin: Option<Pin>,
    /// Why no pin was written; `None` if the pin exists.
    pub remark: Option<String>,
}

impl ReaderPin {
    /// Writes a pin for `range`. If the write fails, logs a warning and returns a value with a remark instead of a pin.
    pub async fn take(archive: &Archive, purpose: &str, range: PinRange) -> Self {
        match Pin::take(archive, purpose, range).await {
            Ok(pin) => Self { pin: Some(pin), remark: None },
            Err(error) => {
                let remark = format!("no pin was taken, so a prune may remove objects that are being read: {error}");
                tracing::warn!("{remark}");
                Self { pin: None, remark: Some(remark) }
            }
        }
    }

    /// Changes the range that the pin protects. If the change cannot be written, the pin protects the old range until
    /// its next renewal, which tries the change again.
    pub async fn change(&self, range: PinRange) {
        if let Some(pin) = &self.pin
            && let Err(error) = pin.change(range).await
        {
            tracing::warn!(%error, "a pin could not be changed; the change is retried at the next renewal");
        }
    }

    /// Removes the pin from the archive.
    pub async fn release(self) {
        if let Some(pin) = self.pin {
            pin.release().await;
        }
    }
}
