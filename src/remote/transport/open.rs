//! From a URL to the object store behind it.

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

use super::bucket::{self, Opened, Opener};
use super::counters::Counters;
use super::error::TransportError;
use super::hide::without_secret;
use super::hope::{Caches, Need};
use super::http::{Bearer, Connector};
use super::options::TransportOptions;
use super::reason::Reason;

/// How long a place that sent something wrong is asked last.
const DISTRUST: Duration = Duration::from_secs(300);

/// What is at a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A plain web server: cannot be listed or written.
    Web,
    /// A bucket of S3 and its likes.
    Bucket,
}

/// What a URL is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// For reading what is published there. A directory that does not exist is out of reach, like a server that is down.
    Source,
    /// For publishing. A directory that does not exist is an empty one.
    Destination,
}

/// One place where the files are.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub url: String,
    pub kind: Kind,
    /// For receiving: asks once. Who asks again, and whom, is decided above.
    once: Box<dyn ObjectStore>,
    /// The same past caches.
    fresh: Box<dyn ObjectStore>,
    /// Until when it is asked last, since it sent what it should not.
    distrusted: Mutex<Option<Instant>>,
    /// For everything else: asks again by itself.
    pub store: Box<dyn ObjectStore>,
    /// What stands before every path.
    pub prefix: Path,
    purpose: Purpose,
}

