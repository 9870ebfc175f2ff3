//! Finds the differences of two images, in one pass over both.
//!
//! Both images list every directory in the same order, so the pass is a merge; it does not descend into two directories with
//! equal digests. The work is in proportion to the directories above a change, not to the images.
//!
//! *Invariants*: the pass relies on the subtree digests: those of an image that was never verified can hide a difference, but
//! have no other effect.
//!
//! *Used by* `cli`.

use std::cmp::Ordering;
use std::ops::Range;

use super::change::{Aspect, Aspects, Change, ChangeKind};
use super::contents::object;
use super::view::{ImageView, entry_error};
use super::xattrs::XattrSet;
use super::{EntryFault, Image, ImageError, Ino, Section};
use crate::model::{EntryName, FileKind, ImagePath};

/// Calls `visit` for every path at which the images differ: a directory before what is in it, siblings by name.
///
/// A removed or added directory is followed by everything in it. If a file became a directory or the reverse, the path is
/// reported as modified, and the entries of the directory as added or removed.
///
/// # Errors
/// [`ImageError`] when one of the images is damaged.
pub fn diff(old: &Image, new: &Image, visit: &mut dyn FnMut(Change)) -> Result<(), ImageError> {
    let mut walk = DiffWalk { old: old.view(), new: new.view(), path: ImagePath::root(), visit };
    let mut pending = Vec::new();
    pending.extend(walk.compare(Some(0), Some(0))?);
    while let Some(pair) = pending.last_mut() {
        let Some((old, new, name)) = walk.take_next(pair)? else {
            pending.pop();
            walk.path.pop();
            continue;
        };
        walk.path.push(name);
        match walk.compare(old, new)? {
            Some(inner) => pending.push(inner),
            None => drop(walk.path.pop()),
        }
    }
    Ok(())
}

/// Two directories at one path, with their children that have not been compared yet. The pairs are kept in a list instead of
/// on the stack, so that deep trees do not need a deep stack.
struct PendingPair {
    /// The directory and its remaining children, of each image.
    old: (u32, Range<u32>),
    new: (u32, Range<u32>),
}

struct DiffWalk<'a> {
    old: ImageView<'a>,
    new: ImageView<'a>,
    path: ImagePath,
    visit: &'a mut dyn FnMut(Change),
}

/// The entries of both images with the next name, and the name.
type NextEntries = (Option<u32>, Option<u32>, EntryName);

