//! Test support: an object store in memory that injects faults on request.
//!
//! Faults are scripted: each PUT (parts included), each GET, HEAD or LIST, and each DELETE takes the next fault of its
//! queue; with an empty queue the request works. Alternatively one fault meets the n-th request of all, or all
//! requests fail from the n-th on, so that a test can step through all requests. A DELETE can also be held until the
//! test releases it.

use super::super::retry_policy::RetryPolicy;
use super::super::store::Archive;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Fault of one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The request works.
    None,
    /// The request fails and has no effect.
    Fail,
    /// The request takes effect, and its answer is lost.
    LoseReply,
    /// PUT: success is reported, but nothing is stored. GET: the object is reported as not there.
    Vanish,
    /// PUT: only half of the bytes are stored. GET: the body ends half-way.
    Truncate,
    /// PUT: only half of the bytes are stored, and the answer is lost.
    Tear,
    /// GET: this bit of the body is flipped, modulo the body's length in bits.
    WrongBit(usize),
    /// LIST: so many of the objects stored last are missing.
    Stale(usize),
    /// The request has no effect and is never answered.
    Hang,
    /// The answer comes late.
    Slow,
    /// PUT and DELETE: the caller's identity has no permission.
    Deny,
}

/// Kind of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// Stores an object or a part of one.
    Put,
    /// Reads an object or looks it up.
    Get,
    /// Lists objects.
    List,
    /// Removes an object.
    Delete,
}

impl Fault {
    /// Reports whether the fault can meet such a request.
    fn fits(self, request: Request) -> bool {
        match self {
            Self::Tear => request == Request::Put,
            Self::WrongBit(_) => request == Request::Get,
            Self::Stale(_) => request == Request::List,
            Self::Vanish => request != Request::List,
            _ => true,
        }
    }
}

/// One fault of each kind, for tests that try all of them.
pub(crate) const EVERY_FAULT: [Fault; 11] = [
    Fault::Fail,
    Fault::LoseReply,
    Fault::Vanish,
    Fault::Truncate,
    Fault::Tear,
    Fault::WrongBit(0),
    // A large odd number: it falls somewhere in the middle of most records.
    Fault::WrongBit(100_003),
    Fault::Stale(1),
    Fault::Stale(usize::MAX),
    Fault::Hang,
    Fault::Slow,
];

/// Delay of a slow answer.
const SLOW: Duration = Duration::from_millis(2);

/// The store. Clones share all state.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultStore {
    inner: Arc<InMemory>,
    puts: Arc<Mutex<VecDeque<Fault>>>,
    gets: Arc<Mutex<VecDeque<Fault>>>,
    nth: Arc<Mutex<Nth>>,
    /// Objects in the order in which they were stored.
    stored: Arc<Mutex<Vec<Path>>>,
    deletes: Arc<Mutex<VecDeque<Fault>>>,
    /// Number of DELETEs before the one that is held; `None`: none is held.
    hold_after: Arc<Mutex<Option<usize>>>,
    held: Arc<Notify>,
    let_go: Arc<Notify>,
    is_read_only: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
    ignore_conditions: bool,
}

/// A fault for one request, counted over all requests.
#[derive(Clone, Copy, Debug, Default)]
struct Nth {
    /// Number of requests so far.
    count: usize,
    /// Number of the request that the fault meets, counted from 0, and the fault.
    fault: Option<(usize, Fault)>,
    /// Number of the first request that fails; all later requests fail, too.
    cut_off: Option<usize>,
    /// Whether `fault` met a request.
    is_met: bool,
}

/// The ordinary retry policy with short pauses after wrong answers, for tests that read torn objects very often.
pub(crate) const QUICK: RetryPolicy =
    RetryPolicy { wrong_answer_backoff: Duration::from_millis(1), ..RetryPolicy::DEFAULT };

impl FaultStore {
    /// Returns a store that treats a create-only put like any other put.
    pub(crate) fn without_conditions() -> Self {
        Self { ignore_conditions: true, ..Self::default() }
    }

    /// Returns an archive in this store. A failed request is not retried.
    pub(crate) fn archive(&self) -> Archive {
        let archive = Archive::over(Arc::new(self.clone()), "memory:".to_owned(), "", None);
        archive.with_retry_policy(RetryPolicy { attempts: 1, ..RetryPolicy::default() })
    }

    /// Returns another store with the same objects and no faults.
    pub(crate) fn fork(&self) -> Self {
        Self { inner: Arc::new(self.inner.fork()), ..Self::default() }
    }

