//! `RemoteSource`: the sources `REMOTE:REF` and `URL#REF`, and opening the remote that they name.
//!
//! *Not here*: local sources, see `local`; resolving to a commit, see `resolve`.
//!
//! *Invariants*: a remote without a trusted key is opened only with `TrustOptions::insecure_unsigned`.
//!
//! *Used by* `resolve`, `deploy::upgrade`, and the verbs of `cli` that accept a remote source.

use super::environment;
use super::keys::{self, KeyFileError};
use crate::cache::ResolveCommitError;
use crate::model::{ImagePath, PathError, RefName, RefNameError};
use crate::remote::transport::without_secret;
use crate::remote::{Memory, Remote, RemoteConfig, RemoteError, RemoteName, RemoteNameError, Remotes, RemotesError};
use crate::store::Store;

/// Which signatures are trusted, in addition to the configured ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustOptions {
    /// The trusted keys, each a file, a name, or 64 hex digits.
    pub(crate) keys: Vec<String>,
    /// Whether everything from the server is accepted, signed or not.
    pub(crate) insecure_unsigned: bool,
    /// Whether an older or rewritten state of the ref than the last one seen is accepted.
    pub(crate) allow_older: bool,
}

/// Why a remote source cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// A URL without a ref.
    #[error("'{0}' names no ref: write {url}#REF", url = .0.trim_end_matches('/'))]
    NoRef(String),
    /// What is before the colon is no name of a remote.
    #[error("'{text}' is no REMOTE:REF")]
    NotRemoteRef { text: String, source: RemoteNameError },
    /// The ref has an illegal name.
    #[error("{0}")]
    RefName(#[from] RefNameError),
    /// The path of the directory is illegal.
    #[error("{0}")]
    Path(#[from] PathError),
    /// There is no remote of that name.
    #[error(
        "there is no remote '{0}': 'sapwood remote list' lists them, 'sapwood remote add {0} URL --key FILE' adds one"
    )]
    UnknownRemote(RemoteName),
    /// The configuration of the remote cannot be used.
    #[error("{0}")]
    Remotes(#[from] RemotesError),
    /// A given key cannot be read.
    #[error("{0}")]
    Key(#[from] KeyFileError),
    /// No key is trusted for the URL.
    #[error(
        "no key is trusted for {0}: give --key FILE (the publisher's public key), or --insecure-unsigned to accept \
         everything from the server"
    )]
    NoTrustedKey(String),
    /// The remote cannot be opened.
    #[error("{0}")]
    Remote(#[from] RemoteError),
    /// The ref cannot be resolved to a commit.
    #[error("{0}")]
    Commit(#[from] ResolveCommitError),
}

/// The remote of a source: a URL or a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RemoteSpec {
    /// A bare URL.
    Url(String),
    /// A configured remote.
    Named(RemoteName),
}

/// A ref on a remote, and a directory in its commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemoteSource {
    pub(crate) remote: RemoteSpec,
    /// The ref, as the remote names it.
    pub(crate) name: RefName,
    /// The directory; the root if none was given.
    pub(crate) path: ImagePath,
}

impl RemoteSource {
    /// Parses `URL#REF` and `REMOTE:REF`, either with `:/path` after it. Returns `None` for a text that is a local source.
    ///
    /// # Errors
    /// When the text looks like a remote source but has an illegal ref, remote or path.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, SourceError> {
        let (origin, rest) = if text.contains("://") {
            let Some((url, rest)) = text.split_once('#') else {
                return Err(SourceError::NoRef(without_secret(text)));
            };
            (RemoteSpec::Url(url.to_owned()), rest)
        } else {
            match text.split_once(':') {
                Some((name, rest)) if !rest.starts_with('/') => {
                    let not_remote_ref = |source| SourceError::NotRemoteRef { text: text.to_owned(), source };
                    (RemoteSpec::Named(name.parse().map_err(not_remote_ref)?), rest)
                }
                _ => return Ok(None),
            }
        };
        let (name, path) = match rest.split_once(":/") {
            Some((name, path)) => (name, ImagePath::parse(path.as_bytes())?),
            None => (rest, ImagePath::root()),
        };
        Ok(Some(Self { remote: origin, name: name.parse()?, path }))
    }

    /// Returns the name of the remote in the repository. A bare URL has a name that is derived from it.
    pub(crate) fn remote_name(&self) -> RemoteName {
        match &self.remote {
            RemoteSpec::Named(name) => name.clone(),
            RemoteSpec::Url(url) => RemoteName::of_url(url),
        }
    }

    /// Returns the local ref that names the commit that was pulled or mounted from this source.
    pub(crate) fn local_ref(&self) -> RefName {
        self.remote_name().local_ref(&self.name)
    }

    /// Opens the remote, with the keys that are configured or given.
    ///
    /// # Errors
    /// When there is no such remote, or no key is trusted.
    pub(crate) fn open(&self, store: &Store, trust: &TrustOptions) -> Result<Remote, SourceError> {
        let config = self.config(store, trust)?;
        if trust.allow_older {
            let memory = Memory::of(store, &self.remote_name(), &config);
            memory.forget(config.identity.map_or_else(|| memory.pinned(), |id| Ok(Some(id)))?, &self.name)?;
        }
        Ok(Remote::open(store, self.remote_name(), &config)?.at_time(jiff::Timestamp::now().as_second()))
    }

    /// Returns the configuration of the remote with the keys that are given and the settings of the environment.
    ///
    /// # Errors
    /// When there is no such remote, or no key is trusted.
    pub(crate) fn config(&self, store: &Store, trust: &TrustOptions) -> Result<RemoteConfig, SourceError> {
        let remotes = Remotes::of(store);
        let mut config = match &self.remote {
            RemoteSpec::Named(name) => match remotes.read(name) {
                Err(RemotesError::Unknown(name)) => return Err(SourceError::UnknownRemote(name)),
                other => other?,
            },
            RemoteSpec::Url(url) => RemoteConfig { url: url.clone(), ..RemoteConfig::default() },
        };
        for key in &trust.keys {
            config.keys.push(keys::read_public(key)?);
        }
        config.insecure_unsigned |= trust.insecure_unsigned;
        if config.keys.is_empty() && !config.insecure_unsigned {
            return Err(SourceError::NoTrustedKey(without_secret(&config.url)));
        }
        Ok(environment::with_environment(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_sources_are_distinguished_from_local_ones() {
        for local in ["main", "main^", "main:/usr", "0123456789ab"] {
            assert_eq!(RemoteSource::parse(local).expect("legal"), None, "{local}");
        }
        let cases = [
            ("https://host:8080/repo#debian/12", "https://host:8080/repo", "debian/12", "/"),
            ("file:///srv/repo#debian/12:/usr/bin", "file:///srv/repo", "debian/12", "/usr/bin"),
        ];
        for (text, url, name, path) in cases {
            let source = RemoteSource::parse(text).expect("legal").expect("remote");
            assert_eq!(source.remote, RemoteSpec::Url(url.to_owned()));
            assert_eq!((source.name.as_str(), source.path.to_string().as_str()), (name, path));
        }
        let named = RemoteSource::parse("debian:12/server:/usr").expect("legal").expect("remote");
        assert_eq!(named.remote, RemoteSpec::Named("debian".parse().expect("legal")));
        assert_eq!(named.local_ref().as_str(), "remotes/debian/12/server");
        for bad in ["https://host/repo", "https://host/repo#", "a:b c", "a/b:main"] {
            assert!(RemoteSource::parse(bad).is_err(), "{bad}");
        }
    }
}
