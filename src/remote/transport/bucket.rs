//! Buckets of clouds: S3, Google Cloud Storage and Azure Blob Storage.
//!
//! Purpose: making the object store behind an `s3://`, `gs://` or `az://` URL. Not here: what is done with it.
//! Invariant: nothing but [`enable_buckets`] names the clouds' code, so the linker leaves it out of a program that never
//! calls that. `sapwood-prepare-root`, which goes into every initramfs, does not. Used by `open`.

use std::str::FromStr;
use std::sync::OnceLock;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use super::http::Connector;
use super::options::TransportOptions;

/// The object store behind a URL.
pub(super) type Opened = object_store::Result<Box<dyn ObjectStore>>;

/// Makes the object store behind a URL.
pub(super) type Opener = fn(&str, &TransportOptions, Connector, RetryConfig) -> Opened;

/// The schemes of URLs that lead to buckets.
const SCHEMES: [&str; 6] = ["s3", "s3a", "gs", "az", "abfs", "abfss"];

/// Finds the opener for a scheme, in a program that called [`enable_buckets`].
static OPENERS: OnceLock<fn(&str) -> Option<Opener>> = OnceLock::new();

/// Lets every transport of this process reach buckets. A program that does not call this reaches directories and web
/// servers, and is smaller.
pub fn enable_buckets() {
    // A second call sets the same value.
    let _ = OPENERS.set(|scheme| match scheme {
        "s3" | "s3a" => Some(s3),
        "gs" => Some(gs),
        "az" | "abfs" | "abfss" => Some(az),
        _ => None,
    });
}

/// Returns whether a scheme is one of a bucket.
pub(super) fn is_scheme(scheme: &str) -> bool {
    SCHEMES.contains(&scheme)
}

/// Returns the opener for the scheme of a bucket; `None` when this program reaches no buckets.
pub(super) fn opener(scheme: &str) -> Option<Opener> {
    OPENERS.get().and_then(|find| find(scheme))
}

/// Returns whether this program can reach what is at `url`, as far as the scheme tells.
pub(super) fn is_reachable(url: &str) -> bool {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    !is_scheme(scheme) || opener(scheme).is_some()
}

fn s3(url: &str, options: &TransportOptions, connector: Connector, retry: RetryConfig) -> Opened {
    let builder = AmazonS3Builder::new().with_url(url).with_retry(retry);
    let builder = configured(builder, options, |builder, key, value| builder.with_config(key, value));
    Ok(Box::new(builder.with_http_connector(connector).build()?))
}

fn gs(url: &str, options: &TransportOptions, connector: Connector, retry: RetryConfig) -> Opened {
    let builder = GoogleCloudStorageBuilder::new().with_url(url).with_retry(retry);
    let builder = configured(builder, options, |builder, key, value| builder.with_config(key, value));
    Ok(Box::new(builder.with_http_connector(connector).build()?))
}

fn az(url: &str, options: &TransportOptions, connector: Connector, retry: RetryConfig) -> Opened {
    let builder = MicrosoftAzureBuilder::new().with_url(url).with_retry(retry);
    let builder = configured(builder, options, |builder, key, value| builder.with_config(key, value));
    Ok(Box::new(builder.with_http_connector(connector).build()?))
}

/// Returns whether a setting that should name a server does not: the object stores take it for checked.
pub(super) fn is_bad_endpoint(name: &str, value: &str) -> bool {
    let names_server = name.contains("ENDPOINT") && !name.contains("USE_") || name == "GOOGLE_BASE_URL";
    names_server && !Url::parse(value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Hands over those settings that a builder knows.
fn configured<B, K: FromStr>(builder: B, options: &TransportOptions, set: fn(B, K, &str) -> B) -> B {
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
    fn program_without_buckets_refuses_their_urls_and_skips_such_mirrors() {
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
