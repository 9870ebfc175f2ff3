//! The catalogue of a commit's frames: which frame holds which objects and blocks, and the reverse.
//!
//! It is made from the locator and from the sizes of objects in the image. Frames are numbered within one locator. All state
//! that is kept by these numbers belongs to the catalogue, so that it is dropped together with the locator.
//!
//! *Not here*: I/O.
//!
//! *Used by* `fetch`, `objects` and `readahead`.

use std::ops::Range;

use parking_lot::Mutex;

use crate::cache::fetch::in_flight::InFlight;
use crate::cache::readahead::predictor::ReadAheadPlanner;
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, LocatorId};
use crate::remote::format::{Locator, ObjectPosition, PackFrame};

/// A locator with an index from frames to objects, and the state of its frames.
pub(in crate::cache) struct Catalogue {
    id: LocatorId,
    locator: Locator,
    sizes: Vec<u64>,
    /// Small objects, which share a frame or have one to themselves, by frame and offset.
    small: Vec<(ObjectPosition, u32)>,
    /// First frame, number of frames, and object number of each large object, by first frame.
    large: Vec<(u32, u32, u32)>,
    /// The running fetches, by frame.
    pub(crate) in_flight: InFlight<u32>,
    /// Which frames were read, and which are fetched ahead.
    pub(crate) read_ahead: Mutex<ReadAheadPlanner>,
}

/// A piece of content inside a decompressed frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cache) enum FramePiece {
    /// A whole object.
    Object {
        /// Its number in the image.
        index: u32,
        /// Its bytes in the frame.
        range: Range<usize>,
    },
    /// A block of a large object, which has a frame to itself.
    Block {
        /// The object's number in the image.
        index: u32,
        /// The number of the block in the object.
        block: u32,
    },
}

impl Catalogue {
    /// Creates the catalogue of the locator `id` for an image whose objects have `sizes`.
    pub(crate) fn new(id: LocatorId, locator: Locator, sizes: Vec<u64>) -> Self {
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
        Self { id, locator, sizes, small, large, in_flight: InFlight::default(), read_ahead: Mutex::default() }
    }

    /// Returns the id of the locator.
    pub(crate) const fn id(&self) -> LocatorId {
        self.id
    }

    pub(crate) const fn locator(&self) -> &Locator {
        &self.locator
    }

    /// Returns the frame with this number.
    pub(crate) fn frame(&self, number: u32) -> Option<PackFrame> {
        self.locator.frame(number)
    }

    /// Returns the number of frames.
    pub(crate) fn frame_count(&self) -> u32 {
        u32::try_from(self.locator.frames().len()).unwrap_or(u32::MAX)
    }

    /// Returns the sizes of all objects, by object number.
    pub(crate) fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// Returns the frames with the bytes `offset..offset + length` of an object; `None` if the locator does not contain them.
    pub(crate) fn frames_of(&self, index: u32, offset: u64, length: u64) -> Option<Range<u32>> {
        let first = self.locator.object(index)?.frame;
        let size = *self.sizes.get(index as usize)?;
        if size <= LARGE_OBJECT {
            return Some(first..first.checked_add(1)?);
        }
        let block = |at: u64| u32::try_from(at / BLOCK_SIZE).ok();
        let last = offset.saturating_add(length.max(1)).min(size).saturating_sub(1);
        let range = first.checked_add(block(offset)?)?..first.checked_add(block(last)?)?.checked_add(1)?;
        (range.end <= self.frame_count()).then_some(range)
    }

    /// Returns the pieces of this image in a frame, which may also hold objects of other images.
    pub(crate) fn pieces(&self, number: u32) -> Vec<FramePiece> {
        let mut pieces = Vec::new();
        let first = self.small.partition_point(|(spot, _)| spot.frame < number);
        for (spot, index) in self.small[first..].iter().take_while(|(spot, _)| spot.frame == number) {
            let start = spot.offset as usize;
            let size = self.sizes.get(*index as usize).copied().unwrap_or(0);
            let end = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(start);
            pieces.push(FramePiece::Object { index: *index, range: start..end });
        }
        let after = self.large.partition_point(|(start, ..)| *start <= number);
        if let Some((start, blocks, index)) = after.checked_sub(1).map(|at| self.large[at])
            && number - start < blocks
        {
            pieces.push(FramePiece::Block { index, block: number - start });
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
        let pack = builder.add_pack(PackId::of(b"pack"), 1 << 30);
        for number in 0..10_u32 {
            builder.add_frame(PackFrame { pack, offset: 16 + number * 100, length: 100, raw_length: 1 << 18 });
        }
        // Objects are not in the order of frames, as if a profile was published first. Frame 0 also holds an object of
        // another image.
        for (frame, offset) in [(7, 0), (0, 500), (1, 0), (0, 100), (9, 0)] {
            builder.add_object(ObjectPosition { frame, offset });
        }
        let sizes = vec![100, 20, 5 * BLOCK_SIZE + 1, 50, 1000];
        let bound = LocatorBound::new(sizes.iter().copied());
        let bytes = builder.finish().expect("memory");
        let locator = Locator::parse(&bytes, bound).expect("sound");
        let catalogue = Catalogue::new(LocatorId::of(&bytes), locator, sizes);
        let object = |index, range| FramePiece::Object { index, range };
        assert_eq!(catalogue.pieces(0), [object(3, 100..150), object(1, 500..520)]);
        for block in 0..6 {
            assert_eq!(catalogue.pieces(1 + block), [FramePiece::Block { index: 2, block }]);
        }
        assert_eq!(catalogue.pieces(7), [object(0, 0..100)]);
        assert_eq!(catalogue.pieces(8), []);
        assert_eq!(catalogue.frames_of(1, 0, 20), Some(0..1));
        assert_eq!(catalogue.frames_of(2, BLOCK_SIZE - 1, 2), Some(1..3));
        assert_eq!(catalogue.frames_of(2, 5 * BLOCK_SIZE, 1 << 40), Some(6..7));
        assert_eq!(catalogue.frames_of(5, 0, 1), None);
    }
}
