//! Visiting every entry below a directory, with its path.

use super::{Image, ImageError, Ino};
use crate::model::{EntryName, FileKind, ImagePath};

impl Image {
    /// Calls `visit` for every entry below the directory `top` with its path from there, parents before children. A hard
    /// link is visited under each of its names.
    ///
    /// # Errors
    /// [`ImageError`] of the first damaged entry, or what `visit` returns.
    pub fn walk<E: From<ImageError>>(
        &self,
        top: Ino,
        visit: &mut dyn FnMut(&ImagePath, Ino, FileKind) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut pending = vec![(top, ImagePath::root())];
        while let Some((directory, path)) = pending.pop() {
            let first = pending.len();
            for child in self.children(directory, 0)? {
                let child = child?;
                // The reader has checked the name.
                let Ok(name) = EntryName::new(child.name) else { continue };
                let below = path.join(name);
                visit(&below, child.ino, child.kind)?;
                if child.kind == FileKind::Directory {
                    pending.push((child.ino, below));
                }
            }
            pending[first..].reverse();
        }
        Ok(())
    }
}
