//! The objects of an image with an inode that uses each: what to fetch, how long it is, and where its blocks are named.

use super::contents::object;
use super::view::View;
use super::{Image, ImageError, Ino};
use crate::model::{FileKind, ObjectId};

/// An object and the first inode whose content it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectUse {
    /// Its number: how many other objects the image meets before it.
    pub index: u32,
    /// The object.
    pub id: ObjectId,
    /// Its length in bytes.
    pub size: u64,
    /// The first inode that has it.
    pub ino: Ino,
}

impl Image {
    /// The distinct objects in order of their first use. Reads the whole inode table once.
    ///
    /// # Errors
    /// [`ImageError`] from the iterator when the image is damaged.
    pub fn object_uses(&self) -> impl Iterator<Item = Result<ObjectUse, ImageError>> + use<'_> {
        let view = self.view();
        // The next object is always where the count so far is used as an index.
        let mut next = 0;
        (0..view.entries()).filter_map(move |entry| {
            let found = first_use(view, entry, next).transpose()?;
            next += u32::from(found.is_ok());
            Some(found)
        })
    }
}

fn first_use(view: View<'_>, entry: u32, index: u32) -> Result<Option<ObjectUse>, ImageError> {
    if view.data(entry)? != u64::from(index) || view.kind(entry)? != FileKind::Regular {
        return Ok(None);
    }
    let Some(id) = object(view, entry)? else { return Ok(None) };
    Ok(Some(ObjectUse { index, id, size: view.size(entry)?, ino: Ino::of_entry(entry) }))
}
