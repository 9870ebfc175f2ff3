//! A reversible rearrangement of an image's columns before compression; it keeps the length.
//!
//! A column of numbers is split into planes, all lowest bytes first, so that bytes which are always zero stand
//! together. Before that, ascending columns become differences, and `data` becomes differences to a prediction from the
//! entries before it: the children of a directory begin where those of the previous directory end, a file has the next
//! object, a link target follows the last. What the prediction gets right becomes zeros.
//!
//! *Invariants*: all arithmetic wraps: any bytes can be filtered and come back exactly, also those of an image that
//! breaks the rules of its format.
//!
//! *Used by* `encode`, `delta` and the reader of frames.

use std::ops::Range;

use super::{LAST_METADATA, to_index};
use crate::image::{Outline, Section};

/// How a range of the image is rearranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ColumnFilter {
    /// Not rearranged.
    Raw,
    /// Elements of this many bytes, in planes.
    Planes(usize),
    /// Elements of `fields` numbers with `width` bytes each: differences of each field, then planes.
    Differences { width: usize, fields: usize },
    /// The `data` column.
    Data,
}

const fn filter_of(section: Section) -> ColumnFilter {
    match section {
        Section::Uid | Section::Gid | Section::Links | Section::Xattrs => ColumnFilter::Planes(4),
        Section::Size => ColumnFilter::Planes(8),
        Section::Parent | Section::NameOffsets | Section::Directories => {
            ColumnFilter::Differences { width: 4, fields: 1 }
        }
        Section::XattrOffsets => ColumnFilter::Differences { width: 8, fields: 1 },
        Section::HardLinks | Section::Sparse | Section::LargeObjects => {
            ColumnFilter::Differences { width: 4, fields: 2 }
        }
        Section::Extents => ColumnFilter::Differences { width: 8, fields: 2 },
        Section::Data => ColumnFilter::Data,
        // Modes and times repeat as whole values: planes make them a tenth to a half larger.
        Section::Mode
        | Section::Mtime
        | Section::MtimeNanoseconds
        | Section::Names
        | Section::XattrSets
        | Section::Targets
        | Section::Objects
        | Section::Blocks
        | Section::Subtrees => ColumnFilter::Raw,
    }
}

/// Returns the ranges of the image between `from` and `to`, without gaps, in order. Sections and blocks begin at
/// multiples of 64 bytes, so no element is split.
fn pieces(outline: &Outline, from: u64, to: u64) -> Vec<(Range<usize>, ColumnFilter)> {
    let mut pieces = Vec::new();
    let is_inside = |wanted| {
        let mut places = outline.sections().iter().filter(|place| place.section == Some(wanted));
        places.all(|place| from <= place.range.start && place.range.end <= to)
    };
    let has_all_of_data = [Section::Mode, Section::Size, Section::Data].into_iter().all(is_inside);
    let mut at = from;
    for place in outline.sections() {
        let (start, end) = (place.range.start.clamp(at, to), place.range.end.clamp(at, to));
        if start > at {
            pieces.push((to_index(at)..to_index(start), ColumnFilter::Raw));
        }
        let filter = match place.section {
            // The prediction needs modes and sizes, which a reader of this range alone does not have.
            Some(Section::Data) if !has_all_of_data => ColumnFilter::Differences { width: 4, fields: 2 },
            Some(section) if section <= LAST_METADATA => filter_of(section),
            _ => ColumnFilter::Raw,
        };
        let length = to_index(end - start);
        let fits = match filter {
            ColumnFilter::Raw => true,
            ColumnFilter::Planes(size) => length.is_multiple_of(size),
            ColumnFilter::Differences { width, fields: lanes } => length.is_multiple_of(width * lanes),
            ColumnFilter::Data => length.is_multiple_of(8),
        };
        pieces.push((to_index(start)..to_index(end), if fits { filter } else { ColumnFilter::Raw }));
        at = end;
    }
    pieces.push((to_index(at)..to_index(to), ColumnFilter::Raw));
    pieces.retain(|(range, _)| !range.is_empty());
    pieces
}

/// Rearranges the bytes `from..to` of an image.
pub(super) fn apply(outline: &Outline, image: &[u8], from: u64, to: u64) -> Vec<u8> {
    let mut filtered = Vec::with_capacity(to_index(to - from));
    for (range, filter) in pieces(outline, from, to) {
        let bytes = &image[range];
        match filter {
            ColumnFilter::Raw => filtered.extend_from_slice(bytes),
            ColumnFilter::Planes(size) => to_planes(bytes, size, &mut filtered),
            ColumnFilter::Differences { width, fields: lanes } => {
                to_planes(&differences(bytes, width, lanes), width * lanes, &mut filtered);
            }
            ColumnFilter::Data => to_planes(&data_differences(outline, image, bytes), 8, &mut filtered),
        }
    }
    filtered
}

