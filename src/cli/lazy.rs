//! Remote sources as mounts and prefetches see them: which repository keeps what comes, and the commit behind a name.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::remote_source::{Origin, RemoteSource, TrustArgs};
use super::{Context, environment, repository};
use crate::cache::{LazyOptions, LazyTree, Patience, ProfileChoice, Visit};
use crate::fuse::{MountOptions, Profile};
use crate::model::{CommitId, ImagePath};
use crate::remote::format::ProfileText;
use crate::remote::transport::{Transport, without_secret};
use crate::remote::{RemoteConfig, RemoteError, RemoteName, Remotes};
use crate::store::{Config, OpenError, Store};

/// Where what comes from bare URLs is kept on behalf of the system.
const SYSTEM_CACHE: &str = "/var/cache/sapwood";

/// Who waits while a remote is asked for news of what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// A person.
    Attended,
    /// A machine that boots, as by fstab: it should not boot later than it would without a network.
    Unattended,
}

impl Asking {
    /// How long all questions take together at most. Then what is here is mounted; reads ask again for what is not.
    const fn patience(self) -> Duration {
        match self {
            Self::Attended => Duration::from_secs(5),
            Self::Unattended => Duration::from_secs(2),
        }
    }
}

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
pub fn open_or_make(path: &Path) -> Result<Store> {
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
/// When no key is trusted, or the remote is refused or does not answer and nothing is here.
pub fn visit(store: &Store, source: &RemoteSource, trust: &TrustArgs, asking: Asking) -> Result<Visit> {
    let opened = source.open(store, trust);
    // What was here before can be mounted without anybody's word.
    let is_known = store.read_ref(&source.local_ref())?.is_some();
    match opened {
        Ok(remote) if is_known => Ok(Visit::remote(store, &remote.impatient(asking.patience()), &source.name)?),
        Ok(remote) => Ok(Visit::remote(store, &remote, &source.name)?),
        Err(error) => match error.downcast::<RemoteError>() {
            Ok(error @ RemoteError::Transport { .. }) => Ok(Visit::seen_last(store, &source.local_ref(), error)?),
            Ok(other) => Err(other.into()),
            Err(other) => Err(other),
        },
    }
}

/// The commit `id` as it is here, with the way to what is missing if one of the configured remotes has it.
///
/// # Errors
/// When it is not here.
pub fn visit_local(store: &Store, id: CommitId) -> Result<Visit> {
    visit_with_remote(store, id).map(|(visit, _)| visit)
}

/// The same, and that remote.
///
/// # Errors
/// When the commit is not here.
pub fn visit_with_remote(store: &Store, id: CommitId) -> Result<(Visit, Option<RemoteConfig>)> {
    let visit = Visit::local(store, id)?;
    if !store.is_lazy(id) {
        return Ok((visit, None));
    }
    let Some((transport, config)) = way_to(store, id) else {
        tracing::warn!("not all of commit {} is here, and no remote is known that has it", id.short());
        return Ok((visit, None));
    };
    Ok((visit.through(store, transport), Some(config)))
}

/// The same for a commit that is here as a whole, from whose remote damaged things are to be fetched again: that is asked
/// whether it has the commit. If it does not say so within a few seconds, it is as if there were none.
///
/// # Errors
/// When the commit is not here.
pub fn visit_for_mending(store: &Store, id: CommitId, asking: Asking) -> Result<(Visit, Option<RemoteConfig>)> {
    for (name, _) in store.refs()?.into_iter().filter(|(_, commit)| *commit == id) {
        let Some((remote, name)) = RemoteName::split_local_ref(&name) else { continue };
        let source = RemoteSource { origin: Origin::Named(remote), name, path: ImagePath::root() };
        let trust = TrustArgs::default();
        let asked =
            source.config(store, &trust).and_then(|config| Ok((visit(store, &source, &trust, asking)?, config)));
        match asked {
            Ok((visit, config)) if visit.id() == id && visit.is_fetchable() => return Ok((visit, Some(config))),
            Ok(_) => {
                tracing::info!("{}: a newer commit is there, so what is damaged stays an error", source.remote_name())
            }
            Err(error) => tracing::warn!("what is damaged stays an error: {error:#}"),
        }
    }
    Ok((Visit::local(store, id)?, None))
}

/// The remote that a local ref to the commit came from, and the way to it.
fn way_to(store: &Store, id: CommitId) -> Option<(Transport, RemoteConfig)> {
    let remotes = Remotes::of(store);
    let refs = store.refs().ok()?;
    let names = refs.iter().filter(|(_, commit)| *commit == id).filter_map(|(name, _)| RemoteName::of_local_ref(name));
    let configs = names.filter_map(|name| remotes.read(&name).ok()).map(environment::complete);
    configs.into_iter().find_map(|config| {
        let opened = Transport::open(&config.url, &config.transport);
        let opened =
            opened.inspect_err(|error| tracing::warn!("{} cannot be asked: {error}", without_secret(&config.url)));
        Some((opened.ok()?, config))
    })
}

/// A visited commit opened as mount options say.
///
/// # Errors
/// When its image cannot be had.
pub fn open(store: &Store, visit: &Visit, options: &MountOptions) -> Result<Arc<LazyTree>> {
    let patience = options.fetch_timeout.map_or(Patience::None, Patience::Within);
    Ok(visit.open(store, LazyOptions { patience, cache_size: options.cache_size, verify: options.verify })?)
}

/// What is fetched first. A file that cannot be used is no reason not to mount.
pub fn profile(option: &Profile) -> ProfileChoice {
    match option {
        Profile::None => ProfileChoice::None,
        Profile::WhenReading => ProfileChoice::WhenReading,
        Profile::Auto => ProfileChoice::Published,
        Profile::File(path) => match read_profile(path) {
            Ok(text) => ProfileChoice::Listed(text),
            Err(error) => {
                tracing::warn!("nothing is fetched first: {error:#}");
                ProfileChoice::None
            }
        },
    }
}

/// Reads the text of a profile.
///
/// # Errors
/// When there is no such file or it is no profile.
pub fn read_profile(path: &Path) -> Result<ProfileText> {
    let text = std::fs::read(path).with_context(|| format!("cannot read the profile {}", path.display()))?;
    ProfileText::parse(&text).with_context(|| path.display().to_string())
}
