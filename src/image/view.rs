//! Reads the columns of one entry of an image, with all checks that are possible for one entry.
//!
//! *Invariants*: the bytes may be hostile. Each access checks the rules that keep every walk finite: a child's number is above
//! its directory's, an entry belongs to the one directory that its `parent` column names, and a hard link refers to a smaller
//! entry that is not a directory.
//!
//! *Used by* the operations of [`super::Image`] and the checks of `image::verify`.

use std::ops::Range;

use super::column::{Rows, Sections};
use super::header::usize_of;
use super::layout::NO_OBJECT;
use super::presence::ImageBytes;
use super::{EntryFault, ImageError, Ino, Section};
use crate::model::{BLOCK_SIZE, EntryName, Extent, FileKind, LARGE_OBJECT, SYMLINK_MAX, Timestamp};

/// An image's bytes with the positions of its sections.
#[derive(Clone, Copy)]
pub(super) struct ImageView<'a> {
    pub(crate) bytes: ImageBytes<'a>,
    pub(crate) sections: &'a Sections,
}

/// Returns the error for an entry that breaks a rule.
#[cold]
pub(super) const fn entry_error(section: Section, entry: u32, fault: EntryFault) -> ImageError {
    ImageError::Entry { section, entry, fault }
}

impl<'a> ImageView<'a> {
    /// Returns the number of entries, the root counted.
    #[inline]
    pub(crate) const fn entries(self) -> u32 {
        self.sections.entries
    }

    #[inline]
    pub(crate) fn mode(self, entry: u32) -> Result<u16, ImageError> {
        self.sections.mode.get(self.bytes, entry as usize)
    }

    #[inline]
    pub(crate) fn kind(self, entry: u32) -> Result<FileKind, ImageError> {
        let mode = u32::from(self.mode(entry)?);
        FileKind::from_mode(mode).ok_or(entry_error(Section::Mode, entry, EntryFault::Kind))
    }

    #[inline]
    pub(crate) fn uid(self, entry: u32) -> Result<u32, ImageError> {
        self.sections.uid.get_or_zero(self.bytes, entry as usize)
    }

    #[inline]
    pub(crate) fn gid(self, entry: u32) -> Result<u32, ImageError> {
        self.sections.gid.get_or_zero(self.bytes, entry as usize)
    }

    #[inline]
    pub(crate) fn mtime(self, entry: u32) -> Result<Timestamp, ImageError> {
        let seconds = self.sections.mtime.get(self.bytes, entry as usize)?;
        let nanoseconds = self.sections.mtime_nanoseconds.get_or_zero(self.bytes, entry as usize)?;
        if nanoseconds >= 1_000_000_000 {
            return Err(entry_error(Section::MtimeNanoseconds, entry, EntryFault::Time));
        }
        Ok(Timestamp { seconds, nanoseconds })
    }

    #[inline]
    pub(crate) fn size(self, entry: u32) -> Result<u64, ImageError> {
        self.sections.size.get(self.bytes, entry as usize)
    }

    #[inline]
    pub(crate) fn links(self, entry: u32) -> Result<u32, ImageError> {
        self.sections.links.get(self.bytes, entry as usize)
    }

    #[inline]
    pub(crate) fn data(self, entry: u32) -> Result<u64, ImageError> {
        self.sections.data.get(self.bytes, entry as usize)
    }

    /// Returns the directory that holds `entry`; for the root, the root itself.
    pub(crate) fn parent(self, entry: u32) -> Result<u32, ImageError> {
        let parent = self.sections.parent.get(self.bytes, entry as usize)?;
        let is_above = if entry == 0 { parent == 0 } else { parent < entry };
        if is_above && self.kind(parent)? == FileKind::Directory {
            Ok(parent)
        } else {
            Err(entry_error(Section::Parent, entry, EntryFault::Parent))
        }
    }

