//! Looks up names, lists directories, and converts between paths and inodes.
//!
//! *Used by* `vfs` and every other reader of directories.

use super::view::{ImageView, entry_error};
use super::{EntryFault, Image, ImageError, Ino, Section};
use crate::model::{FileKind, ImagePath};

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The position in the directory, from 0. A listing that starts at this position plus one continues after this entry.
    pub index: u32,
    /// The name, which is legal.
    pub name: &'a [u8],
    /// The inode. Hard links of one inode have the same number.
    pub ino: Ino,
    /// The kind of the inode.
    pub kind: FileKind,
}

impl Image {
    /// Returns the inode of `name` in `directory`.
    ///
    /// # Errors
    /// [`ImageError::WrongKind`] when `directory` is not a directory; others when the image is damaged.
    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Ino>, ImageError> {
        let view = self.view();
        let directory = view.inode_of_kind(directory, FileKind::Directory)?;
        let Some(entry) = view.search(view.children(directory)?, name)? else { return Ok(None) };
        view.check_child(directory, entry)?;
        Ok(Some(Ino::of_entry(view.primary(entry)?)))
    }

    /// Returns the names in `directory` in bytewise order, starting at the position `from`.
    ///
    /// Ends after the first error.
    ///
    /// # Errors
    /// [`ImageError::WrongKind`] when `directory` is not a directory; others when the image is damaged.
    pub fn children(
        &self,
        directory: Ino,
        from: u32,
    ) -> Result<impl Iterator<Item = Result<DirEntry<'_>, ImageError>> + use<'_>, ImageError> {
        let view = self.view();
        let directory = view.inode_of_kind(directory, FileKind::Directory)?;
        let children = view.children(directory)?;
        let mut is_broken = false;
        let start = children.start.saturating_add(from).min(children.end);
        Ok((start..children.end).map_while(move |entry| {
            if is_broken {
                return None;
            }
            let child = dir_entry(view, directory, children.start, entry);
            is_broken = child.is_err();
            Some(child)
        }))
    }

    /// Returns the number of names in `directory`.
    ///
    /// # Errors
    /// As for [`Self::children`].
    pub fn child_count(&self, directory: Ino) -> Result<u32, ImageError> {
        let view = self.view();
        let children = view.children(view.inode_of_kind(directory, FileKind::Directory)?)?;
        Ok(children.end - children.start)
    }

    /// Returns the directory that holds the first name of an inode; for the root, the root itself.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn parent(&self, ino: Ino) -> Result<Ino, ImageError> {
        let view = self.view();
        Ok(Ino::of_entry(view.parent(view.inode(ino)?)?))
    }

    /// Returns the first path of an inode.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn path(&self, ino: Ino) -> Result<ImagePath, ImageError> {
        let view = self.view();
        path(view, view.inode(ino)?)
    }

    /// Returns the inode at a path. Does not follow symbolic links: there is no inode at a path through one.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub fn resolve(&self, path: &ImagePath) -> Result<Option<Ino>, ImageError> {
        let mut ino = Ino::ROOT;
        for name in path.components() {
            if self.view().kind(ino.entry())? != FileKind::Directory {
                return Ok(None);
            }
            let Some(child) = self.lookup(ino, name.as_bytes())? else { return Ok(None) };
            ino = child;
        }
        Ok(Some(ino))
    }
}

#[inline]
fn dir_entry(view: ImageView<'_>, directory: u32, first: u32, entry: u32) -> Result<DirEntry<'_>, ImageError> {
    view.check_child(directory, entry)?;
    Ok(DirEntry {
        index: entry - first,
        name: view.name(entry)?,
        ino: Ino::of_entry(view.primary(entry)?),
        kind: view.kind(entry)?,
    })
}

/// Returns the path of one entry.
pub(super) fn path(view: ImageView<'_>, entry: u32) -> Result<ImagePath, ImageError> {
    let mut names = Vec::new();
    let mut at = entry;
    while at != 0 {
        let name = crate::model::EntryName::new(view.raw_name(at)?);
        names.push(name.map_err(|_| entry_error(Section::Names, at, EntryFault::Name))?);
        at = view.parent(at)?;
    }
    let mut path = ImagePath::root();
    names.into_iter().rev().for_each(|name| path.push(name));
    Ok(path)
}
