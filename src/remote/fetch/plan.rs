//! From missing objects to frames and requests. Pure.
//!
//! A locator is a stranger's word: whatever it says is checked against the image before a byte is asked for, so that no
//! frame can lead beyond the objects that the image names. Called by `pull`, before anything is written.

use std::ops::Range;

use super::ranges::{self, Request};
use crate::image::ObjectUse;
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, ObjectId, PackId};
use crate::remote::format::{Frame, Locator};

/// Why objects cannot be found by a locator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The locator contradicts the image.
    #[error("the locator has no place for object {id} of {size} bytes")]
    Place {
        /// The object.
        id: ObjectId,
        /// Its length in bytes.
        size: u64,
    },
    /// The locator is longer than one of the image can be.
    #[error("it names a locator that is longer than one of this image can be")]
    Length,
}

/// Which frames to fetch, by which requests, and which objects are in them.
#[derive(Debug, Default)]
pub struct FetchPlan {
    pub(super) objects: Vec<ObjectUse>,
    pub(super) pieces: Vec<Piece>,
    pub(super) frames: Vec<Frame>,
    /// For each frame, which of the pieces it holds.
    pub(super) contents: Vec<Range<usize>>,
    pub(super) requests: Vec<Request>,
    pub(super) packs: Vec<PackId>,
}

/// A piece of an object in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Piece {
    /// A whole object of the plan, from this offset of the frame.
    Whole { object: u32, offset: u32 },
    /// The frame is one block of a large object.
    Block { object: u32, block: u32 },
}

impl Piece {
    const fn object(self) -> u32 {
        match self {
            Self::Whole { object, .. } | Self::Block { object, .. } => object,
        }
    }
}

impl FetchPlan {
    /// The way to `missing` objects.
    ///
    /// # Errors
    /// [`PlanError`] when the locator cannot be for that image.
    pub fn new(locator: &Locator, missing: Vec<ObjectUse>) -> Result<Self, PlanError> {
        let mut placed = Vec::with_capacity(missing.len());
        for (number, object) in (0..).zip(&missing) {
            place(locator, object, number, &mut placed).ok_or(PlanError::Place { id: object.id, size: object.size })?;
        }
        placed.sort_unstable_by_key(|(frame, piece)| (frame.pack, frame.offset, frame.length, *piece));
        let mut plan = Self { objects: missing, ..Self::default() };
        for (frame, piece) in placed {
            if plan.frames.last() != Some(&frame) {
                let overlaps = |last: &Frame| last.pack == frame.pack && last.end() > u64::from(frame.offset);
                if plan.frames.last().is_some_and(overlaps) {
                    let object = plan.objects[piece.object() as usize];
                    return Err(PlanError::Place { id: object.id, size: object.size });
                }
                plan.frames.push(frame);
                plan.contents.push(plan.pieces.len()..plan.pieces.len());
            }
            plan.pieces.push(piece);
            if let Some(contents) = plan.contents.last_mut() {
                contents.end = plan.pieces.len();
            }
        }
        plan.requests = ranges::requests(&plan.frames);
        plan.packs = locator.packs().iter().map(|pack| pack.id).collect();
        Ok(plan)
    }

    /// A plan of objects that come in another way, for what counts and keeps them.
    pub(super) fn of_objects(objects: Vec<ObjectUse>) -> Self {
        Self { objects, ..Self::default() }
    }

    /// Whether there is nothing to fetch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Number of requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Bytes that the requests ask for.
    #[must_use]
    pub fn download_bytes(&self) -> u64 {
        self.requests.iter().map(|request| request.range.end - request.range.start).sum()
    }

    /// Number of objects.
    #[must_use]
    pub fn objects(&self) -> u64 {
        self.objects.len() as u64
    }
}

