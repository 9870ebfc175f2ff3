//! The local sources `SOURCE` and `SOURCE:/path`: finding the commit and the entry that they name.
//!
//! *Not here*: remote sources, see `remote`; the syntax of a commit's name, see `Store::resolve`.
//!
//! *Used by* the verbs of `cli` that read commits.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

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
    match source.split_once(":/") {
        Some((spec, path)) => Ok((spec, ImagePath::parse(path.as_bytes())?)),
        None => Ok((source, ImagePath::root())),
    }
}

/// Returns `SOURCE:/path` for a source and a path that were given as two arguments; `None` if `source` has a path already.
pub(crate) fn join(source: &OsStr, path: &OsStr) -> Option<OsString> {
    if find(source.as_bytes(), b":/").is_some() {
        return None;
    }
    let separator = if path.as_bytes().starts_with(b"/") { &b":"[..] } else { b":/" };
    Some(OsString::from_vec([source.as_bytes(), separator, path.as_bytes()].concat()))
}

/// Finds the commit and the entry that `source` names, following links inside the commit: `SOURCE`, `SOURCE:/path`, or
/// `SOURCE:path`, where the path may have any bytes. A path that the commit does not have is also looked for as it is
/// printed, with `\xe9` for a byte that is no text. A garbage collection that runs is waited for.
///
/// # Errors
/// When there is no such commit or no such path in it.
pub(crate) fn locate(
    store: &Store,
    source: impl AsRef<OsStr>,
    last: LastLink,
    wait: Wait<'_>,
) -> Result<LocatedEntry, LocateError> {
    // On a read-only medium the lock cannot be taken, and is not needed: no garbage collection can run there.
    let guard = store.block_removal(wait).ok();
    let (id, spec, path) = find_commit(store, source.as_ref().as_bytes())?;
    let commit = store.commit(id)?;
    let image = store.image(commit.image)?;
    let look_up = |path: &ImagePath| {
        let error = |source| LocateError::LookUp { path: path.clone(), spec: spec.clone(), source };
        links::follow(&image, path, last).map_err(error)
    };
    let mut found = look_up(&path)?;
    if found.is_none()
        && let Some(unescaped) = unescape(&path.to_bytes())
    {
        found = look_up(&ImagePath::parse(&unescaped)?)?;
    }
    match found {
        Some((path, ino)) => Ok(LocatedEntry { id, commit, image, path, ino, _removal_guard: guard }),
        None => Err(LocateError::NoEntry { path, spec, id }),
    }
}

/// Returns the commit that a source names, the part of the source that names it, and the path.
fn find_commit(store: &Store, source: &[u8]) -> Result<(CommitId, String, ImagePath), LocateError> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if let Some(colon) = find(source, b":/") {
        let spec = text(&source[..colon]);
        return Ok((store.resolve(&spec)?, spec, ImagePath::parse(&source[colon + 1..])?));
    }
    let spec = text(source);
    match (store.resolve(&spec), find(source, b":")) {
        // `REMOTE:REF` names a ref as of the last pull; where there is none, the colon begins a path.
        (Err(unknown @ ResolveError::Unknown { .. }), Some(colon)) => {
            let before = text(&source[..colon]);
            let id = store.resolve(&before).map_err(|_| unknown)?;
            Ok((id, before, ImagePath::parse(&source[colon + 1..])?))
        }
        (found, _) => Ok((found?, spec, ImagePath::root())),
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

/// Undoes `u8::escape_ascii`, with which names that are no text are printed; `None` if nothing is escaped, or wrongly.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (letter, after) = rest.split_first()?;
        rest = after;
        bytes.push(match letter {
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            b'\\' | b'\'' | b'"' => *letter,
            b'x' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    (bytes != text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_names_are_understood() {
        let all: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        assert_eq!(unescape(all.escape_ascii().to_string().as_bytes()), Some(all));
        for other in [&b"plain"[..], b"\\", b"\\x1", b"\\xzz", b"\\q"] {
            assert_eq!(unescape(other), None, "{other:?}");
        }
    }
}
