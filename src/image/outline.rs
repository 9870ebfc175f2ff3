//! What the start of an image tells about the rest: enough to fetch it in parts and to check each.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::header::{Header, usize_of};
use super::layout::{HASH_SIZE, IMAGE_BLOCK};
use super::{ImageError, Section};
use crate::model::ImageId;

/// Where a section is in the image's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionPlace {
    /// Which; `None` for one of a newer format, which may be ignored.
    pub section: Option<Section>,
    /// Its bytes.
    pub range: Range<u64>,
}

/// The header of an image with its tables, without the image.
#[derive(Debug, Clone)]
pub struct Outline {
    header: Header,
    id: ImageId,
    sections: Vec<SectionPlace>,
    hashes: Vec<u8>,
}

impl Outline {
    /// Reads the start of an image, which must hold the header and its tables.
    ///
    /// # Errors
    /// [`ImageError`] when it is no image's, or one of a newer format, or too short.
    pub fn parse(start: &[u8]) -> Result<Self, ImageError> {
        let header = Header::parse_start(start)?;
        let hashed = start.get(..usize_of(header.header_length)).ok_or(ImageError::Header { field: "length" })?;
        let mut sections = Vec::new();
        let mut end = header.body();
        for row in header.rows(start) {
            let range = row.offset..row.end(&header)?;
            if range.start < end {
                return Err(ImageError::Header { field: "section table" });
            }
            end = range.end;
            sections.push(SectionPlace { section: Section::from_number(row.number), range });
        }
        let hashes = hashed.get(usize_of(header.hashes())..).unwrap_or_default().to_vec();
        Ok(Self { header, id: ImageId::from_bytes(Sha256::digest(hashed).into()), sections, hashes })
    }

    /// The id of the image that starts like this.
    #[must_use]
    pub const fn id(&self) -> ImageId {
        self.id
    }

    /// Bytes of the header with its tables: those that the id covers.
    #[must_use]
    pub const fn header_length(&self) -> u64 {
        self.header.header_length
    }

    /// Where the blocks begin.
    #[must_use]
    pub const fn body(&self) -> u64 {
        self.header.body()
    }

    /// Bytes of the whole image.
    #[must_use]
    pub const fn file_length(&self) -> u64 {
        self.header.file_length
    }

    /// Number of entries, the root counted.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.header.entries
    }

    /// The sections, in file order, none overlapping another.
    #[must_use]
    pub fn sections(&self) -> &[SectionPlace] {
        &self.sections
    }

    /// Number of blocks.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.header.blocks
    }

    /// Where a block is in the image; its last one may be shorter than the others, and any after that is empty.
    #[must_use]
    pub fn block(&self, block: u32) -> Range<u64> {
        let start = self.body() + u64::from(block) * u64::from(IMAGE_BLOCK);
        start.min(self.file_length())..(start + u64::from(IMAGE_BLOCK)).min(self.file_length())
    }

    /// The block that holds a byte of the body.
    #[must_use]
    pub fn block_at(&self, offset: u64) -> u32 {
        u32::try_from(offset.saturating_sub(self.body()) / u64::from(IMAGE_BLOCK)).unwrap_or(u32::MAX)
    }

    /// Checks the bytes of one block.
    ///
    /// # Errors
    /// [`ImageError::Block`] when they are not those that the header names, or there is no such block.
    pub fn verify_block(&self, block: u32, bytes: &[u8]) -> Result<(), ImageError> {
        let at = usize_of(u64::from(block) * HASH_SIZE);
        match self.hashes.get(at..at.saturating_add(usize_of(HASH_SIZE))) {
            Some(expected) if *Sha256::digest(bytes) == *expected => Ok(()),
            _ => Err(ImageError::Block { block }),
        }
    }
}
