//! What can differ between two images at one path.

use std::fmt;

use super::Ino;
use crate::model::ImagePath;

/// One difference between two images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Where.
    pub path: ImagePath,
    /// What.
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
    /// Both have it, and these things differ.
    Modified(Aspects),
}

impl ChangeKind {
    /// `A`, `D` or `M`, as version control writes it.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Added => 'A',
            Self::Removed => 'D',
            Self::Modified(_) => 'M',
        }
    }

    /// The kind as a word, for JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Modified(_) => "modified",
        }
    }
}

/// One thing that can differ between two inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aspect {
    /// A file became a directory, or the like.
    Type,
    /// The bytes of a regular file.
    Content,
    /// The places of the holes of a sparse file.
    Holes,
    /// The target of a symbolic link.
    Target,
    /// The number of a device.
    Device,
    /// Permissions.
    Mode,
    /// User or group.
    Owner,
    /// The time of the last change.
    Mtime,
    /// Extended attributes.
    Xattrs,
    /// The number of its hard links, or which paths are linked with it.
    Links,
}

impl Aspect {
    /// All aspects, in the order in which they are listed.
    pub const ALL: [Self; 10] = [
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

    /// The aspect as a word, for people and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
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

/// A set of things that differ.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Aspects(u16);

impl Aspects {
    /// Whether nothing differs.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this thing differs.
    #[must_use]
    pub const fn contains(self, aspect: Aspect) -> bool {
        self.0 & aspect.bit() != 0
    }

    /// The things that differ.
    pub fn iter(self) -> impl Iterator<Item = Aspect> {
        Aspect::ALL.into_iter().filter(move |aspect| self.contains(*aspect))
    }

    /// Notes whether this thing differs.
    pub(super) const fn note(&mut self, aspect: Aspect, differs: bool) {
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
