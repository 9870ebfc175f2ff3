//! The options of a connection.
//!
//! *Invariants*: the field names are keys of the remote's configuration file.
//!
//! *Used by* `transport`, `remotes` and `cli`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The options of a connection. All have defaults that suit a public web server.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TransportOptions {
    /// A file with a token that is sent as `Authorization: Bearer …`, only to the server of the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bearer_file: Option<PathBuf>,
    /// A PEM file with the client's certificate and its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    /// A PEM file with the trusted authorities, instead of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Other URLs with the same content, tried in order when the first fails.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<String>,
    /// The most bytes to receive per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u64>,
    /// The proxy to use, instead of the one in the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The longest time in seconds for establishing a connection.
    pub connect_timeout: u64,
    /// Seconds without a byte, or with fewer than `min_rate` per second, after which a request is repeated.
    pub stall_timeout: u64,
    /// The fewest bytes per second that a server has to send.
    pub min_rate: u64,
    /// Seconds after which a request that keeps failing without progress is given up.
    pub patience: u64,
    /// Settings by the names of environment variables: `AWS_…`, `GOOGLE_…`, `AZURE_…`, `SSL_CERT_FILE`, `https_proxy`.
    #[serde(skip)]
    pub settings: BTreeMap<String, String>,
}

impl Default for TransportOptions {
    fn default() -> Self {
        Self {
            bearer_file: None,
            client_certificate: None,
            ca_file: None,
            mirrors: Vec::new(),
            rate_limit: None,
            proxy: None,
            connect_timeout: 10,
            stall_timeout: 20,
            min_rate: 1000,
            patience: 120,
            settings: BTreeMap::new(),
        }
    }
}

/// The longest time for any wait, in seconds: some 30 years. It keeps computed points in time in range.
const WAIT_SECONDS_MAX: u64 = 1_000_000_000;

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(if number < WAIT_SECONDS_MAX { number } else { WAIT_SECONDS_MAX })
}

impl TransportOptions {
    pub(super) const fn connect_limit(&self) -> Duration {
        seconds(self.connect_timeout)
    }

    pub(super) const fn stall_limit(&self) -> Duration {
        seconds(self.stall_timeout)
    }

    pub(super) const fn retry_limit(&self) -> Duration {
        seconds(self.patience)
    }

    /// Returns the first of these settings that exists and is not empty.
    pub(super) fn setting(&self, names: &[&str]) -> Option<&str> {
        names.iter().filter_map(|name| self.settings.get(*name)).map(String::as_str).find(|value| !value.is_empty())
    }
}
