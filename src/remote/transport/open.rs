//! Opens the object store behind a URL.
//!
//! *Not here*: requests (`read`, `write`), and buckets (`bucket`).
//!
//! *Used by* `transport`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::client::HttpConnector;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use parking_lot::Mutex;
use reqwest::StatusCode;
use url::Url;

use super::bucket::{self, OpenedStore, StoreOpener};
use super::counters::TrafficCounters;
use super::error::TransportError;
use super::hide::without_secret;
use super::http::{Connector, SecretPolicy};
use super::options::TransportOptions;
use super::reason::FailureReason;
use super::retry_class::{Caches, Need};
use crate::store::Store;

/// How long an endpoint that sent wrong content is tried last.
const DISTRUST_PERIOD: Duration = Duration::from_secs(300);

/// The kind of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EndpointKind {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A plain web server: cannot be listed or written.
    Web,
    /// A bucket: S3 or compatible, Google Cloud Storage, Azure.
    Bucket,
}

/// The purpose for which a URL is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndpointPurpose {
    /// For reading what is published there. A directory that does not exist is unreachable, like a server that is down.
    Source,
    /// For publishing. A directory that does not exist is an empty one.
    Destination,
}

/// A URL or mirror that has the files.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(crate) url: String,
    pub(crate) kind: EndpointKind,
    /// The store for reads: it sends a request once. Repeating it is decided in `retry`.
    single_attempt: Box<dyn ObjectStore>,
    /// The store for reads that bypass caches.
    uncached: Box<dyn ObjectStore>,
    /// Until when it is tried last, since it sent wrong content.
    distrusted_until: Mutex<Option<Instant>>,
    /// The store for all other requests, which repeats them itself.
    pub(crate) retrying: Box<dyn ObjectStore>,
    /// The prefix of every path.
    pub(crate) prefix: Path,
    purpose: EndpointPurpose,
}

impl Endpoint {
    /// Opens the endpoint at `url`, which is `main` or one of its mirrors.
    pub(super) fn open(
        main: &str,
        url: &str,
        options: &TransportOptions,
        counters: &Arc<TrafficCounters>,
        purpose: EndpointPurpose,
    ) -> Result<Self, TransportError> {
        let bad = |reason: &dyn std::fmt::Display| TransportError::Url {
            url: without_secret(url),
            reason: reason.to_string(),
        };
        let parsed = Url::parse(url).map_err(|error| bad(&error))?;
        let prefix = Path::from_url_path(parsed.path()).map_err(|error| bad(&error))?;
        let scheme = parsed.scheme();
        if scheme == "file" {
            let directory = parsed.to_file_path().map_err(|()| bad(&"it names no path of this machine"))?;
            if Store::is_repository(&directory) {
                return Err(bad(
                    &"it is a repository; others pull from a directory of its own, which 'sapwood publish' fills",
                ));
            }
            let store = || Box::new(LocalFileSystem::new().with_fsync(true));
            let kind = EndpointKind::Directory(directory);
            let stores = [store(), store(), store()].map(|store| store as Box<dyn ObjectStore>);
            return Ok(Self::with_stores(url, kind, stores, prefix, purpose));
        }
        let (kind, open, prefix): (EndpointKind, StoreOpener, Path) = match scheme {
            "http" | "https" => (EndpointKind::Web, open_web, Path::default()),
            bucket if bucket::is_scheme(bucket) => match bucket::opener(bucket) {
                Some(open) => (EndpointKind::Bucket, open, prefix),
                None => return Err(bad(&"this program reads from file, http and https, and not from buckets")),
            },
            other => return Err(bad(&format_args!("'{other}' is none of file, http, https, s3, gs, az"))),
        };
        if kind == EndpointKind::Web && (!parsed.username().is_empty() || parsed.password().is_some()) {
            return Err(bad(&"a name or password does not belong into it; see --bearer-file"));
        }
        let mut settings = options.settings.iter().filter(|_| kind == EndpointKind::Bucket);
        if let Some((name, value)) = settings.find(|(name, value)| bucket::is_bad_endpoint(name, value)) {
            return Err(bad(&format_args!("{name} should be a URL such as https://s3.example.org, and is '{value}'")));
        }
        let is_same_server = || Url::parse(main).is_ok_and(|main| main.origin() == parsed.origin());
        let connector = match kind {
            EndpointKind::Web if is_same_server() => Connector::web(options, SecretPolicy::Sent, counters)?,
            EndpointKind::Web => Connector::web(options, SecretPolicy::Withheld, counters)?,
            EndpointKind::Bucket | EndpointKind::Directory(_) => Connector::bucket(options, counters)?,
        };
        let persistent = connector.with_store_retries(options.retry_limit());
        let once = || RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let uncached = open(url, options, connector.bypassing_caches(), once()).map_err(|error| bad(&error))?;
        let single_attempt = open(url, options, connector, once()).map_err(|error| bad(&error))?;
        let retrying = open(url, options, persistent, retry_config(options)).map_err(|error| bad(&error))?;
        Ok(Self::with_stores(url, kind, [single_attempt, uncached, retrying], prefix, purpose))
    }

