//! An object store that encrypts: a wrapper over any other object store.
//!
//! Guarantees: lengths and ranges are those of the plain objects; conditional puts and e_tags are those of the
//! underlying store. An error of this module travels as an [`Error`] inside [`object_store::Error::Generic`], and the
//! archive unpacks it. A plain length is computed from the stored length, so it is only as trustworthy as the store;
//! bytes that are read are authentic.
//! Cost: 88 bytes for an object and 16 for each 64 KiB. A ranged read moves whole segments. Unless the range begins in
//! the first segment, the read also needs the header, which is cached for [`HEADERS_REMEMBERED_MAX`] objects.

use super::cipher::{ObjectCipher, Sealer, open_whole};
use super::format::{self, HEADER_BYTES, ObjectHeader};
use super::keys::KeyRing;
use super::upload::CryptUpload;
use crate::archive::layout::ObjectName;
use crate::archive::retry_policy::failure;
use crate::error::Error;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

/// Number of headers of recently read objects that are cached for reads of later ranges.
const HEADERS_REMEMBERED_MAX: usize = 256;

/// Length in bytes from which a body is encrypted and decrypted on a thread that may block.
const BLOCKING_BYTES: usize = 256 << 10;

/// Length reported for an object whose stored length no encrypted object has. No real object has this length.
const NO_LENGTH: u64 = u64::MAX;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Encrypts the objects that are put into a store and decrypts the objects that are read from it.
#[derive(Clone)]
pub struct CryptStore {
    inner: Arc<dyn ObjectStore>,
    side: Arc<Side>,
}

/// State that the requests of one store share.
struct Side {
    keys: KeyRing,
    /// Prefix of all names, without slashes at either end. The authenticated names do not contain the prefix, so that
    /// an archive can be moved as a whole.
    prefix: String,
    /// URL of the archive, for messages.
    url: String,
    /// Cached headers with location and e_tag, in the order in which they were read; the newest is at the back.
    headers: Mutex<VecDeque<(Path, String, ObjectHeader)>>,
}

impl CryptStore {
    /// Wraps `inner`, whose objects lie below `prefix`; messages call the store `url`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, keys: KeyRing, prefix: &str, url: &str) -> Self {
        let side = Side { keys, prefix: prefix.to_owned(), url: url.to_owned(), headers: Mutex::default() };
        Self { inner, side: Arc::new(side) }
    }
}

impl fmt::Display for CryptStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CryptStore({})", self.inner)
    }
}

impl fmt::Debug for CryptStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

async fn on_any_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    if bytes < BLOCKING_BYTES { work() } else { tokio::task::spawn_blocking(work).await? }
}

impl Side {
    /// Returns the part of the name that is authenticated.
    fn name<'a>(&self, location: &'a Path) -> &'a str {
        let full = location.as_ref();
        let below = match self.prefix.as_str() {
            "" => Some(full),
            prefix => full.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')),
        };
        below.unwrap_or(full)
    }

    fn what(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// Decodes the header in an object's first bytes. If the identity is not encrypted, the whole archive is not; any
    /// other unencrypted object does not belong to this archive.
    fn header(&self, begin: &[u8], name: &str) -> Result<ObjectHeader> {
        let what = self.what(name);
        if super::is_encrypted(begin) {
            return ObjectHeader::decode(begin, &what).map_err(Error::through_store);
        }
        if name == ObjectName::Identity.to_string() {
            let detail = format!(
                "is not encrypted, but keys were given ({}). Open an archive that is not encrypted without keys. To \
                 encrypt an archive, copy it to another prefix with walferry copy and use the copy",
                self.keys.names()
            );
            return Err(Error::Identity { what, detail }.through_store());
        }
        let detail = "the object is not encrypted, although the archive is: the object was altered, or was written \
                      without the key";
        Err(Error::corrupt(what, "byte 0", detail).through_store())
    }

    fn cipher(&self, header: &ObjectHeader, name: &str) -> Result<ObjectCipher> {
        ObjectCipher::open(&self.keys, header, name, &self.what(name)).map_err(Error::through_store)
    }

    fn sealer(&self, location: &Path, out: &mut Vec<u8>) -> Result<Sealer> {
        let cipher = ObjectCipher::create(&self.keys, self.name(location)).map_err(Error::through_store)?;
        Ok(Sealer::begin(cipher, out))
    }

    fn seal(&self, location: &Path, plain: &PutPayload) -> Result<Bytes> {
        let mut out = Vec::with_capacity(format::stored_len(plain.content_length() as u64) as usize);
        let mut sealer = self.sealer(location, &mut out)?;
        plain.iter().for_each(|piece| sealer.push(piece, &mut out));
        sealer.finish(&mut out);
        Ok(out.into())
    }

    fn open(&self, location: &Path, stored: &[u8]) -> Result<Bytes> {
        let name = self.name(location);
        self.header(stored, name)?;
        open_whole(stored, name, &self.keys, &self.what(name)).map_err(Error::through_store)
    }

    fn remembered(&self, meta: &ObjectMeta) -> Option<ObjectHeader> {
        let headers = self.headers.lock();
        let is_it = |(location, e_tag, _): &&(Path, String, _)| {
            *location == meta.location && Some(e_tag) == meta.e_tag.as_ref()
        };
        headers.iter().rev().find(is_it).map(|(_, _, header)| header.clone())
    }

    fn remember(&self, meta: &ObjectMeta, header: &ObjectHeader) {
        let Some(e_tag) = meta.e_tag.clone() else { return };
        let mut headers = self.headers.lock();
        headers.retain(|(location, ..)| *location != meta.location);
        if headers.len() >= HEADERS_REMEMBERED_MAX {
            headers.pop_front();
        }
        headers.push_back((meta.location.clone(), e_tag, header.clone()));
    }
}

