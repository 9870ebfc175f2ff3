//! Remote sources as mounts and prefetches see them: which repository keeps what comes, and the commit behind a name.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::remote_source::{Origin, RemoteSource, TrustArgs};
use super::{Context, repository};
use crate::cache::{LazyTree, Patience, Visit};
use crate::remote::RemoteError;
use crate::store::{Config, OpenError, Store};

/// Where what comes from bare URLs is kept on behalf of the system.
const SYSTEM_CACHE: &str = "/var/cache/sapwood";

/// How long a mount of what is known waits for news of it: a machine that boots without a network should not boot minutes later.
const PATIENCE: Duration = Duration::from_secs(5);

/// The repository that keeps what comes from `source`: the one that is given; for a bare URL else a cache of the user.
///
/// # Errors
/// When none is given and there is no home to look in.
pub fn repository(source: &RemoteSource, context: &Context) -> Result<PathBuf> {
    let is_given = context.repo.is_some() || env::var_os("SAPWOOD_REPO").is_some_and(|path| !path.is_empty());
    if is_given || matches!(source.origin, Origin::Named(_)) {
        return repository::path(context);
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(SYSTEM_CACHE.into());
    }
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => env::home_dir().context("no repository given, and no home directory for a cache")?.join(".cache"),
    };
    Ok(cache.join("sapwood"))
}

/// Opens the repository, and makes it if nothing is there.
///
/// # Errors
/// When something else is there.
pub fn open_or_make(path: &std::path::Path) -> Result<Store> {
    match Store::open(path) {
        Err(OpenError::NotARepository(_)) => match Store::init(path, &Config::default()) {
            // Somebody was faster.
            Err(OpenError::Exists(_) | OpenError::NotEmpty(_)) => Ok(Store::open(path)?),
            made => Ok(made?),
        },
        opened => Ok(opened?),
    }
}

/// The commit behind a remote source, as the remote has it or as it was seen last.
///
/// # Errors
/// When nobody is trusted, the remote is refused, or nobody answers and nothing is here.
pub fn visit(store: &Store, source: &RemoteSource, trust: &TrustArgs) -> Result<Visit> {
    let opened = source.open(store, trust);
    // What was here before can be mounted without anybody's word.
    let is_known = store.read_ref(&source.local_ref())?.is_some();
    match opened {
        Ok(remote) if is_known => Ok(Visit::remote(store, &remote.impatient(PATIENCE), &source.name)?),
        Ok(remote) => Ok(Visit::remote(store, &remote, &source.name)?),
        Err(error) => match error.downcast::<RemoteError>() {
            Ok(error @ RemoteError::Transport { .. }) => Ok(Visit::seen_last(store, &source.local_ref(), error)?),
            Ok(other) => Err(other.into()),
            Err(other) => Err(other),
        },
    }
}

/// The same commit opened, with the patience that mount options give.
///
/// # Errors
/// When its image cannot be had.
pub fn open(store: &Store, visit: &Visit, fetch_timeout: Option<Duration>) -> Result<Arc<LazyTree>> {
    let patience = fetch_timeout.map_or(Patience::None, Patience::Within);
    Ok(visit.open(store, patience)?)
}
