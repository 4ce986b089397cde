//! Uploads that count only when confirmed.
//!
//! Guarantees: after a put reported success, the object was looked up again and has the length and the e_tag the put
//! reported; a store that says otherwise is an error. Memory per upload is bounded by the parts in flight.
//! An upload cut off by a crash can leave parts of a multipart upload behind; a bucket lifecycle rule removes them.

use super::body::Body;
use super::layout::ObjectName;
use super::retry_policy::{backoff, within};
use super::store::{Archive, Creation};
use super::traffic::{Traffic, add};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use object_store::path::Path as ObjectPath;
use object_store::retry::{RetryContext, RetryPolicy};
use object_store::{MultipartUpload, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult};
use std::fs::File;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Largest body that can be created by one PUT: parts cannot be create-only together.
pub const SINGLE_PUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Size of every part of a multipart upload but the last, and the largest body that goes without: what a failure repeats
/// is no more. The least that S3 takes as a part (5 MiB), so that memory is bounded as tightly as it can be.
pub const PART_BYTES: u64 = 5 * 1024 * 1024;

/// Parts of one upload in flight. With [`crate::snapshot::publish::UPLOADS_IN_FLIGHT_MAX`] files, a base holds at most 80
/// MiB on its way.
pub const PARTS_IN_FLIGHT_MAX: usize = 4;

/// Pauses between the attempts of one part.
const PART_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

impl Archive {
    /// Stores `body` under `name`, replacing what is there.
    pub async fn put_verified(&self, name: &ObjectName, body: Bytes) -> Result<()> {
        self.replace(name, &Body::Memory(body)).await
    }

