//! One inode as a value: its kind, metadata, extended attributes and content.
//!
//! *Used by* every layer that reads or builds trees.

use std::fmt;

use super::{BlockId, ObjectId};

/// Longest name of an extended attribute in bytes, as Linux has it.
pub(crate) const XATTR_NAME_MAX: usize = 255;

/// Longest value of an extended attribute in bytes, as Linux has it.
pub(crate) const XATTR_VALUE_MAX: usize = 65_536;

/// Seconds and nanoseconds since 1970; `nanoseconds` is below 1,000,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds to add to the seconds.
    pub nanoseconds: u32,
}

/// A device number, in the two parts that the kernel uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceNumber {
    /// The number of the driver.
    pub major: u32,
    /// The number of the device of that driver.
    pub minor: u32,
}

/// A run of data bytes in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The position of the first byte.
    pub offset: u64,
    /// Number of bytes, not zero.
    pub length: u64,
}

/// The content of a regular file, named by its digests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Content {
    /// The object; `None` exactly when the file is empty.
    pub object: Option<ObjectId>,
    /// Length in bytes, holes counted.
    pub size: u64,
    /// Digests of the blocks, in order: empty unless `size` is over [`super::LARGE_OBJECT`].
    pub blocks: Vec<BlockId>,
    /// The runs of data of a sparse file: ascending, not touching, inside `size`. `None` for a file without holes; an empty
    /// list for a file that is one hole.
    pub extents: Option<Vec<Extent>>,
}

/// The kind of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A file with content.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileKind {
    /// Returns the type bits of `st_mode`.
    pub(crate) const fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
        }
    }

    /// Returns the kind that the type bits of `mode` stand for; `None` if they stand for no kind.
    pub(crate) const fn from_mode(mode: u32) -> Option<Self> {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Some(Self::Regular),
            libc::S_IFDIR => Some(Self::Directory),
            libc::S_IFLNK => Some(Self::Symlink),
            libc::S_IFCHR => Some(Self::CharDevice),
            libc::S_IFBLK => Some(Self::BlockDevice),
            libc::S_IFIFO => Some(Self::Fifo),
            libc::S_IFSOCK => Some(Self::Socket),
            _ => None,
        }
    }

    /// Returns the letter that `ls -l` prints.
    pub(crate) const fn letter(self) -> char {
        match self {
            Self::Regular => '-',
            Self::Directory => 'd',
            Self::Symlink => 'l',
            Self::CharDevice => 'c',
            Self::BlockDevice => 'b',
            Self::Fifo => 'p',
            Self::Socket => 's',
        }
    }

    /// Returns the kind as a word, for JSON and messages.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Regular => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::CharDevice => "character-device",
            Self::BlockDevice => "block-device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }
}

/// Why a list of extended attributes is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// The name is empty, too long or contains NUL.
    #[error("'{}' cannot name an extended attribute", .0.escape_ascii())]
    Name(Vec<u8>),
    /// The value is longer than [`XATTR_VALUE_MAX`].
    #[error("extended attribute '{}' has {length} bytes, more than {XATTR_VALUE_MAX}", .name.escape_ascii())]
    Value {
        /// The attribute.
        name: Vec<u8>,
        /// Its length in bytes.
        length: usize,
    },
    /// A name occurs twice.
    #[error("extended attribute '{}' is given twice", .0.escape_ascii())]
    Duplicate(Vec<u8>),
}

/// The extended attributes of one inode: names unique and in ascending order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Xattrs(Vec<(Box<[u8]>, Box<[u8]>)>);

