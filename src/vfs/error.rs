//! The errors of the filesystem and the errno of each: the only place with errno constants.
//!
//! *Used by* `vfs` and `fuse`.

use crate::image::ImageError;
use crate::model::{FileKind, ObjectId};
use crate::store::{Absent, ReadError};

/// Why an operation of the filesystem failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FsError {
    /// The directory has no entry with that name.
    #[error("no such entry")]
    NotFound,
    /// The name is longer than any name in an image can be.
    #[error("a name of {0} bytes is too long")]
    NameTooLong(usize),
    /// The inode number is not in this image, for example after another commit was mounted on a path exported by NFS.
    #[error("inode number {0} is not of this image")]
    Stale(u64),
    /// The operation needs a directory.
    #[error("not a directory")]
    NotADirectory,
    /// The content of a directory was requested.
    #[error("is a directory")]
    IsADirectory,
    /// The operation does not apply to the kind of the inode: the link target of a file, the content of a link.
    #[error("not possible on this kind of inode")]
    WrongKind,
    /// The extended attribute does not exist.
    #[error("no such extended attribute")]
    NoXattr,
    /// The caller's buffer cannot hold the attribute or the list of names.
    #[error("the buffer is too small for {0} bytes")]
    BufferTooSmall(usize),
    /// The image has no extended attributes at all, so the kernel need not ask for any.
    #[error("the image has no extended attributes")]
    NoXattrsAnywhere,
    /// `SEEK_DATA` or `SEEK_HOLE` was called at or after the end, or no data follows the offset.
    #[error("no such position")]
    NoSuchPosition,
    /// `whence` is neither `SEEK_DATA` nor `SEEK_HOLE`, or the resulting offset does not fit into an `i64`.
    #[error("invalid argument of lseek")]
    BadSeek,
    /// More inodes are open than can be tracked.
    #[error("too many open files")]
    TooManyOpen,
    /// The operation would change the filesystem.
    #[error("read-only filesystem")]
    ReadOnly,
    /// The operation is not implemented; the kernel does it itself or stops asking for it.
    #[error("not implemented")]
    Unsupported,
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[source] ImageError),
    /// The data is not stored locally. A caller that may wait fetches it and repeats the operation.
    #[error("{0}")]
    Absent(Absent),
    /// The content of a file could not be read.
    #[error(transparent)]
    Object(ReadError),
    /// The content is shorter than the size in the image.
    #[error("object {object} ends at {end}, before the end of its file at {size}")]
    ShortObject {
        object: ObjectId,
        /// Length of the content that was found, in bytes.
        end: u64,
        /// Size of the file in the image, in bytes.
        size: u64,
    },
    /// Several workers crashed while they executed this request.
    #[error("this request has ended several workers, so it is not carried out again")]
    Quarantined,
    /// The image or the repository of the mount cannot be opened, so no request is answered.
    #[error("the contents of the mount cannot be opened")]
    Unavailable,
    /// `statfs` failed on the filesystem that holds the repository.
    #[error("statfs of the repository")]
    Statfs(#[source] std::io::Error),
}

impl From<ImageError> for FsError {
    /// Maps a request for the wrong kind of inode to the caller's error, and all other errors of the image to damage.
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::NoSuchInode { ino } => Self::Stale(ino),
            ImageError::WrongKind { expected: FileKind::Directory, .. } => Self::NotADirectory,
            ImageError::WrongKind { expected: FileKind::Regular, found: FileKind::Directory, .. } => Self::IsADirectory,
            ImageError::WrongKind { .. } => Self::WrongKind,
            ImageError::Absent { block } => Self::Absent(Absent::ImageBlock(block)),
            damage => Self::Image(damage),
        }
    }
}

impl From<ReadError> for FsError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Absent(absent) => Self::Absent(absent),
            other => Self::Object(other),
        }
    }
}

impl FsError {
    /// Returns the errno that the system call fails with.
    pub(crate) const fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::NameTooLong(_) => libc::ENAMETOOLONG,
            Self::Stale(_) => libc::ESTALE,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::WrongKind | Self::BadSeek => libc::EINVAL,
            Self::NoXattr => libc::ENODATA,
            Self::BufferTooSmall(_) => libc::ERANGE,
            Self::NoXattrsAnywhere | Self::Unsupported => libc::ENOSYS,
            Self::NoSuchPosition => libc::ENXIO,
            Self::TooManyOpen => libc::ENFILE,
            Self::ReadOnly => libc::EROFS,
            // `Absent` reaches the caller only if it could not wait, or if the fetch failed.
            Self::Absent(_)
            | Self::Image(_)
            | Self::Object(_)
            | Self::ShortObject { .. }
            | Self::Statfs(_)
            | Self::Unavailable
            | Self::Quarantined => libc::EIO,
        }
    }

    /// Returns whether the data could not be fetched. The fetching code logs the reason once for all requests that need it.
    pub(crate) const fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unavailable | Self::Absent(_) | Self::Object(ReadError::Fetch { .. }))
    }

    /// Returns whether something is damaged or unreachable, as opposed to a request with a negative answer.
    pub(crate) const fn is_damage(&self) -> bool {
        self.errno() == libc::EIO
    }
}
