//! Checks the rules of entries, in one pass in order of their numbers.
//!
//! Everything to which entries refer is stored in order of first use. So each table is checked with a cursor: an entry refers
//! either to an element before the cursor or to exactly the next one, and at the end the cursor is at the end of the table.
//!
//! *Used by* `image::verify`.

use std::collections::HashSet;

use super::super::column::Column;
use super::super::contents::object;
use super::super::layout::{FILE_SIZE_MAX, NO_OBJECT};
use super::super::view::{ImageView, entry_error, extents_are_legal};
use super::super::xattrs::XattrSet;
use super::super::{EntryFault, ImageError, Section, SectionFault, subtree};
use super::links::HardLinkChecker;
use crate::model::{BLOCK_SIZE, FileKind, LARGE_OBJECT};

/// Checks every entry and every table of an image whose sections are at their positions.
pub(super) fn verify(view: ImageView<'_>, content_bytes: u64) -> Result<(), ImageError> {
    verify_columns(view)?;
    let mut checker = EntryChecker {
        view,
        links: HardLinkChecker::new(view)?,
        next_child: 1,
        next_directory: 0,
        next_target: 0,
        next_set: 1,
        next_sparse: 0,
        next_extent: 0,
        next_large: 0,
        next_block: 0,
        content_bytes: 0,
        object_sizes: Vec::new(),
        sets: HashSet::new(),
    };
    checker.check_root()?;
    for entry in 0..view.entries() {
        checker.check_entry(entry)?;
    }
    checker.check_all_used()?;
    if checker.content_bytes != content_bytes {
        return Err(ImageError::Header { field: "content bytes" });
    }
    verify_digests(view)
}

/// Checks the rules of whole columns.
fn verify_columns(view: ImageView<'_>) -> Result<(), ImageError> {
    let sections = view.sections;
    check_not_all_zero(view, Section::Uid, sections.uid)?;
    check_not_all_zero(view, Section::Gid, sections.gid)?;
    check_not_all_zero(view, Section::MtimeNanoseconds, sections.mtime_nanoseconds)?;
    check_not_all_zero(view, Section::Xattrs, sections.xattrs)?;
    check_ascending(view, Section::HardLinks, sections.hard_links)?;
    check_ascending(view, Section::Sparse, sections.sparse)?;
    check_ascending(view, Section::LargeObjects, sections.large_objects)?;
    require(sections.subtrees.len() == sections.directories.len(), Section::Subtrees, SectionFault::Length)?;
    let last_name = sections.name_offsets.get(view.bytes, view.entries() as usize)?;
    require(last_name as usize == sections.names.len(), Section::Names, SectionFault::Length)
}

/// Checks that object ids are distinct, and that the subtree digests are correct.
fn verify_digests(view: ImageView<'_>) -> Result<(), ImageError> {
    let mut objects: Vec<_> = view.sections.objects.all(view.bytes)?.iter().collect();
    objects.sort_unstable();
    require(objects.windows(2).all(|pair| pair[0] != pair[1]), Section::Objects, SectionFault::Order)?;
    // In descending order, since a wrong digest makes those of the directories above wrong too: the deepest one is reported.
    for (number, digest) in subtree::digests(view)?.into_iter().enumerate().rev() {
        if view.sections.subtrees.get(view.bytes, number)? != *digest.as_bytes() {
            let entry = view.sections.directories.get(view.bytes, number)?;
            return Err(entry_error(Section::Subtrees, entry, EntryFault::Subtree));
        }
    }
    Ok(())
}

struct EntryChecker<'a> {
    view: ImageView<'a>,
    links: HardLinkChecker,
    next_child: u32,
    next_directory: usize,
    next_target: u64,
    next_set: u32,
    next_sparse: usize,
    next_extent: usize,
    next_large: usize,
    next_block: u64,
    content_bytes: u64,
    /// The size of each object that was used so far.
    object_sizes: Vec<u64>,
    sets: HashSet<&'a [u8]>,
}

