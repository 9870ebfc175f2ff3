//! Opens an [`Image`], and reports the facts about it as a whole.
//!
//! Opening reads only the header, in a few microseconds for any size. After that every operation reads the mapped bytes alone,
//! without a further table, a lock or an allocation. So any number of threads and processes can read at the same time, and a
//! process that died is replaced by another one that maps the same file.
//!
//! *Not here*: reading entries (`directory`, `attributes`, `contents`).
//!
//! *Used by* `store`, `vfs` and every other reader of images.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::column::Sections;
use super::header::{ImageHeader, usize_of};
use super::presence::{ImageBytes, Presence};
use super::view::ImageView;
use super::{ImageError, Ino};
use crate::model::ImageId;
use crate::sys::Mapping;

/// The metadata of one filesystem tree, mapped. Cheap to clone.
///
/// The bytes need not be trusted: every operation checks what memory safety, termination and the rules of names depend on.
/// [`Image::id`] and [`Image::verify`] together prove that the bytes are those which an id names.
#[derive(Clone)]
pub struct Image {
    pub(super) bytes: Mapping,
    pub(super) sections: Sections,
    pub(super) header: ImageHeader,
    /// The blocks that are present; `None` for a complete image.
    presence: Option<Arc<Presence>>,
    id: ImageId,
}

impl Image {
    /// Opens a complete image: checks the header and the section table.
    ///
    /// # Errors
    /// [`ImageError`] when the bytes are not an image, of a newer format, or fewer than the header says.
    pub fn open(bytes: Mapping) -> Result<Self, ImageError> {
        Self::with_presence(bytes, None)
    }

    /// Opens an image of which only the header with its tables and the blocks in `presence` are present. An operation that
    /// needs another block fails with [`ImageError::Absent`] and may be repeated later.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub(crate) fn open_partial(bytes: Mapping, presence: Arc<Presence>) -> Result<Self, ImageError> {
        Self::with_presence(bytes, Some(presence))
    }

    fn with_presence(bytes: Mapping, presence: Option<Arc<Presence>>) -> Result<Self, ImageError> {
        let header = ImageHeader::parse(&bytes)?;
        let sections = Sections::resolve(&bytes, &header)?;
        let hashed = bytes.get(..usize_of(header.header_length)).ok_or(ImageError::Header { field: "length" })?;
        let id = ImageId::from_bytes(Sha256::digest(hashed).into());
        Ok(Self { bytes, sections, header, presence, id })
    }

    /// Returns whether the block is present, as every block of a complete image is.
    pub(crate) fn has_block(&self, block: u32) -> bool {
        self.presence.as_ref().is_none_or(|presence| presence.has(block))
    }

    /// Returns the bytes of the whole file.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the id of the image, which is valid if the blocks have the digests in the header: see [`Self::verify`].
    #[must_use]
    pub const fn id(&self) -> ImageId {
        self.id
    }

    /// Returns the number of entries, the root and every name of a hard link included.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.header.entries
    }

    /// Returns the number of inodes: the entries without further hard links.
    pub(crate) fn inodes(&self) -> u64 {
        u64::from(self.entries()).saturating_sub(self.sections.hard_links.len() as u64)
    }

    /// Returns sum of the sizes of all regular files in bytes, each inode once, as the header states it.
    #[must_use]
    pub const fn content_bytes(&self) -> u64 {
        self.header.content_bytes
    }

    /// Returns the feature bits that this program does not know but may ignore, compatible and read-only ones together.
    #[must_use]
    pub const fn features(&self) -> u64 {
        self.header.tolerated_features
    }

    /// Returns the number of bytes of the file.
    pub(crate) fn file_length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Returns the inode number of the root.
    #[must_use]
    pub const fn root(&self) -> Ino {
        Ino::ROOT
    }

    /// Returns whether any inode has extended attributes.
    pub(crate) const fn has_xattrs(&self) -> bool {
        self.sections.xattrs.is_present()
    }

    /// Returns whether any regular file has holes.
    pub(crate) const fn has_holes(&self) -> bool {
        self.sections.sparse.is_present()
    }

    #[inline]
    pub(super) fn view(&self) -> ImageView<'_> {
        ImageView { bytes: ImageBytes::partial(&self.bytes, self.presence.as_deref()), sections: &self.sections }
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}, {} entries)", self.id.short(), self.entries())
    }
}