    /// Queues faults for the next PUTs.
    pub(crate) fn script_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.puts.lock().extend(faults);
    }

    /// Queues faults for the next GETs and HEADs.
    pub(crate) fn script_gets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.gets.lock().extend(faults);
    }

    /// Injects a fault into the `nth` request after this call, counted from 0.
    pub(crate) fn fault_at(&self, nth: usize, fault: Fault) {
        *self.nth.lock() = Nth { fault: Some((nth, fault)), ..Nth::default() };
    }

    /// Fails the `nth` request after this call, counted from 0, and all later requests, as if the client were dead.
    pub(crate) fn cut_off_at(&self, nth: usize) {
        *self.nth.lock() = Nth { cut_off: Some(nth), ..Nth::default() };
    }

    /// Reports whether the fault of [`FaultStore::fault_at`] met a request that it fits.
    pub(crate) fn is_met(&self) -> bool {
        self.nth.lock().is_met
    }

    /// Returns the number of requests since the start or since [`FaultStore::fault_at`].
    pub(crate) fn requests(&self) -> usize {
        self.nth.lock().count
    }

    /// Queues faults for the next DELETEs.
    pub(crate) fn script_deletes(&self, faults: impl IntoIterator<Item = Fault>) {
        self.deletes.lock().extend(faults);
    }

    /// Holds the DELETE that comes after the next `count` ones.
    pub(crate) fn hold_delete(&self, count: usize) {
        *self.hold_after.lock() = Some(count);
    }

    /// Returns when a DELETE is held.
    pub(crate) async fn delete_held(&self) {
        self.held.notified().await;
    }

    /// Releases the held DELETE.
    pub(crate) fn let_delete_go(&self) {
        self.let_go.notify_one();
    }

    /// Denies every PUT and DELETE.
    pub(crate) fn set_read_only(&self) {
        self.is_read_only.store(true, Ordering::SeqCst);
    }

    /// Clears the faults that no request has met.
    pub(crate) fn heal(&self) {
        self.puts.lock().clear();
        self.gets.lock().clear();
        let mut nth = self.nth.lock();
        (nth.fault, nth.cut_off) = (None, None);
        self.deletes.lock().clear();
    }

    /// Returns the underlying store without faults, with the objects that are really stored.
    pub(crate) fn truth(&self) -> Arc<InMemory> {
        Arc::clone(&self.inner)
    }

    /// Makes every request fail, or work.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let is_held = {
            let mut hold = self.hold_after.lock();
            let is_held = *hold == Some(0);
            *hold = hold.and_then(|count| count.checked_sub(1));
            is_held
        };
        if is_held {
            self.held.notify_one();
            self.let_go.notified().await;
        }
        if self.is_read_only.load(Ordering::SeqCst) {
            return Err(denied(&location));
        }
        match self.next(Request::Delete).await {
            Fault::Fail | Fault::Truncate => return Err(injected()),
            Fault::Deny => return Err(denied(&location)),
            Fault::LoseReply => {
                self.inner.delete(&location).await?;
                return Err(injected());
            }
            Fault::Vanish => {}
            _ => self.inner.delete(&location).await?,
        }
        Ok(location)
    }

    /// Returns the fault of the next request, after any delay that the fault causes.
    async fn next(&self, request: Request) -> Fault {
        let fault = self.decide(request);
        match fault {
            Fault::Hang => std::future::pending().await,
            Fault::Slow => tokio::time::sleep(SLOW).await,
            _ => {}
        }
        if fault == Fault::Slow { Fault::None } else { fault }
    }

    fn decide(&self, request: Request) -> Fault {
        if self.down.load(Ordering::SeqCst) {
            return Fault::Fail;
        }
        let mut nth = self.nth.lock();
        let number = nth.count;
        nth.count += 1;
        if nth.cut_off.is_some_and(|from| number >= from) {
            return Fault::Fail;
        }
        if let Some((_, fault)) = nth.fault.filter(|(at, fault)| *at == number && fault.fits(request)) {
            nth.is_met = true;
            return fault;
        }
        let queue = match request {
            Request::Put => &self.puts,
            Request::Get | Request::List => &self.gets,
            Request::Delete => &self.deletes,
        };
        queue.lock().pop_front().unwrap_or(Fault::None)
    }

    async fn store(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let stored = self.inner.put_opts(location, payload, opts).await?;
        let mut all = self.stored.lock();
        all.retain(|other| other != location);
        all.push(location.clone());
        Ok(stored)
    }

    /// Lists the objects, except those stored last.
    fn list_stale(&self, prefix: Option<&Path>, newest: usize) -> BoxStream<'static, Result<ObjectMeta>> {
        let hidden = self.stored.lock().iter().rev().take(newest).cloned().collect::<Vec<_>>();
        let is_shown =
            move |meta: &Result<ObjectMeta>| !meta.as_ref().is_ok_and(|meta| hidden.contains(&meta.location));
        self.inner.list(prefix).filter(move |meta| std::future::ready(is_shown(meta))).boxed()
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

fn denied(path: &Path) -> Error {
    Error::PermissionDenied { path: path.to_string(), source: "injected".into() }
}