    /// Returns the name of `entry` unchecked; it may be illegal.
    #[inline]
    pub(crate) fn raw_name(self, entry: u32) -> Result<&'a [u8], ImageError> {
        let offset = |index: usize| self.sections.name_offsets.get(self.bytes, index).map(|offset| offset as usize);
        let (start, end) = (offset(entry as usize)?, offset(entry as usize + 1)?);
        if start == end {
            return Ok(&[]);
        }
        Ok(self.sections.names.slice(self.bytes, start, end)?.as_bytes())
    }

    /// Returns the name of `entry`, which is checked to be legal.
    #[inline]
    pub(crate) fn name(self, entry: u32) -> Result<&'a [u8], ImageError> {
        let name = self.raw_name(entry)?;
        match EntryName::check(name) {
            Ok(()) => Ok(name),
            Err(_) => Err(entry_error(Section::Names, entry, EntryFault::Name)),
        }
    }

    /// Returns the entries in the directory `directory`.
    #[inline]
    pub(crate) fn children(self, directory: u32) -> Result<Range<u32>, ImageError> {
        let data = self.data(directory)?;
        let (first, count) = (lower(data), upper(data));
        match first.checked_add(count) {
            Some(end) if first > directory && end <= self.entries() => Ok(first..end),
            _ => Err(entry_error(Section::Data, directory, EntryFault::Children)),
        }
    }

    /// Fails unless the `parent` column of `entry` names `directory`. Only one directory can pass for an entry, so that a walk
    /// visits each entry once, whatever ranges of children a hostile image has.
    #[inline]
    pub(crate) fn check_child(self, directory: u32, entry: u32) -> Result<(), ImageError> {
        if self.sections.parent.get(self.bytes, entry as usize)? == directory {
            Ok(())
        } else {
            Err(entry_error(Section::Parent, entry, EntryFault::Parent))
        }
    }

    /// Returns the entry in `children` with this name, by binary search.
    #[inline]
    pub(crate) fn search(self, children: Range<u32>, name: &[u8]) -> Result<Option<u32>, ImageError> {
        let Range { start: mut low, end: mut high } = children;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.raw_name(middle)?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(middle)),
            }
        }
        Ok(None)
    }

    /// Returns the primary of the inode of `entry`: the entry itself, unless it is a further name of a smaller entry.
    #[inline]
    pub(crate) fn primary(self, entry: u32) -> Result<u32, ImageError> {
        if !self.sections.hard_links.is_present() || self.links(entry)? < 2 {
            return Ok(entry);
        }
        let mode = self.mode(entry)?;
        if u32::from(mode) & libc::S_IFMT == libc::S_IFDIR {
            return Ok(entry);
        }
        match self.sections.hard_links.find(self.bytes, entry)? {
            None => Ok(entry),
            // The modes are equal, so the primary is not a directory either.
            Some((_, primary)) if primary < entry && self.mode(primary)? == mode => Ok(primary),
            Some(_) => Err(entry_error(Section::HardLinks, entry, EntryFault::HardLink)),
        }
    }

    /// Returns the primary entry of an inode, which the image may not have.
    #[inline]
    pub(crate) fn inode(self, ino: Ino) -> Result<u32, ImageError> {
        if ino.entry() < self.entries() {
            self.primary(ino.entry())
        } else {
            Err(ImageError::NoSuchInode { ino: ino.get() })
        }
    }

    /// Returns the primary entry like [`Self::inode`], and checks that the inode is of the expected kind.
    #[inline]
    pub(crate) fn inode_of_kind(self, ino: Ino, expected: FileKind) -> Result<u32, ImageError> {
        let entry = self.inode(ino)?;
        let found = self.kind(entry)?;
        if found == expected { Ok(entry) } else { Err(ImageError::WrongKind { ino: ino.get(), expected, found }) }
    }

    /// Returns the target of the symbolic link `entry`.
    pub(crate) fn target(self, entry: u32) -> Result<&'a [u8], ImageError> {
        let (start, length) = (usize_of(self.data(entry)?), usize_of(self.size(entry)?));
        if !(1..=SYMLINK_MAX).contains(&length) {
            return Err(entry_error(Section::Size, entry, EntryFault::Size));
        }
        let target = self.sections.targets.slice(self.bytes, start, start.saturating_add(length))?.as_bytes();
        if target.contains(&0) { Err(entry_error(Section::Targets, entry, EntryFault::Target)) } else { Ok(target) }
    }

    /// Returns the index of the object of the regular file `entry`; `None` when the file is empty.
    pub(crate) fn object_index(self, entry: u32) -> Result<Option<u32>, ImageError> {
        match self.data(entry)? {
            NO_OBJECT => Ok(None),
            index => match u32::try_from(index) {
                Ok(index) => Ok(Some(index)),
                Err(_) => Err(ImageError::OutOfRange { section: Section::Objects, row: index }),
            },
        }
    }

    /// Returns the digests of the blocks of the regular file `entry`.
    pub(crate) fn blocks(self, entry: u32) -> Result<Rows<'a, [u8; 32]>, ImageError> {
        let size = self.size(entry)?;
        if size <= LARGE_OBJECT {
            return self.sections.blocks.slice(self.bytes, 0, 0);
        }
        let missing = || entry_error(Section::LargeObjects, entry, EntryFault::Blocks);
        let object = self.object_index(entry)?.ok_or_else(missing)?;
        let (_, first) = self.sections.large_objects.find(self.bytes, object)?.ok_or_else(missing)?;
        let count = usize_of(size.div_ceil(BLOCK_SIZE));
        self.sections.blocks.slice(self.bytes, first as usize, (first as usize).saturating_add(count))
    }

    /// Returns the extents of the regular file `entry`, unchecked; `None` when the file has no holes.
    #[inline]
    pub(crate) fn extents(self, entry: u32) -> Result<Option<Rows<'a, Extent>>, ImageError> {
        let Some((row, first)) = self.sections.sparse.find(self.bytes, entry)? else { return Ok(None) };
        let end = if row + 1 < self.sections.sparse.len() {
            self.sections.sparse.get(self.bytes, row + 1)?.1 as usize
        } else {
            self.sections.extents.len()
        };
        self.sections.extents.slice(self.bytes, first as usize, end).map(Some)
    }
}

/// Returns the first number of a `data` value that holds two.
pub(super) const fn lower(data: u64) -> u32 {
    (data & 0xffff_ffff) as u32
}

/// Returns the second number of a `data` value that holds two.
pub(super) const fn upper(data: u64) -> u32 {
    (data >> 32) as u32
}

/// Returns whether `extents` are legal for a file of `size` bytes with at least one hole: in order, not empty, not touching,
/// inside the file.
pub(super) fn extents_are_legal(size: u64, extents: impl Iterator<Item = Extent>) -> bool {
    let (mut end, mut is_first, mut covers_all) = (0, true, false);
    for extent in extents {
        let touches = if is_first { false } else { extent.offset <= end };
        let extent_end = extent.offset.checked_add(extent.length).filter(|end| *end <= size);
        match extent_end {
            Some(extent_end) if !touches && extent.length > 0 => end = extent_end,
            _ => return false,
        }
        covers_all = is_first && extent.offset == 0 && extent.length == size;
        is_first = false;
    }
    size > 0 && !covers_all
}
