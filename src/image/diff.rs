//! The differences of two images, in one pass over both.
//!
//! Both list every directory in the same order, so the pass is a merge; where the digests of two directories are equal
//! it does not descend. The work is in proportion to the directories above a change, not to the images.
//!
//! Believes the subtree digests: those of an image that was never verified can hide a difference, nothing worse.

use std::cmp::Ordering;
use std::ops::Range;

use super::change::{Aspect, Aspects, Change, ChangeKind};
use super::contents::object;
use super::view::{View, wrong};
use super::xattrs::XattrSet;
use super::{EntryFault, Image, ImageError, Ino, Section};
use crate::model::{EntryName, FileKind, ImagePath};

/// Calls `visit` for every path at which the images differ: a directory before what is in it, siblings by name.
///
/// A removed or added directory is followed by everything in it. Where a file became a directory or the reverse, the path
/// is modified and what was or is in the directory removed or added.
///
/// # Errors
/// [`ImageError`] when one of the images is damaged.
pub fn diff(old: &Image, new: &Image, visit: &mut dyn FnMut(Change)) -> Result<(), ImageError> {
    let mut pass = Pass { old: old.view(), new: new.view(), path: ImagePath::root(), visit };
    let mut pending = Vec::new();
    pending.extend(pass.compare(Some(0), Some(0))?);
    while let Some(rest) = pending.last_mut() {
        let Some((old, new, name)) = pass.step(rest)? else {
            pending.pop();
            pass.path.pop();
            continue;
        };
        pass.path.push(name);
        match pass.compare(old, new)? {
            Some(inner) => pending.push(inner),
            None => drop(pass.path.pop()),
        }
    }
    Ok(())
}

/// What of a pair of directories has not been compared yet. Entered only below the last one: depth costs no stack.
struct Rest {
    /// The directory and its children, on each side.
    old: (u32, Range<u32>),
    new: (u32, Range<u32>),
}

struct Pass<'a> {
    old: View<'a>,
    new: View<'a>,
    path: ImagePath,
    visit: &'a mut dyn FnMut(Change),
}

/// The entries of both sides with the name that comes next.
type Step = (Option<u32>, Option<u32>, EntryName);

