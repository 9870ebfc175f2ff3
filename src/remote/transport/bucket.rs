//! Opens buckets of clouds: S3, Google Cloud Storage and Azure Blob Storage.
//!
//! *Not here*: requests to them.
//!
//! *Invariants*: only [`enable_buckets`] refers to the code for clouds, so the linker leaves it out of a program that
//! never calls that function. `sapwood-prepare-root`, which is part of every initramfs, does not call it.
//!
//! *Used by* `open`.

use std::str::FromStr;
use std::sync::OnceLock;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use super::http::Connector;
use super::options::TransportOptions;

/// The object store behind a URL, or the error of opening it.
pub(super) type OpenedStore = object_store::Result<Box<dyn ObjectStore>>;

/// A function that opens the object store behind a URL.
pub(super) type StoreOpener = fn(&str, &TransportOptions, Connector, RetryConfig) -> OpenedStore;

/// The schemes of buckets' URLs.
const SCHEMES: [&str; 6] = ["s3", "s3a", "gs", "az", "abfs", "abfss"];

/// The function that finds the opener for a scheme, set by [`enable_buckets`].
static FIND_OPENER: OnceLock<fn(&str) -> Option<StoreOpener>> = OnceLock::new();

/// Enables buckets for all transports of this process. A program that does not call this can use directories and web
/// servers only, and is smaller.
pub(crate) fn enable_buckets() {
    // A second call sets the same value.
    let _ = FIND_OPENER.set(|scheme| match scheme {
        "s3" | "s3a" => Some(open_s3),
        "gs" => Some(open_gs),
        "az" | "abfs" | "abfss" => Some(open_az),
        _ => None,
    });
}

/// Returns whether a scheme is one of a bucket.
pub(super) fn is_scheme(scheme: &str) -> bool {
    SCHEMES.contains(&scheme)
}

/// Returns the opener for the scheme of a bucket; `None` when this program reaches no buckets.
pub(super) fn opener(scheme: &str) -> Option<StoreOpener> {
    FIND_OPENER.get().and_then(|find| find(scheme))
}

/// Returns whether this program can reach what is at `url`, as far as the scheme tells.
pub(super) fn is_reachable(url: &str) -> bool {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    !is_scheme(scheme) || opener(scheme).is_some()
}

fn open_s3(url: &str, options: &TransportOptions, connector: Connector, retry: RetryConfig) -> OpenedStore {
    let builder = AmazonS3Builder::new().with_url(url).with_retry(retry);
    let builder = with_settings(builder, options, |builder, key, value| builder.with_config(key, value));
    Ok(Box::new(builder.with_http_connector(connector).build()?))
}

fn open_gs(url: &str, options: &TransportOptions, connector: Connector, retry: RetryConfig) -> OpenedStore {
    let builder = GoogleCloudStorageBuilder::new().with_url(url).with_retry(retry);
    let builder = with_settings(builder, options, |builder, key, value| builder.with_config(key, value));
    Ok(Box::new(builder.with_http_connector(connector).build()?))
}

fn open_az(url: &str, options: &TransportOptions, connector: Connector, retry: RetryConfig) -> OpenedStore {
    let builder = MicrosoftAzureBuilder::new().with_url(url).with_retry(retry);
    let builder = with_settings(builder, options, |builder, key, value| builder.with_config(key, value));
    Ok(Box::new(builder.with_http_connector(connector).build()?))
}

/// Returns whether a setting that should name a server does not: the object stores take it for checked.
pub(super) fn is_bad_endpoint(name: &str, value: &str) -> bool {
    let names_server = name.contains("ENDPOINT") && !name.contains("USE_") || name == "GOOGLE_BASE_URL";
    names_server && !Url::parse(value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Applies the settings that a builder knows.
fn with_settings<B, K: FromStr>(builder: B, options: &TransportOptions, set: fn(B, K, &str) -> B) -> B {
    options.settings.iter().fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
        Ok(key) => set(builder, key, value),
        Err(_) => builder,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Transport, TransportError};
    use super::*;

    // Nothing else in the library's own tests enables buckets, as nothing in `sapwood-prepare-root` does.
    #[test]
    fn program_without_buckets_refuses_urls_and_skips_mirrors() {
        for url in ["s3://bucket/os", "gs://bucket/os", "az://bucket/os"] {
            let refused = Transport::open(url, &TransportOptions::default()).map(drop);
            let Err(TransportError::Url { reason, .. }) = refused else { panic!("{url}: {refused:?}") };
            assert_eq!(reason, "this program reads from file, http and https, and not from buckets");
        }
        let mirrors = vec!["s3://bucket/os".to_owned(), "file:///srv/os".to_owned()];
        let options = TransportOptions { mirrors, ..TransportOptions::default() };
        Transport::open("file:///srv/repo", &options).expect("the mirror in a bucket is left out");
    }
}
