//! The remotes that a repository knows: their names and their configuration, in `remotes/NAME.toml`.
//!
//! *Not here*: what was seen of their refs (`memory`).
//!
//! *Invariants*: every file is replaced as a whole.
//!
//! *Used by* `client`, `deploy` and `cli`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::freshness::ExpiredPolicy;
use super::transport::{TransportOptions, without_secret};
use crate::disk;
use crate::model::RefName;
use crate::store::Store;
use crate::trust::{KeyLimits, Keyring, PublicKey, RepositoryId, Trust};

/// The ending of the file name of a remote's configuration.
const CONFIG_SUFFIX: &str = ".toml";

/// The directory of what was seen of refs (`memory`). No remote's file can have this name, since those have an ending.
pub(super) const SEEN_DIRECTORY: &str = "seen";

/// The reason why a remote cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum RemotesError {
    /// There is no remote of this name.
    #[error("there is no remote '{0}'")]
    Unknown(RemoteName),
    /// There is a remote of this name already.
    #[error("there is a remote '{0}' already")]
    Exists(RemoteName),
    /// The configuration has no trusted key.
    #[error("no key is trusted for {0}")]
    NoKeys(String),
    /// The file of a remote cannot be parsed.
    #[error("cannot use {}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// The record of what was seen of a ref cannot be parsed.
    #[error("{} does not hold what was seen of a ref", .path.display())]
    Seen {
        /// The file.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// The action that was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// The error for a text that is no name of a remote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot name a remote: letters, digits, '.', '_' and '-', beginning with a letter or digit")]
pub struct RemoteNameError(String);

/// The name of a remote: one part of a ref's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct RemoteName(String);

impl RemoteName {
    /// Returns the name of a remote that has only a URL. All spellings of a URL have one name, whatever user and password
    /// are in it.
    pub(crate) fn of_url(url: &str) -> Self {
        let digest = Sha256::digest(normal_form(url).as_bytes());
        let digits: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("url-{digits}"))
    }

    /// Returns the name as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the local ref that follows this remote's ref.
    pub(crate) fn local_ref(&self, name: &RefName) -> RefName {
        format!("remotes/{self}/{name}").parse().expect("a ref's name with legal parts before it is a ref's name")
    }

    /// Returns the remote that a local ref follows, if it follows one.
    pub(crate) fn of_local_ref(name: &RefName) -> Option<Self> {
        Self::split_local_ref(name).map(|(remote, _)| remote)
    }

    /// Returns the remote that a local ref follows, with the remote's name of the ref.
    pub(crate) fn split_local_ref(name: &RefName) -> Option<(Self, RefName)> {
        let (remote, name) = name.as_str().strip_prefix("remotes/")?.split_once('/')?;
        Some((remote.parse().ok()?, name.parse().ok()?))
    }
}

/// Returns the one spelling of a URL: host in lower case and one name for this machine, no default port, no `.` and `..`,
/// no user, no `/` at the end.
fn normal_form(text: &str) -> String {
    let Ok(mut url) = url::Url::parse(text) else { return text.trim_end_matches('/').to_owned() };
    url.set_fragment(None);
    // These fail only for URLs that have no host.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    let is_loopback = match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        _ => false,
    };
    if is_loopback {
        let _ = url.set_host(Some("localhost"));
    }
    url.as_str().trim_end_matches('/').to_owned()
}

impl FromStr for RemoteName {
    type Err = RemoteNameError;

    fn from_str(text: &str) -> Result<Self, RemoteNameError> {
        if !text.contains('/') && text.parse::<RefName>().is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err(RemoteNameError(text.to_owned()))
        }
    }
}

impl fmt::Display for RemoteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether the successor of a trusted key is trusted, if that key announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LearnKeys {
    /// It takes the place of the key.
    #[default]
    Successors,
    /// It is trusted when the user adds it.
    Never,
}

impl LearnKeys {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    const fn is_default(&self) -> bool {
        matches!(self, Self::Successors)
    }
}

impl FromStr for LearnKeys {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "successors" => Ok(Self::Successors),
            "never" => Ok(Self::Never),
            _ => Err("it is 'successors' or 'never'"),
        }
    }
}

/// The configuration of a remote.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RemoteConfig {
    /// The URL of the repository.
    pub url: String,
    /// The trusted keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<PublicKey>,
    /// The identity of the repository; that of the first answer unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<RepositoryId>,
    /// Whether the successor of a trusted key is trusted.
    #[serde(default, skip_serializing_if = "LearnKeys::is_default")]
    pub learn_keys: LearnKeys,
    /// What is done with a state that is too old.
    #[serde(default, skip_serializing_if = "ExpiredPolicy::is_default")]
    pub expired: ExpiredPolicy,
    /// The most days since a state was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u32>,
    /// The number of trusted keys that have to sign; one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<NonZeroU32>,
    /// Whether unsigned commits and refs are accepted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_unsigned: bool,
    /// The keys that are trusted for some refs only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub key_refs: KeyLimits,
    /// The least sequence of refs that is accepted, for a machine that has seen none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub at_least: BTreeMap<RefName, u64>,
    /// The options of the connection.
    #[serde(default)]
    pub transport: TransportOptions,
}

impl RemoteConfig {
    /// Reads the text of a remote's file.
    ///
    /// # Errors
    /// When it is not TOML, or has other keys.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Returns the text that [`Self::parse`] reads.
    #[must_use]
    pub fn render(&self) -> String {
        toml::to_string(self).expect("plain fields have a TOML form")
    }

