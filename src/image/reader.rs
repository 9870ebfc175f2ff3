//! [`Image`]: opening one, and what is known of it as a whole.
//!
//! Opening reads the header and nothing else, in a few microseconds whatever the size. From then on the image answers
//! any question from the mapped bytes alone, without a table, a lock or an allocation beside it: so any number of
//! threads and processes may ask at once, and one that died is replaced by one that maps the same file. The questions
//! themselves are in the sibling files: `directory`, `attributes`, `contents`.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::column::Sections;
use super::header::{Header, usize_of};
use super::presence::{Bytes, Presence};
use super::view::View;
use super::{ImageError, Ino};
use crate::model::ImageId;
use crate::sys::Mapping;

/// The metadata of one filesystem tree, mapped. Cheap to clone.
///
/// The bytes need not be trusted: an answer is checked before it is given, as far as memory safety, termination and the
/// rules of names go. That they are the bytes which an id names is what [`Image::id`] and [`Image::verify`] are for.
#[derive(Clone)]
pub struct Image {
    pub(super) bytes: Mapping,
    pub(super) sections: Sections,
    pub(super) header: Header,
    /// Which blocks are here, when not all are.
    presence: Option<Arc<Presence>>,
    id: ImageId,
}

impl Image {
    /// Checks the header and the section table.
    ///
    /// # Errors
    /// [`ImageError`] when the bytes are no image, one of a newer format, or too short for what the header announces.
    pub fn open(bytes: Mapping) -> Result<Self, ImageError> {
        Self::with_presence(bytes, None)
    }

    /// An image of which only the header with its tables needs to be here, and the blocks that `presence` names. Whoever
    /// asks for what is elsewhere gets [`ImageError::Absent`] and may ask again later.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_partial(bytes: Mapping, presence: Arc<Presence>) -> Result<Self, ImageError> {
        Self::with_presence(bytes, Some(presence))
    }

    fn with_presence(bytes: Mapping, presence: Option<Arc<Presence>>) -> Result<Self, ImageError> {
        let header = Header::parse(&bytes)?;
        let sections = Sections::resolve(&bytes, &header)?;
        let hashed = bytes.get(..usize_of(header.header_length)).ok_or(ImageError::Header { field: "length" })?;
        let id = ImageId::from_bytes(Sha256::digest(hashed).into());
        Ok(Self { bytes, sections, header, presence, id })
    }

    /// Whether the block is here; all of a complete image are.
    #[must_use]
    pub fn has_block(&self, block: u32) -> bool {
        self.presence.as_ref().is_none_or(|presence| presence.has(block))
    }

    /// The whole file.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The id of these bytes, provided that the blocks have the digests which the header gives: see [`Self::verify`].
    #[must_use]
    pub const fn id(&self) -> ImageId {
        self.id
    }

    /// Number of entries, the root and every name of a hard link counted.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.header.entries
    }

    /// Number of inodes: entries less further hard links.
    #[must_use]
    pub fn inodes(&self) -> u64 {
        u64::from(self.entries()).saturating_sub(self.sections.hard_links.len() as u64)
    }

    /// Sum of the sizes of all regular files in bytes, each inode once, as the header states it.
    #[must_use]
    pub const fn content_bytes(&self) -> u64 {
        self.header.content_bytes
    }

    /// Feature bits that this program does not know but may ignore, compatible and read-only ones together.
    #[must_use]
    pub const fn features(&self) -> u64 {
        self.header.tolerated_features
    }

    /// Bytes of the image itself.
    #[must_use]
    pub fn file_length(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The top of the tree.
    #[must_use]
    pub const fn root(&self) -> Ino {
        Ino::ROOT
    }

    /// Whether any inode has extended attributes.
    #[must_use]
    pub const fn has_xattrs(&self) -> bool {
        self.sections.xattrs.is_present()
    }

    /// Whether any regular file has holes.
    #[must_use]
    pub const fn has_holes(&self) -> bool {
        self.sections.sparse.is_present()
    }

    #[inline]
    pub(super) fn view(&self) -> View<'_> {
        View { bytes: Bytes::partial(&self.bytes, self.presence.as_deref()), sections: &self.sections }
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}, {} entries)", self.id.short(), self.entries())
    }
}
