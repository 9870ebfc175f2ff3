//! What a repository knows of remotes: where they are, whom to believe there, and the newest it has seen of each ref.
//!
//! ```text
//! remotes/NAME.toml          one remote
//! remotes/seen/NAME/REF      the newest sequence and commit seen of a ref, `/` in its name written as `%`
//! ```
//!
//! Remotes without a name (a bare URL) have only the second, under a name made from the URL. Every file is replaced as a
//! whole; a seen sequence never goes back unless the user asks.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::transport::{TransportOptions, without_secret};
use crate::disk;
use crate::model::RefName;
use crate::store::Store;
use crate::trust::{Keyring, PublicKey, Seen, Trust};

/// The file name of a remote ends with this.
const SUFFIX: &str = ".toml";

/// Where the seen refs are, beside the remotes: no remote can have this name, since theirs end with a suffix.
const SEEN: &str = "seen";

/// Why a remote cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum RemotesError {
    /// There is no remote of this name.
    #[error("there is no remote '{0}'")]
    Unknown(RemoteName),
    /// There is one already.
    #[error("there is a remote '{0}' already")]
    Exists(RemoteName),
    /// The configuration trusts nobody.
    #[error("no key is trusted for {0}")]
    NoKeys(String),
    /// The file of a remote cannot be understood.
    #[error("cannot use {}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// What was seen of a ref cannot be understood.
    #[error("{} does not hold what was seen of a ref", .path.display())]
    Seen {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A text that is no name for a remote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' cannot name a remote: letters, digits, '.', '_' and '-', beginning with a letter or digit")]
pub struct RemoteNameError(String);

/// The name of a remote: one part of a ref's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct RemoteName(String);

impl RemoteName {
    /// The name under which what was seen of a remote without a name is kept.
    #[must_use]
    pub fn of_url(url: &str) -> Self {
        let digest = Sha256::digest(url.trim_end_matches('/').as_bytes());
        let digits: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("url-{digits}"))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The local ref that holds what this remote's ref names.
    #[must_use]
    pub fn local_ref(&self, name: &RefName) -> RefName {
        format!("remotes/{self}/{name}").parse().expect("a ref's name with legal parts before it is a ref's name")
    }

    /// The remote that a local ref came from, if it came from one.
    #[must_use]
    pub fn of_local_ref(name: &RefName) -> Option<Self> {
        Self::split_local_ref(name).map(|(remote, _)| remote)
    }

    /// The same, with what the ref is called there.
    #[must_use]
    pub fn split_local_ref(name: &RefName) -> Option<(Self, RefName)> {
        let (remote, name) = name.as_str().strip_prefix("remotes/")?.split_once('/')?;
        Some((remote.parse().ok()?, name.parse().ok()?))
    }
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

/// One remote.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RemoteConfig {
    /// Where it is.
    pub url: String,
    /// The keys that are trusted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<PublicKey>,
    /// Whether nothing need be signed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure_unsigned: bool,
    /// How to talk to it.
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

    /// The same for showing it: without passwords in URLs. Files that hold secrets are only named.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        self.url = without_secret(&self.url);
        self.transport.proxy = self.transport.proxy.as_deref().map(without_secret);
        self.transport.mirrors = self.transport.mirrors.iter().map(|url| without_secret(url)).collect();
        self
    }

    /// What of it is on this machine: files with secrets and certificates, and the remote itself if it is a directory.
    #[must_use]
    pub fn local_paths(&self) -> Vec<PathBuf> {
        let TransportOptions { bearer_file, client_certificate, ca_file, mirrors, settings, .. } = &self.transport;
        let files = [bearer_file, client_certificate, ca_file].into_iter().flatten().cloned();
        let urls = mirrors.iter().chain([&self.url]);
        let directories = urls.filter_map(|url| url::Url::parse(url).ok()?.to_file_path().ok());
        let named = settings.get("SSL_CERT_FILE").map(PathBuf::from);
        files.chain(directories).chain(named).collect()
    }

    /// Whom this believes.
    ///
    /// # Errors
    /// [`RemotesError::NoKeys`] when nobody is trusted and nobody said that this is meant.
    pub fn trust(&self) -> Result<Trust, RemotesError> {
        if self.insecure_unsigned {
            Ok(Trust::InsecureUnsigned)
        } else if self.keys.is_empty() {
            Err(RemotesError::NoKeys(without_secret(&self.url)))
        } else {
            Ok(Trust::Keys(Keyring::new(self.keys.iter().copied())))
        }
    }
}

/// The remotes of one repository.
#[derive(Debug, Clone)]
pub struct Remotes {
    directory: PathBuf,
}

