//! Columns made small: a reversible rearrangement before compression, which keeps the length.
//!
//! A column of numbers is split into planes, all lowest bytes first, so that bytes which are always zero stand together. Before
//! that, columns that ascend are turned into differences, and `data` into differences to what follows from the entries
//! before it: the children of a directory begin where those of the directory before end, a file has the next object, a
//! target follows the last. What follows from a rule becomes zeros.
//!
//! All arithmetic wraps: any bytes can be filtered and come back exactly, also those of an image that breaks its rules.

use std::ops::Range;

use super::{LAST_HOT, index};
use crate::image::{Outline, Section};

/// How a piece of the image is rearranged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Not at all.
    Raw,
    /// Elements of so many bytes, in planes.
    Planes(usize),
    /// Elements made of `lanes` numbers of `width` bytes: differences in each lane, then planes.
    Differences { width: usize, lanes: usize },
    /// The `data` column.
    Data,
}

const fn filter_of(section: Section) -> Filter {
    match section {
        Section::Uid | Section::Gid | Section::Links | Section::Xattrs => Filter::Planes(4),
        Section::Size => Filter::Planes(8),
        Section::Parent | Section::NameOffsets | Section::Directories => Filter::Differences { width: 4, lanes: 1 },
        Section::XattrOffsets => Filter::Differences { width: 8, lanes: 1 },
        Section::HardLinks | Section::Sparse | Section::LargeObjects => Filter::Differences { width: 4, lanes: 2 },
        Section::Extents => Filter::Differences { width: 8, lanes: 2 },
        Section::Data => Filter::Data,
        // Modes and times repeat as wholes: planes make them a tenth to a half larger.
        Section::Mode
        | Section::Mtime
        | Section::MtimeNanoseconds
        | Section::Names
        | Section::XattrSets
        | Section::Targets
        | Section::Objects
        | Section::Blocks
        | Section::Subtrees => Filter::Raw,
    }
}

/// The pieces of the image between `from` and `to`, without gap, in order. Sections begin at multiples of 64 bytes and so do
/// blocks, so that no element is cut.
fn pieces(outline: &Outline, from: u64, to: u64) -> Vec<(Range<usize>, Filter)> {
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
            pieces.push((index(at)..index(start), Filter::Raw));
        }
        let filter = match place.section {
            // It is predicted from modes and sizes: a reader of this piece alone has no others.
            Some(Section::Data) if !has_all_of_data => Filter::Differences { width: 4, lanes: 2 },
            Some(section) if section <= LAST_HOT => filter_of(section),
            _ => Filter::Raw,
        };
        let length = index(end - start);
        let fits = match filter {
            Filter::Raw => true,
            Filter::Planes(size) => length.is_multiple_of(size),
            Filter::Differences { width, lanes } => length.is_multiple_of(width * lanes),
            Filter::Data => length.is_multiple_of(8),
        };
        pieces.push((index(start)..index(end), if fits { filter } else { Filter::Raw }));
        at = end;
    }
    pieces.push((index(at)..index(to), Filter::Raw));
    pieces.retain(|(range, _)| !range.is_empty());
    pieces
}

/// Rearranges the bytes `from..to` of an image.
pub(super) fn apply(outline: &Outline, image: &[u8], from: u64, to: u64) -> Vec<u8> {
    let mut filtered = Vec::with_capacity(index(to - from));
    for (range, filter) in pieces(outline, from, to) {
        let bytes = &image[range];
        match filter {
            Filter::Raw => filtered.extend_from_slice(bytes),
            Filter::Planes(size) => to_planes(bytes, size, &mut filtered),
            Filter::Differences { width, lanes } => {
                to_planes(&differences(bytes, width, lanes), width * lanes, &mut filtered);
            }
            Filter::Data => to_planes(&data_differences(outline, image, bytes), 8, &mut filtered),
        }
    }
    filtered
}

/// The inverse of [`apply`]: fills the bytes `from..to` of `image` from as many `filtered` ones.
pub(super) fn undo(outline: &Outline, filtered: &[u8], image: &mut [u8], from: u64, to: u64) {
    for (range, filter) in pieces(outline, from, to) {
        let piece = &filtered[range.start - index(from)..range.end - index(from)];
        let bytes = match filter {
            Filter::Raw => piece.to_vec(),
            Filter::Planes(size) => from_planes(piece, size),
            Filter::Differences { width, lanes } => sums(from_planes(piece, width * lanes), width, lanes),
            // `mode` and `size` stand before `data` in an image, so they are filled in by now.
            Filter::Data => data_sums(outline, image, &from_planes(piece, 8)),
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

/// What the next `data` of each kind is expected to be.
struct Expected<'a> {
    modes: &'a [u8],
    sizes: &'a [u8],
    children: u64,
    object: u64,
    target: u64,
}

impl<'a> Expected<'a> {
    fn new(outline: &Outline, image: &'a [u8]) -> Self {
        let section = |wanted| {
            let place = outline.sections().iter().find(|place| place.section == Some(wanted));
            place.map_or(&[][..], |place| &image[index(place.range.start)..index(place.range.end)])
        };
        Self { modes: section(Section::Mode), sizes: section(Section::Size), children: 1, object: 0, target: 0 }
    }

    /// The value that is subtracted from `data` of `entry`.
    fn prediction(&self, entry: usize) -> u64 {
        match self.kind(entry) {
            libc::S_IFDIR => self.children & 0xffff_ffff,
            libc::S_IFREG => self.object,
            libc::S_IFLNK => self.target,
            _ => 0,
        }
    }

    /// Takes notice of the `data` of `entry`.
    fn learn(&mut self, entry: usize, data: u64) {
        match self.kind(entry) {
            libc::S_IFDIR => self.children = (data & 0xffff_ffff).wrapping_add(data >> 32),
            // Repeated contents lead back; the next new one is one more than the most so far.
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
    let mut expected = Expected::new(outline, image);
    let mut result = Vec::with_capacity(data.len());
    for entry in 0..data.len() / 8 {
        let value = number(data, entry * 8, 8);
        result.extend_from_slice(&value.wrapping_sub(expected.prediction(entry)).to_le_bytes());
        expected.learn(entry, value);
    }
    result
}

fn data_sums(outline: &Outline, image: &[u8], differences: &[u8]) -> Vec<u8> {
    let mut expected = Expected::new(outline, image);
    let mut result = Vec::with_capacity(differences.len());
    for entry in 0..differences.len() / 8 {
        let value = number(differences, entry * 8, 8).wrapping_add(expected.prediction(entry));
        result.extend_from_slice(&value.to_le_bytes());
        expected.learn(entry, value);
    }
    result
}