impl DiffWalk<'_> {
    /// Takes the next name from the remaining children of two directories.
    fn take_next(&self, pair: &mut PendingPair) -> Result<Option<NextEntries>, ImageError> {
        let old = next_name(self.old, &pair.old)?;
        let new = next_name(self.new, &pair.new)?;
        let (order, name) = match (old, new) {
            (None, None) => return Ok(None),
            (Some(name), None) => (Ordering::Less, name),
            (None, Some(name)) => (Ordering::Greater, name),
            (Some(old), Some(new)) => (old.cmp(new), old.min(new)),
        };
        let old = if order.is_le() { pair.old.1.next() } else { None };
        let new = if order.is_ge() { pair.new.1.next() } else { None };
        let name = EntryName::new(name);
        let broken = || entry_error(Section::Names, old.or(new).unwrap_or_default(), EntryFault::Name);
        Ok(Some((old, new, name.map_err(|_| broken())?)))
    }

    /// Reports how the entries at the current path differ. Returns the directories of which the children must be compared.
    fn compare(&mut self, old: Option<u32>, new: Option<u32>) -> Result<Option<PendingPair>, ImageError> {
        let kind = match (old, new) {
            (Some(old), Some(new)) => Some(ChangeKind::Modified(self.aspects(old, new)?)),
            (Some(_), None) => Some(ChangeKind::Removed),
            (None, Some(_)) => Some(ChangeKind::Added),
            (None, None) => None,
        };
        if let Some(kind) = kind.filter(|kind| *kind != ChangeKind::Modified(Aspects::default())) {
            let ino = |view: ImageView<'_>, entry: u32| view.primary(entry).map(Ino::of_entry);
            let change = Change {
                path: self.path.clone(),
                kind,
                old: old.map(|entry| ino(self.old, entry)).transpose()?,
                new: new.map(|entry| ino(self.new, entry)).transpose()?,
            };
            (self.visit)(change);
        }
        let pair = PendingPair { old: children_of(self.old, old)?, new: children_of(self.new, new)? };
        let are_empty = pair.old.1.is_empty() && pair.new.1.is_empty();
        Ok((!are_empty && !self.are_equal(&pair)?).then_some(pair))
    }

    /// Returns whether two directories have equal digests, so that everything below them is equal.
    fn are_equal(&self, pair: &PendingPair) -> Result<bool, ImageError> {
        if pair.old.1.is_empty() || pair.new.1.is_empty() {
            return Ok(false);
        }
        Ok(subtree_digest(self.old, pair.old.0)? == subtree_digest(self.new, pair.new.0)?)
    }

    /// Returns the aspects in which two entries at one path differ.
    fn aspects(&self, a: u32, b: u32) -> Result<Aspects, ImageError> {
        let (old, new) = (self.old, self.new);
        let (kind, new_kind) = (old.kind(a)?, new.kind(b)?);
        let set = |view, entry| XattrSet::of(view, entry).map(XattrSet::as_bytes);
        let mut aspects = Aspects::default();
        aspects.set_if(Aspect::Type, kind != new_kind);
        aspects.set_if(Aspect::Mode, old.mode(a)? & 0o7777 != new.mode(b)? & 0o7777);
        aspects.set_if(Aspect::Owner, old.uid(a)? != new.uid(b)? || old.gid(a)? != new.gid(b)?);
        aspects.set_if(Aspect::Mtime, old.mtime(a)? != new.mtime(b)?);
        aspects.set_if(Aspect::Xattrs, set(old, a)? != set(new, b)?);
        if kind != new_kind {
            return Ok(aspects);
        }
        match kind {
            FileKind::Regular => {
                aspects.set_if(Aspect::Content, size_and_object(old, a)? != size_and_object(new, b)?);
                aspects.set_if(Aspect::Holes, !same_holes(old, a, new, b)?);
            }
            FileKind::Symlink => aspects.set_if(Aspect::Target, old.target(a)? != new.target(b)?),
            FileKind::CharDevice | FileKind::BlockDevice => {
                aspects.set_if(Aspect::Device, old.data(a)? != new.data(b)?);
            }
            FileKind::Directory | FileKind::Fifo | FileKind::Socket => {}
        }
        aspects.set_if(Aspect::Links, kind != FileKind::Directory && !self.same_links(a, b)?);
        Ok(aspects)
    }

    /// Returns whether two entries at one path have the same number of links, and the same path of the first link.
    fn same_links(&self, old: u32, new: u32) -> Result<bool, ImageError> {
        let links = self.old.links(old)?;
        if links != self.new.links(new)? {
            return Ok(false);
        }
        if links == 1 {
            return Ok(true);
        }
        let (mut a, mut b) = (self.old.primary(old)?, self.new.primary(new)?);
        if a == old && b == new {
            return Ok(true);
        }
        while a != 0 && b != 0 {
            if self.old.raw_name(a)? != self.new.raw_name(b)? {
                return Ok(false);
            }
            (a, b) = (self.old.parent(a)?, self.new.parent(b)?);
        }
        Ok(a == b)
    }
}

/// Returns the name of the next child, and checks that it is legal.
fn next_name<'a>(
    view: ImageView<'a>,
    (directory, children): &(u32, Range<u32>),
) -> Result<Option<&'a [u8]>, ImageError> {
    if children.is_empty() {
        return Ok(None);
    }
    view.check_child(*directory, children.start)?;
    view.name(children.start).map(Some)
}

/// Returns the directory and the range of its children; an empty range for an entry that is not a directory.
fn children_of(view: ImageView<'_>, entry: Option<u32>) -> Result<(u32, Range<u32>), ImageError> {
    match entry {
        Some(entry) if view.kind(entry)? == FileKind::Directory => Ok((entry, view.children(entry)?)),
        _ => Ok((0, 0..0)),
    }
}

/// Returns the digest of everything below a directory.
fn subtree_digest(view: ImageView<'_>, directory: u32) -> Result<[u8; 32], ImageError> {
    let directories = view.sections.directories;
    let number = directories.partition_point(view.bytes, |found| found < directory)?;
    if directories.get(view.bytes, number)? != directory {
        return Err(entry_error(Section::Directories, directory, EntryFault::Data));
    }
    view.sections.subtrees.get(view.bytes, number)
}

/// Returns the size and the object of a regular file.
fn size_and_object(view: ImageView<'_>, entry: u32) -> Result<(u64, Option<crate::model::ObjectId>), ImageError> {
    Ok((view.size(entry)?, object(view, entry)?))
}

fn same_holes(old: ImageView<'_>, a: u32, new: ImageView<'_>, b: u32) -> Result<bool, ImageError> {
    Ok(match (old.extents(old.primary(a)?)?, new.extents(new.primary(b)?)?) {
        (None, None) => true,
        (Some(old), Some(new)) => old.iter().eq(new.iter()),
        _ => false,
    })
}
