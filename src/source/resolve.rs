//! Resolves sources to commits of which contents may be missing, with the remote that has them.
//!
//! *Not here*: parsing sources, see `remote` and `local`; fetching, see `cache`.
//!
//! *Invariants*: a commit that is known is usable without its remote, after the time limit of an [`Attendance`] at most.
//!
//! *Used by* the verbs `mount`, `prefetch` and `profile` of `cli`, and by `cli::repository`.

use std::path::Path;
use std::time::Duration;

use super::environment;
use super::remote::{RemoteSource, RemoteSpec, SourceError, TrustOptions};
use crate::cache::{ResolveCommitError, ResolvedCommit};
use crate::error::chain;
use crate::model::{CommitId, ImagePath};
use crate::remote::transport::{Transport, without_secret};
use crate::remote::{RemoteConfig, RemoteError, RemoteName, Remotes};
use crate::store::{Config, OpenError, Store};

/// Whether a person waits for the command. This bounds how long a remote is asked whether a known commit is still the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attendance {
    /// A person waits.
    Attended,
    /// A service waits, such as a boot with a line in fstab. It should not boot later than it would without a network.
    Unattended,
}

impl Attendance {
    /// Returns the time limit for all requests together. After it the known commit is used; reads ask the remote again for
    /// missing contents.
    const fn refresh_timeout(self) -> Duration {
        match self {
            Self::Attended => Duration::from_secs(5),
            Self::Unattended => Duration::from_secs(2),
        }
    }
}

/// Opens the repository. Creates it if nothing exists at the path.
///
/// # Errors
/// When something else exists there, or the repository cannot be opened or created.
pub(crate) fn open_or_init(path: &Path) -> Result<Store, OpenError> {
    match Store::open(path) {
        Err(OpenError::NotARepository(_)) => match Store::init(path, &Config::default()) {
            // Another process created it in the meantime.
            Err(OpenError::Exists(_) | OpenError::NotEmpty(_)) => Store::open(path),
            made => made,
        },
        opened => opened,
    }
}

/// Resolves a remote source to the commit that the remote names now or, if the remote does not answer, to the one that was
/// seen last.
///
/// # Errors
/// When no key is trusted, the remote's answer is not trusted, or it does not answer and no commit is known.
pub(crate) fn resolve_remote(
    store: &Store,
    source: &RemoteSource,
    trust: &TrustOptions,
    attendance: Attendance,
) -> Result<ResolvedCommit, SourceError> {
    let opened = source.open(store, trust);
    // If a commit of this ref is known, it can be used without an answer, so the requests get a time limit.
    let is_known = store.read_ref(&source.local_ref()).map_err(ResolveCommitError::from)?.is_some();
    match opened {
        Ok(remote) if is_known => {
            Ok(ResolvedCommit::from_remote(store, &remote.with_time_limit(attendance.refresh_timeout()), &source.name)?)
        }
        Ok(remote) => Ok(ResolvedCommit::from_remote(store, &remote, &source.name)?),
        Err(SourceError::Remote(error @ RemoteError::Transport { .. })) => {
            Ok(ResolvedCommit::last_known(store, &source.local_ref(), error)?)
        }
        Err(other) => Err(other),
    }
}

/// Resolves a commit of the repository, with access to the remote from which a ref to it was pulled, for missing contents.
///
/// # Errors
/// When the commit is not in the repository.
pub(crate) fn resolve_local(store: &Store, id: CommitId) -> Result<ResolvedCommit, ResolveCommitError> {
    resolve_with_remote(store, id).map(|(resolved, _)| resolved)
}

/// As [`resolve_local`], and also returns the configuration of that remote.
///
/// # Errors
/// When the commit is not in the repository.
pub(crate) fn resolve_with_remote(
    store: &Store,
    id: CommitId,
) -> Result<(ResolvedCommit, Option<RemoteConfig>), ResolveCommitError> {
    let resolved = ResolvedCommit::from_store(store, id)?;
    if !store.is_lazy(id) {
        return Ok((resolved, None));
    }
    let Some((transport, config)) = transport_for(store, id) else {
        tracing::warn!("contents of commit {} are missing, and no remote is known that has them", id.short());
        return Ok((resolved, None));
    };
    Ok((resolved.with_transport(store, transport), Some(config)))
}

/// As [`resolve_with_remote`], for a complete commit whose damaged contents are to be fetched again. The remote is asked
/// whether its ref names the commit. If it does not confirm that within a few seconds, the commit is resolved without a remote.
///
/// # Errors
/// When the commit is not in the repository.
pub(crate) fn resolve_for_repair(
    store: &Store,
    id: CommitId,
    attendance: Attendance,
) -> Result<(ResolvedCommit, Option<RemoteConfig>), ResolveCommitError> {
    for (name, _) in store.refs()?.into_iter().filter(|(_, commit)| *commit == id) {
        let Some((remote, name)) = RemoteName::split_local_ref(&name) else { continue };
        let source = RemoteSource { remote: RemoteSpec::Named(remote), name, path: ImagePath::root() };
        let trust = TrustOptions::default();
        let answer = source
            .config(store, &trust)
            .and_then(|config| Ok((resolve_remote(store, &source, &trust, attendance)?, config)));
        match answer {
            Ok((resolved, config)) if resolved.id() == id && resolved.is_fetchable() => {
                return Ok((resolved, Some(config)));
            }
            Ok(_) => {
                tracing::info!("{}: it has a newer commit, so damaged contents cannot be fetched", source.remote_name())
            }
            Err(error) => tracing::warn!("damaged contents cannot be fetched again: {}", chain(&error)),
        }
    }
    Ok((ResolvedCommit::from_store(store, id)?, None))
}

/// Returns the remote from which a local ref to the commit was pulled, and an open transport to it.
fn transport_for(store: &Store, id: CommitId) -> Option<(Transport, RemoteConfig)> {
    let remotes = Remotes::of(store);
    let refs = store.refs().ok()?;
    let names = refs.iter().filter(|(_, commit)| *commit == id).filter_map(|(name, _)| RemoteName::of_local_ref(name));
    let configs = names.filter_map(|name| remotes.read(&name).ok()).map(environment::with_environment);
    configs.into_iter().find_map(|config| {
        let opened = Transport::open(&config.url, &config.transport);
        let opened =
            opened.inspect_err(|error| tracing::warn!("{} cannot be asked: {error}", without_secret(&config.url)));
        Some((opened.ok()?, config))
    })
}
