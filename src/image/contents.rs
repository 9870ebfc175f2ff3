//! Reads what an image says of the contents of regular files: objects, blocks, holes.
//!
//! *Not here*: the bytes of objects (`store`).
//!
//! *Used by* `vfs`, `cache`, `store`, `remote`, `export` and every other reader of contents.

use super::column::Rows;
use super::layout::NO_OBJECT;
use super::view::{ImageView, entry_error, extents_are_legal};
use super::{EntryFault, Image, ImageError, Ino, Section};
use crate::model::{BlockId, Content, Extent, FileKind, Node, NodeKind, ObjectId};

/// The ids of the blocks of one file, read in place from the image.
#[derive(Clone, Copy)]
pub struct BlockIds<'a>(Rows<'a, [u8; 32]>);

impl<'a> BlockIds<'a> {
    /// Returns the number of blocks; 0 for a file that is not large.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.len()
    }

    /// Returns all of them, in order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = BlockId> + 'a {
        self.0.iter().map(BlockId::from_bytes)
    }
}

/// A reference from an image to an object: its id, and the number by which a locator names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRef {
    /// The id.
    pub id: ObjectId,
    /// The number among the objects of the image.
    pub index: u32,
    /// The length in bytes, as the image states it.
    pub size: u64,
}

impl Image {
    /// Returns the object that holds the content of a regular file, with its number in the image; `None` for an empty file.
    ///
    /// # Errors
    /// As for [`Self::object`].
    pub(crate) fn object_ref(&self, ino: Ino) -> Result<Option<ObjectRef>, ImageError> {
        let view = self.view();
        let entry = view.inode_of_kind(ino, FileKind::Regular)?;
        let Some(index) = view.object_index(entry)? else { return Ok(None) };
        let id = ObjectId::from_bytes(view.sections.objects.get(view.bytes, index as usize)?);
        Ok(Some(ObjectRef { id, index, size: view.size(entry)? }))
    }

    /// Returns the id of the object with this number.
    ///
    /// # Errors
    /// [`ImageError`] when there is no such object, or the image is damaged.
    pub(crate) fn object_by_index(&self, index: u32) -> Result<ObjectId, ImageError> {
        let view = self.view();
        view.sections.objects.get(view.bytes, index as usize).map(ObjectId::from_bytes)
    }

