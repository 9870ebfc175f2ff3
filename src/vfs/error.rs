//! What can go wrong in the filesystem, and the errno each of it is for the caller: the one place with errno constants.

use crate::image::ImageError;
use crate::model::{FileKind, ObjectId};
use crate::store::{Absent, ReadError};

/// Why an operation of the filesystem failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No entry of that name.
    #[error("no such entry")]
    NotFound,
    /// A name longer than any that an image can have.
    #[error("a name of {0} bytes is too long")]
    NameTooLong(usize),
    /// The number is none of this image, as after a mount of another commit on an exported path.
    #[error("inode number {0} is not of this image")]
    Stale(u64),
    /// A directory was needed.
    #[error("not a directory")]
    NotADirectory,
    /// Content was asked of a directory.
    #[error("is a directory")]
    IsADirectory,
    /// The operation does not fit the kind of the inode: the target of a file, the bytes of a link.
    #[error("not possible on this kind of inode")]
    WrongKind,
    /// The extended attribute does not exist.
    #[error("no such extended attribute")]
    NoXattr,
    /// The caller's buffer cannot hold the attribute or the list of names.
    #[error("the buffer is too small for {0} bytes")]
    BufferTooSmall(usize),
    /// The image has no extended attributes at all; the kernel may stop asking.
    #[error("the image has no extended attributes")]
    NoXattrsAnywhere,
    /// `SEEK_DATA` or `SEEK_HOLE` at or after the end, or no data after the offset.
    #[error("no such position")]
    NoSuchPosition,
    /// A `whence` other than `SEEK_DATA` and `SEEK_HOLE`, or an impossible offset.
    #[error("not a way to seek")]
    BadSeek,
    /// More inodes are open than can be kept track of.
    #[error("too many open files")]
    TooManyOpen,
    /// Something would have been changed.
    #[error("read-only filesystem")]
    ReadOnly,
    /// Not offered; the kernel does it itself or stops asking.
    #[error("not implemented")]
    Unsupported,
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[source] ImageError),
    /// The answer is not here yet; whoever may wait fetches it and asks again.
    #[error("{0}")]
    Absent(Absent),
    /// The content of a file could not be read.
    #[error(transparent)]
    Object(ReadError),
    /// The content is shorter than the image says.
    #[error("object {object} ends at {end}, before the end of its file at {size}")]
    ShortObject {
        /// The content.
        object: ObjectId,
        /// Where it ended.
        end: u64,
        /// Size of the file.
        size: u64,
    },
    /// Carrying the request out has ended one worker after the other.
    #[error("this request has ended several workers, so it is not carried out again")]
    Poison,
    /// Nothing is answered: the image or the repository of the mount cannot be opened.
    #[error("the contents of the mount cannot be opened")]
    Unavailable,
    /// The filesystem that holds the repository would not say how full it is.
    #[error("statfs of the repository")]
    Statfs(#[source] std::io::Error),
}

impl From<ImageError> for FsError {
    /// A question that does not fit its inode is the caller's mistake; anything else an image says is damage.
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
    /// The number that the system call returns.
    #[must_use]
    pub const fn errno(&self) -> i32 {
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
            // Only who could not wait, or waited in vain, is told of what is absent.
            Self::Absent(_)
            | Self::Image(_)
            | Self::Object(_)
            | Self::ShortObject { .. }
            | Self::Statfs(_)
            | Self::Unavailable
            | Self::Poison => libc::EIO,
        }
    }

    /// Whether something is somewhere else and did not come: whoever fetches says why, once for all who miss it.
    #[must_use]
    pub const fn is_out_of_reach(&self) -> bool {
        matches!(self, Self::Unavailable | Self::Absent(_) | Self::Object(ReadError::Fetch { .. }))
    }

    /// Whether something is broken or out of reach, as opposed to a question whose answer is no.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        self.errno() == libc::EIO
    }
}
