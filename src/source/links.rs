//! Following symbolic links inside a commit, as the kernel would on a machine that runs it.
//!
//! A commit has the defaults of `/etc` in `/usr/etc`, and a deployed machine has them in `/etc`. So a path below `/etc` that the
//! commit lacks is looked for there, and a link there counts as one in `/etc`.
//!
//! *Used by* `local` and `commit_reader`, and by `deploy`.

use crate::image::{Image, ImageError, Ino};
use crate::model::{EntryName, FileKind, ImagePath};

/// The number of symbolic links that are followed in one path, as on Linux (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// Whether a link at the end of a path is followed; those before it always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastLink {
    /// The path means what the link leads to.
    Followed,
    /// The path means the link.
    Kept,
}

/// Returns the entry that a path leads to, and its own path in the image; `None` if there is none.
///
/// # Errors
/// When the image cannot be read.
pub(crate) fn follow(image: &Image, path: &ImagePath, last: LastLink) -> Result<Option<(ImagePath, Ino)>, ImageError> {
    let mut path = path.clone();
    for _ in 0..=LINKS_MAX {
        let Some(link) = first_link(image, &path, last)? else { return find(image, &path) };
        match redirect(image, &path, link)? {
            Some(next) => path = next,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Returns the number of components up to the first link that has to be followed.
fn first_link(image: &Image, path: &ImagePath, last: LastLink) -> Result<Option<usize>, ImageError> {
    let count = path.components().len();
    let followed = if last == LastLink::Followed { count } else { count.saturating_sub(1) };
    let mut at = ImagePath::root();
    for (index, name) in path.components()[..followed].iter().enumerate() {
        at.push(name.clone());
        match find(image, &at)? {
            Some((_, ino)) if image.attributes(ino)?.kind == FileKind::Symlink => return Ok(Some(index + 1)),
            Some(_) => {}
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Returns the path with the link at its first `length` components replaced by what the link says; `None` if that is no legal
/// path.
fn redirect(image: &Image, path: &ImagePath, length: usize) -> Result<Option<ImagePath>, ImageError> {
    let mut link = ImagePath::root();
    path.components()[..length].iter().for_each(|name| link.push(name.clone()));
    let Some((_, ino)) = find(image, &link)? else { return Ok(None) };
    let target = image.symlink(ino)?;
    link.pop();
    let mut next = if target.starts_with(b"/") { ImagePath::root() } else { as_deployed(link) };
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => _ = next.pop(),
            name => match EntryName::new(name) {
                Ok(name) => next.push(name),
                Err(_) => return Ok(None),
            },
        }
    }
    path.components()[length..].iter().for_each(|name| next.push(name.clone()));
    Ok(Some(next))
}

/// Returns where a deployed machine has a directory: `/usr/etc` is at `/etc`.
fn as_deployed(path: ImagePath) -> ImagePath {
    match path.components() {
        [usr, etc, ..] if usr.as_bytes() == b"usr" && etc.as_bytes() == b"etc" => without_first(&path),
        _ => path,
    }
}

fn without_first(path: &ImagePath) -> ImagePath {
    let mut rest = ImagePath::root();
    path.components()[1..].iter().for_each(|name| rest.push(name.clone()));
    rest
}

/// Looks a path up without following links; a path below `/etc` also below `/usr/etc`.
fn find(image: &Image, path: &ImagePath) -> Result<Option<(ImagePath, Ino)>, ImageError> {
    if let Some(ino) = image.resolve(path)? {
        return Ok(Some((path.clone(), ino)));
    }
    let (Some(first), Ok(usr)) = (path.components().first(), EntryName::new(*b"usr")) else { return Ok(None) };
    if first.as_bytes() != b"etc" {
        return Ok(None);
    }
    let mut default = ImagePath::root().join(usr);
    path.components().iter().for_each(|name| default.push(name.clone()));
    Ok(image.resolve(&default)?.map(|ino| (default, ino)))
}
