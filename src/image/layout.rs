//! The image format, version 1: what every byte means. This page is the specification; the code of the other files
//! implements it, and the golden file of the tests pins it.
//!
//! An image is the metadata of one whole filesystem tree in one immutable file that is mapped, never parsed. All
//! integers are little-endian and of fixed width. Nothing in it depends on the machine, the time or the order in which
//! the tree was built: **equal trees have equal bytes**, so the image id names the tree.
//!
//! ```text
//! ┌────────────┬───────────────┬────────────────────┬──────┬──────────┬───┬──────────┬───┬──────────┐
//! │ header     │ section table │ block hash table   │ 0…0  │ section  │ 0 │ section  │ 0 │ section  │
//! │ 72 bytes   │ 24 B a row    │ 32 B a block       │      │          │   │          │   │          │
//! └────────────┴───────────────┴────────────────────┴──────┴──────────┴───┴──────────┴───┴──────────┘
//! 0                                                 │      └ body: a multiple of 4096
//!                                                   └ header_length                                 file_length ┘
//! ```
//!
//! The body is cut into blocks of 64 KiB counted from its first byte; the last may be shorter. The hash table holds the
//! SHA-256 of each. **The image id is the SHA-256 of the first `header_length` bytes**, so it covers every byte of the
//! body, and any block can be fetched and checked alone.
//!
//! # Header
//!
//! ```text
//! offset size
//!      0    8  magic "SAPWIMG\0"
//!      8    4  version = 1
//!     12    4  header_length = 72 + 24 × sections + 32 × blocks
//!     16    8  compatible features       unknown bits are ignored
//!     24    8  read-only features        unknown bits forbid deriving images from this one
//!     32    8  incompatible features     unknown bits forbid reading
//!     40    8  file_length, in bytes
//!     48    8  content bytes: the sizes of all regular files, each inode once
//!     56    4  entries, the root counted: 1 to 2³² - 2
//!     60    4  block size = 65536
//!     64    4  blocks = ⌈(file_length - body) / 65536⌉
//!     68    4  sections: at most 64
//!     72       section table, then block hash table
//! ```
//!
//! # Section table
//!
//! ```text
//! offset size
//!      0    4  kind, strictly ascending from row to row
//!      4    4  size of one element
//!      8    8  offset in the file: the end of the section before, rounded up to 64; the body's start for the first
//!     16    8  length in bytes, a multiple of the element size, not zero
//! ```
//!
//! A section without bytes is absent. An unknown kind is skipped, and is legal only together with a feature bit.
//!
//! # Entries
//!
//! An entry is one name in one directory; its number counts from 0, **breadth first**, the children of a directory in
//! bytewise order of their names. Entry 0 is the root, with the empty name. So the children of a directory are a range,
//! the range of the next directory starts where that of the last one ends, and a child's number is above its parent's:
//! no cycle can be written down.
//!
//! ```text
//!              entry   name    data                     /
//!                0     ""      children 1..4            ├── bin -> usr/bin
//!                1     bin     target at 0              ├── etc
//!                2     etc     children 4..5            │   └── hostname
//!                3     usr     children 5..6            └── usr
//!                4     hostname  object 0                   └── bin
//!                5     bin     children 6..6
//! ```
//!
//! **The inode number is the entry number plus one.** Names that are hard links of one inode share the number of the
//! first of them, the *primary*; the others repeat its columns, `data` included, and are listed in section 16.
//!
//! # Sections
//!
//! One element an entry unless said otherwise. *Zero-optional* columns are absent exactly when all their values are 0.
//!
//! | kind | name | element | meaning |
//! |---|---|---|---|
//! | 1 | `mode` | u16 | `st_mode`: kind and permissions |
//! | 2 | `uid` | u32 | owner; zero-optional |
//! | 3 | `gid` | u32 | group; zero-optional |
//! | 4 | `mtime` | i64 | seconds since 1970 |
//! | 5 | `mtime-nanoseconds` | u32 | below 10⁹; zero-optional |
//! | 6 | `size` | u64 | length of a regular file (at most 2⁶³ - 1) or of a link's target (1 to 4095); else 0 |
//! | 7 | `links` | u32 | `st_nlink`; of a directory, 2 and its subdirectories |
//! | 8 | `parent` | u32 | entry of the directory that holds this one; 0 for the root |
//! | 9 | `data` | u64 | by kind, see below |
//! | 10 | `name-offsets` | u32 | entries + 1 values: name *n* is bytes `[n]..[n + 1]` of `names` |
//! | 11 | `names` | bytes | all names, one after the other |
//! | 12 | `xattrs` | u32 | number of the set, from 1; 0 for none; zero-optional |
//! | 13 | `xattr-offsets` | u64 | sets + 1 values: set *n* is bytes `[n - 1]..[n]` of `xattr-sets` |
//! | 14 | `xattr-sets` | bytes | distinct sets of extended attributes, in order of first use |
//! | 15 | `targets` | bytes | targets of symbolic links, in order of entries |
//! | 16 | `hard-links` | 2 × u32 | (entry, primary) of every name but the primary, by entry |
//! | 17 | `directories` | u32 | the entries that are directories, ascending |
//! | 18 | `sparse` | 2 × u32 | (entry, first extent) of the regular files with holes, by entry; primaries only |
//! | 19 | `extents` | 2 × u64 | (offset, length) of the data in sparse files; a file's end where the next's begin |
//! | 20 | `objects` | 32 bytes | distinct object ids, in order of first use |
//! | 21 | `large-objects` | 2 × u32 | (object, first block) of objects over 1 MiB, by object |
//! | 22 | `blocks` | 32 bytes | ids of their 256 KiB blocks, ⌈size / 256 KiB⌉ each |
//! | 23 | `subtrees` | 32 bytes | digest of what is below each of `directories`, see below |
//!
//! Sections 1 to 19 are what `find` and `ls -l` need and compress to a few bytes an entry; 20 to 23 are digests that
//! nothing compresses. They stand apart so that a remote tree can be listed without them.
//!
//! `data` of a
//! - directory: number of its first child in the lower 32 bits, count of its children in the upper. An empty directory
//!   has the number its first child would have.
//! - regular file: index into `objects`, or all ones when the file is empty;
//! - symbolic link: offset of its target in `targets`; the length is in `size`;
//! - device: major number in the lower 32 bits, minor in the upper;
//! - fifo, socket: 0.
//!
//! A set of extended attributes is its attributes in ascending order of names, each
//!
//! ```text
//! u16 length of the name · u32 length of the value · name · value
//! ```
//!
//! # Subtree digests
//!
//! The digest of a directory names everything below it and nothing that is beside or above it, so that `diff` stops
//! where two are equal. It is the SHA-256 of one record a child, in order:
//!
//! ```text
//! u16 length of the name · name · u16 mode · u32 uid · u32 gid · i64 seconds · u32 nanoseconds
//! 32 B SHA-256 of the set of extended attributes, or 32 zero bytes
//! u32 count of links; if that is over 1 and the child no directory, 32 B path digest of the primary
//! then by kind:
//!   directory   32 B digest of that directory
//!   regular     u64 size · 32 B object id, or zero bytes · u32 extents + 1, or 0 when dense · (u64 offset, u64 length) each
//!   symlink     u16 length · target
//!   device      u32 major · u32 minor
//! ```
//!
//! with the count of links written as 0 for a directory: it follows from the rest. Digests of blocks are left out since
//! they follow from the object. No entry number goes in.
//!
//! **Hard links** are the one thing that reaches across subtrees. As in a tar archive each name points to the first: by
//! its *path digest*, which is 32 zero bytes for the root and the SHA-256 of the parent's path digest and the name for
//! anything else. Equal digests at one path of two images thus mean equal links, too. The price: moving a subtree with
//! hard links in it changes its digest, and linking a file from outside changes the digests above both names, which a
//! comparison of link counts would do as well.

