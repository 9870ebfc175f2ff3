//! Where the sections of an opened image are, and checked access to their elements.
//!
//! Sections are resolved once, at opening; after that an element costs one comparison and one load. Nothing here knows
//! what an element means.

use std::marker::PhantomData;

use super::header::{Header, usize_of};
use super::presence::Bytes;
use super::{ImageError, Section, SectionFault};
use crate::model::Extent;

/// A value of fixed width as it stands in a section.
pub(super) trait Element: Copy {
    /// Its width in bytes.
    const SIZE: usize;

    /// What an absent zero-optional column holds.
    const ZERO: Self;

    /// Reads it from a slice of exactly that width.
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! integer_element {
    ($($integer:ty),*) => {$(
        impl Element for $integer {
            const SIZE: usize = size_of::<Self>();
            const ZERO: Self = 0;

            #[inline]
            fn read(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self::from_le_bytes)
            }
        }
    )*};
}

integer_element!(u8, u16, u32, u64, i64);

impl Element for [u8; 32] {
    const SIZE: usize = 32;
    const ZERO: Self = [0; 32];

    #[inline]
    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }
}

/// A row of two numbers: a key and what it leads to.
impl Element for (u32, u32) {
    const SIZE: usize = 8;
    const ZERO: Self = (0, 0);

    #[inline]
    fn read(bytes: &[u8]) -> Option<Self> {
        let (key, value) = bytes.split_at_checked(4)?;
        Some((u32::read(key)?, u32::read(value)?))
    }
}

impl Element for Extent {
    const SIZE: usize = 16;
    const ZERO: Self = Self { offset: 0, length: 0 };

    #[inline]
    fn read(bytes: &[u8]) -> Option<Self> {
        let (offset, length) = bytes.split_at_checked(8)?;
        Some(Self { offset: u64::read(offset)?, length: u64::read(length)? })
    }
}

/// The place of one section. An absent section has no elements.
pub(super) struct Column<T> {
    section: Section,
    /// Zero when absent: no section lies over the header.
    start: usize,
    count: usize,
    element: PhantomData<T>,
}

impl<T> Clone for Column<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Column<T> {}

impl<T: Element> Column<T> {
    #[inline]
    pub const fn is_present(self) -> bool {
        self.start != 0
    }

    #[inline]
    pub const fn len(self) -> usize {
        self.count
    }

    /// The element at `index`.
    #[inline]
    pub fn get(self, bytes: Bytes<'_>, index: usize) -> Result<T, ImageError> {
        if index < self.count {
            // Cannot overflow: resolve() found the section's end inside the file.
            let at = self.start + index * T::SIZE;
            if let Some(value) = bytes.range(at, at + T::SIZE)?.and_then(T::read) {
                return Ok(value);
            }
        }
        Err(self.out_of_range(index))
    }

    /// The element at `index` of a zero-optional column.
    #[inline]
    pub fn get_or_zero(self, bytes: Bytes<'_>, index: usize) -> Result<T, ImageError> {
        if self.is_present() { self.get(bytes, index) } else { Ok(T::ZERO) }
    }