/// Returns `meta` with the plain length; `otherwise` gives the length for an object that is not encrypted.
fn plain_meta(meta: ObjectMeta, otherwise: impl Fn(u64) -> u64) -> ObjectMeta {
    let size = format::plain_len(meta.size).unwrap_or_else(|| otherwise(meta.size));
    ObjectMeta { size, ..meta }
}

/// Returns the metadata for a listing. An object that is not encrypted keeps its length, because it may be foreign.
fn listed(meta: ObjectMeta) -> ObjectMeta {
    plain_meta(meta, |stored| stored)
}

/// Returns the body of an answer. A transfer that was cut off gives another error than an object that is too short.
async fn body(answer: GetResult) -> Result<Bytes> {
    let expected = answer.range.end - answer.range.start;
    let bytes = answer.bytes().await?;
    if bytes.len() as u64 == expected {
        return Ok(bytes);
    }
    Err(failure(format!("the body ended after {} of {expected} bytes", bytes.len())))
}

/// Returns an answer whose plain body is decrypted from the stored one only when it is read.
fn lazily<F>(inner: GetResult, meta: ObjectMeta, range: Range<u64>, open: impl FnOnce(GetResult) -> F) -> GetResult
where
    F: Future<Output = Result<Bytes>> + Send + 'static,
{
    let (attributes, extensions) = (inner.attributes.clone(), inner.extensions.clone());
    let payload = GetResultPayload::Stream(futures::stream::once(open(inner)).boxed());
    GetResult { payload, meta, range, attributes, extensions }
}

impl CryptStore {
    async fn get_whole(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let inner = self.inner.get_opts(location, options.clone()).await?;
        let meta = plain_meta(inner.meta.clone(), |_| NO_LENGTH);
        let range = 0..meta.size;
        if options.head {
            return Ok(GetResult { meta, range, ..inner });
        }
        let (side, location) = (Arc::clone(&self.side), location.clone());
        let open = |inner| async move {
            let stored = body(inner).await?;
            on_any_thread(stored.len(), move || side.open(&location, &stored)).await
        };
        Ok(lazily(inner, meta, range, open))
    }

    async fn get_part(&self, location: &Path, options: GetOptions, wanted: Range<u64>) -> Result<GetResult> {
        let wanted_segments = format::segments_of(&wanted);
        let mut stored = format::stored_range(&wanted_segments);
        if wanted_segments.start == 0 {
            stored.start = 0;
        }
        let options = GetOptions { range: Some(GetRange::Bounded(stored)), ..options };
        let inner = self.inner.get_opts(location, options).await?;
        let meta = plain_meta(inner.meta.clone(), |_| NO_LENGTH);
        let range = GetRange::Bounded(wanted).as_range(meta.size).map_err(|error| failure(error.to_string()))?;
        let (store, location, wanted) = (self.clone(), location.clone(), range.clone());
        Ok(lazily(inner, meta, range, |inner| async move { store.open_part(location, inner, wanted).await }))
    }