    /// Returns the configuration without passwords in URLs, for display. Files that hold secrets are only named in it.
    pub(crate) fn without_secrets(mut self) -> Self {
        self.url = without_secret(&self.url);
        self.transport.proxy = self.transport.proxy.as_deref().map(without_secret);
        self.transport.mirrors = self.transport.mirrors.iter().map(|url| without_secret(url)).collect();
        self
    }

    /// Returns the paths on this machine that it refers to: files with secrets and certificates, and the repository
    /// itself if it is a directory.
    #[must_use]
    pub fn local_paths(&self) -> Vec<PathBuf> {
        let TransportOptions { bearer_file, client_certificate, ca_file, mirrors, settings, .. } = &self.transport;
        let files = [bearer_file, client_certificate, ca_file].into_iter().flatten().cloned();
        let urls = mirrors.iter().chain([&self.url]);
        let directories = urls.filter_map(|url| url::Url::parse(url).ok()?.to_file_path().ok());
        let named = settings.get("SSL_CERT_FILE").map(PathBuf::from);
        files.chain(directories).chain(named).collect()
    }

    /// Returns the trusted keys, with what is required of them.
    pub(super) fn keyring(&self) -> Keyring {
        let ring = Keyring::new(self.keys.iter().copied()).limited(self.key_refs.clone());
        ring.requiring(self.signatures.unwrap_or(NonZeroU32::MIN))
    }

    /// Returns the keys that the configuration trusts.
    ///
    /// # Errors
    /// [`RemotesError::NoKeys`] when there are none and unsigned content is not explicitly accepted.
    pub fn trust(&self) -> Result<Trust, RemotesError> {
        if self.insecure_unsigned {
            Ok(Trust::InsecureUnsigned)
        } else if self.keys.is_empty() {
            Err(RemotesError::NoKeys(without_secret(&self.url)))
        } else {
            Ok(Trust::Keys(self.keyring()))
        }
    }
}

/// The remotes of one repository.
#[derive(Debug, Clone)]
pub(crate) struct Remotes {
    directory: PathBuf,
}

impl Remotes {
    /// Returns the remotes of `store`.
    pub(crate) fn of(store: &Store) -> Self {
        Self { directory: store.layout().remotes() }
    }

    /// Returns the names of all remotes, in order.
    pub(crate) fn names(&self) -> Result<Vec<RemoteName>, RemotesError> {
        let io_error = |source| RemotesError::Io { action: "list", path: self.directory.clone(), source };
        let mut names = Vec::new();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            other => other.map_err(io_error)?,
        };
        for entry in entries {
            let file = entry.map_err(io_error)?.file_name();
            let name =
                file.to_str().and_then(|file| file.strip_suffix(CONFIG_SUFFIX)).and_then(|name| name.parse().ok());
            names.extend(name);
        }
        names.sort();
        Ok(names)
    }

    /// Reads the configuration of a remote.
    pub(crate) fn read(&self, name: &RemoteName) -> Result<RemoteConfig, RemotesError> {
        let path = self.config_file(name);
        match fs::read_to_string(&path) {
            Ok(text) => {
                RemoteConfig::parse(&text).map_err(|source| RemotesError::Config { path, source: Box::new(source) })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RemotesError::Unknown(name.clone())),
            Err(source) => Err(RemotesError::Io { action: "read", path, source }),
        }
    }

    /// Writes the configuration of a new or existing remote.
    pub(crate) fn write(&self, name: &RemoteName, config: &RemoteConfig) -> Result<(), RemotesError> {
        replace(self.config_file(name), config.render().as_bytes())
    }

    /// Removes a remote. The commits that were pulled stay, and what is remembered of its repository and URL.
    pub(crate) fn remove(&self, name: &RemoteName) -> Result<(), RemotesError> {
        let path = self.config_file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RemotesError::Unknown(name.clone())),
            other => other.map_err(|source| RemotesError::Io { action: "remove", path, source }),
        }?;
        let seen = self.directory.join(SEEN_DIRECTORY).join(name.as_str());
        disk::remove_directory(&seen)
            .and_then(|()| disk::sync_directory(&self.directory))
            .map_err(|source| RemotesError::Io { action: "remove", path: seen, source })
    }

    fn config_file(&self, name: &RemoteName) -> PathBuf {
        self.directory.join(format!("{name}{CONFIG_SUFFIX}"))
    }
}

/// Replaces a file whose directory may not exist yet.
pub(super) fn replace(path: PathBuf, bytes: &[u8]) -> Result<(), RemotesError> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| disk::replace(&path, bytes)).map_err(|source| RemotesError::Io { action: "write", path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_one_place_have_one_name() {
        let name = RemoteName::of_url("http://localhost");
        for same in [
            "http://localhost/",
            "HTTP://LOCALHOST:80",
            "http://127.0.0.1/.",
            "http://[::1]/a/..",
            "http://u:p@localhost",
        ] {
            assert_eq!(RemoteName::of_url(same), name, "{same}");
        }
        for other in ["https://localhost", "http://localhost:81", "http://localhost/a", "http://localhost/?a", "no URL"]
        {
            assert_ne!(RemoteName::of_url(other), name, "{other}");
        }
    }

    #[test]
    fn remote_without_keys_requires_insecure_unsigned() {
        let mut config = RemoteConfig { url: "http://localhost".to_owned(), ..RemoteConfig::default() };
        assert!(matches!(config.trust(), Err(RemotesError::NoKeys(_))));
        config.insecure_unsigned = true;
        assert_eq!(config.trust().expect("unsigned content was accepted explicitly"), Trust::InsecureUnsigned);
        let again = RemoteConfig::parse(&config.render()).expect("own form");
        assert_eq!((again.url, again.insecure_unsigned), (config.url, true));
        assert!(RemoteConfig::parse("url = 'x'\nkey = 'typo'").is_err());
    }
}