impl Remotes {
    /// The remotes of `store`.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        Self { directory: store.layout().remotes() }
    }

    /// The names of all remotes, in order.
    ///
    /// # Errors
    /// [`RemotesError::Io`].
    pub fn names(&self) -> Result<Vec<RemoteName>, RemotesError> {
        let io_error = |source| RemotesError::Io { action: "list", path: self.directory.clone(), source };
        let mut names = Vec::new();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            other => other.map_err(io_error)?,
        };
        for entry in entries {
            let file = entry.map_err(io_error)?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(SUFFIX)).and_then(|name| name.parse().ok());
            names.extend(name);
        }
        names.sort();
        Ok(names)
    }

    /// One remote.
    ///
    /// # Errors
    /// [`RemotesError::Unknown`], [`RemotesError::Config`] or [`RemotesError::Io`].
    pub fn read(&self, name: &RemoteName) -> Result<RemoteConfig, RemotesError> {
        let path = self.config(name);
        match fs::read_to_string(&path) {
            Ok(text) => {
                RemoteConfig::parse(&text).map_err(|source| RemotesError::Config { path, source: Box::new(source) })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RemotesError::Unknown(name.clone())),
            Err(source) => Err(RemotesError::Io { action: "read", path, source }),
        }
    }

    /// Adds a remote, or changes one.
    ///
    /// # Errors
    /// [`RemotesError::Io`].
    pub fn write(&self, name: &RemoteName, config: &RemoteConfig) -> Result<(), RemotesError> {
        replace(self.config(name), config.render().as_bytes())
    }

    /// Removes a remote and what was seen of it. The commits that were pulled stay.
    ///
    /// # Errors
    /// [`RemotesError::Unknown`] or [`RemotesError::Io`].
    pub fn remove(&self, name: &RemoteName) -> Result<(), RemotesError> {
        let path = self.config(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(RemotesError::Unknown(name.clone())),
            other => other.map_err(|source| RemotesError::Io { action: "remove", path, source }),
        }?;
        let seen = self.directory.join(SEEN).join(name.as_str());
        disk::remove_directory(&seen)
            .and_then(|()| disk::sync_directory(&self.directory))
            .map_err(|source| RemotesError::Io { action: "remove", path: seen, source })
    }

    /// The newest that was seen of a ref.
    ///
    /// # Errors
    /// [`RemotesError::Seen`] or [`RemotesError::Io`]: a memory that cannot be read must not count as none.
    pub fn seen(&self, remote: &RemoteName, name: &RefName) -> Result<Option<Seen>, RemotesError> {
        let path = self.seen_file(remote, name);
        match fs::read_to_string(&path) {
            Ok(text) => Seen::parse(&text).map(Some).map_err(|_| RemotesError::Seen { path }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RemotesError::Io { action: "read", path, source }),
        }
    }

    /// Remembers what was seen of a ref, unless something newer is remembered by now.
    ///
    /// # Errors
    /// [`RemotesError::Io`].
    pub fn remember(&self, remote: &RemoteName, name: &RefName, now: Seen) -> Result<(), RemotesError> {
        match self.seen(remote, name)? {
            Some(seen) if seen == now || seen.sequence > now.sequence => Ok(()),
            _ => replace(self.seen_file(remote, name), now.render().as_bytes()),
        }
    }

    /// Forgets what was seen of a ref, so that an older state is accepted once more.
    ///
    /// # Errors
    /// [`RemotesError::Io`].
    pub fn forget(&self, remote: &RemoteName, name: &RefName) -> Result<(), RemotesError> {
        let path = self.seen_file(remote, name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|source| RemotesError::Io { action: "remove", path, source }),
        }
    }

    fn config(&self, name: &RemoteName) -> PathBuf {
        self.directory.join(format!("{name}{SUFFIX}"))
    }

    fn seen_file(&self, remote: &RemoteName, name: &RefName) -> PathBuf {
        self.directory.join(SEEN).join(remote.as_str()).join(name.as_str().replace('/', "%"))
    }
}

/// Replaces a file whose directory may not be there yet.
fn replace(path: PathBuf, bytes: &[u8]) -> Result<(), RemotesError> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| disk::replace(&path, bytes)).map_err(|source| RemotesError::Io { action: "write", path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CommitId;
    use crate::store::Config;

    #[test]
    fn what_was_seen_never_goes_back_unless_forgotten() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::init(directory.path(), &Config::default()).expect("empty");
        let remotes = Remotes::of(&store);
        let remote = RemoteName::of_url("http://localhost/");
        assert_eq!(remote, RemoteName::of_url("http://localhost"));
        let name: RefName = "a/b".parse().expect("legal");
        let seen = |sequence| Seen { sequence, commit: CommitId::of(b"x") };
        assert_eq!(remotes.seen(&remote, &name).expect("readable"), None);
        for (now, then) in [(3, 3), (2, 3), (4, 4)] {
            remotes.remember(&remote, &name, seen(now)).expect("written");
            assert_eq!(remotes.seen(&remote, &name).expect("readable"), Some(seen(then)));
        }
        remotes.forget(&remote, &name).expect("removed");
        assert_eq!(remotes.seen(&remote, &name).expect("readable"), None);
    }

    #[test]
    fn a_remote_without_keys_is_used_only_if_that_was_said() {
        let mut config = RemoteConfig { url: "http://localhost".to_owned(), ..RemoteConfig::default() };
        assert!(matches!(config.trust(), Err(RemotesError::NoKeys(_))));
        config.insecure_unsigned = true;
        assert_eq!(config.trust().expect("said so"), Trust::InsecureUnsigned);
        let again = RemoteConfig::parse(&config.render()).expect("own form");
        assert_eq!((again.url, again.insecure_unsigned), (config.url, true));
        assert!(RemoteConfig::parse("url = 'x'\nkey = 'typo'").is_err());
    }
}