impl Endpoint {
    /// The place at `url`, which is `main` or one of its mirrors.
    pub(super) fn open(
        main: &str,
        url: &str,
        options: &TransportOptions,
        counters: &Arc<Counters>,
        purpose: Purpose,
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
            let store = || Box::new(LocalFileSystem::new().with_fsync(true));
            let kind = Kind::Directory(directory);
            let stores = [store(), store(), store()].map(|store| store as Box<dyn ObjectStore>);
            return Ok(Self::of(url, kind, stores, prefix, purpose));
        }
        let (kind, open, prefix): (Kind, Opener, Path) = match scheme {
            "http" | "https" => (Kind::Web, web, Path::default()),
            bucket if bucket::is_scheme(bucket) => match bucket::opener(bucket) {
                Some(open) => (Kind::Bucket, open, prefix),
                None => return Err(bad(&"this program reads from file, http and https, and not from buckets")),
            },
            other => return Err(bad(&format_args!("'{other}' is none of file, http, https, s3, gs, az"))),
        };
        if kind == Kind::Web && (!parsed.username().is_empty() || parsed.password().is_some()) {
            return Err(bad(&"a name or password does not belong into it; see --bearer-file"));
        }
        let mut settings = options.settings.iter().filter(|_| kind == Kind::Bucket);
        if let Some((name, value)) = settings.find(|(name, value)| bucket::is_bad_endpoint(name, value)) {
            return Err(bad(&format_args!("{name} should be a URL such as https://s3.example.org, and is '{value}'")));
        }
        let is_same_server = || Url::parse(main).is_ok_and(|main| main.origin() == parsed.origin());
        let connector = match kind {
            Kind::Web if is_same_server() => Connector::web(options, Bearer::Sent, counters)?,
            Kind::Web => Connector::web(options, Bearer::Withheld, counters)?,
            Kind::Bucket | Kind::Directory(_) => Connector::bucket(options, counters)?,
        };
        let persistent = connector.persistent(options.retry_limit());
        let once = || RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let fresh = open(url, options, connector.past_caches(), once()).map_err(|error| bad(&error))?;
        let once = open(url, options, connector, once()).map_err(|error| bad(&error))?;
        let store = open(url, options, persistent, retry(options)).map_err(|error| bad(&error))?;
        Ok(Self::of(url, kind, [once, fresh, store], prefix, purpose))
    }

    fn of(url: &str, kind: Kind, stores: [Box<dyn ObjectStore>; 3], prefix: Path, purpose: Purpose) -> Self {
        let [once, fresh, store] = stores;
        Self { url: without_secret(url), kind, once, fresh, distrusted: Mutex::new(None), store, prefix, purpose }
    }

    /// The object store that asks once.
    pub(super) fn asking(&self, caches: Caches) -> &dyn ObjectStore {
        match caches {
            Caches::Allowed => &*self.once,
            Caches::Bypassed => &*self.fresh,
        }
    }

    /// Has it asked last for a while.
    pub(super) fn distrust(&self) {
        *self.distrusted.lock() = Some(Instant::now() + DISTRUST);
    }

    /// Whether it sent something wrong a while ago.
    pub(super) fn is_distrusted(&self) -> bool {
        self.distrusted.lock().is_some_and(|until| Instant::now() < until)
    }

    /// A web server for which `connector` answers every request.
    pub(super) fn answered_by<C: HttpConnector + Clone>(connector: C) -> Result<Self, TransportError> {
        let url = "http://prepared.invalid".to_owned();
        let open = || {
            let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
            let opened = web(&url, &TransportOptions::default(), connector.clone(), once);
            opened.map_err(|error| TransportError::Url { url: url.clone(), reason: error.to_string() })
        };
        Ok(Self::of(&url, Kind::Web, [open()?, open()?, open()?], Path::default(), Purpose::Source))
    }

    /// How much is needed what is asked for here: a publisher's destination may lack anything.
    pub(super) const fn need(&self) -> Need {
        match self.purpose {
            Purpose::Destination => Need::Own,
            Purpose::Source => Need::Likely,
        }
    }

    /// The path of a file in the object store.
    pub(super) fn path(&self, path: &str) -> Path {
        if self.prefix.is_root() { Path::from(path) } else { Path::from(format!("{}/{path}", self.prefix)) }
    }

    /// What the object store's error about `path` means to us.
    pub(super) fn failed(&self, action: &'static str, path: &str, source: object_store::Error) -> TransportError {
        let path = path.to_owned();
        match source {
            object_store::Error::NotFound { .. } => match &self.kind {
                Kind::Directory(directory) if self.purpose == Purpose::Source && !directory.is_dir() => {
                    TransportError::Gone { directory: directory.clone() }
                }
                _ => TransportError::Missing { path },
            },
            object_store::Error::AlreadyExists { .. } => TransportError::Exists { path },
            object_store::Error::Precondition { .. } => TransportError::Changed { path },
            source => match Reason::of_store(&source) {
                source @ (Reason::NoCredentials
                | Reason::Status { status: StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, .. }) => {
                    TransportError::Denied { action, path, source }
                }
                // The file has fewer bytes than the first of those that were asked for.
                Reason::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. } => TransportError::Short { path },
                source => TransportError::Failed { action, path, source },
            },
        }
    }
}

fn web<C: HttpConnector>(url: &str, _: &TransportOptions, connector: C, retry: RetryConfig) -> Opened {
    let builder = HttpBuilder::new().with_url(url.trim_end_matches('/')).with_retry(retry);
    let plain = ClientOptions::new().with_allow_http(true);
    Ok(Box::new(builder.with_client_options(plain).with_http_connector(connector).build()?))
}

/// Tries again after 0.1 s, then after pauses that grow by half on average, up to 15 s, until the patience is over. The library
/// draws each pause between the first and `base` times the one before, so with a base of 2 they would not grow at all.
fn retry(options: &TransportOptions) -> RetryConfig {
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
    fn an_upload_is_tried_again_until_the_patience_is_over_and_no_count_ends_it() {
        let options = TransportOptions { patience: 77, ..TransportOptions::default() };
        let retry = retry(&options);
        assert_eq!(retry.retry_timeout, Duration::from_secs(77));
        assert_eq!(retry.max_retries, usize::MAX);
        // With 2 the pauses would not grow: each is drawn between the first and this times the one before.
        assert!(retry.backoff.base > 2.0);
    }
}
