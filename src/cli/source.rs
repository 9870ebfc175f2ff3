//! `SOURCE` and `SOURCE:/path` as people write them.

use anyhow::{Context as _, Result, bail};

use crate::image::{Image, Ino};
use crate::model::{Commit, CommitId, ImagePath};
use crate::store::{Hold, Store};

/// A place in a commit. While it lives, nothing of the commit is collected.
pub struct Located {
    /// The commit.
    pub id: CommitId,
    /// Its record.
    pub commit: Commit,
    /// Its image.
    pub image: Image,
    /// The path that was given, the root if none was.
    pub path: ImagePath,
    /// The entry at that path.
    pub ino: Ino,
    _hold: Option<Hold>,
}

/// Splits `SOURCE:/path`.
///
/// # Errors
/// When the path is not legal.
pub fn split(source: &str) -> Result<(&str, ImagePath)> {
    match source.find(":/") {
        Some(colon) => Ok((&source[..colon], ImagePath::parse(&source.as_bytes()[colon + 1..])?)),
        None => Ok((source, ImagePath::root())),
    }
}

/// Finds the commit and the entry that `source` names.
///
/// # Errors
/// When there is no such commit or no such path in it.
pub fn locate(store: &Store, source: &str) -> Result<Located> {
    // A repository on a read-only medium can be read all the same: nobody collects there.
    let hold = store.hold(super::repository::announced()).ok();
    let (spec, path) = split(source)?;
    let id = store.resolve(spec)?;
    let commit = store.commit(id)?;
    let image = store.image(commit.image)?;
    let ino = image.resolve(&path).with_context(|| format!("cannot look up {path} in {spec}"))?;
    let Some(ino) = ino else { bail!("there is no {path} in {spec} (commit {})", id.short()) };
    Ok(Located { id, commit, image, path, ino, _hold: hold })
}