/// Adds where the pieces of `object` are; `None` when the locator does not know, or says what cannot be.
fn place(locator: &Locator, object: &ObjectUse, number: u32, placed: &mut Vec<(Frame, Piece)>) -> Option<()> {
    let spot = locator.object(object.index)?;
    if object.size <= LARGE_OBJECT {
        let frame = locator.frame(spot.frame)?;
        let end = u64::from(spot.offset).checked_add(object.size)?;
        if end > u64::from(frame.raw_length) {
            return None;
        }
        placed.push((frame, Piece::Whole { object: number, offset: spot.offset }));
        return Some(());
    }
    for block in 0..u32::try_from(object.size.div_ceil(BLOCK_SIZE)).ok()? {
        let frame = locator.frame(spot.frame.checked_add(block)?)?;
        let length = (object.size - u64::from(block) * BLOCK_SIZE).min(BLOCK_SIZE);
        if spot.offset != 0 || u64::from(frame.raw_length) != length {
            return None;
        }
        placed.push((frame, Piece::Block { object: number, block }));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Ino;
    use crate::remote::format::{LocatorBound, LocatorBuilder, Spot};

    const BLOCK: u32 = BLOCK_SIZE as u32;

    fn object(index: u32, size: u64) -> ObjectUse {
        ObjectUse { index, id: ObjectId::of(&index.to_le_bytes()), size, ino: Ino::ROOT }
    }

    fn locator(frames: &[(u32, u32, u32)], spots: &[(u32, u32)]) -> Locator {
        let mut builder = LocatorBuilder::new();
        let pack = builder.pack(PackId::of(b"pack"), 1 << 30);
        for &(offset, length, raw_length) in frames {
            builder.frame(Frame { pack, offset, length, raw_length });
        }
        spots.iter().for_each(|&(frame, offset)| builder.object(Spot { frame, offset }));
        let bound = LocatorBound::new(spots.iter().map(|_| 1));
        Locator::parse(&builder.finish().expect("memory"), bound).expect("consistent")
    }

    #[test]
    fn objects_in_one_frame_are_one_frame_and_blocks_are_one_each() {
        let blocks = [(500, 50, BLOCK), (550, 50, BLOCK), (600, 50, BLOCK), (650, 50, BLOCK), (700, 9, 7)];
        let frames = [&[(16, 100, 300)][..], &blocks].concat();
        let locator = locator(&frames, &[(0, 0), (0, 200), (1, 0)]);
        let missing = vec![object(0, 200), object(1, 100), object(2, u64::from(BLOCK) * 4 + 7)];
        let plan = FetchPlan::new(&locator, missing).expect("consistent");
        assert_eq!((plan.frames.len(), plan.pieces.len(), plan.objects(), plan.requests()), (6, 7, 3, 1));
        assert_eq!(plan.contents[0], 0..2);
        assert_eq!(plan.pieces[6], Piece::Block { object: 2, block: 4 });
        assert_eq!(plan.download_bytes(), 709 - 16);
        assert_eq!(FetchPlan::new(&locator, vec![object(1, 100)]).expect("consistent").pieces.len(), 1);
    }

    #[test]
    fn a_locator_that_contradicts_the_image_is_refused() {
        let large = u64::from(BLOCK) * 4 + 7;
        type Case = (&'static [(u32, u32, u32)], u64, &'static str);
        let cases: [Case; 5] = [
            (&[(16, 100, 199)], 200, "a frame shorter than its object"),
            (&[(16, 50, BLOCK)], large, "fewer frames than blocks"),
            (
                &[(16, 50, BLOCK), (66, 50, BLOCK), (116, 50, BLOCK), (160, 50, BLOCK), (216, 50, 7)],
                large,
                "frames that overlap",
            ),
            (&[(16, 50, BLOCK); 5], large, "a last block that is too long"),
            (&[(16, 50, BLOCK - 1); 5], large, "blocks that are too short"),
        ];
        for (frames, size, why) in cases {
            let refused = FetchPlan::new(&locator(frames, &[(0, 0)]), vec![object(0, size)]);
            assert!(matches!(refused, Err(PlanError::Place { .. })), "{why}: {refused:?}");
        }
        let unknown = FetchPlan::new(&locator(&[(16, 100, 199)], &[(0, 0)]), vec![object(1, 10)]);
        assert!(matches!(unknown, Err(PlanError::Place { .. })));
    }
}
