//! The archive as a store of named objects: deadlines, bounded retries, counted requests, and errors that name the
//! failed action and object.
//!
//! Guarantees: `None` means that the store said that the object is not there; every failure to find out is an error.
//! Every call ends: each attempt has a deadline that grows with the body, and [`RetryPolicy`] bounds the attempts.
//! Non-goals: retrying without end (the uploader does so itself), caching.

use super::bandwidth::Bandwidth;
use super::config::{ArchiveUrl, S3Settings};
use super::crypt::{self, CryptStore, KeyRing};
use super::layout::{ObjectName, Section};
use super::retry_policy::{RetryPolicy, failure, may_pass, within};
use super::traffic::{Traffic, add};
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Largest number of objects in one LIST answer.
const LIST_PAGE: u64 = 1000;

/// Whether opening may create a missing archive directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// The archive must exist. Readers use this.
    Existing,
    /// A missing local directory is created. A primary that starts an archive uses this.
    Create,
}

/// Whether a create-only put stored the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Creation {
    /// This call stored the object.
    Created,
    /// The name was taken, possibly by an earlier attempt of this call whose answer was lost.
    Exists,
}

/// One of the archive's objects in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Name below the archive's prefix.
    pub name: ObjectName,
    /// Length in bytes.
    pub size: u64,
    /// Time at which the store received the object, by the store's clock.
    pub modified: chrono::DateTime<chrono::Utc>,
}

/// Result of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// The archive's objects, in name order.
    pub objects: Vec<Object>,
    /// Number of objects under the prefix whose names are none of the archive's.
    pub foreign: u64,
}

/// Handle to an archive. Clones share the connection and the counters.
#[derive(Clone)]
pub struct Archive {
    shared: Arc<Shared>,
    retry_policy: RetryPolicy,
    /// Limit that the replacing puts of this handle wait for; `None`: no limit.
    bandwidth: Option<Arc<Bandwidth>>,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    /// URL of the archive, for messages.
    url: String,
    /// Prefix of all names, without slashes at either end.
    prefix: String,
    /// The directory, if the archive is a local one. A vanished mount must not look like an empty archive.
    root: Option<PathBuf>,
    /// Whether `store` encrypts. If it does not, reading an encrypted object is refused.
    is_encrypted: bool,
    traffic: Arc<Traffic>,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Archive").field("url", &self.shared.url).field("retry_policy", &self.retry_policy).finish()
    }
}

impl Archive {
    /// Opens the archive at `url`. Sends no request: an unreachable server shows only at the first call.
    pub fn open(url: &ArchiveUrl, s3: &S3Settings, opening: Opening) -> Result<Self> {
        match url {
            ArchiveUrl::S3 { bucket, prefix } => {
                Ok(Self::over(Arc::new(s3.client(bucket)?), url.to_string(), prefix, None))
            }
            ArchiveUrl::File { dir } => {
                if opening == Opening::Create {
                    std::fs::create_dir_all(dir).map_err(Error::io("create archive directory", dir))?;
                } else if !dir.is_dir() {
                    return Err(Error::Config {
                        key: "archive".to_owned(),
                        detail: format!(
                            "{} is not a directory. Only the first start of a primary creates the directory of an \
                             archive",
                            dir.display()
                        ),
                    });
                }
                let store = LocalFileSystem::new_with_prefix(dir).map_err(|source| Error::Store {
                    action: "open",
                    path: url.to_string(),
                    source,
                })?;
                Ok(Self::over(Arc::new(store.with_fsync(true)), url.to_string(), "", Some(dir.clone())))
            }
        }
    }

    /// Returns an archive over any object store; messages call the archive `url`.
    pub fn over(store: Arc<dyn ObjectStore>, url: String, prefix: &str, root: Option<PathBuf>) -> Self {
        let shared =
            Shared { store, url, prefix: prefix.to_owned(), root, is_encrypted: false, traffic: Arc::default() };
        Self { shared: Arc::new(shared), retry_policy: RetryPolicy::default(), bandwidth: None }
    }