    /// The elements from `from` up to but without `to`.
    #[inline]
    pub fn slice(self, bytes: Bytes<'_>, from: usize, to: usize) -> Result<Rows<'_, T>, ImageError> {
        if from <= to && to <= self.count {
            let bytes = bytes.range(self.start + from * T::SIZE, self.start + to * T::SIZE)?;
            if let Some(bytes) = bytes {
                return Ok(Rows { bytes, element: PhantomData });
            }
        }
        Err(self.out_of_range(to))
    }

    /// All elements.
    pub fn all(self, bytes: Bytes<'_>) -> Result<Rows<'_, T>, ImageError> {
        self.slice(bytes, 0, self.count)
    }

    /// The number of leading elements that are `before`, in a section whose elements are in order. In one whose elements
    /// are not, some number up to the count.
    #[inline]
    pub fn partition_point(self, bytes: Bytes<'_>, before: impl Fn(T) -> bool) -> Result<usize, ImageError> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.get(bytes, middle)?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    #[cold]
    fn out_of_range(self, index: usize) -> ImageError {
        ImageError::OutOfRange { section: self.section, row: index as u64 }
    }
}

impl Column<(u32, u32)> {
    /// The position of the row with this key and the value beside it.
    #[inline]
    pub fn find(self, bytes: Bytes<'_>, key: u32) -> Result<Option<(usize, u32)>, ImageError> {
        if !self.is_present() {
            return Ok(None);
        }
        let row = self.partition_point(bytes, |(found, _)| found < key)?;
        if row == self.count {
            return Ok(None);
        }
        let (found, value) = self.get(bytes, row)?;
        Ok((found == key).then_some((row, value)))
    }
}

/// Some consecutive elements of a section.
pub(super) struct Rows<'a, T> {
    bytes: &'a [u8],
    element: PhantomData<T>,
}

impl<T> Clone for Rows<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<'_, T> {}

impl<'a> Rows<'a, u8> {
    pub const fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a, T: Element + 'a> Rows<'a, T> {
    pub const fn len(self) -> usize {
        self.bytes.len() / T::SIZE
    }

    pub fn get(self, index: usize) -> Option<T> {
        let at = index.checked_mul(T::SIZE)?;
        self.bytes.get(at..at.checked_add(T::SIZE)?).and_then(T::read)
    }

    pub fn iter(self) -> impl ExactSizeIterator<Item = T> + Clone + 'a {
        self.bytes.chunks_exact(T::SIZE).map(|bytes| T::read(bytes).unwrap_or(T::ZERO))
    }
}

/// The places of all sections of an image.
#[derive(Clone)]
pub(super) struct Sections {
    pub entries: u32,
    pub mode: Column<u16>,
    pub uid: Column<u32>,
    pub gid: Column<u32>,
    pub mtime: Column<i64>,
    pub mtime_nanoseconds: Column<u32>,
    pub size: Column<u64>,
    pub links: Column<u32>,
    pub parent: Column<u32>,
    pub data: Column<u64>,
    pub name_offsets: Column<u32>,
    pub names: Column<u8>,
    pub xattrs: Column<u32>,
    pub xattr_offsets: Column<u64>,
    pub xattr_sets: Column<u8>,
    pub targets: Column<u8>,
    pub hard_links: Column<(u32, u32)>,
    pub directories: Column<u32>,
    pub sparse: Column<(u32, u32)>,
    pub extents: Column<Extent>,
    pub objects: Column<[u8; 32]>,
    pub large_objects: Column<(u32, u32)>,
    pub blocks: Column<[u8; 32]>,
    pub subtrees: Column<[u8; 32]>,
}

impl Sections {
    /// Finds the sections of an image whose header is `header` and checks that each is inside the file, as long as it
    /// must be, and clear of the others.
    pub fn resolve(bytes: &[u8], header: &Header) -> Result<Self, ImageError> {
        let places = Places::read(bytes, header)?;
        Ok(Self {
            entries: header.entries,
            mode: places.column(Section::Mode),
            uid: places.column(Section::Uid),
            gid: places.column(Section::Gid),
            mtime: places.column(Section::Mtime),
            mtime_nanoseconds: places.column(Section::MtimeNanoseconds),
            size: places.column(Section::Size),
            links: places.column(Section::Links),
            parent: places.column(Section::Parent),
            data: places.column(Section::Data),
            name_offsets: places.column(Section::NameOffsets),
            names: places.column(Section::Names),
            xattrs: places.column(Section::Xattrs),
            xattr_offsets: places.column(Section::XattrOffsets),
            xattr_sets: places.column(Section::XattrSets),
            targets: places.column(Section::Targets),
            hard_links: places.column(Section::HardLinks),
            directories: places.column(Section::Directories),
            sparse: places.column(Section::Sparse),
            extents: places.column(Section::Extents),
            objects: places.column(Section::Objects),
            large_objects: places.column(Section::LargeObjects),
            blocks: places.column(Section::Blocks),
            subtrees: places.column(Section::Subtrees),
        })
    }
}

/// Start and length of each known section, by its number; zeros for an absent one.
struct Places([(usize, usize); Section::ALL.len() + 1]);

impl Places {
    fn read(bytes: &[u8], header: &Header) -> Result<Self, ImageError> {
        let mut places = Self([(0, 0); Section::ALL.len() + 1]);
        let (mut last_number, mut last_end) = (0, header.body());
        for row in header.rows(bytes) {
            let end = row.end(header)?;
            let section = Section::from_number(row.number);
            if row.number <= last_number || row.offset < last_end {
                return Err(match section {
                    Some(section) => ImageError::Section { section, fault: SectionFault::Position },
                    None => ImageError::UnknownSection { number: row.number },
                });
            }
            (last_number, last_end) = (row.number, end);
            let Some(section) = section else { continue };
            let width = u64::from(section.element_size());
            let fixed = section.fixed_count(header.entries);
            let fits = row.length > 0
                && row.element_size == section.element_size()
                && row.length.is_multiple_of(width)
                && fixed.is_none_or(|count| count == row.length / width);
            if !fits {
                return Err(ImageError::Section { section, fault: SectionFault::Length });
            }
            // The section is inside the file, and the file is in memory: both fit.
            places.0[section.number() as usize] = (usize_of(row.offset), usize_of(row.length));
        }
        let absent = |section: &Section| section.is_required() && places.0[section.number() as usize].0 == 0;
        match Section::ALL.into_iter().find(absent) {
            Some(section) => Err(ImageError::Section { section, fault: SectionFault::Presence }),
            None => Ok(places),
        }
    }

    fn column<T: Element>(&self, section: Section) -> Column<T> {
        debug_assert_eq!(section.element_size() as usize, T::SIZE);
        let (start, length) = self.0[section.number() as usize];
        Column { section, start, count: length / T::SIZE, element: PhantomData }
    }
}