    /// Returns the plain bytes `range` from an answer that holds their segments, and also the header if the first
    /// segment is among them.
    async fn open_part(&self, location: Path, answer: GetResult, range: Range<u64>) -> Result<Bytes> {
        let meta = answer.meta.clone();
        let mut stored = body(answer).await?;
        let first = format::segments_of(&range).start;
        let header = if first == 0 {
            let header = self.side.header(&stored, self.side.name(&location))?;
            self.side.remember(&meta, &header);
            stored = stored.slice(HEADER_BYTES.min(stored.len())..);
            header
        } else {
            match self.side.remembered(&meta) {
                Some(header) => header,
                None => self.fetch_header(&location, &meta).await?,
            }
        };
        let side = Arc::clone(&self.side);
        on_any_thread(stored.len(), move || {
            let name = side.name(&location);
            let what = side.what(name);
            let Some(len) = format::plain_len(meta.size) else {
                let detail = format!("an encrypted object cannot have {} bytes, so its end is missing", meta.size);
                return Err(Error::corrupt(what, "its end", detail).through_store());
            };
            let cipher = side.cipher(&header, name)?;
            let plain = cipher.open_run(first, format::segments(len), &stored, &what).map_err(Error::through_store)?;
            let start = (range.start - format::plain_start(first)) as usize;
            let end = (range.end - format::plain_start(first)) as usize;
            if end > plain.len() {
                return Err(failure(format!("{} plain bytes came instead of {end}", plain.len())));
            }
            Ok(Bytes::from(plain).slice(start..end))
        })
        .await
    }

    /// Reads the header of an object of which a later part was read. The object must not have been replaced in
    /// between.
    async fn fetch_header(&self, location: &Path, part: &ObjectMeta) -> Result<ObjectHeader> {
        let range = Some(GetRange::Bounded(0..HEADER_BYTES as u64));
        let answer = self.inner.get_opts(location, GetOptions { range, ..GetOptions::default() }).await?;
        let meta = answer.meta.clone();
        let header = self.side.header(&body(answer).await?, self.side.name(location))?;
        if meta.e_tag != part.e_tag || meta.size != part.size {
            return Err(failure("the object was replaced while it was read".to_owned()));
        }
        self.side.remember(&meta, &header);
        Ok(header)
    }
}

impl ObjectStore for CryptStore {
    fn put_opts<'s, 'p, 'a>(
        &'s self,
        location: &'p Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Answer<'a, PutResult>
    where
        's: 'a,
        'p: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let (side, name) = (Arc::clone(&self.side), location.clone());
            let stored = on_any_thread(payload.content_length(), move || side.seal(&name, &payload)).await?;
            self.inner.put_opts(location, stored.into(), opts).await
        })
    }

    fn put_multipart_opts<'s, 'p, 'a>(
        &'s self,
        location: &'p Path,
        opts: PutMultipartOptions,
    ) -> Answer<'a, Box<dyn MultipartUpload>>
    where
        's: 'a,
        'p: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let mut begin = Vec::new();
            let sealer = self.side.sealer(location, &mut begin)?;
            let inner = self.inner.put_multipart_opts(location, opts).await?;
            Ok(Box::new(CryptUpload::new(inner, sealer, begin)) as Box<dyn MultipartUpload>)
        })
    }

    fn get_opts<'s, 'p, 'a>(&'s self, location: &'p Path, mut options: GetOptions) -> Answer<'a, GetResult>
    where
        's: 'a,
        'p: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let Some(range) = options.range.take() else { return self.get_whole(location, options).await };
            range.is_valid().map_err(|error| failure(error.to_string()))?;
            if let GetRange::Bounded(wanted) = range {
                return self.get_part(location, options, wanted).await;
            }
            // The beginning of the range depends on the plain length.
            let head = self.get_whole(location, GetOptions { head: true, ..options.clone() }).await?;
            let wanted = range.as_range(head.meta.size).map_err(|error| failure(error.to_string()))?;
            if wanted.is_empty() {
                let meta = head.meta.clone();
                return Ok(lazily(head, meta, wanted, |_| futures::future::ready(Ok(Bytes::new()))));
            }
            self.get_part(location, options, wanted).await
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).map(|meta| meta.map(listed)).boxed()
    }

    fn list_with_delimiter<'s, 'p, 'a>(&'s self, prefix: Option<&'p Path>) -> Answer<'a, ListResult>
    where
        's: 'a,
        'p: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let found = self.inner.list_with_delimiter(prefix).await?;
            let objects = found.objects.into_iter().map(listed).collect();
            Ok(ListResult { objects, ..found })
        })
    }

    /// Always fails: an encrypted object cannot be copied, because its name is authenticated.
    fn copy_opts<'s, 'f, 't, 'a>(&'s self, from: &'f Path, _: &'t Path, _: CopyOptions) -> Answer<'a, ()>
    where
        's: 'a,
        'f: 'a,
        't: 'a,
        Self: 'a,
    {
        let source = format!("{from} is encrypted under its name and cannot be copied within the store").into();
        Box::pin(async move { Err(object_store::Error::NotSupported { source }) })
    }
}
