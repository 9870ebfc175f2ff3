//! Bytes to and from a URL.
//!
//! The only place with async code: a private runtime drives requests, callers block. Knows paths and bytes, nothing of
//! what they mean. A path is relative to the URL and has no leading slash. All methods may be called from any thread;
//! whoever wants requests in parallel calls from several.
//!
//! What a server sends is bounded by what was asked for. Requests that failed in a way that may pass (no connection, a
//! stall, a broken body, 408, 429, 5xx) are sent again with growing, jittered pauses, mirrors asked in between, until
//! nothing has moved for as long as the patience of the options. A body that broke is gone on with where it did.

mod bucket;
mod counters;
mod error;
mod http;
mod limit;
mod open;
mod options;
mod prepared;
mod read;
mod reason;
mod sweep;
mod tls;
mod turns;
mod write;

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

pub use bucket::enable_buckets;
pub use counters::{Counters, Traffic};
pub use error::TransportError;
pub use options::TransportOptions;
pub use prepared::{PreparedAnswer, PreparedAnswers};
pub use reason::{Reason, Said};

use crate::disk::Lock;
use limit::RateLimit;
use open::{Endpoint, Purpose};

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
pub struct Version {
    e_tag: Option<String>,
    version: Option<String>,
}

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

/// A connection to one URL and its mirrors. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
    /// How long to go on receiving when nothing comes.
    patience: Duration,
}

struct Inner {
    /// The URL itself, then its mirrors.
    endpoints: Vec<Endpoint>,
    /// The one that answered last.
    preferred: AtomicUsize,
    runtime: tokio::runtime::Runtime,
    counters: Arc<Counters>,
    limit: Option<RateLimit>,
    /// Whether it was said that nobody answers.
    said: AtomicBool,
    /// Says to other publishers that we write to a directory.
    writing: OnceLock<Lock>,
}

impl Transport {
    /// Prepares to talk to `url`; sends nothing yet.
    ///
    /// # Errors
    /// [`TransportError`] when the URL or the options cannot be used.
    pub fn open(url: &str, options: &TransportOptions) -> Result<Self, TransportError> {
        Self::open_for(Purpose::Source, url, options)
    }

    /// Like [`Self::open`], for a URL that is published to: a directory is made when something is written.
    ///
    /// # Errors
    /// As for [`Self::open`], and [`TransportError::CannotWrite`] for a plain web server: better now than after an hour of
    /// packing.
    pub fn open_destination(url: &str, options: &TransportOptions) -> Result<Self, TransportError> {
        let transport = Self::open_for(Purpose::Destination, url, options)?;
        transport.writable()?;
        Ok(transport)
    }

    fn open_for(purpose: Purpose, url: &str, options: &TransportOptions) -> Result<Self, TransportError> {
        let counters = Arc::default();
        let mirrors = options.mirrors.iter().map(String::as_str).filter(|mirror| {
            let is_reachable = bucket::is_reachable(mirror);
            if !is_reachable {
                tracing::warn!("the mirror {mirror} is not asked: this program does not read from buckets");
            }
            is_reachable
        });
        let urls = std::iter::once(url).chain(mirrors);
        let open = |place| Endpoint::open(url, place, options, &counters, purpose);
        let endpoints = urls.map(open).collect::<Result<_, _>>()?;
        Self::to(endpoints, counters, options)
    }

    fn to(
        endpoints: Vec<Endpoint>,
        counters: Arc<Counters>,
        options: &TransportOptions,
    ) -> Result<Self, TransportError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sapwood-net")
            .enable_all()
            .build()
            .map_err(TransportError::Runtime)?;
        let limit = options.rate_limit.map(RateLimit::new);
        let (preferred, said) = (AtomicUsize::new(0), AtomicBool::new(false));
        let writing = OnceLock::new();
        let inner = Arc::new(Inner { endpoints, preferred, runtime, counters, limit, said, writing });
        Ok(Self { inner, patience: options.retry_limit() })
    }

    /// The same connection for somebody who does not wait longer than `patience` for what does not come.
    #[must_use]
    pub fn impatient(&self, patience: Duration) -> Self {
        Self { inner: Arc::clone(&self.inner), patience: self.patience.min(patience) }
    }

    /// The URL this leads to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.first().url
    }

    /// What was moved so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.inner.counters
    }

    fn first(&self) -> &Endpoint {
        &self.inner.endpoints[0]
    }
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transport({})", self.url())
    }
}
