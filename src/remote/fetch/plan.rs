//! Plans which frames to fetch for missing objects. Pure.
//!
//! *Invariants*: a locator is untrusted: everything that it says is checked against the image before any byte is
//! requested, so that no frame can lead beyond the objects that the image names.
//!
//! *Used by* `pull`, before anything is written.

use std::ops::Range;

use super::ranges::{self, RangeRequest};
use crate::image::ObjectUse;
use crate::model::{BLOCK_SIZE, LARGE_OBJECT, ObjectId, PackId};
use crate::remote::format::{Locator, PackFrame};

/// The reason why a locator does not lead to the objects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchPlanError {
    /// The locator contradicts the image.
    #[error("the locator has no position for object {id} of {size} bytes")]
    ObjectPosition {
        /// The object.
        id: ObjectId,
        /// Its length in bytes.
        size: u64,
    },
    /// The locator is longer than one of the image can be.
    #[error("it names a locator that is longer than one of this image can be")]
    LocatorLength,
}

/// The frames to fetch, the requests for them, and the objects in them.
#[derive(Debug, Default)]
pub(crate) struct FetchPlan {
    pub(super) objects: Vec<ObjectUse>,
    pub(super) pieces: Vec<PlannedPiece>,
    pub(super) frames: Vec<PackFrame>,
    /// For each frame the pieces that it holds.
    pub(super) contents: Vec<Range<usize>>,
    pub(super) requests: Vec<RangeRequest>,
    pub(super) packs: Vec<PackId>,
}

/// A piece of an object in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PlannedPiece {
    /// A whole object of the plan, from this offset of the frame on.
    Whole { object: u32, offset: u32 },
    /// The frame is one block of a large object.
    Block { object: u32, block: u32 },
}

impl PlannedPiece {
    const fn object(self) -> u32 {
        match self {
            Self::Whole { object, .. } | Self::Block { object, .. } => object,
        }
    }
}

impl FetchPlan {
    /// Plans how to fetch the `missing` objects.
    ///
    /// # Errors
    /// [`FetchPlanError`] when the locator cannot be for that image.
    pub(crate) fn new(locator: &Locator, missing: Vec<ObjectUse>) -> Result<Self, FetchPlanError> {
        let mut placed = Vec::with_capacity(missing.len());
        for (number, object) in (0..).zip(&missing) {
            add_object_pieces(locator, object, number, &mut placed)
                .ok_or(FetchPlanError::ObjectPosition { id: object.id, size: object.size })?;
        }
        placed.sort_unstable_by_key(|(frame, piece)| (frame.pack, frame.offset, frame.length, *piece));
        let mut plan = Self { objects: missing, ..Self::default() };
        for (frame, piece) in placed {
            if plan.frames.last() != Some(&frame) {
                let overlaps = |last: &PackFrame| last.pack == frame.pack && last.end() > u64::from(frame.offset);
                if plan.frames.last().is_some_and(overlaps) {
                    let object = plan.objects[piece.object() as usize];
                    return Err(FetchPlanError::ObjectPosition { id: object.id, size: object.size });
                }
                plan.frames.push(frame);
                plan.contents.push(plan.pieces.len()..plan.pieces.len());
            }
            plan.pieces.push(piece);
            if let Some(contents) = plan.contents.last_mut() {
                contents.end = plan.pieces.len();
            }
        }
        plan.requests = ranges::group_requests(&plan.frames);
        plan.packs = locator.packs().iter().map(|pack| pack.id).collect();
        Ok(plan)
    }

    /// Returns a plan without requests, for objects that arrive in another way.
    pub(super) fn of_objects(objects: Vec<ObjectUse>) -> Self {
        Self { objects, ..Self::default() }
    }

    /// Returns whether there is nothing to fetch.
    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Returns the number of requests.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Returns the number of bytes that the requests ask for.
    pub(crate) fn download_bytes(&self) -> u64 {
        self.requests.iter().map(|request| request.range.end - request.range.start).sum()
    }

