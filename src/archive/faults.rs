//! An object store in memory that goes wrong on request, for tests.
//!
//! Faults are scripted: each PUT (parts included), each GET or HEAD and each DELETE takes the next fault of its queue; an
//! empty queue means that everything works. A DELETE can also be held until it is let go.

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
use tokio::sync::Notify;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What goes wrong with one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// It fails and has no effect.
    Fail,
    /// It takes effect, and its answer is lost.
    LoseReply,
    /// PUT: success is reported, nothing is stored. GET: the object is said not to be there.
    Vanish,
    /// PUT: only half of the bytes are stored. GET: the body ends half-way.
    Truncate,
    /// PUT and DELETE: this identity may not.
    Deny,
}

/// The store; clones share everything.
#[derive(Clone, Debug, Default)]
pub struct FaultStore {
    inner: Arc<InMemory>,
    puts: Arc<Mutex<VecDeque<Fault>>>,
    gets: Arc<Mutex<VecDeque<Fault>>>,
    deletes: Arc<Mutex<VecDeque<Fault>>>,
    /// DELETEs until the one that is held.
    hold_after: Arc<Mutex<Option<usize>>>,
    held: Arc<Notify>,
    let_go: Arc<Notify>,
    is_read_only: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
    ignore_conditions: bool,
}

impl FaultStore {
    /// A store that treats a create-only put as any other.
    pub fn without_conditions() -> Self {
        Self { ignore_conditions: true, ..Self::default() }
    }

    /// Another store with the same objects and no faults.
    pub fn fork(&self) -> Self {
        Self { inner: Arc::new(self.inner.fork()), ..Self::default() }
    }

    /// Queues faults for the next PUTs.
    pub fn script_puts(&self, faults: impl IntoIterator<Item = Fault>) {
        self.puts.lock().extend(faults);
    }

    /// Queues faults for the next GETs and HEADs.
    pub fn script_gets(&self, faults: impl IntoIterator<Item = Fault>) {
        self.gets.lock().extend(faults);
    }

    /// Queues faults for the next DELETEs.
    pub fn script_deletes(&self, faults: impl IntoIterator<Item = Fault>) {
        self.deletes.lock().extend(faults);
    }

    /// Holds the DELETE after the next `count` ones.
    pub fn hold_delete(&self, count: usize) {
        *self.hold_after.lock() = Some(count);
    }

    /// Returns when a DELETE is held.
    pub async fn delete_held(&self) {
        self.held.notified().await;
    }

    /// Lets the held DELETE go.
    pub fn let_delete_go(&self) {
        self.let_go.notify_one();
    }

    /// Denies every PUT and DELETE.
    pub fn set_read_only(&self) {
        self.is_read_only.store(true, Ordering::SeqCst);
    }

    /// Forgets the faults not used yet.
    pub fn heal(&self) {
        self.puts.lock().clear();
        self.gets.lock().clear();
        self.deletes.lock().clear();
    }

    /// Makes every request fail, or work again.
    pub fn set_down(&self, down: bool) {
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
        match self.next(&self.deletes) {
            Fault::None => self.inner.delete(&location).await?,
            Fault::Fail | Fault::Truncate => return Err(injected()),
            Fault::Deny => return Err(denied(&location)),
            Fault::LoseReply => {
                self.inner.delete(&location).await?;
                return Err(injected());
            }
            Fault::Vanish => {}
        }
        Ok(location)
    }

    fn next(&self, queue: &Mutex<VecDeque<Fault>>) -> Fault {
        if self.down.load(Ordering::SeqCst) {
            return Fault::Fail;
        }
        queue.lock().pop_front().unwrap_or(Fault::None)
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
    let bytes = bytes::Bytes::from(payload);
    let half = bytes.len() / 2;
    bytes.slice(..half).into()
}

async fn truncated(result: GetResult) -> Result<GetResult> {
    let (meta, range, attributes, extensions) =
        (result.meta.clone(), result.range.clone(), result.attributes.clone(), result.extensions.clone());
    let body = result.bytes().await?;
    let half = body.slice(..body.len() / 2);
    let payload = GetResultPayload::Stream(futures::stream::iter([Ok(half)]).boxed());
    Ok(GetResult { payload, meta, range, attributes, extensions })
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
            match self.next(&self.puts) {
                Fault::None => self.inner.put_opts(location, payload, opts).await,
                Fault::Deny => Err(denied(location)),
                Fault::Fail => Err(injected()),
                Fault::LoseReply => {
                    self.inner.put_opts(location, payload, opts).await?;
                    Err(injected())
                }
                Fault::Vanish => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
                Fault::Truncate => self.inner.put_opts(location, half(payload), opts).await,
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
            match self.next(&self.gets) {
                Fault::None => self.inner.get_opts(location, options).await,
                Fault::Fail | Fault::LoseReply | Fault::Deny => Err(injected()),
                Fault::Vanish => Err(Error::NotFound { path: location.to_string(), source: "injected".into() }),
                Fault::Truncate => truncated(self.inner.get_opts(location, options).await?).await,
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
        match self.next(&self.gets) {
            Fault::None => self.inner.list(prefix),
            _ => {
                // What came before the failure must not be taken for everything.
                let before = self.inner.list(prefix).take(1);
                before.chain(futures::stream::iter([Err(injected())])).boxed()
            }
        }
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
        match self.store.next(&self.store.puts) {
            Fault::None | Fault::Vanish => self.inner.put_part(data),
            Fault::Fail | Fault::LoseReply | Fault::Deny => Box::pin(async { Err(injected()) }),
            Fault::Truncate => self.inner.put_part(half(data)),
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