use std::fmt;

/// First bytes of an image.
pub(crate) const MAGIC: [u8; 8] = *b"SAPWIMG\0";

/// The version of the format that is written.
pub(crate) const VERSION: u32 = 1;

/// Bytes of an image that are hashed together: the unit of partial fetching. 64 KiB holds the digests of 2,048 files.
pub(crate) const IMAGE_BLOCK: u32 = 64 << 10;

/// Bytes of the header before the section table.
pub(super) const HEADER_SIZE: u64 = 72;

/// Bytes of a row of the section table.
pub(super) const ROW_SIZE: u64 = 24;

/// Bytes of a row of the block hash table.
pub(super) const HASH_SIZE: u64 = 32;

/// The body begins at a multiple of this, the size of a page, so that blocks can be mapped or punched alone.
pub(super) const BODY_ALIGNMENT: u64 = 4096;

/// Sections begin at a multiple of this, the size of a cache line.
pub(super) const SECTION_ALIGNMENT: u64 = 64;

/// Most sections of an image. This bounds the work of opening one.
pub(super) const SECTIONS_MAX: u32 = 64;

/// Most entries of an image, so that an inode number, which is the entry's plus one, fits 32 bits and the largest `u32` is no
/// entry.
pub(super) const ENTRIES_MAX: u32 = u32::MAX - 1;

/// The value of the `data` column of an empty regular file.
pub(super) const NO_OBJECT: u64 = u64::MAX;