    fn with_stores(
        url: &str,
        kind: EndpointKind,
        stores: [Box<dyn ObjectStore>; 3],
        prefix: Path,
        purpose: EndpointPurpose,
    ) -> Self {
        let [single_attempt, uncached, retrying] = stores;
        Self {
            url: without_secret(url),
            kind,
            single_attempt,
            uncached,
            distrusted_until: Mutex::new(None),
            retrying,
            prefix,
            purpose,
        }
    }

    /// Returns the object store that sends a request once.
    pub(super) fn store_for(&self, caches: Caches) -> &dyn ObjectStore {
        match caches {
            Caches::Allowed => &*self.single_attempt,
            Caches::Bypassed => &*self.uncached,
        }
    }

    /// Marks it as one that sent wrong content: it is tried last for a while.
    pub(super) fn distrust(&self) {
        *self.distrusted_until.lock() = Some(Instant::now() + DISTRUST_PERIOD);
    }

    /// Returns whether it sent wrong content recently.
    pub(super) fn is_distrusted(&self) -> bool {
        self.distrusted_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Returns a web server for which `connector` answers every request.
    pub(super) fn with_connector<C: HttpConnector + Clone>(connector: C) -> Result<Self, TransportError> {
        let url = "http://prepared.invalid".to_owned();
        let open = || {
            let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
            let opened = open_web(&url, &TransportOptions::default(), connector.clone(), once);
            opened.map_err(|error| TransportError::Url { url: url.clone(), reason: error.to_string() })
        };
        Ok(Self::with_stores(
            &url,
            EndpointKind::Web,
            [open()?, open()?, open()?],
            Path::default(),
            EndpointPurpose::Source,
        ))
    }

    /// Returns how much is needed what is requested here: a publisher's destination may lack any file.
    pub(super) const fn need(&self) -> Need {
        match self.purpose {
            EndpointPurpose::Destination => Need::Destination,
            EndpointPurpose::Source => Need::Likely,
        }
    }

    /// Returns the path of a file in the object store.
    pub(super) fn path(&self, path: &str) -> Path {
        if self.prefix.is_root() { Path::from(path) } else { Path::from(format!("{}/{path}", self.prefix)) }
    }

    /// Converts the object store's error about `path`.
    pub(super) fn classify_error(
        &self,
        action: &'static str,
        path: &str,
        source: object_store::Error,
    ) -> TransportError {
        let path = path.to_owned();
        match source {
            object_store::Error::NotFound { .. } => match &self.kind {
                EndpointKind::Directory(directory)
                    if self.purpose == EndpointPurpose::Source && !directory.is_dir() =>
                {
                    TransportError::Gone { directory: directory.clone() }
                }
                _ => TransportError::Missing { path },
            },
            object_store::Error::AlreadyExists { .. } => TransportError::Exists { path },
            object_store::Error::Precondition { .. } => TransportError::Changed { path },
            source => match FailureReason::of_store(&source) {
                source @ (FailureReason::NoCredentials
                | FailureReason::Status {
                    status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, ..
                }) => TransportError::Denied { action, path, source },
                // The file ends before the first requested byte.
                FailureReason::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. } => {
                    TransportError::Short { path }
                }
                source => TransportError::Failed { action, path, source },
            },
        }
    }
}

fn open_web<C: HttpConnector>(url: &str, _: &TransportOptions, connector: C, retry: RetryConfig) -> OpenedStore {
    let builder = HttpBuilder::new().with_url(url.trim_end_matches('/')).with_retry(retry);
    let plain = ClientOptions::new().with_allow_http(true);
    Ok(Box::new(builder.with_client_options(plain).with_http_connector(connector).build()?))
}

/// Returns the retries of an object store: after 0.1 s, then after pauses that grow by half on average, up to 15 s,
/// until the patience is over. The library draws each pause between the first and `base` times the previous one, so
/// with a base of 2 they would not grow at all.
fn retry_config(options: &TransportOptions) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: std::time::Duration::from_millis(100),
        max_backoff: std::time::Duration::from_secs(15),
        base: 3.0,
    };
    RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: options.retry_limit() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_retried_until_the_patience_is_over() {
        let options = TransportOptions { patience: 77, ..TransportOptions::default() };
        let retry = retry_config(&options);
        assert_eq!(retry.retry_timeout, Duration::from_secs(77));
        assert_eq!(retry.max_retries, usize::MAX);
        // With 2 the pauses would not grow: each is drawn between the first and this many times the previous one.
        assert!(retry.backoff.base > 2.0);
    }
}
