//! The number of an inode in an image.

use std::fmt;
use std::num::NonZeroU32;

use super::layout::ENTRIES_MAX;

/// The number of an inode: the number of its first entry, plus one. The root is 1, as FUSE requires.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(NonZeroU32);

impl Ino {
    /// The root of every image.
    pub const ROOT: Self = Self(NonZeroU32::MIN);

    /// Returns the number in the form that `stat` and FUSE use.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get() as u64
    }

    /// Converts a number from outside. Whether an image has the inode is checked by each operation.
    #[must_use]
    pub fn from_raw(number: u64) -> Option<Self> {
        let number = u32::try_from(number).ok().filter(|number| *number <= ENTRIES_MAX)?;
        NonZeroU32::new(number).map(Self)
    }

    /// Returns the number of the inode whose first entry is `entry`.
    pub(super) const fn of_entry(entry: u32) -> Self {
        // An entry is below `ENTRIES_MAX`, so it never saturates; this form has no branch that could panic.
        Self(NonZeroU32::MIN.saturating_add(entry))
    }

    pub(super) const fn entry(self) -> u32 {
        self.0.get() - 1
    }
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ino({})", self.0)
    }
}
