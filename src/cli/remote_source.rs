//! `REMOTE:REF` and `URL#REF` as people write them, and the remote they mean.

use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};

use super::{environment, keys};
use crate::model::{ImagePath, RefName};
use crate::remote::transport::without_secret;
use crate::remote::{Remote, RemoteConfig, RemoteName, Remotes, RemotesError};
use crate::store::Store;

/// Whom to believe, where that is not configured.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TrustArgs {
    /// Trust what this key signed: a file, a name, or 64 hex digits; several are possible
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Believe whatever the server says, signed or not
    #[arg(long, conflicts_with = "keys")]
    insecure_unsigned: bool,
    /// Accept a state older than one seen before, this once
    #[arg(long)]
    pub allow_older: bool,
}

impl TrustArgs {
    /// The same, for a process that is started elsewhere: files are named by absolute paths.
    pub fn to_arguments(&self) -> Vec<OsString> {
        let absolute =
            |key: &String| std::path::Path::new(key).canonicalize().map_or_else(|_| key.into(), OsString::from);
        let mut arguments: Vec<OsString> =
            self.keys.iter().flat_map(|key| [OsString::from("--key"), absolute(key)]).collect();
        arguments.extend(self.insecure_unsigned.then(|| "--insecure-unsigned".into()));
        arguments.extend(self.allow_older.then(|| "--allow-older".into()));
        arguments
    }
}

/// Where a ref is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A bare URL.
    Url(String),
    /// A configured remote.
    Named(RemoteName),
}

/// A ref on a remote, and a directory in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSource {
    /// Where.
    pub origin: Origin,
    /// Which ref.
    pub name: RefName,
    /// Which directory of it.
    pub path: ImagePath,
}

impl RemoteSource {
    /// Understands `URL#REF` and `REMOTE:REF`, either with `:/path` after it; `None` for a text that is a local source.
    ///
    /// # Errors
    /// When it looks like a remote source but has an illegal ref, remote or path.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let (origin, rest) = if text.contains("://") {
            let Some((url, rest)) = text.split_once('#') else {
                let shown = without_secret(text);
                bail!("'{shown}' names no ref: write {}#REF", shown.trim_end_matches('/'))
            };
            (Origin::Url(url.to_owned()), rest)
        } else {
            match text.split_once(':') {
                Some((name, rest)) if !rest.starts_with('/') => {
                    let name = name.parse().with_context(|| format!("'{text}' is no REMOTE:REF"))?;
                    (Origin::Named(name), rest)
                }
                _ => return Ok(None),
            }
        };
        let (name, path) = match rest.split_once(":/") {
            Some((name, path)) => (name, ImagePath::parse(path.as_bytes())?),
            None => (rest, ImagePath::root()),
        };
        Ok(Some(Self { origin, name: name.parse()?, path }))
    }

    /// The name under which `store` keeps what comes from there.
    #[must_use]
    pub fn remote_name(&self) -> RemoteName {
        match &self.origin {
            Origin::Named(name) => name.clone(),
            Origin::Url(url) => RemoteName::of_url(url),
        }
    }

    /// The local ref that holds what was pulled or mounted from there.
    #[must_use]
    pub fn local_ref(&self) -> RefName {
        self.remote_name().local_ref(&self.name)
    }

    /// The remote, with the trust that is configured or given.
    ///
    /// # Errors
    /// When there is no such remote, or nobody is trusted.
    pub fn open(&self, store: &Store, trust: &TrustArgs) -> Result<Remote> {
        let config = self.config(store, trust)?;
        if trust.allow_older {
            Remotes::of(store).forget(&self.remote_name(), &self.name)?;
        }
        Ok(Remote::open(store, self.remote_name(), &config)?)
    }

    /// Where the remote is, how to talk to it, and whom to believe there, as configured or given.
    ///
    /// # Errors
    /// When there is no such remote, or nobody is trusted.
    pub fn config(&self, store: &Store, trust: &TrustArgs) -> Result<RemoteConfig> {
        let remotes = Remotes::of(store);
        let mut config = match &self.origin {
            Origin::Named(name) => match remotes.read(name) {
                Err(RemotesError::Unknown(_)) => bail!(
                    "there is no remote '{name}': 'sapwood remote list' lists them, 'sapwood remote add {name} URL --key FILE' adds one"
                ),
                other => other?,
            },
            Origin::Url(url) => RemoteConfig { url: url.clone(), ..RemoteConfig::default() },
        };
        for key in &trust.keys {
            config.keys.push(keys::public(key)?);
        }
        config.insecure_unsigned |= trust.insecure_unsigned;
        if config.keys.is_empty() && !config.insecure_unsigned {
            bail!(
                "whom to trust for {}? Give --key FILE (the publisher's public key), or --insecure-unsigned to believe \
                 whatever the server says",
                without_secret(&config.url)
            );
        }
        Ok(environment::complete(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_sources_are_told_from_local_ones() {
        for local in ["main", "main^", "main:/usr", "0123456789ab"] {
            assert_eq!(RemoteSource::parse(local).expect("legal"), None, "{local}");
        }
        let cases = [
            ("https://host:8080/repo#debian/12", "https://host:8080/repo", "debian/12", "/"),
            ("file:///srv/repo#debian/12:/usr/bin", "file:///srv/repo", "debian/12", "/usr/bin"),
        ];
        for (text, url, name, path) in cases {
            let source = RemoteSource::parse(text).expect("legal").expect("remote");
            assert_eq!(source.origin, Origin::Url(url.to_owned()));
            assert_eq!((source.name.as_str(), source.path.to_string().as_str()), (name, path));
        }
        let named = RemoteSource::parse("debian:12/server:/usr").expect("legal").expect("remote");
        assert_eq!(named.origin, Origin::Named("debian".parse().expect("legal")));
        assert_eq!(named.local_ref().as_str(), "remotes/debian/12/server");
        for bad in ["https://host/repo", "https://host/repo#", "a:b c", "a/b:main"] {
            assert!(RemoteSource::parse(bad).is_err(), "{bad}");
        }
    }
}
