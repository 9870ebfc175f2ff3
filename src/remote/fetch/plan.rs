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
    /// The locator is for another image.
    #[error("the locator is for {found} objects, the image has {expected}")]
    Count {
        /// Objects of the image.
        expected: u32,
        /// Objects of the locator.
        found: u32,
    },
    /// The locator contradicts the image.
    #[error("the locator has no place for object {id} of {size} bytes")]
    Place {
        /// The object.
        id: ObjectId,
        /// Its length in bytes.
        size: u64,
    },
}

/// What zstd may add to bytes that it cannot make shorter. A frame that takes more room than that is refused: its length
/// would decide how much is downloaded and held in memory.
const fn longest_frame(raw_length: u32) -> u64 {
    raw_length as u64 + (raw_length as u64 >> 7) + 1024
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
    /// The way to `missing` objects of an image of `count` objects in all.
    ///
    /// # Errors
    /// [`PlanError`] when the locator cannot be for that image.
    pub fn new(locator: &Locator, count: u32, missing: Vec<ObjectUse>) -> Result<Self, PlanError> {
        if locator.objects() != count {
            return Err(PlanError::Count { expected: count, found: locator.objects() });
        }
        let mut placed = Vec::with_capacity(missing.len());
        for (number, object) in (0..).zip(&missing) {
            place(locator, object, number, &mut placed).ok_or(PlanError::Place { id: object.id, size: object.size })?;
        }
        if let Some((_, piece)) =
            placed.iter().find(|(frame, _)| u64::from(frame.length) > longest_frame(frame.raw_length))
        {
            let object = missing[piece.object() as usize];
            return Err(PlanError::Place { id: object.id, size: object.size });
        }
        placed.sort_unstable_by_key(|(frame, piece)| (frame.pack, frame.offset, frame.length, *piece));
        let mut plan = Self { objects: missing, ..Self::default() };
        for (frame, piece) in placed {
            if plan.frames.last() != Some(&frame) {
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
