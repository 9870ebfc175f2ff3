//! The repository that the arguments and the environment name, the commit in it that a source means, and waiting for its lock.
//!
//! *Not here*: what a source means, see `source`.
//!
//! *Used by* nearly all verbs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::unistd::AccessFlags;

use super::output;
use super::trust_args::TrustArgs;
use crate::cache::ResolvedCommit;
use crate::cli::context::Context;
use crate::disk::Wait;
use crate::source::{self, Attendance, CommitReader, RemoteSource, RemoteSpec};
use crate::store::Store;

/// The repository of a machine that boots from it.
const SYSTEM_REPOSITORY: &str = "/sapwood/repo";

/// The repository of root for contents that come from bare URLs.
const SYSTEM_CACHE_DIRECTORY: &str = "/var/cache/sapwood";

/// Returns the directory of the repository, whether or not it exists.
///
/// # Errors
/// When no repository is given and there is no home directory.
pub(crate) fn path(context: &Context) -> Result<PathBuf> {
    if let Some(path) = &context.repo {
        return Ok(path.clone());
    }
    if let Some(path) = env::var_os("SAPWOOD_REPO").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let system = PathBuf::from(SYSTEM_REPOSITORY);
    // That of a machine is root's alone: other users have their own.
    if system.exists() && nix::unistd::access(&system, AccessFlags::R_OK | AccessFlags::X_OK).is_ok() {
        return Ok(system);
    }
    let data = match env::var_os("XDG_DATA_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => env::home_dir().context("no repository given, and no home directory to look in")?.join(".local/share"),
    };
    Ok(data.join("sapwood/repo"))
}

/// Returns the repository that keeps what is fetched from `source`: the given or default one, but for a bare URL, if no
/// repository is given, a cache of the user.
///
/// # Errors
/// When none is given and there is no home directory.
pub(crate) fn path_for(source: &RemoteSource, context: &Context) -> Result<PathBuf> {
    let is_given = context.repo.is_some() || env::var_os("SAPWOOD_REPO").is_some_and(|path| !path.is_empty());
    if is_given || matches!(source.remote, RemoteSpec::Named(_)) {
        return path(context);
    }
    if nix::unistd::geteuid().is_root() {
        return Ok(SYSTEM_CACHE_DIRECTORY.into());
    }
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => env::home_dir().context("no repository given, and no home directory for a cache")?.join(".cache"),
    };
    Ok(cache.join("sapwood"))
}

/// Opens the repository.
///
/// # Errors
/// When it does not exist or cannot be used.
pub(crate) fn open(context: &Context) -> Result<Store> {
    Ok(Store::open(&path(context)?)?)
}

/// Resolves a remote source to a commit. Creates the repository that keeps what is fetched, if there is none.
///
/// # Errors
/// When the repository cannot be used, or there is no such commit, or it is not trusted.
pub(crate) fn resolve_remote(
    remote: &RemoteSource,
    trust: &TrustArgs,
    context: &Context,
) -> Result<(Store, ResolvedCommit)> {
    let store = source::open_or_init(&path_for(remote, context)?)?;
    let resolved = source::resolve_remote(&store, remote, &trust.to_options(), Attendance::Attended)?;
    Ok((store, resolved))
}

/// Opens the commit that `text` names: a local source, `REMOTE:REF` or `URL#REF`.
///
/// # Errors
/// When there is no such commit, or it is not trusted.
pub(crate) fn open_commit(text: &str, trust: &TrustArgs, context: &Context) -> Result<CommitReader> {
    match RemoteSource::parse(text) {
        Ok(Some(remote)) => {
            let (store, resolved) = resolve_remote(&remote, trust, context)?;
            Ok(CommitReader::of_resolved(store, resolved))
        }
        // `remote:ref^` is not a legal remote source: it names a commit in the repository.
        Ok(None) | Err(_) => {
            let store = open(context)?;
            let commit = store.commit(store.resolve(text)?)?;
            Ok(CommitReader::of_stored(store, commit))
        }
    }
}

/// Returns `SOURCE:/path` for each of `paths`, which were given as arguments of their own; `source` alone if there are none.
///
/// # Errors
/// When `source` has a path itself.
pub(crate) fn join_paths(source: &OsStr, paths: &[OsString]) -> Result<Vec<OsString>> {
    if paths.is_empty() {
        return Ok(vec![source.to_owned()]);
    }
    let join = |path: &OsString| {
        source::join(source, path)
            .with_context(|| format!("'{}' has a path already, so no other can follow", source.display()))
    };
    paths.iter().map(join).collect()
}

/// Returns a `Wait` that waits for the process that holds the lock, and says so on standard error.
pub(crate) fn wait_with_notice() -> Wait<'static> {
    Wait::Announced(&|holder| output::note(format_args!("waiting for {holder}, which is using the repository…")))
}
