//! The local sources `SOURCE` and `SOURCE:/path`: finding the commit and the entry that they name.
//!
//! *Not here*: remote sources, see `remote`; the syntax of a commit's name, see `Store::resolve`.
//!
//! *Used by* the verbs of `cli` that read commits.

use super::links::{self, LastLink};
use crate::disk::Wait;
use crate::image::{Image, ImageError, Ino};
use crate::model::{Commit, CommitId, ImagePath, PathError};
use crate::store::{ReadError, RemovalGuard, ResolveError, Store};

/// Why a local source names nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LocateError {
    /// The path is illegal.
    #[error("{0}")]
    Path(#[from] PathError),
    /// There is no such commit.
    #[error("{0}")]
    Resolve(#[from] ResolveError),
    /// The commit or its image cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The image is damaged.
    #[error("cannot look up {path} in {spec}")]
    LookUp { path: ImagePath, spec: String, source: ImageError },
    /// The commit has no such path.
    #[error("there is no {path} in {spec} (commit {})", .id.short())]
    NoEntry { path: ImagePath, spec: String, id: CommitId },
}

/// An entry of a commit. As long as this value exists, garbage collection waits, so nothing of the commit is removed.
pub(crate) struct LocatedEntry {
    pub(crate) id: CommitId,
    pub(crate) commit: Commit,
    pub(crate) image: Image,
    /// The path of the entry, after following links; the root if none was given.
    pub(crate) path: ImagePath,
    /// The entry at that path.
    pub(crate) ino: Ino,
    _removal_guard: Option<RemovalGuard>,
}

/// Splits `SOURCE:/path` into the source and the path.
///
/// # Errors
/// When the path is not legal.
pub(crate) fn split(source: &str) -> Result<(&str, ImagePath), PathError> {
    match source.find(":/") {
        Some(colon) => Ok((&source[..colon], ImagePath::parse(&source.as_bytes()[colon + 1..])?)),
        None => Ok((source, ImagePath::root())),
    }
}

/// Finds the commit and the entry that `source` names, following links inside the commit. A garbage collection that runs is waited for.
///
/// # Errors
/// When there is no such commit or no such path in it.
pub(crate) fn locate(store: &Store, source: &str, last: LastLink, wait: Wait<'_>) -> Result<LocatedEntry, LocateError> {
    // On a read-only medium the lock cannot be taken, and is not needed: no garbage collection can run there.
    let guard = store.block_removal(wait).ok();
    let (spec, path) = split(source)?;
    let id = store.resolve(spec)?;
    let commit = store.commit(id)?;
    let image = store.image(commit.image)?;
    match links::follow(&image, &path, last) {
        Ok(Some((path, ino))) => Ok(LocatedEntry { id, commit, image, path, ino, _removal_guard: guard }),
        Ok(None) => Err(LocateError::NoEntry { path, spec: spec.to_owned(), id }),
        Err(source) => Err(LocateError::LookUp { path, spec: spec.to_owned(), source }),
    }
}
