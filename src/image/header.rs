//! Reads and writes the header of an image and its section table.
//!
//! *Not here*: what the sections mean (`column`, `view`).
//!
//! *Used by* `image::reader`, `image::outline`, `image::encode` and `image::verify`.

use super::layout::{
    BODY_ALIGNMENT, ENTRIES_MAX, HASH_SIZE, HEADER_SIZE, IMAGE_BLOCK, MAGIC, ROW_SIZE, SECTIONS_MAX, VERSION,
};
use super::{ImageError, Section};

/// The numbers of the header, checked against each other and against the length of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct ImageHeader {
    pub(crate) header_length: u64,
    /// Compatible and read-only feature bits together: an unknown section is legal only with an unknown bit.
    pub(crate) tolerated_features: u64,
    pub(crate) file_length: u64,
    pub(crate) content_bytes: u64,
    pub(crate) entries: u32,
    pub(crate) blocks: u32,
    pub(crate) sections: u32,
}

/// A row of the section table; the section may be unknown.
#[derive(Debug, Clone, Copy)]
pub(super) struct SectionRow {
    pub(crate) number: u32,
    pub(crate) element_size: u32,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl ImageHeader {
    /// Computes the header of an image with these sections, the last of which ends `body_length` bytes after the body's start.
    /// Returns `None` when a number does not fit.
    pub(crate) fn plan(entries: u32, content_bytes: u64, sections: u32, body_length: u64) -> Option<Self> {
        let blocks = u32::try_from(body_length.div_ceil(u64::from(IMAGE_BLOCK))).ok()?;
        let header_length = header_length(sections, blocks);
        u32::try_from(header_length).ok()?;
        let file_length = header_length.next_multiple_of(BODY_ALIGNMENT).checked_add(body_length)?;
        Some(Self { header_length, tolerated_features: 0, file_length, content_bytes, entries, blocks, sections })
    }

    /// Returns the position at which the body begins.
    pub(crate) const fn body(&self) -> u64 {
        self.header_length.next_multiple_of(BODY_ALIGNMENT)
    }

    /// Returns the position at which the block hash table begins.
    pub(crate) const fn hashes(&self) -> u64 {
        HEADER_SIZE + ROW_SIZE * self.sections as u64
    }

    /// Reads and checks the header; `bytes` is the whole image.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let header = Self::parse_start(bytes)?;
        if header.file_length == bytes.len() as u64 {
            Ok(header)
        } else {
            Err(ImageError::Header { field: "file length" })
        }
    }

    /// Reads and checks the header; `bytes` is the start of an image.
    pub(crate) fn parse_start(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.get(..8) != Some(&MAGIC[..]) || (bytes.len() as u64) < HEADER_SIZE {
            return Err(ImageError::NotAnImage);
        }
        let (version, features) = (u32_at(bytes, 8), u64_at(bytes, 32));
        if version != VERSION || features != 0 {
            return Err(ImageError::TooNew { version, features });
        }
        let header = Self {
            header_length: u64::from(u32_at(bytes, 12)),
            tolerated_features: u64_at(bytes, 16) | u64_at(bytes, 24),
            file_length: u64_at(bytes, 40),
            content_bytes: u64_at(bytes, 48),
            entries: u32_at(bytes, 56),
            blocks: u32_at(bytes, 64),
            sections: u32_at(bytes, 68),
        };
        let rules = [
            (u32_at(bytes, 60) == IMAGE_BLOCK, "block size"),
            (header.sections <= SECTIONS_MAX, "number of sections"),
            ((1..=ENTRIES_MAX).contains(&header.entries), "number of entries"),
            (header.header_length == header_length(header.sections, header.blocks), "length"),
            (header.body() <= header.file_length, "file length"),
        ];
        if let Some((_, field)) = rules.into_iter().find(|(holds, _)| !holds) {
            return Err(ImageError::Header { field });
        }
        let body_length = header.file_length - header.body();
        if u64::from(header.blocks) != body_length.div_ceil(u64::from(IMAGE_BLOCK)) {
            return Err(ImageError::Header { field: "number of blocks" });
        }
        Ok(header)
    }

    /// Encodes the header, followed by the section table.
    pub(crate) fn write(&self, rows: &[SectionRow]) -> Vec<u8> {
        let narrow = |value: u64| u32::try_from(value).expect("plan() checked that the header's length fits");
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&narrow(self.header_length).to_le_bytes());
        bytes.extend_from_slice(&[0; 24]); // no features yet
        bytes.extend_from_slice(&self.file_length.to_le_bytes());
        bytes.extend_from_slice(&self.content_bytes.to_le_bytes());
        for number in [self.entries, IMAGE_BLOCK, self.blocks, self.sections] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for row in rows {
            bytes.extend_from_slice(&row.number.to_le_bytes());
            bytes.extend_from_slice(&row.element_size.to_le_bytes());
            bytes.extend_from_slice(&row.offset.to_le_bytes());
            bytes.extend_from_slice(&row.length.to_le_bytes());
        }
        bytes
    }

    /// Returns the section table of the image this header was parsed from.
    pub(crate) fn rows(self, bytes: &[u8]) -> impl Iterator<Item = SectionRow> {
        let table = usize_of(HEADER_SIZE)..usize_of(self.hashes());
        bytes.get(table).unwrap_or_default().chunks_exact(usize_of(ROW_SIZE)).map(|row| SectionRow {
            number: u32_at(row, 0),
            element_size: u32_at(row, 4),
            offset: u64_at(row, 8),
            length: u64_at(row, 16),
        })
    }
}

impl SectionRow {
    /// Returns the end of the section, or an error when the section is not inside the body.
    pub(crate) fn end(&self, header: &ImageHeader) -> Result<u64, ImageError> {
        let end = self.offset.checked_add(self.length).filter(|end| *end <= header.file_length);
        match (end, Section::from_number(self.number)) {
            (Some(end), _) if self.offset >= header.body() => Ok(end),
            (_, Some(section)) => Err(ImageError::Section { section, fault: super::SectionFault::Position }),
            (_, None) => Err(ImageError::UnknownSection { number: self.number }),
        }
    }
}

const fn header_length(sections: u32, blocks: u32) -> u64 {
    HEADER_SIZE + ROW_SIZE * sections as u64 + HASH_SIZE * blocks as u64
}

/// Returns a position in a slice. A position beyond the address space saturates, so that the access to the slice fails.
pub(super) fn usize_of(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

/// Returns the number at a position. The caller has checked that the position exists.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
