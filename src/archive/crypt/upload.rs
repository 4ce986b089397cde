//! Multipart upload of an encrypted object.
//!
//! Guarantees: all parts but the last have the same length, as some stores demand; besides the parts in flight, at
//! most the bytes of two parts are held in memory. An object is complete only with its last segment, which
//! [`MultipartUpload::complete`] sends.

use super::cipher::Sealer;
use crate::archive::part::PART_BYTES;
use bytes::Bytes;
use futures::future::{FutureExt, try_join_all};
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use std::fmt;
use std::pin::Pin;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Encrypts the parts that it is given and uploads the result in parts.
pub(super) struct CryptUpload {
    inner: Box<dyn MultipartUpload>,
    /// `None` once the object has ended.
    sealer: Option<Sealer>,
    /// Encrypted bytes that are not sent yet.
    ready: Vec<u8>,
}

impl CryptUpload {
    /// Wraps an upload that was begun; `ready` holds the bytes that `sealer` has produced so far.
    pub(super) fn new(inner: Box<dyn MultipartUpload>, sealer: Sealer, ready: Vec<u8>) -> Self {
        Self { inner, sealer: Some(sealer), ready }
    }

    /// Sends every full part that is ready.
    fn send_ready(&mut self) -> Vec<UploadPart> {
        let mut sending = Vec::new();
        while self.ready.len() >= PART_BYTES as usize {
            let rest = self.ready.split_off(PART_BYTES as usize);
            let part = std::mem::replace(&mut self.ready, rest);
            sending.push(self.inner.put_part(Bytes::from(part).into()));
        }
        sending
    }
}

impl fmt::Debug for CryptUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CryptUpload").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl MultipartUpload for CryptUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let sealer = self.sealer.as_mut().expect("no part follows the completion of an upload");
        data.iter().for_each(|piece| sealer.push(piece, &mut self.ready));
        try_join_all(self.send_ready()).map(|sent| sent.map(drop)).boxed()
    }

    fn complete<'s, 'a>(&'s mut self) -> Answer<'a, PutResult>
    where
        's: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            if let Some(sealer) = self.sealer.take() {
                sealer.finish(&mut self.ready);
            }
            let mut sending = self.send_ready();
            if !self.ready.is_empty() {
                let last = std::mem::take(&mut self.ready);
                sending.push(self.inner.put_part(Bytes::from(last).into()));
            }
            try_join_all(sending).await?;
            self.inner.complete().await
        })
    }

    fn abort<'s, 'a>(&'s mut self) -> Answer<'a, ()>
    where
        's: 'a,
        Self: 'a,
    {
        self.inner.abort()
    }
}
