//! From a URL to the object store behind it.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::counters::Counters;
use super::error::TransportError;
use super::http::Connector;
use super::options::TransportOptions;

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
    pub store: Box<dyn ObjectStore>,
    /// What stands before every path.
    pub prefix: Path,
    purpose: Purpose,
}

impl Endpoint {
    pub(super) fn open(
        url: &str,
        options: &TransportOptions,
        counters: &Arc<Counters>,
        purpose: Purpose,
    ) -> Result<Self, TransportError> {
        let bad =
            |reason: &dyn std::fmt::Display| TransportError::Url { url: url.to_owned(), reason: reason.to_string() };
        let parsed = Url::parse(url).map_err(|error| bad(&error))?;
        let prefix = Path::from_url_path(parsed.path()).map_err(|error| bad(&error))?;
        let retry = retry(options);
        let connector = || Connector::new(options, counters);
        let store_error = |error: object_store::Error| bad(&error);
        let (kind, store, prefix): (Kind, Box<dyn ObjectStore>, Path) = match parsed.scheme() {
            "file" => {
                let directory = parsed.to_file_path().map_err(|()| bad(&"it names no path of this machine"))?;
                let store = LocalFileSystem::new().with_fsync(true);
                (Kind::Directory(directory), Box::new(store), prefix)
            }
            "http" | "https" => {
                let builder = HttpBuilder::new().with_url(url.trim_end_matches('/')).with_retry(retry);
                let plain = ClientOptions::new().with_allow_http(true);
                let builder = builder.with_client_options(plain).with_http_connector(connector()?);
                (Kind::Web, Box::new(builder.build().map_err(store_error)?), Path::default())
            }
            "s3" | "s3a" => {
                let mut builder = AmazonS3Builder::new().with_url(url).with_retry(retry);
                for (name, value) in &options.settings {
                    if let Ok(key) = name.to_ascii_lowercase().parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                let builder = builder.with_http_connector(connector()?);
                (Kind::Bucket, Box::new(builder.build().map_err(store_error)?), prefix)
            }
            "gs" => {
                let mut builder = GoogleCloudStorageBuilder::new().with_url(url).with_retry(retry);
                for (name, value) in &options.settings {
                    if let Ok(key) = name.to_ascii_lowercase().parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                let builder = builder.with_http_connector(connector()?);
                (Kind::Bucket, Box::new(builder.build().map_err(store_error)?), prefix)
            }
            "az" | "abfs" | "abfss" => {
                let mut builder = MicrosoftAzureBuilder::new().with_url(url).with_retry(retry);
                for (name, value) in &options.settings {
                    if let Ok(key) = name.to_ascii_lowercase().parse() {
                        builder = builder.with_config(key, value);
                    }
                }
                let builder = builder.with_http_connector(connector()?);
                (Kind::Bucket, Box::new(builder.build().map_err(store_error)?), prefix)
            }
            other => return Err(bad(&format_args!("'{other}' is none of file, http, https, s3, gs, az"))),
        };
        Ok(Self { url: url.to_owned(), kind, store, prefix, purpose })
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
            source @ (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
                TransportError::Denied { path, source: Box::new(source) }
            }
            source => TransportError::Failed { action, path, source: Box::new(source) },
        }
    }
}

/// Tries again after 0.1 s, doubling with jitter up to 15 s. With mirrors, the next one is the better second try.
fn retry(options: &TransportOptions) -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: std::time::Duration::from_millis(100),
        max_backoff: std::time::Duration::from_secs(15),
        base: 2.0,
    };
    let max_retries = if options.mirrors.is_empty() { 10 } else { 2 };
    RetryConfig { backoff, max_retries, retry_timeout: options.retry_limit() }
}
