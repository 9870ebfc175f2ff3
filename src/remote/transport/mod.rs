//! Bytes to and from a URL.
//!
//! The only place with async code: a private runtime drives requests, callers block. Knows paths and bytes, nothing of
//! what they mean. A path is relative to the URL and has no leading slash. All methods may be called from any thread;
//! whoever wants requests in parallel calls from several.
//!
//! What a server sends is bounded by what was asked for. The caller hands over a check of what comes, and a wrong answer of
//! any kind (bytes, status, length, range, coding, a page instead of data) is treated alike: `turns` has the rule. A body that
//! broke is gone on with where it did.

mod appearance;
mod bucket;
mod certificate;
mod counters;
mod error;
mod hide;
mod hope;
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
use std::time::{Duration, Instant, SystemTime};

pub use appearance::Appearance;
pub use bucket::enable_buckets;
pub use certificate::{CertificateFault, TlsFault};
pub use counters::{Counters, Traffic};
pub use error::TransportError;
pub use hide::without_secret;
pub use hope::{Flow, Hope, Refusal, TRIES_MAX};
pub use http::check_proxy;
pub use options::TransportOptions;
pub use prepared::{PreparedAnswer, PreparedAnswers};
pub use read::Mutability;
pub use reason::{Reason, Said};
pub use turns::{jitter, pause_after_wrong};

use crate::disk::Lock;
use hope::Need;
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
    /// How long to go on receiving when nothing comes, or nothing right.
    patience: Duration,
    /// When asking is to be over in any case.
    until: Option<Instant>,
    need: Need,
    /// Whether the same was asked a while ago, in vain.
    was_asked: bool,
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
    /// Whether it was said that a server sends whole files for parts.
    said_whole: AtomicBool,
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
        let (writing, said_whole) = (OnceLock::new(), AtomicBool::new(false));
        let inner = Arc::new(Inner { endpoints, preferred, runtime, counters, limit, said, said_whole, writing });
        let need = inner.endpoints[0].need();
        Ok(Self { inner, patience: options.retry_limit(), until: None, need, was_asked: false })
    }

    /// The same connection for somebody who does not wait longer than `patience` for what does not come.
    #[must_use]
    pub fn impatient(&self, patience: Duration) -> Self {
        Self { patience: self.patience.min(patience), ..self.clone() }
    }

    /// The same connection for somebody who has to have an answer by then, whatever is on its way.
    #[must_use]
    pub fn until(&self, end: Instant) -> Self {
        Self { until: Some(self.until.map_or(end, |until| until.min(end))), ..self.clone() }
    }

    /// The same connection for what there is a way without: it is given up as soon as each place has answered wrongly twice.
    #[must_use]
    pub fn optional(&self) -> Self {
        Self { need: Need::Optional, ..self.clone() }
    }

    /// The same connection for a caller that has asked the same before and got something wrong: each place is asked once, past
    /// caches.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { was_asked: true, ..self.clone() }
    }

    /// What waiting may do about a failure, for a caller that needs what it asked for.
    #[must_use]
    pub fn hope(&self, error: &TransportError) -> Hope {
        let are_directories = self.inner.endpoints.iter().all(Endpoint::is_directory);
        match error.hope() {
            // Nothing stands between us and a directory: it will say the same again.
            Hope::Again | Hope::Absent if are_directories => Hope::Twice,
            Hope::Absent => Hope::Again,
            hope => hope,
        }
    }

    /// The same connection for what must be there: that it is missing is an answer like any other wrong one.
    #[must_use]
    pub fn required(&self) -> Self {
        Self { need: Need::Must, ..self.clone() }
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
