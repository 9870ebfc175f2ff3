//! Reads the start of an image, which is enough to fetch the rest in blocks and to verify each block.
//!
//! *Used by* `remote`, which publishes images in this form and fetches them by blocks.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::header::{ImageHeader, usize_of};
use super::layout::{HASH_SIZE, IMAGE_BLOCK};
use super::{ImageError, Section};
use crate::model::ImageId;

/// The position of a section in the image's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SectionRange {
    /// The section; `None` for one of a newer format, which may be ignored.
    pub(crate) section: Option<Section>,
    /// The positions of its bytes in the file.
    pub(crate) range: Range<u64>,
}

/// The header of an image with its tables, without the body.
#[derive(Debug, Clone)]
pub struct Outline {
    header: ImageHeader,
    id: ImageId,
    sections: Vec<SectionRange>,
    hashes: Vec<u8>,
}

impl Outline {
    /// Parses the start of an image, which must hold the header and its tables.
    ///
    /// # Errors
    /// [`ImageError`] when the bytes are not the start of an image, of a newer format, or too few.
    pub fn parse(start: &[u8]) -> Result<Self, ImageError> {
        let header = ImageHeader::parse_start(start)?;
        let hashed = start.get(..usize_of(header.header_length)).ok_or(ImageError::Header { field: "length" })?;
        let mut sections = Vec::new();
        let mut end = header.body();
        for row in header.rows(start) {
            let range = row.offset..row.end(&header)?;
            if range.start < end {
                return Err(ImageError::Header { field: "section table" });
            }
            end = range.end;
            sections.push(SectionRange { section: Section::from_number(row.number), range });
        }
        let hashes = hashed.get(usize_of(header.hashes())..).unwrap_or_default().to_vec();
        Ok(Self { header, id: ImageId::from_bytes(Sha256::digest(hashed).into()), sections, hashes })
    }

    /// Returns the id of the image.
    #[must_use]
    pub const fn id(&self) -> ImageId {
        self.id
    }

    /// Returns the number of bytes of the header with its tables, which are the bytes that the id covers.
    pub(crate) const fn header_length(&self) -> u64 {
        self.header.header_length
    }

    /// Returns the position at which the body, and so the first block, begins.
    pub(crate) const fn body(&self) -> u64 {
        self.header.body()
    }

    /// Returns the number of bytes of the whole image.
    #[must_use]
    pub const fn file_length(&self) -> u64 {
        self.header.file_length
    }

    /// Returns the sections, in file order; none overlaps another.
    pub(crate) fn sections(&self) -> &[SectionRange] {
        &self.sections
    }

    /// Returns the number of blocks.
    pub(crate) const fn blocks(&self) -> u32 {
        self.header.blocks
    }

    /// Returns the positions of a block's bytes in the image. The last block may be shorter than the others; the range of a
    /// block after the last one is empty.
    #[must_use]
    pub fn block(&self, block: u32) -> Range<u64> {
        let start = self.body() + u64::from(block) * u64::from(IMAGE_BLOCK);
        start.min(self.file_length())..(start + u64::from(IMAGE_BLOCK)).min(self.file_length())
    }

    /// Returns the block that holds the byte at `offset` of the image.
    pub(crate) fn block_at(&self, offset: u64) -> u32 {
        u32::try_from(offset.saturating_sub(self.body()) / u64::from(IMAGE_BLOCK)).unwrap_or(u32::MAX)
    }

    /// Checks the bytes of one block.
    ///
    /// # Errors
    /// [`ImageError::Block`] when they do not have the digest in the header, or there is no such block.
    pub(crate) fn verify_block(&self, block: u32, bytes: &[u8]) -> Result<(), ImageError> {
        let at = usize_of(u64::from(block) * HASH_SIZE);
        match self.hashes.get(at..at.saturating_add(usize_of(HASH_SIZE))) {
            Some(expected) if *Sha256::digest(bytes) == *expected => Ok(()),
            _ => Err(ImageError::Block { block }),
        }
    }
}