    /// Returns the archive with every object encrypted if there are keys, or unchanged without keys. Must be called at
    /// most once with keys, directly after opening.
    #[must_use]
    pub fn with_keys(self, keys: Option<KeyRing>) -> Self {
        let Some(keys) = keys else { return self };
        assert!(!self.shared.is_encrypted, "an archive is encrypted once");
        let Shared { store, url, prefix, root, traffic, .. } = &*self.shared;
        let store = Arc::new(CryptStore::new(Arc::clone(store), keys, prefix, url));
        let (url, prefix, root) = (url.clone(), prefix.clone(), root.clone());
        let shared = Shared { store, url, prefix, root, is_encrypted: true, traffic: Arc::clone(traffic) };
        Self { shared: Arc::new(shared), retry_policy: self.retry_policy, bandwidth: self.bandwidth }
    }

    /// Returns a handle to the same archive with another retry policy.
    #[must_use]
    pub fn with_retry_policy(&self, retry_policy: RetryPolicy) -> Self {
        Self { retry_policy, ..self.clone() }
    }

    /// Returns a handle to the same archive whose replacing puts are limited in bytes per second. Create-only puts
    /// (records and the like) are not limited.
    #[must_use]
    pub fn with_bandwidth(&self, bandwidth: Arc<Bandwidth>) -> Self {
        Self { bandwidth: Some(bandwidth), ..self.clone() }
    }