    /// Returns the number of objects.
    pub(crate) fn objects(&self) -> u64 {
        self.objects.len() as u64
    }
}

/// Adds the pieces of `object` with their frames; `None` when the locator does not have them, or contradicts the image.
fn add_object_pieces(
    locator: &Locator,
    object: &ObjectUse,
    number: u32,
    placed: &mut Vec<(PackFrame, PlannedPiece)>,
) -> Option<()> {
    let position = locator.object(object.index)?;
    if object.size <= LARGE_OBJECT {
        let frame = locator.frame(position.frame)?;
        let end = u64::from(position.offset).checked_add(object.size)?;
        if end > u64::from(frame.raw_length) {
            return None;
        }
        placed.push((frame, PlannedPiece::Whole { object: number, offset: position.offset }));
        return Some(());
    }
    for block in 0..u32::try_from(object.size.div_ceil(BLOCK_SIZE)).ok()? {
        let frame = locator.frame(position.frame.checked_add(block)?)?;
        let length = (object.size - u64::from(block) * BLOCK_SIZE).min(BLOCK_SIZE);
        if position.offset != 0 || u64::from(frame.raw_length) != length {
            return None;
        }
        placed.push((frame, PlannedPiece::Block { object: number, block }));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Ino;
    use crate::remote::format::{LocatorBound, LocatorBuilder, ObjectPosition};

    const BLOCK: u32 = BLOCK_SIZE as u32;

    fn object(index: u32, size: u64) -> ObjectUse {
        ObjectUse { index, id: ObjectId::of(&index.to_le_bytes()), size, ino: Ino::ROOT }
    }

    fn locator(frames: &[(u32, u32, u32)], positions: &[(u32, u32)]) -> Locator {
        let mut builder = LocatorBuilder::new();
        let pack = builder.add_pack(PackId::of(b"pack"), 1 << 30);
        for &(offset, length, raw_length) in frames {
            builder.add_frame(PackFrame { pack, offset, length, raw_length });
        }
        positions.iter().for_each(|&(frame, offset)| builder.add_object(ObjectPosition { frame, offset }));
        let bound = LocatorBound::new(positions.iter().map(|_| 1));
        Locator::parse(&builder.finish().expect("memory"), bound).expect("consistent")
    }

    #[test]
    fn objects_share_a_frame_and_each_block_has_its_own() {
        let blocks = [(500, 50, BLOCK), (550, 50, BLOCK), (600, 50, BLOCK), (650, 50, BLOCK), (700, 9, 7)];
        let frames = [&[(16, 100, 300)][..], &blocks].concat();
        let locator = locator(&frames, &[(0, 0), (0, 200), (1, 0)]);
        let missing = vec![object(0, 200), object(1, 100), object(2, u64::from(BLOCK) * 4 + 7)];
        let plan = FetchPlan::new(&locator, missing).expect("consistent");
        assert_eq!((plan.frames.len(), plan.pieces.len(), plan.objects(), plan.requests()), (6, 7, 3, 1));
        assert_eq!(plan.contents[0], 0..2);
        assert_eq!(plan.pieces[6], PlannedPiece::Block { object: 2, block: 4 });
        assert_eq!(plan.download_bytes(), 709 - 16);
        assert_eq!(FetchPlan::new(&locator, vec![object(1, 100)]).expect("consistent").pieces.len(), 1);
    }

    #[test]
    fn locator_that_contradicts_the_image_is_refused() {
        let large = u64::from(BLOCK) * 4 + 7;
        type LocatorCase = (&'static [(u32, u32, u32)], u64, &'static str);
        let cases: [LocatorCase; 5] = [
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
            assert!(matches!(refused, Err(FetchPlanError::ObjectPosition { .. })), "{why}: {refused:?}");
        }
        let unknown = FetchPlan::new(&locator(&[(16, 100, 199)], &[(0, 0)]), vec![object(1, 10)]);
        assert!(matches!(unknown, Err(FetchPlanError::ObjectPosition { .. })));
    }
}
