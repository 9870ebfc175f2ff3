//! Walks over every entry below a directory, with its path.
//!
//! *Used by* every layer that needs the paths of an image.

use super::{Image, ImageError, Ino};
use crate::model::{EntryName, FileKind, ImagePath};

impl Image {
    /// Calls `visit` for every entry below the directory `top` with its path relative to `top`, parents before children. A hard
    /// link is reported under each of its names.
    ///
    /// # Errors
    /// [`ImageError`] of the first damaged entry, or what `visit` returns.
    pub fn walk<E: From<ImageError>>(
        &self,
        top: Ino,
        visit: &mut dyn FnMut(&ImagePath, Ino, FileKind) -> Result<(), E>,
    ) -> Result<(), E> {
        // The directories that are still to be listed, each with its name and the depth of the name in the one path that all
        // directories share.
        let mut pending = Vec::new();
        let mut path = ImagePath::root();
        let mut next = Some((top, 0));
        while let Some((directory, depth)) = next {
            let first = pending.len();
            for child in self.children(directory, 0)? {
                let child = child?;
                // children() has checked the name.
                let Ok(name) = EntryName::new(child.name) else { continue };
                path.push(name);
                visit(&path, child.ino, child.kind)?;
                let name = path.pop();
                if child.kind == FileKind::Directory {
                    pending.push((child.ino, depth, name));
                }
            }
            pending[first..].reverse();
            next = pending.pop().map(|(directory, depth, name)| {
                while path.components().len() > depth {
                    path.pop();
                }
                name.into_iter().for_each(|name| path.push(name));
                (directory, depth + 1)
            });
        }
        Ok(())
    }
}