/// Largest size of a regular file: what `off_t` holds.
pub(super) const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// The sections of an image's body, in file order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
#[expect(missing_docs, reason = "the table in the module's documentation says what each is")]
pub enum Section {
    Mode = 1,
    Uid = 2,
    Gid = 3,
    Mtime = 4,
    MtimeNanoseconds = 5,
    Size = 6,
    Links = 7,
    Parent = 8,
    Data = 9,
    NameOffsets = 10,
    Names = 11,
    Xattrs = 12,
    XattrOffsets = 13,
    XattrSets = 14,
    Targets = 15,
    HardLinks = 16,
    Directories = 17,
    Sparse = 18,
    Extents = 19,
    Objects = 20,
    LargeObjects = 21,
    Blocks = 22,
    Subtrees = 23,
}

impl Section {
    /// All sections, in file order.
    pub(crate) const ALL: [Self; 23] = [
        Self::Mode,
        Self::Uid,
        Self::Gid,
        Self::Mtime,
        Self::MtimeNanoseconds,
        Self::Size,
        Self::Links,
        Self::Parent,
        Self::Data,
        Self::NameOffsets,
        Self::Names,
        Self::Xattrs,
        Self::XattrOffsets,
        Self::XattrSets,
        Self::Targets,
        Self::HardLinks,
        Self::Directories,
        Self::Sparse,
        Self::Extents,
        Self::Objects,
        Self::LargeObjects,
        Self::Blocks,
        Self::Subtrees,
    ];

    /// Returns the kind number in the section table.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Returns the section with a kind number, if this version knows it.
    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.number() == number)
    }

    /// Returns the number of bytes of one element.
    #[must_use]
    pub const fn element_size(self) -> u32 {
        match self {
            Self::Names | Self::XattrSets | Self::Targets => 1,
            Self::Mode => 2,
            Self::Uid
            | Self::Gid
            | Self::MtimeNanoseconds
            | Self::Links
            | Self::Parent
            | Self::NameOffsets
            | Self::Xattrs
            | Self::Directories => 4,
            Self::Mtime
            | Self::Size
            | Self::Data
            | Self::XattrOffsets
            | Self::HardLinks
            | Self::Sparse
            | Self::LargeObjects => 8,
            Self::Extents => 16,
            Self::Objects | Self::Blocks | Self::Subtrees => 32,
        }
    }

    /// Returns the number of elements that the section must have in an image of `entries` if it is present; `None` when the
    /// number follows from other sections.
    pub(super) const fn fixed_count(self, entries: u32) -> Option<u64> {
        match self {
            Self::Mode
            | Self::Uid
            | Self::Gid
            | Self::Mtime
            | Self::MtimeNanoseconds
            | Self::Size
            | Self::Links
            | Self::Parent
            | Self::Data
            | Self::Xattrs => Some(entries as u64),
            Self::NameOffsets => Some(entries as u64 + 1),
            _ => None,
        }
    }

    /// Returns whether every image must have the section.
    pub(super) const fn is_required(self) -> bool {
        matches!(
            self,
            Self::Mode
                | Self::Mtime
                | Self::Size
                | Self::Links
                | Self::Parent
                | Self::Data
                | Self::NameOffsets
                | Self::Directories
                | Self::Subtrees
        )
    }

    /// Returns whether the section is omitted when all its values are zero.
    pub(super) const fn is_zero_optional(self) -> bool {
        matches!(self, Self::Uid | Self::Gid | Self::MtimeNanoseconds | Self::Xattrs)
    }

    /// Returns the name that messages use.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Mtime => "mtime",
            Self::MtimeNanoseconds => "mtime-nanoseconds",
            Self::Size => "size",
            Self::Links => "links",
            Self::Parent => "parent",
            Self::Data => "data",
            Self::NameOffsets => "name-offsets",
            Self::Names => "names",
            Self::Xattrs => "xattrs",
            Self::XattrOffsets => "xattr-offsets",
            Self::XattrSets => "xattr-sets",
            Self::Targets => "targets",
            Self::HardLinks => "hard-links",
            Self::Directories => "directories",
            Self::Sparse => "sparse",
            Self::Extents => "extents",
            Self::Objects => "objects",
            Self::LargeObjects => "large-objects",
            Self::Blocks => "blocks",
            Self::Subtrees => "subtrees",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_numbers_are_unique_and_found_again() {
        for (index, section) in Section::ALL.into_iter().enumerate() {
            assert_eq!(section.number() as usize, index + 1);
            assert_eq!(Section::from_number(section.number()), Some(section));
        }
        assert_eq!(Section::from_number(0), None);
        assert_eq!(Section::from_number(24), None);
    }
}
