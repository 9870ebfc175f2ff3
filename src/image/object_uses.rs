//! Lists the objects of an image, each with the first inode that has it as its content.
//!
//! *Used by* `remote` and `deploy`.

use super::contents::object;
use super::view::ImageView;
use super::{Image, ImageError, Ino};
use crate::model::{FileKind, ObjectId};

/// An object, and the first inode that has it as its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectUse {
    /// The number of the object in the image: the number of other objects that are used before it.
    pub index: u32,
    /// The object.
    pub id: ObjectId,
    /// The length in bytes.
    pub size: u64,
    /// The first inode that has it as its content.
    pub(crate) ino: Ino,
}

impl Image {
    /// Returns the distinct objects in order of their first use. Reads the whole inode table once.
    ///
    /// # Errors
    /// [`ImageError`] from the iterator when the image is damaged.
    pub fn object_uses(&self) -> impl Iterator<Item = Result<ObjectUse, ImageError>> + use<'_> {
        let view = self.view();
        // Objects are numbered in order of first use: a new one occurs exactly where the count so far is used as a number.
        let mut next = 0;
        (0..view.entries()).filter_map(move |entry| {
            let found = first_object_use(view, entry, next).transpose()?;
            next += u32::from(found.is_ok());
            Some(found)
        })
    }
}

fn first_object_use(view: ImageView<'_>, entry: u32, index: u32) -> Result<Option<ObjectUse>, ImageError> {
    if view.data(entry)? != u64::from(index) || view.kind(entry)? != FileKind::Regular {
        return Ok(None);
    }
    let Some(id) = object(view, entry)? else { return Ok(None) };
    Ok(Some(ObjectUse { index, id, size: view.size(entry)?, ino: Ino::of_entry(entry) }))
}
