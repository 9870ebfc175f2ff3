//! Reading directories: positions that need no open handle.

use super::{FsError, Vfs};
use crate::image::{Attributes, Ino};
use crate::model::FileKind;

/// One entry of a directory as `getdents` tells it.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Number for the kernel.
    pub node: u64,
    /// Name; `.` and `..` among them.
    pub name: &'a [u8],
    /// Kind.
    pub kind: FileKind,
    /// Where reading goes on after this entry.
    pub next: u64,
    ino: Ino,
}

/// Whether the receiver of entries has room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// The entry was taken.
    Taken,
    /// The entry did not fit; it will be asked for again.
    Full,
}

/// Position of the first child: `.` and `..` come before.
const FIRST_CHILD: u64 = 2;

impl Vfs {
    /// Hands the entries of a directory from `position` on to `take`, until it is full or there are no more.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], or damage, which may come after some entries were taken.
    pub fn list(&self, node: u64, position: u64, mut take: impl FnMut(Entry<'_>) -> Listing) -> Result<(), FsError> {
        let directory = self.ino(node)?;
        // No directory has a child of the last number, so a position past 32 bits is past the end.
        let from = u32::try_from(position.saturating_sub(FIRST_CHILD)).unwrap_or(u32::MAX);
        let children = self.image.children(directory, from)?;
        let dots = [(&b"."[..], directory), (&b".."[..], self.parent(directory)?)];
        for (index, (name, ino)) in (0_u64..).zip(dots).skip_while(|(index, _)| *index < position) {
            let entry = Entry { node: self.node_of(ino), name, kind: FileKind::Directory, next: index + 1, ino };
            if take(entry) == Listing::Full {
                return Ok(());
            }
        }
        for child in children {
            let child = child?;
            let next = FIRST_CHILD + u64::from(child.index) + 1;
            let node = self.node_of(child.ino);
            if take(Entry { node, name: child.name, kind: child.kind, next, ino: child.ino }) == Listing::Full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What `stat` answers for an entry that [`Self::list`] handed out.
    ///
    /// # Errors
    /// Damage.
    pub fn attributes_of_entry(&self, entry: &Entry<'_>) -> Result<Attributes, FsError> {
        self.attributes_of(entry.ino)
    }
}
