//! Names to inodes: lookup, listing, paths.

use super::view::{View, wrong};
use super::{EntryFault, Image, ImageError, Ino, Section};
use crate::model::{FileKind, ImagePath};

/// One name in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// Its position in the directory, from 0. Listing again from one more than it continues after it.
    pub index: u32,
    /// The name, a legal one.
    pub name: &'a [u8],
    /// The inode. Hard links have the same.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
}

impl Image {
    /// The inode of `name` in `directory`.
    ///
    /// # Errors
    /// [`ImageError::WrongKind`] when `directory` is none; others when the image is damaged.
    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Option<Ino>, ImageError> {
        let view = self.view();
        let directory = view.inode_of_kind(directory, FileKind::Directory)?;
        let Some(entry) = view.search(view.children(directory)?, name)? else { return Ok(None) };
        view.check_child(directory, entry)?;
        Ok(Some(Ino::of_entry(view.primary(entry)?)))
    }

    /// The names in `directory` in bytewise order, starting at the position `from`.
    ///
    /// Ends after the first error.
    ///
    /// # Errors
    /// [`ImageError::WrongKind`] when `directory` is none; others when the image is damaged.
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

    /// Number of names in `directory`.
    ///
    /// # Errors
    /// As for [`Self::children`].
    pub fn child_count(&self, directory: Ino) -> Result<u32, ImageError> {
        let view = self.view();
        let children = view.children(view.inode_of_kind(directory, FileKind::Directory)?)?;
        Ok(children.end - children.start)
    }

    /// The directory that holds the first name of an inode; the root for the root.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn parent(&self, ino: Ino) -> Result<Ino, ImageError> {
        let view = self.view();
        Ok(Ino::of_entry(view.parent(view.inode(ino)?)?))
    }

    /// The first path of an inode.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn path(&self, ino: Ino) -> Result<ImagePath, ImageError> {
        let view = self.view();
        path(view, view.inode(ino)?)
    }

    /// The inode at a path. Does not follow symbolic links: a path through one leads nowhere.
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
fn dir_entry(view: View<'_>, directory: u32, first: u32, entry: u32) -> Result<DirEntry<'_>, ImageError> {
    view.check_child(directory, entry)?;
    Ok(DirEntry {
        index: entry - first,
        name: view.name(entry)?,
        ino: Ino::of_entry(view.primary(entry)?),
        kind: view.kind(entry)?,
    })
}

/// The path of one entry.
pub(super) fn path(view: View<'_>, entry: u32) -> Result<ImagePath, ImageError> {
    let mut names = Vec::new();
    let mut at = entry;
    while at != 0 {
        let name = crate::model::EntryName::new(view.raw_name(at)?);
        names.push(name.map_err(|_| wrong(Section::Names, at, EntryFault::Name))?);
        at = view.parent(at)?;
    }
    let mut path = ImagePath::root();
    names.into_iter().rev().for_each(|name| path.push(name));
    Ok(path)
}
