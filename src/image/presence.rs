//! Which blocks of an image are here: what makes half an image usable.
//!
//! An image that is being fetched is mapped at its full length while only some of its blocks hold what they should. Every
//! access of a column asks here first, so that nothing unverified is ever believed: a block is marked after its bytes were
//! checked against the header, and never unmarked. A complete image has no such map and pays one comparison.
//!
//! Not here: fetching and checking, which is `cache`'s.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ImageError;
use super::header::{Header, usize_of};
use super::layout::IMAGE_BLOCK;

/// Blocks in one word of the map.
const WORD: u32 = u64::BITS;

/// The blocks of one image that were verified. Shared between threads.
#[derive(Debug)]
pub struct Presence {
    body: usize,
    blocks: u32,
    words: Box<[AtomicU64]>,
}

impl Presence {
    /// No block is present of the image whose header, section table and block hashes are at the start of `bytes`, which
    /// are as long as the whole image.
    ///
    /// # Errors
    /// [`ImageError`] when the header is none.
    pub fn none_of(bytes: &[u8]) -> Result<Self, ImageError> {
        let header = Header::parse(bytes)?;
        let words = (0..header.blocks.div_ceil(WORD)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { body: usize_of(header.body()), blocks: header.blocks, words })
    }

    /// Number of blocks, present or not.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Whether the block is here.
    #[must_use]
    pub fn has(&self, block: u32) -> bool {
        self.words
            .get((block / WORD) as usize)
            .is_some_and(|word| word.load(Ordering::Acquire) & 1 << (block % WORD) != 0)
    }

    /// Marks a block whose bytes are in place and were verified: see [`super::Image::verify_block`].
    pub fn mark(&self, block: u32) {
        debug_assert!(block < self.blocks);
        if let Some(word) = self.words.get((block / WORD) as usize) {
            word.fetch_or(1 << (block % WORD), Ordering::Release);
        }
    }

    /// How many blocks are not here.
    #[must_use]
    pub fn missing(&self) -> u32 {
        let present: u32 = self.words.iter().map(|word| word.load(Ordering::Acquire).count_ones()).sum();
        self.blocks.saturating_sub(present)
    }

    /// Where a block is in the image's file; its last one may be shorter than the others.
    #[must_use]
    pub fn place(&self, block: u32, file_length: u64) -> Range<u64> {
        let start = self.body as u64 + u64::from(block) * u64::from(IMAGE_BLOCK);
        start.min(file_length)..(start + u64::from(IMAGE_BLOCK)).min(file_length)
    }

    /// Fails with the first block of the bytes `from..to` that is not here.
    fn check(&self, from: usize, to: usize) -> Result<(), ImageError> {
        let block = |at: usize| u32::try_from(at.saturating_sub(self.body) / IMAGE_BLOCK as usize).unwrap_or(u32::MAX);
        if from == to {
            return Ok(());
        }
        match (block(from)..=block(to - 1)).find(|block| !self.has(*block)) {
            None => Ok(()),
            Some(block) => Err(ImageError::Absent { block }),
        }
    }
}

/// The bytes of an image, as far as they are here.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    all: &'a [u8],
    presence: Option<&'a Presence>,
}

impl<'a> Bytes<'a> {
    /// Bytes that are all here.
    pub const fn complete(all: &'a [u8]) -> Self {
        Self { all, presence: None }
    }

    /// Bytes of which `presence` says what is here.
    pub const fn partial(all: &'a [u8], presence: Option<&'a Presence>) -> Self {
        Self { all, presence }
    }

    /// The bytes `from..to`; `None` when the image does not reach that far.
    #[inline]
    pub fn range(self, from: usize, to: usize) -> Result<Option<&'a [u8]>, ImageError> {
        if let Some(presence) = self.presence {
            presence.check(from, to)?;
        }
        Ok(self.all.get(from..to))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::{Image, Ino, Tree, encode};
    use crate::model::{EntryName, Metadata, Node, NodeKind, ObjectId};
    use crate::sys::Mapping;

    /// Large enough for each section to have blocks of its own.
    fn example() -> (Vec<u8>, u32) {
        let mut tree = Tree::new(Metadata::default());
        for number in 0..20_000_u32 {
            let content = crate::model::Content {
                object: Some(ObjectId::of(&number.to_le_bytes())),
                size: 4,
                ..Default::default()
            };
            let node = Node { metadata: Metadata::default(), kind: NodeKind::Regular(content) };
            let name = EntryName::new(format!("a-rather-long-name-{number:06}").as_bytes()).expect("legal");
            tree.insert(tree.root(), name, node).expect("new");
        }
        let bytes = encode(&tree).expect("legal").bytes;
        let blocks = Presence::none_of(&bytes).expect("an image").blocks();
        (bytes, blocks)
    }

    #[test]
    fn answers_come_as_soon_as_their_blocks_are_there_and_not_before() {
        let (bytes, blocks) = example();
        assert!(blocks > 6, "{blocks}");
        let presence = Arc::new(Presence::none_of(&bytes).expect("an image"));
        let whole = Image::open(Mapping::of_bytes(bytes.clone())).expect("an image");
        let partial = Image::open_partial(Mapping::of_bytes(bytes), Arc::clone(&presence)).expect("an image");
        assert_eq!(partial.id(), whole.id());
        let mut fetched = Vec::new();
        let found = loop {
            match partial.lookup(Ino::ROOT, b"a-rather-long-name-019999") {
                Err(ImageError::Absent { block }) => {
                    assert!(!presence.has(block));
                    presence.mark(block);
                    fetched.push(block);
                }
                other => break other.expect("no damage"),
            }
        };
        assert_eq!(Ok(found), whole.lookup(Ino::ROOT, b"a-rather-long-name-019999"));
        assert!(fetched.len() < blocks as usize);
        assert_eq!(presence.missing() as usize, blocks as usize - fetched.len());
        let ino = found.expect("is there");
        assert!(matches!(partial.object(ino), Err(ImageError::Absent { .. })));
        assert!(matches!(partial.objects().map(|_| ()), Err(ImageError::Absent { .. })));
        assert!(partial.present_objects().count() < 20_000);
        (0..blocks).for_each(|block| presence.mark(block));
        assert_eq!(partial.present_objects().count(), 20_000);
        assert!(partial.present_objects().eq(whole.objects().expect("whole")));
        partial.verify().expect("all blocks are what they should be");
    }

    #[test]
    fn an_image_of_which_nothing_is_here_never_guesses() {
        let (bytes, _) = example();
        let presence = Arc::new(Presence::none_of(&bytes).expect("an image"));
        let partial = Image::open_partial(Mapping::of_bytes(bytes), presence).expect("an image");
        assert!(matches!(partial.attributes(Ino::ROOT), Err(ImageError::Absent { .. })));
        assert!(matches!(partial.tree().map(|_| ()), Err(ImageError::Absent { .. })));
        assert!(matches!(partial.verify(), Err(ImageError::Absent { .. })));
    }
}
