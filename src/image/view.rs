//! The entries of an image by number: what each column says, checked as far as one entry can be.
//!
//! Works on bytes that may be hostile. The invariants that keep every walk finite are held here, at each access: a
//! child's number is above its directory's, an entry belongs to the one directory that its `parent` column names, and a
//! hard link leads to a smaller entry that is no directory. Callers are the operations of [`super::Image`] and the
//! checks of `verify`.

use std::ops::Range;

use super::column::{Rows, Sections};
use super::header::usize_of;
use super::layout::NO_OBJECT;
use super::presence::Bytes;
use super::{EntryFault, ImageError, Ino, Section};
use crate::model::{BLOCK_SIZE, EntryName, Extent, FileKind, LARGE_OBJECT, SYMLINK_MAX, Timestamp};

/// An image's bytes with the places of its sections.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub bytes: Bytes<'a>,
    pub sections: &'a Sections,
}

/// The error for a wrong entry.
#[cold]
pub(super) const fn wrong(section: Section, entry: u32, fault: EntryFault) -> ImageError {
    ImageError::Entry { section, entry, fault }
}

impl<'a> View<'a> {
    /// Number of entries, the root counted.
    #[inline]
    pub const fn entries(self) -> u32 {
        self.sections.entries
    }

    #[inline]
    pub fn mode(self, entry: u32) -> Result<u16, ImageError> {
        self.sections.mode.get(self.bytes, entry as usize)
    }

    #[inline]
    pub fn kind(self, entry: u32) -> Result<FileKind, ImageError> {
        let mode = u32::from(self.mode(entry)?);
        FileKind::from_mode(mode).ok_or(wrong(Section::Mode, entry, EntryFault::Kind))
    }

    #[inline]
    pub fn uid(self, entry: u32) -> Result<u32, ImageError> {
        self.sections.uid.get_or_zero(self.bytes, entry as usize)
    }

    #[inline]
    pub fn gid(self, entry: u32) -> Result<u32, ImageError> {
        self.sections.gid.get_or_zero(self.bytes, entry as usize)
    }

    #[inline]
    pub fn mtime(self, entry: u32) -> Result<Timestamp, ImageError> {
        let seconds = self.sections.mtime.get(self.bytes, entry as usize)?;
        let nanoseconds = self.sections.mtime_nanoseconds.get_or_zero(self.bytes, entry as usize)?;
        if nanoseconds >= 1_000_000_000 {
            return Err(wrong(Section::MtimeNanoseconds, entry, EntryFault::Time));
        }
        Ok(Timestamp { seconds, nanoseconds })
    }

    #[inline]
    pub fn size(self, entry: u32) -> Result<u64, ImageError> {
        self.sections.size.get(self.bytes, entry as usize)
    }

    #[inline]
    pub fn links(self, entry: u32) -> Result<u32, ImageError> {
        self.sections.links.get(self.bytes, entry as usize)
    }

    #[inline]
    pub fn data(self, entry: u32) -> Result<u64, ImageError> {
        self.sections.data.get(self.bytes, entry as usize)
    }

    /// The directory that holds `entry`; the root for the root.
    pub fn parent(self, entry: u32) -> Result<u32, ImageError> {
        let parent = self.sections.parent.get(self.bytes, entry as usize)?;
        let is_above = if entry == 0 { parent == 0 } else { parent < entry };
        if is_above && self.kind(parent)? == FileKind::Directory {
            Ok(parent)
        } else {
            Err(wrong(Section::Parent, entry, EntryFault::Parent))
        }
    }

