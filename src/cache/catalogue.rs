//! What each frame holds: the locator read the other way round, with the sizes that the image states.
//!
//! Frames are known by their numbers in one locator. Whatever is kept by such numbers is kept here, so that it goes when another
//! locator takes the place of this one.

use std::ops::Range;

use parking_lot::Mutex;

use super::ahead::Ahead;
use super::flight::Flights;
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, LocatorId};
use crate::remote::format::{Frame, Locator, Spot};

/// A locator and what follows from it.
pub(super) struct Catalogue {
    id: LocatorId,
    locator: Locator,
    sizes: Vec<u64>,
    /// Objects that share frames or have one, by frame and offset.
    small: Vec<(Spot, u32)>,
    /// First frame, number of frames, and number of each large object, by first frame.
    large: Vec<(u32, u32, u32)>,
    /// Fetches under way, by frame.
    pub flights: Flights<u32>,
    /// What was read and what is fetched ahead of it, by frame.
    pub ahead: Mutex<Ahead>,
}

/// A piece of content inside an unpacked frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// The whole of an object.
    Object {
        /// Its number in the image.
        index: u32,
        /// Where it is in the frame.
        range: Range<usize>,
    },
    /// A block of a large object: the whole frame.
    Block {
        /// The object's number in the image.
        index: u32,
        /// Which block.
        block: u32,
    },
}

impl Catalogue {
    /// Of the locator `id` for an image whose objects have `sizes`.
    pub fn new(id: LocatorId, locator: Locator, sizes: Vec<u64>) -> Self {
        let (mut small, mut large) = (Vec::new(), Vec::new());
        for (index, &size) in (0_u32..).zip(&sizes) {
            let Some(spot) = locator.object(index) else { continue };
            if size > LARGE_OBJECT {
                let blocks = u32::try_from(size.div_ceil(BLOCK_SIZE)).unwrap_or(u32::MAX);
                large.push((spot.frame, blocks, index));
            } else {
                small.push((spot, index));
            }
        }
        small.sort_unstable_by_key(|(spot, _)| (spot.frame, spot.offset));
        large.sort_unstable();
        Self { id, locator, sizes, small, large, flights: Flights::default(), ahead: Mutex::default() }
    }

    /// The name of its locator.
    pub const fn id(&self) -> LocatorId {
        self.id
    }

    pub const fn locator(&self) -> &Locator {
        &self.locator
    }

    /// One frame, by its number.
    pub fn frame(&self, number: u32) -> Option<Frame> {
        self.locator.frame(number)
    }

    /// Number of frames.
    pub fn frames(&self) -> u32 {
        u32::try_from(self.locator.frames().len()).unwrap_or(u32::MAX)
    }

    /// The sizes of all objects, by number.
    pub fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// The frames with the bytes `offset..offset + length` of an object; `None` when the locator does not say.
    pub fn frames_of(&self, index: u32, offset: u64, length: u64) -> Option<Range<u32>> {
        let first = self.locator.object(index)?.frame;
        let size = *self.sizes.get(index as usize)?;
        if size <= LARGE_OBJECT {
            return Some(first..first.checked_add(1)?);
        }
        let block = |at: u64| u32::try_from(at / BLOCK_SIZE).ok();
        let last = offset.saturating_add(length.max(1)).min(size).saturating_sub(1);
        let range = first.checked_add(block(offset)?)?..first.checked_add(block(last)?)?.checked_add(1)?;
        (range.end <= self.frames()).then_some(range)
    }

    /// What the frame holds of this image. A frame may hold more, of other images.
    pub fn pieces(&self, number: u32) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let first = self.small.partition_point(|(spot, _)| spot.frame < number);
        for (spot, index) in self.small[first..].iter().take_while(|(spot, _)| spot.frame == number) {
            let start = spot.offset as usize;
            let size = self.sizes.get(*index as usize).copied().unwrap_or(0);
            let end = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(start);
            pieces.push(Piece::Object { index: *index, range: start..end });
        }
        let after = self.large.partition_point(|(start, ..)| *start <= number);
        if let Some((start, blocks, index)) = after.checked_sub(1).map(|at| self.large[at])
            && number - start < blocks
        {
            pieces.push(Piece::Block { index, block: number - start });
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PackId;
    use crate::remote::format::{LocatorBound, LocatorBuilder};

    #[test]
    fn frames_lead_to_their_pieces_and_pieces_to_their_frames() {
        let mut builder = LocatorBuilder::new();
        let pack = builder.pack(PackId::of(b"pack"), 1 << 30);
        for number in 0..10_u32 {
            builder.frame(Frame { pack, offset: 16 + number * 100, length: 100, raw_length: 1 << 18 });
        }
        // Not in the order of frames: a profile came first. Frame 0 also holds something of another image.
        for (frame, offset) in [(7, 0), (0, 500), (1, 0), (0, 100), (9, 0)] {
            builder.object(Spot { frame, offset });
        }
        let sizes = vec![100, 20, 5 * BLOCK_SIZE + 1, 50, 1000];
        let bound = LocatorBound::new(sizes.iter().copied());
        let bytes = builder.finish().expect("memory");
        let locator = Locator::parse(&bytes, bound).expect("sound");
        let catalogue = Catalogue::new(LocatorId::of(&bytes), locator, sizes);
        let object = |index, range| Piece::Object { index, range };
        assert_eq!(catalogue.pieces(0), [object(3, 100..150), object(1, 500..520)]);
        for block in 0..6 {
            assert_eq!(catalogue.pieces(1 + block), [Piece::Block { index: 2, block }]);
        }
        assert_eq!(catalogue.pieces(7), [object(0, 0..100)]);
        assert_eq!(catalogue.pieces(8), []);
        assert_eq!(catalogue.frames_of(1, 0, 20), Some(0..1));
        assert_eq!(catalogue.frames_of(2, BLOCK_SIZE - 1, 2), Some(1..3));
        assert_eq!(catalogue.frames_of(2, 5 * BLOCK_SIZE, 1 << 40), Some(6..7));
        assert_eq!(catalogue.frames_of(5, 0, 1), None);
    }
}
