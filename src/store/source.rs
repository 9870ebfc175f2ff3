//! Where the bytes of objects come from, for whoever does not care, and why they may not come.

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
    /// The object is not here.
    #[error("object {id} is not in the repository")]
    MissingObject {
        /// The object.
        id: ObjectId,
    },
    /// The object's file cannot be read, or is shorter than it should be.
    #[error("cannot read object {id}")]
    Object {
        /// The object.
        id: ObjectId,
        /// What the system said.
        source: io::Error,
    },
    /// The object's bytes are here and are not those of its name.
    #[error("object {id} is damaged; 'sapwood fsck --all' tells more")]
    Damaged {
        /// The object.
        id: ObjectId,
        /// Which block of it, if it is a large one.
        block: Option<u32>,
    },
    /// Not here, but it may be fetched.
    #[error("{0}")]
    Absent(Absent),
    /// What is absent could not be fetched. Shared, since one failure is everybody's who waited for it.
    #[error("{absent}")]
    Fetch {
        /// What was wanted.
        absent: Absent,
        /// Why it did not come.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The image is not here.
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
        /// The image asked for.
        id: ImageId,
        /// The image found.
        found: ImageId,
    },
    /// The commit is not here.
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

/// Something that is not here but can be fetched: not an error of anything, unless nobody can fetch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A block of 64 KiB of the image.
    ImageBlock(u32),
    /// Some bytes of an object, and perhaps its name.
    Content {
        /// Its number among the objects of the image.
        index: u32,
        /// Its length in bytes.
        size: u64,
        /// The first byte that is needed.
        offset: u64,
        /// How many are needed.
        length: u64,
    },
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ImageBlock(block) => write!(f, "block {block} of the image is not here"),
            Self::Content { index, offset, .. } => {
                write!(f, "object number {index} of the image is not here from byte {offset} on")
            }
        }
    }
}

/// Brings what is absent from where it is. Blocks its caller, and so is called by nobody who must not wait.
pub trait Fetch: Send + Sync {
    /// Fetches `absent`, checked, so that a repeated read finds it. Gives up at `deadline`.
    ///
    /// # Errors
    /// [`ReadError::Fetch`] with what kept it from coming.
    fn fetch(&self, absent: &Absent, deadline: Instant) -> Result<(), ReadError>;

    /// How long a reader waits for what is absent before it is told that there is an error.
    fn patience(&self) -> std::time::Duration;
}

/// Something that has the contents of objects: the local repository, or memory in tests.
pub trait ObjectSource: Send + Sync {
    /// Reads into `buffer` from `offset` of an object; returns how many bytes, short only at the object's end.
    ///
    /// # Errors
    /// [`ReadError`], with the object.
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError>;

    /// An object as a whole, of which the image says that it has `size` bytes. For what is known to be small: all of it is
    /// held in memory.
    ///
    /// # Errors
    /// [`ReadError`], with the object; [`ReadError::Object`] when it is shorter.
    fn read_whole(&self, id: ObjectId, size: u64) -> Result<Vec<u8>, ReadError> {
        let broken = |kind: io::ErrorKind| ReadError::Object { id, source: kind.into() };
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| broken(io::ErrorKind::FileTooLarge))?];
        let length = self.read_at(id, 0, &mut bytes)?;
        if length == bytes.len() { Ok(bytes) } else { Err(broken(io::ErrorKind::UnexpectedEof)) }
    }

    /// Like [`Self::read_at`] for an object of which the image is known; sources that must look for it elsewhere need
    /// that. Never waits for a network: what would have to be fetched is [`ReadError::Absent`].
    ///
    /// # Errors
    /// [`ReadError`], with the object.
    fn read_object(&self, object: &ObjectRef, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        self.read_at(object.id, offset, buffer)
    }

    /// The file whose whole content is the object, for the kernel to read by itself; `None` when the object has no
    /// file of its own.
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
