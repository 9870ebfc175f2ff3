//! Checks a whole image: every block against its digest, then every rule of the format.
//!
//! Three passes, each relying on the ones before it: the bytes are those that the id names (here), the sections fill the
//! file without a gap (here), the entries obey the rules (`entries`, `links`). What passes is what
//! [`encode`](super::encode()) would have written, so that one tree has one image. The store calls this for what comes
//! from outside and `fsck` for what is here; a mount does not need it, since readers check what they touch.

mod entries;
mod links;

use sha2::{Digest as _, Sha256};

use super::header::usize_of;
use super::layout::{HASH_SIZE, IMAGE_BLOCK, SECTION_ALIGNMENT};
use super::{Image, ImageError, Section, SectionFault};

impl Image {
    /// Checks everything. Reads the whole image, and needs memory in proportion to it.
    ///
    /// # Errors
    /// [`ImageError`] naming the first block, section or entry found to be wrong.
    pub fn verify(&self) -> Result<(), ImageError> {
        for block in 0..self.blocks_of_image() {
            if !self.has_block(block) {
                return Err(ImageError::Absent { block });
            }
            self.verify_block(block)?;
        }
        self.verify_layout()?;
        entries::verify(self.view(), self.content_bytes())
    }

    /// Number of blocks of 64 KiB, the units in which an image can be fetched and checked.
    #[must_use]
    pub const fn blocks_of_image(&self) -> u32 {
        self.header.blocks
    }

    /// Checks one block of the image against its digest in the header.
    ///
    /// # Errors
    /// [`ImageError::Block`] when it is damaged or there is no such block.
    pub fn verify_block(&self, block: u32) -> Result<(), ImageError> {
        let place = |start: u64, size: u64| start.saturating_add(size.saturating_mul(u64::from(block)));
        let start = place(self.header.body(), u64::from(IMAGE_BLOCK));
        let end = start.saturating_add(u64::from(IMAGE_BLOCK)).min(self.header.file_length);
        let hash = place(self.header.hashes(), HASH_SIZE);
        let content = self.bytes.get(usize_of(start)..usize_of(end));
        let expected = self.bytes.get(usize_of(hash)..usize_of(hash.saturating_add(HASH_SIZE)));
        match (content, expected) {
            (Some(content), Some(expected)) if block < self.header.blocks && *Sha256::digest(content) == *expected => {
                Ok(())
            }
            _ => Err(ImageError::Block { block }),
        }
    }

    /// Checks that the sections follow each other as the format says, with nothing hidden between them.
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