impl<'a> EntryChecker<'a> {
    fn check_root(&self) -> Result<(), ImageError> {
        let view = self.view;
        let name_starts = view.sections.name_offsets.get(view.bytes, 0)?;
        check(view.kind(0)? == FileKind::Directory, Section::Mode, 0, EntryFault::Kind)?;
        check(view.parent(0)? == 0, Section::Parent, 0, EntryFault::Parent)?;
        check(name_starts == 0 && view.raw_name(0)?.is_empty(), Section::Names, 0, EntryFault::Name)
    }

    fn check_entry(&mut self, entry: u32) -> Result<(), ImageError> {
        let view = self.view;
        let kind = view.kind(entry)?;
        view.mtime(entry)?;
        if self.links.verify(view, entry, kind)? {
            return Ok(()); // Its columns equal those of the primary, which was checked.
        }
        self.check_xattrs(entry)?;
        let (size, data) = (view.size(entry)?, view.data(entry)?);
        match kind {
            FileKind::Regular => return self.check_regular(entry, size),
            FileKind::Symlink => return self.check_symlink(entry, size, data),
            FileKind::Directory => self.check_directory(entry)?,
            FileKind::Fifo | FileKind::Socket => check(data == 0, Section::Data, entry, EntryFault::Data)?,
            FileKind::CharDevice | FileKind::BlockDevice => {}
        }
        check(size == 0, Section::Size, entry, EntryFault::Size)
    }

    fn check_directory(&mut self, entry: u32) -> Result<(), ImageError> {
        let view = self.view;
        let listed = view.sections.directories.get(view.bytes, self.next_directory)?;
        check(listed == entry, Section::Directories, entry, EntryFault::Data)?;
        self.next_directory += 1;
        let children = view.children(entry)?;
        check(children.start == self.next_child, Section::Data, entry, EntryFault::Children)?;
        self.next_child = children.end;
        let (mut last_name, mut links): (&[u8], u32) = (&[], 2);
        for child in children {
            let name = view.name(child)?;
            check(name > last_name, Section::Names, child, EntryFault::NameOrder)?;
            view.check_child(entry, child)?;
            links += u32::from(view.kind(child)? == FileKind::Directory);
            last_name = name;
        }
        check(view.links(entry)? == links, Section::Links, entry, EntryFault::Links)
    }

    fn check_symlink(&mut self, entry: u32, size: u64, data: u64) -> Result<(), ImageError> {
        check(data == self.next_target, Section::Data, entry, EntryFault::Data)?;
        self.view.target(entry)?;
        self.next_target += size; // target() bounds the size.
        Ok(())
    }

    fn check_regular(&mut self, entry: u32, size: u64) -> Result<(), ImageError> {
        let view = self.view;
        let is_empty = view.data(entry)? == NO_OBJECT;
        check(is_empty == (size == 0) && size <= FILE_SIZE_MAX, Section::Size, entry, EntryFault::Size)?;
        let total = self.content_bytes.checked_add(size);
        self.content_bytes = total.ok_or(entry_error(Section::Size, entry, EntryFault::Size))?;
        self.check_sparse(entry, size)?;
        let Some(index) = view.object_index(entry)? else { return Ok(()) };
        object(view, entry)?;
        if let Some(known) = self.object_sizes.get(index as usize) {
            return check(*known == size, Section::Size, entry, EntryFault::Object);
        }
        check(index as usize == self.object_sizes.len(), Section::Data, entry, EntryFault::Object)?;
        self.object_sizes.push(size);
        if size > LARGE_OBJECT { self.check_large_object(entry, index, size) } else { Ok(()) }
    }

    /// Checks the blocks of a large object at its first use.
    fn check_large_object(&mut self, entry: u32, index: u32, size: u64) -> Result<(), ImageError> {
        let view = self.view;
        let (object, first) = view.sections.large_objects.get(view.bytes, self.next_large)?;
        let is_next = object == index && u64::from(first) == self.next_block;
        check(is_next, Section::LargeObjects, entry, EntryFault::Blocks)?;
        view.blocks(entry)?;
        self.next_large += 1;
        self.next_block += size.div_ceil(BLOCK_SIZE);
        Ok(())
    }

