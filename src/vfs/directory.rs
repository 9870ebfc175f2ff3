//! Lists directories from a position on, without an open handle.
//!
//! *Invariants*: a position is 0 for `.`, 1 for `..`, and 2 + k for child k; it stays valid because an image never changes.

use super::{FsError, Vfs};
use crate::image::{Attributes, Ino};
use crate::model::FileKind;

/// One entry of a directory, as `getdents(2)` returns it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListedEntry<'a> {
    /// The node number by which the kernel knows the entry.
    pub(crate) node: u64,
    /// The name, which may be `.` or `..`.
    pub(crate) name: &'a [u8],
    pub(crate) kind: FileKind,
    /// The position at which the listing continues after this entry.
    pub(crate) next: u64,
    ino: Ino,
}

/// The answer of a listing callback: whether it stored the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    /// The entry was stored; the listing continues.
    Accepted,
    /// The buffer has no room for the entry; the listing stops, and the kernel asks for the entry again.
    Full,
}

/// The position of the first child; `.` and `..` come before it.
const FIRST_CHILD: u64 = 2;

impl Vfs {
    /// Passes the entries of a directory from `position` on to `take`, until `take` is full or no entry is left.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], or damage, which may be found after some entries were passed on.
    pub(crate) fn list(
        &self,
        node: u64,
        position: u64,
        mut take: impl FnMut(ListedEntry<'_>) -> Listing,
    ) -> Result<(), FsError> {
        let directory = self.ino(node)?;
        // No directory has a child with the index `u32::MAX`, so a position beyond 32 bits is beyond the end.
        let from = u32::try_from(position.saturating_sub(FIRST_CHILD)).unwrap_or(u32::MAX);
        let children = self.image.children(directory, from)?;
        let dots = [(&b"."[..], directory), (&b".."[..], self.parent(directory)?)];
        for (index, (name, ino)) in (0_u64..).zip(dots).skip_while(|(index, _)| *index < position) {
            let entry = ListedEntry { node: self.node_of(ino), name, kind: FileKind::Directory, next: index + 1, ino };
            if take(entry) == Listing::Full {
                return Ok(());
            }
        }
        for child in children {
            let child = child?;
            let next = FIRST_CHILD + u64::from(child.index) + 1;
            let node = self.node_of(child.ino);
            if take(ListedEntry { node, name: child.name, kind: child.kind, next, ino: child.ino }) == Listing::Full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns the attributes of an entry that [`Self::list`] passed on. Fails only if the image is damaged.
    pub(crate) fn attributes_of_entry(&self, entry: &ListedEntry<'_>) -> Result<Attributes, FsError> {
        self.attributes_of(entry.ino)
    }
}
