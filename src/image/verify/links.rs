//! Checks the rules of hard links: every name repeats the columns of its primary, and the link counts are correct.
//!
//! *Used by* `image::verify::entries`.

use super::super::view::{ImageView, entry_error};
use super::super::{EntryFault, ImageError, Section};
use crate::model::FileKind;

/// A checker of the table of hard links, called in order of entries.
pub(super) struct HardLinkChecker {
    /// The primaries of all further links, sorted: each occurs once less than its link count.
    primaries: Vec<u32>,
    used: usize,
}

impl HardLinkChecker {
    pub(crate) fn new(view: ImageView<'_>) -> Result<Self, ImageError> {
        let table = view.sections.hard_links.all(view.bytes)?;
        let mut primaries: Vec<u32> = table.iter().map(|(_, primary)| primary).collect();
        primaries.sort_unstable();
        Ok(Self { primaries, used: 0 })
    }

    /// Rows of the table that belonged to an entry so far.
    pub(crate) const fn used_rows(&self) -> usize {
        self.used
    }

    /// Checks the rows of the table that concern `entry`. Returns whether it is a further link, which is then correct.
    pub(crate) fn verify(&mut self, view: ImageView<'_>, entry: u32, kind: FileKind) -> Result<bool, ImageError> {
        let row = view.sections.hard_links.find(view.bytes, entry)?;
        let count = self.further_links(entry);
        match row {
            None if kind == FileKind::Directory && count == 0 => Ok(false),
            None if kind != FileKind::Directory && u64::from(view.links(entry)?) == count + 1 => Ok(false),
            None => Err(entry_error(Section::Links, entry, EntryFault::Links)),
            Some((row, primary)) => {
                let is_right = row == self.used
                    && count == 0
                    && kind != FileKind::Directory
                    && primary < entry
                    && repeats(view, entry, primary)?;
                if !is_right {
                    return Err(entry_error(Section::HardLinks, entry, EntryFault::HardLink));
                }
                self.used += 1;
                Ok(true)
            }
        }
    }

    /// Returns the number of rows that name `primary` as their primary.
    fn further_links(&self, primary: u32) -> u64 {
        let start = self.primaries.partition_point(|found| *found < primary);
        let end = self.primaries.partition_point(|found| *found <= primary);
        (end - start) as u64
    }
}

/// Returns whether all columns but name and parent are equal.
fn repeats(view: ImageView<'_>, entry: u32, primary: u32) -> Result<bool, ImageError> {
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