impl Pass<'_> {
    /// Takes the next name from what is left of two directories.
    fn step(&self, rest: &mut Rest) -> Result<Option<Step>, ImageError> {
        let old = head(self.old, &rest.old)?;
        let new = head(self.new, &rest.new)?;
        let (order, name) = match (old, new) {
            (None, None) => return Ok(None),
            (Some(name), None) => (Ordering::Less, name),
            (None, Some(name)) => (Ordering::Greater, name),
            (Some(old), Some(new)) => (old.cmp(new), old.min(new)),
        };
        let old = if order.is_le() { rest.old.1.next() } else { None };
        let new = if order.is_ge() { rest.new.1.next() } else { None };
        let name = EntryName::new(name);
        let broken = || wrong(Section::Names, old.or(new).unwrap_or_default(), EntryFault::Name);
        Ok(Some((old, new, name.map_err(|_| broken())?)))
    }

    /// Reports how the entries at the current path differ. Returns what remains to be compared below them.
    fn compare(&mut self, old: Option<u32>, new: Option<u32>) -> Result<Option<Rest>, ImageError> {
        let kind = match (old, new) {
            (Some(old), Some(new)) => Some(ChangeKind::Modified(self.aspects(old, new)?)),
            (Some(_), None) => Some(ChangeKind::Removed),
            (None, Some(_)) => Some(ChangeKind::Added),
            (None, None) => None,
        };
        if let Some(kind) = kind.filter(|kind| *kind != ChangeKind::Modified(Aspects::default())) {
            let ino = |view: View<'_>, entry: u32| view.primary(entry).map(Ino::of_entry);
            let change = Change {
                path: self.path.clone(),
                kind,
                old: old.map(|entry| ino(self.old, entry)).transpose()?,
                new: new.map(|entry| ino(self.new, entry)).transpose()?,
            };
            (self.visit)(change);
        }
        let rest = Rest { old: contents(self.old, old)?, new: contents(self.new, new)? };
        let are_empty = rest.old.1.is_empty() && rest.new.1.is_empty();
        Ok((!are_empty && !self.are_equal(&rest)?).then_some(rest))
    }

    /// Whether the digests say that everything below two directories is equal.
    fn are_equal(&self, rest: &Rest) -> Result<bool, ImageError> {
        if rest.old.1.is_empty() || rest.new.1.is_empty() {
            return Ok(false);
        }
        Ok(digest(self.old, rest.old.0)? == digest(self.new, rest.new.0)?)
    }

    /// What differs between two entries at one path.
    fn aspects(&self, a: u32, b: u32) -> Result<Aspects, ImageError> {
        let (old, new) = (self.old, self.new);
        let (kind, new_kind) = (old.kind(a)?, new.kind(b)?);
        let set = |view, entry| XattrSet::of(view, entry).map(XattrSet::as_bytes);
        let mut aspects = Aspects::default();
        aspects.note(Aspect::Type, kind != new_kind);
        aspects.note(Aspect::Mode, old.mode(a)? & 0o7777 != new.mode(b)? & 0o7777);
        aspects.note(Aspect::Owner, old.uid(a)? != new.uid(b)? || old.gid(a)? != new.gid(b)?);
        aspects.note(Aspect::Mtime, old.mtime(a)? != new.mtime(b)?);
        aspects.note(Aspect::Xattrs, set(old, a)? != set(new, b)?);
        if kind != new_kind {
            return Ok(aspects);
        }
        match kind {
            FileKind::Regular => {
                aspects.note(Aspect::Content, content(old, a)? != content(new, b)?);
                aspects.note(Aspect::Holes, !same_holes(old, a, new, b)?);
            }
            FileKind::Symlink => aspects.note(Aspect::Target, old.target(a)? != new.target(b)?),
            FileKind::CharDevice | FileKind::BlockDevice => {
                aspects.note(Aspect::Device, old.data(a)? != new.data(b)?);
            }
            FileKind::Directory | FileKind::Fifo | FileKind::Socket => {}
        }
        aspects.note(Aspect::Links, kind != FileKind::Directory && !self.same_links(a, b)?);
        Ok(aspects)
    }

    /// Whether two entries at one path have as many links, and the first of them at the same path.
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

/// The name of the next child, which must be a legal one.
fn head<'a>(view: View<'a>, (directory, children): &(u32, Range<u32>)) -> Result<Option<&'a [u8]>, ImageError> {
    if children.is_empty() {
        return Ok(None);
    }
    view.check_child(*directory, children.start)?;
    view.name(children.start).map(Some)
}

/// The children of an entry; none unless it is a directory.
fn contents(view: View<'_>, entry: Option<u32>) -> Result<(u32, Range<u32>), ImageError> {
    match entry {
        Some(entry) if view.kind(entry)? == FileKind::Directory => Ok((entry, view.children(entry)?)),
        _ => Ok((0, 0..0)),
    }
}

/// The digest of what is below a directory.
fn digest(view: View<'_>, directory: u32) -> Result<[u8; 32], ImageError> {
    let directories = view.sections.directories;
    let number = directories.partition_point(view.bytes, |found| found < directory)?;
    if directories.get(view.bytes, number)? != directory {
        return Err(wrong(Section::Directories, directory, EntryFault::Data));
    }
    view.sections.subtrees.get(view.bytes, number)
}

/// What makes the content of a regular file.
fn content(view: View<'_>, entry: u32) -> Result<(u64, Option<crate::model::ObjectId>), ImageError> {
    Ok((view.size(entry)?, object(view, entry)?))
}

fn same_holes(old: View<'_>, a: u32, new: View<'_>, b: u32) -> Result<bool, ImageError> {
    Ok(match (old.extents(old.primary(a)?)?, new.extents(new.primary(b)?)?) {
        (None, None) => true,
        (Some(old), Some(new)) => old.iter().eq(new.iter()),
        _ => false,
    })
}