    /// Stores the file at `path` under `name`, replacing what is there; gives its length. The file must not change.
    pub async fn put_file_verified(&self, name: &ObjectName, path: &Path) -> Result<u64> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("inspect", path))?.len();
        self.replace(name, &Body::File { file: Arc::new(file), len }).await?;
        Ok(len)
    }

    /// Stores what lies under `name` in the archive `from`, read piece by piece, replacing what is there. If it does not
    /// have this length and this content, nothing is stored.
    pub async fn put_from_verified(
        &self,
        from: &Self,
        name: &ObjectName,
        bytes: u64,
        blake3: blake3::Hash,
    ) -> Result<()> {
        self.replace(name, &Body::remote(from, name, bytes, blake3)).await
    }

    /// Stores `body` under `name` if the name is free. `body` is at most [`SINGLE_PUT_BYTES_MAX`] long.
    ///
    /// [`Creation::Exists`] says nothing about the content: a caller that may have been here before compares.
    pub async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Creation> {
        let len = body.len() as u64;
        match self.create(name, body).await? {
            Some(put) => self.confirm(name, len, &put).await.map(|()| Creation::Created),
            None => Ok(Creation::Exists),
        }
    }

    /// The create-only put of [`Archive::put_new`], not confirmed yet; `None` if the name was taken.
    pub(super) async fn create(&self, name: &ObjectName, body: Bytes) -> Result<Option<PutResult>> {
        assert!(body.len() as u64 <= SINGLE_PUT_BYTES_MAX, "create-only puts are single requests");
        let location = self.location(name)?;
        self.attempt("create", name, || async {
            match self.put_once(&location, body.clone(), PutMode::Create).await {
                Err(object_store::Error::AlreadyExists { .. }) => Ok(None),
                outcome => outcome.map(Some),
            }
        })
        .await
    }

    async fn replace(&self, name: &ObjectName, body: &Body) -> Result<()> {
        let location = self.location(name)?;
        let put = self
            .attempt("write", name, || async {
                if body.len() <= PART_BYTES {
                    let bytes = body.slice(0, PART_BYTES).await?;
                    self.paced(bytes.len()).await;
                    self.put_once(&location, bytes, PutMode::Overwrite).await
                } else {
                    self.put_parts(&location, body).await
                }
            })
            .await?;
        match self.confirm(name, body.len(), &put).await {
            // Somebody else who stored the same at the same time is the reason for another e_tag.
            Err(Error::StoreContract { .. }) if self.holds(name, body).await? => Ok(()),
            confirmed => confirmed,
        }
    }

    /// Whether the object is there and has this content: it is read.
    async fn holds(&self, name: &ObjectName, body: &Body) -> Result<bool> {
        if self.head(name).await? != Some(body.len()) {
            return Ok(false);
        }
        let mut offset = 0;
        while offset < body.len() {
            let read = |source| Error::Store { action: "read again for", path: self.full_name(name), source };
            let own = body.slice(offset, PART_BYTES).await.map_err(read)?;
            let end = offset + own.len() as u64;
            if self.get_range(name, offset..end).await?.as_ref() != Some(&own) {
                return Ok(false);
            }
            offset = end;
        }
        Ok(true)
    }

    async fn put_once(&self, location: &ObjectPath, body: Bytes, mode: PutMode) -> object_store::Result<PutResult> {
        self.root_is_there()?;
        let len = body.len() as u64;
        add(&self.traffic().puts, 1);
        add(&self.traffic().bytes_sent, len);
        let options = PutOptions { mode, ..PutOptions::default() };
        within(self.retry_policy().deadline_for(len), self.store().put_opts(location, PutPayload::from(body), options))
            .await
    }

    /// Waits until the limit, if there is one, lets so many bytes through.
    async fn paced(&self, bytes: usize) {
        if let Some(bandwidth) = self.bandwidth() {
            bandwidth.take(bytes as u64).await;
        }
    }

    async fn put_parts(&self, location: &ObjectPath, body: &Body) -> object_store::Result<PutResult> {
        self.root_is_there()?;
        let deadline = self.retry_policy().deadline;
        let retries = PartRetries { traffic: self.shared_traffic(), attempts: self.retry_policy().attempts };
        let options = PutMultipartOptions::default().with_retry_policy(Arc::new(retries));
        let mut upload = within(deadline, self.store().put_multipart_opts(location, options)).await?;
        let outcome = match self.send_parts(upload.as_mut(), body).await {
            // The store puts the parts together before it answers.
            Ok(()) => within(self.retry_policy().deadline_for(body.len()), upload.complete()).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            // What cannot be cleaned up now is left to the bucket's lifecycle rule; the error to report is the first.
            let _ = within(deadline, upload.abort()).await;
        }
        outcome
    }

    async fn send_parts(&self, upload: &mut dyn MultipartUpload, body: &Body) -> object_store::Result<()> {
        let deadline = self.retry_policy().deadline_for(PART_BYTES) * self.retry_policy().attempts;
        let mut in_flight = FuturesUnordered::new();
        let mut offset = 0;
        while offset < body.len() {
            if in_flight.len() == PARTS_IN_FLIGHT_MAX {
                in_flight.next().await.unwrap_or(Ok(()))?;
            }
            let part = body.slice(offset, PART_BYTES).await?;
            offset += part.len() as u64;
            let mut pace = std::pin::pin!(self.paced(part.len()));
            // Parts on their way go on meanwhile. Cancel-safe: waiting takes nothing, what is in flight stays there.
            loop {
                tokio::select! {
                    () = &mut pace => break,
                    Some(sent) = in_flight.next(), if !in_flight.is_empty() => sent?,
                }
            }
            add(&self.traffic().puts, 1);
            add(&self.traffic().bytes_sent, part.len() as u64);
            in_flight.push(within(deadline, upload.put_part(part.into())));
        }
        while let Some(sent) = in_flight.next().await {
            sent?;
        }
        Ok(())
    }

    /// Believes a put only after asking again.
    pub(super) async fn confirm(&self, name: &ObjectName, len: u64, put: &PutResult) -> Result<()> {
        let broken = |detail: String| {
            Err(Error::StoreContract {
                url: self.url().to_owned(),
                detail: format!("reported {name} as stored, but {detail}; the object does not count as uploaded"),
            })
        };
        let Some(meta) = self.metadata(name).await? else {
            return broken("then did not have it".to_owned());
        };
        if meta.size != len {
            return broken(format!("it has {} bytes there instead of {len}", meta.size));
        }
        match (&put.e_tag, &meta.e_tag) {
            (Some(reported), Some(found)) if reported != found => {
                broken(format!("its e_tag is {found} instead of {reported}: something else was stored there"))
            }
            _ => Ok(()),
        }
    }
}

/// Repeats the parts of a multipart upload one by one, so that one lost part does not repeat the whole.
#[derive(Debug)]
struct PartRetries {
    traffic: Arc<Traffic>,
    attempts: u32,
}

impl RetryPolicy for PartRetries {
    fn retry<'life, 'call>(&'life self, failed: RetryContext) -> Pin<Box<dyn Future<Output = bool> + Send + 'call>>
    where
        'life: 'call,
        Self: 'call,
    {
        Box::pin(async move {
            if failed.attempt >= self.attempts as usize {
                return false;
            }
            add(&self.traffic.retries, 1);
            tokio::time::sleep(backoff(failed.attempt as u32, PART_BACKOFF.0, PART_BACKOFF.1)).await;
            true
        })
    }
}

#[cfg(test)]
#[path = "put_tests.rs"]
mod tests;
