//! Small files of a commit, as far as they are here.

use super::etc::ContentError;
use crate::image::{Image, ImageError, Ino};
use crate::model::{FileKind, ImagePath, ObjectId};
use crate::store::{ObjectSource as _, ReadError, Store};

/// Larger files than this are no configuration.
const SIZE_MAX: u64 = 16 << 20;

/// Why a file of a commit cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
    /// The object cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Too large for what it should be.
    #[error("object {0} is too large to be read as a whole")]
    TooLarge(ObjectId),
}

/// What there is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No regular file.
    Nothing,
    /// A file whose content is not here.
    Absent,
    /// A file.
    Bytes(Vec<u8>),
}

/// The file at an absolute path, links not followed.
///
/// # Errors
/// [`FileError`].
pub fn read(image: &Image, store: &Store, path: &str) -> Result<Found, FileError> {
    match resolve(image, path)? {
        Some(ino) => read_inode(image, store, ino),
        None => Ok(Found::Nothing),
    }
}

/// The content of an inode.
///
/// # Errors
/// [`FileError`].
pub fn read_inode(image: &Image, store: &Store, ino: Ino) -> Result<Found, FileError> {
    if image.kind(ino)? != FileKind::Regular {
        return Ok(Found::Nothing);
    }
    let Some(id) = image.object(ino)? else { return Ok(Found::Bytes(Vec::new())) };
    if store.has_object(id) {
        let size = image.attributes(ino)?.size;
        if size > SIZE_MAX {
            return Err(FileError::TooLarge(id));
        }
        Ok(Found::Bytes(store.read_whole(id, size)?))
    } else {
        Ok(Found::Absent)
    }
}

/// The inode at an absolute path, links not followed.
///
/// # Errors
/// [`ImageError`].
pub fn resolve(image: &Image, path: &str) -> Result<Option<Ino>, ImageError> {
    match ImagePath::parse(path.as_bytes()) {
        Ok(path) => image.resolve(&path),
        Err(_) => Ok(None),
    }
}

/// The names of the files in a directory at an absolute path, in order, with their inodes.
///
/// # Errors
/// [`ImageError`].
pub fn list(image: &Image, path: &str) -> Result<Vec<(String, Ino)>, ImageError> {
    let Some(directory) = resolve(image, path)? else { return Ok(Vec::new()) };
    if image.kind(directory)? != FileKind::Directory {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for child in image.children(directory, 0)? {
        let child = child?;
        names.push((String::from_utf8_lossy(child.name).into_owned(), child.ino));
    }
    Ok(names)
}

/// How much of a commit is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Completeness {
    /// Its objects.
    pub objects: u64,
    /// Those that are here.
    pub objects_here: u64,
    /// Bytes of all.
    pub bytes: u64,
    /// Bytes of those that are here.
    pub bytes_here: u64,
}

impl Completeness {
    /// Counts the objects of an image.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn of(image: &Image, store: &Store) -> Result<Self, ImageError> {
        let mut sum = Self { objects: 0, objects_here: 0, bytes: 0, bytes_here: 0 };
        for object in image.object_uses() {
            let object = object?;
            sum.objects += 1;
            sum.bytes += object.size;
            if store.has_object(object.id) {
                sum.objects_here += 1;
                sum.bytes_here += object.size;
            }
        }
        Ok(sum)
    }

    /// Whether nothing has to be fetched to run it.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.objects == self.objects_here
    }
}

/// The contents that a merge of `/etc` needs: of the tree in `local`, and of defaults in the repository.
pub struct EtcContents<'a> {
    /// The tree of this machine; nowhere for a first deployment.
    pub local: Option<&'a std::path::Path>,
    /// The repository.
    pub store: &'a Store,
}

impl super::etc::Contents for EtcContents<'_> {
    fn local(&self, path: &[u8]) -> Result<Vec<u8>, ContentError> {
        let local = self.local.ok_or(ContentError::Absent)?;
        super::etc::read_file(local, path)
            .map_err(|source| ContentError::Local { path: super::etc::path_to_text(path), source })
    }

    fn object(&self, id: ObjectId, size: u64) -> Result<Vec<u8>, ContentError> {
        if !self.store.has_object(id) {
            return Err(ContentError::Absent);
        }
        Ok(self.store.read_whole(id, size)?)
    }
}