impl Xattrs {
    /// Sorts and checks the attributes.
    ///
    /// # Errors
    /// [`XattrError`] for an illegal or repeated name or an over-long value.
    pub fn new(mut pairs: Vec<(Box<[u8]>, Box<[u8]>)>) -> Result<Self, XattrError> {
        pairs.sort();
        for (name, value) in &pairs {
            if name.is_empty() || name.len() > XATTR_NAME_MAX || name.contains(&0) {
                return Err(XattrError::Name(name.to_vec()));
            }
            if value.len() > XATTR_VALUE_MAX {
                return Err(XattrError::Value { name: name.to_vec(), length: value.len() });
            }
        }
        match pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(XattrError::Duplicate(pair[0].0.to_vec())),
            None => Ok(Self(pairs)),
        }
    }

    /// Returns whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns names and values in ascending order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns the value of one attribute.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        let index = self.0.binary_search_by(|(key, _)| (**key).cmp(name)).ok()?;
        Some(&self.0[index].1)
    }

    /// Sets one attribute, replacing an older value.
    ///
    /// # Errors
    /// [`XattrError`] as for [`Self::new`].
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), XattrError> {
        let mut pairs = std::mem::take(&mut self.0);
        pairs.retain(|(key, _)| **key != *name);
        pairs.push((name.into(), value.into()));
        *self = Self::new(pairs)?;
        Ok(())
    }

    /// Removes one attribute, if it exists.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        self.0.retain(|(key, _)| **key != *name);
    }
}

impl fmt::Debug for Xattrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name.escape_ascii().to_string(), value.len()))).finish()
    }
}

/// The metadata that every kind of inode has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Metadata {
    /// The lower 12 bits of `st_mode`: permissions, setuid, setgid, sticky.
    pub permissions: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The modification time: of the last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes, POSIX ACLs and file capabilities among them.
    pub xattrs: Xattrs,
}

/// The kind of an inode, with the data that only this kind has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NodeKind {
    /// A directory. Its entries are not part of this value but of the tree or image that holds it.
    Directory,
    /// A regular file.
    Regular(Content),
    /// A symbolic link and its target of 1 to [`super::SYMLINK_MAX`] bytes without NUL.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl NodeKind {
    /// Returns the kind without its data.
    #[must_use]
    pub const fn file_kind(&self) -> FileKind {
        match self {
            Self::Directory => FileKind::Directory,
            Self::Regular(_) => FileKind::Regular,
            Self::Symlink(_) => FileKind::Symlink,
            Self::CharDevice(_) => FileKind::CharDevice,
            Self::BlockDevice(_) => FileKind::BlockDevice,
            Self::Fifo => FileKind::Fifo,
            Self::Socket => FileKind::Socket,
        }
    }
}

/// One inode.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Owner, mode, time, attributes.
    pub metadata: Metadata,
    /// Kind and content.
    pub kind: NodeKind,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_kind_converts_to_mode_bits_and_back() {
        for kind in [
            FileKind::Regular,
            FileKind::Directory,
            FileKind::Symlink,
            FileKind::CharDevice,
            FileKind::BlockDevice,
            FileKind::Fifo,
            FileKind::Socket,
        ] {
            assert_eq!(FileKind::from_mode(kind.mode_bits() | 0o4755), Some(kind));
        }
        assert_eq!(FileKind::from_mode(0), None);
    }

    #[test]
    fn xattrs_are_sorted_unique_and_bounded() {
        let pair = |name: &[u8], value: &[u8]| (Box::from(name), Box::from(value));
        let xattrs = Xattrs::new(vec![pair(b"user.b", b"2"), pair(b"user.a", b"1")]).expect("legal");
        assert_eq!(xattrs.iter().map(|(name, _)| name).collect::<Vec<_>>(), [b"user.a", b"user.b"]);
        assert_eq!(xattrs.get(b"user.b"), Some(&b"2"[..]));
        assert!(Xattrs::new(vec![pair(b"user.a", b""), pair(b"user.a", b"1")]).is_err());
        assert!(Xattrs::new(vec![pair(b"", b"")]).is_err());
        assert!(Xattrs::new(vec![pair(b"user.a", &[0; XATTR_VALUE_MAX + 1])]).is_err());
    }
}
