//! Names the content of a file: one digest of the whole, and one for each block when it is large.
//!
//! This is the only place that decides what a large object is and how it is cut.

use sha2::{Digest as _, Sha256};

use super::{BlockId, Content, ObjectId};

/// A content of more bytes than this also gets block digests, so that parts of it can be fetched and checked alone.
/// 1 MiB: files above it hold 73 % of the bytes of a Debian `/usr` and are under 1 % of its files.
pub const LARGE_OBJECT: u64 = 1 << 20;

/// Bytes in a block of a large object; the last one may be shorter. 256 KiB: large enough for a request over a
/// network to be worth its round trip, small enough that a 4 KiB read does not drag in a megabyte.
pub const BLOCK_SIZE: u64 = 256 << 10;

/// Hashes a content that arrives in order, whole and by block at once.
pub struct ContentHasher {
    whole: Sha256,
    block: Sha256,
    blocks: Vec<BlockId>,
    wants_blocks: bool,
    length: u64,
}

impl ContentHasher {
    /// Starts on a content that is expected to be `size` bytes long. The size only decides whether blocks are hashed;
    /// [`Self::finish`] fails when that decision turns out wrong.
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

    /// The next bytes of the content.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.whole.update(bytes);
        if !self.wants_blocks {
            self.length += bytes.len() as u64;
            return;
        }
        while !bytes.is_empty() {
            let room = BLOCK_SIZE - self.length % BLOCK_SIZE;
            let take = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
            self.block.update(&bytes[..take]);
            self.length += take as u64;
            bytes = &bytes[take..];
            if self.length.is_multiple_of(BLOCK_SIZE) {
                self.close_block();
            }
        }
    }

    /// The dense content that was hashed, or `None` when its length contradicts the size given at the start so that
    /// block digests are missing or superfluous.
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
    fn small_contents_have_no_blocks_and_empty_ones_no_object() {
        assert_eq!(content(b"", 1).object, None);
        let small = content(b"abc", 1);
        assert_eq!(small.object, Some(ObjectId::of(b"abc")));
        assert_eq!(small.blocks, []);
    }

    #[test]
    fn large_contents_are_cut_the_same_however_they_arrive() {
        let bytes: Vec<u8> = (0..LARGE_OBJECT as usize + 5).map(|i| (i % 251) as u8).collect();
        let expected: Vec<BlockId> = bytes.chunks(BLOCK_SIZE as usize).map(BlockId::of).collect();
        for step in [4093, BLOCK_SIZE as usize, bytes.len()] {
            let content = content(&bytes, step);
            assert_eq!(content.blocks, expected);
            assert_eq!(content.object, Some(ObjectId::of(&bytes)));
        }
    }

    #[test]
    fn a_wrong_announcement_is_noticed() {
        let mut hasher = ContentHasher::new(LARGE_OBJECT + 1);
        hasher.update(b"short");
        assert_eq!(hasher.finish(), None);
    }
}
