//! Records which blocks of an image are present, so that an incomplete image can be read.
//!
//! An image that is being fetched is mapped at its full length, while only some of its blocks have their bytes. A complete
//! image has no such map; for it the check costs one comparison.
//!
//! *Not here*: fetching and verifying blocks (`cache`).
//!
//! *Invariants*: every access to a column checks the map first. A block is marked after its bytes were verified against the
//! header, and is never unmarked; so unverified bytes are never used.
//!
//! *Used by* `image::column`, and by `cache`, which marks the blocks.

use std::sync::atomic::{AtomicU64, Ordering};

use super::ImageError;
use super::header::{ImageHeader, usize_of};
use super::layout::IMAGE_BLOCK;

/// Blocks in one word of the map.
const BLOCKS_PER_WORD: u32 = u64::BITS;

/// The set of blocks of one image that are present and verified. Shared between threads.
#[derive(Debug)]
pub(crate) struct Presence {
    body: usize,
    blocks: u32,
    words: Box<[AtomicU64]>,
}

impl Presence {
    /// Creates the set without any block, for the image whose header, section table and block hashes are at the start of
    /// `bytes`, which are as long as the whole image.
    ///
    /// # Errors
    /// [`ImageError`] when the header is not valid.
    pub(crate) fn empty_for(bytes: &[u8]) -> Result<Self, ImageError> {
        let header = ImageHeader::parse(bytes)?;
        let words = (0..header.blocks.div_ceil(BLOCKS_PER_WORD)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { body: usize_of(header.body()), blocks: header.blocks, words })
    }

    /// Returns the number of blocks, present or not.
    pub(crate) const fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Returns whether the block is present.
    pub(crate) fn has(&self, block: u32) -> bool {
        self.words
            .get((block / BLOCKS_PER_WORD) as usize)
            .is_some_and(|word| word.load(Ordering::Acquire) & 1 << (block % BLOCKS_PER_WORD) != 0)
    }

    /// Marks a block as present. Its bytes must be in place and verified: see [`super::Image::verify_block`].
    pub(crate) fn mark(&self, block: u32) {
        debug_assert!(block < self.blocks);
        if let Some(word) = self.words.get((block / BLOCKS_PER_WORD) as usize) {
            word.fetch_or(1 << (block % BLOCKS_PER_WORD), Ordering::Release);
        }
    }

    /// Returns the number of blocks that are not present.
    pub(crate) fn missing_count(&self) -> u32 {
        let present: u32 = self.words.iter().map(|word| word.load(Ordering::Acquire).count_ones()).sum();
        self.blocks.saturating_sub(present)
    }

    /// Fails with the first block of the bytes `from..to` that is not present.
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

/// The bytes of an image, of which only those of present blocks can be read.
#[derive(Clone, Copy)]
pub(super) struct ImageBytes<'a> {
    all: &'a [u8],
    presence: Option<&'a Presence>,
}

impl<'a> ImageBytes<'a> {
    /// Wraps the bytes of a complete image.
    pub(crate) const fn complete(all: &'a [u8]) -> Self {
        Self { all, presence: None }
    }

    /// Wraps the bytes of an image of which only the blocks in `presence` are present, or all if that is `None`.
    pub(crate) const fn partial(all: &'a [u8], presence: Option<&'a Presence>) -> Self {
        Self { all, presence }
    }

    /// Returns the bytes `from..to`; `None` when the image does not reach that far.
    #[inline]
    pub(crate) fn range(self, from: usize, to: usize) -> Result<Option<&'a [u8]>, ImageError> {
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

    /// Returns an image large enough for each section to have blocks of its own, and its number of blocks.
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
        let blocks = Presence::empty_for(&bytes).expect("an image").blocks();
        (bytes, blocks)
    }

    /// Returns the objects whose ids are present, in order.
    fn present_objects(image: &Image) -> impl Iterator<Item = ObjectId> + '_ {
        (0..image.object_count()).filter_map(|index| image.object_by_index(index).ok())
    }

    #[test]
    fn partial_image_answers_when_the_needed_blocks_are_present() {
        let (bytes, blocks) = example();
        assert!(blocks > 6, "{blocks}");
        let presence = Arc::new(Presence::empty_for(&bytes).expect("an image"));
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
        assert_eq!(presence.missing_count() as usize, blocks as usize - fetched.len());
        let ino = found.expect("exists");
        assert!(matches!(partial.object(ino), Err(ImageError::Absent { .. })));
        assert!(matches!(partial.objects().map(|_| ()), Err(ImageError::Absent { .. })));
        assert!(present_objects(&partial).count() < 20_000);
        (0..blocks).for_each(|block| presence.mark(block));
        assert_eq!(present_objects(&partial).count(), 20_000);
        assert!(present_objects(&partial).eq(whole.objects().expect("whole")));
        partial.verify().expect("all blocks are present and intact");
    }

    #[test]
    fn image_without_blocks_answers_every_access_with_absent() {
        let (bytes, _) = example();
        let presence = Arc::new(Presence::empty_for(&bytes).expect("an image"));
        let partial = Image::open_partial(Mapping::of_bytes(bytes), presence).expect("an image");
        assert!(matches!(partial.attributes(Ino::ROOT), Err(ImageError::Absent { .. })));
        assert!(matches!(partial.tree().map(|_| ()), Err(ImageError::Absent { .. })));
        assert!(matches!(partial.verify(), Err(ImageError::Absent { .. })));
    }
}