    /// Returns the sizes of all objects in bytes, by number. Does not read the ids of the objects.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub fn object_sizes(&self) -> Result<Vec<u64>, ImageError> {
        let view = self.view();
        let mut sizes = Vec::new();
        for entry in 0..view.entries() {
            // Objects are numbered in order of first use: a new one occurs exactly where the count so far is used as a number.
            if view.data(entry)? == sizes.len() as u64 && view.kind(entry)? == FileKind::Regular {
                sizes.push(view.size(entry)?);
            }
        }
        Ok(sizes)
    }

    /// Returns the number of distinct objects.
    pub(crate) fn object_count(&self) -> u32 {
        u32::try_from(self.sections.objects.len()).unwrap_or(u32::MAX)
    }

    /// Returns the id of block `block` of the large object with this number; `None` when there is no such block.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub(crate) fn block_of_object(&self, index: u32, block: u32) -> Result<Option<BlockId>, ImageError> {
        let view = self.view();
        let Some((row, first)) = view.sections.large_objects.find(view.bytes, index)? else { return Ok(None) };
        let last = row + 1 == view.sections.large_objects.len();
        let end = if last {
            view.sections.blocks.len()
        } else {
            view.sections.large_objects.get(view.bytes, row + 1)?.1 as usize
        };
        let at = (first as usize).saturating_add(block as usize);
        if at >= end {
            return Ok(None);
        }
        view.sections.blocks.get(view.bytes, at).map(|bytes| Some(BlockId::from_bytes(bytes)))
    }

    /// Returns the object that holds the content of a regular file; `None` when the file is empty.
    ///
    /// # Errors
    /// [`ImageError::WrongKind`] when the inode is not a regular file; others when the image is damaged.
    pub fn object(&self, ino: Ino) -> Result<Option<ObjectId>, ImageError> {
        let view = self.view();
        object(view, view.inode_of_kind(ino, FileKind::Regular)?)
    }

    /// Returns the number of the object that holds the content of a regular file; `None` when the file is empty.
    ///
    /// # Errors
    /// As for [`Self::object`].
    pub(crate) fn object_index(&self, ino: Ino) -> Result<Option<u32>, ImageError> {
        let view = self.view();
        view.object_index(view.inode_of_kind(ino, FileKind::Regular)?)
    }

    /// Returns the ids of the blocks of a regular file; none unless it is large.
    ///
    /// # Errors
    /// As for [`Self::object`].
    pub fn blocks(&self, ino: Ino) -> Result<BlockIds<'_>, ImageError> {
        let view = self.view();
        view.blocks(view.inode_of_kind(ino, FileKind::Regular)?).map(BlockIds)
    }

    /// Returns the runs of data of a sparse file; `None` for a file without holes.
    ///
    /// # Errors
    /// As for [`Self::object`].
    pub fn extents(&self, ino: Ino) -> Result<Option<Vec<Extent>>, ImageError> {
        let view = self.view();
        extents(view, view.inode_of_kind(ino, FileKind::Regular)?)
    }

    /// Returns the digests, the size and the extents of the content of a regular file.
    ///
    /// # Errors
    /// As for [`Self::object`].
    pub fn content(&self, ino: Ino) -> Result<Content, ImageError> {
        let view = self.view();
        content(view, view.inode_of_kind(ino, FileKind::Regular)?)
    }

    /// Returns everything that the image stores of an inode, as a value.
    ///
    /// # Errors
    /// [`ImageError`] when the inode does not exist or the image is damaged.
    pub fn node(&self, ino: Ino) -> Result<Node, ImageError> {
        let view = self.view();
        let entry = view.inode(ino)?;
        let kind = match view.kind(entry)? {
            FileKind::Directory => NodeKind::Directory,
            FileKind::Regular => NodeKind::Regular(content(view, entry)?),
            FileKind::Symlink => NodeKind::Symlink(view.target(entry)?.into()),
            FileKind::CharDevice => NodeKind::CharDevice(super::attributes::device(view, entry)?),
            FileKind::BlockDevice => NodeKind::BlockDevice(super::attributes::device(view, entry)?),
            FileKind::Fifo => NodeKind::Fifo,
            FileKind::Socket => NodeKind::Socket,
        };
        Ok(Node { metadata: self.metadata(ino)?, kind })
    }

    /// Returns the distinct objects of the image, in the order of their first use by inode number.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged.
    pub fn objects(&self) -> Result<impl ExactSizeIterator<Item = ObjectId> + use<'_>, ImageError> {
        let view = self.view();
        Ok(view.sections.objects.all(view.bytes)?.iter().map(ObjectId::from_bytes))
    }

    /// Returns the objects like [`Self::objects`], with the length of each in bytes. Reads the whole inode table once.
    ///
    /// # Errors
    /// [`ImageError`] when the image is damaged, at once or from the iterator.
    pub fn objects_with_sizes(
        &self,
    ) -> Result<impl Iterator<Item = Result<(ObjectId, u64), ImageError>> + use<'_>, ImageError> {
        let view = self.view();
        // Objects are numbered in order of first use: a new one occurs exactly where the count so far is used as a number.
        let mut next = 0;
        Ok((0..view.entries()).filter_map(move |entry| {
            let found = first_use(view, entry, next).transpose()?;
            next += u32::from(found.is_ok());
            Some(found)
        }))
    }
}

/// Returns the object with index `next` and its size, if `entry` is the first entry that uses it.
fn first_use(view: ImageView<'_>, entry: u32, next: u32) -> Result<Option<(ObjectId, u64)>, ImageError> {
    if view.data(entry)? != u64::from(next) || view.kind(entry)? != FileKind::Regular {
        return Ok(None);
    }
    let id = view.sections.objects.get(view.bytes, next as usize)?;
    Ok(Some((ObjectId::from_bytes(id), view.size(entry)?)))
}

/// Returns the object of the regular file `entry`.
#[inline]
pub(super) fn object(view: ImageView<'_>, entry: u32) -> Result<Option<ObjectId>, ImageError> {
    match view.object_index(entry)? {
        None => Ok(None),
        Some(index) => view.sections.objects.get(view.bytes, index as usize).map(ObjectId::from_bytes).map(Some),
    }
}

/// Returns the extents of the regular file `entry`, checked.
fn extents(view: ImageView<'_>, entry: u32) -> Result<Option<Vec<Extent>>, ImageError> {
    let Some(extents) = view.extents(entry)? else { return Ok(None) };
    if extents_are_legal(view.size(entry)?, extents.iter()) {
        Ok(Some(extents.iter().collect()))
    } else {
        Err(entry_error(Section::Extents, entry, EntryFault::Extents))
    }
}

fn content(view: ImageView<'_>, entry: u32) -> Result<Content, ImageError> {
    let size = view.size(entry)?;
    if (size == 0) != (view.data(entry)? == NO_OBJECT) {
        return Err(entry_error(Section::Size, entry, EntryFault::Size));
    }
    Ok(Content {
        object: object(view, entry)?,
        size,
        blocks: BlockIds(view.blocks(entry)?).iter().collect(),
        extents: extents(view, entry)?,
    })
}
