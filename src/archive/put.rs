//! Uploads that count only after a confirmation.
//!
//! Guarantees: before a put reports success, the object was looked up again and had the body's length and the e_tag
//! that the store reported; any other length or e_tag is an error. The parts in flight bound the memory of an upload.
//! If a crash cuts off a multipart upload, its parts can remain in the bucket; a bucket lifecycle rule removes them.

use super::body::Body;
use super::layout::ObjectName;
use super::part::{PART_BYTES, PARTS_IN_FLIGHT_MAX, PartRetries};
use super::retry_policy::within;
use super::store::{Archive, Creation};
use super::traffic::add;
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{MultipartUpload, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Largest body of a create-only put, which must be one request: a multipart upload cannot be create-only.
pub const SINGLE_PUT_BYTES_MAX: u64 = 16 * 1024 * 1024;

impl Archive {
    /// Stores `body` under `name`, replacing an existing object.
    pub async fn put_verified(&self, name: &ObjectName, body: Bytes) -> Result<()> {
        self.replace(name, &Body::Memory(body)).await
    }

    /// Stores the file at `path` under `name`, replacing an existing object; returns the file's length. The file must
    /// not change during the upload.
    pub async fn put_file_verified(&self, name: &ObjectName, path: &Path) -> Result<u64> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let len = file.metadata().map_err(Error::io("inspect", path))?.len();
        self.replace(name, &Body::File { file: Arc::new(file), len }).await?;
        Ok(len)
    }

    /// Copies the object `name` from the archive `from`, piece by piece, replacing an existing object. If the source
    /// does not have this length and this content, nothing is stored.
    pub async fn put_from_verified(
        &self,
        from: &Self,
        name: &ObjectName,
        bytes: u64,
        blake3: blake3::Hash,
    ) -> Result<()> {
        self.replace(name, &Body::remote(from, name, bytes, blake3)).await
    }

    /// Stores `body` under `name` if the name is free. `body` has at most [`SINGLE_PUT_BYTES_MAX`] bytes.
    ///
    /// [`Creation::Exists`] says nothing about the content: a caller that may have stored the object in an earlier
    /// attempt must compare the contents.
    pub async fn put_new(&self, name: &ObjectName, body: Bytes) -> Result<Creation> {
        let len = body.len() as u64;
        match self.create(name, body).await? {
            Some(put) => self.confirm(name, len, &put).await.map(|()| Creation::Created),
            None => Ok(Creation::Exists),
        }
    }

    /// Sends the create-only put of [`Archive::put_new`] without confirming it; `None` if the name was taken.
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
            // The e_tag also differs if another client stored the same content at the same time.
            Err(Error::StoreContract { .. }) if self.holds(name, body).await? => Ok(()),
            confirmed => confirmed,
        }
    }

    /// Reports whether the object is there and has this content, by reading the object.
    async fn holds(&self, name: &ObjectName, body: &Body) -> Result<bool> {
        if self.head(name).await? != Some(body.len()) {
            return Ok(false);
        }
        let mut offset = 0;
        while offset < body.len() {
            let read = |source| Error::Store { action: "read the source of", path: self.full_name(name), source };
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

    /// Waits until the bandwidth limit, if there is one, lets so many bytes through.
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
            // The store joins the parts before it answers, so the deadline grows with the whole body.
            Ok(()) => within(self.retry_policy().deadline_for(body.len()), upload.complete()).await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            // The bucket's lifecycle rule removes what the abort leaves behind; the first error is the one to report.
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
            // Parts in flight make progress while this part waits for the limit. Cancel-safe: waiting takes nothing
            // from the limit, and the parts in flight stay in the queue.
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

    /// Looks the object up again and fails unless it has the length and the e_tag that the put reported.
    pub(super) async fn confirm(&self, name: &ObjectName, len: u64, put: &PutResult) -> Result<()> {
        let broken = |detail: String| {
            Err(Error::StoreContract {
                url: self.url().to_owned(),
                detail: format!("reported {name} as stored, but {detail}; the object does not count as uploaded"),
            })
        };
        let Some(meta) = self.metadata(name).await? else {
            return broken("does not return the object".to_owned());
        };
        if meta.size != len {
            return broken(format!("the stored object has {} bytes instead of {len}", meta.size));
        }
        match (&put.e_tag, &meta.e_tag) {
            (Some(reported), Some(found)) if reported != found => broken(format!(
                "the stored object has the e_tag {found} instead of {reported}: another object was stored under this \
                 name"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "put_tests.rs"]
mod tests;
