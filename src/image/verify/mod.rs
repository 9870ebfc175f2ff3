//! Checks a whole image: every block against its digest, then every rule of the format.
//!
//! There are three passes, each of which relies on the ones before it: the bytes are those that the id names (here), the
//! sections fill the file without a gap (here), the entries obey the rules (`entries`, `links`).
//!
//! *Invariants*: an image that passes is the one that [`encode`](super::encode()) would have written, so that one tree has one
//! image.
//!
//! *Used by* `store` for `fsck` and for images that were fetched in parts, and by `cache`, `remote` and `cli` for images from
//! elsewhere. A mount does not need it, since readers check what they read.

mod entries;
mod links;

use sha2::{Digest as _, Sha256};

use super::header::usize_of;
use super::layout::{HASH_SIZE, IMAGE_BLOCK, SECTION_ALIGNMENT};
use super::{Image, ImageError, Section, SectionFault};

impl Image {
    /// Checks the whole image. Reads all of it, and needs memory in proportion to it.
    ///
    /// # Errors
    /// [`ImageError`] with the first block, section or entry that is wrong.
    pub fn verify(&self) -> Result<(), ImageError> {
        for block in 0..self.block_count() {
            if !self.has_block(block) {
                return Err(ImageError::Absent { block });
            }
            self.verify_block(block)?;
        }
        self.verify_layout()?;
        entries::verify(self.view(), self.content_bytes())
    }

    /// Returns the number of blocks of 64 KiB, the units in which an image can be fetched and verified.
    pub(crate) const fn block_count(&self) -> u32 {
        self.header.blocks
    }

    /// Checks one block of the image against its digest in the header.
    ///
    /// # Errors
    /// [`ImageError::Block`] when it is damaged or there is no such block.
    pub(crate) fn verify_block(&self, block: u32) -> Result<(), ImageError> {
        let position = |start: u64, size: u64| start.saturating_add(size.saturating_mul(u64::from(block)));
        let start = position(self.header.body(), u64::from(IMAGE_BLOCK));
        let end = start.saturating_add(u64::from(IMAGE_BLOCK)).min(self.header.file_length);
        let hash = position(self.header.hashes(), HASH_SIZE);
        let content = self.bytes.get(usize_of(start)..usize_of(end));
        let expected = self.bytes.get(usize_of(hash)..usize_of(hash.saturating_add(HASH_SIZE)));
        match (content, expected) {
            (Some(content), Some(expected)) if block < self.header.blocks && *Sha256::digest(content) == *expected => {
                Ok(())
            }
            _ => Err(ImageError::Block { block }),
        }
    }

    /// Checks that the sections are where the format requires them, with only zeros between them.
    fn verify_layout(&self) -> Result<(), ImageError> {
        let mut end = self.header.header_length;
        let mut expected = self.header.body();
        for row in self.header.rows(&self.bytes) {
            let section = Section::from_number(row.number);
            if section.is_none() && self.header.tolerated_features == 0 {
                return Err(ImageError::UnknownSection { number: row.number });
            }
            if row.offset != expected || row.length == 0 {
                let section = section.ok_or(ImageError::UnknownSection { number: row.number })?;
                return Err(ImageError::Section { section, fault: SectionFault::Position });
            }
            self.verify_padding(end, row.offset)?;
            end = row.end(&self.header)?;
            expected = end.next_multiple_of(SECTION_ALIGNMENT);
        }
        if end == self.header.file_length { Ok(()) } else { Err(ImageError::Header { field: "file length" }) }
    }

    fn verify_padding(&self, start: u64, end: u64) -> Result<(), ImageError> {
        let padding = self.bytes.get(usize_of(start)..usize_of(end)).unwrap_or_default();
        if padding.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(ImageError::Padding { offset: start }) }
    }
}
