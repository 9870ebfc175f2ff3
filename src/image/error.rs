//! The errors of images and trees.
//!
//! *Used by* every module that reads or writes images.

use super::Section;
use crate::model::{FileKind, ImagePath};

/// Why an image cannot be opened or read.
///
/// [`Self::NoSuchInode`] and [`Self::WrongKind`] are mistakes of the caller, and [`Self::Absent`] means that a part of the
/// image must be fetched first. Each other variant means that the bytes are damaged or forged: a reader of a mount gets an
/// input/output error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The bytes do not start with the magic of an image.
    #[error("not a Sapwood image")]
    NotAnImage,
    /// The image was written by a newer Sapwood in a format that this program cannot read.
    #[error("image format {version} with features {features:#x} is newer than this program; upgrade sapwood")]
    TooNew {
        /// Format version found.
        version: u32,
        /// Incompatible feature bits found.
        features: u64,
    },
    /// A number in the header contradicts another one or the length of the file.
    #[error("the header's {field} is wrong")]
    Header {
        /// The name of the number.
        field: &'static str,
    },
    /// The section table or a section as a whole is wrong.
    #[error("section '{section}' {fault}")]
    Section {
        /// The section.
        section: Section,
        /// What is wrong with it.
        fault: SectionFault,
    },
    /// The image has a section that this program does not know, and no feature bit that would explain it.
    #[error("unknown section {number} without a feature bit")]
    UnknownSection {
        /// The kind number.
        number: u32,
    },
    /// One section refers to a row that another section does not have.
    #[error("section '{section}' has no row {row}")]
    OutOfRange {
        /// The section that is too short.
        section: Section,
        /// The row that was to be read.
        row: u64,
    },
    /// An entry is wrong.
    #[error("entry {entry} {fault} (section '{section}')")]
    Entry {
        /// The section that has the wrong value.
        section: Section,
        /// The number of the entry.
        entry: u32,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// A block of the body does not have the digest that the header gives.
    #[error("block {block} is damaged")]
    Block {
        /// The number of the block of 64 KiB, counted from the start of the body.
        block: u32,
    },
    /// The image is incomplete, and the access needs this missing block. This is not damage: see [`super::Presence`].
    #[error("block {block} is not in the repository")]
    Absent {
        /// The number of the block of 64 KiB, counted from the start of the body.
        block: u32,
    },
    /// Bytes between sections are not zero.
    #[error("the padding at byte {offset} is not zero")]
    Padding {
        /// The position of the start of the padding.
        offset: u64,
    },
    /// The caller named an inode that the image does not have.
    #[error("there is no inode {ino}")]
    NoSuchInode {
        /// The inode number.
        ino: u64,
    },
    /// The operation is not possible for the kind of the inode, such as a lookup in a file.
    #[error("inode {ino} is a {}, not a {}", .found.word(), .expected.word())]
    WrongKind {
        /// The inode number.
        ino: u64,
        /// The kind that the operation needs.
        expected: FileKind,
        /// The kind of the inode.
        found: FileKind,
    },
}

/// What is wrong with a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SectionFault {
    /// The section is required and absent, or is present although all its values are zero.
    #[error("should be there and is not, or the other way round")]
    Presence,
    /// The length or the number of elements is wrong.
    #[error("has a wrong length")]
    Length,
    /// The section is not at the position that the format requires.
    #[error("is in the wrong place")]
    Position,
    /// The rows are not in order, or one occurs twice.
    #[error("is not in order")]
    Order,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// The mode has no legal file type.
    #[error("has no file type")]
    Kind,
    /// The name is illegal or outside the section of names.
    #[error("has an illegal name")]
    Name,
    /// The name does not sort after its sibling's.
    #[error("is not in order among its siblings")]
    NameOrder,
    /// The parent is not a directory, or not the directory that lists the entry.
    #[error("has a wrong parent")]
    Parent,
    /// The range of a directory's children is illegal.
    #[error("has an illegal range of children")]
    Children,
    /// The nanoseconds amount to a second or more.
    #[error("has an illegal time")]
    Time,
    /// The size is impossible for the kind.
    #[error("has an impossible size")]
    Size,
    /// The link count is not the number of links.
    #[error("has a wrong link count")]
    Links,
    /// The value of the `data` column does not fit the kind.
    #[error("has wrong data")]
    Data,
    /// The target of a symbolic link is illegal.
    #[error("has an illegal link target")]
    Target,
    /// A hard link and its primary contradict each other.
    #[error("is a wrong hard link")]
    HardLink,
    /// The extended attributes are illegal.
    #[error("has illegal extended attributes")]
    Xattrs,
    /// The extents are out of order or outside the file.
    #[error("has illegal extents")]
    Extents,
    /// The object's number is out of order, or its size contradicts that of another file with the same object.
    #[error("has a wrong object")]
    Object,
    /// There are too few or too many block digests.
    #[error("has wrong block digests")]
    Blocks,
    /// The subtree digest of a directory is wrong.
    #[error("has a wrong subtree digest")]
    Subtree,
}

/// Why an entry cannot be added to a [`super::Tree`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The directory has an entry of that name.
    #[error("'{0}' exists already")]
    Exists(crate::model::EntryName),
    /// The parent is not a directory.
    #[error("the parent of '{0}' is not a directory")]
    NotADirectory(crate::model::EntryName),
    /// The target of a hard link is a directory.
    #[error("'{0}' cannot be a hard link to a directory")]
    DirectoryLink(crate::model::EntryName),
    /// The directory has no entry of that name.
    #[error("there is no '{0}'")]
    Missing(crate::model::EntryName),
    /// A directory was to be moved into itself.
    #[error("'{0}' cannot be moved into itself")]
    Inside(crate::model::EntryName),
}

/// Why a [`super::Tree`] cannot be written as an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// An inode has a value that is impossible on Linux, or that breaks a rule of the model.
    #[error("{path} {fault}")]
    Node {
        /// The first path of the inode.
        path: ImagePath,
        /// The rule that it breaks.
        fault: EntryFault,
    },
    /// The tree exceeds a limit of the format.
    #[error("the tree has too many {what} for one image")]
    TooLarge {
        /// The items of which there are too many.
        what: &'static str,
    },
}
