//! The difference between two images at one path.
//!
//! *Not here*: finding the differences (`diff`).
//!
//! *Used by* `image::diff`, and by `cli`, which shows differences.

use std::fmt;

use super::Ino;
use crate::model::ImagePath;

/// One difference between two images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path in both images.
    pub path: ImagePath,
    /// The kind of the difference.
    pub kind: ChangeKind,
    /// The inode in the old image, unless it was added.
    pub old: Option<Ino>,
    /// The inode in the new image, unless it was removed.
    pub new: Option<Ino>,
}

/// The kind of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only the new image has the path.
    Added,
    /// Only the old image has the path.
    Removed,
    /// Both images have the path, and the inodes differ in these aspects.
    Modified(Aspects),
}

impl ChangeKind {
    /// Returns `A`, `D` or `M`, the letters that version control systems use.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Removed => 'D',
            Self::Modified(_) => 'M',
        }
    }

    /// Returns the kind as a word, for JSON.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Modified(_) => "modified",
        }
    }
}

/// One aspect in which two inodes can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// The kind of the inode, such as a file that became a directory.
    Type,
    /// The bytes of a regular file.
    Content,
    /// The positions of the holes of a sparse file.
    Holes,
    /// The target of a symbolic link.
    Target,
    /// The device number.
    Device,
    /// The permissions.
    Mode,
    /// The user or the group.
    Owner,
    /// The modification time.
    Mtime,
    /// Extended attributes.
    Xattrs,
    /// The number of hard links, or the paths that are hard links of the same inode.
    Links,
}

impl Aspect {
    /// All aspects, in the order in which they are listed.
    pub(crate) const ALL: [Self; 10] = [
        Self::Type,
        Self::Content,
        Self::Holes,
        Self::Target,
        Self::Device,
        Self::Mode,
        Self::Owner,
        Self::Mtime,
        Self::Xattrs,
        Self::Links,
    ];

    /// Returns the aspect as a word, for people and JSON.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Content => "content",
            Self::Holes => "holes",
            Self::Target => "target",
            Self::Device => "device",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Mtime => "mtime",
            Self::Xattrs => "xattrs",
            Self::Links => "links",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// The set of aspects in which two inodes differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Aspects(u16);

impl Aspects {
    /// Returns whether nothing differs.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether the inodes differ in this aspect.
    #[must_use]
    pub const fn contains(self, aspect: Aspect) -> bool {
        self.0 & aspect.bit() != 0
    }

    /// Returns the aspects in which the inodes differ.
    pub fn iter(self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(move |aspect| self.contains(*aspect))
    }

    /// Returns the set without one aspect.
    pub(crate) const fn without(self, aspect: Aspect) -> Self {
        Self(self.0 & !aspect.bit())
    }

    /// Adds the aspect if `differs`.
    pub(super) const fn set_if(&mut self, aspect: Aspect, differs: bool) {
        if differs {
            self.0 |= aspect.bit();
        }
    }
}

impl fmt::Display for Aspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, aspect) in self.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            f.write_str(aspect.word())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Aspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