/// Reverses [`apply`]: fills the bytes `from..to` of `image` from as many `filtered` ones.
pub(super) fn undo(outline: &Outline, filtered: &[u8], image: &mut [u8], from: u64, to: u64) {
    for (range, filter) in pieces(outline, from, to) {
        let piece = &filtered[range.start - to_index(from)..range.end - to_index(from)];
        let bytes = match filter {
            ColumnFilter::Raw => piece.to_vec(),
            ColumnFilter::Planes(size) => from_planes(piece, size),
            ColumnFilter::Differences { width, fields: lanes } => sums(from_planes(piece, width * lanes), width, lanes),
            // `mode` and `size` come before `data` in an image, so they are filled in already.
            ColumnFilter::Data => data_sums(outline, image, &from_planes(piece, 8)),
        };
        image[range].copy_from_slice(&bytes);
    }
}

fn to_planes(bytes: &[u8], size: usize, planes: &mut Vec<u8>) {
    for plane in 0..size {
        planes.extend(bytes.iter().skip(plane).step_by(size));
    }
}

fn from_planes(planes: &[u8], size: usize) -> Vec<u8> {
    let count = planes.len() / size;
    let mut bytes = vec![0; planes.len()];
    for (plane, values) in planes.chunks_exact(count.max(1)).enumerate() {
        for (row, value) in values.iter().enumerate() {
            bytes[row * size + plane] = *value;
        }
    }
    bytes
}

/// Reads the number of `width` bytes at `at`.
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    bytes[at..at + width].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn differences(bytes: &[u8], width: usize, lanes: usize) -> Vec<u8> {
    let stride = width * lanes;
    let mut result = bytes.to_vec();
    for at in (stride..bytes.len()).step_by(width) {
        let difference = number(bytes, at, width).wrapping_sub(number(bytes, at - stride, width));
        result[at..at + width].copy_from_slice(&difference.to_le_bytes()[..width]);
    }
    result
}

fn sums(mut bytes: Vec<u8>, width: usize, lanes: usize) -> Vec<u8> {
    let stride = width * lanes;
    for at in (stride..bytes.len()).step_by(width) {
        let sum = number(&bytes, at, width).wrapping_add(number(&bytes, at - stride, width));
        bytes[at..at + width].copy_from_slice(&sum.to_le_bytes()[..width]);
    }
    bytes
}

/// A predictor of the next `data` of each kind of entry.
struct DataPredictor<'a> {
    modes: &'a [u8],
    sizes: &'a [u8],
    children: u64,
    object: u64,
    target: u64,
}

impl<'a> DataPredictor<'a> {
    fn new(outline: &Outline, image: &'a [u8]) -> Self {
        let section = |wanted| {
            let place = outline.sections().iter().find(|place| place.section == Some(wanted));
            place.map_or(&[][..], |place| &image[to_index(place.range.start)..to_index(place.range.end)])
        };
        Self { modes: section(Section::Mode), sizes: section(Section::Size), children: 1, object: 0, target: 0 }
    }

    /// Returns the value that is subtracted from `data` of `entry`.
    fn predict(&self, entry: usize) -> u64 {
        match self.kind(entry) {
            libc::S_IFDIR => self.children & 0xffff_ffff,
            libc::S_IFREG => self.object,
            libc::S_IFLNK => self.target,
            _ => 0,
        }
    }

    /// Updates the prediction with the `data` of `entry`.
    fn observe(&mut self, entry: usize, data: u64) {
        match self.kind(entry) {
            libc::S_IFDIR => self.children = (data & 0xffff_ffff).wrapping_add(data >> 32),
            // Repeated contents have lower numbers; the next new one is one more than the highest so far.
            libc::S_IFREG if data != u64::MAX => self.object = self.object.max(data.wrapping_add(1)),
            libc::S_IFLNK => self.target = data.wrapping_add(self.size(entry)),
            _ => {}
        }
    }

    fn kind(&self, entry: usize) -> u32 {
        let mode = self.modes.get(entry * 2..entry * 2 + 2).map_or(0, |mode| number(mode, 0, 2));
        u32::try_from(mode).unwrap_or(0) & libc::S_IFMT
    }

    fn size(&self, entry: usize) -> u64 {
        self.sizes.get(entry * 8..entry * 8 + 8).map_or(0, |size| number(size, 0, 8))
    }
}

fn data_differences(outline: &Outline, image: &[u8], data: &[u8]) -> Vec<u8> {
    let mut expected = DataPredictor::new(outline, image);
    let mut result = Vec::with_capacity(data.len());
    for entry in 0..data.len() / 8 {
        let value = number(data, entry * 8, 8);
        result.extend_from_slice(&value.wrapping_sub(expected.predict(entry)).to_le_bytes());
        expected.observe(entry, value);
    }
    result
}

fn data_sums(outline: &Outline, image: &[u8], differences: &[u8]) -> Vec<u8> {
    let mut expected = DataPredictor::new(outline, image);
    let mut result = Vec::with_capacity(differences.len());
    for entry in 0..differences.len() / 8 {
        let value = number(differences, entry * 8, 8).wrapping_add(expected.predict(entry));
        result.extend_from_slice(&value.to_le_bytes());
        expected.observe(entry, value);
    }
    result
}
