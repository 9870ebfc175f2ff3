//! Computes the digests of a file's content: one of the whole, and one of each block when the content is large.
//!
//! *Invariants*: this is the only place that decides what a large object is and how it is divided into blocks.
//!
//! *Used by* `store`, which adds contents, and by every layer that handles large objects.

use sha2::{Digest as _, Sha256};

use super::{BlockId, Content, ObjectId};

/// A content of more bytes than this also has block digests, so that parts of it can be fetched and verified separately.
/// 1 MiB: files above it hold 73 % of the bytes of a Debian `/usr` and are under 1 % of its files.
pub const LARGE_OBJECT: u64 = 1 << 20;

/// Bytes in a block of a large object; the last block may be shorter. 256 KiB are enough for a request over a network to be
/// worth its round trip, and few enough that a 4 KiB read does not fetch a megabyte.
pub const BLOCK_SIZE: u64 = 256 << 10;

/// Hashes a content that is given in order: the whole and each block in one pass.
pub struct ContentHasher {
    whole: Sha256,
    block: Sha256,
    blocks: Vec<BlockId>,
    wants_blocks: bool,
    length: u64,
}

impl ContentHasher {
    /// Creates a hasher for a content that is expected to have `size` bytes. The size only decides whether blocks are hashed;
    /// [`Self::finish`] fails when the decision turns out to be wrong.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            whole: Sha256::new(),
            block: Sha256::new(),
            blocks: Vec::new(),
            wants_blocks: size > LARGE_OBJECT,
            length: 0,
        }
    }

    /// Adds the next bytes of the content.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        if !self.wants_blocks {
            self.length += bytes.len() as u64;
            return;
        }
        while !bytes.is_empty() {
            let left = BLOCK_SIZE - self.length % BLOCK_SIZE;
            let take = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.block.update(&bytes[..take]);
            self.length += take as u64;
            bytes = &bytes[take..];
            if self.length.is_multiple_of(BLOCK_SIZE) {
                self.close_block();
            }
        }
    }

    /// Returns the dense content that was hashed, or `None` when its length contradicts the expected size so that block digests
    /// are missing or superfluous.
    #[must_use]
    pub fn finish(mut self) -> Option<Content> {
        if self.wants_blocks != (self.length > LARGE_OBJECT) {
            return None;
        }
        if self.wants_blocks && !self.length.is_multiple_of(BLOCK_SIZE) {
            self.close_block();
        }
        let object = (self.length > 0).then(|| ObjectId::from_bytes(self.whole.finalize().into()));
        Some(Content { object, size: self.length, blocks: self.blocks, extents: None })
    }

    fn close_block(&mut self) {
        self.blocks.push(BlockId::from_bytes(self.block.finalize_reset().into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(bytes: &[u8], step: usize) -> Content {
        let mut hasher = ContentHasher::new(bytes.len() as u64);
        bytes.chunks(step.max(1)).for_each(|chunk| hasher.update(chunk));
        hasher.finish().expect("the announced size is the real one")
    }

    #[test]
    fn small_content_has_no_blocks_and_empty_content_no_object() {
        assert_eq!(content(b"", 1).object, None);
        let small = content(b"abc", 1);
        assert_eq!(small.object, Some(ObjectId::of(b"abc")));
        assert_eq!(small.blocks, []);
    }

    #[test]
    fn large_content_has_the_same_blocks_for_any_chunk_size() {
        let bytes: Vec<u8> = (0..LARGE_OBJECT as usize + 5).map(|i| (i % 251) as u8).collect();
        let expected: Vec<BlockId> = bytes.chunks(BLOCK_SIZE as usize).map(BlockId::of).collect();
        for step in [4093, BLOCK_SIZE as usize, bytes.len()] {
            let content = content(&bytes, step);
            assert_eq!(content.blocks, expected);
            assert_eq!(content.object, Some(ObjectId::of(&bytes)));
        }
    }

    #[test]
    fn finish_fails_when_the_expected_size_was_wrong() {
        let mut hasher = ContentHasher::new(LARGE_OBJECT + 1);
        hasher.update(b"short");
        assert_eq!(hasher.finish(), None);
    }
}