fn injected() -> Error {
    Error::Generic { store: "faults", source: "injected".into() }
}

fn half(payload: PutPayload) -> PutPayload {
    let bytes = Bytes::from(payload);
    let half = bytes.len() / 2;
    bytes.slice(..half).into()
}

/// Returns the same answer with another body.
async fn with_body(result: GetResult, change: impl FnOnce(Bytes) -> Bytes) -> Result<GetResult> {
    let (meta, range, attributes, extensions) =
        (result.meta.clone(), result.range.clone(), result.attributes.clone(), result.extensions.clone());
    let body = change(result.bytes().await?);
    let payload = GetResultPayload::Stream(futures::stream::iter([Ok(body)]).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
}

fn flipped(body: Bytes, bit: usize) -> Bytes {
    let mut body = body.to_vec();
    if !body.is_empty() {
        let bit = bit % (body.len() * 8);
        body[bit / 8] ^= 1 << (bit % 8);
    }
    body.into()
}

impl ObjectStore for FaultStore {
    fn put_opts<'s, 'p, 'a>(
        &'s self,
        location: &'p Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Answer<'a, PutResult>
    where
        's: 'a,
        'p: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            if self.ignore_conditions {
                opts.mode = PutMode::Overwrite;
            }
            if self.is_read_only.load(Ordering::SeqCst) {
                return Err(denied(location));
            }
            match self.next(Request::Put).await {
                Fault::Deny => Err(denied(location)),
                Fault::Fail => Err(injected()),
                Fault::LoseReply => self.store(location, payload, opts).await.and(Err(injected())),
                Fault::Vanish => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
                Fault::Truncate => self.store(location, half(payload), opts).await,
                Fault::Tear => self.store(location, half(payload), opts).await.and(Err(injected())),
                _ => self.store(location, payload, opts).await,
            }
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
            let upload = self.inner.put_multipart_opts(location, opts).await?;
            Ok(Box::new(FaultUpload { inner: upload, store: self.clone() }) as Box<dyn MultipartUpload>)
        })
    }

    fn get_opts<'s, 'p, 'a>(&'s self, location: &'p Path, options: GetOptions) -> Answer<'a, GetResult>
    where
        's: 'a,
        'p: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let cut = |body: Bytes| body.slice(..body.len() / 2);
            match self.next(Request::Get).await {
                Fault::Fail | Fault::LoseReply | Fault::Deny => Err(injected()),
                Fault::Vanish => Err(Error::NotFound { path: location.to_string(), source: "injected".into() }),
                Fault::Truncate => with_body(self.inner.get_opts(location, options).await?, cut).await,
                Fault::WrongBit(bit) => {
                    with_body(self.inner.get_opts(location, options).await?, |body| flipped(body, bit)).await
                }
                _ => self.inner.get_opts(location, options).await,
            }
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move { store.delete_one(location?).await }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            match store.next(Request::List).await {
                Fault::None => store.inner.list(prefix.as_ref()),
                Fault::Stale(newest) => store.list_stale(prefix.as_ref(), newest),
                // The listing begins and then fails, so that a caller that ignores the error takes a part for the
                // whole.
                _ => store.inner.list(prefix.as_ref()).take(1).chain(futures::stream::iter([Err(injected())])).boxed(),
            }
        };
        futures::stream::once(listing).flatten().boxed()
    }

    fn list_with_delimiter<'s, 'p, 'a>(&'s self, prefix: Option<&'p Path>) -> Answer<'a, ListResult>
    where
        's: 'a,
        'p: 'a,
        Self: 'a,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn copy_opts<'s, 'f, 't, 'a>(&'s self, from: &'f Path, to: &'t Path, options: CopyOptions) -> Answer<'a, ()>
    where
        's: 'a,
        'f: 'a,
        't: 'a,
        Self: 'a,
    {
        self.inner.copy_opts(from, to, options)
    }
}

#[derive(Debug)]
struct FaultUpload {
    inner: Box<dyn MultipartUpload>,
    store: FaultStore,
}

impl MultipartUpload for FaultUpload {
    fn put_part(&mut self, data: PutPayload) -> object_store::UploadPart {
        match self.store.decide(Request::Put) {
            Fault::Fail | Fault::LoseReply | Fault::Tear | Fault::Deny => Box::pin(async { Err(injected()) }),
            Fault::Truncate => self.inner.put_part(half(data)),
            Fault::Hang => Box::pin(std::future::pending()),
            _ => self.inner.put_part(data),
        }
    }

    fn complete<'s, 'a>(&'s mut self) -> Answer<'a, PutResult>
    where
        's: 'a,
        Self: 'a,
    {
        self.inner.complete()
    }

    fn abort<'s, 'a>(&'s mut self) -> Answer<'a, ()>
    where
        's: 'a,
        Self: 'a,
    {
        self.inner.abort()
    }
}
