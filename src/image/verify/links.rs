//! The rules of hard links: every name repeats its primary, and the link counts add up.

use super::super::view::{View, wrong};
use super::super::{EntryFault, ImageError, Section};
use crate::model::FileKind;

/// The table of hard links, being checked in order of entries.
pub(super) struct Links {
    /// The primaries of all further links, sorted: how often one is here is one less than its link count.
    primaries: Vec<u32>,
    used: usize,
}

impl Links {
    pub fn new(view: View<'_>) -> Result<Self, ImageError> {
        let table = view.sections.hard_links.all(view.bytes)?;
        let mut primaries: Vec<u32> = table.iter().map(|(_, primary)| primary).collect();
        primaries.sort_unstable();
        Ok(Self { primaries, used: 0 })
    }

    /// Rows of the table that belonged to an entry so far.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Checks what the table says of `entry`. Returns whether it is a further link, and then a right one.
    pub fn verify(&mut self, view: View<'_>, entry: u32, kind: FileKind) -> Result<bool, ImageError> {
        let row = view.sections.hard_links.find(view.bytes, entry)?;
        let count = self.further_links(entry);
        match row {
            None if kind == FileKind::Directory && count == 0 => Ok(false),
            None if kind != FileKind::Directory && u64::from(view.links(entry)?) == count + 1 => Ok(false),
            None => Err(wrong(Section::Links, entry, EntryFault::Links)),
            Some((row, primary)) => {
                let is_right = row == self.used
                    && count == 0
                    && kind != FileKind::Directory
                    && primary < entry
                    && repeats(view, entry, primary)?;
                if !is_right {
                    return Err(wrong(Section::HardLinks, entry, EntryFault::HardLink));
                }
                self.used += 1;
                Ok(true)
            }
        }
    }

    /// How many rows name `primary` as theirs.
    fn further_links(&self, primary: u32) -> u64 {
        let start = self.primaries.partition_point(|found| *found < primary);
        let end = self.primaries.partition_point(|found| *found <= primary);
        (end - start) as u64
    }
}

/// Whether all columns but name and parent are equal.
fn repeats(view: View<'_>, entry: u32, primary: u32) -> Result<bool, ImageError> {
    let xattrs = |entry: u32| view.sections.xattrs.get_or_zero(view.bytes, entry as usize);
    Ok(view.mode(entry)? == view.mode(primary)?
        && view.uid(entry)? == view.uid(primary)?
        && view.gid(entry)? == view.gid(primary)?
        && view.mtime(entry)? == view.mtime(primary)?
        && view.size(entry)? == view.size(primary)?
        && view.links(entry)? == view.links(primary)?
        && view.data(entry)? == view.data(primary)?
        && xattrs(entry)? == xattrs(primary)?)
}
