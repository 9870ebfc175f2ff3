//! `ObjectSource`: read access to object contents, independent of where they are stored, and its errors.
//!
//! *Not here*: the implementations (`read`, `checked`, `cache`); only [`MemoryObjects`] for tests is here.
//!
//! *Used by* `vfs`, `export` and every other reader of objects.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use crate::image::{ImageError, ObjectRef};
use crate::model::{CommitError, CommitId, ImageId, ObjectId};

/// Why something could not be read from the repository.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The object is not in the repository.
    #[error("object {id} is not in the repository")]
    MissingObject {
        /// The object.
        id: ObjectId,
    },
    /// The object's file cannot be read, or is shorter than the image states.
    #[error("cannot read object {id}")]
    Object {
        /// The object.
        id: ObjectId,
        /// What the system said.
        source: io::Error,
    },
    /// The object's bytes do not have the digest of its name.
    #[error("object {id} is damaged; 'sapwood fsck --all' tells more")]
    Damaged {
        /// The object.
        id: ObjectId,
        /// The damaged block, if the object is large.
        block: Option<u32>,
    },
    /// A part is not in the repository but can be fetched.
    #[error("{0}")]
    Absent(Absent),
    /// An absent part could not be fetched. The cause is shared, since one failure is reported to all readers that waited for
    /// it.
    #[error("{absent}")]
    Fetch {
        /// The absent part.
        absent: Absent,
        /// Why it could not be fetched.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The image is not in the repository.
    #[error("image {id} is not in the repository")]
    MissingImage {
        /// The image.
        id: ImageId,
    },
    /// The image's file cannot be read.
    #[error("cannot read image {id}")]
    ImageFile {
        /// The image.
        id: ImageId,
        /// What the system said.
        source: io::Error,
    },
    /// The image is damaged.
    #[error("image {id} is damaged")]
    Image {
        /// The image.
        id: ImageId,
        /// What is wrong with it.
        source: ImageError,
    },
    /// The file of the image holds another image.
    #[error("the file of image {id} holds something else: {found}")]
    WrongImage {
        /// The expected image.
        id: ImageId,
        /// The image in the file.
        found: ImageId,
    },
    /// The commit is not in the repository.
    #[error("commit {id} is not in the repository")]
    MissingCommit {
        /// The commit.
        id: CommitId,
    },
    /// The commit's file cannot be read.
    #[error("cannot read commit {id}")]
    CommitFile {
        /// The commit.
        id: CommitId,
        /// What the system said.
        source: io::Error,
    },
    /// The commit record is damaged.
    #[error("commit {id} is damaged")]
    Commit {
        /// The commit.
        id: CommitId,
        /// What is wrong with it.
        source: CommitError,
    },
}

/// A part of an image or object that is not in the repository but can be fetched. This is only an error where fetching is
/// impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A block of 64 KiB of the image.
    ImageBlock(u32),
    /// Some bytes of an object. The object's id may be absent too.
    Content {
        /// The number of the object in the image.
        index: u32,
        /// The length of the object in bytes.
        size: u64,
        /// The position of the first byte that is needed.
        offset: u64,
        /// The number of bytes that are needed.
        length: u64,
    },
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ImageBlock(block) => write!(f, "block {block} of the image is not in the repository"),
            Self::Content { index, offset, .. } => {
                write!(f, "object number {index} of the image is not in the repository from byte {offset} on")
            }
        }
    }
}

/// Fetches absent parts. The calls block until the part has arrived, so threads that must not block do not make them.
pub trait Fetch: Send + Sync {
    /// Fetches and verifies `absent`, so that a repeated read finds it. Gives up at `deadline`.
    ///
    /// # Errors
    /// [`ReadError::Fetch`] with the cause of the failure.
    fn fetch(&self, absent: &Absent, deadline: Instant) -> Result<(), ReadError>;

    /// Returns how long a read waits for absent parts before it fails.
    fn read_timeout(&self) -> std::time::Duration;
}

/// Read access to the contents of objects: those of the local repository, or in memory for tests.
pub trait ObjectSource: Send + Sync {
    /// Reads into `buffer` from `offset` of an object; returns the number of bytes, which is smaller than the buffer only at
    /// the object's end.
    ///
    /// # Errors
    /// [`ReadError`], with the object.
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError>;

    /// Reads a whole object, of which the image states that it has `size` bytes. Only for objects that are known to be small,
    /// since the whole object is held in memory.
    ///
    /// # Errors
    /// [`ReadError`], with the object; [`ReadError::Object`] when it is shorter.
    fn read_whole(&self, id: ObjectId, size: u64) -> Result<Vec<u8>, ReadError> {
        let broken = |kind: io::ErrorKind| ReadError::Object { id, source: kind.into() };
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| broken(io::ErrorKind::FileTooLarge))?];
        let length = self.read_at(id, 0, &mut bytes)?;
        if length == bytes.len() { Ok(bytes) } else { Err(broken(io::ErrorKind::UnexpectedEof)) }
    }

    /// Reads like [`Self::read_at`], by the number of the object in its image, which sources that fetch objects need. Never
    /// waits for a network: if a part must be fetched, the error is [`ReadError::Absent`].
    ///
    /// # Errors
    /// [`ReadError`], with the object.
    fn read_object(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.read_at(object.id, offset, buffer)
    }

    /// Returns the file whose whole content is the object, for the kernel to read by itself; `None` when the object has no file
    /// of its own.
    ///
    /// # Errors
    /// [`ReadError`], with the object.
    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError>;
}

/// Objects held in memory.
#[derive(Debug, Default)]
pub struct MemoryObjects(HashMap<ObjectId, Vec<u8>>);

impl MemoryObjects {
    /// Adds an object and returns its id.
    pub fn insert(&mut self, bytes: Vec<u8>) -> ObjectId {
        let id = ObjectId::of(&bytes);
        self.0.insert(id, bytes);
        id
    }
}

impl ObjectSource for MemoryObjects {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let bytes = self.0.get(&id).ok_or(ReadError::MissingObject { id })?;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn backing_file(&self, _: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        Ok(None)
    }
}
