//! What a reader holds in the archive while it works: a pin, or a remark that it has none.
//!
//! Guarantees: a reader whose identity may not write is not kept from reading.

use crate::archive::pins::{Pin, PinRange};
use crate::archive::store::Archive;

/// A pin, if this identity may write one.
pub struct ReaderPin {
    pin: Option<Pin>,
    /// Why there is no pin.
    pub remark: Option<String>,
}

impl ReaderPin {
    /// Takes a pin.
    pub async fn take(archive: &Archive, purpose: &str, range: PinRange) -> Self {
        match Pin::take(archive, purpose, range).await {
            Ok(pin) => Self { pin: Some(pin), remark: None },
            Err(error) => {
                let remark = format!("no pin was taken, so a prune may remove what is being read: {error}");
                tracing::warn!("{remark}");
                Self { pin: None, remark: Some(remark) }
            }
        }
    }

    /// Changes what the pin holds. If that fails, it holds what it held.
    pub async fn change(&self, range: PinRange) {
        if let Some(pin) = &self.pin
            && let Err(error) = pin.change(range).await
        {
            tracing::warn!(%error, "a pin could not be changed; it is tried again when it is renewed");
        }
    }

    /// Ends the pin.
    pub async fn release(self) {
        if let Some(pin) = self.pin {
            pin.release().await;
        }
    }
}
