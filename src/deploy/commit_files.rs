//! Reads small files of a commit from its image, as far as their contents are in the repository.
//!
//! *Not here*: fetching contents that are missing. Symbolic links are not followed.
//!
//! *Used by* `plan`, `services`, `space`, `program_libraries`, `upgrade` and `status`.

use super::etc::ContentError;
use crate::image::{Image, ImageError, Ino};
use crate::model::{FileKind, ImagePath, ObjectId};
use crate::store::{ObjectSource as _, ReadError, Store};

/// The largest file that is read as a whole: no file of configuration is larger.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Why a file of a commit cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
    /// The content cannot be read from the repository.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file is larger than [`FILE_BYTES_MAX`].
    #[error("object {0} is too large to be read as a whole")]
    TooLarge(ObjectId),
}

/// What is at a path of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileContent {
    /// There is no regular file.
    NoFile,
    /// There is a file whose content was not fetched into the repository.
    NotFetched,
    /// The content of the file.
    Bytes(Vec<u8>),
}

/// Reads the file at an absolute path.
pub(crate) fn read_file(image: &Image, store: &Store, path: &str) -> Result<FileContent, FileError> {
    match resolve(image, path)? {
        Some(ino) => read_inode(image, store, ino),
        None => Ok(FileContent::NoFile),
    }
}

/// Reads the content of an inode.
pub(crate) fn read_inode(image: &Image, store: &Store, ino: Ino) -> Result<FileContent, FileError> {
    if image.kind(ino)? != FileKind::Regular {
        return Ok(FileContent::NoFile);
    }
    let Some(id) = image.object(ino)? else { return Ok(FileContent::Bytes(Vec::new())) };
    if store.has_object(id) {
        let size = image.attributes(ino)?.size;
        if size > FILE_BYTES_MAX {
            return Err(FileError::TooLarge(id));
        }
        Ok(FileContent::Bytes(store.read_whole(id, size)?))
    } else {
        Ok(FileContent::NotFetched)
    }
}

/// Returns the inode at an absolute path; `None` too for a path that no image can have.
pub(crate) fn resolve(image: &Image, path: &str) -> Result<Option<Ino>, ImageError> {
    match ImagePath::parse(path.as_bytes()) {
        Ok(path) => image.resolve(&path),
        Err(_) => Ok(None),
    }
}

/// Returns the names of the entries of the directory at an absolute path, in order, with their inodes. Returns none if there is
/// no directory.
pub(crate) fn list_files(image: &Image, path: &str) -> Result<Vec<(String, Ino)>, ImageError> {
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

/// How many objects and bytes a commit has, and how many of them the repository has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ObjectCounts {
    pub(crate) objects: u64,
    /// Number of objects that are in the repository.
    pub(crate) objects_here: u64,
    /// Bytes of all objects.
    pub(crate) bytes: u64,
    /// Bytes of the objects that are in the repository.
    pub(crate) bytes_here: u64,
}

impl ObjectCounts {
    /// Counts the objects of an image.
    pub(crate) fn of(image: &Image, store: &Store) -> Result<Self, ImageError> {
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

    /// Returns whether all objects are in the repository, so that the commit runs without a network.
    pub(crate) const fn is_complete(&self) -> bool {
        self.objects == self.objects_here
    }
}

/// Reads the contents that a merge of `/etc` needs: from the tree in `local`, and of defaults from the repository.
pub(crate) struct EtcContents<'a> {
    /// The directory of the machine's `/etc`; `None` for a first deployment.
    pub(crate) local: Option<&'a std::path::Path>,
    pub(crate) store: &'a Store,
}

impl super::etc::ContentReader for EtcContents<'_> {
    fn read_local(&self, path: &[u8]) -> Result<Vec<u8>, ContentError> {
        let local = self.local.ok_or(ContentError::NotFetched)?;
        super::etc::read_file(local, path)
            .map_err(|source| ContentError::Local { path: super::etc::path_to_text(path), source })
    }

    fn read_object(&self, id: ObjectId, size: u64) -> Result<Vec<u8>, ContentError> {
        if !self.store.has_object(id) {
            return Err(ContentError::NotFetched);
        }
        Ok(self.store.read_whole(id, size)?)
    }
}