    fn check_sparse(&mut self, entry: u32, size: u64) -> Result<(), ImageError> {
        let view = self.view;
        let Some((row, first)) = view.sections.sparse.find(view.bytes, entry)? else { return Ok(()) };
        let extents = view.extents(entry)?.ok_or(entry_error(Section::Sparse, entry, EntryFault::Extents))?;
        let is_next = row == self.next_sparse && first as usize == self.next_extent;
        let is_legal = is_next && extents_are_legal(size, extents.iter());
        check(is_legal, Section::Extents, entry, EntryFault::Extents)?;
        self.next_sparse += 1;
        self.next_extent += extents.len();
        Ok(())
    }

    fn check_xattrs(&mut self, entry: u32) -> Result<(), ImageError> {
        let view = self.view;
        let number = view.sections.xattrs.get_or_zero(view.bytes, entry as usize)?;
        if number < self.next_set {
            return Ok(());
        }
        let set = XattrSet::numbered(view, number, entry)?;
        let starts = view.sections.xattr_offsets.get(view.bytes, 0)?;
        for pair in set.iter() {
            pair?;
        }
        let is_new = number == self.next_set && starts == 0 && !set.is_empty() && self.sets.insert(set.as_bytes());
        check(is_new, Section::XattrSets, entry, EntryFault::Xattrs)?;
        self.next_set += 1;
        Ok(())
    }

    /// Checks that every table was used to its end.
    fn check_all_used(&self) -> Result<(), ImageError> {
        let sections = self.view.sections;
        let set_end = match sections.xattr_offsets.len() {
            0 => 0,
            count => sections.xattr_offsets.get(self.view.bytes, count - 1)?,
        };
        let sets = if sections.xattr_offsets.is_present() { self.next_set as usize } else { 0 };
        let used = [
            (Section::Data, u64::from(self.next_child), self.view.entries() as usize),
            (Section::Directories, self.next_directory as u64, sections.directories.len()),
            (Section::Targets, self.next_target, sections.targets.len()),
            (Section::XattrOffsets, sets as u64, sections.xattr_offsets.len()),
            (Section::XattrSets, set_end, sections.xattr_sets.len()),
            (Section::HardLinks, self.links.used_rows() as u64, sections.hard_links.len()),
            (Section::Sparse, self.next_sparse as u64, sections.sparse.len()),
            (Section::Extents, self.next_extent as u64, sections.extents.len()),
            (Section::Objects, self.object_sizes.len() as u64, sections.objects.len()),
            (Section::LargeObjects, self.next_large as u64, sections.large_objects.len()),
            (Section::Blocks, self.next_block, sections.blocks.len()),
        ];
        let left = used.into_iter().find(|(_, used, there)| *used != *there as u64);
        left.map_or(Ok(()), |(section, ..)| Err(ImageError::Section { section, fault: SectionFault::Length }))
    }
}

fn check(holds: bool, section: Section, entry: u32, fault: EntryFault) -> Result<(), ImageError> {
    if holds { Ok(()) } else { Err(entry_error(section, entry, fault)) }
}

fn require(holds: bool, section: Section, fault: SectionFault) -> Result<(), ImageError> {
    if holds { Ok(()) } else { Err(ImageError::Section { section, fault }) }
}

fn check_not_all_zero(view: ImageView<'_>, section: Section, column: Column<u32>) -> Result<(), ImageError> {
    let is_legal = !column.is_present() || column.all(view.bytes)?.iter().any(|value| value != 0);
    require(is_legal, section, SectionFault::Presence)
}

fn check_ascending(view: ImageView<'_>, section: Section, column: Column<(u32, u32)>) -> Result<(), ImageError> {
    let keys = column.all(view.bytes)?;
    let ascends = keys.iter().zip(keys.iter().skip(1)).all(|((key, _), (next, _))| key < next);
    require(ascends, section, SectionFault::Order)
}
