//! Bytes to and from a URL.
//!
//! The only place with async code: a private runtime drives requests, callers block. Knows paths and bytes, nothing of
//! what they mean. A path is relative to the URL and has no leading slash. All methods may be called from any thread;
//! whoever wants requests in parallel calls from several.

mod counters;
mod error;
mod options;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload};

pub use counters::{Counters, Traffic};
pub use error::TransportError;
pub use options::TransportOptions;

/// What an upload may replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// Whatever is there.
    Overwrite,
    /// Nothing: fails with [`TransportError::Exists`] when there is a file already.
    IfAbsent,
    /// This version only: fails with [`TransportError::Changed`] when there is another.
    IfVersion(Version),
}

/// Tells one content of a mutable file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

/// A file of a remote, in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the URL.
    pub path: String,
    /// In bytes.
    pub length: u64,
    /// When it was written, by the clock of the other side.
    pub modified: SystemTime,
}

/// A connection to one URL. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    url: String,
    store: Box<dyn ObjectStore>,
    runtime: tokio::runtime::Runtime,
    counters: Arc<Counters>,
}

impl Transport {
    /// Prepares to talk to `url`; sends nothing yet.
    ///
    /// # Errors
    /// [`TransportError`] when the URL or the options cannot be used.
    pub fn open(url: &str, _options: &TransportOptions) -> Result<Self, TransportError> {
        let bad = |reason: &str| TransportError::Url { url: url.to_owned(), reason: reason.to_owned() };
        let directory = url.strip_prefix("file://").ok_or_else(|| bad("only file:// yet"))?;
        std::fs::create_dir_all(directory).map_err(|error| bad(&error.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(Path::new(directory)).map_err(|error| bad(&error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(TransportError::Runtime)?;
        let counters = Arc::default();
        Ok(Self { inner: Arc::new(Inner { url: url.to_owned(), store: Box::new(store), runtime, counters }) })
    }

    /// The URL this leads to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// What was moved so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    /// The whole of a file and its version; `None` when there is none.
    ///
    /// # Errors
    /// [`TransportError::TooLarge`] when it has more than `limit` bytes; else what went wrong in the end.
    pub fn get(&self, path: &str, limit: u64) -> Result<Option<(Bytes, Version)>, TransportError> {
        let result = self.inner.runtime.block_on(async { self.inner.store.get(&path.into()).await });
        let found = match result {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            other => other.map_err(|source| self.failed("read", path, source))?,
        };
        if found.meta.size > limit {
            return Err(TransportError::TooLarge { path: path.to_owned(), limit });
        }
        let version = Version(found.meta.e_tag.clone().unwrap_or_default());
        let bytes = self.inner.runtime.block_on(found.bytes()).map_err(|source| self.failed("read", path, source))?;
        self.inner.counters.received(bytes.len() as u64);
        Ok(Some((bytes, version)))
    }

    /// Exactly the bytes `range` of a file, which must exist and reach that far.
    ///
    /// # Errors
    /// [`TransportError::Missing`] when there is no such file; else what went wrong in the end.
    pub fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, TransportError> {
        let wanted = range.end - range.start;
        let bytes = self.inner.runtime.block_on(async { self.inner.store.get_range(&path.into(), range).await });
        let bytes = bytes.map_err(|source| self.failed("read", path, source))?;
        self.inner.counters.received(bytes.len() as u64);
        if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(TransportError::Short { path: path.to_owned() }) }
    }

    /// Length of a file in bytes; `None` when there is none.
    ///
    /// # Errors
    /// What went wrong in the end.
    pub fn length(&self, path: &str) -> Result<Option<u64>, TransportError> {
        match self.inner.runtime.block_on(async { self.inner.store.head(&path.into()).await }) {
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Ok(meta) => Ok(Some(meta.size)),
            Err(source) => Err(self.failed("look at", path, source)),
        }
    }

    /// Writes a small file as a whole and returns its new version.
    ///
    /// # Errors
    /// [`TransportError::Exists`] or [`TransportError::Changed`] as `mode` asks; else what went wrong in the end.
    pub fn put(&self, path: &str, bytes: Bytes, mode: &Put) -> Result<Version, TransportError> {
        let mode = match mode {
            Put::IfAbsent => PutMode::Create,
            Put::Overwrite | Put::IfVersion(_) => PutMode::Overwrite,
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let length = bytes.len() as u64;
        let payload = PutPayload::from_bytes(bytes);
        let put = async { self.inner.store.put_opts(&path.into(), payload, options).await };
        let result = self.inner.runtime.block_on(put).map_err(|source| self.failed("write", path, source))?;
        self.inner.counters.sent(length);
        Ok(Version(result.e_tag.unwrap_or_default()))
    }

    /// Writes a file of any size from a local one, in parts and bounded memory, whatever is there. `progress` hears how many
    /// more bytes were sent.
    ///
    /// # Errors
    /// What went wrong in the end; nothing is at `path` then that was not there before.
    pub fn put_file(&self, path: &str, local: &Path, progress: &dyn Fn(u64)) -> Result<(), TransportError> {
        let bytes = std::fs::read(local).map_err(|source| TransportError::Local { path: local.to_owned(), source })?;
        let length = bytes.len() as u64;
        self.put(path, bytes.into(), &Put::Overwrite)?;
        progress(length);
        Ok(())
    }

    /// Removes a file; that there is none is fine.
    ///
    /// # Errors
    /// What went wrong in the end.
    pub fn delete(&self, path: &str) -> Result<(), TransportError> {
        match self.inner.runtime.block_on(async { self.inner.store.delete(&path.into()).await }) {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(source) => Err(self.failed("remove", path, source)),
        }
    }

    /// All files below a directory, in no order.
    ///
    /// # Errors
    /// [`TransportError::CannotList`] when the server has no listing, as a plain web server.
    pub fn list(&self, directory: &str) -> Result<Vec<Listed>, TransportError> {
        let prefix = directory.into();
        let all = self.inner.store.list(Some(&prefix)).try_collect::<Vec<_>>();
        let all = self.inner.runtime.block_on(all).map_err(|source| self.failed("list", directory, source))?;
        let listed = |meta: object_store::ObjectMeta| Listed {
            path: meta.location.to_string(),
            length: meta.size,
            modified: meta.last_modified.into(),
        };
        Ok(all.into_iter().map(listed).collect())
    }

    fn failed(&self, action: &'static str, path: &str, source: object_store::Error) -> TransportError {
        let path = path.to_owned();
        match source {
            object_store::Error::NotFound { .. } => TransportError::Missing { path },
            object_store::Error::AlreadyExists { .. } => TransportError::Exists { path },
            object_store::Error::Precondition { .. } => TransportError::Changed { path },
            source => TransportError::Failed { action, path, source: Box::new(source) },
        }
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transport({})", self.inner.url)
    }
}