    /// The name of `entry`, which may still be an illegal one.
    #[inline]
    pub fn raw_name(self, entry: u32) -> Result<&'a [u8], ImageError> {
        let offset = |index: usize| self.sections.name_offsets.get(self.bytes, index).map(|offset| offset as usize);
        let (start, end) = (offset(entry as usize)?, offset(entry as usize + 1)?);
        if start == end {
            return Ok(&[]);
        }
        Ok(self.sections.names.slice(self.bytes, start, end)?.as_bytes())
    }

    /// The name of `entry`, fit to be shown to others.
    #[inline]
    pub fn name(self, entry: u32) -> Result<&'a [u8], ImageError> {
        let name = self.raw_name(entry)?;
        match EntryName::check(name) {
            Ok(()) => Ok(name),
            Err(_) => Err(wrong(Section::Names, entry, EntryFault::Name)),
        }
    }

    /// The entries in the directory `directory`.
    #[inline]
    pub fn children(self, directory: u32) -> Result<Range<u32>, ImageError> {
        let data = self.data(directory)?;
        let (first, count) = (lower(data), upper(data));
        match first.checked_add(count) {
            Some(end) if first > directory && end <= self.entries() => Ok(first..end),
            _ => Err(wrong(Section::Data, directory, EntryFault::Children)),
        }
    }

    /// Fails unless `entry` says itself that it is in `directory`. Two directories cannot both pass, so that a walk
    /// down meets an entry once, whatever ranges a hostile image claims.
    #[inline]
    pub fn check_child(self, directory: u32, entry: u32) -> Result<(), ImageError> {
        if self.sections.parent.get(self.bytes, entry as usize)? == directory {
            Ok(())
        } else {
            Err(wrong(Section::Parent, entry, EntryFault::Parent))
        }
    }

    /// The entry in `children` with this name, by binary search.
    #[inline]
    pub fn search(self, children: Range<u32>, name: &[u8]) -> Result<Option<u32>, ImageError> {
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

    /// The entry that stands for the inode of `entry`: itself, unless it is a further name of a smaller one.
    #[inline]
    pub fn primary(self, entry: u32) -> Result<u32, ImageError> {
        if !self.sections.hard_links.is_present() || self.links(entry)? < 2 {
            return Ok(entry);
        }
        let mode = self.mode(entry)?;
        if u32::from(mode) & libc::S_IFMT == libc::S_IFDIR {
            return Ok(entry);
        }
        match self.sections.hard_links.find(self.bytes, entry)? {
            None => Ok(entry),
            // Equal modes: so the primary is no directory either.
            Some((_, primary)) if primary < entry && self.mode(primary)? == mode => Ok(primary),
            Some(_) => Err(wrong(Section::HardLinks, entry, EntryFault::HardLink)),
        }
    }

    /// The entry that stands for an inode asked for from outside.
    #[inline]
    pub fn inode(self, ino: Ino) -> Result<u32, ImageError> {
        if ino.entry() < self.entries() {
            self.primary(ino.entry())
        } else {
            Err(ImageError::NoSuchInode { ino: ino.get() })
        }
    }

    /// Like [`Self::inode`] for a question that only suits one kind.
    #[inline]
    pub fn inode_of_kind(self, ino: Ino, expected: FileKind) -> Result<u32, ImageError> {
        let entry = self.inode(ino)?;
        let found = self.kind(entry)?;
        if found == expected { Ok(entry) } else { Err(ImageError::WrongKind { ino: ino.get(), expected, found }) }
    }

    /// The target of the symbolic link `entry`.
    pub fn target(self, entry: u32) -> Result<&'a [u8], ImageError> {
        let (start, length) = (usize_of(self.data(entry)?), usize_of(self.size(entry)?));
        if !(1..=SYMLINK_MAX).contains(&length) {
            return Err(wrong(Section::Size, entry, EntryFault::Size));
        }
        let target = self.sections.targets.slice(self.bytes, start, start.saturating_add(length))?.as_bytes();
        if target.contains(&0) { Err(wrong(Section::Targets, entry, EntryFault::Target)) } else { Ok(target) }
    }

    /// The index of the object of the regular file `entry`; `None` when the file is empty.
    pub fn object_index(self, entry: u32) -> Result<Option<u32>, ImageError> {
        match self.data(entry)? {
            NO_OBJECT => Ok(None),
            index => match u32::try_from(index) {
                Ok(index) => Ok(Some(index)),
                Err(_) => Err(ImageError::OutOfRange { section: Section::Objects, row: index }),
            },
        }
    }

    /// The digests of the blocks of the regular file `entry`.
    pub fn blocks(self, entry: u32) -> Result<Rows<'a, [u8; 32]>, ImageError> {
        let size = self.size(entry)?;
        if size <= LARGE_OBJECT {
            return self.sections.blocks.slice(self.bytes, 0, 0);
        }
        let missing = || wrong(Section::LargeObjects, entry, EntryFault::Blocks);
        let object = self.object_index(entry)?.ok_or_else(missing)?;
        let (_, first) = self.sections.large_objects.find(self.bytes, object)?.ok_or_else(missing)?;
        let count = usize_of(size.div_ceil(BLOCK_SIZE));
        self.sections.blocks.slice(self.bytes, first as usize, (first as usize).saturating_add(count))
    }

    /// The extents of the regular file `entry`, unchecked; `None` when it has no holes.
    #[inline]
    pub fn extents(self, entry: u32) -> Result<Option<Rows<'a, Extent>>, ImageError> {
        let Some((row, first)) = self.sections.sparse.find(self.bytes, entry)? else { return Ok(None) };
        let end = if row + 1 < self.sections.sparse.len() {
            self.sections.sparse.get(self.bytes, row + 1)?.1 as usize
        } else {
            self.sections.extents.len()
        };
        self.sections.extents.slice(self.bytes, first as usize, end).map(Some)
    }
}

/// The first number of a `data` word that holds two.
pub(super) const fn lower(data: u64) -> u32 {
    (data & 0xffff_ffff) as u32
}

/// The second number of a `data` word that holds two.
pub(super) const fn upper(data: u64) -> u32 {
    (data >> 32) as u32
}

/// Whether `extents` are what the extents of a file of `size` bytes with at least one hole may be: in order, not empty,
/// not touching, inside.
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
