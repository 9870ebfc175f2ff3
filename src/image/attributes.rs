//! Reads the attributes, the link target and the extended attributes of an inode of an image.
//!
//! *Not here*: file contents (`contents`), directories (`directory`).
//!
//! *Used by* `vfs`, which answers `stat`, `readlink` and `getxattr` with them, and by every other reader of images.

use super::view::{ImageView, entry_error, lower, upper};
use super::xattrs::XattrSet;
use super::{EntryFault, Image, ImageError, Ino, Section};
use crate::model::{DeviceNumber, FileKind, Metadata, Timestamp, Xattrs};

/// Files are accounted in units of this many bytes, as on most disk filesystems.
const ALLOCATION_UNIT: u64 = 4096;

/// The unit of `st_blocks` in bytes.
const STAT_BLOCK: u64 = 512;

/// The attributes of an inode that `stat` reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The inode number; for a further hard link, that of the primary.
    pub ino: Ino,
    /// The kind of the inode.
    pub kind: FileKind,
    /// The lower 12 bits of `st_mode`.
    pub permissions: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The modification time.
    pub mtime: Timestamp,
    /// Length of a regular file or of a link's target in bytes; otherwise 0.
    pub(crate) size: u64,
    /// The link count: the number of names; for a directory, 2 and the number of its subdirectories.
    pub nlink: u32,
    /// The device number; `None` unless the inode is a device.
    pub(crate) device: Option<DeviceNumber>,
    /// The allocated space in units of 512 bytes. For a sparse file it is smaller than the size.
    pub blocks: u64,
}

impl Image {
    /// Returns the attributes that `stat` reports.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, ImageError> {
        let view = self.view();
        let entry = view.inode(ino)?;
        let mode = view.mode(entry)?;
        let kind = view.kind(entry)?;
        let size = view.size(entry)?;
        Ok(Attributes {
            ino: Ino::of_entry(entry),
            kind,
            permissions: mode & 0o7777,
            uid: view.uid(entry)?,
            gid: view.gid(entry)?,
            mtime: view.mtime(entry)?,
            size,
            nlink: view.links(entry)?,
            device: match kind {
                FileKind::CharDevice | FileKind::BlockDevice => Some(device(view, entry)?),
                _ => None,
            },
            blocks: match kind {
                FileKind::Regular => allocated(view, entry, size)?,
                _ => 0,
            },
        })
    }

    /// Returns the kind of an inode.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn kind(&self, ino: Ino) -> Result<FileKind, ImageError> {
        let view = self.view();
        view.kind(view.inode(ino)?)
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// [`ImageError::WrongKind`] when the inode is not a symbolic link; others when the image is damaged.
    pub fn symlink(&self, ino: Ino) -> Result<&[u8], ImageError> {
        let view = self.view();
        view.target(view.inode_of_kind(ino, FileKind::Symlink)?)
    }

    /// Returns the extended attributes of an inode, in place.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn xattr_set(&self, ino: Ino) -> Result<XattrSet<'_>, ImageError> {
        let view = self.view();
        XattrSet::of(view, view.inode(ino)?)
    }

    /// Returns one extended attribute.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<&[u8]>, ImageError> {
        self.xattr_set(ino)?.get(name)
    }

    /// Returns whether any inode has the extended attribute `name`. Reads each distinct set once.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub(crate) fn any_has_xattr(&self, name: &[u8]) -> Result<bool, ImageError> {
        let view = self.view();
        let sets = view.sections.xattr_offsets.len().saturating_sub(1);
        for number in 1..=u32::try_from(sets).unwrap_or(u32::MAX) {
            // The entry is only used in error messages, so any number will do.
            if XattrSet::numbered(view, number, 0)?.get(name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns all extended attributes, as a value.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn xattrs(&self, ino: Ino) -> Result<Xattrs, ImageError> {
        self.xattr_set(ino)?.to_xattrs()
    }

    /// Returns the metadata that every kind of inode has, as a value.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn metadata(&self, ino: Ino) -> Result<Metadata, ImageError> {
        let view = self.view();
        let entry = view.inode(ino)?;
        Ok(Metadata {
            permissions: view.mode(entry)? & 0o7777,
            uid: view.uid(entry)?,
            gid: view.gid(entry)?,
            mtime: view.mtime(entry)?,
            xattrs: XattrSet::of(view, entry)?.to_xattrs()?,
        })
    }
}

/// Returns the device number of the device `entry`.
pub(super) fn device(view: ImageView<'_>, entry: u32) -> Result<DeviceNumber, ImageError> {
    let data = view.data(entry)?;
    Ok(DeviceNumber { major: lower(data), minor: upper(data) })
}

/// Returns the space a regular file would take on an ordinary disk, so that `du` is sensible and sparse files show as such.
fn allocated(view: ImageView<'_>, entry: u32, size: u64) -> Result<u64, ImageError> {
    let Some(extents) = view.extents(entry)? else {
        return Ok(size.div_ceil(ALLOCATION_UNIT).saturating_mul(ALLOCATION_UNIT / STAT_BLOCK));
    };
    let (mut units, mut end) = (0, 0);
    for extent in extents.iter() {
        let extent_end = extent.offset.checked_add(extent.length);
        let extent_end = extent_end.ok_or(entry_error(Section::Extents, entry, EntryFault::Extents))?;
        // Two extents may share a unit: it is counted with the first.
        let first = (extent.offset / ALLOCATION_UNIT).max(end);
        end = extent_end.div_ceil(ALLOCATION_UNIT).max(end);
        units += end.saturating_sub(first);
    }
    Ok(units * (ALLOCATION_UNIT / STAT_BLOCK))
}
