//! Moves bytes to and from a URL.
//!
//! A private async runtime drives the requests, and callers block. A path is relative to the URL and has no leading
//! slash. All methods may be called from any thread; parallel requests are made by calls from several threads. Received
//! bytes are bounded by what was requested. The caller passes a check of the content, and a wrong answer of any kind
//! (bytes, status, length, range, coding, a page instead of data) is treated alike, by the rule in `retry`. A body that
//! broke off is continued at the same position.
//!
//! *Not here*: formats, and the meaning of paths.
//!
//! *Invariants*: async code is in this module only.
//!
//! *Used by* `remote`, `cache` and `cli`.

mod appearance;
mod bandwidth;
mod bucket;
mod certificate;
mod cleanup;
mod counters;
mod error;
mod hide;
mod http;
mod open;
mod options;
mod prepared;
mod read;
mod reason;
mod retry;
mod retry_class;
mod tls;
mod write;

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

pub(crate) use bucket::enable_buckets;
pub(crate) use certificate::{CertificateFault, TlsFault};
pub(crate) use counters::{Traffic, TrafficCounters};
pub use error::TransportError;
pub(crate) use hide::without_secret;
pub(crate) use http::check_proxy;
pub use options::TransportOptions;
pub use prepared::{PreparedAnswer, PreparedAnswers};
pub(crate) use read::Mutability;
pub(crate) use reason::FailureReason;
pub(crate) use retry::{jitter_factor, pause_after_wrong};
pub use retry_class::TRIES_MAX;
pub(crate) use retry_class::{Rejection, RetryClass, StreamControl};

use crate::disk::Lock;
use bandwidth::BandwidthLimit;
use open::{Endpoint, EndpointPurpose};
use retry_class::Need;

/// The condition of a write: what it may replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteCondition {
    /// It replaces any existing file.
    Overwrite,
    /// It replaces nothing: fails with [`TransportError::Exists`] when there is a file already.
    IfAbsent,
    /// It replaces this version only: fails with [`TransportError::Changed`] when there is another.
    IfVersion(FileVersion),
}

/// The version of a mutable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVersion {
    e_tag: Option<String>,
    version: Option<String>,
}

/// A file in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedFile {
    /// Relative to the URL.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) length: u64,
    /// When it was written, by the server's clock.
    pub(crate) modified: SystemTime,
}

/// A connection to one URL and its mirrors. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<TransportInner>,
    /// How long requests are repeated without progress.
    patience: Duration,
    /// When requests have to be finished in any case.
    deadline: Option<Instant>,
    need: Need,
    /// Whether the caller has made the same request before and got a wrong answer.
    is_repeated: bool,
}

struct TransportInner {
    /// The URL itself, then its mirrors.
    endpoints: Vec<Endpoint>,
    /// The number of the endpoint that answered last.
    preferred: AtomicUsize,
    runtime: tokio::runtime::Runtime,
    counters: Arc<TrafficCounters>,
    limit: Option<BandwidthLimit>,
    /// Whether a warning was logged that no endpoint answers.
    has_warned_waiting: AtomicBool,
    /// Whether a warning was logged that a server sends whole files instead of parts.
    has_warned_whole_files: AtomicBool,
    /// The lock that announces to other publishers that this process writes to a directory.
    upload_lock: OnceLock<Lock>,
}

impl Transport {
    /// Opens a connection to `url`; sends nothing yet.
    ///
    /// # Errors
    /// [`TransportError`] when the URL or the options cannot be used.
    pub fn open(url: &str, options: &TransportOptions) -> Result<Self, TransportError> {
        Self::open_for(EndpointPurpose::Source, url, options)
    }

    /// Opens a connection to a URL that is published to: a directory is created when something is written.
    ///
    /// # Errors
    /// As for [`Self::open`], and [`TransportError::CannotWrite`] for a plain web server, so that it is reported before
    /// an hour of packing.
    pub(crate) fn open_destination(url: &str, options: &TransportOptions) -> Result<Self, TransportError> {
        let transport = Self::open_for(EndpointPurpose::Destination, url, options)?;
        transport.writable()?;
        Ok(transport)
    }

    fn open_for(purpose: EndpointPurpose, url: &str, options: &TransportOptions) -> Result<Self, TransportError> {
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
        Self::with_endpoints(endpoints, counters, options)
    }

    fn with_endpoints(
        endpoints: Vec<Endpoint>,
        counters: Arc<TrafficCounters>,
        options: &TransportOptions,
    ) -> Result<Self, TransportError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sapwood-net")
            .enable_all()
            .build()
            .map_err(TransportError::Runtime)?;
        let limit = options.rate_limit.map(BandwidthLimit::new);
        let (preferred, has_warned_waiting) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (upload_lock, has_warned_whole_files) = (OnceLock::new(), AtomicBool::new(false));
        let inner = Arc::new(TransportInner {
            endpoints,
            preferred,
            runtime,
            counters,
            limit,
            has_warned_waiting,
            has_warned_whole_files,
            upload_lock,
        });
        let need = inner.endpoints[0].need();
        Ok(Self { inner, patience: options.retry_limit(), deadline: None, need, is_repeated: false })
    }

    /// Returns the connection with a bound on the time for which requests are repeated without progress.
    pub(crate) fn with_patience(&self, patience: Duration) -> Self {
        Self { patience: self.patience.min(patience), ..self.clone() }
    }

    /// Returns the connection with a deadline for whole requests.
    pub(crate) fn with_deadline(&self, end: Instant) -> Self {
        Self { deadline: Some(self.deadline.map_or(end, |deadline| deadline.min(end))), ..self.clone() }
    }

    /// Returns the connection for content that the caller can do without: a request fails as soon as each endpoint has
    /// answered wrongly twice.
    pub(crate) fn optional(&self) -> Self {
        Self { need: Need::Optional, ..self.clone() }
    }

    /// Returns the connection for a caller that has made the same request before and got a wrong answer: each endpoint
    /// is asked once, bypassing caches.
    pub(crate) fn after_wrong_answer(&self) -> Self {
        Self { is_repeated: true, ..self.clone() }
    }

    /// Returns how a failed request is repeated, for a caller that needs the content.
    pub(crate) fn retry_class(&self, error: &TransportError) -> RetryClass {
        let are_directories = self.inner.endpoints.iter().all(Endpoint::is_directory);
        match error.retry_class() {
            // There is no cache before a directory: it would return the same again.
            RetryClass::Limited | RetryClass::Absent if are_directories => RetryClass::OncePerPlace,
            RetryClass::Absent => RetryClass::Limited,
            class => class,
        }
    }

    /// Returns the connection for content that must exist: its absence is a wrong answer like any other.
    pub(crate) fn required(&self) -> Self {
        Self { need: Need::Required, ..self.clone() }
    }

    /// Returns the URL.
    pub(crate) fn url(&self) -> &str {
        &self.first().url
    }

    /// Returns the counters of requests and bytes.
    pub(crate) fn counters(&self) -> &Arc<TrafficCounters> {
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