    /// Returns the archive's URL, for messages.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Returns the counters of this archive and its clones.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.shared.traffic
    }

    /// Returns the whole object, or `None` if it is not there.
    pub async fn get(&self, name: &ObjectName) -> Result<Option<Bytes>> {
        self.read(name, None).await
    }

    /// Returns the whole object, or `None` if it is not there. An answer that `is_sensible` rejects (a page of a
    /// proxy, an empty body) is treated like a failure: the read is retried as often as [`RetryPolicy`] allows. After
    /// the last attempt its answer is returned even if `is_sensible` rejects it.
    pub async fn get_sensible(
        &self,
        name: &ObjectName,
        is_sensible: impl Fn(&Bytes) -> bool + Send + Sync,
    ) -> Result<Option<Bytes>> {
        self.asked_again(|| self.read(name, None), is_sensible).await
    }

    /// Returns the result of `read` on the whole object, or `None` if the object is not there. As in
    /// [`Archive::get_sensible`], the object is fetched again if `read` refuses the body.
    pub async fn get_as<T: Send>(
        &self,
        name: &ObjectName,
        read: impl Fn(Bytes) -> Result<T> + Send + Sync,
    ) -> Result<Option<T>> {
        let last = Mutex::new(None);
        let reads = |body: &Bytes| {
            let made = read(body.clone());
            let is_ok = made.is_ok();
            *last.lock() = Some(made);
            is_ok
        };
        let is_there = self.get_sensible(name, reads).await?.is_some();
        is_there.then(|| last.into_inner().expect("the stored object was read")).transpose()
    }

    /// Returns the bytes `range` of the object, or `None` if it is not there. A range beyond the end is an error.
    pub async fn get_range(&self, name: &ObjectName, range: Range<u64>) -> Result<Option<Bytes>> {
        self.get_range_sensible(name, range, |_| true).await
    }

    /// Returns the same as [`Archive::get_range`], with the retries of [`Archive::get_sensible`].
    pub async fn get_range_sensible(
        &self,
        name: &ObjectName,
        range: Range<u64>,
        is_sensible: impl Fn(&Bytes) -> bool + Send + Sync,
    ) -> Result<Option<Bytes>> {
        let wanted = range.end.saturating_sub(range.start);
        let ask = || self.read(name, Some(GetRange::Bounded(range.clone())));
        let body = self.asked_again(ask, |body| body.len() as u64 == wanted && is_sensible(body)).await?;
        match body {
            Some(body) if body.len() as u64 != wanted => Err(Error::corrupt(
                self.full_name(name),
                "its end",
                format!("expected {wanted} bytes, but the object has only {}", body.len()),
            )),
            body => Ok(body),
        }
    }

    /// Repeats `ask` until the answer is sensible, is an error that cannot be a wrong answer, or the attempts are used
    /// up.
    async fn asked_again<F>(&self, ask: impl Fn() -> F, is_sensible: impl Fn(&Bytes) -> bool) -> Result<Option<Bytes>>
    where
        F: Future<Output = Result<Option<Bytes>>> + Send,
    {
        let mut failed = 0;
        loop {
            let answer = ask().await;
            let is_wrong = match &answer {
                Ok(body) => body.as_ref().is_some_and(|body| !is_sensible(body)),
                Err(error) => error.may_be_a_wrong_answer(),
            };
            failed += 1;
            if !is_wrong || failed >= self.retry_policy.attempts {
                return answer;
            }
            add(&self.traffic().retries, 1);
            tokio::time::sleep(self.retry_policy.pause_after_wrong_answer(failed)).await;
        }
    }

    /// Returns the object's length, or `None` if it is not there. An object store gives no reason in its answer to
    /// HEAD, so a missing bucket looks like a missing object here. No decision that must be right may depend on this
    /// answer.
    pub async fn head(&self, name: &ObjectName) -> Result<Option<u64>> {
        Ok(self.metadata(name).await?.map(|meta| meta.size))
    }

    /// Removes the object. A missing object is no error.
    pub async fn delete(&self, name: &ObjectName) -> Result<()> {
        let location = self.location(name)?;
        self.attempt("delete", name, || async {
            add(&self.traffic().deletes, 1);
            match within(self.retry_policy.deadline, self.store().delete(&location)).await {
                Err(error) if self.says_absent(&error) => Ok(()),
                outcome => outcome,
            }
        })
        .await
    }

    /// Lists the objects of a section, in name order.
    pub async fn list(&self, section: Section) -> Result<Found> {
        let directory = self.child(&section.directory())?;
        let metas = self
            .attempt("list", &directory, || async {
                let listing = self.store().list(Some(&directory));
                let metas: Vec<ObjectMeta> = collect(listing, self.retry_policy.deadline).await?;
                add(&self.traffic().lists, metas.len() as u64 / LIST_PAGE + 1);
                if metas.is_empty() { self.root_is_there().map(|()| metas) } else { Ok(metas) }
            })
            .await?;
        Ok(self.sorted(&metas))
    }

    fn sorted(&self, metas: &[ObjectMeta]) -> Found {
        let mut found = Found::default();
        for meta in metas {
            let path = meta.location.as_ref();
            let below = match self.shared.prefix.as_str() {
                "" => Some(path),
                prefix => path.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')),
            };
            match below.and_then(ObjectName::parse) {
                Some(name) => found.objects.push(Object { name, size: meta.size, modified: meta.last_modified }),
                None => found.foreign += 1,
            }
        }
        found.objects.sort_by_cached_key(|object| object.name.to_string());
        found
    }

    async fn read(&self, name: &ObjectName, range: Option<GetRange>) -> Result<Option<Bytes>> {
        let location = self.location(name)?;
        let begins = range.as_ref().is_none_or(|range| matches!(range, GetRange::Bounded(bytes) if bytes.start == 0));
        let body = self.attempt("read", name, || async {
            add(&self.traffic().gets, 1);
            let options = GetOptions { range: range.clone(), ..GetOptions::default() };
            let answer = match within(self.retry_policy.deadline, self.store().get_opts(&location, options)).await {
                Err(error) if self.says_absent(&error) => return Ok(None),
                outcome => outcome?,
            };
            let expected = answer.range.end - answer.range.start;
            let body = within(self.retry_policy.deadline_for(expected), answer.bytes()).await?;
            add(&self.traffic().bytes_received, body.len() as u64);
            if body.len() as u64 == expected {
                Ok(Some(body))
            } else {
                Err(failure(format!("the body ended after {} of {expected} bytes", body.len())))
            }
        });
        let body = body.await?;
        if let Some(begin) = body.as_ref().filter(|_| begins && !self.shared.is_encrypted) {
            crypt::require_clear(begin, &self.full_name(name))?;
        }
        Ok(body)
    }

    /// Returns the object's metadata, or `None` if it is not there.
    pub(super) async fn metadata(&self, name: &ObjectName) -> Result<Option<ObjectMeta>> {
        let location = self.location(name)?;
        self.attempt("look up", name, || async {
            add(&self.traffic().heads, 1);
            match within(self.retry_policy.deadline, self.store().head(&location)).await {
                Err(error) if self.says_absent(&error) => Ok(None),
                outcome => outcome.map(Some),
            }
        })
        .await
    }

    /// Runs `call` until it succeeds, fails with an error that retries cannot cure, or the attempts are used up.
    pub(super) async fn attempt<T, F>(
        &self,
        action: &'static str,
        name: &impl fmt::Display,
        call: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>> + Send,
    {
        let mut failed = 0;
        loop {
            let source = match call().await.map_err(own_error) {
                Ok(value) => return Ok(value),
                Err(Ok(error)) => return Err(error),
                Err(Err(source)) => source,
            };
            failed += 1;
            if failed >= self.retry_policy.attempts || !may_pass(&source) {
                add(&self.traffic().failures, 1);
                return Err(Error::Store { action, path: format!("{}/{name}", self.url()), source });
            }
            add(&self.traffic().retries, 1);
            tokio::time::sleep(self.retry_policy.pause_after(failed)).await;
        }
    }

    /// Reports whether the error says reliably that the object is not there: a missing bucket or a vanished local
    /// directory does not count.
    fn says_absent(&self, error: &object_store::Error) -> bool {
        let object_store::Error::NotFound { source, .. } = error else { return false };
        !source.to_string().contains("NoSuchBucket") && self.root_is_there().is_ok()
    }

    /// Fails if the archive's local directory has vanished, so that a put does not create it anew.
    pub(super) fn root_is_there(&self) -> object_store::Result<()> {
        match &self.shared.root {
            Some(root) if !root.is_dir() => Err(failure(format!("directory {} has vanished", root.display()))),
            _ => Ok(()),
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.shared.store
    }

    pub(super) fn shared_traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.shared.traffic)
    }

    pub(super) fn bandwidth(&self) -> Option<&Bandwidth> {
        self.bandwidth.as_deref()
    }

    pub(super) fn retry_policy(&self) -> RetryPolicy {
        self.retry_policy
    }

    /// Returns the URL of an object, for messages.
    pub(super) fn full_name(&self, name: &ObjectName) -> String {
        format!("{}/{name}", self.url())
    }

    pub(super) fn location(&self, name: &ObjectName) -> Result<ObjectPath> {
        self.child(&name.to_string())
    }

    fn child(&self, below: &str) -> Result<ObjectPath> {
        let full = match (self.shared.prefix.as_str(), below) {
            ("", below) => below.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, below) => format!("{prefix}/{below}"),
        };
        ObjectPath::parse(&full).map_err(|source| Error::Config {
            key: "archive".to_owned(),
            detail: format!("{full} is not usable as an object name: {source}"),
        })
    }
}

/// Unwraps an error of this crate that came through the object store's interface; returns any other error unchanged.
fn own_error(error: object_store::Error) -> std::result::Result<Error, object_store::Error> {
    match error {
        object_store::Error::Generic { store, source } => match source.downcast::<Error>() {
            Ok(error) => Ok(*error),
            Err(source) => Err(object_store::Error::Generic { store, source }),
        },
        error => Err(error),
    }
}

/// Collects a listing. The deadline applies to each object, so that a long listing is not cut off.
async fn collect(
    listing: futures::stream::BoxStream<'_, object_store::Result<ObjectMeta>>,
    deadline: Duration,
) -> object_store::Result<Vec<ObjectMeta>> {
    let mut listing = listing.fuse();
    let mut metas = Vec::new();
    while let Some(meta) = within(deadline, listing.try_next()).await? {
        metas.push(meta);
    }
    Ok(metas)
}
