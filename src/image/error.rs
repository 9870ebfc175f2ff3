//! What can be wrong with an image, a tree, or a question about them.

use super::Section;
use crate::model::{FileKind, ImagePath};

/// Why an image cannot be opened, or cannot answer.
///
/// Except for [`Self::NoSuchInode`] and [`Self::WrongKind`], which a caller's question causes, and [`Self::Absent`], each of these means that
/// the bytes are damaged or were made to deceive: to a user of a mount it is an input/output error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The bytes do not start like an image.
    #[error("not a Sapwood image")]
    NotAnImage,
    /// Written by a newer Sapwood in a way this one cannot read.
    #[error("image format {version} with features {features:#x} is newer than this program; upgrade sapwood")]
    TooNew {
        /// Format version found.
        version: u32,
        /// Incompatible feature bits found.
        features: u64,
    },
    /// A number of the header contradicts another or the length of the file.
    #[error("the header's {field} is wrong")]
    Header {
        /// Which one.
        field: &'static str,
    },
    /// The section table or a section as a whole is wrong.
    #[error("section '{section}' {fault}")]
    Section {
        /// Which section.
        section: Section,
        /// What is wrong.
        fault: SectionFault,
    },
    /// The image has a section that this program does not know, but no feature that would explain it.
    #[error("unknown section {number} without a feature bit")]
    UnknownSection {
        /// The kind number.
        number: u32,
    },
    /// One section points to a row that another does not have.
    #[error("section '{section}' has no row {row}")]
    OutOfRange {
        /// The section that is too short.
        section: Section,
        /// The row that was asked of it.
        row: u64,
    },
    /// An entry is wrong.
    #[error("entry {entry} {fault} (section '{section}')")]
    Entry {
        /// The section that says so.
        section: Section,
        /// Which entry.
        entry: u32,
        /// What is wrong.
        fault: EntryFault,
    },
    /// A block of the body does not have the digest that the header gives.
    #[error("block {block} is damaged")]
    Block {
        /// Which block, of 64 KiB, counted from the body's start.
        block: u32,
    },
    /// The image is not complete here, and the answer is in this block of it. Not damage: see [`super::Presence`].
    #[error("block {block} is not here")]
    Absent {
        /// Which block, of 64 KiB, counted from the body's start.
        block: u32,
    },
    /// Bytes between sections are not zero.
    #[error("the padding at byte {offset} is not zero")]
    Padding {
        /// Where the padding starts.
        offset: u64,
    },
    /// The question names an inode that the image does not have.
    #[error("there is no inode {ino}")]
    NoSuchInode {
        /// The number asked for.
        ino: u64,
    },
    /// The question does not suit the kind of the inode, such as a lookup in a file.
    #[error("inode {ino} is a {}, not a {}", .found.word(), .expected.word())]
    WrongKind {
        /// The inode asked.
        ino: u64,
        /// What the question needs.
        expected: FileKind,
        /// What the inode is.
        found: FileKind,
    },
}

/// What is wrong with a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SectionFault {
    /// It has to be there and is not, or it has to be absent because it says nothing.
    #[error("should be there and is not, or the other way round")]
    Presence,
    /// Its length or its number of elements is wrong.
    #[error("has a wrong length")]
    Length,
    /// It is not where it should be.
    #[error("is in the wrong place")]
    Position,
    /// Its rows are not in order, or one is there twice.
    #[error("is not in order")]
    Order,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// The mode has no legal file type.
    #[error("has no file type")]
    Kind,
    /// The name is illegal or outside the names.
    #[error("has an illegal name")]
    Name,
    /// The name does not sort after its sibling's.
    #[error("is not in order among its siblings")]
    NameOrder,
    /// The parent is no directory, or not the one that lists the entry.
    #[error("has a wrong parent")]
    Parent,
    /// The range of a directory's children is illegal.
    #[error("has an illegal range of children")]
    Children,
    /// Nanoseconds of a second or more.
    #[error("has an illegal time")]
    Time,
    /// The size is impossible for the kind.
    #[error("has an impossible size")]
    Size,
    /// The link count is not the number of links.
    #[error("has a wrong link count")]
    Links,
    /// The `data` word does not fit the kind.
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
    /// The object is not the one it should be, or its size contradicts another file's.
    #[error("has a wrong object")]
    Object,
    /// Block digests are missing or too many.
    #[error("has wrong block digests")]
    Blocks,
    /// The digest of what is below a directory is wrong.
    #[error("has a wrong subtree digest")]
    Subtree,
}

/// Why an entry cannot be added to a [`super::Tree`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The directory has an entry of that name.
    #[error("'{0}' exists already")]
    Exists(crate::model::EntryName),
    /// The parent is no directory.
    #[error("the parent of '{0}' is not a directory")]
    NotADirectory(crate::model::EntryName),
    /// The target of a hard link is a directory.
    #[error("'{0}' cannot be a hard link to a directory")]
    DirectoryLink(crate::model::EntryName),
    /// There is nothing of that name.
    #[error("there is no '{0}'")]
    Missing(crate::model::EntryName),
    /// A directory was to be moved into itself.
    #[error("'{0}' cannot be moved into itself")]
    Inside(crate::model::EntryName),
}

/// Why a [`super::Tree`] cannot be written as an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// An inode has a value that Linux does not have, or that breaks a rule of the model.
    #[error("{path} {fault}")]
    Node {
        /// Its first path.
        path: ImagePath,
        /// The rule.
        fault: EntryFault,
    },
    /// The tree needs more than the format has.
    #[error("the tree has too many {what} for one image")]
    TooLarge {
        /// More of what than can be counted.
        what: &'static str,
    },
}
