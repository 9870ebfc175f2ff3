//! The positions of the sections of an opened image, and bounds-checked access to their elements.
//!
//! Sections are located once, when the image is opened; after that an access to an element costs one comparison and one load.
//!
//! *Not here*: what an element means (`view`).
//!
//! *Used by* `image::view` and the other readers of this folder.

use std::marker::PhantomData;

use super::header::{ImageHeader, usize_of};
use super::presence::ImageBytes;
use super::{ImageError, Section, SectionFault};
use crate::model::Extent;

/// A value of fixed width in a section.
pub(super) trait Element: Copy {
    /// The width in bytes.
    const SIZE: usize;

    /// The value of every element of an absent zero-optional column.
    const ZERO: Self;

    /// Reads a value from a slice of exactly that width.
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

/// A row of two numbers: a key and its value.
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

/// The position of one section. An absent section has no elements.
pub(super) struct Column<T> {
    section: Section,
    /// Zero when the section is absent: no section begins inside the header.
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
    pub(crate) const fn is_present(self) -> bool {
        self.start != 0
    }

    #[inline]
    pub(crate) const fn len(self) -> usize {
        self.count
    }

    /// Returns the element at `index`.
    #[inline]
    pub(crate) fn get(self, bytes: ImageBytes<'_>, index: usize) -> Result<T, ImageError> {
        if index < self.count {
            // This cannot overflow: resolve() checked that the section ends inside the file.
            let at = self.start + index * T::SIZE;
            if let Some(value) = bytes.range(at, at + T::SIZE)?.and_then(T::read) {
                return Ok(value);
            }
        }
        Err(self.out_of_range(index))
    }

    /// Returns the element at `index` of a zero-optional column.
    #[inline]
    pub(crate) fn get_or_zero(self, bytes: ImageBytes<'_>, index: usize) -> Result<T, ImageError> {
        if self.is_present() { self.get(bytes, index) } else { Ok(T::ZERO) }
    }

    /// Returns the elements from `from` up to, but not including, `to`.
    #[inline]
    pub(crate) fn slice(self, bytes: ImageBytes<'_>, from: usize, to: usize) -> Result<Rows<'_, T>, ImageError> {
        if from <= to && to <= self.count {
            let bytes = bytes.range(self.start + from * T::SIZE, self.start + to * T::SIZE)?;
            if let Some(bytes) = bytes {
                return Ok(Rows { bytes, element: PhantomData });
            }
        }
        Err(self.out_of_range(to))
    }

    /// Returns all elements.
    pub(crate) fn all(self, bytes: ImageBytes<'_>) -> Result<Rows<'_, T>, ImageError> {
        self.slice(bytes, 0, self.count)
    }

    /// Returns the number of leading elements for which `before` holds, in a section whose elements are in order. In a section
    /// whose elements are not in order, the result is some number up to the count.
    #[inline]
    pub(crate) fn partition_point(
        self,
        bytes: ImageBytes<'_>,
        before: impl Fn(T) -> bool,
    ) -> Result<usize, ImageError> {
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
    /// Returns the position of the row with this key, and the row's value.
    #[inline]
    pub(crate) fn find(self, bytes: ImageBytes<'_>, key: u32) -> Result<Option<(usize, u32)>, ImageError> {
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
    pub(crate) const fn as_bytes(self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a, T: Element + 'a> Rows<'a, T> {
    pub(crate) const fn len(self) -> usize {
        self.bytes.len() / T::SIZE
    }

    pub(crate) fn iter(self) -> impl ExactSizeIterator<Item = T> + Clone + 'a {
        self.bytes.chunks_exact(T::SIZE).map(|bytes| T::read(bytes).unwrap_or(T::ZERO))
    }
}

/// The positions of all sections of an image.
#[derive(Clone)]
pub(super) struct Sections {
    pub(crate) entries: u32,
    pub(crate) mode: Column<u16>,
    pub(crate) uid: Column<u32>,
    pub(crate) gid: Column<u32>,
    pub(crate) mtime: Column<i64>,
    pub(crate) mtime_nanoseconds: Column<u32>,
    pub(crate) size: Column<u64>,
    pub(crate) links: Column<u32>,
    pub(crate) parent: Column<u32>,
    pub(crate) data: Column<u64>,
    pub(crate) name_offsets: Column<u32>,
    pub(crate) names: Column<u8>,
    pub(crate) xattrs: Column<u32>,
    pub(crate) xattr_offsets: Column<u64>,
    pub(crate) xattr_sets: Column<u8>,
    pub(crate) targets: Column<u8>,
    pub(crate) hard_links: Column<(u32, u32)>,
    pub(crate) directories: Column<u32>,
    pub(crate) sparse: Column<(u32, u32)>,
    pub(crate) extents: Column<Extent>,
    pub(crate) objects: Column<[u8; 32]>,
    pub(crate) large_objects: Column<(u32, u32)>,
    pub(crate) blocks: Column<[u8; 32]>,
    pub(crate) subtrees: Column<[u8; 32]>,
}

impl Sections {
    /// Locates the sections of an image whose header is `header`, and checks that each is inside the file, has the required
    /// length, and does not overlap another.
    pub(crate) fn resolve(bytes: &[u8], header: &ImageHeader) -> Result<Self, ImageError> {
        let table = SectionTable::read(bytes, header)?;
        Ok(Self {
            entries: header.entries,
            mode: table.column(Section::Mode),
            uid: table.column(Section::Uid),
            gid: table.column(Section::Gid),
            mtime: table.column(Section::Mtime),
            mtime_nanoseconds: table.column(Section::MtimeNanoseconds),
            size: table.column(Section::Size),
            links: table.column(Section::Links),
            parent: table.column(Section::Parent),
            data: table.column(Section::Data),
            name_offsets: table.column(Section::NameOffsets),
            names: table.column(Section::Names),
            xattrs: table.column(Section::Xattrs),
            xattr_offsets: table.column(Section::XattrOffsets),
            xattr_sets: table.column(Section::XattrSets),
            targets: table.column(Section::Targets),
            hard_links: table.column(Section::HardLinks),
            directories: table.column(Section::Directories),
            sparse: table.column(Section::Sparse),
            extents: table.column(Section::Extents),
            objects: table.column(Section::Objects),
            large_objects: table.column(Section::LargeObjects),
            blocks: table.column(Section::Blocks),
            subtrees: table.column(Section::Subtrees),
        })
    }
}

/// The start and length of each known section, by its number; zeros for an absent one.
struct SectionTable([(usize, usize); Section::ALL.len() + 1]);

impl SectionTable {
    fn read(bytes: &[u8], header: &ImageHeader) -> Result<Self, ImageError> {
        let mut table = Self([(0, 0); Section::ALL.len() + 1]);
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
            table.0[section.number() as usize] = (usize_of(row.offset), usize_of(row.length));
        }
        let absent = |section: &Section| section.is_required() && table.0[section.number() as usize].0 == 0;
        match Section::ALL.into_iter().find(absent) {
            Some(section) => Err(ImageError::Section { section, fault: SectionFault::Presence }),
            None => Ok(table),
        }
    }

    fn column<T: Element>(&self, section: Section) -> Column<T> {
        debug_assert_eq!(section.element_size() as usize, T::SIZE);
        let (start, length) = self.0[section.number() as usize];
        Column { section, start, count: length / T::SIZE, element: PhantomData }
    }
}
