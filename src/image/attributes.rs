//! What `stat`, `readlink` and `getxattr` answer for an inode.

use super::view::{View, lower, upper, wrong};
use super::xattrs::XattrSet;
use super::{EntryFault, Image, ImageError, Ino, Section};
use crate::model::{DeviceNumber, FileKind, Metadata, Timestamp, Xattrs};

/// Files are accounted in pieces of this many bytes, as most disk filesystems do.
const ALLOCATION_UNIT: u64 = 4096;

/// The unit of `st_blocks` in bytes.
const STAT_BLOCK: u64 = 512;

/// The answer to `stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// The inode; the primary's when a further hard link was asked for.
    pub ino: Ino,
    /// What it is.
    pub kind: FileKind,
    /// The lower 12 bits of `st_mode`.
    pub permissions: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Length of a regular file or of a link's target in bytes; otherwise 0.
    pub size: u64,
    /// Number of names; of a directory, 2 and its subdirectories.
    pub nlink: u32,
    /// Of a device: which.
    pub device: Option<DeviceNumber>,
    /// Allocated space in units of 512 bytes: that of a sparse file is smaller than its size.
    pub blocks: u64,
}

impl Image {
    /// The answer to `stat`.
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

    /// What an inode is.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn kind(&self, ino: Ino) -> Result<FileKind, ImageError> {
        let view = self.view();
        view.kind(view.inode(ino)?)
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`ImageError::WrongKind`] when the inode is none; others when the image is damaged.
    pub fn symlink(&self, ino: Ino) -> Result<&[u8], ImageError> {
        let view = self.view();
        view.target(view.inode_of_kind(ino, FileKind::Symlink)?)
    }

    /// The extended attributes of an inode, in place.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn xattr_set(&self, ino: Ino) -> Result<XattrSet<'_>, ImageError> {
        let view = self.view();
        XattrSet::of(view, view.inode(ino)?)
    }

    /// One extended attribute.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<&[u8]>, ImageError> {
        self.xattr_set(ino)?.get(name)
    }

    /// Whether any inode has the extended attribute `name`. Looks at each distinct set once.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub fn any_has_xattr(&self, name: &[u8]) -> Result<bool, ImageError> {
        let view = self.view();
        let sets = view.sections.xattr_offsets.len().saturating_sub(1);
        for number in 1..=u32::try_from(sets).unwrap_or(u32::MAX) {
            // Whose set it is matters to messages only.
            if XattrSet::numbered(view, number, 0)?.get(name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All extended attributes, as a value.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn xattrs(&self, ino: Ino) -> Result<Xattrs, ImageError> {
        self.xattr_set(ino)?.to_xattrs()
    }

    /// What every kind of inode has, as a value.
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

/// The device number of the device `entry`.
pub(super) fn device(view: View<'_>, entry: u32) -> Result<DeviceNumber, ImageError> {
    let data = view.data(entry)?;
    Ok(DeviceNumber { major: lower(data), minor: upper(data) })
}

/// The space a regular file would take on an ordinary disk, so that `du` is sensible and sparse files show as such.
fn allocated(view: View<'_>, entry: u32, size: u64) -> Result<u64, ImageError> {
    let Some(extents) = view.extents(entry)? else {
        return Ok(size.div_ceil(ALLOCATION_UNIT).saturating_mul(ALLOCATION_UNIT / STAT_BLOCK));
    };
    let (mut units, mut end) = (0, 0);
    for extent in extents.iter() {
        let extent_end = extent.offset.checked_add(extent.length);
        let extent_end = extent_end.ok_or(wrong(Section::Extents, entry, EntryFault::Extents))?;
        // Two extents may share a unit: it is counted with the first.
        let first = (extent.offset / ALLOCATION_UNIT).max(end);
        end = extent_end.div_ceil(ALLOCATION_UNIT).max(end);
        units += end.saturating_sub(first);
    }
    Ok(units * (ALLOCATION_UNIT / STAT_BLOCK))
}
